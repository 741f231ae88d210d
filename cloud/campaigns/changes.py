"""Transitions of a campaign within an open transaction: each raises the revision and is audited."""

from __future__ import annotations

from enum import Enum
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.audit import Actor, record
from cloud.campaigns.core import PhaseCounts
from cloud.campaigns.model import CampaignRow, CampaignState, MemberRow, PhaseKind, PhaseRow, PhaseState
from cloud.campaigns.plan import Plan
from cloud.errors import Conflict
from cloud.updates.model import OPEN_ASSIGNMENTS, AssignmentRow, AssignmentState, ReleaseRow, ReleaseState

#: No vehicle is tried more often than this, whoever asks.
MAX_ATTEMPTS = 10
MAX_REASON_CHARS = 400

_RETRYABLE = """
SELECT count(*) FROM assignments f
JOIN campaign_vehicles m ON m.campaign_id = f.campaign_id AND m.vehicle_id = f.vehicle_id AND m.attempts = f.attempt
WHERE f.campaign_id = :campaign AND f.state = 'failed' AND NOT f.is_rollback
AND f.phase IN (SELECT number FROM campaign_phases WHERE campaign_id = :campaign) AND m.attempts < :max_attempts"""

# For each hardware id of a release the counter of its image; whole images only.
_COUNTERS = """
SELECT h.value, max(i.release_counter) FROM release_images r JOIN images i ON i.id = r.image_id
JOIN json_each(CAST(i.hardware_ids AS TEXT)) h
WHERE r.release_id = :release AND i.kind IN ('rootfs', 'firmware') GROUP BY h.value"""


class Next(Enum):
    """Where a campaign goes when a phase is over."""

    STAY = "stay"
    PHASE = "phase"
    RETRY = "retry"
    END = "end"


def record_change(session: AsyncSession, row: CampaignRow, actor: Actor, now_ns: int, what: str, detail: str) -> None:
    """Raise the revision, and write down who did what."""
    row.revision += 1
    row.changed_ns = now_ns
    record(session, actor, now_ns, f"campaign.{what}", f"campaign {row.id}", detail)


def enter_phase(row: CampaignRow, phase: PhaseRow, now_ns: int) -> None:
    """Make a phase the current one."""
    if phase.started_ns is None:
        phase.started_ns = now_ns
    phase.state, phase.finished_ns = PhaseState.RUNNING.value, None
    row.phase, row.recounted_ns = phase.number, 0


def pause(session: AsyncSession, row: CampaignRow, actor: Actor, now_ns: int, *, by: str, reason: str) -> None:
    """Add no more vehicles."""
    row.state, row.paused_by, row.reason = CampaignState.PAUSED.value, by[:80], reason[:MAX_REASON_CHARS]
    record_change(session, row, actor, now_ns, "pause", f"{by}: {reason}")


def waiting_phase(phases: list[PhaseRow]) -> PhaseRow | None:
    """The next phase of the rollout that has vehicles to assign; one that late joiners have made longer counts."""
    return next((p for p in phases if p.kind == PhaseKind.ROLLOUT and p.assigned_through < p.last), None)


async def retryable(session: AsyncSession, campaign_id: int) -> int:
    """Vehicles that failed without changing anything, and may be tried again."""
    values = {"campaign": campaign_id, "max_attempts": MAX_ATTEMPTS}
    return await session.scalar(text(_RETRYABLE), values) or 0


async def what_next(
    session: AsyncSession, row: CampaignRow, plan: Plan, phases: list[PhaseRow], now_ns: int, *, told: bool
) -> Next:
    """Where it goes from here. ``told``: a person says so, which is what a manual campaign waits for."""
    current = next(p for p in phases if p.number == row.phase)
    following = waiting_phase(phases)
    if following is not None and following.number != current.number:
        return Next.PHASE if told or plan.strategy != "manual" or current.kind == PhaseKind.RETRY else Next.STAY
    if following is not None:
        return Next.STAY  # joiners have come; they are assigned first
    retries = sum(p.kind == PhaseKind.RETRY for p in phases)
    if retries < plan.retries and await retryable(session, row.id):
        return Next.RETRY
    return Next.STAY if now_ns < plan.open_until_ns and not told else Next.END


