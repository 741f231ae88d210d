"""Validity, timeouts, degradation, kernel filters, dates and replacement."""

from __future__ import annotations

import pytest

from dbc.frames import EXTENDED, FrameBatch
from dbc.manifest import FORMAT, WILDCARD_SA, Manifest
from gateway.collect import Limits, Names, Selector, parse_scheme, resolve
from gateway.collect.collected import HELD
from gateway.errors import ConfigError
from gateway.wire.samples import BAD_COUNTER, OUT_OF_RANGE, EventKind
from tests.gateway.collect.test_selector import feed, picked, totals
from tests.gateway.collect.vehicle import (
    DOOR,
    MANIFEST,
    MS,
    SPEED,
    START,
    batch,
    doors,
    message,
    motion,
    scheme,
    selector,
    signal,
    unknown,
)

ALL = '[[signals]]\nname = "drive.Motion.Speed"\n'


def test_mark_tells_quality_and_require_leaves_bad_samples_out() -> None:
    rows = [motion(0, 1, counter=3), motion(1, 2, counter=4), motion(2, 3, counter=6), motion(3, 4, counter=7)]
    marked = feed(selector(scheme(ALL + 'validity = "mark"\n')), *rows).blocks[0].samples
    assert marked.quality.tolist() == [0, 0, BAD_COUNTER, 0]
    required = feed(selector(scheme(ALL + 'validity = "require"\n')), *rows)
    assert [raw for _, raw in picked(required, SPEED)] == [1, 2, 4]
    assert totals(required)[:4] == [1, 0, 0, 3]


def test_a_checksum_named_by_the_scheme_is_checked() -> None:
    """xor8 over the payload with the checksum's byte zeroed."""
    layout = message("M", 0, 0x10, signal("Value", 0, 8), signal("Sum", 8, 8), length=2)
    manifest = Manifest(FORMAT, "m", ("b",), (layout,))
    text = (
        'id = "s"\nversion = 1\n[[signals]]\nname = "Value"\nvalidity = "require"\n'
        '[[integrity]]\nmessage = "M"\nchecksum = "xor8"\nchecksum_signal = "Sum"\n'
    )
    s = Selector(manifest, [resolve(parse_scheme(text), Names(manifest))])
    rows = [(START, 0, 0x10, 0, b"\x05\x05"), (START + 1, 0, 0x10, 0, b"\x06\x05")]
    assert s.feed(FrameBatch.from_rows(rows), START).blocks[0].samples.raw.tolist() == [5]


def test_range_is_checked_on_demand() -> None:
    got = feed(selector(scheme(ALL + "check_range = true\n")), motion(0, 600), motion(1, 601))
    assert got.blocks[0].samples.quality.tolist() == [0, OUT_OF_RANGE]


