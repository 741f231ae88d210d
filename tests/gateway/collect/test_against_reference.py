"""The selector agrees with the plain reference however frames are cut into batches, and no frame is unaccounted."""

from __future__ import annotations

from collections import Counter
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dbc.frames import ERROR, EXTENDED, REMOTE, FrameBatch
from gateway.collect import OUTCOMES, Collected, Scheme, Selector, pick
from tests.gateway.collect.reference import Reference, Sample, outcome_of
from tests.gateway.collect.vehicle import DOOR, MANIFEST, MS, SPEED, START, scheme, selector
from tests.support import LONG

TIMES = 10 if LONG else 1
Row = tuple[int, int, int, int, bytes]
CONDITIONS = {
    "Door == 'open'": lambda v: v.get(DOOR) == 1,
    "Speed > 3 and not (Door == 'open')": lambda v: SPEED in v and v[SPEED] > 3 and DOOR in v and v[DOOR] != 1,
    "Speed > 5 or Door == 'open'": lambda v: v.get(SPEED, 0) > 5 or v.get(DOOR) == 1,
}

payloads = {
    (0, 0x100): st.tuples(st.integers(0, 20), st.integers(0, 2), st.integers(0, 15)).map(
        lambda p: (p[0] | p[1] << 16 | p[2] << 20).to_bytes(8, "little")
    ),
    (1, 0x200): st.sampled_from([b"\x00", b"\x01"]),
    (1, 0x201): st.tuples(st.integers(0, 3), st.sampled_from([b"\0\0\0\0", b"\0\0\xc0\x7f", b"\0\0\x80\x3f"])).map(
        lambda p: bytes([p[0], 0, 0, 0]) + p[1]
    ),
    (0, 0x7FF): st.binary(max_size=8),
    (1, 0x100): st.just(b""),
}


@st.composite
def drives(draw: st.DrawFn, odd: bool = False) -> list[Row]:
    """Frames with growing times (with ``odd``, also steps back, other flags and buses)."""
    rows = []
    at = START
    for key in draw(st.lists(st.sampled_from(list(payloads)), min_size=1, max_size=100)):
        at += draw(st.sampled_from([0, 1, 3, 10, 11, 49, 50, 120])) * MS + draw(st.integers(0, 3))
        if odd and draw(st.integers(0, 9)) == 0:
            at += draw(st.sampled_from([-7_200_000, -1500, -900, 4_000_000])) * MS
        flags = draw(st.sampled_from([0] * 9 + [ERROR, REMOTE, EXTENDED])) if odd else 0
        bus = 7 if odd and draw(st.integers(0, 20)) == 0 else key[0]
        rows.append((at, bus, key[1], flags, draw(payloads[key])))
    return rows


@st.composite
def rule_tables(draw: st.DrawFn) -> str:
    """``[[signals]]`` entries with any combination of options."""
    entries = []
    for name in draw(st.lists(st.sampled_from(["*", "*.Speed", "drive.Motion", "body.*"]), min_size=1, max_size=3)):
        lines = [f'[[signals]]\nname = "{name}"']
        if period := draw(st.sampled_from([0, 0, 1, 10, 50, 100, 333])):
            lines.append(f"min_period_ms = {period}")
        on_change = draw(st.booleans())
        if band := draw(st.sampled_from([0, 0, 1.0, 2.5])):
            on_change = True
            if name == "*.Speed":
                lines.append(f"dead_band = {band}")
        lines.append(f"on_change = {str(on_change).lower()}")
        if draw(st.booleans()):
            lines.append("force_on_change = true")
        if beat := draw(st.sampled_from([0, 0, 60, 500])):
            lines.append(f"heartbeat_ms = {beat}")
        entries.append("\n".join(lines))
    return "\n".join(entries) + "\n"


@st.composite
def triggers(draw: st.DrawFn) -> tuple[str, str]:
    """A ``[trigger]`` table and its condition."""
    condition = draw(st.sampled_from(sorted(CONDITIONS)))
    return (
        f'[trigger]\ncondition = "{condition}"\nedge = "{draw(st.sampled_from(["rising", "level"]))}"\n'
        f"min_interval_ms = {draw(st.sampled_from([0, 20, 300]))}\n"
        f"pre_trigger_ms = {draw(st.sampled_from([0, 5, 60, 1000]))}\n"
        f"post_trigger_ms = {draw(st.sampled_from([0, 5, 100]))}\n",
        condition,
    )


def cut(rows: list[Row], sizes: list[int]) -> list[list[Row]]:
    """Rows in batches of the given sizes, over and over."""
    batches, at, turn = [], 0, 0
    while at < len(rows):
        size = sizes[turn % len(sizes)]
        batches.append(rows[at : at + size])
        at, turn = at + size, turn + 1
    return batches


def run(under_test: Selector, batches: list[list[Row]]) -> list[Collected]:
    """Feed all and flush, checking the identity after each call."""
    results: list[Collected] = []
    fed: Counter[int] = Counter()
    total: Counter[tuple[int, str]] = Counter()
    for rows in [*batches, None]:
        if rows is None:
            results.append(under_test.flush(batches[-1][-1][0]))
        else:
            results.append(under_test.feed(FrameBatch.from_rows(rows), rows[-1][0]))
            fed.update(row[1] for row in rows)
        for bus, counts in enumerate(results[-1].counts):
            for name, number in zip(OUTCOMES, counts.tolist(), strict=True):
                total[bus, name] += number
        assert all(n >= 0 for n in total.values())
        for bus, number in fed.items():
            assert sum(total[bus, name] for name in OUTCOMES) == number
    assert all(total[bus, "held"] == 0 for bus in fed)
    return results


