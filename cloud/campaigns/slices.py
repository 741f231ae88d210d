"""How a campaign acts on vehicles: statements over a slice of positions, each in its caller's transaction.

A slice bounds how long the database is held, not what is decided: vehicles are never listed. Within a slice the steps
are: who is no longer there, who must give way to this campaign, who is busy with something else, and an assignment for
each of the others.

A plus before a column keeps the planner from an index on it: it would walk through the whole campaign for each vehicle.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

OPEN = "state IN ('assigned', 'offered', 'running')"  # as the partial index ``assignments_one_open`` says it
IN_SLICE = "campaign_id = :campaign AND position BETWEEN :first AND :last"
_IS_OPEN = f"EXISTS (SELECT 1 FROM assignments a WHERE a.vehicle_id = campaign_vehicles.vehicle_id AND a.{OPEN})"

_GONE = f"""
UPDATE campaign_vehicles SET skipped = 'gone' WHERE {IN_SLICE} AND skipped = ''
AND NOT EXISTS (SELECT 1 FROM vehicles v WHERE v.id = campaign_vehicles.vehicle_id AND v.state = 'enrolled')"""

_GIVE_WAY = f"""
UPDATE assignments SET state = 'superseded', finished_ns = :now, detail = :detail
WHERE {OPEN} AND state != 'running' AND NOT is_rollback
AND +campaign_id IN (SELECT id FROM campaigns WHERE priority < :priority)
AND vehicle_id IN (SELECT vehicle_id FROM campaign_vehicles WHERE {IN_SLICE})"""

_BUSY = f"UPDATE campaign_vehicles SET skipped = 'busy' WHERE {IN_SLICE} AND skipped = '' AND {_IS_OPEN}"

# The newest published release that holds every image which the vehicle's ECUs, as far as this release is for them, run.
_PREVIOUS = """(
    SELECT r.id FROM vehicle_ecus e
    JOIN images i ON i.sha256 = e.sha256 AND i.kind IN ('rootfs', 'firmware')
    JOIN release_images ri ON ri.image_id = i.id AND ri.ecu IN ('', e.ecu)
    JOIN releases r ON r.id = ri.release_id AND r.state = 'published' AND r.id != :release
    WHERE e.vehicle_id = campaign_vehicles.vehicle_id AND e.sha256 != '' AND e.hardware_id IN (
        SELECT h.value FROM release_images t JOIN images ti ON ti.id = t.image_id
        JOIN json_each(CAST(ti.hardware_ids AS TEXT)) h WHERE t.release_id = :release AND t.ecu IN ('', e.ecu))
    GROUP BY r.id HAVING count(DISTINCT e.ecu) = (
        SELECT count(DISTINCT o.ecu) FROM vehicle_ecus o WHERE o.vehicle_id = campaign_vehicles.vehicle_id
        AND o.hardware_id IN (
            SELECT h.value FROM release_images t JOIN images ti ON ti.id = t.image_id
            JOIN json_each(CAST(ti.hardware_ids AS TEXT)) h WHERE t.release_id = :release AND t.ecu IN ('', o.ecu)))
    ORDER BY r.published_ns DESC, r.id DESC LIMIT 1)"""

_TAKE = f"""
UPDATE campaign_vehicles SET attempts = 1, previous_release = {_PREVIOUS}
WHERE {IN_SLICE} AND skipped = '' AND attempts = 0"""

_ASSIGN = """
INSERT INTO assignments
    (vehicle_id, release_id, campaign_id, phase, attempt, is_rollback, state, policy, created_ns, created_by,
     detail, attack)
