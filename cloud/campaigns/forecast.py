"""When a campaign will be over and what it will cost in data: before it starts, and while it runs.

How long a phase takes is read from the fleet. The time since a vehicle was last heard of is distributed like the time
until it is heard of next, so the share of vehicles heard of within the last hour is the share that can be reached in
the next one. Once enough vehicles of the campaign have reported, the times they really took are used instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import and_, case, func, literal, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.campaigns.draw import candidates, fits, targets_of
from cloud.campaigns.engine import phases_rows, plan_of
from cloud.campaigns.facts import DAY_NS, phase_counts
from cloud.campaigns.model import ENDS, CampaignRow, MemberRow, PhaseKind
from cloud.campaigns.plan import PhasePlan, Plan, check_plan, last_positions, phases_of
from cloud.clock import Clock
from cloud.config import Campaigns as CampaignsConfig
from cloud.db import Database
from cloud.errors import NotFound
from cloud.ingest.model import CheckInRow
from cloud.updates.model import DeltaImageRow, ImageRow, ReleaseRow, VehicleEcuRow
from gateway.wire.uptane import InstallPolicy

MINUTE_NS, HOUR_NS = 60_000_000_000, 3_600_000_000_000
#: Bounds of the buckets in which times are counted.
BOUNDS_NS = (
    *(minutes * MINUTE_NS for minutes in (1, 5, 15, 30)),
    *(hours * HOUR_NS for hours in (1, 2, 4, 8, 12)),
    *(days * DAY_NS for days in (1, 2, 3, 5, 7, 14, 30, 60, 120)),
)
INSTALL_NS = 30 * MINUTE_NS  # from the check-in to the report after the boot, as long as nothing was measured
MEASURED_MIN = 20  # outcomes that make a measurement
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Times:
    """How many of ``total`` were not later than each of ``BOUNDS_NS``."""

    within: tuple[int, ...]
    total: int

    def quantile_ns(self, share: float) -> int | None:
        """By when this share had come; None: never, as far as is known. Linear between the bounds."""
        wanted = share * self.total
        if self.total <= 0:
            return None
        below, from_ns = 0, 0
        for bound_ns, count in zip(BOUNDS_NS, self.within, strict=True):
            if count >= wanted:
                part = (wanted - below) / (count - below) if count > below else 0.0
                return from_ns + int(part * (bound_ns - from_ns))
            below, from_ns = count, bound_ns
        return None


class PhaseForecast(msgspec.Struct, frozen=True, kw_only=True):
    """When a phase begins and ends."""

    number: int
    vehicles: int
    starts_ns: int
    ends_ns: int
    late_ns: int


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What to expect. ``late_ns`` reckons with the next window missed each time."""

    basis: str  # "check-ins" or "measured"
    vehicles: int
    reachable: int  # heard of within ``offline_days``
    phases: list[PhaseForecast]
    ends_ns: int | None  # None: over, or nothing is known
    late_ns: int | None
    bytes_total: int  # of what is still to be sent
    bytes_full: int  # the same without deltas
    bytes_per_vehicle: float
    price_per_mb: float
    cost: float
    notes: list[str]


def window_wait_ns(policy: InstallPolicy) -> int:
    """The longest wait for the next maintenance window."""
    wait_min = 0
    if policy.window_start_min is not None and policy.window_end_min is not None:
        wait_min = 1440 - (policy.window_end_min - policy.window_start_min) % 1440
    days = len(set(policy.window_days))
    return wait_min * MINUTE_NS + ((7 - days) * DAY_NS if days else 0)


def phase_ns(phase: PhasePlan, times: Times, policy: InstallPolicy, *, is_measured: bool) -> tuple[int, int] | None:
    """(usual, late) duration of a phase; None when nobody is known to come."""
    reached_ns = times.quantile_ns(phase.reported_share)
    if reached_ns is None:
        return None
    window_ns = 0 if is_measured else window_wait_ns(policy)
    install_ns = 0 if is_measured else INSTALL_NS
    minimum_ns = phase.min_duration_s * 1_000_000_000
    usual_ns, late_ns = reached_ns + install_ns + window_ns // 2, reached_ns + install_ns + window_ns
    return max(minimum_ns, usual_ns), max(minimum_ns, late_ns)


