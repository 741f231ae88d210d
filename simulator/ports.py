"""Where frames go: one port per bus (SocketCAN, multicast between processes, any python-can interface).

A port tells exactly what it handed over: ``sent`` counts frames the system took, ``failed`` those it refused for good,
``retried`` how often a full queue made it wait. Receiving is for actuator messages and never blocks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from dbc.frames import BRS, ERROR, ESI, EXTENDED, FD, REMOTE, FrameBatch
from simulator.buses import UDP_MULTICAST_HOP_LIMIT, UDP_MULTICAST_PORT, find_bus

Received = tuple[int, bytes]  # identifier without flags, payload

EFF_FLAG, RTR_FLAG, ERR_FLAG = 0x80000000, 0x40000000, 0x20000000
SEND_PATIENCE_S = 0.5
RETRY_S = 0.001
SIOCGIFMTU = 0x8921
CANFD_MTU = 72


class PortError(OSError):
    """A port cannot be opened; the message names the bus and what to do."""


class BusPort(Protocol):
    """One bus."""

    sent: int
    failed: int
    retried: int

    def send(self, frames: FrameBatch) -> None:
        """Hand over frames in their order; failures are counted, not raised."""

    def receive(self) -> list[Received]:
        """Frames of the identifiers listened to that have come, without waiting."""

    def fileno(self) -> int:
        """Readable when something has come; -1 when it never is."""

    def close(self) -> None:
        """Release the bus."""


class Counting:
    """The send loop all ports share: retry while the queue is full, then count a failure."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep, now: Callable[[], float] = time.monotonic) -> None:
        self.sent = self.failed = self.retried = 0
        self._sleep, self._now = sleep, now

    def _offer(self, hand_over: Callable[[], object]) -> None:
        deadline: float | None = None
        while True:
            try:
                hand_over()
            except OSError as error:
                if error.errno not in (errno.ENOBUFS, errno.EAGAIN, errno.ENOMEM):
                    self.failed += 1
                    return
                now = self._now()
                deadline = now + SEND_PATIENCE_S if deadline is None else deadline
                if now >= deadline:
                    self.failed += 1
                    return
                self.retried += 1
                self._sleep(RETRY_S)
            else:
                self.sent += 1
                return


def socketcan_bytes(frames: FrameBatch) -> list[bytes]:
    """Each frame as ``struct can_frame`` or ``struct canfd_frame``."""
    flags = frames.flags.astype(np.uint32)
    word = frames.can_id.astype("<u4")
    for bit, flag in ((EXTENDED, EFF_FLAG), (REMOTE, RTR_FLAG), (ERROR, ERR_FLAG)):
        word |= np.where(flags & bit, np.uint32(flag), np.uint32(0))
    raw = np.zeros((len(frames), 72), np.uint8)
    raw[:, :4] = word.astype("<u4").view(np.uint8).reshape(-1, 4)
    raw[:, 4] = frames.length
    raw[:, 5] = np.where(flags & BRS, 1, 0) | np.where(flags & ESI, 2, 0)
    raw[:, 8:] = frames.data
    whole = raw.tobytes()
    fd = (flags & FD != 0).tolist()
    return [whole[72 * i : 72 * i + (72 if fd[i] else 16)] for i in range(len(fd))]


class SocketCanPort(Counting):
    """A SocketCAN interface by its raw socket."""

    def __init__(self, channel: str, listen: list[int]) -> None:
        """Open ``channel`` for sending, and for receiving the 11-bit identifiers ``listen``.

        Raises:
            PortError: the kernel has no SocketCAN, or there is no such interface, or it is down.
        """
        super().__init__()
        try:
            self._socket = socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW)
        except OSError as error:
            raise PortError(
                error.errno, f"{channel}: this kernel has no SocketCAN; use --interface udp_multicast"
            ) from error
        try:
            filters = b"".join(struct.pack("=II", can_id, 0x7FF | EFF_FLAG | RTR_FLAG) for can_id in listen)
            self._socket.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, filters)
            mtu = fcntl.ioctl(self._socket, SIOCGIFMTU, struct.pack("16si", channel.encode()[:15], 0))
            if struct.unpack("16si", mtu[:20])[1] >= CANFD_MTU:
                self._socket.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FD_FRAMES, 1)
            self._socket.bind((channel,))
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise PortError(error.errno, f"{channel}: {error.strerror}; is the interface there and up?") from error

    def send(self, frames: FrameBatch) -> None:
        """See ``BusPort``."""
        for raw in socketcan_bytes(frames):
            self._offer(lambda raw=raw: self._socket.send(raw))  # type: ignore[misc]  # a default binds the loop's value

    def receive(self) -> list[Received]:
        """See ``BusPort``."""
        out: list[Received] = []
        with contextlib.suppress(OSError):  # nothing left, or the interface went down
            while True:
                raw = self._socket.recv(72)
                (word,) = struct.unpack_from("<I", raw)
                out.append((word & 0x1FFFFFFF, raw[8 : 8 + raw[4]]))
        return out

    def fileno(self) -> int:
        """See ``BusPort``."""
        return self._socket.fileno()

    def close(self) -> None:
        """See ``BusPort``."""
        self._socket.close()


