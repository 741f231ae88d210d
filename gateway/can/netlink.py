"""rtnetlink, as much as a CAN interface needs: its flags, its controller's state, and the order to restart it.

``parse_links`` and ``restart_request`` are pure; ``LinkWatch`` and ``restart`` do the I/O. Any bytes parse to some list
of links; what is cut short or inconsistent is left out.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_F_REQUEST, _F_ACK, _F_DUMP = 1, 4, 0x300
_RTMGRP_LINK = 1
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_INFO_DATA = 3, 18, 1, 2
_CAN_BITTIMING, _CAN_STATE, _CAN_RESTART_MS, _CAN_RESTART, _CAN_BERR_COUNTER = 1, 4, 6, 7, 8
_IFF_UP = 1
_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")

CAN_STATES = ("error-active", "error-warning", "error-passive", "bus-off", "stopped", "sleeping")


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel describes it. The ``can_…`` values are None where its driver does not tell."""

    index: int
    name: str
    up: bool
    present: bool  # False in a message about its removal
    kind: str = ""
    can_state: str | None = None
    restart_ms: int | None = None
    bitrate_bps: int | None = None
    tx_errors: int | None = None
    rx_errors: int | None = None


def _attributes(data: bytes) -> dict[int, bytes]:
    """Netlink attributes by type; stops at the first that does not fit."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4 or at + length > len(data):
            break
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def _u32(data: bytes | None) -> int | None:
    return None if data is None or len(data) < 4 else int(struct.unpack_from("=I", data)[0])


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _link(message_type: int, body: bytes) -> Link | None:
    if len(body) < _IFINFO.size:
        return None
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    attributes = _attributes(body[_IFINFO.size :])
    if _IFLA_IFNAME not in attributes:
        return None
    info = _attributes(attributes.get(_IFLA_LINKINFO, b""))
    kind = _text(info.get(_IFLA_INFO_KIND, b""))
    can = _attributes(info.get(_IFLA_INFO_DATA, b"")) if kind == "can" else {}
    state = _u32(can.get(_CAN_STATE))
    errors = can.get(_CAN_BERR_COUNTER, b"")
    tx, rx = struct.unpack_from("=HH", errors) if len(errors) >= 4 else (None, None)
    return Link(
        index=index,
        name=_text(attributes[_IFLA_IFNAME]),
        up=bool(flags & _IFF_UP),
        present=message_type == RTM_NEWLINK,
        kind=kind,
        can_state=None if state is None or state >= len(CAN_STATES) else CAN_STATES[state],
        restart_ms=_u32(can.get(_CAN_RESTART_MS)),
        bitrate_bps=_u32(can.get(_CAN_BITTIMING)),
        tx_errors=tx,
        rx_errors=rx,
    )


def parse_links(datagram: bytes) -> list[Link]:
    """The links told of in one datagram from the kernel."""
    links: list[Link] = []
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, message_type, _, _, _ = _HEADER.unpack_from(datagram, at)
        if length < _HEADER.size or at + length > len(datagram):
            break
        if message_type in (RTM_NEWLINK, RTM_DELLINK):
            link = _link(message_type, datagram[at + _HEADER.size : at + length])
            if link is not None:
                links.append(link)
        at += (length + 3) & ~3
    return links


def ends_dump(datagram: bytes) -> bool:
    """Whether the datagram is the last of an answer (NLMSG_DONE, or an error instead of an answer)."""
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, message_type, _, _, _ = _HEADER.unpack_from(datagram, at)
        if message_type in (_NLMSG_DONE, _NLMSG_ERROR):
            return True
        if length < _HEADER.size:
            break
        at += (length + 3) & ~3
    return False


def parse_error(datagram: bytes) -> int | None:
    """The errno of an acknowledgement (0: done); None if the datagram is none."""
    if len(datagram) < _HEADER.size + 4 or _HEADER.unpack_from(datagram)[1] != _NLMSG_ERROR:
        return None
    return -int(struct.unpack_from("=i", datagram, _HEADER.size)[0])


def _attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def restart_request(index: int) -> bytes:
    """What ``ip link set NAME type can restart`` sends."""
    data = _attribute(_IFLA_INFO_DATA, _attribute(_CAN_RESTART, struct.pack("=I", 1)))
    info = _attribute(_IFLA_LINKINFO, _attribute(_IFLA_INFO_KIND, b"can") + data)
    body = _IFINFO.pack(0, 0, index, 0, 0) + info
    return _HEADER.pack(_HEADER.size + len(body), RTM_NEWLINK, _F_REQUEST | _F_ACK, 1, 0) + body


def _open(groups: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        sock.bind((0, groups))
    except OSError:
        sock.close()
        raise
    return sock


def restart(index: int) -> None:
    """Take a CAN controller out of bus-off now.

    Raises:
        OSError: not permitted (needs CAP_NET_ADMIN), the driver cannot, or it is not in bus-off.
    """
    with _open(0) as sock:
        sock.settimeout(1.0)
        sock.send(restart_request(index))
        number = parse_error(sock.recv(65536))
    if number:
        raise OSError(number, os.strerror(number))


class LinkWatch:
    """Keeps ``links`` current: a dump of all interfaces first, then every change as the kernel tells it."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self._sock = _open(_RTMGRP_LINK)
        try:
            self._dump()
        except OSError:
            self._sock.close()
            raise

    def fileno(self) -> int:
        """Readable when something changed."""
        return self._sock.fileno()

    def update(self) -> None:
        """Read what the kernel has told since the last call."""
        while True:
            try:
                datagram = self._sock.recv(1 << 17)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._dump()  # it told more than the socket holds
                continue
            self._take(datagram)

    def close(self) -> None:
        """Release the socket; idempotent."""
        self._sock.close()

    def _dump(self) -> None:
        """Ask for all interfaces and read until the end of the answer, which takes well under a millisecond."""
        body = _IFINFO.pack(0, 0, 0, 0, 0)
        header = _HEADER.pack(_HEADER.size + len(body), RTM_GETLINK, _F_REQUEST | _F_DUMP, 1, 0)
        self._sock.settimeout(2.0)
        self._sock.send(header + body)
        self.links.clear()
        done = False
        while not done:
            try:
                datagram = self._sock.recv(1 << 17)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            self._take(datagram)
            done = ends_dump(datagram)
        self._sock.setblocking(False)

    def _take(self, datagram: bytes) -> None:
        for link in parse_links(datagram):
            for name in [n for n, known in self.links.items() if known.index == link.index and n != link.name]:
                del self.links[name]  # it was renamed
            if link.present:
                self.links[link.name] = link
            else:
                self.links.pop(link.name, None)