async def go_on(
    session: AsyncSession,
    row: CampaignRow,
    phases: list[PhaseRow],
    where: Next,
    actor: Actor,
    now_ns: int,
    *,
    told: str,
) -> None:
    """Leave the current phase for what ``what_next`` said. ``told``: in words, why."""
    current = next(p for p in phases if p.number == row.phase)
    is_left = bool(told)
    current.state = (PhaseState.LEFT if is_left else PhaseState.PASSED).value
    current.finished_ns = now_ns
    row.state, row.paused_by, row.reason = CampaignState.RUNNING.value, "", ""
    words = told or f"phase {current.number} passed"
    if where is Next.PHASE:
        following = waiting_phase(phases)
        assert following is not None  # what_next has seen it
        enter_phase(row, following, now_ns)
        record_change(session, row, actor, now_ns, "phase", f"{words}; phase {following.number} begins")
    elif where is Next.RETRY:
        await start_retry(session, row, phases, actor, now_ns, words)
    else:
        await end(session, row, CampaignState.SUCCEEDED, actor, now_ns, told or "all phases have passed")


async def start_retry(
    session: AsyncSession, row: CampaignRow, phases: list[PhaseRow], actor: Actor, now_ns: int, words: str
) -> None:
    """A phase of its own for the vehicles that failed."""
    count = await retryable(session, row.id)
    if not count:
        raise Conflict("no vehicle failed that may be tried again")
    for phase in phases:
        if phase.state == PhaseState.RUNNING:
            phase.state, phase.finished_ns = PhaseState.LEFT.value, now_ns
    phase = await _whole_phase(session, row, phases, PhaseKind.RETRY)
    through = max((p.assigned_through for p in phases if p.kind == PhaseKind.ROLLOUT), default=0)
    phase.last = min(phase.last, through)
    enter_phase(row, phase, now_ns)
    row.state, row.paused_by, row.reason = CampaignState.RUNNING.value, "", ""
    record_change(session, row, actor, now_ns, "retry", f"{words}; {count} vehicles are tried again".removeprefix("; "))


async def end(
    session: AsyncSession,
    row: CampaignRow,
    state: CampaignState,
    actor: Actor,
    now_ns: int,
    reason: str,
    *,
    sweep: str = "",
    withdraw: bool = False,
) -> None:
    """Come to an end.

    Args:
        session: the open transaction.
        row: the campaign.
        state: one of the ends.
        actor: who.
        now_ns: now.
        reason: for people.
        sweep: which open assignments shall be cancelled: "open" those not begun, "all", "" none.
        withdraw: never offer the release again.
    """
    row.state, row.reason, row.finished_ns, row.sweep = state.value, reason[:MAX_REASON_CHARS], now_ns, sweep
    if state is not CampaignState.SUCCEEDED:
        running = (PhaseRow.campaign_id == row.id) & (PhaseRow.state == PhaseState.RUNNING.value)
        values = {"state": PhaseState.LEFT.value, "finished_ns": now_ns}
        await session.execute(update(PhaseRow).where(running).values(values).execution_options(**_QUIET))
    record_change(session, row, actor, now_ns, state.value, reason)
    if withdraw:
        await withdraw_release(session, row.release_id, actor, now_ns, f"campaign {row.id}: {reason}")


_QUIET: dict[str, Any] = {"synchronize_session": "fetch"}


async def withdraw_release(session: AsyncSession, release_id: int, actor: Actor, now_ns: int, reason: str) -> None:
    """Never offer a release again, and take it from vehicles to which it was assigned one by one."""
    release = await session.get(ReleaseRow, release_id)
    if release is None or release.state == ReleaseState.WITHDRAWN:
        return
    release.state = ReleaseState.WITHDRAWN.value
    single = (
        (AssignmentRow.release_id == release_id)
        & AssignmentRow.campaign_id.is_(None)
        & AssignmentRow.state.in_([s.value for s in OPEN_ASSIGNMENTS])
    )
    values = {"state": AssignmentState.CANCELLED.value, "finished_ns": now_ns, "detail": "the release was withdrawn"}
    await session.execute(
        update(AssignmentRow).where(single).values(values).execution_options(synchronize_session=False)
    )
    record(session, actor, now_ns, "release.withdraw", f"release {release_id}", reason)


