"""One vehicle and a release: assigning, cancelling, how far it is. Campaigns write the same rows by the thousand."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.audit import Actor, record
from cloud.clock import Clock
from cloud.db import Database
from cloud.errors import Conflict, InvalidInput, NotFound
from cloud.registry.model import VehicleRow
from cloud.updates.director import finish, open_assignment, plan_for
from cloud.updates.inventory import vehicle_units
from cloud.updates.model import (
    OPEN_ASSIGNMENTS,
    AssignmentPlanRow,
    AssignmentRow,
    AssignmentState,
    PendingInventoryRow,
    ReleaseRow,
    ReleaseState,
    VehicleEcuRow,
    VehicleUpdateRow,
)
from cloud.updates.plan import Plan, Unsatisfiable
from gateway.wire.uptane import EcuProgress, InstallPolicy, Inventory, UpdateReport

DAY_MIN = 1_440


class AssignOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A release for one vehicle."""

    release_id: int
    policy: InstallPolicy | None = None  # None: what the release says
    replace: bool = False  # take the place of an assignment that is open
    is_rollback: bool = False


class EcuView(msgspec.Struct, frozen=True, kw_only=True):
    """An ECU or payload of a vehicle: what it runs, and what it shall run."""

    name: str
    hardware_id: str
    is_primary: bool
    is_payload: bool
    version: str
    release_counter: int
    filename: str
    sha256: str
    is_known: bool  # an image of the repository
    reported_ns: int | None
    attack: str
    detail: str
    wanted_version: str  # "" when it is as it shall be
    progress: EcuProgress | None


class AssignmentView(msgspec.Struct, frozen=True, kw_only=True):
    """One vehicle and one release."""

    id: int
    vehicle: str
    release_id: int
    release: str
    campaign_id: int | None
    phase: int
    attempt: int
    is_rollback: bool
    state: str
    created_ns: int
    created_by: str
    offered_ns: int | None
    started_ns: int | None
    finished_ns: int | None
    detail: str
    attack: str


class UpdateView(msgspec.Struct, frozen=True, kw_only=True):
    """Where the update of a vehicle is."""

    vehicle: str
    status: str  # "none", the assignment's state, or what the vehicle last reported of it
    assignment: AssignmentView | None
    percent: float
    bytes_done: int
    bytes_total: int
    bytes_per_s: float
    eta_s: float | None
    detail: str
    attack: str
    ecus: list[EcuView]
    updated: list[str]
    pending: list[str]
    can_roll_back: bool
    used_delta: bool | None
    reported_ns: int | None
    manifest_ns: int | None
    manifest_problem: str
    inventory_waits: bool  # the vehicle told of other ECUs than are registered


class InventoryView(msgspec.Struct, frozen=True):
    """What is registered, and what the vehicle would like to be registered."""

    ecus: list[EcuView]
    waiting: Inventory | None
    waiting_since_ns: int | None