def test_a_silent_message_is_told_once_and_again_when_it_is_back() -> None:
    s = selector(scheme(ALL + "timeout_ms = 100\n"))
    events = []
    for result in (
        feed(s, motion(0), doors(50)),
        s.tick(START + 101 * MS),
        s.tick(START + 300 * MS),
        feed(s, motion(400), motion(600), doors(601)),
    ):
        events += [((e.timestamp_ns - START) // MS, e.kind) for block in result.blocks for e in block.events]
    assert events == [
        (100, EventKind.TIMEOUT),
        (400, EventKind.RECOVERED),
        (500, EventKind.TIMEOUT),
        (600, EventKind.RECOVERED),
    ]


def test_the_deadline_of_a_timeout_is_told_on_the_callers_clock() -> None:
    s = selector(scheme(ALL + "timeout_ms = 100\n"))
    s.feed(batch(motion(0)), 77)  # a replayed log: bus time and the caller's clock differ
    assert s.next_deadline_ns() == 77 + 100 * MS + 1
    assert s.tick(77 + 100 * MS + 1).blocks[0].events[0].kind == EventKind.TIMEOUT


def test_degradation_stops_bulk_then_thins_normal_then_stops_it() -> None:
    schemes = [
        scheme(ALL + "min_period_ms = 100\n", head=f'id = "{p}"\nversion = 1\npriority = "{p}"\n')
        for p in ("critical", "normal", "bulk")
    ]
    counts = []
    for level in range(7):
        s = selector(*schemes)
        s.set_degradation(level)
        result = feed(s, *(motion(10 * i, i) for i in range(1000)))
        sent = {block.scheme: len(block.samples) for block in result.blocks}
        counts.append([sent.get(i, 0) for i in range(3)])
        assert sum(sent.values()) + result.over_budget_items == 300
        assert sum(totals(result)) == 1000
    assert counts == [
        [100, 100, 100],
        [100, 100, 0],
        [100, 50, 0],
        [100, 25, 0],
        [100, 13, 0],
        [100, 0, 0],
        [0, 0, 0],
    ]


def test_degraded_changes_are_late_not_lost() -> None:
    s = selector(scheme(ALL + "on_change = true\n"))
    s.set_degradation(2)
    got = picked(feed(s, motion(0, 1), motion(10, 2), *(motion(100 * i, 3) for i in range(1, 6))), SPEED)
    assert got == [(0, 1), (200, 3)]


def test_black_boxes_of_normal_schemes_stop_early() -> None:
    s = selector(scheme("[[raw_frames]]\n"))
    s.set_degradation(2)
    result = feed(s, unknown(0), motion(1))
    assert result.items == 0
    assert result.over_budget_items == 2
    assert totals(result) == [1, 1, 0, 0, 0]
    assert "near budget" in s.scheme_states(START)[0].detail


def test_levels_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="level 7"):
        selector().set_degradation(7)


def test_kernel_filters_follow_the_schemes() -> None:
    trigger = '[trigger]\ncondition = "Door > 0"\n'
    s = selector(scheme(ALL + trigger))
    before_the_first_call = s.kernel_filters()
    assert before_the_first_call == (frozenset({(0x100, False)}), frozenset({(0x200, False)}))
    s.tick(START)
    assert s.kernel_filters() == before_the_first_call
    s.replace([scheme("not_before = 2030-01-01T00:00:00Z\n" + ALL)], START)
    assert s.kernel_filters() == (frozenset({(0x100, False)}), frozenset())
    s.replace([scheme("not_after = 2020-01-01T00:00:00Z\n" + ALL)], START)
    assert s.kernel_filters() == (frozenset(), frozenset())
    s.replace([scheme('[[raw_frames]]\nbuses = ["drive"]\n')], START)
    assert s.kernel_filters() == (None, frozenset())
    s.replace([scheme('[[raw_frames]]\nids = ["0x10", "0x1ABCDEF0"]\n')], START)
    assert s.kernel_filters() == (frozenset({(0x10, False), (0x1ABCDEF0, True)}),) * 2


def test_j1939_messages_open_their_bus() -> None:
    layout = message("EEC1", 0, 0x18F00400 | WILDCARD_SA, signal("Rpm", 24, 16), extended=True, pgn=0xF004)
    manifest = Manifest(FORMAT, "truck", ("j",), (layout,))
    s = Selector(manifest, [resolve(parse_scheme('id="s"\nversion=1\n[[signals]]\nname="*"\n'), Names(manifest))])
    rows = [(START, 0, 0x0CF00417, EXTENDED, bytes(8))]
    assert s.feed(FrameBatch.from_rows(rows), START).items == 1
    assert s.kernel_filters() == (None,)


def test_dates_are_obeyed_and_told() -> None:
    body = "not_before = 2027-01-15T08:00:01Z\nnot_after = 2027-01-15T08:00:02Z\n" + ALL
    s = selector(scheme(body))
    assert START == 1_800_000_000 * 10**9  # 2027-01-15T08:00:00Z
    seen = []
    for second in range(4):
        at = second * 1000
        result = feed(s, motion(at, second))
        seen.append((len(picked(result, SPEED)), s.scheme_states(START + at * MS)[0].state))
    assert seen == [(0, "not_started"), (1, "active"), (0, "expired"), (0, "expired")]


def test_replacing_keeps_what_did_not_change() -> None:
    """An unchanged rule does not resend; an unchanged window stays open; held frames of a removed scheme are let go."""
    changes = scheme(ALL + "on_change = true\n", head='id = "changes"\nversion = 1\n')
    window = scheme(
        '[[signals]]\nname = "Door"\n[trigger]\ncondition = "Speed > 1"\npost_trigger_ms = 1000\n',
        head='id = "window"\nversion = 1\n',
    )
    holder = scheme(
        '[[signals]]\nname = "Door"\n[trigger]\ncondition = "Speed > 999"\npre_trigger_ms = 9000\n',
        head='id = "holder"\nversion = 1\n',
    )
    s = selector(changes, window, holder)
    first = feed(s, doors(0), motion(1, 100), doors(2))
    assert totals(first)[HELD] == 1
    newer = scheme(ALL + "on_change = true\n", head='id = "changes"\nversion = 2\n')
    replaced = s.replace([window, newer], START + 3 * MS)
    after = feed(s, motion(4, 100), doors(5, 1))
    assert picked(after, SPEED) == []
    assert picked(after, DOOR) == [(5, 1)]
    assert totals(first, replaced, after)[HELD] == 0
    assert sum(totals(first, replaced, after)) == 5
    assert [state.triggers for state in s.scheme_states(START)] == [1, 0]


def test_held_frames_are_bounded_and_the_loss_is_told() -> None:
    limits = Limits(max_held_frames=10)
    body = ALL + '[trigger]\ncondition = "Door > 0"\npre_trigger_ms = 60000\n'
    s = selector(scheme(body, limits), limits=limits)
    results = [feed(s, motion(10 * i), motion(10 * i + 1)) for i in range(20)]
    assert totals(*results) == [30, 0, 0, 0, 10]
    assert "30 frames" in s.scheme_states(START)[0].detail


def test_events_are_bounded_and_the_rest_is_counted() -> None:
    limits = Limits(max_events_per_call=5)
    body = '[trigger]\ncondition = "changed(Speed)"\nedge = "rising"\nmin_interval_ms = 0\n'
    s = selector(scheme(body), limits=limits)
    result = feed(s, *(motion(i, i // 2) for i in range(40)))
    events = [e for block in result.blocks for e in block.events]
    assert len(events) == 6
    assert events[-1].detail == "14 events left out from here on"


def test_raw_frames_of_a_window_and_samples_share_their_frames() -> None:
    body = '[[signals]]\nname = "Speed"\n[[raw_frames]]\n[trigger]\ncondition = "Door > 0"\npre_trigger_ms = 50\n'
    s = selector(scheme(body))
    results = [feed(s, motion(0), unknown(10)), feed(s, motion(20), doors(30, 1)), s.flush(START + MS)]
    frames = [f for r in results for b in r.blocks for f in b.frames.can_id.tolist()]
    assert frames == [0x100, 0x7FF, 0x100, 0x200]
    assert totals(*results) == [0, 0, 0, 4, 0]


def test_an_empty_selector_counts_everything() -> None:
    result = feed(selector(), motion(0), unknown(1), doors(2))
    assert totals(result) == [2, 1, 0, 0, 0]
    assert MANIFEST.buses == ("drive", "body")


def test_a_condition_on_silence_fires_on_a_tick_and_opens_its_window() -> None:
    body = '[[signals]]\nname = "Speed"\n[trigger]\ncondition = "age_ms(Speed) > 250"\npre_trigger_ms = 400\n'
    s = selector(scheme(body))
    results = [feed(s, motion(0, 1), motion(100, 2))]
    while (deadline := s.next_deadline_ns()) is not None and deadline < START + 450 * MS:
        results.append(s.tick(deadline))
    assert [(e.timestamp_ns - START) // MS for r in results for b in r.blocks for e in b.events] == [400]
    assert [p for r in results for p in picked(r, SPEED)] == [(0, 1), (100, 2)]
    assert totals(*results) == [0, 0, 0, 2, 0]


def test_an_undecodable_input_is_refused() -> None:
    layout = message("M", 0, 0x10, signal("Wide", 0, 80), length=10)
    manifest = Manifest(FORMAT, "m", ("b",), (layout,))
    text = 'id = "s"\nversion = 1\n[trigger]\ncondition = "Wide > 0"\n'
    with pytest.raises(ConfigError, match="cannot be decoded: 80 bits long"):
        resolve(parse_scheme(text), Names(manifest))


def test_frames_of_the_same_instant_are_in_a_window_of_no_length() -> None:
    """However frames are cut into batches: what is stamped like the trigger belongs to it, also when it came before."""
    body = '[[signals]]\nname = "Speed"\n[trigger]\ncondition = "Door > 0"\n'
    rows = [motion(0, 1), motion(5, 2), doors(5, 1), motion(5, 3), motion(6, 4)]
    for cuts in ([5], [1, 1, 1, 1, 1], [2, 3]):
        s = selector(scheme(body))
        results, at = [], 0
        for size in cuts:
            results.append(feed(s, *rows[at : at + size]))
            at += size
        results.append(s.flush(START + 7 * MS))
        assert [p for r in results for p in picked(r, SPEED)] == [(5, 2), (5, 3)]
        assert totals(*results) == [3, 0, 0, 2, 0]
