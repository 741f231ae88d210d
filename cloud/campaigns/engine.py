"""Moves campaigns: one ``tick`` looks at all that are alive and takes the steps their rules call for.

Each step is one short transaction that reads the campaign anew and does nothing when somebody was faster, so a tick may
be cut anywhere and repeated at will. Nothing is remembered outside the database. Heavy counting happens on a snapshot,
without holding anyone up.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.audit import SYSTEM, Actor
from cloud.campaigns import slices
from cloud.campaigns.changes import (
    MAX_ATTEMPTS,
    Next,
    end,
    enter_phase,
    go_on,
    pause,
    record_change,
    start_rollback,
    what_next,
)
from cloud.campaigns.core import Facts, Judgement, Verdict, judge
from cloud.campaigns.draw import add_joiners, draw_members, roomy
from cloud.campaigns.facts import dtc_facts, phase_counts, uncounted
from cloud.campaigns.model import ALIVE, CampaignRow, CampaignState, MemberRow, PhaseKind, PhaseRow, PhaseState
from cloud.campaigns.plan import PhasePlan, Plan, last_positions, phases_of
from cloud.clock import Clock
from cloud.config import Campaigns as CampaignsConfig
from cloud.db import Database
from cloud.errors import Conflict
from cloud.log import get_logger
from cloud.updates.model import ReleaseRow, ReleaseState
from gateway.wire.uptane import InstallPolicy

log = get_logger("cloud.campaigns")
SECOND_NS = 1_000_000_000


def plan_of(row: CampaignRow) -> Plan:
    """What was asked for."""
    return msgspec.json.decode(row.plan, type=Plan)


async def phases_rows(session: AsyncSession, campaign_id: int) -> list[PhaseRow]:
    """All phases in their order."""
    query = select(PhaseRow).where(PhaseRow.campaign_id == campaign_id).order_by(PhaseRow.number)
    return list(await session.scalars(query))


def gates_of(plan: Plan, phase: PhaseRow) -> PhasePlan:
    """The gates of a phase; a retry has those of the last one."""
    plans = phases_of(plan)
    return plans[min(phase.number, len(plans)) - 1]


class CampaignEngine:
    """Drives every campaign of one cloud."""

    def __init__(self, db: Database, clock: Clock, config: CampaignsConfig) -> None:
        self._db, self._clock, self._config = db, clock, config

    async def tick(self) -> set[int]:
        """Take the steps that are due, all campaigns in turn by priority; the numbers of those that moved."""
        async with self._db.read() as session:
            is_due = CampaignRow.state.in_([s.value for s in ALIVE]) | (CampaignRow.sweep != "")
            order = (CampaignRow.priority.desc(), CampaignRow.id)
            due = list(await session.scalars(select(CampaignRow.id).where(is_due).order_by(*order)))
        moved: set[int] = set()
        for campaign_id in due:
            try:
                if await self.step(campaign_id):
                    moved.add(campaign_id)
            except Exception as error:  # one campaign must not stop the others
                log.error("campaign_step_failed", campaign=campaign_id, exc_info=error)
        return moved

    async def step(self, campaign_id: int) -> bool:
        """One round for one campaign: True when something changed."""
        now_ns = self._clock.now_ns()
        async with self._db.read() as session:
            row = await session.get(CampaignRow, campaign_id)
            release = await session.get(ReleaseRow, row.release_id) if row else None
        if row is None:
            return False
        moved = bool(row.sweep) and await self._sweep_some(row, now_ns)
        state = CampaignState(row.state)
        is_withdrawn = release is None or release.state == ReleaseState.WITHDRAWN
        if is_withdrawn and state in (CampaignState.SCHEDULED, CampaignState.RUNNING, CampaignState.PAUSED):
            return await self._follow_withdrawal(row, now_ns)
        if state is CampaignState.SCHEDULED:
            return await self._start_when_due(row, now_ns) or moved
        if state in (CampaignState.RUNNING, CampaignState.PAUSED):
            return await self._drive(row, now_ns) or moved
        if state is CampaignState.ROLLING_BACK:
            return await self._drive_rollback(row, now_ns) or moved
        return moved

    # --- start

    async def _start_when_due(self, row: CampaignRow, now_ns: int) -> bool:
        if row.starts_ns > now_ns:
            return False
        try:
            await self.start(row.id, SYSTEM)
        except Conflict as error:
            async with self._db.write() as session:
                fresh = await self._same(session, row)
                if fresh is not None:
                    await end(session, fresh, CampaignState.CANCELLED, SYSTEM, now_ns, f"could not start: {error}")
        return True

    async def start(self, campaign_id: int, actor: Actor) -> int:
        """Draw the members, make the phases, and enter the first; how many vehicles there are.

        Raises:
            Conflict: not in a state to start, the release is not published, or no vehicle needs it.
        """
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            row = await session.get(CampaignRow, campaign_id)
            if row is None or row.state != CampaignState.SCHEDULED:
                raise Conflict(f"campaign {campaign_id} is not waiting for its start")
            release = await session.get(ReleaseRow, row.release_id)
            if release is None or release.state != ReleaseState.PUBLISHED:
                raise Conflict("the release is not published")
            plan = plan_of(row)
            async with roomy(session):
                total = await draw_members(session, row.id, plan, row.seed)
            if not total:
                raise Conflict("no selected vehicle needs the release")
            first = 1
            for number, last in enumerate(last_positions(phases_of(plan), total), 1):
                session.add(
                    PhaseRow(
                        campaign_id=row.id,
                        number=number,
                        kind=PhaseKind.ROLLOUT.value,
                        state=PhaseState.WAITING.value,
                        first=first,
                        last=last,
                        assigned_through=first - 1,
                    )
                )
                first = last + 1
            row.started_ns, row.recounted_ns = now_ns, now_ns
            row.state, row.reason = CampaignState.RUNNING.value, ""
            await session.flush()
            phases = await phases_rows(session, row.id)
            enter_phase(row, phases[0], now_ns)
            record_change(session, row, actor, now_ns, "start", f"{total} vehicles in {len(phases)} phases")
        return total

    # --- a running or paused campaign

    async def _drive(self, row: CampaignRow, now_ns: int) -> bool:
        plan = plan_of(row)
        moved = False
        if row.state == CampaignState.RUNNING:
            moved = await self._assign_some(row, plan, now_ns)
        if now_ns - row.recounted_ns >= self._config.recount_s * SECOND_NS or row.recounted_ns > now_ns:
            moved = await self._recount(row.id, plan, now_ns) or moved
        return await self._judge(row.id, plan, now_ns) or moved

    async def _assign_some(self, row: CampaignRow, plan: Plan, now_ns: int) -> bool:
        """The next slices of the current phase, each in a transaction of its own."""
        moved = False
        for _ in range(self._config.slices_per_tick):
            async with self._db.write() as session:
                fresh = await session.get(CampaignRow, row.id)
                if fresh is None or fresh.state != CampaignState.RUNNING:
                    return moved
                phase = await session.get(PhaseRow, (fresh.id, fresh.phase))
                if phase is None or phase.assigned_through >= phase.last:
                    return moved
                await self._assign_slice(session, fresh, phase, plan, now_ns)
            moved = True
        return moved

    async def _assign_slice(
        self, session: AsyncSession, row: CampaignRow, phase: PhaseRow, plan: Plan, now_ns: int
    ) -> None:
        last = min(phase.assigned_through + self._config.slice_vehicles, phase.last)
        values: dict[str, Any] = {
            "campaign": row.id,
            "release": row.release_id,
            "first": phase.assigned_through + 1,
            "last": last,
            "now": now_ns,
            "policy": await policy_of(session, plan),
        }
        if phase.kind == PhaseKind.RETRY:
            await slices.retry_slice(
                session, phase=phase.number, by=row.created_by, max_attempts=MAX_ATTEMPTS - 1, **values
            )
        else:
            await slices.assign_slice(session, priority=row.priority, phase=phase.number, by=row.created_by, **values)
        phase.assigned_through = last
        row.changed_ns = now_ns

    async def _recount(self, campaign_id: int, plan: Plan, now_ns: int) -> bool:
        """What need not be known at every step: silence, time-outs, vehicles that are free again, late joiners."""
        async with self._db.read() as session:
            row = await session.get(CampaignRow, campaign_id)
            if row is None:
                return False
            out = await uncounted(
                session,
                campaign_id,
                row.phase,
                now_ns=now_ns,
                offline_days=plan.offline_days,
                timeout_ns=plan.vehicle_timeout_s * SECOND_NS,
            )
        limit = self._config.slice_vehicles
        async with self._db.write() as session:
            fresh = await self._same(session, row)
            if fresh is None:
                return False
            phase = await session.get(PhaseRow, (fresh.id, fresh.phase))
            if phase is not None:
                phase.uncounted = out
            timed_out = await slices.time_out(
                session, fresh.id, now_ns=now_ns, timeout_ns=plan.vehicle_timeout_s * SECOND_NS, limit=limit
            )
            freed = joined = 0
            if fresh.state == CampaignState.RUNNING:
                common: dict[str, Any] = {"campaign": fresh.id, "release": fresh.release_id, "now": now_ns}
                common["policy"] = await policy_of(session, plan)
                freed = await slices.assign_freed(session, by=fresh.created_by, limit=limit, **common)
                joined = await self._join(session, fresh, plan, now_ns)
            if max(timed_out, freed) < limit:  # otherwise there is more: look again at the next tick
                fresh.recounted_ns = now_ns
        return bool(timed_out or freed or joined)

    async def _join(self, session: AsyncSession, row: CampaignRow, plan: Plan, now_ns: int) -> int:
        if not plan.late_joiners or row.started_ns is None:
            return 0
        phases = await phases_rows(session, row.id)
        last_phase = [phase for phase in phases if phase.kind == PhaseKind.ROLLOUT][-1]
        top = await session.scalar(select(func.max(MemberRow.position)).where(MemberRow.campaign_id == row.id)) or 0
        joined = await add_joiners(session, row.id, plan, row.seed, row.started_ns, max(top, last_phase.last))
        if joined:
            last_phase.last = max(top, last_phase.last) + joined
            record_change(session, row, SYSTEM, now_ns, "join", f"{joined} vehicles enrolled since")
        return joined

    async def _judge(self, campaign_id: int, plan: Plan, now_ns: int) -> bool:
        async with self._db.read() as session:
            row = await session.get(CampaignRow, campaign_id)
            if row is None or row.state not in (CampaignState.RUNNING, CampaignState.PAUSED):
                return False
            judgement = await self._judgement(session, row, plan, now_ns)
            if judgement.verdict is Verdict.PASSED:
                phases = await phases_rows(session, row.id)
                if await what_next(session, row, plan, phases, now_ns, told=False) is Next.STAY:
                    return False
        if judgement.verdict is Verdict.WAIT:
            return False
        is_alarm = judgement.verdict in (Verdict.FAILURES, Verdict.DTC)
        if row.state == CampaignState.PAUSED and not (is_alarm and plan.on_failure == "roll_back"):
            return False
        async with self._db.write() as session:
            fresh = await self._same(session, row)
            if fresh is None:
                return False
            await self._apply(session, fresh, plan, judgement, now_ns)
        return fresh.revision != row.revision

    async def _judgement(self, session: AsyncSession, row: CampaignRow, plan: Plan, now_ns: int) -> Judgement:
        phases = await phases_rows(session, row.id)
        phase = next(p for p in phases if p.number == row.phase)
        counts = await phase_counts(session, row.id, phases)
        dtc = None
        if plan.dtc_gate is not None and row.started_ns is not None:
            through = max(p.assigned_through for p in phases if p.kind == PhaseKind.ROLLOUT)
            dtc = await dtc_facts(
                session, row.id, plan.dtc_gate, since_ns=row.started_ns, now_ns=now_ns, through=through
            )
        facts = Facts(
            now_ns=now_ns,
            started_ns=phase.started_ns or now_ns,
            is_retry=phase.kind == PhaseKind.RETRY,
            is_assigned=phase.assigned_through >= phase.last,
            counts=counts[phase.number],
            accepted_reported=phase.accepted_reported,
            accepted_failed=phase.accepted_failed,
            reported_in_all=sum(c.reported for c in counts.values()),
            dtc=dtc,
            dtc_accepted=row.dtc_accepted,
        )
        return judge(gates_of(plan, phase), plan.dtc_gate, facts)

    async def _apply(
        self, session: AsyncSession, row: CampaignRow, plan: Plan, judgement: Judgement, now_ns: int
    ) -> None:
        if judgement.verdict is Verdict.PASSED:
            phases = await phases_rows(session, row.id)
            where = await what_next(session, row, plan, phases, now_ns, told=False)
            if where is not Next.STAY:
                await go_on(session, row, phases, where, SYSTEM, now_ns, told="")
            return
        gate = f"gate:{judgement.verdict.value}"
        if plan.on_failure == "roll_back" and judgement.verdict is not Verdict.THRESHOLD:
            try:
                await start_rollback(session, row, SYSTEM, now_ns, withdraw=True, reason=judgement.reason)
                return
            except Conflict as error:
                judgement = Judgement(judgement.verdict, f"{judgement.reason}; cannot go back: {error}"[:400])
                await end(
                    session, row, CampaignState.WITHDRAWN, SYSTEM, now_ns, judgement.reason, sweep="all", withdraw=True
                )
                return
        pause(session, row, SYSTEM, now_ns, by=gate, reason=judgement.reason)

    # --- the ends

    async def _sweep_some(self, row: CampaignRow, now_ns: int) -> bool:
        """Cancel what is still open of an ended campaign, some at a time."""
        async with self._db.write() as session:
            fresh = await session.get(CampaignRow, row.id)
            if fresh is None or not fresh.sweep:
                return False
            limit = self._config.slice_vehicles
            swept = await slices.sweep(
                session,
                row.id,
                running=fresh.sweep == "all",
                now_ns=now_ns,
                limit=limit,
                detail=fresh.reason or fresh.state,
            )
            if swept < limit:
                fresh.sweep = ""
            fresh.changed_ns = now_ns
        return True

    async def sweep_all(self, campaign_id: int) -> None:
        """Cancel what is open of an ended campaign, until nothing is left."""
        while True:
            async with self._db.read() as session:
                row = await session.get(CampaignRow, campaign_id)
            if row is None or not row.sweep or not await self._sweep_some(row, self._clock.now_ns()):
                return

    async def _follow_withdrawal(self, row: CampaignRow, now_ns: int) -> bool:
        async with self._db.write() as session:
            fresh = await self._same(session, row)
            if fresh is None:
                return False
            await end(
                session, fresh, CampaignState.WITHDRAWN, SYSTEM, now_ns, "the release has been withdrawn", sweep="all"
            )
        return True

    async def _drive_rollback(self, row: CampaignRow, now_ns: int) -> bool:
        moved = False
        for _ in range(self._config.slices_per_tick):
            async with self._db.write() as session:
                fresh = await session.get(CampaignRow, row.id)
                if fresh is None or fresh.state != CampaignState.ROLLING_BACK:
                    return moved
                phase = await session.get(PhaseRow, (fresh.id, fresh.phase))
                if phase is None:
                    return moved
                if phase.assigned_through >= phase.last:
                    return await self._end_rollback(session, fresh, phase, now_ns) or moved
                last = min(phase.assigned_through + self._config.slice_vehicles, phase.last)
                await slices.roll_back_slice(
                    session,
                    phase=phase.number,
                    by=fresh.paused_by or fresh.created_by,
                    back=fresh.rollback_release,
                    campaign=fresh.id,
                    release=fresh.release_id,
                    first=phase.assigned_through + 1,
                    last=last,
                    now=now_ns,
                    policy=WAY_BACK,
                )
                phase.assigned_through, fresh.changed_ns = last, now_ns
            moved = True
        return moved

    async def _end_rollback(self, session: AsyncSession, row: CampaignRow, phase: PhaseRow, now_ns: int) -> bool:
        counts = (await phase_counts(session, row.id, [phase]))[phase.number]
        if counts.open:
            return False
        phase.state, phase.finished_ns = PhaseState.PASSED.value, now_ns
        reason = f"{row.reason}; {counts.succeeded} of {counts.told} vehicles went back".removeprefix("; ")
        await end(session, row, CampaignState.ROLLED_BACK, SYSTEM, now_ns, reason)
        return True

    async def _same(self, session: AsyncSession, seen: CampaignRow) -> CampaignRow | None:
        """The campaign, if nobody has changed it since it was read."""
        fresh = await session.get(CampaignRow, seen.id)
        return fresh if fresh is not None and fresh.revision == seen.revision else None


#: Of assignments that send a vehicle back: no window, no question, over any link. The vehicle's own preconditions hold.
WAY_BACK = msgspec.json.encode(InstallPolicy(is_critical=True))


async def policy_of(session: AsyncSession, plan: Plan) -> bytes:
    """The policy as assignments carry it: what the plan says, and never less careful than the release."""
    release = await session.get(ReleaseRow, plan.release)
    policy = plan.policy
    if release is not None:
        needs_consent = policy.needs_consent or release.needs_consent
        is_critical = policy.is_critical or release.is_critical
        policy = msgspec.structs.replace(policy, needs_consent=needs_consent, is_critical=is_critical)
    return msgspec.json.encode(policy)