class Assignments:
    """Assignments of single vehicles."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db, self._clock = db, clock

    async def assign(self, vehicle_id: str, wanted: AssignOrder, actor: Actor) -> AssignmentView:
        """Give a vehicle a release. What cannot be is refused now, where the vehicle's ECUs are known.

        Raises:
            NotFound: no such vehicle or release.
            Conflict: not published, another assignment is open, or it cannot be installed (the text says why).
            InvalidInput: a policy that makes no sense.
        """
        if wanted.policy is not None:
            check_policy(wanted.policy)
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            if await session.get(VehicleRow, vehicle_id) is None:
                raise NotFound(f"there is no vehicle {vehicle_id!r}")
            release = await session.get(ReleaseRow, wanted.release_id)
            if release is None:
                raise NotFound(f"there is no release {wanted.release_id}")
            if release.state != ReleaseState.PUBLISHED:
                raise Conflict(f"{release.name} is {release.state}; only a published release can be assigned")
            await self._make_way(session, vehicle_id, wanted, now_ns)
            row = AssignmentRow(
                vehicle_id=vehicle_id,
                release_id=release.id,
                state=AssignmentState.ASSIGNED,
                is_rollback=wanted.is_rollback,
                policy=msgspec.json.encode(wanted.policy) if wanted.policy is not None else b"",
                created_ns=now_ns,
                created_by=actor.name,
            )
            session.add(row)
            await session.flush()
            try:
                await session.run_sync(plan_for, row)
            except Unsatisfiable as error:
                raise Conflict(f"{release.name} cannot be installed on {vehicle_id}: {error}") from error
            record(session, actor, now_ns, "update.assign", vehicle_id, release.name)
            return _assignment_view(row, release)

    async def _make_way(self, session: AsyncSession, vehicle_id: str, wanted: AssignOrder, now_ns: int) -> None:
        there = await session.run_sync(open_assignment, vehicle_id)
        if there is None:
            return
        if not wanted.replace:
            of = f"campaign {there.campaign_id}" if there.campaign_id is not None else f"release {there.release_id}"
            raise Conflict(f"{vehicle_id} has an open assignment ({of}); say 'replace' to take its place")
        finish(there, AssignmentState.SUPERSEDED, now_ns, "another release took its place")
        await session.flush()

    async def cancel(self, vehicle_id: str, actor: Actor) -> AssignmentView:
        """End the open assignment. A vehicle that has begun to install decides by itself whether it still can stop.

        Raises:
            NotFound: no such vehicle, or nothing is open.
        """
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            row = await session.run_sync(open_assignment, vehicle_id)
            if row is None:
                raise NotFound(f"{vehicle_id!r} has no open assignment")
            finish(row, AssignmentState.CANCELLED, now_ns, f"cancelled by {actor.name}")
            record(session, actor, now_ns, "update.cancel", vehicle_id, f"assignment {row.id}")
            return _assignment_view(row, await session.get(ReleaseRow, row.release_id))

    async def history(self, vehicle_id: str, limit: int, offset: int) -> Sequence[AssignmentView]:
        """The assignments of a vehicle, newest first."""
        async with self._db.read() as session:
            await _must_exist(session, vehicle_id)
            rows = await session.execute(
                select(AssignmentRow, ReleaseRow)
                .join(ReleaseRow, ReleaseRow.id == AssignmentRow.release_id)
                .where(AssignmentRow.vehicle_id == vehicle_id)
                .order_by(AssignmentRow.id.desc())
                .limit(limit)
                .offset(offset)
            )
            return [_assignment_view(row, release) for row, release in rows]

    async def view(self, vehicle_id: str) -> UpdateView:
        """Where the update of a vehicle is. Raises ``NotFound``: no such vehicle."""
        async with self._db.read() as session:
            await _must_exist(session, vehicle_id)
            row = await session.scalar(
                select(AssignmentRow)
                .where(AssignmentRow.vehicle_id == vehicle_id)
                .order_by(AssignmentRow.id.desc())
                .limit(1)
            )
            state = await session.get(VehicleUpdateRow, vehicle_id)
            pending = await session.get(PendingInventoryRow, vehicle_id)
            plan_row = await session.get(AssignmentPlanRow, row.id) if row else None
            release = await session.get(ReleaseRow, row.release_id) if row else None
            report = _report_of(state, row)
            plan = msgspec.json.decode(plan_row.plan, type=Plan) if plan_row else None
            ecus = await _ecu_views(session, vehicle_id, plan, report)
        wanted = plan.wanted if plan else {}
        done = sorted(ecu.name for ecu in ecus if ecu.name in wanted and not ecu.wanted_version)
        return UpdateView(
            vehicle=vehicle_id,
            status=_status(row, report),
            assignment=_assignment_view(row, release) if row else None,
            percent=100.0 if row and row.state == AssignmentState.SUCCEEDED else report.percent,
            bytes_done=report.bytes_done,
            bytes_total=report.bytes_total,
            bytes_per_s=report.bytes_per_s,
            eta_s=report.eta_s,
            detail=report.detail or (row.detail if row else ""),
            attack=report.attack or (row.attack if row else ""),
            ecus=ecus,
            updated=done,
            pending=sorted(ecu.name for ecu in ecus if ecu.wanted_version) if _is_open(row) else [],
            can_roll_back=report.can_roll_back,
            used_delta=report.used_delta,
            reported_ns=state.reported_ns if state else None,
            manifest_ns=state.manifest_ns if state else None,
            manifest_problem=state.manifest_problem if state else "",
            inventory_waits=pending is not None,
        )

    async def inventory(self, vehicle_id: str) -> InventoryView:
        """The ECUs of a vehicle. Raises ``NotFound``: no such vehicle."""
        async with self._db.read() as session:
            await _must_exist(session, vehicle_id)
            pending = await session.get(PendingInventoryRow, vehicle_id)
            ecus = await _ecu_views(session, vehicle_id, None, _NO_REPORT)
        if pending is None:
            return InventoryView(ecus, None, None)
        return InventoryView(ecus, msgspec.json.decode(pending.content, type=Inventory), pending.told_ns)


_NO_REPORT = UpdateReport(assignment="", state="", at_ns=0)


def check_policy(policy: InstallPolicy) -> None:
    """A policy must make sense. ``InvalidInput`` says what does not."""
    ends = (policy.window_start_min, policy.window_end_min)
    if (ends[0] is None) != (ends[1] is None) or any(end is not None and not 0 <= end < DAY_MIN for end in ends):
        raise InvalidInput("a window has a start and an end of 0 to 1439 minutes", where="policy.window_start_min")
    if ends[0] is not None and ends[0] == ends[1]:
        raise InvalidInput("the window is empty", where="policy.window_end_min")
    if any(day not in range(7) for day in policy.window_days):
        raise InvalidInput("days are 0 (Monday) to 6", where="policy.window_days")
    if not 0 <= policy.not_before_ns < 1 << 62 or not 0 <= policy.deadline_ns < 1 << 62:
        raise InvalidInput("no time", where="policy.deadline_ns")
    if policy.deadline_ns and policy.deadline_ns <= policy.not_before_ns:
        raise InvalidInput("the deadline is before the start", where="policy.deadline_ns")


async def _must_exist(session: AsyncSession, vehicle_id: str) -> None:
    if await session.get(VehicleRow, vehicle_id) is None:
        raise NotFound(f"there is no vehicle {vehicle_id!r}")


def _report_of(state: VehicleUpdateRow | None, row: AssignmentRow | None) -> UpdateReport:
    """The newest report, if it is of this assignment."""
    if state is None or row is None or state.assignment_id != row.id or not state.report:
        return _NO_REPORT
    return msgspec.json.decode(state.report, type=UpdateReport)


def _is_open(row: AssignmentRow | None) -> bool:
    return row is not None and row.state in OPEN_ASSIGNMENTS


def _status(row: AssignmentRow | None, report: UpdateReport) -> str:
    if row is None:
        return "none"
    return report.state if row.state == AssignmentState.RUNNING and report.state else str(row.state)


async def _ecu_views(session: AsyncSession, vehicle_id: str, plan: Plan | None, report: UpdateReport) -> list[EcuView]:
    rows = await session.scalars(select(VehicleEcuRow).where(VehicleEcuRow.vehicle_id == vehicle_id))
    by_name = {row.ecu: row for row in rows}
    versions = {ecu: item.must_match.version for item in (plan.targets if plan else ()) for ecu in item.ecus}
    progress = {ecu.ecu: ecu for ecu in report.ecus}
    views = []
    for unit in await session.run_sync(vehicle_units, vehicle_id):
        row = by_name.get(unit.name) if not unit.is_payload else None
        is_done = plan is None or plan.wanted.get(unit.name, unit.sha256) == unit.sha256
        views.append(
            EcuView(
                name=unit.name,
                hardware_id=unit.hardware_id,
                is_primary=unit.is_primary,
                is_payload=unit.is_payload,
                version=unit.version,
                release_counter=unit.release_counter,
                filename=unit.known.file.filename if unit.known else (row.filename if row else ""),
                sha256=unit.sha256,
                is_known=unit.known is not None,
                reported_ns=row.reported_ns if row else None,
                attack=row.attack if row else "",
                detail=row.detail if row else "",
                wanted_version="" if is_done else versions.get(unit.name, "?"),
                progress=progress.get(unit.name),
            )
        )
    return views


def _assignment_view(row: AssignmentRow, release: ReleaseRow | None) -> AssignmentView:
    return AssignmentView(
        id=row.id,
        vehicle=row.vehicle_id,
        release_id=row.release_id,
        release=release.name if release else "",
        campaign_id=row.campaign_id,
        phase=row.phase or 0,
        attempt=row.attempt or 1,
        is_rollback=bool(row.is_rollback),
        state=str(row.state),
        created_ns=row.created_ns,
        created_by=row.created_by,
        offered_ns=row.offered_ns,
        started_ns=row.started_ns,
        finished_ns=row.finished_ns,
        detail=row.detail or "",
        attack=row.attack or "",
    )
