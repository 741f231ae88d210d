"""Single frames for diagnostics: sent at once, heard by identifier, apart from the batches of ``simulator.ports``."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import socket
import struct
from collections.abc import Collection
from typing import Any, NamedTuple, Protocol

from simulator.ports import (
    CANFD_MTU,
    EFF_FLAG,
    ERR_FLAG,
    RTR_FLAG,
    SIOCGIFMTU,
    Counting,
    PortError,
    join_group,
    multicast_address,
    multicast_sender,
)

RECEIVE_BUFFER_BYTES = 1 << 20
#: Frames read from one link before others get their turn.
MAX_AT_ONCE = 256


class Frame(NamedTuple):
    """A data frame."""

    can_id: int
    extended: bool
    data: bytes
    fd: bool = False


class DiagnosticLink(Protocol):
    """A bus for conversations."""

    def send(self, frame: Frame) -> None:
        """Hand over a frame; failures are counted in ``failed``, not raised."""

    def receive(self) -> list[Frame]:
        """Frames of the identifiers listened to, without waiting."""

    def fileno(self) -> int:
        """Readable when something has come; -1: must be asked."""

    def close(self) -> None:
        """Release it."""


class SocketCanLink(Counting):
    """A raw socket with kernel filters for the identifiers listened to."""

    def __init__(self, channel: str, listen: Collection[tuple[int, bool]]) -> None:
        """Raises ``PortError``: no SocketCAN, no such interface, or it is down."""
        super().__init__()
        try:
            self._socket = socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW)
        except OSError as error:
            raise PortError(error.errno, f"{channel}: this kernel has no SocketCAN") from error
        try:
            filters = b"".join(
                struct.pack("=II", can_id | (EFF_FLAG if extended else 0), _mask(extended))
                for can_id, extended in listen
            )
            self._socket.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, filters)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            mtu = fcntl.ioctl(self._socket, SIOCGIFMTU, struct.pack("16si", channel.encode()[:15], 0))
            if struct.unpack("16si", mtu[:20])[1] >= CANFD_MTU:
                self._socket.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FD_FRAMES, 1)
            self._socket.bind((channel,))
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise PortError(error.errno, f"{channel}: {error.strerror}; is the interface there and up?") from error

    def send(self, frame: Frame) -> None:
        """See ``DiagnosticLink``."""
        word = frame.can_id | (EFF_FLAG if frame.extended else 0)
        raw = struct.pack("=IBBxx", word, len(frame.data), 1 if frame.fd else 0)
        raw += frame.data.ljust(64 if frame.fd else 8, b"\x00")
        self._offer(lambda: self._socket.send(raw))

    def receive(self) -> list[Frame]:
        """See ``DiagnosticLink``."""
        out: list[Frame] = []
        with contextlib.suppress(OSError):
            while len(out) < MAX_AT_ONCE:
                raw = self._socket.recv(CANFD_MTU)
                word, length = struct.unpack_from("=IB", raw)
                if not word & (RTR_FLAG | ERR_FLAG):
                    extended = bool(word & EFF_FLAG)
                    can_id = word & (0x1FFFFFFF if extended else 0x7FF)
                    out.append(Frame(can_id, extended, raw[8 : 8 + length], len(raw) == CANFD_MTU))
        return out

    def fileno(self) -> int:
        """See ``DiagnosticLink``."""
        return self._socket.fileno()

    def close(self) -> None:
        """See ``DiagnosticLink``."""
        self._socket.close()


def _mask(extended: bool) -> int:
    return (0x1FFFFFFF if extended else 0x7FF) | EFF_FLAG | RTR_FLAG


class MulticastLink(Counting):
    """python-can's ``udp_multicast`` datagrams with hop limit 0. Frames of our own process are known by their port."""

    def __init__(
        self, group: str, port: int, listen: Collection[tuple[int, bool]], ignore: Collection[int] = ()
    ) -> None:
        """``ignore``: UDP ports of senders of this process. Raises ``PortError``."""
        super().__init__()
        try:
            self._msgpack: Any = importlib.import_module("msgpack")
        except ModuleNotFoundError as error:
            raise PortError(errno.ENOPKG, "udp_multicast needs the Python package 'msgpack'") from error
        self._to, self._listen = (group, port), frozenset(listen)
        try:
            self._out = multicast_sender(self._to)
            self._in = join_group(self._to)
            self._in.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        except OSError as error:
            raise PortError(error.errno, f"udp_multicast {group}:{port}: {error}") from error
        self._ignore = frozenset(ignore) | {self._out.getsockname()[1]}

    def send(self, frame: Frame) -> None:
        """See ``DiagnosticLink``."""
        datagram = self._msgpack.packb(
            {
                "timestamp": 0.0,
                "arbitration_id": frame.can_id,
                "is_extended_id": frame.extended,
                "is_remote_frame": False,
                "is_error_frame": False,
                "channel": None,
                "dlc": len(frame.data),
                "data": frame.data,
                "is_fd": frame.fd,
                "bitrate_switch": frame.fd,
                "error_state_indicator": False,
            }
        )
        self._offer(lambda: self._out.sendto(datagram, self._to))

    def receive(self) -> list[Frame]:
        """See ``DiagnosticLink``."""
        out: list[Frame] = []
        with contextlib.suppress(OSError):
            for _ in range(MAX_AT_ONCE):
                datagram, sender = self._in.recvfrom(4096)
                if sender[1] not in self._ignore:
                    heard = self._understand(datagram)
                    if heard is not None:
                        out.append(heard)
        return out

    def _understand(self, datagram: bytes) -> Frame | None:
        """A frame listened to; anyone may send anything to the group."""
        try:
            message = self._msgpack.unpackb(datagram)
            can_id, extended = message["arbitration_id"], bool(message["is_extended_id"])
            if (can_id, extended) in self._listen and not message["is_error_frame"] and not message["is_remote_frame"]:
                data = bytes(memoryview(message["data"]))
                fd = bool(message["is_fd"])
                if len(data) <= (64 if fd else 8):
                    return Frame(can_id, extended, data, fd)
        except (ValueError, KeyError, TypeError, self._msgpack.UnpackException):
            pass
        return None

    def fileno(self) -> int:
        """See ``DiagnosticLink``."""
        return self._in.fileno()

    def close(self) -> None:
        """See ``DiagnosticLink``."""
        self._out.close()
        self._in.close()


