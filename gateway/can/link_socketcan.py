"""A SocketCAN interface as a link: a raw socket in the event loop, with kernel filters for what is heard.

The interface's own queue decides what can be sent: ENOBUFS is ``LinkBusyError``. An interface that went down works
again when it comes up; one that was removed is looked for every second. Error frames tell of bus-off, during which
sending fails at once. Up to ``MAX_FILTERS`` identifiers are filtered in the kernel, more in user space.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import socket
import struct
import time
from collections.abc import Callable, Collection

import numpy as np

from gateway.can import messages
from gateway.can.link import CanFrame, CanId, Handler, LinkBusyError, ManyHandler
from gateway.can.link_batch import MSG_CONFIRM, FrameBuffers, SendBuffers
from gateway.can.link_table import ERROR_FLAG, EXTENDED_FLAG, REMOTE_FLAG, ListenerTable, check_frame
from gateway.errors import TransportError

MAX_FILTERS = 512  # CAN_RAW_FILTER_MAX
FRAMES_PER_WAKE = 64  # then the loop's other callbacks have their turn
REOPEN_S = 1.0
RECEIVE_BUFFER_BYTES = 1024 * 1024
SIOCGIFMTU = 0x8921
CANFD_MTU = 72
CAN_RAW_ERR_FILTER = 2  # not in the socket module
CANFD_BRS = 0x01
BUS_OFF, RESTARTED = 0x40, 0x100  # classes of error frames

_classic = struct.Struct("=IB3x8s").pack
_flexible = struct.Struct("=IBBxx64s").pack


def interface_mtu(channel: str) -> int:
    """16 for classic CAN, 72 for CAN FD (2060 for CAN XL).

    Raises:
        OSError: there is no such interface.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, SIOCGIFMTU, struct.pack("16s16x8x", channel.encode()[:15]))
    return int(struct.unpack_from("16si", answer)[1])


