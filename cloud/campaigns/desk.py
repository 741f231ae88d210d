"""What people do with campaigns: make, look at, and act on them. Roles are checked by the routes."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import case, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.audit import Actor
from cloud.auth.model import AuditRow
from cloud.campaigns import changes
from cloud.campaigns.core import Action, is_legal
from cloud.campaigns.draw import EXCLUDED, candidates
from cloud.campaigns.engine import CampaignEngine, phases_rows, plan_of
from cloud.campaigns.facts import DAY_NS, dtc_facts, phase_counts
from cloud.campaigns.model import CampaignRow, CampaignState
from cloud.campaigns.plan import Plan, check_plan, last_positions, phases_of
from cloud.campaigns.views import (
    AuditEntry,
    CampaignItem,
    CampaignView,
    Selected,
    campaign_view,
    totals,
)
from cloud.clock import Clock
from cloud.config import Campaigns as CampaignsConfig
from cloud.db import Database
from cloud.errors import Conflict, InvalidInput, NotAllowed, NotFound
from cloud.ingest.model import CheckInRow
from cloud.updates.model import OPEN_ASSIGNMENTS, AssignmentRow, ReleaseRow, ReleaseState

MAX_STRATA = 50
MAX_REASON_CHARS = 300


class ActionOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """More about an action. What does not belong to it is refused."""

    reason: str = ""
    stop_running: bool = False  # cancel: vehicles that have begun are stopped, too
    release: int | None = None  # roll_back: where to; None: for each vehicle what it ran before
    withdraw: bool = False  # roll_back: never offer the release again


class CampaignDesk:
    """All campaigns of one cloud."""

    def __init__(self, db: Database, clock: Clock, config: CampaignsConfig, engine: CampaignEngine) -> None:
        self._db, self._clock, self._config, self._engine = db, clock, config, engine

    # --- make

    async def create(self, plan: Plan, actor: Actor) -> CampaignView:
        """A draft.

        Raises:
            InvalidInput: the plan cannot be meant.
            NotFound: there is no such release.
            Conflict: the release is withdrawn.
        """
        check_plan(plan)
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            await self._check_releases(session, plan)
            row = CampaignRow(
                name=plan.name.strip(),
                release_id=plan.release,
                state=CampaignState.DRAFT.value,
                plan=msgspec.json.encode(plan),
                seed=secrets.randbits(48) if plan.seed is None else plan.seed,
                priority=plan.priority,
                revision=0,
                created_ns=now_ns,
                created_by=actor.name[:80],
                starts_ns=plan.starts_ns,
                rollback_release=plan.rollback_release,
                changed_ns=now_ns,
            )
            session.add(row)
            await session.flush()
            changes.record_change(session, row, actor, now_ns, "create", f"{row.name}: release {plan.release}")
            campaign_id = row.id
        return await self.get(campaign_id)

    async def change(self, campaign_id: int, plan: Plan, actor: Actor) -> CampaignView:
        """Another plan for a draft. Raises as ``create``, and ``Conflict`` when it is no draft any more."""
        check_plan(plan)
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            row = await self._row(session, campaign_id)
            if row.state != CampaignState.DRAFT:
                raise Conflict(f"campaign {campaign_id} is {row.state}; only drafts change")
            await self._check_releases(session, plan)
            row.name, row.release_id, row.priority = plan.name.strip(), plan.release, plan.priority
            row.plan, row.starts_ns = msgspec.json.encode(plan), plan.starts_ns
            row.rollback_release = plan.rollback_release
            row.seed = row.seed if plan.seed is None else plan.seed
            changes.record_change(session, row, actor, now_ns, "change", f"{row.name}: release {plan.release}")
        return await self.get(campaign_id)

    async def _check_releases(self, session: AsyncSession, plan: Plan) -> None:
        for release_id, where in ((plan.release, "release"), (plan.rollback_release, "rollback_release")):
            if release_id is None:
                continue
            release = await session.get(ReleaseRow, release_id)
            if release is None:
                raise NotFound(f"there is no release {release_id} - at {where}")
            if release.state == ReleaseState.WITHDRAWN:
                raise Conflict(f"release {release.name!r} is withdrawn")
        if plan.rollback_release == plan.release:
            raise InvalidInput("another release than the campaign's", where="rollback_release")

    async def count(self, plan: Plan) -> Selected:
        """Who would be updated, and who not and why. Raises as ``create``."""
        check_plan(plan)
        async with self._db.read() as session:
            await self._check_releases(session, plan)
            rows = (await session.execute(_by_stratum(plan, self._clock.now_ns()))).all()
        strata = [row for row in rows if row.reason == ""]
        members = sum(row.vehicles for row in strata)
        counted: dict[str, int] = {}
        for row in rows:
            if row.reason:
                counted[row.reason] = counted.get(row.reason, 0) + int(row.vehicles)
        ends = last_positions(phases_of(plan), members)
        return Selected(
            selected=members + sum(counted.values()),
            members=members,
            excluded=counted,
            excluded_words={reason: EXCLUDED[reason] for reason in counted},
            phases=[end - start for start, end in zip([0, *ends], ends, strict=False)],
            strata=[
                {"model": s.model, "region": s.region, "usage": s.usage, "vehicles": s.vehicles, "critical": s.critical}
                for s in sorted(strata, key=lambda s: (-s.vehicles, s.model, s.region, s.usage))[:MAX_STRATA]
            ],
            strata_total=len(strata),
            critical=sum(row.critical for row in strata),
            offline=sum(row.offline for row in strata),
            busy=sum(row.busy for row in strata),
        )

    # --- look

    async def _row(self, session: AsyncSession, campaign_id: int) -> CampaignRow:
        row = await session.get(CampaignRow, campaign_id)
        if row is None:
            raise NotFound(f"there is no campaign {campaign_id}")
        return row

    async def get(self, campaign_id: int) -> CampaignView:
        """One campaign with its phases. ``NotFound`` when there is none."""
        async with self._db.read() as session:
            row = await self._row(session, campaign_id)
            release = await session.get(ReleaseRow, row.release_id)
            phases = await phases_rows(session, campaign_id)
            counts = await phase_counts(session, campaign_id, phases)
        mark = hashlib.sha256(f"{row.revision} {row.changed_ns} {row.sweep} {counts}".encode()).hexdigest()[:16]
        return campaign_view(row, release.name if release else "", plan_of(row), phases, counts, mark)

    async def list(self, limit: int, offset: int, state: str = "") -> tuple[list[CampaignItem], int]:
        """Newest first."""
        query, count = select(CampaignRow), select(func.count()).select_from(CampaignRow)
        if state:
            query, count = query.where(CampaignRow.state == state), count.where(CampaignRow.state == state)
        async with self._db.read() as session:
            rows = list(await session.scalars(query.order_by(CampaignRow.id.desc()).limit(limit).offset(offset)))
            names = await session.execute(
                select(ReleaseRow.id, ReleaseRow.name).where(ReleaseRow.id.in_({row.release_id for row in rows}))
            )
            releases = {int(id_): str(name) for id_, name in names}
            items = []
            for row in rows:
                phases = await phases_rows(session, row.id)
                members, by_state = totals(phases, await phase_counts(session, row.id, phases))
                items.append(
                    CampaignItem(
                        id=row.id,
                        name=row.name,
                        state=row.state,
                        reason=row.reason,
                        release_id=row.release_id,
                        release=releases.get(row.release_id, ""),
                        phase=row.phase,
                        phases=len(phases) or len(phases_of(plan_of(row))),
                        members=members,
                        totals=by_state,
                        created_ns=row.created_ns,
                        created_by=row.created_by,
                        started_ns=row.started_ns,
                        finished_ns=row.finished_ns,
                        changed_ns=row.changed_ns,
                    )
                )
            return items, await session.scalar(count) or 0

    async def audit(self, campaign_id: int, limit: int, offset: int) -> tuple[Sequence[AuditEntry], int]:
        """What was done to a campaign, newest first."""
        mine = AuditRow.target == f"campaign {campaign_id}"
        async with self._db.read() as session:
            await self._row(session, campaign_id)
            query = select(AuditRow).where(mine).order_by(AuditRow.id.desc()).limit(limit).offset(offset)
            rows = list(await session.scalars(query))
            total = await session.scalar(select(func.count()).select_from(AuditRow).where(mine)) or 0
        entries = [AuditEntry(at_ns=r.at_ns, actor=r.actor, action=r.action, detail=r.detail) for r in rows]
        return entries, total

    # --- act

    async def act(self, campaign_id: int, action: Action, order: ActionOrder, actor: Actor) -> CampaignView:
        """Take an action.

        Raises:
            NotFound: no such campaign.
            Conflict: not in this state, or something stands against it; the text says what.
            NotAllowed: who made a campaign may not approve it, where four eyes are asked for.
        """
        if len(order.reason) > MAX_REASON_CHARS or not order.reason.isprintable():
            raise InvalidInput(f"at most {MAX_REASON_CHARS} printable characters", where="reason")
        now_ns = self._clock.now_ns()
        if action is Action.START:
            async with self._db.write() as session:
                await self._legal(session, campaign_id, action)
            await self._engine.start(campaign_id, actor)
        else:
            async with self._db.write() as session:
                row = await self._legal(session, campaign_id, action)
                await self._take(session, row, action, order, actor, now_ns)
        await self._engine.sweep_all(campaign_id)
        return await self.get(campaign_id)

    async def _legal(self, session: AsyncSession, campaign_id: int, action: Action) -> CampaignRow:
        row = await self._row(session, campaign_id)
        if not is_legal(CampaignState(row.state), action):
            raise Conflict(f"campaign {campaign_id} is {row.state}: it cannot {action.value.replace('_', ' ')} now")
        return row

    async def _take(
        self, session: AsyncSession, row: CampaignRow, action: Action, order: ActionOrder, actor: Actor, now_ns: int
    ) -> None:
        why = order.reason or f"by {actor.name}"
        if action in (Action.SUBMIT, Action.APPROVE, Action.REJECT):
            await self._decide(session, row, action, actor, now_ns, order.reason)
        elif action is Action.PAUSE:
            changes.pause(session, row, actor, now_ns, by=actor.name, reason=order.reason)
        elif action is Action.RESUME:
            await self._resume(session, row, actor, now_ns, order.reason)
        elif action is Action.CANCEL:
            sweep = "all" if order.stop_running else "open"
            await changes.end(session, row, CampaignState.CANCELLED, actor, now_ns, why, sweep=sweep)
        elif action is Action.WITHDRAW:
            await changes.end(session, row, CampaignState.WITHDRAWN, actor, now_ns, why, sweep="all", withdraw=True)
        elif action is Action.ROLL_BACK:
            if order.release is not None:
                row.rollback_release = order.release
            await changes.start_rollback(session, row, actor, now_ns, withdraw=order.withdraw, reason=why)
        else:
            await self._forward(session, row, action, actor, now_ns, order.reason)

    async def _decide(
        self, session: AsyncSession, row: CampaignRow, action: Action, actor: Actor, now_ns: int, reason: str
    ) -> None:
        if action is Action.REJECT:
            row.state, row.reason, row.approved_ns, row.approved_by = CampaignState.DRAFT.value, reason, None, ""
            changes.record_change(session, row, actor, now_ns, "reject", reason)
            return
        release = await session.get(ReleaseRow, row.release_id)
        if release is None or release.state != ReleaseState.PUBLISHED:
            raise Conflict("the release is not published")
        row.reason = reason
        if action is Action.SUBMIT and self._config.needs_approval:
            row.state = CampaignState.WAITING.value
            changes.record_change(session, row, actor, now_ns, "submit", reason)
            return
        if action is Action.APPROVE and self._config.four_eyes and actor.name == row.created_by:
            raise NotAllowed("somebody else than who made the campaign must approve it")
        row.state, row.approved_ns, row.approved_by = CampaignState.SCHEDULED.value, now_ns, actor.name[:80]
        what = "approve" if action is Action.APPROVE else "submit"
        changes.record_change(session, row, actor, now_ns, what, reason)

    async def _resume(self, session: AsyncSession, row: CampaignRow, actor: Actor, now_ns: int, reason: str) -> None:
        """Go on; what has been seen so far does not trip a gate again."""
        detail = ""
        if row.paused_by.startswith("gate:"):
            detail = await self._accept(session, row, now_ns)
        row.state, row.paused_by, row.reason = CampaignState.RUNNING.value, "", ""
        changes.record_change(session, row, actor, now_ns, "resume", f"{reason}; {detail}".strip("; "))

    async def _accept(self, session: AsyncSession, row: CampaignRow, now_ns: int) -> str:
        phases = await phases_rows(session, row.id)
        counts = await phase_counts(session, row.id, phases)
        current = next(p for p in phases if p.number == row.phase)
        changes.accept_outcomes(current, counts[current.number])
        plan = plan_of(row)
        if plan.dtc_gate is not None and row.started_ns is not None:
            through = max(p.assigned_through for p in phases)
            facts = await dtc_facts(
                session, row.id, plan.dtc_gate, since_ns=row.started_ns, now_ns=now_ns, through=through
            )
            row.dtc_accepted = facts.updated
        return f"accepted: {counts[current.number].failures} failures, {row.dtc_accepted} vehicles with new codes"

    async def _forward(
        self, session: AsyncSession, row: CampaignRow, action: Action, actor: Actor, now_ns: int, reason: str
    ) -> None:
        phases = await phases_rows(session, row.id)
        if action is Action.RETRY:
            await changes.start_retry(session, row, phases, actor, now_ns, reason)
            return
        if action is Action.FINISH:
            told = reason or f"finished by {actor.name}"
            await changes.end(session, row, CampaignState.SUCCEEDED, actor, now_ns, told, sweep="open")
            return
        current = next(p for p in phases if p.number == row.phase)
        if current.assigned_through < current.last:
            raise Conflict(f"phase {current.number} is still being assigned")
        where = await changes.what_next(session, row, plan_of(row), phases, now_ns, told=True)
        told = reason or f"{actor.name} goes on from phase {current.number}"
        if where is changes.Next.STAY:
            raise Conflict("there is nothing to go on to")
        await self._accept(session, row, now_ns)
        await changes.go_on(session, row, phases, where, actor, now_ns, told=told)

    async def erase(self, vehicle_id: str) -> None:
        """Forget a vehicle; its place stays empty."""
        async with self._db.write() as session:
            for table in ("campaign_vehicles", "assignments"):
                await session.execute(text(f"DELETE FROM {table} WHERE vehicle_id = :id"), {"id": vehicle_id})


def _by_stratum(plan: Plan, now_ns: int) -> Any:
    """One pass over the selected vehicles: how many there are by stratum and reason to leave them out."""
    found = candidates(plan)
    oldest_ns = now_ns - int(plan.offline_days * DAY_NS)
    is_open = AssignmentRow.state.in_([state.value for state in OPEN_ASSIGNMENTS])
    is_offline = func.coalesce(CheckInRow.received_ns, 0) < oldest_ns
    stratum = (found.c.reason, found.c.model, found.c.region, found.c.usage)
    return (
        select(
            *stratum,
            func.count().label("vehicles"),
            func.sum(case((found.c.is_critical, 1), else_=0)).label("critical"),
            func.sum(case((is_offline, 1), else_=0)).label("offline"),
            func.count(AssignmentRow.id).label("busy"),
        )
        .select_from(
            found.outerjoin(CheckInRow.__table__, CheckInRow.vehicle_id == found.c.id).outerjoin(
                AssignmentRow.__table__, (AssignmentRow.vehicle_id == found.c.id) & is_open
            )
        )
        .group_by(*stratum)
    )