def lay_out(
    plan: Plan, sizes: Sequence[int], times: Times, *, starts_ns: int, now_ns: int, first: int, is_measured: bool
) -> list[PhaseForecast]:
    """The phases from number ``first`` on, one after the other; none when nobody is known to come."""
    laid: list[PhaseForecast] = []
    start_ns = late_start_ns = starts_ns
    for number, phase in enumerate(phases_of(plan), 1):
        if number < first:
            continue
        lasts = phase_ns(phase, times, plan.policy, is_measured=is_measured)
        if lasts is None:
            return []
        size = sizes[number - 1]
        ends_ns = max(now_ns, start_ns + (lasts[0] if size else 0))
        late_ns = max(now_ns, late_start_ns + (lasts[1] if size else 0))
        laid.append(PhaseForecast(number=number, vehicles=size, starts_ns=start_ns, ends_ns=ends_ns, late_ns=late_ns))
        start_ns, late_start_ns = ends_ns, late_ns
    return laid


class Forecaster:
    """Forecasts for plans and for campaigns."""

    def __init__(self, db: Database, clock: Clock, config: CampaignsConfig) -> None:
        self._db, self._clock, self._config = db, clock, config

    async def of_plan(self, plan: Plan) -> Forecast:
        """Before there is a campaign. Raises ``InvalidInput`` or ``NotFound`` for a plan that cannot be."""
        check_plan(plan)
        async with self._db.read() as session:
            if await session.get(ReleaseRow, plan.release) is None:
                raise NotFound(f"there is no release {plan.release}")
            return await self._before(session, plan, plan.starts_ns)

    async def of_campaign(self, campaign_id: int) -> Forecast:
        """For a campaign, running or not. ``NotFound`` when there is none."""
        async with self._db.read() as session:
            row = await session.get(CampaignRow, campaign_id)
            if row is None:
                raise NotFound(f"there is no campaign {campaign_id}")
            if row.started_ns is None:
                return await self._before(session, plan_of(row), row.starts_ns)
            return await self._running(session, row)

    async def _before(self, session: AsyncSession, plan: Plan, starts_ns: int) -> Forecast:
        found = candidates(plan)
        members = select(found.c.id.label("id")).where(found.c.reason == "").cte("members")
        now_ns = self._clock.now_ns()
        ages, total = await self._ages(session, members, plan, now_ns)
        ends = last_positions(phases_of(plan), total)
        sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        start_ns = max(now_ns, starts_ns)
        laid = lay_out(plan, sizes, ages, starts_ns=start_ns, now_ns=now_ns, first=1, is_measured=False)
        return await self._told(session, plan, members, ages, laid, total, basis="check-ins")

    async def _running(self, session: AsyncSession, row: CampaignRow) -> Forecast:
        plan, now_ns = plan_of(row), self._clock.now_ns()
        phases = await phases_rows(session, row.id)
        counts = await phase_counts(session, row.id, phases)
        rollout = [p for p in phases if p.kind == PhaseKind.ROLLOUT]
        waiting = select(MemberRow.vehicle_id.label("id")).where(MemberRow.campaign_id == row.id)
        members = waiting.where(MemberRow.attempts == 0, MemberRow.skipped != "gone").cte("members")
        everyone = waiting.cte("everyone")
        times, is_measured = await self._measured(session, row.id), True
        if times.total < MEASURED_MIN:
            times, is_measured = (await self._ages(session, everyone, plan, now_ns))[0], False
        laid: list[PhaseForecast] = []
        current = next((p for p in phases if p.number == row.phase), None)
        if row.state not in ENDS and current is not None and current.kind == PhaseKind.ROLLOUT:
            laid = lay_out(
                plan,
                [counts[p.number].members for p in rollout],
                times,
                starts_ns=current.started_ns or now_ns,
                now_ns=now_ns,
                first=current.number,
                is_measured=is_measured,
            )
        total = sum(counts[p.number].members for p in rollout)
        basis = "measured" if is_measured else "check-ins"
        return await self._told(session, plan, members, times, laid, total, basis=basis)

    async def _told(
        self,
        session: AsyncSession,
        plan: Plan,
        members: Any,
        times: Times,
        laid: list[PhaseForecast],
        total: int,
        *,
        basis: str,
    ) -> Forecast:
        sent, full, vehicles = await _data(session, plan, members)
        notes = []
        if plan.strategy == "manual":
            notes.append("each phase waits for a person; their time is not in it")
        if plan.policy.needs_consent:
            notes.append("drivers must agree; how long they take is not in it")
        if not laid and total:
            notes.append("too little is known of when these vehicles are on line")
        return Forecast(
            basis=basis,
            vehicles=total,
            reachable=times.total,
            phases=laid,
            ends_ns=laid[-1].ends_ns if laid else None,
            late_ns=laid[-1].late_ns if laid else None,
            bytes_total=sent,
            bytes_full=full,
            bytes_per_vehicle=sent / vehicles if vehicles else 0.0,
            price_per_mb=self._config.price_per_mb,
            cost=sent / MB * self._config.price_per_mb,
            notes=notes,
        )

    async def _ages(self, session: AsyncSession, members: Any, plan: Plan, now_ns: int) -> tuple[Times, int]:
        """Since when members have not been heard of, those of the thresholds only; and how many members there are."""
        age = literal(now_ns) - CheckInRow.received_ns
        limit_ns = int(plan.offline_days * DAY_NS)
        columns = [func.coalesce(func.sum(case((age <= min(b, limit_ns), 1), else_=0)), 0) for b in BOUNDS_NS]
        reachable = func.coalesce(func.sum(case((age <= limit_ns, 1), else_=0)), 0)
        query = select(func.count(), reachable, *columns).select_from(
            members.outerjoin(CheckInRow.__table__, CheckInRow.vehicle_id == members.c.id)
        )
        total, known, *within = (await session.execute(query)).one()
        return Times(tuple(int(n) for n in within), int(known)), int(total)

    async def _measured(self, session: AsyncSession, campaign: int) -> Times:
        """From the assignment to the outcome, of the vehicles that have one."""
        counts = ", ".join(f"sum(finished_ns - created_ns <= {bound})" for bound in BOUNDS_NS)
        query = f"""SELECT count(*), {counts} FROM assignments WHERE campaign_id = :campaign
            AND phase IN (SELECT number FROM campaign_phases WHERE campaign_id = :campaign AND kind = 'rollout')
            AND state IN ('succeeded', 'failed', 'rolled_back')"""
        total, *within = (await session.execute(text(query), {"campaign": campaign})).one()
        return Times(tuple(int(n or 0) for n in within), int(total))


