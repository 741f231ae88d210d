"""The rules of campaigns, without I/O: which action is legal when, and what the counts of a phase call for.

Theory of operation. A campaign walks through numbered phases. While it runs, vehicles of the current phase are assigned
slice by slice; what becomes of an assignment is written by the Director from signed reports. From the counts this
module decides one step at a time:

- a gate trips (failures, trouble codes, a threshold that can no longer be reached) → pause, or roll back as planned;
- the phase has passed → the next one, then a retry of those that failed, then the end;
- otherwise → wait.

Safety gates hold in a pause, too, when tripping means more than to pause. Vehicles that cannot be expected to report
(too long offline, superseded, cancelled, busy) are in no threshold; a vehicle that began and fell silent is a failure,
because that is how a broken one looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cloud.campaigns.model import CampaignState as S
from cloud.campaigns.plan import DtcGate, PhasePlan


class Action(Enum):
    """What people do to a campaign; the values are the last part of the address."""

    SUBMIT = "submit"
    APPROVE = "approve"
    REJECT = "reject"
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    NEXT = "next"
    RETRY = "retry"
    FINISH = "finish"
    CANCEL = "cancel"
    WITHDRAW = "withdraw"
    ROLL_BACK = "roll_back"


_LIVE = (S.RUNNING, S.PAUSED)
#: action → states in which it is legal.
LEGAL: dict[Action, tuple[S, ...]] = {
    Action.SUBMIT: (S.DRAFT,),
    Action.APPROVE: (S.WAITING,),
    Action.REJECT: (S.WAITING, S.SCHEDULED),
    Action.START: (S.SCHEDULED,),
    Action.PAUSE: (S.RUNNING,),
    Action.RESUME: (S.PAUSED,),
    Action.NEXT: _LIVE,
    Action.RETRY: _LIVE,
    Action.FINISH: _LIVE,
    Action.CANCEL: (S.DRAFT, S.WAITING, S.SCHEDULED, *_LIVE),
    Action.WITHDRAW: (S.DRAFT, S.WAITING, S.SCHEDULED, *_LIVE, S.SUCCEEDED, S.CANCELLED, S.ROLLED_BACK),
    Action.ROLL_BACK: (*_LIVE, S.SUCCEEDED, S.CANCELLED, S.WITHDRAWN),
}


def is_legal(state: S, action: Action) -> bool:
    """Whether ``action`` may be taken in ``state``."""
    return state in LEGAL[action]


def legal_actions(state: S) -> list[Action]:
    """All that may be done in a state."""
    return [action for action in Action if is_legal(state, action)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCounts:
    """The vehicles of a phase by what became of their assignment in it."""

    members: int = 0
    assigned: int = 0
    offered: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    rolled_back: int = 0
    cancelled: int = 0
    superseded: int = 0
    busy: int = 0  # another update is open for them
    gone: int = 0  # no longer enrolled
    uncounted: int = 0  # of the open ones: offline or waiting for too long

    @property
    def reported(self) -> int:
        """Outcomes: told by the vehicle after its boot, or told by its silence."""
        return self.succeeded + self.failures

    @property
    def failures(self) -> int:
        """Outcomes that are bad."""
        return self.failed + self.rolled_back

    @property
    def open(self) -> int:
        """Assignments without an outcome."""
        return self.assigned + self.offered + self.running

    @property
    def told(self) -> int:
        """All assignments."""
        return self.open + self.reported + self.cancelled + self.superseded

    @property
    def pending(self) -> int:
        """Vehicles not assigned yet."""
        return max(0, self.members - self.told - self.busy - self.gone)

    @property
    def counted(self) -> int:
        """Vehicles that thresholds are about."""
        out = self.cancelled + self.superseded + self.busy + self.gone + min(self.uncounted, self.open)
        return max(0, self.members - out)


@dataclass(frozen=True, slots=True, kw_only=True)
class DtcFacts:
    """Vehicles with a confirmed trouble code that was first seen in a time, and the vehicle-days of that time."""

    updated: int = 0
    updated_vehicles: int = 0
    updated_days: float = 0.0
    others: int = 0
    other_vehicles: int = 0
    other_days: float = 0.0
    is_before: bool = False  # "others" are the updated vehicles themselves, before the campaign
    worst: tuple[str, ...] = ()  # the most frequent new codes, for people


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the engine knows when it asks what to do."""

    now_ns: int
    started_ns: int  # of the phase
    is_retry: bool
    is_assigned: bool  # the whole phase
    counts: PhaseCounts
    accepted_reported: int = 0
    accepted_failed: int = 0
    reported_in_all: int = 0  # in all phases
    dtc: DtcFacts | None = None
    dtc_accepted: int = 0


