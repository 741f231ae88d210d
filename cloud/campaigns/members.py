"""The vehicles of a campaign, page by page."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from cloud.campaigns.model import CampaignRow
from cloud.campaigns.views import SKIPPED, STATES, MemberView
from cloud.db import Database
from cloud.errors import InvalidInput, NotFound

# A member's newest assignment: its last attempt, or the way back when there is one.
_NEWEST = """
(SELECT max(n.id) FROM assignments n WHERE n.vehicle_id = m.vehicle_id AND +n.campaign_id = m.campaign_id)"""
_FROM = f"""
FROM campaign_vehicles m LEFT JOIN assignments a ON a.id = {_NEWEST}
LEFT JOIN vehicle_updates u ON u.vehicle_id = m.vehicle_id AND u.assignment_id = a.id
WHERE m.campaign_id = :campaign"""
_COLUMNS = """
SELECT m.vehicle_id, m.position, m.attempts, m.skipped, m.previous_release, a.state, a.detail, a.attack, a.phase,
    a.offered_ns, a.started_ns, a.finished_ns, a.is_rollback, u.percent, u.state AS step,
    (SELECT p.number FROM campaign_phases p WHERE p.campaign_id = m.campaign_id AND p.kind = 'rollout'
     AND m.position BETWEEN p.first AND p.last) AS own_phase"""
# In a state: start from the assignments, by their index.
_FROM_STATE = """
FROM assignments a JOIN campaign_vehicles m ON m.campaign_id = a.campaign_id AND m.vehicle_id = a.vehicle_id
LEFT JOIN vehicle_updates u ON u.vehicle_id = m.vehicle_id AND u.assignment_id = a.id
WHERE a.campaign_id = :campaign AND a.state = :state
AND a.phase IN (SELECT number FROM campaign_phases WHERE campaign_id = :campaign)"""
#: Only where vehicles may have several assignments in a campaign: it costs a look-up for each.
_IS_NEWEST = f" AND a.id = {_NEWEST}"
_HAS_MORE_THAN_ONE = "SELECT 1 FROM campaign_phases WHERE campaign_id = :campaign AND kind != 'rollout' LIMIT 1"


async def list_members(
    db: Database, campaign_id: int, state: str, phase: int | None, search: str, limit: int, offset: int
) -> tuple[list[MemberView], int]:
    """A page of the vehicles in the order in which they come, and how many match.

    Args:
        db: where they are.
        campaign_id: of which campaign; ``NotFound`` when there is none.
        state: only in this state, of an assignment, or "pending", "busy", "gone"; "" any.
        phase: only those of this phase.
        search: part of the id.
        limit: entries at most.
        offset: entries to skip.
    """
    if state and state not in (*STATES, *SKIPPED, "pending"):
        raise InvalidInput(f"one of {', '.join((*STATES, *SKIPPED, 'pending'))}", where="state")
    values: dict[str, Any] = {"campaign": campaign_id}
    source = _FROM
    if state in STATES:
        source, values["state"] = _FROM_STATE, state
    elif state == "pending":
        source += " AND m.attempts = 0 AND m.skipped = ''"
    elif state:
        source, values["state"] = f"{source} AND m.skipped = :state", state
    if phase is not None:
        source += """ AND (a.phase = :phase OR (a.phase IS NULL AND m.position BETWEEN
            (SELECT p.first FROM campaign_phases p WHERE p.campaign_id = :campaign AND p.number = :phase) AND
            (SELECT p.last FROM campaign_phases p WHERE p.campaign_id = :campaign AND p.number = :phase)))"""
        values["phase"] = phase
    if search:
        source += " AND instr(m.vehicle_id, :search)"
        values["search"] = search
    async with db.read() as session:
        if await session.get(CampaignRow, campaign_id) is None:
            raise NotFound(f"there is no campaign {campaign_id}")
        if state in STATES and await session.scalar(text(_HAS_MORE_THAN_ONE), {"campaign": campaign_id}):
            source += _IS_NEWEST
        total = await session.scalar(text(f"SELECT count(*) {source}"), values) or 0
        page = {**values, "limit": limit, "offset": offset}
        order = "a.phase, a.id" if state in STATES else "m.position"
        query = text(f"{_COLUMNS} {source} ORDER BY {order} LIMIT :limit OFFSET :offset")
        rows = (await session.execute(query, page)).mappings().all()
    return [_view(row) for row in rows], total


def _view(row: Any) -> MemberView:
    return MemberView(
        vehicle=row["vehicle_id"],
        position=row["position"],
        phase=row["phase"] or row["own_phase"] or 0,
        state=row["state"] or row["skipped"] or "pending",
        attempts=row["attempts"],
        detail=row["detail"] or "",
        attack=row["attack"] or "",
        percent=row["percent"] or 0.0,
        step=row["step"] or "",
        offered_ns=row["offered_ns"],
        started_ns=row["started_ns"],
        finished_ns=row["finished_ns"],
        previous_release=row["previous_release"],
        is_rollback=bool(row["is_rollback"]),
    )