async def _data(session: AsyncSession, plan: Plan, members: Any) -> tuple[int, int, int]:
    """(bytes, bytes without deltas, vehicles) for what members do not run yet."""
    target, ecu = targets_of(plan.release), VehicleEcuRow
    base = select(ImageRow.id).where(ImageRow.sha256 == ecu.sha256).correlate(ecu)
    delta = ImageRow.__table__.alias("delta")
    smallest = (
        select(func.min(delta.c.length))
        .join_from(DeltaImageRow, delta, delta.c.id == DeltaImageRow.image_id)
        .where(DeltaImageRow.target_image_id == target.c.image_id, DeltaImageRow.base_image_id.in_(base))
        .correlate(target, ecu)
        .scalar_subquery()
    )
    grouped = (
        select(target.c.length, func.count(), case((target.c.is_whole, smallest), else_=None))
        .select_from(members)
        .join(ecu, ecu.vehicle_id == members.c.id)
        .join(target, fits(ecu, target))
        .where(~and_(target.c.is_whole, ecu.sha256 == target.c.sha256))
        .group_by(target.c.image_id, ecu.sha256, target.c.length, target.c.is_whole)
    )
    sent = full = 0
    for length, count, patch in await session.execute(grouped):
        full += int(length) * int(count)
        sent += min(int(length), int(length if patch is None else patch)) * int(count)
    vehicles = await session.scalar(select(func.count()).select_from(members)) or 0
    return sent, full, int(vehicles)
