"""The rules of gates, phases and actions, without any database."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.campaigns.core import (
    LEGAL,
    Action,
    DtcFacts,
    Facts,
    PhaseCounts,
    Verdict,
    dtc_gate,
    failure_gate,
    is_legal,
    judge,
    legal_actions,
)
from cloud.campaigns.model import ENDS, CampaignState
from cloud.campaigns.plan import DtcGate, PhasePlan, Plan, VehicleFilter, check_plan, last_positions, phases_of
from cloud.errors import InvalidInput
from gateway.wire.uptane import InstallPolicy
from tests.cloud.campaigns.support import SECOND_NS

PHASE = PhasePlan(share=1.0, min_duration_s=100, min_reported=4, reported_share=0.5, success_rate=0.9)
COUNTS = st.integers(0, 60)


def facts(counts: PhaseCounts, **more: Any) -> Facts:
    values: dict[str, Any] = {"now_ns": 200 * SECOND_NS, "started_ns": 0, "is_retry": False, "is_assigned": True}
    return Facts(**{**values, "counts": counts, **more})


def verdict(counts: PhaseCounts, phase: PhasePlan = PHASE, **more: Any) -> Verdict:
    return judge(phase, None, facts(counts, **more)).verdict


@given(st.builds(PhaseCounts, members=st.just(500), succeeded=COUNTS, failed=COUNTS, rolled_back=COUNTS))
def test_the_failure_gate_trips_exactly_at_its_threshold(counts: PhaseCounts) -> None:
    phase = msgspec.structs.replace(PHASE, failure_rate=0.25, failure_min=5)
    bad = counts.failed + counts.rolled_back
    is_tripped = bad >= 5 and bad >= 0.25 * (bad + counts.succeeded)
    assert bool(failure_gate(phase, counts, 0, 0)) == is_tripped
    counted = msgspec.structs.replace(phase, failure_count=7)
    assert bool(failure_gate(counted, counts, 0, 0)) == (is_tripped or bad >= 7)
    assert failure_gate(counted, counts, counts.reported, bad) == ""  # an operator has accepted all of it


@given(st.builds(PhaseCounts, members=st.just(60), succeeded=COUNTS, failed=st.integers(0, 2), assigned=COUNTS))
def test_a_phase_never_passes_below_its_thresholds(counts: PhaseCounts) -> None:
    passed = verdict(counts) is Verdict.PASSED
    enough = counts.reported >= max(4, 0.5 * counts.counted) and counts.succeeded >= 0.9 * counts.reported
    assert passed == enough


@pytest.mark.parametrize("what", [{"now_ns": 99 * SECOND_NS}, {"is_assigned": False}])
def test_a_phase_never_passes_too_early(what: dict[str, Any]) -> None:
    good = PhaseCounts(members=10, succeeded=10)
    assert verdict(good) is Verdict.PASSED
    assert verdict(good, **what) is Verdict.WAIT


def test_vehicles_that_cannot_report_are_in_no_threshold() -> None:
    counts = PhaseCounts(members=20, succeeded=4, assigned=6, uncounted=2, busy=3, gone=2, superseded=3, cancelled=2)
    assert (counts.counted, counts.pending) == (8, 0)
    assert verdict(counts) is Verdict.PASSED
    assert verdict(PhaseCounts(members=20, succeeded=4, assigned=16)) is Verdict.WAIT


def test_a_phase_in_which_nobody_can_report_proves_nothing_by_itself() -> None:
    silent = PhaseCounts(members=5, assigned=5, uncounted=5)
    assert verdict(silent) is Verdict.WAIT
    assert verdict(silent, reported_in_all=4) is Verdict.PASSED  # the last of a campaign that went well


def test_when_all_have_reported_and_too_few_are_well_it_says_so_once() -> None:
    counts = PhaseCounts(members=10, succeeded=8, failed=2)
    assert verdict(counts) is Verdict.THRESHOLD
    assert verdict(counts, accepted_reported=10, accepted_failed=2) is Verdict.WAIT


def test_gates_go_before_success() -> None:
    lax = msgspec.structs.replace(PHASE, success_rate=0.5, failure_count=1)
    assert verdict(PhaseCounts(members=10, succeeded=9, failed=1), lax) is Verdict.FAILURES


def test_a_retry_passes_when_everybody_has_reported_whatever_came_of_it() -> None:
    assert verdict(PhaseCounts(members=3, failed=3), is_retry=True) is Verdict.PASSED
    assert verdict(PhaseCounts(members=3, failed=2, running=1), is_retry=True) is Verdict.WAIT


def test_the_code_gate_compares_with_the_others_by_vehicle_and_day() -> None:
    gate = DtcGate(min_vehicles=3, rate=0.02, factor=3.0)
    updated = {"updated_vehicles": 100, "updated_days": 100.0}
    others = {"others": 10, "other_vehicles": 1000, "other_days": 1000.0}
    assert dtc_gate(gate, DtcFacts(updated=2, **updated, **others), 0) == ""  # type: ignore[arg-type]  # by name
    assert "3 of 100" in dtc_gate(gate, DtcFacts(updated=3, **updated, **others), 0)  # type: ignore[arg-type]  # by name
    assert dtc_gate(gate, DtcFacts(updated=3, **updated, **others), 1) == ""  # type: ignore[arg-type]  # accepted
    usual = {"others": 11, "other_vehicles": 1000, "other_days": 1000.0}
    assert dtc_gate(gate, DtcFacts(updated=3, **updated, **usual), 0) == ""  # type: ignore[arg-type]  # as usual
    assert dtc_gate(None, DtcFacts(updated=100, **updated), 0) == ""  # type: ignore[arg-type]  # switched off


def test_ends_are_ends_but_for_going_back_and_withdrawing() -> None:
    for state in ENDS:
        assert set(legal_actions(state)) <= {Action.WITHDRAW, Action.ROLL_BACK}
    assert legal_actions(CampaignState.ROLLING_BACK) == []
    assert set(LEGAL) == set(Action)
    assert not is_legal(CampaignState.DRAFT, Action.START)


@given(
    st.lists(st.floats(0.001, 0.99), min_size=0, max_size=6, unique=True).map(sorted),
    st.integers(1, 2_000_000),
)
def test_phases_cover_everybody_once_and_shares_round_up(shares: list[float], total: int) -> None:
    phases = (*(PhasePlan(share=share) for share in shares), PhasePlan(share=1.0))
    ends = last_positions(phases, total)
    assert ends == sorted(ends)
    assert ends[-1] == total
    assert ends[0] >= 1
    for share, end in zip(shares, ends, strict=False):
        assert share * total - 1e-3 <= end <= share * total + 1


def test_the_default_phases_are_those_of_the_manual() -> None:
    assert last_positions(phases_of(Plan(name="x", release=1)), 1_000) == [10, 100, 500, 1_000]
    assert len(phases_of(Plan(name="x", release=1, strategy="immediate"))) == 1


PLAN = Plan(name="x", release=1, everyone=True)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"everyone": False}, "filter"),
        ({"name": " "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"strategy": "yolo"}, "strategy"),
        ({"critical": "first"}, "critical"),
        ({"on_failure": "ignore"}, "on_failure"),
        ({"phases": (PhasePlan(share=0.5),)}, "phases[0].share"),
        ({"phases": (PhasePlan(share=0.5), PhasePlan(share=0.4), PhasePlan(share=1.0))}, "phases[1].share"),
        ({"phases": (PhasePlan(vehicles=5), PhasePlan(vehicles=5), PhasePlan(share=1.0))}, "phases[1].vehicles"),
        ({"phases": (PhasePlan(share=1.0, vehicles=3),)}, "phases[0]"),
        ({"phases": (PhasePlan(share=float("nan")), PhasePlan(share=1.0))}, "phases[0].share"),
        ({"phases": (PhasePlan(share=1.0, failure_count=0),)}, "phases[0].failure_count"),
        ({"phases": (PhasePlan(share=1.0, success_rate=1.1),)}, "phases[0].success_rate"),
        ({"phases": tuple(PhasePlan(share=i / 30) for i in range(1, 31))}, "phases"),
        ({"strategy": "immediate", "phases": (PhasePlan(share=0.5), PhasePlan(share=1.0))}, "phases"),
        ({"filter": VehicleFilter(fault="nonsense")}, "filter.fault"),
        ({"filter": VehicleFilter(model=tuple(map(str, range(101))))}, "filter.model"),
        ({"offline_days": float("inf")}, "offline_days"),
        ({"retries": 99}, "retries"),
        ({"seed": -1}, "seed"),
        ({"dtc_gate": DtcGate(factor=0.5)}, "dtc_gate.factor"),
        ({"policy": InstallPolicy(window_start_min=60)}, "policy.window_start_min"),
        ({"policy": InstallPolicy(window_start_min=60, window_end_min=60)}, "policy.window_end_min"),
        ({"policy": InstallPolicy(window_days=(7,))}, "policy.window_days"),
        ({"policy": InstallPolicy(not_before_ns=5, deadline_ns=4)}, "policy.deadline_ns"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused_with_its_field(change: dict[str, object], where: str) -> None:
    check_plan(PLAN)
    with pytest.raises(InvalidInput) as refused:
        check_plan(msgspec.structs.replace(PLAN, **change))
    assert refused.value.where == where