async def start_rollback(
    session: AsyncSession, row: CampaignRow, actor: Actor, now_ns: int, *, withdraw: bool, reason: str
) -> None:
    """Begin to send vehicles back.

    Raises:
        Conflict: no vehicle has been assigned, or the vehicles would refuse what they came from.
    """
    await check_rollback(session, row)
    phases = list(await session.scalars(select(PhaseRow).where(PhaseRow.campaign_id == row.id)))
    for phase in phases:
        if phase.state == PhaseState.RUNNING:
            phase.state, phase.finished_ns = PhaseState.LEFT.value, now_ns
    row.state, row.reason, row.sweep = CampaignState.ROLLING_BACK.value, reason[:MAX_REASON_CHARS], ""
    row.finished_ns = None
    enter_phase(row, await _whole_phase(session, row, phases, PhaseKind.ROLLBACK), now_ns)
    record_change(session, row, actor, now_ns, "roll_back", reason)
    if withdraw:
        await withdraw_release(session, row.release_id, actor, now_ns, f"campaign {row.id}: {reason}")


async def _whole_phase(session: AsyncSession, row: CampaignRow, phases: list[PhaseRow], kind: PhaseKind) -> PhaseRow:
    last = await session.scalar(select(func.max(MemberRow.position)).where(MemberRow.campaign_id == row.id)) or 0
    phase = PhaseRow(
        campaign_id=row.id,
        number=max((p.number for p in phases), default=0) + 1,
        kind=kind.value,
        state=PhaseState.WAITING.value,
        first=1,
        last=last,
        assigned_through=0,
        uncounted=0,
        accepted_reported=0,
        accepted_failed=0,
    )
    session.add(phase)
    return phase


async def check_rollback(session: AsyncSession, row: CampaignRow) -> list[int]:
    """The releases that vehicles would go back to.

    Raises:
        Conflict: there is none, it is withdrawn, or its counter is lower, so that vehicles would refuse it.
    """
    told = row.rollback_release
    query = select(MemberRow.previous_release).where(MemberRow.campaign_id == row.id, MemberRow.attempts > 0).distinct()
    found = [told] if told is not None else [r for r in await session.scalars(query) if r is not None]
    if not found:
        raise Conflict("no published release holds what the updated vehicles ran before; name one to go back to")
    newer = await _counters(session, row.release_id)
    usable: list[int] = []
    for release_id in found:
        release = await session.get(ReleaseRow, release_id)
        if release is None or release.state != ReleaseState.PUBLISHED or release_id == row.release_id:
            if told is not None:
                raise Conflict(f"release {release_id} is not another published release")
            continue
        older = await _counters(session, release_id)
        if told is not None and (missing := set(newer) - set(older)):
            raise Conflict(f"release {release.name!r} has no image for {', '.join(sorted(missing))}")
        for hardware, counter in sorted(older.items()):
            if counter < newer.get(hardware, counter):
                raise Conflict(
                    f"release {release.name!r} has release counter {counter} for {hardware}; vehicles that run "
                    f"counter {newer[hardware]} refuse it as a step back"
                )
        usable.append(release_id)
    if not usable:
        raise Conflict("the releases that the updated vehicles ran before are withdrawn")
    return usable


async def _counters(session: AsyncSession, release_id: int) -> dict[str, int]:
    rows = await session.execute(text(_COUNTERS), {"release": release_id})
    return {str(hardware): int(counter) for hardware, counter in rows}


def accept_outcomes(phase: PhaseRow, counts: PhaseCounts) -> None:
    """An operator has seen these outcomes and goes on: gates count from here."""
    phase.accepted_reported, phase.accepted_failed = counts.reported, counts.failures