class Verdict(Enum):
    """What the counts of a phase call for."""

    WAIT = "wait"
    PASSED = "passed"
    FAILURES = "failures"  # the failure gate
    DTC = "dtc"  # the trouble code gate
    THRESHOLD = "threshold"  # everybody has reported, and too few are well


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, with the figures in words."""

    verdict: Verdict
    reason: str = ""


def failure_gate(phase: PhasePlan, counts: PhaseCounts, accepted_reported: int, accepted_failed: int) -> str:
    """Why the failure gate trips; "" while it does not. What an operator has accepted does not count again."""
    failures = max(0, counts.failures - accepted_failed)
    reported = max(failures, counts.reported - accepted_reported)
    if phase.failure_count is not None and failures >= phase.failure_count:
        vehicles = "vehicle" if failures == 1 else "vehicles"
        return f"{failures} {vehicles} failed, the gate is at {phase.failure_count}"
    if failures >= phase.failure_min and failures >= phase.failure_rate * reported:
        return (
            f"{failures} of {reported} vehicles that reported failed ({failures / reported:.1%}), "
            f"the gate is at {phase.failure_rate:.1%} and {phase.failure_min} vehicles"
        )
    return ""


def dtc_gate(gate: DtcGate | None, facts: DtcFacts | None, accepted: int) -> str:
    """Why the gate on trouble codes trips; "" while it does not."""
    if gate is None or facts is None:
        return ""
    fresh = facts.updated - accepted
    if fresh < gate.min_vehicles or fresh < gate.rate * facts.updated_vehicles:
        return ""
    per_day = fresh / max(facts.updated_days, 1e-9)
    usual = facts.others / max(facts.other_days, 1e-9) if facts.others else 0.0
    if per_day < gate.factor * usual:
        return ""
    whom = "before the campaign" if facts.is_before else "among the others"
    worst = f": {', '.join(facts.worst)}" if facts.worst else ""
    return (
        f"{fresh} of {facts.updated_vehicles} updated vehicles have new confirmed trouble codes, "
        f"{per_day:.3g} per vehicle-day against {usual:.3g} {whom}{worst}"
    )


def is_passed(phase: PhasePlan, facts: Facts) -> bool:
    """Whether the phase has lasted long enough and enough vehicles have shown that they are well."""
    counts = facts.counts
    if not facts.is_assigned or facts.now_ns - facts.started_ns < phase.min_duration_s * 1_000_000_000:
        return False
    if facts.is_retry:
        return counts.reported >= counts.counted
    if counts.counted == 0:  # nobody is left to ask; what others have shown must do
        return counts.members == 0 or facts.reported_in_all >= phase.min_reported
    if counts.reported < min(phase.min_reported, counts.counted):
        return False
    if counts.reported < phase.reported_share * counts.counted:
        return False
    return counts.succeeded >= phase.success_rate * counts.reported


def judge(phase: PhasePlan, gate: DtcGate | None, facts: Facts) -> Judgement:
    """What to do now. Gates go before success: a phase that passes and trips has tripped."""
    counts = facts.counts
    if not facts.is_retry and (reason := failure_gate(phase, counts, facts.accepted_reported, facts.accepted_failed)):
        return Judgement(Verdict.FAILURES, reason)
    if reason := dtc_gate(gate, facts.dtc, facts.dtc_accepted):
        return Judgement(Verdict.DTC, reason)
    if is_passed(phase, facts):
        return Judgement(Verdict.PASSED)
    is_over = facts.is_assigned and counts.counted > 0 and counts.reported >= counts.counted
    has_news = counts.reported > facts.accepted_reported
    if is_over and not facts.is_retry and has_news and counts.succeeded < phase.success_rate * counts.reported:
        return Judgement(
            Verdict.THRESHOLD,
            f"{counts.succeeded} of {counts.reported} vehicles succeeded, the phase needs {phase.success_rate:.1%}",
        )
    return Judgement(Verdict.WAIT)
