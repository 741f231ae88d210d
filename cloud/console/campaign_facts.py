"""Words, bars and gates of the pages about campaigns. No HTTP, no HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cloud.campaigns.core import Action, DtcFacts, PhaseCounts, dtc_gate, failure_gate
from cloud.campaigns.engine import phases_rows
from cloud.campaigns.facts import dtc_facts, phase_counts
from cloud.campaigns.model import CampaignRow, PhaseRow
from cloud.campaigns.plan import DtcGate, PhasePlan
from cloud.campaigns.views import CampaignView, PhaseView
from cloud.services import Services

_STATE_BADGES = {
    "running": "good",
    "succeeded": "good",
    "paused": "warn",
    "waiting": "warn",
    "rolling_back": "bad",
    "rolled_back": "bad",
    "withdrawn": "bad",
    "failed": "bad",
    "offered": "",
    "passed": "good",
    "busy": "warn",
    "gone": "warn",
}
#: How vehicles are laid out in a progress bar: (what is counted, kind of colour, word).
PARTS = (
    ("succeeded", "good", "succeeded"),
    ("failed", "bad", "failed"),
    ("rolled_back", "bad2", "went back by themselves"),
    ("running", "run", "installing"),
    ("offered", "off", "offered"),
    ("assigned", "ask", "assigned"),
    ("cancelled", "out", "cancelled"),
    ("superseded", "out", "superseded"),
    ("busy", "out", "busy with another update"),
    ("gone", "out", "no longer enrolled"),
    ("pending", "rest", "not yet assigned"),
)
WIDTH = 1000.0
#: action → (button, question, kind of button). Those with more to ask have forms of their own.
ACTIONS = {
    Action.SUBMIT: ("Submit", "Submit this campaign? A draft cannot be changed afterwards.", "primary"),
    Action.APPROVE: ("Approve", "Approve this campaign? It may start then.", "primary"),
    Action.REJECT: ("Back to draft", "Send this campaign back to its author, as a draft?", ""),
    Action.START: ("Start now", "Start now? The vehicles of the first phase are assigned at once.", "primary"),
    Action.PAUSE: ("Pause", "Pause? No vehicle is added; those that have begun go on.", ""),
    Action.RESUME: ("Resume", "Resume? What was seen so far is accepted and trips no gate again.", "primary"),
    Action.NEXT: ("Next phase now", "Go on to the next phase now, whatever the gates say?", ""),
    Action.RETRY: ("Retry the failed", "Try once more on the vehicles that failed without changing anything?", ""),
    Action.FINISH: ("Finish", "Finish now? Vehicles that have not begun are not updated.", ""),
}
ACTION_FORMS = (Action.CANCEL, Action.ROLL_BACK, Action.WITHDRAW)


class Gate(msgspec.Struct, frozen=True):
    """A gate of a phase: what it asks, how it is now, and the kind of badge for that."""

    name: str
    wanted: str
    now: str
    kind: str  # "good": fulfilled; "bad": tripped; "": not yet


class Part(msgspec.Struct, frozen=True):
    """A piece of a progress bar; ``start`` and ``width`` of ``WIDTH``."""

    name: str
    kind: str
    words: str
    count: int
    start: float
    width: float


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """A phase as the page shows it."""

    view: PhaseView
    bar: list[Part]
    gates: list[Gate]
    is_current: bool
    done: int  # vehicles with an outcome


def state_badge(state: str) -> str:
    """The kind of badge for a state of a campaign, a phase or a vehicle."""
    return _STATE_BADGES.get(state, "")


def vehicle_badge(state: str) -> str:
    """The kind of badge for a vehicle of a campaign: on the way is neither good nor bad."""
    return "" if state == "running" else state_badge(state)


def bar_of(counts: Mapping[str, int], total: int) -> list[Part]:
    """The pieces of a progress bar; nothing that is there is too small to be seen."""
    shown = [(name, kind, words, counts.get(name, 0)) for name, kind, words in PARTS if counts.get(name, 0) > 0]
    if total <= 0 or not shown:
        return []
    weights = [max(count / total, 0.008) for *_, count in shown]
    scale, start, parts = WIDTH / sum(weights), 0.0, []
    for (name, kind, words, count), weight in zip(shown, weights, strict=True):
        parts.append(Part(name, kind, words, count, round(start, 2), round(weight * scale, 2)))
        start += weight * scale
    return parts


def span(seconds: float) -> str:
    """A duration in the unit people say."""
    for limit, per, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / per:.3g} {unit}"
    return f"{seconds / 86_400:.3g} days"


def gates_of(plan: PhasePlan, counts: PhaseCounts, row: PhaseRow, now_ns: int) -> list[Gate]:
    """The gates of a phase, with how they are."""
    begun = row.started_ns is not None
    lasted_s = ((row.finished_ns or now_ns) - row.started_ns) / 1e9 if row.started_ns is not None else 0.0
    least = min(plan.min_reported, counts.counted) if counts.counted else plan.min_reported
    share = counts.reported / counts.counted if counts.counted else 0.0
    rate = counts.succeeded / counts.reported if counts.reported else 0.0
    failures = max(0, counts.failures - row.accepted_failed)
    reported = max(failures, counts.reported - row.accepted_reported)
    tripped = failure_gate(plan, counts, row.accepted_reported, row.accepted_failed) if begun else ""
    limit = f"below {_share(plan.failure_rate)} of those that reported, or fewer than {plan.failure_min}"
    if plan.failure_count is not None:
        limit += f"; never {plan.failure_count}"
    return [
        Gate("Lasts", f"at least {span(plan.min_duration_s)}", span(lasted_s), _ok(lasted_s >= plan.min_duration_s)),
        Gate(
            "Reported",
            f"{least} and {_share(plan.reported_share)} of those that count",
            f"{counts.reported} of {counts.counted} ({_share(share)})",
            _ok(counts.reported >= least and share >= plan.reported_share),
        ),
        Gate(
            "Succeeded",
            f"{_share(plan.success_rate)} of those that reported",
            f"{counts.succeeded} of {counts.reported}" + (f" ({_share(rate)})" if counts.reported else ""),
            _ok(counts.reported > 0 and rate >= plan.success_rate),
        ),
        Gate("Failures", limit, f"{failures} of {reported}", "bad" if tripped else _ok(begun)),
    ]


def dtc_gate_of(gate: DtcGate, facts: DtcFacts, accepted: int) -> Gate:
    """The gate on new trouble codes, with how it is."""
    per_day = facts.updated / facts.updated_days if facts.updated_days else 0.0
    usual = facts.others / facts.other_days if facts.other_days else 0.0
    whom = "the same vehicles before" if facts.is_before else "the others"
    now = (
        f"{facts.updated} of {facts.updated_vehicles} updated vehicles; {per_day:.3g} a vehicle-day, {whom} {usual:.3g}"
    )
    if facts.worst:
        now += f" ({', '.join(facts.worst)})"
    wanted = (
        f"fewer than {gate.min_vehicles} vehicles, below {_share(gate.rate)} of the updated ones, "
        f"or below {gate.factor:g} times the usual"
    )
    return Gate("New trouble codes", wanted, now, "bad" if dtc_gate(gate, facts, accepted) else "good")


async def campaign_phases(services: Services, view: CampaignView) -> tuple[list[Phase], Gate | None]:
    """The phases of a campaign with bars and gates, and the gate that is about all of them."""
    now_ns = services.clock.now_ns()
    whole: Gate | None = None
    async with services.db.read() as session:
        rows = await phases_rows(session, view.id)
        counts = await phase_counts(session, view.id, rows)
        if view.plan.dtc_gate is not None and view.started_ns is not None:
            through = max((row.assigned_through for row in rows), default=0)
            found = await dtc_facts(
                session, view.id, view.plan.dtc_gate, since_ns=view.started_ns, now_ns=now_ns, through=through
            )
            row = await session.get(CampaignRow, view.id)
            whole = dtc_gate_of(view.plan.dtc_gate, found, row.dtc_accepted if row else 0)
    by_number = {row.number: row for row in rows}
    phases = []
    for phase in view.phases:
        numbers: dict[str, int] = {**phase.vehicles, "pending": phase.pending}
        gates = []
        if phase.gates and phase.number in by_number:
            plan = msgspec.convert(phase.gates, PhasePlan)
            gates = gates_of(plan, counts[phase.number], by_number[phase.number], now_ns)
        phases.append(
            Phase(
                view=phase,
                bar=bar_of(numbers, phase.members),
                gates=gates,
                is_current=phase.number == view.phase,
                done=phase.reported,
            )
        )
    return phases, whole


def planned_phases(view: CampaignView, plans: tuple[PhasePlan, ...]) -> list[dict[str, Any]]:
    """What a campaign that has not begun will do."""
    return [
        {
            "number": number,
            "to": f"{plan.vehicles} vehicles" if plan.share is None else _share(plan.share),
            "lasts": span(plan.min_duration_s),
            "reported": _share(plan.reported_share),
            "success": _share(plan.success_rate),
            "failure": f"{_share(plan.failure_rate)} and {plan.failure_min}"
            + (f", or {plan.failure_count}" if plan.failure_count is not None else ""),
        }
        for number, plan in enumerate(plans, 1)
        if view.started_ns is None
    ]


def _share(share: float) -> str:
    return f"{share * 100:.4g} %"


def _ok(fulfilled: bool) -> str:
    return "good" if fulfilled else ""
