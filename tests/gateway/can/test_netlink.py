"""rtnetlink messages, against this machine's kernel and against made-up bytes."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from gateway.can import netlink
from gateway.can.netlink import Link, LinkWatch, parse_error, parse_links, restart_request


def attribute(kind: int, content: bytes) -> bytes:
    """One netlink attribute, padded."""
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def link_message(message_type: int, index: int, flags: int, attributes: bytes) -> bytes:
    """What the kernel sends about an interface."""
    body = struct.pack("=BxHiII", 0, 280, index, flags, 0) + attributes
    return struct.pack("=IHHII", 16 + len(body), message_type, 0, 0, 0) + body


CAN_DATA = (
    attribute(1, struct.pack("=8I", 500_000, 875, 125, 6, 7, 2, 1, 10))
    + attribute(4, struct.pack("=I", 3))
    + attribute(6, struct.pack("=I", 100))
    + attribute(8, struct.pack("=HH", 248, 5))
)
CAN0 = attribute(3, b"can0\0") + attribute(18, attribute(1, b"can\0") + attribute(2, CAN_DATA))


def test_a_controllers_state_is_read() -> None:
    """State, restart time, bit rate and error counters of a real controller."""
    [link] = parse_links(link_message(16, 4, 0x41, CAN0))
    assert link == Link(
        index=4,
        name="can0",
        up=True,
        present=True,
        kind="can",
        can_state="bus-off",
        restart_ms=100,
        bitrate_bps=500_000,
        tx_errors=248,
        rx_errors=5,
    )


def test_a_removal_is_told_from_a_change() -> None:
    """RTM_DELLINK names the interface that went."""
    links = parse_links(link_message(16, 4, 0, CAN0) + link_message(17, 4, 0, attribute(3, b"can0\0")))
    assert [(link.name, link.present, link.up) for link in links] == [("can0", True, False), ("can0", False, False)]


@given(st.binary(max_size=200))
def test_any_bytes_parse_to_some_links(content: bytes) -> None:
    """What is cut or inconsistent is left out."""
    assert isinstance(parse_links(content), list)
    assert parse_error(content) is None or isinstance(parse_error(content), int)
    assert netlink.ends_dump(content) in (True, False)


@given(st.data())
def test_a_damaged_message_never_raises(data: st.DataObject) -> None:
    """Any cut and any changed byte of a sound message."""
    message = bytearray(link_message(16, 4, 1, CAN0))
    at = data.draw(st.integers(0, len(message) - 1))
    message[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(message)))
    for link in parse_links(bytes(message[:cut])):
        assert isinstance(link.name, str)


def test_the_restart_order_is_ip_links() -> None:
    """What ``ip link set … type can restart`` sends for interface 4, as a trace of it shows."""
    header = struct.pack("=IHHII", 56, 16, 5, 1, 0) + struct.pack("=BxHiII", 0, 0, 4, 0, 0)
    kind = struct.pack("=HH", 7, 1) + b"can\0"
    data = struct.pack("=HH", 12, 2) + struct.pack("=HHI", 8, 7, 1)
    assert restart_request(4) == header + struct.pack("=HH", 24, 18) + kind + data


def test_a_refusal_is_an_errno() -> None:
    """The kernel answers with a negative errno, or 0."""
    assert parse_error(struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -95)) == 95
    assert parse_error(struct.pack("=IHHIIi", 20, 2, 0, 1, 0, 0)) == 0
    assert parse_error(link_message(16, 4, 0, CAN0)) is None


def test_the_watch_knows_this_machines_interfaces() -> None:
    """The first dump has every interface the kernel has, by name and index."""
    watch = LinkWatch()
    try:
        watch.update()
        assert {(link.index, name) for name, link in watch.links.items()} == set(socket.if_nameindex())
    finally:
        watch.close()
