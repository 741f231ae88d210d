"""The selector's rules, one by one, on a small vehicle."""

from __future__ import annotations

import numpy as np

from gateway.collect import Collected, Selector
from gateway.collect.collected import ERRORS, HELD, NOT_SELECTED, SELECTED, UNDECODABLE
from gateway.wire.samples import EventKind
from tests.gateway.collect.vehicle import (
    DOOR,
    MS,
    SPEED,
    START,
    batch,
    doors,
    error,
    motion,
    scheme,
    selector,
    unknown,
)

Row = tuple[int, int, int, int, bytes]


def feed(under_test: Selector, *rows: Row) -> Collected:
    """Feed rows, the last one being now."""
    return under_test.feed(batch(*rows), max(row[0] for row in rows))


def picked(collected: Collected, signal: int) -> list[tuple[float, int]]:
    """(ms, raw) of the samples of one signal, of all blocks."""
    found = []
    for block in collected.blocks:
        s = block.samples
        for at in np.flatnonzero(s.signal == signal).tolist():
            found.append(((int(s.row_timestamp_ns[s.row[at]]) - START) / MS, int(s.raw[at])))
    return found


def totals(*results: Collected) -> list[int]:
    """Frames per outcome over all buses."""
    return [sum(int(r.counts[:, column].sum()) for r in results) for column in range(5)]


def test_everything_is_sent_without_conditions() -> None:
    s = selector(scheme('[[signals]]\nname = "drive.Motion.Speed"\n'))
    assert picked(feed(s, motion(0, 5), motion(1, 5), motion(2, 5)), SPEED) == [(0, 5), (1, 5), (2, 5)]


def test_on_change_sends_first_and_changed_values_across_batches() -> None:
    s = selector(scheme('[[signals]]\nname = "drive.Motion.Speed"\non_change = true\n'))
    assert picked(feed(s, motion(0, 5), motion(1, 5), motion(2, 6)), SPEED) == [(0, 5), (2, 6)]
    assert picked(feed(s, motion(3, 6), motion(4, 5)), SPEED) == [(4, 5)]


def test_min_period_survives_jitter() -> None:
    """A 10 ms message that jitters is not halved by min_period_ms = 10."""
    s = selector(scheme('[[signals]]\nname = "drive.Motion.Speed"\nmin_period_ms = 10\n'))
    rows = [motion(10 * i + (0.4 if i % 2 else -0.4), i) for i in range(1, 200)]
    assert len(picked(feed(s, *rows), SPEED)) >= 198


def test_min_period_keeps_the_rate() -> None:
    s = selector(scheme('[[signals]]\nname = "drive.Motion.Speed"\nmin_period_ms = 100\n'))
    rows = [motion(10 * i, i) for i in range(1000)]
    assert [at for at, _ in picked(feed(s, *rows), SPEED)] == [100.0 * i for i in range(100)]


def test_dead_band_is_physical_and_against_the_last_value_sent() -> None:
    s = selector(scheme('[[signals]]\nname = "drive.Motion.Speed"\ndead_band = 2.0\n'))  # 4 raw
    got = picked(feed(s, *(motion(i, raw) for i, raw in enumerate([10, 12, 13, 14, 15, 17, 18, 13]))), SPEED)
    assert [raw for _, raw in got] == [10, 14, 18, 13]


def test_heartbeat_repeats_an_unchanged_value() -> None:
    s = selector(scheme('[[signals]]\nname = "drive.Motion.Speed"\non_change = true\nheartbeat_ms = 50\n'))
    got = picked(feed(s, *(motion(10 * i, 7) for i in range(16))), SPEED)
    assert [at for at, _ in got] == [0, 50, 100, 150]


def test_force_on_change_sends_despite_the_period() -> None:
    body = '[[signals]]\nname = "drive.Motion.Speed"\nmin_period_ms = 100\nforce_on_change = true\n'
    got = picked(feed(selector(scheme(body)), *(motion(10 * i, 1 + (i >= 3)) for i in range(15))), SPEED)
    assert [at for at, _ in got] == [0, 30, 130]