def _multicast_interface(to: tuple[str, int]) -> str:
    """The address of the interface for multicast: any, or loopback on a machine with no route to the group."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(to)  # sends nothing
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENODEV):
                return "127.0.0.1"
            raise
    return "0.0.0.0"


def multicast_sender(to: tuple[str, int]) -> socket.socket:
    """A socket that sends to the group and no further than this machine; bound, so that its port is known."""
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, UDP_MULTICAST_HOP_LIMIT)
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(_multicast_interface(to)))
    out.bind(("", 0))
    return out


def join_group(to: tuple[str, int]) -> socket.socket:
    """A non-blocking socket that hears the group."""
    heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    heard.bind(to)  # to the group, so that other groups of this port stay out
    member = socket.inet_aton(to[0]) + socket.inet_aton(_multicast_interface(to))
    heard.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    heard.setblocking(False)
    return heard


def multicast_address(channel: str) -> tuple[str, int]:
    """Group and port of ``GROUP[:PORT]`` or of a bus of the simulated vehicle.

    Raises:
        PortError: it is neither.
    """
    group, _, port = channel.partition(":")
    with contextlib.suppress(KeyError):
        group = find_bus(group).group
    try:
        octets = socket.inet_aton(group)
        number = int(port or UDP_MULTICAST_PORT)
    except (OSError, ValueError) as error:
        raise PortError(errno.EINVAL, f"udp_multicast {channel!r}: expected GROUP[:PORT]") from error
    if not 224 <= octets[0] <= 239 or not 0 < number < 65536:
        raise PortError(errno.EINVAL, f"udp_multicast {channel!r}: not a multicast group and port")
    return group, number


class MulticastPort(Counting):
    """python-can's ``udp_multicast`` datagrams, always with hop limit 0: they never leave the machine.

    Ours because python-can takes a second copy of each of our own frames and of those of every other group on its port.
    """

    def __init__(self, group: str, port: int, listen: list[int]) -> None:
        """Join ``group``.

        Raises:
            PortError: no msgpack, a bad address, or no interface for multicast.
        """
        super().__init__()
        try:
            self._msgpack: Any = importlib.import_module("msgpack")
        except ModuleNotFoundError as error:
            raise PortError(errno.ENOPKG, "udp_multicast needs the Python package 'msgpack'") from error
        self._to = (group, port)
        self._listen = frozenset(listen)
        try:
            self._out = multicast_sender(self._to)
            self._in = join_group(self._to) if listen else None
        except OSError as error:
            raise PortError(error.errno, f"udp_multicast {group}:{port}: {error}") from error

    def send(self, frames: FrameBatch) -> None:
        """See ``BusPort``."""
        pack = self._msgpack.packb
        columns = (frames.timestamp_ns, frames.can_id, frames.flags, frames.length)
        for i, (time_ns, can_id, flags, length) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            datagram = pack(
                {
                    "timestamp": time_ns / 1e9,
                    "arbitration_id": can_id,
                    "is_extended_id": bool(flags & EXTENDED),
                    "is_remote_frame": bool(flags & REMOTE),
                    "is_error_frame": bool(flags & ERROR),
                    "channel": None,
                    "dlc": length,
                    "data": frames.data[i, :length].tobytes(),
                    "is_fd": bool(flags & FD),
                    "bitrate_switch": bool(flags & BRS),
                    "error_state_indicator": bool(flags & ESI),
                }
            )
            self._offer(lambda datagram=datagram: self._out.sendto(datagram, self._to))  # type: ignore[misc]  # as above

    def receive(self) -> list[Received]:
        """See ``BusPort``."""
        out: list[Received] = []
        if self._in is None:
            return out
        with contextlib.suppress(OSError):
            while True:
                heard = self._understand(self._in.recv(4096))
                if heard is not None:
                    out.append(heard)
        return out

    def _understand(self, datagram: bytes) -> Received | None:
        """A frame listened to; anyone may send anything to the group."""
        try:
            message = self._msgpack.unpackb(datagram)
            can_id, extended, error = message["arbitration_id"], message["is_extended_id"], message["is_error_frame"]
            if can_id in self._listen and not extended and not error:
                return can_id, bytes(memoryview(message["data"]))
        except (ValueError, KeyError, TypeError, self._msgpack.UnpackException):
            pass
        return None

    @property
    def sending_port(self) -> int:
        """UDP port our frames come from."""
        return int(self._out.getsockname()[1])

    def fileno(self) -> int:
        """See ``BusPort``."""
        return -1  # our own frames come back here: polled each tick instead of waking us

    def close(self) -> None:
        """See ``BusPort``."""
        self._out.close()
        if self._in is not None:
            self._in.close()


class PythonCanPort(Counting):
    """Any other interface python-can knows."""

    def __init__(self, interface: str, channel: str, listen: list[int], *, fd: bool, bitrate_bps: int) -> None:
        """Open it.

        Raises:
            PortError: python-can cannot.
        """
        super().__init__()
        self._can: Any = importlib.import_module("can")
        try:
            self._bus = self._can.Bus(interface=interface, channel=channel, bitrate=bitrate_bps, fd=fd)
        except Exception as error:
            raise PortError(errno.ENODEV, f"{interface} {channel}: {error}") from error
        self._listen = frozenset(listen)

    def send(self, frames: FrameBatch) -> None:
        """See ``BusPort``."""
        columns = (frames.timestamp_ns, frames.can_id, frames.flags, frames.length)
        for i, (time_ns, can_id, flags, length) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            message = self._can.Message(
                timestamp=time_ns / 1e9,
                arbitration_id=can_id,
                is_extended_id=bool(flags & EXTENDED),
                is_remote_frame=bool(flags & REMOTE),
                is_error_frame=bool(flags & ERROR),
                is_fd=bool(flags & FD),
                bitrate_switch=bool(flags & BRS),
                dlc=length,
                data=frames.data[i, :length].tobytes(),
                check=False,
            )
            self._offer(lambda message=message: self._hand_over(message))  # type: ignore[misc]  # as above

    def _hand_over(self, message: Any) -> None:
        try:
            self._bus.send(message, timeout=0)
        except self._can.CanError as error:
            cause = error.__cause__
            number = getattr(error, "error_code", None) or (cause.errno if isinstance(cause, OSError) else None)
            raise OSError(number or errno.EIO, str(error)) from error

    def receive(self) -> list[Received]:
        """See ``BusPort``."""
        out: list[Received] = []
        with contextlib.suppress(self._can.CanError):
            while self._listen and (message := self._bus.recv(timeout=0)) is not None:
                if message.arbitration_id in self._listen and not message.is_extended_id:
                    out.append((message.arbitration_id, bytes(message.data)))
        return out

    def fileno(self) -> int:
        """See ``BusPort``."""
        return -1

    def close(self) -> None:
        """See ``BusPort``."""
        self._bus.shutdown()


def open_port(
    interface: str, channel: str, *, listen: list[int], fd: bool = True, bitrate_bps: int = 500_000
) -> BusPort:
    """A port for ``interface`` (``socketcan``, ``udp_multicast``, or a name of python-can) and ``channel``.

    For ``udp_multicast`` the channel is ``GROUP[:PORT]`` or the name of a bus of the simulated vehicle.

    Raises:
        PortError: it cannot be opened.
    """
    if interface == "socketcan":
        return SocketCanPort(channel, listen)
    if interface == "udp_multicast":
        group, number = multicast_address(channel)
        return MulticastPort(group, number, listen)
    return PythonCanPort(interface, channel, listen, fd=fd, bitrate_bps=bitrate_bps)