SELECT m.vehicle_id, {release}, :campaign, {phase}, m.attempts, {is_rollback}, 'assigned', :policy, :now, :by, '', ''
FROM campaign_vehicles m WHERE m.campaign_id = :campaign AND {which} ORDER BY +m.vehicle_id"""

_ASSIGN_SLICE = _ASSIGN.format(
    release=":release",
    phase=":phase",
    is_rollback=0,
    which="m.position BETWEEN :first AND :last AND m.skipped = '' AND m.attempts = 1",
)

# A mark that lives within one transaction: these are the ones of the slice that get an assignment. That the mark is not
# empty is said for the partial index.
_MARKED = """SELECT s.vehicle_id FROM campaign_vehicles s
    WHERE s.campaign_id = :campaign AND s.skipped = 'free' AND s.skipped != ''"""
_ASSIGN_MARKED = _ASSIGN.format(
    release=":release",
    phase="coalesce(:phase, (SELECT p.number FROM campaign_phases p WHERE p.campaign_id = m.campaign_id"
    " AND p.kind = 'rollout' AND m.position BETWEEN p.first AND p.last))",
    is_rollback=0,
    which=f"m.vehicle_id IN ({_MARKED})",
)
_UNMARK = (
    "UPDATE campaign_vehicles SET skipped = '' WHERE campaign_id = :campaign AND skipped = 'free' AND skipped != ''"
)

_FREE = f"""
UPDATE campaign_vehicles SET skipped = 'free', attempts = 1, previous_release = {_PREVIOUS}
WHERE campaign_id = :campaign AND skipped = 'busy' AND vehicle_id IN (
    SELECT b.vehicle_id FROM campaign_vehicles b
    WHERE b.campaign_id = :campaign AND b.skipped = 'busy' AND b.skipped != ''
    AND NOT EXISTS (SELECT 1 FROM assignments a WHERE a.vehicle_id = b.vehicle_id AND a.{OPEN})
    AND EXISTS (SELECT 1 FROM vehicles v WHERE v.id = b.vehicle_id AND v.state = 'enrolled') LIMIT :limit)"""

#: Whether the newest attempt of a member ended in a way that another one may better.
RETRYABLE = """EXISTS (SELECT 1 FROM assignments f WHERE f.vehicle_id = campaign_vehicles.vehicle_id
    AND +f.campaign_id = campaign_vehicles.campaign_id AND f.attempt = campaign_vehicles.attempts
    AND NOT f.is_rollback AND f.state = 'failed')"""

_MARK_FAILED = f"""
UPDATE campaign_vehicles SET skipped = 'free', attempts = attempts + 1
WHERE {IN_SLICE} AND skipped = '' AND attempts BETWEEN 1 AND :max_attempts AND {RETRYABLE} AND NOT {_IS_OPEN}
AND EXISTS (SELECT 1 FROM vehicles v WHERE v.id = campaign_vehicles.vehicle_id AND v.state = 'enrolled')"""

# Whoever runs the release's images, or may be about to.
_HAS_IT = """(EXISTS (SELECT 1 FROM assignments s WHERE s.vehicle_id = campaign_vehicles.vehicle_id
        AND +s.campaign_id = campaign_vehicles.campaign_id AND NOT s.is_rollback
        AND s.state IN ('succeeded', 'offered', 'running'))
    OR EXISTS (SELECT 1 FROM vehicle_ecus e JOIN images i ON i.sha256 = e.sha256
        JOIN release_images ri ON ri.image_id = i.id
        WHERE ri.release_id = :release AND e.vehicle_id = campaign_vehicles.vehicle_id))"""

_GOES_BACK_TO = "coalesce(:back, m.previous_release)"
_MARK_BACK = f"""
UPDATE campaign_vehicles SET skipped = 'free' WHERE {IN_SLICE} AND skipped = '' AND attempts > 0 AND {_HAS_IT}
AND coalesce(:back, previous_release) IN (SELECT id FROM releases WHERE state = 'published')
AND EXISTS (SELECT 1 FROM vehicles v WHERE v.id = campaign_vehicles.vehicle_id AND v.state = 'enrolled')"""

_STOP_SLICE = f"""
UPDATE assignments SET state = CASE state WHEN 'assigned' THEN 'cancelled' ELSE 'superseded' END,
    finished_ns = :now, detail = :detail