def test_every_frame_has_one_outcome() -> None:
    s = selector(scheme('[[signals]]\nname = "drive.Motion.Speed"\non_change = true\n'))
    result = feed(s, motion(0, 1), motion(1, 1), unknown(2), error(3), doors(4, 1), unknown(5, bus=1))
    assert result.counts[0].tolist() == [1, 1, 1, 1, 0]
    assert result.counts[1].tolist() == [1, 1, 0, 0, 0]


def test_window_sends_what_came_before_and_after() -> None:
    body = (
        '[[signals]]\nname = "drive.Motion.Speed"\n[trigger]\ncondition = "Door == \'open\'"\n'
        "pre_trigger_ms = 20\npost_trigger_ms = 10\n"
    )
    s = selector(scheme(body))
    first = feed(s, *(motion(10 * i, i) for i in range(6)))
    assert first.blocks == ()
    second = feed(s, doors(55, 1), motion(60, 6), motion(70, 7))
    assert picked(second, SPEED) == [(40, 4), (50, 5), (60, 6)]
    assert [e.kind for block in second.blocks for e in block.events] == [EventKind.TRIGGER]
    third = s.flush(START + 80 * MS)
    columns = totals(first, second, third)
    assert columns[SELECTED] == 3
    assert columns[HELD] == 0
    assert sum(columns) == 9


def test_held_frames_become_not_selected_when_they_leave_the_window() -> None:
    body = '[[signals]]\nname = "*.Speed"\n[trigger]\ncondition = "Door > 0"\npre_trigger_ms = 20\n'
    s = selector(scheme(body))
    first = feed(s, motion(0), motion(10))
    assert totals(first)[HELD] == 2
    second = s.tick(START + 31 * MS)
    assert totals(first, second) == [2, 0, 0, 0, 0]
    assert s.next_deadline_ns() is None


def test_black_box_selects_unknown_frames_but_not_error_frames() -> None:
    s = selector(scheme('[[raw_frames]]\nids = ["0x7F0-0x7FF", "drive.Motion"]\n'))
    result = feed(s, unknown(0), unknown(1, 0x700), error(2), motion(3))
    assert totals(result) == [0, 1, 1, 2, 0]
    assert result.blocks[0].frames.can_id.tolist() == [0x7FF, 0x100]


def test_a_sample_of_two_schemes_of_a_stream_is_sent_once() -> None:
    one = scheme('[[signals]]\nname = "*.Speed"\n', head='id = "one"\nversion = 1\n')
    two = scheme('[[signals]]\nname = "drive.Motion.*"\n', head='id = "two"\nversion = 1\n')
    urgent = scheme('[[signals]]\nname = "*.Speed"\n', head='id = "three"\nversion = 1\npriority = "critical"\n')
    result = feed(selector(one, two, urgent), motion(0, 5))
    assert [len(block.samples) for block in result.blocks] == [1, 2, 1]


def test_clock_jump_is_told_and_ends_windows() -> None:
    body = '[[signals]]\nname = "*.Speed"\n[trigger]\ncondition = "Door > 0"\npre_trigger_ms = 20000\n'
    s = selector(scheme(body))
    first = feed(s, motion(7_200_000))
    second = feed(s, motion(0), motion(10))
    events = [e for block in second.blocks for e in block.events]
    assert [e.kind for e in events] == [EventKind.CLOCK_JUMP]
    assert totals(first, second)[HELD] == 2
    assert totals(first, second)[NOT_SELECTED] == 1


def test_remote_and_unknown_frames_are_undecodable() -> None:
    result = feed(selector(scheme('[[signals]]\nname = "*"\n')), unknown(0), doors(1, 1))
    assert totals(result)[UNDECODABLE] == 1
    assert totals(result)[ERRORS] == 0
    assert picked(result, DOOR) == [(1, 1)]
