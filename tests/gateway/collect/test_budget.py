"""The day's bytes: paced, kept for critical data, never made by a clock."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.collect.budget import DAY_NS, BudgetConfig, BudgetKeeper, BudgetState
from gateway.collect.levels import MAX_LEVEL, stopped
from gateway.wire.batch import Priority
from gateway.wire.samples import EventKind

DAY = 20_000 * DAY_NS
HOUR = DAY_NS // 24


def keeper(**changes: float) -> BudgetKeeper:
    """A budget of 1 MB a day."""
    return BudgetKeeper(BudgetConfig(**({"bytes_per_day": 1_000_000} | changes)))  # type: ignore[arg-type]  # floats


def test_no_budget_never_degrades() -> None:
    assert BudgetKeeper(BudgetConfig()).spent(Priority.BULK, 10**12, DAY) == 0


def test_degrades_by_priority_before_stopping() -> None:
    k = keeper(pacing=0)
    levels = [k.spent(Priority.NORMAL, 9000, DAY) for _ in range(100)]
    assert levels == sorted(levels)
    assert set(levels) == {0, 1, 2, 3, 4, 5}
    assert not stopped(Priority.CRITICAL, 5)


def test_critical_keeps_a_reserve_and_then_everything_stops() -> None:
    k = keeper(pacing=0)
    assert k.spent(Priority.NORMAL, 900_000, DAY) == 5
    assert k.spent(Priority.CRITICAL, 99_999, DAY) == 5
    assert k.spent(Priority.CRITICAL, 1, DAY) == MAX_LEVEL


def test_a_morning_does_not_spend_the_day() -> None:
    k = keeper(pacing=1, head_start=0.1)
    assert k.spent(Priority.NORMAL, 200_000, DAY + HOUR) == 5
    assert k.level(DAY + 12 * HOUR) == 0


def test_levels_do_not_flutter() -> None:
    k = keeper(pacing=1, head_start=0)
    now = DAY + 6 * HOUR
    k.spent(Priority.NORMAL, int(k.released_bytes(now) * 0.81), now)
    assert k.level(now) == 1
    later = now + 4 * 60 * 1_000_000_000  # 1.1 % more is released: 0.801, below after another hour
    assert k.level(later) == 1
    assert k.level(now + 2 * HOUR) == 0
    assert [e.kind for e in k.drain_events()] == [EventKind.BUDGET] * 2
    assert k.drain_events() == ()


def test_a_new_day_starts_a_new_count() -> None:
    k = keeper()
    assert k.spent(Priority.NORMAL, 10**6, DAY) == MAX_LEVEL
    assert k.level(DAY + DAY_NS) == 0
    assert k.total_bytes == 0


def test_a_clock_that_starts_in_1970_makes_no_bytes() -> None:
    k = keeper()
    k.spent(Priority.NORMAL, 10**6, DAY)
    for _ in range(3):  # each boot begins in 1970 and then hears the time
        assert k.level(5) == MAX_LEVEL
        assert k.level(DAY + HOUR) == MAX_LEVEL
    assert k.level(DAY + DAY_NS) == 0


def test_state_survives_a_restart() -> None:
    k = keeper()
    k.spent(Priority.NORMAL, 500_000, DAY + 23 * HOUR)
    k.refused(7)
    again = BudgetKeeper(k.config, BudgetState(**{f: getattr(k.state, f) for f in k.state.__struct_fields__}))
    assert again.total_bytes == 500_000
    assert again.state.refused_items == 7


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        keeper().spent(Priority.NORMAL, -1, DAY)


@settings(max_examples=150, deadline=None)
@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.lists(st.tuples(st.sampled_from(list(Priority)), st.integers(0, 60_000), st.integers(0, 2 * HOUR)), max_size=60),
)
def test_an_obedient_vehicle_stays_within_its_budget(
    pacing: float, head_start: float, reserve: float, steps: list[tuple[Priority, int, int]]
) -> None:
    """A vehicle that sends nothing of stopped priorities exceeds the day by at most one batch."""
    k = keeper(pacing=pacing, head_start=head_start, critical_reserve=reserve)
    now = DAY
    for priority, size, step in steps:
        now += step
        if not stopped(priority, k.level(now)):
            level = k.spent(priority, size, now)
            assert 0 <= level <= MAX_LEVEL
        assert k.total_bytes <= 1_000_000 + 60_000
        assert k.state.spent_bytes <= 1_000_000 * (1 - reserve) + 60_000