class SocketCanLink:
    """See ``CanLink``; also ``QuickSending``, ``RunHearing`` and ``WakeTime``."""

    def __init__(self, channel: str, *, fd: bool = True, own: bool = False) -> None:
        """Open the interface.

        Args:
            channel: network interface.
            fd: use CAN FD where the interface has it.
            own: hear what this link sends, too.

        Raises:
            TransportError: no SocketCAN here, no such interface, or no permission.
        """
        self._channel, self._want_fd, self._own = channel, fd, own
        self._loop = asyncio.get_running_loop()
        self._table = ListenerTable(self._set_filters)
        self._buffers = FrameBuffers(FRAMES_PER_WAKE)
        self._send_buffers: dict[bool, SendBuffers] = {}  # by whether FD
        self._is_reading, self._wake_ns = False, 0
        self._reopening: asyncio.TimerHandle | None = None
        self._bus_off = self._closed = False
        self._fd = False
        self._socket: socket.socket | None = None
        try:
            self._open()
        except OSError as error:
            raise TransportError(f"cannot open {channel}: {error.strerror or error}") from error

    @property
    def name(self) -> str:
        """See ``CanLink``."""
        return self._channel

    @property
    def fd(self) -> bool:
        """See ``CanLink``."""
        return self._fd

    @property
    def dropped(self) -> int:
        """Frames the kernel dropped because this link's buffer was full, since it was (last) opened."""
        return 0 if self._socket is None else messages.current_drops(self._socket) or 0

    def send(self, frame: CanFrame) -> None:
        """See ``CanLink``."""
        check_frame(frame, fd=self._fd)
        word = frame.can_id | EXTENDED_FLAG if frame.extended else frame.can_id
        if frame.fd:
            self.send_raw(_flexible(word, len(frame.data), CANFD_BRS if frame.brs else 0, frame.data))
        else:
            self.send_raw(_classic(word, len(frame.data), frame.data))

    def prepare(self, can_id: int, *, extended: bool, fd: bool, brs: bool) -> Callable[[bytes], None]:
        """See ``QuickSending``."""
        check_frame(CanFrame(can_id, b"", extended, fd, brs), fd=self._fd)
        word, flags, send_raw = can_id | EXTENDED_FLAG if extended else can_id, CANFD_BRS if brs else 0, self.send_raw
        if fd:
            return lambda data: send_raw(_flexible(word, len(data), flags, data))
        return lambda data: send_raw(_classic(word, len(data), data))

    def prepare_many(self, can_id: int, *, extended: bool, fd: bool, brs: bool) -> Callable[[bytes, int], int]:
        """See ``QuickSending``."""
        word, flags = can_id | EXTENDED_FLAG if extended else can_id, CANFD_BRS if brs else 0
        heads = [np.frombuffer(struct.pack("=IBBxx", word, size, flags), np.uint8) for size in range(65)]
        buffers = self._send_buffers.get(fd)
        if buffers is None:
            buffers = self._send_buffers[fd] = SendBuffers(FRAMES_PER_WAKE, 72 if fd else 16)
        send = buffers.send

        def transmit(joined: bytes, size: int) -> int:
            sock = self._ready()
            try:
                return send(sock.fileno(), heads[size], joined, size)
            except OSError as error:
                raise self._refusal(error) from error

        return transmit

    def send_raw(self, raw: bytes) -> None:
        """Send a ``struct can_frame`` or ``canfd_frame`` that is known to be sound; else as ``send``."""
        sock = self._ready()
        try:
            sock.send(raw)
        except OSError as error:
            raise self._refusal(error) from error

    def _ready(self) -> socket.socket:
        if self._socket is None or self._bus_off:
            raise TransportError(f"{self._channel}: {'the bus is off' if self._bus_off else 'not open'}")
        return self._socket

    def _refusal(self, error: OSError) -> TransportError:
        if error.errno in (errno.ENOBUFS, errno.EAGAIN, errno.ENOMEM):
            return LinkBusyError(f"{self._channel}: the queue is full")
        if error.errno in (errno.ENODEV, errno.ENXIO):
            self._lose()
        return TransportError(f"{self._channel}: {error.strerror or error}")

    def hear(self, ids: Collection[CanId] | None, handler: Callable[[CanFrame], None]) -> Callable[[], None]:
        """See ``CanLink``."""
        return self._table.add(ids, handler)

    def hear_runs(self, ids: Collection[CanId], handler: Handler, many: ManyHandler) -> Callable[[], None]:
        """See ``RunHearing``."""
        return self._table.add(ids, handler, many)

    async def aclose(self) -> None:
        """See ``CanLink``."""
        self._closed = True
        self._table.clear()
        if self._reopening is not None:
            self._reopening.cancel()
        self._release()

    # --- the socket ---

    def _open(self) -> None:
        sock = socket.socket(socket.PF_CAN, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.CAN_RAW)
        try:
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                try:
                    sock.setsockopt(socket.SOL_SOCKET, messages.SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
                except PermissionError:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            has_fd = self._want_fd and interface_mtu(self._channel) >= CANFD_MTU
            if has_fd:
                sock.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FD_FRAMES, 1)
            if self._own:
                sock.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_RECV_OWN_MSGS, 1)
            sock.setsockopt(socket.SOL_SOCKET, messages.SO_TIMESTAMPNS, 1)
            sock.setsockopt(socket.SOL_CAN_RAW, CAN_RAW_ERR_FILTER, BUS_OFF | RESTARTED)
            sock.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, b"")
            sock.bind((self._channel,))
        except OSError:
            sock.close()
            raise
        self._socket, self._fd, self._bus_off = sock, has_fd, False
        self._set_filters()
        self._loop.add_reader(sock.fileno(), self._readable)

    def _release(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _lose(self) -> None:
        """The interface was removed."""
        self._release()
        if not self._closed and self._reopening is None:
            self._reopening = self._loop.call_later(REOPEN_S, self._reopen)

    def _reopen(self) -> None:
        self._reopening = None
        if not self._closed:
            try:
                self._open()
            except OSError:
                self._lose()

    def _set_filters(self) -> None:
        if self._socket is None:
            return
        words = self._table.words
        if words is None or len(words) > MAX_FILTERS:
            filters = struct.pack("=II", 0, 0)
        else:
            mask = EXTENDED_FLAG | REMOTE_FLAG
            filters = b"".join(
                struct.pack("=II", word, mask | (0x1FFFFFFF if word & EXTENDED_FLAG else 0x7FF)) for word in words
            )
        with contextlib.suppress(OSError):  # an interface that is just going; dispatch filters again
            self._socket.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, filters)

    # --- reading ---

    def wake_time_ns(self) -> int:
        """See ``WakeTime``."""
        if self._wake_ns:
            return self._wake_ns
        now_ns = int(self._loop.time() * 1e9)
        if self._is_reading:
            self._wake_ns = now_ns
        return now_ns

    def _readable(self) -> None:
        if self._socket is None:
            return
        self._is_reading = True
        try:
            # What does not fit waits for the loop's next turn.
            got = self._buffers.receive(self._socket.fileno())
            if got > 1 and not self._own and self._take_run(got):
                return
            stamps_ns = self._buffers.stamps_ns(got)
            for n, at_ns in enumerate(stamps_ns):
                self._take(n, at_ns or time.time_ns())
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ENXIO):
                self._lose()
        finally:
            self._is_reading, self._wake_ns = False, 0

    def _take_run(self, got: int) -> bool:
        run = self._buffers.run(got)
        if run is None or run[0] & (ERROR_FLAG | REMOTE_FLAG) or not run[2] or not self._table.dispatch_run(*run):
            return False
        self._bus_off = False
        return True

    def _take(self, n: int, at_ns: int) -> None:
        buffers = self._buffers
        word, flags, data = buffers.frame(n)
        if word & (ERROR_FLAG | REMOTE_FLAG):
            if word & ERROR_FLAG:
                self._bus_off = bool(word & BUS_OFF)
            return
        self._bus_off = False
        entries = self._table.entries(word)
        if entries:
            fd, is_own = buffers.sizes[n] == CANFD_MTU, bool(buffers.message_flags[n] & MSG_CONFIRM)
            brs = fd and bool(flags & CANFD_BRS)
            frame = CanFrame(word & 0x1FFFFFFF, data, word >= EXTENDED_FLAG, fd, brs, at_ns, is_own)
            for entry in entries:
                if entry.is_active:
                    entry.handler(frame)
