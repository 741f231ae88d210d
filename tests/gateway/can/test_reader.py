"""One task over many adapters: order, fairness, ends, and nothing lost."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

import anyio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbc.frames import FrameBatch
from gateway.can.config import BusConfig, ReadConfig, ReplayConfig
from gateway.can.merge import merge_by_time
from gateway.can.model import BusCounters, Filters, SourceEnded, SourceError
from gateway.can.opening import make_ports, open_source
from gateway.can.ports import Poller
from gateway.can.reader import BusReader
from gateway.wire.samples import Event, EventKind

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The event loop the gateway runs on."""
    return "asyncio"


class FakePort:
    """An adapter whose frames are given to it; one byte on a socket pair says that there are some."""

    def __init__(self, *names: str, fails: Exception | None = None) -> None:
        self._names, self._fails = names, fails
        self.frames: list[tuple[int, int, int]] = []  # time, local bus, identifier
        self.read = [0] * len(names)
        self.filters: Filters | None = None
        self.closed = self.over = False
        self._events: list[Event] = []
        self._bell, self._ear = socket.socketpair()
        self._ear.setblocking(False)
        self.due_ns: int | None = None
        self._more = False

    def put(self, *frames: tuple[int, int, int]) -> None:
        self.frames += frames
        self._bell.send(b"x")

    def tell(self, event: Event) -> None:
        self._events.append(event)
        self._bell.send(b"x")

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    @property
    def has_more(self) -> bool:
        return self._more

    @property
    def ended(self) -> bool:
        return self.over and not self.frames

    def open(self, poller: Poller) -> None:
        if self._fails is not None:
            raise self._fails
        poller.add(self._ear.fileno())

    def collect(self, limit: int, monotonic_ns: int, utc_ns: int) -> FrameBatch:
        with contextlib.suppress(BlockingIOError):
            self._ear.recv(4096)
        taken, self.frames = self.frames[:limit], self.frames[limit:]
        self._more = bool(self.frames)
        for _, bus, _ in taken:
            self.read[bus] += 1
        return FrameBatch.from_rows([(at, bus, can_id, 0, b"") for at, bus, can_id in taken])

    def next_due_ns(self) -> int | None:
        return self.due_ns

    def take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def statistics(self) -> list[BusCounters]:
        return [BusCounters(bus=n, read=r, received=r) for n, r in zip(self._names, self.read, strict=True)]

    def set_filters(self, filters: Filters | None) -> None:
        self.filters = filters

    def close(self) -> None:
        self.closed = True
        self._bell.close()
        self._ear.close()


def quick(max_batch: int = 2000) -> ReadConfig:
    """No gathering, short waits."""
    return ReadConfig(tick_ms=0, max_wait_ms=30, max_batch=max_batch)


async def test_buses_are_numbered_as_configured_whatever_adapter_reads_them() -> None:
    """The order of names is the configuration's; the adapters' own numbering does not show."""
    left, right = FakePort("body", "chassis"), FakePort("powertrain")
    reader = BusReader([left, right], quick(), names=["chassis", "powertrain", "body"])
    left.put((3, 0, 30), (4, 1, 40))
    right.put((1, 0, 10))
    batch = await reader.receive()
    assert batch.can_id.tolist() == [10, 30, 40]
    assert [reader.names[bus] for bus in batch.bus] == ["powertrain", "body", "chassis"]
    assert [(c.bus, c.read) for c in reader.statistics()] == [("chassis", 1), ("powertrain", 1), ("body", 1)]
    await reader.aclose()
    assert left.closed
    assert right.closed


async def test_a_busy_adapter_does_not_starve_another() -> None:
    """With more than a batch waiting on one, the other's frames come within two batches."""
    busy, quiet = FakePort("busy"), FakePort("quiet")
    reader = BusReader([busy, quiet], quick(max_batch=10))
    busy.put(*((n, 0, n) for n in range(1000)))
    quiet.put((0, 0, 0x7FF))
    seen = [0x7FF in (await reader.receive()).can_id for _ in range(2)]
    assert any(seen)
    total = 20
    while total < 1001:
        total += len(await reader.receive())
    assert [c.read for c in reader.statistics()] == [1000, 1]
    await reader.aclose()


async def test_events_alone_end_the_wait() -> None:
    """A bus that goes down is told though no frame comes, in order of time."""
    port = FakePort("a")
    reader = BusReader([port], ReadConfig(tick_ms=0, max_wait_ms=10_000))
    port.tell(Event(2, EventKind.BUS_UP, "a"))
    port.tell(Event(1, EventKind.BUS_DOWN, "a"))
    with anyio.fail_after(5):
        assert len(await reader.receive()) == 0
    assert [e.timestamp_ns for e in reader.take_events()] == [1, 2]
    assert reader.take_events() == ()
    await reader.aclose()


