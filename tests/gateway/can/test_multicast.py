"""``udp_multicast`` between python-can and us, on this machine alone."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import anyio
import can
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbc.frames import BRS, ERROR, ESI, EXTENDED, FD, REMOTE, FrameBatch
from gateway.can.config import BusConfig, ReadConfig
from gateway.can.model import SourceError
from gateway.can.multicast import parse_channel, parse_datagram
from gateway.can.opening import open_source
from gateway.can.ports import FrameSource
from gateway.wire.samples import EventKind

pytestmark = pytest.mark.anyio
GROUP = "239.74.163."


@pytest.fixture
def anyio_backend() -> str:
    """The event loop the gateway runs on."""
    return "asyncio"


@pytest.fixture(scope="module")
def port() -> int:
    """A port nobody uses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def senders(port: int) -> Iterator[list[Any]]:
    """python-can's buses on four groups of one port; their frames do not leave this machine."""
    buses = [can.Bus(interface="udp_multicast", channel=f"{GROUP}{n}", port=port, hop_limit=0) for n in range(60, 64)]
    try:
        yield buses
    finally:
        for bus in buses:
            bus.shutdown()


def config(number: int, port: int, **settings: Any) -> BusConfig:
    """Our end of group ``number``."""
    return BusConfig(name=f"bus{number}", interface="udp_multicast", channel=f"{GROUP}{60 + number}:{port}", **settings)


async def receive(source: FrameSource, count: int) -> FrameBatch:
    """Until so many frames came."""
    batches: list[FrameBatch] = []
    with anyio.fail_after(20):
        while sum(map(len, batches)) < count:
            batches.append(await source.receive())
    return FrameBatch.concatenate(batches)


async def test_frames_of_python_can_arrive_as_sent(port: int, senders: list[Any]) -> None:
    """Every kind of frame its sender can make."""
    source = open_source([config(0, port)], read=ReadConfig(tick_ms=0))
    sent = [
        can.Message(arbitration_id=0x123, is_extended_id=False, data=b"\1\2\3"),
        can.Message(arbitration_id=0x1ABCDEFF, is_extended_id=True, data=b""),
        can.Message(arbitration_id=0x10, is_extended_id=False, is_remote_frame=True, dlc=5),
        can.Message(arbitration_id=0x11, is_extended_id=False, is_fd=True, bitrate_switch=True, data=bytes(range(64))),
        can.Message(arbitration_id=0x12, is_extended_id=True, is_fd=True, error_state_indicator=True, data=bytes(12)),
        can.Message(arbitration_id=0x40, is_extended_id=False, is_error_frame=True, data=bytes(8)),
    ]
    for message in sent:
        senders[0].send(message)
    got = await receive(source, len(sent))
    await source.aclose()
    assert got.can_id.tolist() == [m.arbitration_id for m in sent]
    assert got.flags.tolist() == [0, EXTENDED, REMOTE, FD | BRS, FD | ESI | EXTENDED, ERROR]
    assert got.length.tolist() == [3, 0, 5, 64, 12, 8]
    assert bytes(got.data[0, :4]) == b"\1\2\3\0"
    assert bytes(got.data[3]) == bytes(range(64))
    assert not got.data[2].any()


async def test_groups_on_one_port_stay_apart(port: int, senders: list[Any]) -> None:
    """Four buses of a vehicle share the port; each of ours hears its own group only."""
    source = open_source([config(n, port) for n in range(4)], read=ReadConfig(tick_ms=0))
    for n in range(400):
        senders[n % 4].send(can.Message(arbitration_id=n, is_extended_id=False, data=bytes((n % 4,))))
    got = await receive(source, 400)
    counters = source.statistics()
    await source.aclose()
    assert (got.can_id % 4 == got.bus).all()
    assert [c.received for c in counters] == [100] * 4
    assert [c.kernel_dropped for c in counters] == [0] * 4


