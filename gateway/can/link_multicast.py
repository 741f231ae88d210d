"""python-can's ``udp_multicast`` as a link: CAN between processes of one machine.

Datagrams are sent with hop limit 0, always: they never leave the machine. A link does not hear itself unless opened
with ``own``; python-can's own receiver would. Anyone who may send to the group is believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import struct
import time
from collections.abc import Callable, Collection

import msgspec

from dbc.frames import BRS, ERROR, EXTENDED, FD, REMOTE
from gateway.can.link import CanFrame, CanId, LinkBusyError
from gateway.can.link_table import ListenerTable, check_frame
from gateway.can.multicast import open_group, parse_channel, parse_datagram
from gateway.errors import TransportError

RECEIVE_BUFFER_BYTES = 1024 * 1024
FRAMES_PER_WAKE = 64
HOP_LIMIT = 0

_encode = msgspec.msgpack.Encoder().encode


def encode_datagram(frame: CanFrame, time_s: float) -> bytes:
    """The datagram python-can 4 sends for a frame."""
    return _encode(
        {
            "timestamp": time_s,
            "arbitration_id": frame.can_id,
            "is_extended_id": frame.extended,
            "is_remote_frame": False,
            "is_error_frame": False,
            "channel": None,
            "dlc": len(frame.data),
            "data": frame.data,
            "is_fd": frame.fd,
            "bitrate_switch": frame.brs,
            "error_state_indicator": False,
        }
    )


def _open_sender(group: str, port: int) -> socket.socket:
    """A socket connected to the group by the default interface, or by loopback where there is no route to it."""
    version = ipaddress.ip_address(group).version
    sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if version == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, HOP_LIMIT)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOP_LIMIT)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        try:
            sock.connect((group, port))
        except OSError as error:
            if error.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENODEV, errno.EADDRNOTAVAIL):
                raise
            if version == 4:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            else:
                index = struct.pack("=I", socket.if_nametoindex("lo"))
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sock.connect((group, port))
    except OSError:
        sock.close()
        raise
    return sock


class MulticastLink:
    """See ``CanLink``."""

    def __init__(self, channel: str, *, fd: bool = True, own: bool = False) -> None:
        """Join ``GROUP[:PORT]``.

        Raises:
            TransportError: no such group, or it cannot be joined.
        """
        self._channel, self._fd, self._own = channel, fd, own
        self._table = ListenerTable()
        self.malformed = 0  # datagrams that are no frame
        try:
            group, port = parse_channel(channel)
            self._in, _ = open_group(group, port, RECEIVE_BUFFER_BYTES)
            try:
                self._out = _open_sender(group, port)
            except OSError:
                self._in.close()
                raise
        except (OSError, ValueError) as error:
            raise TransportError(f"cannot open udp_multicast {channel}: {error}") from error
        self._me = self._out.getsockname()[:2]
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._in.fileno(), self._readable)

    @property
    def name(self) -> str:
        """See ``CanLink``."""
        return self._channel

    @property
    def fd(self) -> bool:
        """See ``CanLink``."""
        return self._fd

    def send(self, frame: CanFrame) -> None:
        """See ``CanLink``."""
        check_frame(frame, fd=self._fd)
        if self._closed:
            raise TransportError(f"{self._channel}: the link is closed")
        try:
            self._out.send(encode_datagram(frame, time.time()))
        except OSError as error:
            if error.errno in (errno.ENOBUFS, errno.EAGAIN, errno.ENOMEM):
                raise LinkBusyError(f"{self._channel}: the queue is full") from error
            raise TransportError(f"{self._channel}: {error.strerror or error}") from error

    def hear(self, ids: Collection[CanId] | None, handler: Callable[[CanFrame], None]) -> Callable[[], None]:
        """See ``CanLink``."""
        return self._table.add(ids, handler)

    async def aclose(self) -> None:
        """See ``CanLink``."""
        if not self._closed:
            self._closed = True
            self._table.clear()
            self._loop.remove_reader(self._in.fileno())
            self._in.close()
            self._out.close()

    def _readable(self) -> None:
        now_ns = time.time_ns()
        with contextlib.suppress(OSError):  # nothing left
            for _ in range(FRAMES_PER_WAKE):
                if self._closed:
                    return
                datagram, sender = self._in.recvfrom(512)
                is_own = sender[:2] == self._me
                if not is_own or self._own:
                    self._take(datagram, now_ns, is_own)

    def _take(self, datagram: bytes, now_ns: int, is_own: bool) -> None:
        row = parse_datagram(datagram)
        if row is None:
            self.malformed += 1
            return
        can_id, flags, _, data = row
        if flags & (ERROR | REMOTE) or (flags & FD and not self._fd):
            return
        extended, fd, brs = bool(flags & EXTENDED), bool(flags & FD), bool(flags & BRS)
        self._table.dispatch(CanFrame(can_id, data, extended, fd, brs, now_ns, is_own))
