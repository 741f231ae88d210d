"""A ``SequenceSet`` is the set of integers it stands for, in any order of additions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud.ingest.sequences import SequenceSet, subtract

ranges = st.tuples(st.integers(1, 60), st.integers(0, 12)).map(lambda r: (r[0], r[0] + r[1]))


def whole(added: list[tuple[int, int]]) -> tuple[SequenceSet, set[int]]:
    held, model = SequenceSet(), set[int]()
    for first, last in added:
        held = held.add(first, last)
        model |= set(range(first, last + 1))
    return held, model


@given(st.lists(ranges, max_size=30))
def test_set_covers_exactly_what_was_added(added: list[tuple[int, int]]) -> None:
    held, model = whole(added)
    assert {s for s in range(1, 90) if held.covers(s)} == model
    assert held.highest == max(model, default=0)


@given(st.lists(ranges, max_size=30), st.integers(0, 90))
def test_gaps_are_the_complement_up_to_the_bound(added: list[tuple[int, int]], up_to: int) -> None:
    held, model = whole(added)
    end = max(up_to, max(model, default=0))
    gaps = held.gaps(up_to)
    assert {s for first, last in gaps for s in range(first, last + 1)} == set(range(1, end + 1)) - model
    assert gaps == sorted(gaps)
    assert all(first <= last for first, last in gaps)


@given(st.lists(ranges, max_size=30))
def test_ranges_ahead_are_sorted_and_apart(added: list[tuple[int, int]]) -> None:
    held, _ = whole(added)
    edges = [held.contiguous, *(edge for r in held.ahead for edge in r)]
    assert all(b > a + 1 for a, b in zip(edges[::2], edges[1::2], strict=False))
    assert SequenceSet.from_bytes(held.contiguous, held.to_bytes()) == held


@given(st.lists(ranges, max_size=30), st.integers(0, 5))
def test_gaps_are_limited_from_the_lowest(added: list[tuple[int, int]], limit: int) -> None:
    held, _ = whole(added)
    assert held.gaps(95, limit) == held.gaps(95)[:limit]


@given(ranges, st.lists(ranges, max_size=10))
def test_subtract_leaves_what_no_hole_covers(span: tuple[int, int], holes: list[tuple[int, int]]) -> None:
    left = subtract(span, holes)
    gone = {s for first, last in holes for s in range(first, last + 1)}
    assert {s for first, last in left for s in range(first, last + 1)} == set(range(span[0], span[1] + 1)) - gone