async def test_a_second_of_four_busy_buses_waits_without_loss(port: int, senders: list[Any]) -> None:
    """4 × 1,000 frames while nobody reads, as when the gateway is busy for a whole second."""
    source = open_source([config(n, port) for n in range(4)])
    for n in range(4000):
        senders[n % 4].send(can.Message(arbitration_id=n % 0x800, is_extended_id=False, data=n.to_bytes(8, "big")))
    got = await receive(source, 4000)
    counters = source.statistics()
    await source.aclose()
    assert sum(c.kernel_dropped for c in counters) == 0
    for bus in range(4):
        numbers = [int.from_bytes(row[:8].tobytes(), "big") for row in got.data[got.bus == bus]]
        assert numbers == list(range(bus, 4000, 4))


async def test_drops_are_counted_exactly(port: int, senders: list[Any]) -> None:
    """With a buffer for a few frames, sent = read + dropped, and the loss is an event."""
    source = open_source([config(0, port, receive_buffer_bytes=4096)], read=ReadConfig(tick_ms=0, max_wait_ms=50))
    for n in range(500):
        senders[0].send(can.Message(arbitration_id=n, is_extended_id=False))
    read = 0
    while len(batch := await source.receive()):
        read += len(batch)
    [counters] = source.statistics()
    events = source.take_events()
    await source.aclose()
    assert counters.kernel_dropped > 0
    assert read == counters.read
    assert counters.received == counters.read + counters.kernel_dropped == 500
    assert sum(int(e.detail) for e in events if e.kind is EventKind.FRAMES_LOST) == counters.kernel_dropped


async def test_datagrams_that_are_no_frames_are_counted(port: int) -> None:
    """Rubbish on the group is counted as malformed and harms nothing."""
    source = open_source([config(1, port)], read=ReadConfig(tick_ms=0))
    good = msgspec.msgpack.encode({"arbitration_id": 1, "data": b"x", "is_extended_id": False, "channel": "y"})
    rubbish = [b"", b"\xc1", b"\x80", bytes(2000), good[:-3], good + bytes(600)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, struct.pack("@I", 0))
        for datagram in [*rubbish, good]:
            sock.sendto(datagram, (f"{GROUP}61", port))
    got = await receive(source, 1)
    [counters] = source.statistics()
    await source.aclose()
    assert (got.can_id.tolist(), bytes(got.data[0, :2])) == ([1], b"x\0")
    assert (counters.malformed, counters.received) == (len(rubbish), 1)


@given(st.binary(max_size=100))
def test_any_datagram_is_a_frame_or_none(content: bytes) -> None:
    """Nothing but None and sound frames comes out of any bytes."""
    check(parse_datagram(content))


values = (
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=70) | st.text(max_size=3)
)
KEYS = ["arbitration_id", "is_extended_id", "is_remote_frame", "is_error_frame", "dlc", "data", "is_fd", "channel"]


@given(st.dictionaries(st.sampled_from(KEYS), values))
def test_any_map_is_a_frame_or_none(content: dict[str, Any]) -> None:
    """Also maps with the right keys and values of any kind."""
    check(parse_datagram(msgspec.msgpack.encode(content)))


def check(row: tuple[int, int, int, bytes] | None) -> None:
    """A row that fits the columns of a batch."""
    if row is None:
        return
    can_id, flags, length, payload = row
    assert 0 <= can_id <= (0x1FFFFFFF if flags & (EXTENDED | ERROR) else 0x7FF)
    assert len(payload) <= length <= (64 if flags & FD else 8)
    assert np.uint8(flags) == flags


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        ("239.74.163.2", ("239.74.163.2", 43113)),
        ("239.74.163.2:5000", ("239.74.163.2", 5000)),
        ("ff15::1", ("ff15::1", 43113)),
        ("[ff15::1]:5000", ("ff15::1", 5000)),
    ],
)
def test_channels_name_a_group_and_maybe_a_port(channel: str, expected: tuple[str, int]) -> None:
    """The default port is python-can's."""
    assert parse_channel(channel) == expected


@pytest.mark.parametrize("channel", ["can0", "127.0.0.1", "239.1.1.1:0", "239.1.1.1:x", "[ff15::1", "8.8.8.8:1"])
async def test_a_channel_that_is_no_group_is_refused(channel: str) -> None:
    """With the bus and the channel in the message."""
    if channel == "[ff15::1":
        assert parse_channel(channel) == ("ff15::1", 43113)
        return
    with pytest.raises(SourceError, match="bus b: channel"):
        open_source([BusConfig(name="b", interface="udp_multicast", channel=channel)])
