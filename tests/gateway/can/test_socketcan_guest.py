"""SocketCAN against a real kernel, on vcan."""

from __future__ import annotations

import time

import anyio
import numpy as np
import pytest

from dbc.frames import BRS, ERROR, ESI, EXTENDED, FD, REMOTE, FrameBatch
from gateway.can.config import BusConfig
from gateway.can.model import IdFilter, LinkState
from gateway.wire.samples import EventKind
from tests.gateway.can.canbus import START_NS, frames, ip, open_sender, reading, receive_frames, receive_until, send

pytestmark = [pytest.mark.guest, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    """The event loop the gateway runs on."""
    return "asyncio"


def bus(channel: str = "vcan0", name: str = "powertrain", **settings: object) -> BusConfig:
    """A SocketCAN bus with small defaults."""
    return BusConfig(name=name, channel=channel, **settings)  # type: ignore[arg-type]  # settings are checked at run time


async def test_frames_arrive_as_sent() -> None:
    """Identifiers, flags, lengths and payloads of every kind of frame survive; bytes past the length are zero."""
    sent = FrameBatch.from_rows(
        [
            (0, 0, 0x123, 0, b"\x01\x02\x03"),
            (0, 0, 0x1ABCDEFF, EXTENDED, bytes(range(8))),
            (0, 0, 0x7FF, 0, b""),
            (0, 0, 0x111, FD | BRS, bytes(range(64))),
            (0, 0, 0x112, FD | ESI | EXTENDED, bytes(range(12))),
            (0, 0, 0x113, 0, b"\xff"),
        ]
    )
    async with reading(bus()) as reader:
        send("vcan0", sent)
        with open_sender("vcan0") as sock:  # a sender that leaves rubbish past the length
            sock.send((0x114).to_bytes(4, "little") + bytes((2, 0, 0, 0)) + b"\xaa" * 8)
            sock.send((0x115 | 0x40000000).to_bytes(4, "little") + bytes((5, 0, 0, 0)) + b"\xaa" * 8)
        got = await receive_frames(reader, 8)
    assert got.can_id.tolist() == [*sent.can_id.tolist(), 0x114, 0x115]
    assert got.flags.tolist() == [*sent.flags.tolist(), 0, REMOTE]
    assert got.length.tolist() == [*sent.length.tolist(), 2, 5]
    assert (got.data[:6] == sent.data).all()
    assert got.data[6].tolist() == [0xAA, 0xAA] + [0] * 62
    assert not got.data[7].any()


async def test_timestamps_are_the_kernels() -> None:
    """Frames that wait in the socket keep the time at which they came, not that of reading."""
    async with reading(bus()) as reader:
        send("vcan0", frames(1))
        await receive_frames(reader, 1)  # the kernel starts stamping soon after the first socket asks for it
        before = time.time_ns()
        send("vcan0", frames(100))
        after = time.time_ns()
        while time.time_ns() < after + 20_000_000:
            pass
        got = await receive_frames(reader, 100)
    assert before <= got.timestamp_ns.min()
    assert got.timestamp_ns.max() <= after
    assert (np.diff(got.timestamp_ns) >= 0).all()


async def test_drops_are_counted_exactly() -> None:
    """With N sent and no room for them, received + dropped == N, also when nothing comes after the overflow."""
    async with reading(bus(receive_buffer_bytes=4096)) as reader:
        for count in (5000, 1, 3000):
            send("vcan0", frames(count))
        _, events = await receive_until(reader, lambda batches, _: len(batches[-1:]) == 1 and not len(batches[-1]))
        counters = reader.statistics()[0]
        assert counters.kernel_dropped > 0
        assert counters.received == counters.read + counters.kernel_dropped == 8001
        send("vcan0", frames(10))
        await receive_frames(reader, 10)
        assert reader.statistics()[0].received == 8011
    events += reader.take_events()
    told = sum(int(e.detail) for e in events if e.kind is EventKind.FRAMES_LOST)
    assert told == counters.kernel_dropped


async def test_a_large_buffer_loses_nothing() -> None:
    """Seconds of a full bus fit the default buffer while the gateway is busy."""
    async with reading(bus()) as reader:
        send("vcan0", frames(5000))
        got = await receive_frames(reader, 5000)
        counters = reader.statistics()[0]
    assert [int.from_bytes(d[:8].tobytes(), "big") for d in got.data] == list(range(5000))
    assert (counters.received, counters.read, counters.kernel_dropped) == (5000, 5000, 0)
    assert counters.interface_rx is not None
    assert counters.interface_rx >= 5000
    assert counters.last_frame_ns == got.timestamp_ns[-1]


async def test_batches_share_no_memory() -> None:
    """A batch stays as it was when later frames arrive."""
    async with reading(bus()) as reader:
        send("vcan0", frames(50))
        first = await receive_frames(reader, 50)
        copy = first.data.copy(), first.timestamp_ns.copy(), first.can_id.copy()
        send("vcan0", frames(50, first=1000))
        await receive_frames(reader, 50)
    assert (first.data == copy[0]).all()
    assert (first.timestamp_ns == copy[1]).all()
    assert (first.can_id == copy[2]).all()


async def test_several_buses_are_read_together_and_merged_by_time() -> None:
    """Three interfaces come through one reader, ordered by time, each complete and in order."""
    names = ("a", "b", "c")
    async with reading(*(bus(f"vcan{n}", name) for n, name in enumerate(names))) as reader:
        assert reader.names == names
        senders = [open_sender(f"vcan{n}") for n in range(3)]
        for n in range(600):
            senders[n % 3].send((0x100 + n % 3).to_bytes(4, "little") + bytes((8, 0, 0, 0)) + n.to_bytes(8, "big"))
        for sender in senders:
            sender.close()
        got = await receive_frames(reader, 600)
        counters = reader.statistics()
    assert [int.from_bytes(d[:8].tobytes(), "big") for d in got.data] == list(range(600))
    assert (got.bus == np.arange(600) % 3).all()
    assert [c.read for c in counters] == [200, 200, 200]
    assert [c.bus for c in counters] == list(names)


async def test_a_flood_is_read_at_full_speed_and_accounted() -> None:
    """A sender that never pauses, three times the batch size at a time: every frame is read or counted as dropped."""
    async with reading(bus("vcan0", "a"), bus("vcan1", "b"), max_batch=500) as reader:
        sent = {"vcan0": 0, "vcan1": 0}
        for _ in range(5):
            for channel in sent:
                send(channel, frames(1500))
                sent[channel] += 1500
            await reader.receive()
        await receive_until(reader, lambda batches, _: len(batches[-1:]) == 1 and not len(batches[-1]))
        counters = reader.statistics()
    assert [c.received for c in counters] == [7500, 7500]
    assert all(c.read + c.kernel_dropped == 7500 for c in counters)


async def test_error_frames_become_states_and_events() -> None:
    """Error frames are handed on, counted, and told once; bus-off and recovery are states."""
    async with reading(bus(restart_after_ms=0)) as reader:

        async def after(class_bits: int, data: bytes = bytes(8), count: int = 1) -> tuple[LinkState, list[str]]:
            send("vcan0", FrameBatch.from_rows([(0, 0, class_bits, ERROR, data)] * count))
            batch, events = await receive_until(reader, lambda batches, _: sum(map(len, batches)) >= count)
            assert (batch.flags == ERROR).all()
            assert (batch.can_id == class_bits).all()
            return reader.statistics()[0].state, [f"{e.kind}:{e.detail}" for e in events]

        assert await after(0x04, b"\0\x20\0\0\0\0\0\0") == (
            LinkState.ERROR_PASSIVE,
            ["bus_error:error passive", "bus_error:controller: 1"],
        )
        assert await after(0x40) == (LinkState.BUS_OFF, ["bus_off:bus off"])
        assert await after(0x100) == (LinkState.UP, ["bus_up:controller restarted"])
        state, _ = await after(0x88, count=40)
        assert state is LinkState.UP
        await after(0x40)
        send("vcan0", frames(1))
        _, events = await receive_until(reader, lambda _, events: bool(events))
        assert [(e.kind, e.detail) for e in events] == [(EventKind.BUS_UP, "frames arrive again")]
        assert reader.statistics()[0].error_frames == 44


async def test_a_refused_restart_is_told() -> None:
    """An interface whose driver cannot restart is tried, and the refusal is an event with what to do."""
    async with reading(bus(restart_after_ms=1)) as reader:
        send("vcan0", FrameBatch.from_rows([(0, 0, 0x40, ERROR, bytes(8))]))
        _, events = await receive_until(reader, lambda _, events: any("refused" in e.detail for e in events))
    assert [e.kind for e in events] == [EventKind.BUS_OFF, EventKind.BUS_ERROR]
    assert "set restart-ms" in events[-1].detail


async def test_interface_down_and_up_while_reading() -> None:
    """Frames before, an event each way, frames after; the counters go on."""
    async with reading(bus("vcan4")) as reader:
        send("vcan4", frames(7))
        await receive_frames(reader, 7)
        ip("link", "set", "vcan4", "down")
        try:
            _, events = await receive_until(reader, lambda _, events: bool(events))
            assert [e.kind for e in events] == [EventKind.BUS_DOWN]
            assert reader.statistics()[0].state is LinkState.DOWN
        finally:
            ip("link", "set", "vcan4", "up")
        _, events = await receive_until(reader, lambda _, events: bool(events))
        assert [e.kind for e in events] == [EventKind.BUS_UP]
        send("vcan4", frames(5))
        await receive_frames(reader, 5)
        assert reader.statistics()[0].received == 12


async def test_interface_removed_and_made_again_while_reading() -> None:
    """What was queued before the removal is still read; a new interface of the same name is bound at once."""
    async with reading(bus("vcan5"), bus("vcan1", "other")) as reader:
        send("vcan5", frames(20))
        ip("link", "del", "vcan5")
        try:
            batch, events = await receive_until(reader, lambda _, events: bool(events))
            assert len(batch) == 20
            assert [(e.kind, e.source) for e in events] == [(EventKind.BUS_DOWN, "powertrain")]
            send("vcan1", frames(3))
            await receive_frames(reader, 3)
            assert reader.statistics()[0].state is LinkState.DOWN
        finally:
            ip("link", "add", "vcan5", "type", "vcan")
            ip("link", "set", "vcan5", "mtu", "72")
            ip("link", "set", "vcan5", "up")
        _, events = await receive_until(reader, lambda _, events: any(e.kind is EventKind.BUS_UP for e in events))
        send("vcan5", frames(4, first=100))
        got = await receive_frames(reader, 4)
        assert [int.from_bytes(d[:8].tobytes(), "big") for d in got.data] == [100, 101, 102, 103]
        assert reader.statistics()[0].received == 24


async def test_an_interface_that_does_not_exist_yet_is_a_bus_that_is_down() -> None:
    """The gateway starts without it, says so once, and reads it as soon as it appears."""
    async with reading(bus("vcan9"), bus("vcan0", "other")) as reader:
        counters = reader.statistics()[0]
        assert (counters.state, counters.detail) == (LinkState.DOWN, "no interface vcan9")
        ip("link", "add", "vcan9", "type", "vcan")
        try:
            ip("link", "set", "vcan9", "up")
            await receive_until(reader, lambda _, events: any(e.kind is EventKind.BUS_UP for e in events))
            send("vcan9", frames(2))
            await receive_frames(reader, 2)
        finally:
            ip("link", "del", "vcan9")


async def test_filters_hold_back_what_no_scheme_wants() -> None:
    """Only wanted identifiers come; an empty set closes the bus but for error frames; None opens it again."""
    async with reading(bus()) as reader:
        wanted = [IdFilter(0x101, False), IdFilter(0x101, True), IdFilter(0x18FEF100, True, 0x3FFFF00)]
        reader.set_filters({"powertrain": wanted})
        sent = FrameBatch.from_rows(
            [
                (0, 0, 0x100, 0, b"a"),
                (0, 0, 0x101, 0, b"b"),
                (0, 0, 0x101, EXTENDED, b"c"),
                (0, 0, 0x102, EXTENDED, b"d"),
                (0, 0, 0x0CFEF1AA, EXTENDED, b"e"),
                (0, 0, 0x40, ERROR, bytes(8)),
            ]
        )
        send("vcan0", sent)
        got = await receive_frames(reader, 4)
        assert got.can_id.tolist() == [0x101, 0x101, 0x0CFEF1AA, 0x40]
        reader.set_filters({"powertrain": []})
        send("vcan0", sent)
        got = await receive_frames(reader, 1)
        assert (got.can_id.tolist(), got.flags.tolist()) == ([0x40], [ERROR])
        reader.set_filters({"powertrain": [IdFilter(n, False) for n in range(513)]})  # more than the kernel takes
        send("vcan0", sent)
        assert len(await receive_frames(reader, 6)) == 6
        reader.set_filters(None)
        send("vcan0", sent)
        assert len(await receive_frames(reader, 6)) == 6
        assert reader.statistics()[0].kernel_dropped == 0


async def test_our_own_frames_and_others_on_this_host_are_told_apart() -> None:
    """Frames that another program of this host sends are received like any other."""
    async with reading(bus(), bus("vcan0", "twice")) as reader:
        send("vcan0", frames(3))
        got = await receive_frames(reader, 6)
    assert sorted(got.bus.tolist()) == [0, 0, 0, 1, 1, 1]


async def test_classic_only_buses_ignore_fd_frames() -> None:
    """``fd = false`` asks the kernel for classic frames alone."""
    async with reading(bus(fd=False)) as reader:
        send("vcan0", FrameBatch.from_rows([(START_NS, 0, 1, FD, bytes(20)), (START_NS, 0, 2, 0, bytes(8))]))
        got = await receive_frames(reader, 1)
    assert got.can_id.tolist() == [2]


async def test_a_cancelled_receive_loses_nothing() -> None:
    """Cancelling at any await leaves the frames in the socket."""
    async with reading(bus(), tick_ms=5) as reader:
        got = 0
        for n in range(40):
            send("vcan0", frames(3, first=3 * n))
            with anyio.move_on_after(0.002):
                got += len(await reader.receive())
        while got < 120:
            got += len(await reader.receive())
        assert reader.statistics()[0].received == got == 120


async def test_nothing_for_a_while_returns_an_empty_batch() -> None:
    """``receive`` comes back so that its user can do what is due by time."""
    async with reading(bus("vcan3")) as reader:
        assert len(await reader.receive()) == 0
        assert reader.take_events() == ()
