"""When a campaign will be over: from the fleet's habits, then from what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.campaigns.forecast import BOUNDS_NS, HOUR_NS, MINUTE_NS, Forecaster, Times, lay_out, window_wait_ns
from cloud.campaigns.plan import PhasePlan
from gateway.wire.uptane import InstallPolicy
from tests.cloud.campaigns.support import DAY_S, HOUR_S, QUICK, fleet_in, hourly, numbered, plan_for

DAY_NS = 24 * HOUR_NS


@given(st.lists(st.integers(0, 130 * DAY_NS), min_size=1, max_size=50), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_a_quantile_lies_in_the_bucket_in_which_that_share_is_reached(
    ages: list[int], one: float, other: float
) -> None:
    times = Times(tuple(sum(age <= bound for age in ages) for bound in BOUNDS_NS), len(ages))
    low, high = sorted((one, other))
    first, second = times.quantile_ns(low), times.quantile_ns(high)
    enough = [number for number, count in enumerate(times.within) if count >= high * len(ages)]
    if not enough:
        assert second is None
        return
    assert first is not None
    assert second is not None
    assert (0, *BOUNDS_NS)[enough[0]] <= second <= BOUNDS_NS[enough[0]]
    assert first <= second


def test_nobody_known_is_nothing_known() -> None:
    assert Times((0,) * len(BOUNDS_NS), 0).quantile_ns(0.5) is None
    assert lay_out(plan_for(1), [1, 1, 1], Times((0,) * len(BOUNDS_NS), 0), starts_ns=0, now_ns=0, first=1,
                   is_measured=False) == []  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "wait_ns"),
    [
        (InstallPolicy(), 0),
        (InstallPolicy(window_start_min=120, window_end_min=300), 21 * HOUR_NS),
        (InstallPolicy(window_start_min=1320, window_end_min=120), 20 * HOUR_NS),  # over midnight
        (InstallPolicy(window_days=(5, 6)), 5 * DAY_NS),
    ],
)
def test_the_longest_wait_for_a_window(policy: InstallPolicy, wait_ns: int) -> None:
    assert window_wait_ns(policy) == wait_ns


def test_phases_follow_each_other_and_none_is_shorter_than_it_must_be() -> None:
    times = Times(tuple(10 if bound >= MINUTE_NS else 0 for bound in BOUNDS_NS), 10)
    laid = lay_out(plan_for(1, *hourly(0.1, 1.0)), [1, 9], times, starts_ns=5, now_ns=5, first=1, is_measured=False)
    assert [phase.ends_ns - phase.starts_ns for phase in laid] == [HOUR_NS, HOUR_NS]
    assert laid[1].starts_ns == laid[0].ends_ns


@pytest.mark.anyio
async def test_before_it_starts_from_check_ins_and_then_from_what_was_measured(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        forecaster = Forecaster(fleet.db, fleet.clock, QUICK)
        await fleet.release(2)
        await fleet.vehicles(numbered(60))
        await fleet.vehicles(numbered(10, "dead"))
        plan = plan_for(2, *hourly(0.5, 1.0, reported_share=0.8), offline_days=2.0)
        fleet.clock.advance_s(3 * DAY_S)
        await fleet.sql("UPDATE check_ins SET received_ns = :now - 6 * 3600000000000 WHERE vehicle_id LIKE 'car%'",
                        now=fleet.now_ns)  # fmt: skip
        told = await forecaster.of_plan(plan)
        assert (told.basis, told.vehicles, told.reachable) == ("check-ins", 70, 60)
        assert told.ends_ns is not None
        assert 2 * 4 * HOUR_NS <= told.ends_ns - fleet.now_ns <= 2 * 9 * HOUR_NS
        campaign = await fleet.started(plan)
        assert (await forecaster.of_campaign(campaign)).basis == "check-ins"
        await fleet.ticks()
        fleet.clock.advance_s(600)
        await fleet.report(campaign, "succeeded", count=25)
        measured = await forecaster.of_campaign(campaign)
        assert (measured.basis, len(measured.phases)) == ("measured", 2)
        assert measured.ends_ns is not None
        assert measured.ends_ns - fleet.now_ns <= 2 * HOUR_NS
        assert measured.bytes_total == 35 * 2_000_000
        await fleet.report(campaign, "succeeded")
        await fleet.later(HOUR_S)
        await fleet.report(campaign, "succeeded")
        await fleet.later(HOUR_S)
        over = await forecaster.of_campaign(campaign)
        assert (over.ends_ns, over.phases, over.bytes_total) == (None, [], 0)
        assert PhasePlan(share=1.0).min_duration_s == DAY_S
