"""What the API shows of campaigns."""

from __future__ import annotations

from typing import Any

import msgspec

from cloud.campaigns.core import PhaseCounts, legal_actions
from cloud.campaigns.model import CampaignRow, CampaignState, PhaseKind, PhaseRow
from cloud.campaigns.plan import Plan, phases_of


class PhaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A phase: how far it is, and the gates it has to pass. ``vehicles`` counts by state."""

    number: int
    kind: str
    state: str
    members: int
    pending: int
    vehicles: dict[str, int]
    reported: int
    counted: int
    started_ns: int | None
    finished_ns: int | None
    gates: dict[str, Any]


class CampaignView(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign. ``mark`` changes whenever anything shown here does."""

    id: int
    name: str
    state: str
    reason: str
    release_id: int
    release: str
    phase: int
    priority: int
    created_ns: int
    created_by: str
    approved_ns: int | None
    approved_by: str
    starts_ns: int
    started_ns: int | None
    finished_ns: int | None
    changed_ns: int
    paused_by: str
    revision: int
    mark: str
    actions: list[str]
    members: int
    totals: dict[str, int]  # each vehicle once, by its newest state; "pending" are not assigned yet
    phases: list[PhaseView]
    plan: Plan


class CampaignItem(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign in a list."""

    id: int
    name: str
    state: str
    reason: str
    release_id: int
    release: str
    phase: int
    phases: int
    members: int
    totals: dict[str, int]
    created_ns: int
    created_by: str
    started_ns: int | None
    finished_ns: int | None
    changed_ns: int


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """A vehicle of a campaign, with its newest assignment in it."""

    vehicle: str
    position: int
    phase: int
    state: str
    attempts: int
    detail: str
    attack: str
    percent: float
    step: str  # what the vehicle told last: "downloading" …
    offered_ns: int | None
    started_ns: int | None
    finished_ns: int | None
    previous_release: int | None
    is_rollback: bool


class Selected(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan would select. ``strata`` are the largest ones."""

    selected: int
    members: int
    excluded: dict[str, int]
    excluded_words: dict[str, str]
    phases: list[int]
    strata: list[dict[str, Any]]
    strata_total: int
    critical: int
    offline: int  # members not heard of for longer than ``offline_days``
    busy: int  # members for which another update is open


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what to a campaign."""

    at_ns: int
    actor: str
    action: str
    detail: str


STATES = ("assigned", "offered", "running", "succeeded", "failed", "rolled_back", "cancelled", "superseded")
SKIPPED = ("busy", "gone")


def phase_view(phase: PhaseRow, plan: Plan, counts: PhaseCounts) -> PhaseView:
    """One phase with its counts."""
    plans = phases_of(plan)
    gates = msgspec.to_builtins(plans[min(phase.number, len(plans)) - 1]) if phase.kind == PhaseKind.ROLLOUT else {}
    return PhaseView(
        number=phase.number,
        kind=phase.kind,
        state=phase.state,
        members=counts.members,
        pending=counts.pending,
        vehicles={name: getattr(counts, name) for name in (*STATES, *SKIPPED, "uncounted")},
        reported=counts.reported,
        counted=counts.counted,
        started_ns=phase.started_ns,
        finished_ns=phase.finished_ns,
        gates=gates,
    )


def totals(phases: list[PhaseRow], counts: dict[int, PhaseCounts]) -> tuple[int, dict[str, int]]:
    """(members, vehicles by newest state); they add up. A vehicle tried again counts by its newest attempt.

    Vehicles that were sent back are counted by their assignment, too: ``back_open``, ``back_done``, ``back_failed`` are
    beside the sum.
    """
    rollout = [counts[p.number] for p in phases if p.kind == PhaseKind.ROLLOUT]
    retry = [counts[p.number] for p in phases if p.kind == PhaseKind.RETRY]
    back = [counts[p.number] for p in phases if p.kind == PhaseKind.ROLLBACK]
    result = {name: sum(getattr(c, name) for c in (*rollout, *retry)) for name in STATES}
    result["failed"] -= sum(c.told for c in retry)
    for name in (*SKIPPED, "pending"):
        result[name] = sum(getattr(c, name) for c in rollout)
    if back:
        result["back_open"] = sum(c.open for c in back)
        result["back_done"] = sum(c.succeeded for c in back)
        result["back_failed"] = sum(c.failures + c.cancelled + c.superseded for c in back)
    return sum(c.members for c in rollout), result


def campaign_view(
    row: CampaignRow, release: str, plan: Plan, phases: list[PhaseRow], counts: dict[int, PhaseCounts], mark: str
) -> CampaignView:
    """The whole."""
    members, by_state = totals(phases, counts)
    return CampaignView(
        id=row.id,
        name=row.name,
        state=row.state,
        reason=row.reason,
        release_id=row.release_id,
        release=release,
        phase=row.phase,
        priority=row.priority,
        created_ns=row.created_ns,
        created_by=row.created_by,
        approved_ns=row.approved_ns,
        approved_by=row.approved_by,
        starts_ns=row.starts_ns,
        started_ns=row.started_ns,
        finished_ns=row.finished_ns,
        changed_ns=row.changed_ns,
        paused_by=row.paused_by,
        revision=row.revision,
        mark=mark,
        actions=[action.value for action in legal_actions(CampaignState(row.state))],
        members=members,
        totals=by_state,
        phases=[phase_view(phase, plan, counts[phase.number]) for phase in phases],
        plan=plan,
    )
