"""python-can adapters: complete, and never silent when they fail."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import can
import pytest

from dbc.frames import BRS, ERROR, EXTENDED, FD, REMOTE, FrameBatch
from gateway.can import pythoncan
from gateway.can.config import BusConfig, ReadConfig
from gateway.can.model import LinkState, SourceError
from gateway.can.opening import open_source
from gateway.can.ports import FrameSource
from gateway.can.pythoncan import row_of
from gateway.wire.samples import Event, EventKind

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The event loop the gateway runs on."""
    return "asyncio"


def source_on(channel: str, interface: str = "virtual") -> FrameSource:
    """A source with one python-can bus."""
    return open_source([BusConfig(name="b", interface=interface, channel=channel)], read=ReadConfig(tick_ms=0))


async def until(source: FrameSource, done: Callable[[int, Sequence[Event]], bool]) -> tuple[FrameBatch, list[Event]]:
    """Receive until ``done(frames, events)``."""
    batches: list[FrameBatch] = []
    events: list[Event] = []
    with anyio.fail_after(20):
        while not done(sum(map(len, batches)), events):
            batches.append(await source.receive())
            events += source.take_events()
    return FrameBatch.concatenate(batches), events


class FakeBus:
    """An adapter that delivers what it is given and then raises."""

    def __init__(self, messages: Sequence[can.Message], error: BaseException | None = None) -> None:
        self.messages = list(messages)
        self.error = error
        self.closed = threading.Event()

    def recv(self, timeout: float) -> can.Message | None:
        if self.messages:
            return self.messages.pop(0)
        if self.error is not None:
            raise self.error
        self.closed.wait(timeout)
        return None

    def shutdown(self) -> None:
        self.closed.set()


async def test_frames_of_a_virtual_bus_arrive() -> None:
    """Every frame, in order, once the bus is up."""
    source = source_on("test-arrive")
    await until(source, lambda _, events: any(e.kind is EventKind.BUS_UP for e in events))
    sender = can.Bus(interface="virtual", channel="test-arrive")
    for n in range(500):
        sender.send(can.Message(arbitration_id=n, is_extended_id=bool(n % 2), data=bytes((n % 256,))))
    got, _ = await until(source, lambda frames, _: frames >= 500)
    [counters] = source.statistics()
    sender.shutdown()
    await source.aclose()
    assert got.can_id.tolist() == list(range(500))
    assert got.flags.tolist() == [EXTENDED if n % 2 else 0 for n in range(500)]
    assert (counters.received, counters.read, counters.kernel_dropped) == (500, 500, 0)
    assert source.statistics()[0].state is LinkState.STOPPED


@pytest.mark.parametrize("error", [can.CanOperationError("unplugged"), ValueError("odd"), SystemExit(3)])
async def test_an_adapter_that_raises_is_down_and_opened_again(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """What it raised is in the event; frames before and after are kept."""
    monkeypatch.setattr(pythoncan, "RETRY_FIRST_S", 0.01)
    message = can.Message(arbitration_id=7, is_extended_id=False, timestamp=1.7e9)
    buses = [FakeBus([message] * 3, error), FakeBus([message] * 2)]
    opened = iter(buses)
    monkeypatch.setattr(pythoncan, "open_bus", lambda _: next(opened))
    source = source_on("x")
    got, events = await until(source, lambda frames, events: frames >= 5 and len(events) >= 3)
    await source.aclose()
    assert len(got) == 5
    assert [e.kind for e in events] == [EventKind.BUS_UP, EventKind.BUS_DOWN, EventKind.BUS_UP]
    assert type(error).__name__ in events[1].detail
    assert all(bus.closed.is_set() for bus in buses)


async def test_an_adapter_that_is_not_there_is_a_bus_that_is_down() -> None:
    """The gateway starts; the reason is in the event and the counters."""
    source = source_on("/dev/does-not-exist", "slcan")
    _, events = await until(source, lambda _, events: bool(events))
    [counters] = source.statistics()
    await source.aclose()
    assert events[0].kind is EventKind.BUS_DOWN
    assert counters.state is LinkState.DOWN
    assert "slcan" in counters.detail


async def test_an_unknown_interface_is_told_by_name() -> None:
    """A typo in the configuration shows in the bus's state."""
    source = source_on("x", "scoketcan")
    _, events = await until(source, lambda _, events: bool(events))
    await source.aclose()
    assert "scoketcan" in events[0].detail


async def test_a_queue_that_overflows_counts_what_it_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """received = read + dropped when the gateway does not keep up."""
    monkeypatch.setattr(pythoncan, "MAX_QUEUE_FRAMES", 10)
    message = can.Message(arbitration_id=7, is_extended_id=False, timestamp=1.7e9)
    bus = FakeBus([message] * 100)
    monkeypatch.setattr(pythoncan, "open_bus", lambda _: bus)
    source = source_on("x")
    while bus.messages:
        threading.Event().wait(0.001)  # the thread reads on while nobody collects
    got, events = await until(source, lambda frames, events: any(e.kind is EventKind.FRAMES_LOST for e in events))
    [counters] = source.statistics()
    await source.aclose()
    assert len(got) + counters.kernel_dropped == counters.received == 100
    assert counters.kernel_dropped == sum(int(e.detail) for e in events if e.kind is EventKind.FRAMES_LOST) > 0


async def test_without_python_can_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image without python-can says what is missing."""
    monkeypatch.setitem(sys.modules, "can", None)
    with pytest.raises(SourceError, match="needs the Python package python-can"):
        source_on("x")


def test_messages_become_rows() -> None:
    """Flags and lengths of every kind of message; what cannot be a frame is none."""

    def message(**fields: Any) -> can.Message:
        return can.Message(timestamp=1.5, **fields)

    assert row_of(message(arbitration_id=1, is_extended_id=False, data=b"ab"), 0) == (1_500_000_000, 1, 0, 2, b"ab")
    assert row_of(message(arbitration_id=1, data=b""), 5) == (1_500_000_005, 1, EXTENDED, 0, b"")
    remote = message(arbitration_id=1, is_extended_id=False, is_remote_frame=True, dlc=6)
    assert row_of(remote, 0) == (1_500_000_000, 1, REMOTE, 6, b"")
    fd = message(arbitration_id=1, is_extended_id=False, is_fd=True, bitrate_switch=True, data=bytes(48))
    assert row_of(fd, 0) == (1_500_000_000, 1, FD | BRS, 48, bytes(48))
    assert row_of(message(arbitration_id=4, is_error_frame=True, data=bytes(8)), 0) == (
        1_500_000_000,
        4,
        ERROR,
        8,
        bytes(8),
    )
    assert row_of(message(arbitration_id=1, data=bytes(9)), 0) is None
    assert row_of(message(arbitration_id=1 << 29, data=b""), 0) is None


async def test_an_adapter_that_counts_from_its_own_start_is_moved_to_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances stay; the first frame is now."""
    first, second = (can.Message(arbitration_id=1, timestamp=t) for t in (12.5, 14.5))
    monkeypatch.setattr(pythoncan, "open_bus", lambda _: FakeBus([first, second]))
    source = source_on("x")
    got, _ = await until(source, lambda frames, _: frames >= 2)
    await source.aclose()
    assert got.timestamp_ns[1] - got.timestamp_ns[0] == 2_000_000_000
    assert got.timestamp_ns[0] > 1_600_000_000_000_000_000
