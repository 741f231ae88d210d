"""What the database knows of a campaign: counts of each phase in one GROUP BY, and what is counted now and then."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.campaigns.core import DtcFacts, PhaseCounts
from cloud.campaigns.model import PhaseKind, PhaseRow
from cloud.campaigns.plan import DtcGate
from gateway.wire.dtc import format_dtc

DAY_NS = 86_400_000_000_000
CONFIRMED = 0x08  # bit of the status byte: confirmedDTC
WORST = 3

_BY_STATE = "SELECT phase, state, count(*) FROM assignments WHERE campaign_id = :campaign GROUP BY phase, state"
_SKIPPED = """
SELECT p.number, m.skipped, count(*) FROM campaign_vehicles m CROSS JOIN campaign_phases p
WHERE m.campaign_id = :campaign AND m.skipped != '' AND m.skipped IN ('busy', 'gone')
AND p.campaign_id = m.campaign_id AND p.kind = 'rollout' AND m.position BETWEEN p.first AND p.last
GROUP BY p.number, m.skipped"""
_MEMBERS = "SELECT count(*) FROM campaign_vehicles WHERE campaign_id = :campaign AND position BETWEEN :first AND :last"

# Open, and nothing can be expected: not heard of since ``seen`` in whatever way, or offered (or waiting in the vehicle)
# since ``waiting``.
_UNCOUNTED = """
SELECT count(*) FROM assignments a
LEFT JOIN check_ins c ON c.vehicle_id = a.vehicle_id
LEFT JOIN vehicle_updates u ON u.vehicle_id = a.vehicle_id
LEFT JOIN vehicles v ON v.id = a.vehicle_id
WHERE a.campaign_id = :campaign AND a.phase = :phase AND (
    (a.state IN ('assigned', 'offered') AND (a.offered_ns < :waiting OR (coalesce(c.received_ns, 0) < :seen
        AND max(coalesce(a.offered_ns, 0), coalesce(u.reported_ns, 0), coalesce(u.manifest_ns, 0),
            coalesce(v.enrolled_ns, 0)) < :seen)))
    OR (a.state = 'running' AND u.state = 'waiting' AND u.assignment_id = a.id
        AND coalesce(a.started_ns, a.created_ns) < :waiting))"""

# Codes first, by the time of their last change; vehicles are looked up from there.
_FORWARD = "kind != 'rollback'"
_UPDATED = f"""
SELECT count(*), coalesce(sum(:now - finished_ns), 0) FROM assignments
WHERE campaign_id = :campaign AND state = 'succeeded'
AND phase IN (SELECT number FROM campaign_phases WHERE campaign_id = :campaign AND {_FORWARD})"""
_UPDATED_VEHICLE = """
CROSS JOIN assignments a WHERE a.vehicle_id = f.vehicle_id AND +a.campaign_id = :campaign AND a.state = 'succeeded'
AND NOT a.is_rollback AND (f.status & :confirmed) != 0"""
_UPDATED_FAULTS = f"""
FROM faults f {_UPDATED_VEHICLE} AND f.is_present = 1 AND f.changed_ns > :since AND f.first_ns > a.finished_ns"""
_AFFECTED = f"SELECT count(DISTINCT f.vehicle_id) {_UPDATED_FAULTS}"
_WORST = f"SELECT f.code, f.ecu, count(*) {_UPDATED_FAULTS} GROUP BY f.code, f.ecu ORDER BY 3 DESC, 1, 2 LIMIT {WORST}"
_OTHER_FAULTS = """
SELECT count(DISTINCT f.vehicle_id) FROM faults f CROSS JOIN campaign_vehicles m
WHERE m.vehicle_id = f.vehicle_id AND m.campaign_id = :campaign AND m.attempts = 0
AND f.is_present = 1 AND f.changed_ns > :since AND f.first_ns > :since AND (f.status & :confirmed) != 0"""
_OTHERS = "SELECT count(*) FROM campaign_vehicles WHERE campaign_id = :campaign AND position > :through"
_FAULTS_BEFORE = f"""
SELECT count(DISTINCT f.vehicle_id) FROM faults f {_UPDATED_VEHICLE}
AND f.is_present IN (0, 1) AND f.changed_ns > :before AND f.first_ns > :before AND f.first_ns <= :since"""


async def phase_counts(session: AsyncSession, campaign: int, phases: list[PhaseRow]) -> dict[int, PhaseCounts]:
    """The counts of every phase, by its number."""
    found: dict[int, dict[str, int]] = {phase.number: {} for phase in phases}
    for number, state, count in await session.execute(text(_BY_STATE), {"campaign": campaign}):
        found.setdefault(number, {})[state] = count
    for number, skipped, count in await session.execute(text(_SKIPPED), {"campaign": campaign}):
        found[number][skipped] = count
    counts: dict[int, PhaseCounts] = {}
    for phase in phases:
        states = found[phase.number]
        if phase.kind == PhaseKind.ROLLOUT:
            where = {"campaign": campaign, "first": phase.first, "last": phase.last}
            members = await session.scalar(text(_MEMBERS), where) or 0
        else:
            members = sum(states.values())
        counts[phase.number] = PhaseCounts(members=members, uncounted=phase.uncounted, **states)
    return counts


async def uncounted(
    session: AsyncSession, campaign: int, phase: int, *, now_ns: int, offline_days: float, timeout_ns: int
) -> int:
    """Open assignments of a phase from which nothing can be expected now."""
    values = {
        "campaign": campaign,
        "phase": phase,
        "seen": now_ns - int(offline_days * DAY_NS),
        "waiting": now_ns - timeout_ns,
    }
    return await session.scalar(text(_UNCOUNTED), values) or 0


async def dtc_facts(
    session: AsyncSession, campaign: int, gate: DtcGate, *, since_ns: int, now_ns: int, through: int
) -> DtcFacts:
    """New confirmed trouble codes of updated vehicles and of the others, since the campaign began.

    Args:
        session: to read with.
        campaign: its number.
        gate: what they are for; with too few others, the time before the campaign is what to compare with.
        since_ns: when the campaign began.
        now_ns: now.
        through: up to this position vehicles have been assigned; the others are behind it.
    """
    values: dict[str, Any] = {"campaign": campaign, "now": now_ns, "since": since_ns, "confirmed": CONFIRMED}
    vehicles, vehicle_ns = (await session.execute(text(_UPDATED), _only(_UPDATED, values))).one()
    if not vehicles:
        return DtcFacts()
    affected = await session.scalar(text(_AFFECTED), _only(_AFFECTED, values)) or 0
    worst = (await session.execute(text(_WORST), _only(_WORST, values))).all() if affected >= gate.min_vehicles else []
    others = await session.scalar(text(_OTHERS), {"campaign": campaign, "through": through}) or 0
    elapsed_ns = max(1, now_ns - since_ns)
    is_before = others < gate.min_others
    if is_before:
        values["before"] = since_ns - elapsed_ns
        seen = await session.scalar(text(_FAULTS_BEFORE), _only(_FAULTS_BEFORE, values)) or 0
        others = vehicles
    else:
        seen = await session.scalar(text(_OTHER_FAULTS), _only(_OTHER_FAULTS, values)) or 0
    return DtcFacts(
        updated=affected,
        updated_vehicles=vehicles,
        updated_days=float(vehicle_ns) / DAY_NS,
        others=seen,
        other_vehicles=others,
        other_days=others * elapsed_ns / DAY_NS,
        is_before=is_before,
        worst=tuple(f"{format_dtc(code)} of {ecu} in {count}" for code, ecu, count in worst),
    )


def _only(statement: str, values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if f":{name}" in statement}