def sent(results: list[Collected], number: int = 0) -> Counter[tuple[int, int, int]]:
    """(time, signal, raw) of everything a scheme sent."""
    found: Counter[tuple[int, int, int]] = Counter()
    for result in results:
        for block in result.blocks:
            s = block.samples
            if block.scheme == number:
                assert np.array_equal(s.row_message[s.row], np.array(MANIFEST.signal_message)[s.signal])
                times = s.row_timestamp_ns[s.row].tolist()
                found.update(zip(times, s.signal.tolist(), s.raw.tolist(), strict=True))
    return found


def expected(rows: list[Row], samples: list[Sample]) -> Counter[tuple[int, int, int]]:
    """The same of the reference."""
    return Counter((rows[i][0], signal, raw) for i, signal, raw in samples)


sizes = st.lists(st.sampled_from([1, 7, 100]), min_size=1, max_size=4)


@settings(max_examples=250 * TIMES, deadline=None)
@given(drives(), rule_tables(), sizes, st.sampled_from([0, 48]))
def test_rules_agree_with_the_reference(rows: list[Row], table: str, batch_sizes: list[int], few: int) -> None:
    """``few`` 0 makes small batches take the way of large ones."""
    resolved = scheme(table)
    reference = Reference(resolved)
    reference.run(FrameBatch.from_rows(rows))
    with patch.object(pick, "_FEW", few):
        results = run(selector(resolved), cut(rows, batch_sizes))
    assert sent(results) == expected(rows, reference.samples)
    check_outcomes(rows, {i for i, _, _ in reference.samples}, results)


@settings(max_examples=200 * TIMES, deadline=None)
@given(drives(), rule_tables(), triggers(), sizes)
def test_windows_agree_with_the_reference(
    rows: list[Row], table: str, trigger: tuple[str, str], batch_sizes: list[int]
) -> None:
    resolved = scheme(table + trigger[0])
    reference = Reference(resolved, CONDITIONS[trigger[1]])
    reference.run(FrameBatch.from_rows(rows))
    under_test = selector(resolved)
    results = run(under_test, cut(rows, batch_sizes))
    assert under_test.scheme_states(START)[0].triggers == len(reference.fired)
    assert sent(results) == expected(rows, reference.samples)
    check_outcomes(rows, {i for i, _, _ in reference.samples}, results)


@settings(max_examples=100 * TIMES, deadline=None)
@given(drives(odd=True), st.lists(rule_tables(), min_size=1, max_size=3), triggers(), sizes, st.data())
def test_any_frames_any_schemes_any_calls_keep_the_identity(
    rows: list[Row], tables: list[str], trigger: tuple[str, str], batch_sizes: list[int], data: st.DataObject
) -> None:
    """Jumping clocks, unknown buses, ticks, levels and replaced schemes: counts still add up (checked in ``run``)."""
    schemes = [
        scheme(table + (trigger[0] if i == 1 else ""), head=f'id = "s{i}"\nversion = 1\npriority = "{priority}"\n')
        for i, (table, priority) in enumerate(zip(tables, ("normal", "critical", "bulk"), strict=False))
    ]
    schemes.append(scheme("[[raw_frames]]\n" + trigger[0], head='id = "box"\nversion = 1\npriority = "bulk"\n'))

    class Restless(Selector):
        def feed(self, frames: FrameBatch, now_ns: int) -> Collected:
            parts = [super().feed(frames, now_ns)]
            match data.draw(st.integers(0, 5)):
                case 1:
                    parts.append(self.tick(now_ns + data.draw(st.sampled_from([0, 10, 5000, 10**7, -(10**7)])) * MS))
                case 2:
                    self.set_degradation(data.draw(st.integers(0, 6)))
                case 3:
                    chosen = data.draw(st.lists(st.sampled_from(schemes), unique_by=lambda s: s.id))
                    parts.append(self.replace(chosen, now_ns))
            size = max(len(p.counts) for p in parts)
            counts = sum((np.pad(p.counts, ((0, size - len(p.counts)), (0, 0))) for p in parts), np.zeros((size, 5)))
            return Collected(blocks=parts[0].blocks, counts=counts.astype(np.int64))

    run(Restless(MANIFEST, schemes), cut(rows, batch_sizes))


def check_outcomes(rows: list[Row], selected: set[int], results: list[Collected]) -> None:
    """Frames that gave a sample are selected, all others what they are."""
    frames = FrameBatch.from_rows(rows)
    outcomes = Counter("selected" if i in selected else outcome_of(frames, i) for i in range(len(rows)))
    for column, name in enumerate(OUTCOMES):
        assert sum(int(r.counts[:, column].sum()) for r in results) == outcomes[name], name


def resolved_twice() -> tuple[Scheme, Scheme]:
    """Two schemes of one stream that overlap."""
    head = 'id = "{}"\nversion = 1\n'
    return (
        scheme('[[signals]]\nname = "*.Speed"\n', head=head.format("one")),
        scheme('[[signals]]\nname = "*"\non_change = true\n', head=head.format("two")),
    )


@settings(max_examples=50 * TIMES, deadline=None)
@given(drives(), sizes)
def test_a_stream_never_gets_a_sample_twice(rows: list[Row], batch_sizes: list[int]) -> None:
    rows = [(START + i * MS, *row[1:]) for i, row in enumerate(rows)]  # one time per frame, to tell them apart
    results = run(selector(*resolved_twice()), cut(rows, batch_sizes))
    assert all(n == 1 for n in (sent(results, 0) + sent(results, 1)).values())