class PythonCanLink(Counting):
    """Any other interface python-can knows, by a bus object of its own."""

    def __init__(
        self, interface: str, channel: str, listen: Collection[tuple[int, bool]], *, fd: bool, bitrate_bps: int
    ) -> None:
        """Raises ``PortError``: python-can cannot open it."""
        super().__init__()
        self._can: Any = importlib.import_module("can")
        self._listen = frozenset(listen)
        filters = [{"can_id": i, "can_mask": 0x1FFFFFFF if e else 0x7FF, "extended": e} for i, e in listen]
        try:
            self._bus = self._can.Bus(
                interface=interface, channel=channel, bitrate=bitrate_bps, fd=fd, can_filters=filters
            )
        except Exception as error:  # whatever a driver raises
            raise PortError(errno.ENODEV, f"{interface} {channel}: {error}") from error

    def send(self, frame: Frame) -> None:
        """See ``DiagnosticLink``."""
        message = self._can.Message(
            arbitration_id=frame.can_id, is_extended_id=frame.extended, data=frame.data, is_fd=frame.fd,
            bitrate_switch=frame.fd, check=False,
        )  # fmt: skip
        self._offer(lambda: self._hand_over(message))

    def _hand_over(self, message: Any) -> None:
        try:
            self._bus.send(message, timeout=0)
        except self._can.CanError as error:
            raise OSError(getattr(error, "error_code", None) or errno.EIO, str(error)) from error

    def receive(self) -> list[Frame]:
        """See ``DiagnosticLink``."""
        out: list[Frame] = []
        with contextlib.suppress(self._can.CanError):
            while len(out) < MAX_AT_ONCE and (message := self._bus.recv(timeout=0)) is not None:
                key = (message.arbitration_id, bool(message.is_extended_id))
                if key in self._listen and not message.is_error_frame and not message.is_remote_frame:
                    out.append(Frame(*key, bytes(message.data), bool(message.is_fd)))
        return out

    def fileno(self) -> int:
        """See ``DiagnosticLink``."""
        try:
            return int(self._bus.fileno())
        except (NotImplementedError, AttributeError):
            return -1

    def close(self) -> None:
        """See ``DiagnosticLink``."""
        self._bus.shutdown()


def open_link(
    interface: str,
    channel: str,
    listen: Collection[tuple[int, bool]],
    *,
    fd: bool = True,
    bitrate_bps: int = 500_000,
    ignore: Collection[int] = (),
) -> DiagnosticLink:
    """A link for the same interfaces and channels as ``simulator.ports.open_port``.

    Raises:
        PortError: it cannot be opened.
    """
    if interface == "socketcan":
        return SocketCanLink(channel, listen)
    if interface == "udp_multicast":
        group, port = multicast_address(channel)
        return MulticastLink(group, port, listen, ignore)
    return PythonCanLink(interface, channel, listen, fd=fd, bitrate_bps=bitrate_bps)