async def test_a_source_ends_with_its_last_bus_and_not_before() -> None:
    """What an adapter still had is handed out first."""
    log, live = FakePort("log"), FakePort("live")
    reader = BusReader([log, live], quick(max_batch=3))
    log.put(*((n, 0, n) for n in range(5)))
    log.over = True
    got = 0
    while got < 5:
        got += len(await reader.receive())
    assert len(await reader.receive()) == 0  # the live one may still speak
    live.over = True
    with pytest.raises(SourceEnded):
        await reader.receive()
    await reader.aclose()
    with pytest.raises(SourceEnded, match="closed"):
        await reader.receive()


async def test_an_adapter_that_cannot_start_leaves_nothing_open() -> None:
    """Those opened before it are closed, and its error comes through."""
    first, second, third = FakePort("a"), FakePort("b", fails=SourceError("b", "no such file")), FakePort("c")
    with pytest.raises(SourceError, match="bus b: no such file"):
        BusReader([first, second, third], quick())
    assert first.closed
    third.close()


async def test_filters_reach_every_adapter() -> None:
    """Each takes its own part."""
    ports = [FakePort("a"), FakePort("b")]
    reader = BusReader(ports, quick())
    reader.set_filters({"a": []})
    assert [port.filters for port in ports] == [{"a": []}, {"a": []}]
    await reader.aclose()


async def test_a_due_time_is_kept_without_any_traffic() -> None:
    """An adapter that only wants to be asked again is asked."""
    port = FakePort("a")
    reader = BusReader([port], ReadConfig(tick_ms=0, max_wait_ms=60_000))
    port.frames.append((1, 0, 1))  # no bell
    port.due_ns = 0
    with anyio.fail_after(5):
        assert len(await reader.receive()) == 1
    await reader.aclose()


@pytest.mark.parametrize("names", [["a", "a"], ["a"], ["a", "c"]])
async def test_names_must_be_the_adapters_own(names: Sequence[str]) -> None:
    """A bus that nobody reads, or that two read, is a mistake."""
    ports = [FakePort("a"), FakePort("a" if names == ["a", "a"] else "b")]
    with pytest.raises(ValueError, match="bus names"):
        BusReader(ports, quick(), names=names)
    for port in ports:
        port.close()


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 3)), max_size=40))
def test_merging_orders_buses_by_time_and_keeps_each_ones_order(frames: list[tuple[int, int]]) -> None:
    """No frame is lost, each bus keeps its order, and where no clock goes back all are in order of time."""
    batch = FrameBatch.from_rows([(at, bus, n, 0, b"") for n, (at, bus) in enumerate(frames)])
    merged = merge_by_time(batch)
    assert sorted(merged.can_id.tolist()) == list(range(len(frames)))
    steady = True
    for bus in range(4):
        own = merged.can_id[merged.bus == bus]
        assert (np.diff(own.astype(np.int64)) > 0).all()
        steady &= bool((np.diff(batch.timestamp_ns[batch.bus == bus]) >= 0).all())
    if steady:
        assert (np.diff(merged.timestamp_ns) >= 0).all()


async def test_buses_of_one_kind_share_an_adapter() -> None:
    """All SocketCAN buses are one, all groups are one, each log and each other adapter is its own."""
    buses = [
        BusConfig(name="a", channel="can0"),
        BusConfig(name="b", interface="udp_multicast", channel="239.74.163.9"),
        BusConfig(name="c", channel="can1"),
        BusConfig(name="d", interface="virtual", channel="x"),
        BusConfig(name="e", interface="replay", channel="x.log", log_bus="0"),
        BusConfig(name="f", interface="replay", channel="x.log", log_bus="1"),
    ]
    ports = make_ports(buses, ReadConfig(), ReplayConfig())
    assert sorted(port.names for port in ports) == [("a", "c"), ("b",), ("d",), ("e", "f")]


@pytest.mark.parametrize("count", [0, 33])
async def test_no_bus_and_too_many_are_refused(count: int) -> None:
    """Before anything is opened."""
    with pytest.raises(ValueError, match=f"{count} buses"):
        open_source([BusConfig(name=f"b{n}", channel="can0") for n in range(count)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": ""}, "name"),
        ({"name": "a.b"}, "name"),
        ({"name": "a"}, "channel"),
        ({"name": "a", "interface": "replay"}, "channel"),
        ({"name": "a", "channel": "c", "receive_buffer_bytes": 0}, "receive_buffer_bytes"),
        ({"name": "a", "channel": "c", "restart_after_ms": -1}, "restart_after_ms"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings: dict[str, object], message: str) -> None:
    """The message names the key."""
    with pytest.raises(ValueError, match=message):
        BusConfig(**settings)  # type: ignore[arg-type]  # that is the point
