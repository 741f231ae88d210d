"""The state of a bus and what is told about it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.can.model import LinkState
from gateway.can.monitor import PERIOD_NS, BusMonitor
from gateway.wire.samples import EventKind

NOW = 1_700_000_000_000_000_000


def error_frames(monitor: BusMonitor, *frames: tuple[int, int]) -> None:
    """Show (class bits, data byte 1) pairs to the monitor."""
    data = np.zeros((len(frames), 64), np.uint8)
    data[:, 1] = [controller for _, controller in frames]
    bits = np.array([bits for bits, _ in frames], np.uint32)
    monitor.error_frames_seen(bits, data, np.arange(len(frames), dtype=np.int64) + NOW)


def kinds(monitor: BusMonitor) -> list[tuple[EventKind, str]]:
    """The events so far, without their times."""
    return [(event.kind, event.detail) for event in monitor.take_events()]


def state_of(monitor: BusMonitor) -> LinkState:
    """The state now (a call, so that type checkers do not remember the last one)."""
    return monitor.state


def up() -> BusMonitor:
    """A bus that is up."""
    monitor = BusMonitor("can0")
    monitor.link_up(NOW, "can0")
    monitor.take_events()
    return monitor


def test_each_change_is_told_once() -> None:
    """Polling the same state again is silent."""
    monitor = BusMonitor("can0")
    for _ in range(3):
        monitor.link_down(NOW, "no interface can0")
    for _ in range(3):
        monitor.link_up(NOW, "can0")
    for _ in range(3):
        monitor.link_down(NOW, "interface can0 is down")
    assert kinds(monitor) == [
        (EventKind.BUS_DOWN, "no interface can0"),
        (EventKind.BUS_UP, "can0"),
        (EventKind.BUS_DOWN, "interface can0 is down"),
    ]


def test_another_reason_for_being_down_changes_the_detail_silently() -> None:
    """A retry that fails differently is no new event."""
    monitor = BusMonitor("can0")
    monitor.link_down(NOW, "no interface can0")
    monitor.link_down(NOW, "cannot open can0: Permission denied")
    assert monitor.detail == "cannot open can0: Permission denied"
    assert len(monitor.take_events()) == 1


def test_bus_off_and_restart_in_one_batch_are_both_told() -> None:
    """The order of error frames decides the state that remains, with their own times."""
    monitor = up()
    error_frames(monitor, (0x04, 0x10), (0x40, 0), (0x100, 0))
    monitor.flush(NOW)
    assert kinds(monitor) == [
        (EventKind.BUS_ERROR, "error passive"),
        (EventKind.BUS_OFF, "bus off"),
        (EventKind.BUS_UP, "controller restarted"),
        (EventKind.BUS_ERROR, "controller: 1"),
    ]
    assert state_of(monitor) is LinkState.UP
    error_frames(monitor, (0x100, 0), (0x40, 0))
    assert state_of(monitor) is LinkState.BUS_OFF


def test_error_passive_ends_with_error_active() -> None:
    """The controller's own word ends it; ordinary traffic does not."""
    monitor = up()
    error_frames(monitor, (0x04, 0x20))
    assert state_of(monitor) is LinkState.ERROR_PASSIVE
    monitor.frames_seen(NOW)
    assert state_of(monitor) is LinkState.ERROR_PASSIVE
    error_frames(monitor, (0x04, 0x40))
    assert state_of(monitor) is LinkState.UP


def test_traffic_ends_a_bus_off_nobody_told_the_end_of() -> None:
    """Some drivers restart without an error frame."""
    monitor = up()
    error_frames(monitor, (0x40, 0))
    monitor.frames_seen(NOW)
    assert state_of(monitor) is LinkState.UP


def test_a_storm_of_error_frames_is_counted_not_repeated() -> None:
    """A thousand error frames in two seconds are three events with all of them in."""
    monitor = up()
    told = 0
    for n in range(1000):
        error_frames(monitor, (0x88, 0))
        monitor.flush(NOW + n * PERIOD_NS // 500)
    monitor.flush(NOW + 3 * PERIOD_NS)
    events = monitor.take_events()
    for event in events:
        told += int(event.detail.split("protocol violation: ")[1])
    assert told == 1000
    assert len(events) == 3
    assert monitor.error_frames == 1000


def test_a_receive_overflow_in_the_controller_is_named() -> None:
    """Frames lost before the kernel cannot be counted, but they are not silent."""
    monitor = up()
    error_frames(monitor, (0x04, 0x01))
    monitor.flush(NOW)
    assert any("receive overflow" in detail for _, detail in kinds(monitor))


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(-2 * PERIOD_NS, 2 * PERIOD_NS)), max_size=30))
def test_every_lost_frame_is_told_in_the_end(losses: list[tuple[int, int]]) -> None:
    """However the clock jumps, the events' counts add up to the drops."""
    monitor = up()
    now = NOW
    for count, step in losses:
        now += step
        monitor.frames_lost(count, now)
    monitor.flush_all(now)
    assert sum(int(e.detail) for e in monitor.take_events()) == sum(count for count, _ in losses)
    assert not monitor.pending


@given(st.lists(st.tuples(st.integers(0, 0x1FFFFFFF), st.integers(0, 255)), max_size=30))
def test_any_error_frames_are_taken(frames: list[tuple[int, int]]) -> None:
    """Every error frame counts, whatever it holds."""
    monitor = up()
    error_frames(monitor, *frames)
    monitor.flush_all(NOW)
    assert monitor.error_frames == len(frames)
    assert isinstance(monitor.state, LinkState)
