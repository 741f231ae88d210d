"""Roll-ups equal a computation by hand over all samples, whatever the parts and the order in which they merge."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.lake.columns import Columns
from cloud.lake.definitions import Definition
from cloud.lake.rollup import MINUTE_NS, Rollup, merge_rollups, physical_values, roll_up
from gateway.wire.manifest import Kind

DEFINITIONS = {
    1: Definition("a", Kind.SIGNED, 16, 0.5, -10.0),
    2: Definition("b", Kind.UNSIGNED, 64),
    3: Definition("c", Kind.FLOAT64, 64),
}
SERIES = {1: 1, 2: 2, 3: 2}

rows = st.lists(
    st.tuples(
        st.integers(-3, 3).map(lambda minute: minute * MINUTE_NS),
        st.integers(0, MINUTE_NS - 1),
        st.sampled_from([1, 2, 3]),
        st.one_of(st.integers(-100, 100), st.integers(-(2**63), 2**63 - 1)),
        st.sampled_from([0, 0, 0, 4]),
    ),
    max_size=30,
)


def columns_of(samples: list[tuple[int, int, int, int, int]]) -> Columns:
    return Columns(
        np.array([m + o for m, o, *_ in samples], np.int64),
        np.array([SERIES[d] for *_, d, _, _ in samples], np.int32),
        np.array([d for *_, d, _, _ in samples], np.int32),
        np.array([r for *_, r, _ in samples], np.int64),
        np.array([q for *_, q in samples], np.uint8),
    )


def by_hand(samples: list[tuple[int, int, int, int, int]]) -> dict[tuple[int, int], tuple[object, ...]]:
    groups: dict[tuple[int, int], list[tuple[int, float, int]]] = defaultdict(list)
    for minute, offset, definition, raw, quality in samples:
        groups[definition, minute].append((minute + offset, DEFINITIONS[definition].value(raw), quality))
    result: dict[tuple[int, int], tuple[object, ...]] = {}
    for key, members in groups.items():
        good = [(t, v) for t, v, quality in members if quality == 0 and math.isfinite(v)]
        values = [v for _, v in good]
        result[key] = (
            len(good),
            len(members) - len(good),
            min(values) if good else None,
            max(values) if good else None,
            math.fsum(values),
            max(good)[1] if good else None,
        )
    return result


def as_table(rollup: Rollup) -> dict[tuple[int, int], tuple[object, ...]]:
    def number(value: float, count: int) -> float | None:
        return float(value) if count else None

    return {
        (int(rollup.definition[i]), int(rollup.bucket_ns[i])): (
            int(rollup.count[i]),
            int(rollup.bad[i]),
            number(rollup.minimum[i], int(rollup.count[i])),
            number(rollup.maximum[i], int(rollup.count[i])),
            float(rollup.sum[i]),
            number(rollup.last[i], int(rollup.count[i])),
        )
        for i in range(len(rollup))
    }


@settings(deadline=None)
@given(samples=rows, data=st.data())
def test_merged_parts_equal_the_computation_by_hand(
    samples: list[tuple[int, int, int, int, int]], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(samples)), max_size=3)))
    pieces = [samples[a:b] for a, b in zip([0, *cuts], [*cuts, len(samples)], strict=True)]
    parts = []
    for piece in data.draw(st.permutations(pieces)):
        columns = columns_of(piece)
        parts.append(roll_up(columns, physical_values(columns, DEFINITIONS), MINUTE_NS))
    merged = merge_rollups([merge_rollups(parts[:1]), *parts[1:]])
    got, want = as_table(merged), by_hand(samples)
    assert got.keys() == want.keys()
    for key, row in want.items():
        *others, total, last = row
        *got_others, got_total, got_last = got[key]
        assert (got_others, got_last) == (others, last)
        assert got_total == pytest.approx(total, rel=1e-9, abs=1e-6 * (1 + abs(float(str(total))) * 1e-6))


def test_bad_samples_are_counted_and_do_not_reach_the_statistics() -> None:
    columns = columns_of([(0, 0, 1, 10, 0), (0, 1, 1, 9999, 1)])
    rollup = roll_up(columns, physical_values(columns, DEFINITIONS), MINUTE_NS)
    assert as_table(rollup) == {(1, 0): (1, 1, -5.0, -5.0, -5.0, -5.0)}


@pytest.mark.parametrize(
    ("definition", "raw", "value"),
    [
        (Definition("x", Kind.UNSIGNED, 64), -1, float(2**64 - 1)),
        (Definition("x", Kind.SIGNED, 8, 2.0, 1.0), -3, -5.0),
        (Definition("x", Kind.FLOAT32, 32), 0x3FC00000, 1.5),
        (Definition("x", Kind.FLOAT64, 64), 0x3FF8000000000000, 1.5),
        (Definition("x", Kind.FLOAT32, 32), -1, math.nan),
    ],
)
def test_raw_integers_become_physical_values_by_kind(definition: Definition, raw: int, value: float) -> None:
    assert definition.value(raw) == pytest.approx(value, nan_ok=True)


def test_labels_of_64_bit_values_are_found() -> None:
    assert Definition("x", Kind.UNSIGNED, 64, labels={2**64 - 1: "none"}).label(-1) == "none"