WHERE {OPEN} AND +campaign_id = :campaign AND NOT is_rollback
AND vehicle_id IN (SELECT vehicle_id FROM campaign_vehicles WHERE {IN_SLICE})"""

_UNMARK_BUSY = f"{_UNMARK} AND {_IS_OPEN}"

_ASSIGN_BACK = _ASSIGN.format(
    release=_GOES_BACK_TO, phase=":phase", is_rollback=1, which=f"m.vehicle_id IN ({_MARKED})"
)

_SWEEP = """
UPDATE assignments SET state = 'cancelled', finished_ns = :now, detail = :detail WHERE id IN (
    SELECT id FROM assignments WHERE campaign_id = :campaign AND NOT is_rollback
    AND phase IN (SELECT number FROM campaign_phases WHERE campaign_id = :campaign)
    AND state IN ({states}) LIMIT :limit)"""

_TIMED_OUT = """
UPDATE assignments SET state = 'failed', finished_ns = :now, detail = :detail WHERE id IN (
    SELECT a.id FROM assignments a LEFT JOIN vehicle_updates u ON u.vehicle_id = a.vehicle_id AND u.assignment_id = a.id
    WHERE a.campaign_id = :campaign AND a.state = 'running'
    AND a.phase IN (SELECT number FROM campaign_phases WHERE campaign_id = :campaign)
    AND max(coalesce(u.reported_ns, 0), coalesce(a.started_ns, a.offered_ns, a.created_ns)) < :silent_since
    LIMIT :limit)"""


async def _run(session: AsyncSession, statement: str, **values: Any) -> int:
    result: Any = await session.execute(text(statement), values)
    return int(result.rowcount)


async def assign_slice(session: AsyncSession, *, priority: int, phase: int, by: str, **s: Any) -> int:
    """Give the vehicles of a slice their first assignment; how many got one.

    Args:
        session: the open transaction.
        priority: of the campaign; vehicles that wait for one of lower priority are taken from it.
        phase: its number.
        by: who, for the record.
        s: ``campaign``, ``release``, ``first``, ``last``, ``now``, ``policy``.
    """
    where = {name: s[name] for name in ("campaign", "first", "last")}
    await _run(session, _GONE, **where)
    detail = f"campaign {s['campaign']} has priority"
    await _run(session, _GIVE_WAY, **where, now=s["now"], priority=priority, detail=detail)
    await _run(session, _BUSY, **where)
    await _run(session, _TAKE, **where, release=s["release"])
    return await _run(session, _ASSIGN_SLICE, **s, phase=phase, by=by)


async def assign_freed(session: AsyncSession, *, by: str, limit: int, **s: Any) -> int:
    """Assign vehicles that were busy and no longer are; how many.

    Args:
        session: the open transaction.
        by: who, for the record.
        limit: at most so many.
        s: ``campaign``, ``release``, ``now``, ``policy``.
    """
    if not await _run(session, _FREE, campaign=s["campaign"], release=s["release"], limit=limit):
        return 0
    count = await _run(session, _ASSIGN_MARKED, **s, phase=None, by=by)
    await _run(session, _UNMARK, campaign=s["campaign"])
    return count


async def retry_slice(session: AsyncSession, *, phase: int, by: str, max_attempts: int, **s: Any) -> int:
    """Assign the failed vehicles of a slice once more; how many. ``s`` as for ``assign_slice``."""
    where = {name: s[name] for name in ("campaign", "first", "last")}
    if not await _run(session, _MARK_FAILED, **where, max_attempts=max_attempts):
        return 0
    more = {name: s[name] for name in ("campaign", "release", "now", "policy")}
    count = await _run(session, _ASSIGN_MARKED, **more, phase=phase, by=by)
    await _run(session, _UNMARK, campaign=s["campaign"])
    return count


async def roll_back_slice(session: AsyncSession, *, phase: int, by: str, back: int | None, **s: Any) -> int:
    """Stop what is open in a slice, and send back whoever runs the release or may be about to; how many."""
    where = {name: s[name] for name in ("campaign", "first", "last")}
    marked = await _run(session, _MARK_BACK, **where, release=s["release"], back=back)
    await _run(session, _STOP_SLICE, **where, now=s["now"], detail="the campaign is rolled back")
    if not marked:
        return 0
    await _run(session, _UNMARK_BUSY, campaign=s["campaign"])
    more = {name: s[name] for name in ("campaign", "now", "policy")}
    count = await _run(session, _ASSIGN_BACK, **more, phase=phase, by=by, back=back)
    await _run(session, _UNMARK, campaign=s["campaign"])
    return count


async def sweep(session: AsyncSession, campaign: int, *, running: bool, now_ns: int, limit: int, detail: str) -> int:
    """Cancel open assignments of a campaign, those that run only when told; how many."""
    states = "'assigned', 'offered', 'running'" if running else "'assigned', 'offered'"
    statement = _SWEEP.format(states=states)
    return await _run(session, statement, campaign=campaign, now=now_ns, limit=limit, detail=detail)


async def time_out(session: AsyncSession, campaign: int, *, now_ns: int, timeout_ns: int, limit: int) -> int:
    """Fail vehicles that have begun and been silent for too long; how many."""
    return await _run(
        session,
        _TIMED_OUT,
        campaign=campaign,
        now=now_ns,
        silent_since=now_ns - timeout_ns,
        limit=limit,
        detail=f"began, and was not heard of for {timeout_ns // 1_000_000_000} s",
    )
