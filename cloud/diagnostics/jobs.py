"""Remote jobs: what operators ask of vehicles, one order for each vehicle, and what comes of it.

All changes of state are statements over sets of orders; nothing loops over vehicles. An order is delivered until the
vehicle answers, and a vehicle's answer counts whenever it comes, also after expiry or cancellation: it tells what was
done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import case, delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.audit import Actor, record
from cloud.clock import Clock
from cloud.config import Diagnostics as DiagnosticsConfig
from cloud.db import Database
from cloud.diagnostics.model import OPEN_STATES, JobRow, OrderRow, OrderState
from cloud.diagnostics.selection import Selection, check_selection, vehicle_ids
from cloud.errors import Conflict, InvalidInput, NotAllowed, NotFound
from gateway.wire.diagnostics import CHANGING, MAX_STEPS, DiagnosticOrder, Step, step_problem

MAX_BODY_BYTES = 24 * 1024
MAX_TITLE_CHARS = 200
#: How long after its end an order that the vehicle has accepted is waited for.
ANSWER_GRACE_NS = 600_000_000_000
DAY_NS = 86_400_000_000_000
WORDS = {"read_dtcs": "read trouble codes", "clear_dtcs": "clear trouble codes", "read_did": "read data"}


class JobOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A job to create, checked for form only."""

    steps: tuple[Step, ...]
    wanted: Selection
    title: str = ""
    stop_on_error: bool = False
    expires_s: int | None = None


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job; ``states`` counts its orders."""

    id: int
    title: str
    created_ns: int
    created_by: str
    expires_ns: int
    changes: bool
    steps: list[dict[str, Any]]
    stop_on_error: bool
    filter: dict[str, Any]
    vehicles: int
    states: dict[str, int]
    problems: int  # results that are not ok, in orders that were completed all the same
    open: int  # orders that may still be answered
    cancelled_ns: int | None
    cancelled_by: str


class Cancelled(msgspec.Struct, frozen=True):
    """What a cancellation reached."""

    cancelled: int
    under_way: int  # accepted by their vehicles already; these go on


class NewJob(msgspec.Struct, frozen=True):
    """A job that was made, and for which vehicles."""

    job: JobView
    vehicles: int


def check_steps(steps: Sequence[Step]) -> None:
    """Raises ``InvalidInput`` for a step no vehicle would do."""
    if not 1 <= len(steps) <= MAX_STEPS:
        raise InvalidInput(f"a job has 1 to {MAX_STEPS} steps", where="steps")
    for number, step in enumerate(steps):
        if problem := step_problem(step):
            raise InvalidInput(problem, where=f"steps[{number}]")


def has_changes(steps: Sequence[Step]) -> bool:
    """Whether any step changes something in the vehicle."""
    return any(step.do in CHANGING for step in steps)


class Jobs:
    """All jobs of one cloud."""

    def __init__(self, db: Database, clock: Clock, config: DiagnosticsConfig) -> None:
        self._db, self._clock, self._config = db, clock, config

    async def create(self, wanted: JobOrder, actor: Actor, *, may_change: bool) -> NewJob:
        """Make a job and its orders.

        Raises:
            InvalidInput: a step, filter or time that cannot be.
            NotAllowed: it changes something, and the caller may only read.
            Conflict: no enrolled vehicle is selected, or more than allowed.
        """
        check_steps(wanted.steps)
        check_selection(wanted.wanted)
        changes = has_changes(wanted.steps)
        if changes and not may_change:
            raise NotAllowed(f"to clear, run routines or reset needs the role {self._config.write_role}")
        life_s = self._config.order_ttl_s if wanted.expires_s is None else wanted.expires_s
        if not 1 <= life_s <= self._config.order_ttl_max_s:
            raise InvalidInput(f"an order lives 1 to {self._config.order_ttl_max_s} seconds", where="expires_s")
        if len(wanted.title) > MAX_TITLE_CHARS or not wanted.title.isprintable():
            raise InvalidInput(f"at most {MAX_TITLE_CHARS} printable characters", where="title")
        body = msgspec.json.encode(
            DiagnosticOrder(steps=wanted.steps, stop_on_error=wanted.stop_on_error, requested_by=actor.name[:80])
        )
        if len(body) > MAX_BODY_BYTES:
            raise InvalidInput(f"the steps take {len(body)} bytes, at most {MAX_BODY_BYTES} travel", where="steps")
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            row = JobRow(
                title=wanted.title.strip() or summary(wanted.steps),
                created_ns=now_ns,
                created_by=actor.name[:80],
                expires_ns=now_ns + life_s * 1_000_000_000,
                changes=changes,
                order=body,
                wanted=msgspec.json.encode(wanted.wanted),
            )
            session.add(row)
            await session.flush()
            count = await self._add_orders(session, row, wanted.wanted, now_ns)
            detail = f"{count} vehicles: {summary(wanted.steps)}; filter {row.wanted.decode()}"
            record(session, actor, now_ns, "diagnostics.job", f"job {row.id}", detail)
            job_id = row.id
        return NewJob(await self.get(job_id), count)

    async def _add_orders(self, session: AsyncSession, job: JobRow, wanted: Selection, now_ns: int) -> int:
        chosen = vehicle_ids(wanted, enrolled=True).subquery()
        fresh = select(
            func.lower(func.hex(func.randomblob(16))),
            literal(job.id),
            chosen.c.id,
            literal(OrderState.PENDING.value),
            literal(now_ns),
            literal(job.expires_ns),
        )
        columns = ["id", "job_id", "vehicle_id", "state", "created_ns", "expires_ns"]
        result: Any = await session.execute(insert(OrderRow).from_select(columns, fresh))
        count = int(result.rowcount)
        if not count:
            raise Conflict("no enrolled vehicle is selected")
        if count > self._config.max_vehicles_per_job:
            raise Conflict(f"{count} vehicles are selected, at most {self._config.max_vehicles_per_job} are allowed")
        return count

    async def count_selected(self, wanted: Selection) -> int:
        """How many vehicles a job would reach. ``InvalidInput`` for a filter that cannot be."""
        check_selection(wanted)
        async with self._db.read() as session:
            chosen = vehicle_ids(wanted, enrolled=True).subquery()
            return await session.scalar(select(func.count()).select_from(chosen)) or 0

    async def vehicles_of(self, job_id: int) -> list[str]:
        """The vehicles that have not accepted their order yet, to be woken."""
        async with self._db.read() as session:
            waiting = (OrderState.PENDING.value, OrderState.SENT.value)
            query = select(OrderRow.vehicle_id).where(OrderRow.job_id == job_id, OrderRow.state.in_(waiting))
            return list(await session.scalars(query))

    async def get(self, job_id: int) -> JobView:
        """One job. ``NotFound`` when there is none."""
        async with self._db.read() as session:
            row = await session.get(JobRow, job_id)
            if row is None:
                raise NotFound(f"there is no job {job_id}")
            return (await _views(session, [row]))[0]

    async def list(self, limit: int, offset: int, vehicle: str = "") -> tuple[list[JobView], int]:
        """Jobs, newest first, perhaps only those with an order for one vehicle."""
        query, count = select(JobRow), select(func.count()).select_from(JobRow)
        if vehicle:
            of_vehicle = JobRow.id.in_(select(OrderRow.job_id).where(OrderRow.vehicle_id == vehicle))
            query, count = query.where(of_vehicle), count.where(of_vehicle)
        async with self._db.read() as session:
            rows = list(await session.scalars(query.order_by(JobRow.id.desc()).limit(limit).offset(offset)))
            return await _views(session, rows), await session.scalar(count) or 0

    async def states_of(self, vehicle_id: str, job_ids: Sequence[int]) -> dict[int, str]:
        """The state of a vehicle's order in each of these jobs that has one."""
        query = select(OrderRow.job_id, OrderRow.state).where(
            OrderRow.vehicle_id == vehicle_id, OrderRow.job_id.in_(job_ids)
        )
        async with self._db.read() as session:
            return {int(job_id): str(state) for job_id, state in await session.execute(query)}

    async def cancel(self, job_id: int, actor: Actor) -> Cancelled:
        """Withdraw the orders no vehicle has accepted; the others go on and are counted.

        Raises:
            NotFound: no such job.
            Conflict: every order is answered, expired or withdrawn already.
        """
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            row = await session.get(JobRow, job_id)
            if row is None:
                raise NotFound(f"there is no job {job_id}")
            waiting = (OrderState.PENDING.value, OrderState.SENT.value)
            result: Any = await session.execute(
                update(OrderRow)
                .where(OrderRow.job_id == job_id, OrderRow.state.in_(waiting))
                .values(state=OrderState.CANCELLED.value, finished_ns=now_ns)
                .execution_options(synchronize_session=False)
            )
            under_way = await session.scalar(
                select(func.count()).where(
                    OrderRow.job_id == job_id,
                    OrderRow.state.in_((OrderState.ACKNOWLEDGED.value, OrderState.EXECUTING.value)),
                )
            )
            cancelled = Cancelled(int(result.rowcount), under_way or 0)
            if not cancelled.cancelled and not cancelled.under_way:
                raise Conflict(f"job {job_id} is over")
            if row.cancelled_ns is None:
                row.cancelled_ns, row.cancelled_by = now_ns, actor.name[:80]
            detail = f"{cancelled.cancelled} orders withdrawn, {cancelled.under_way} under way"
            record(session, actor, now_ns, "diagnostics.cancel", f"job {job_id}", detail)
        return cancelled

    async def expire(self) -> int:
        """Time out what is overdue; how many orders did."""
        now_ns = self._clock.now_ns()
        untold = OrderRow.state.in_((OrderState.PENDING.value, OrderState.SENT.value)) & (OrderRow.expires_ns <= now_ns)
        silent = OrderRow.state.in_((OrderState.ACKNOWLEDGED.value, OrderState.EXECUTING.value)) & (
            OrderRow.expires_ns <= now_ns - ANSWER_GRACE_NS
        )
        async with self._db.read() as session:  # a write would hold ingest up each time
            if await session.scalar(select(OrderRow.id).where(untold | silent).limit(1)) is None:
                return 0
        async with self._db.write() as session:
            why = case(
                (OrderRow.state == OrderState.PENDING.value, "the vehicle did not ask for orders before it expired"),
                (OrderRow.state == OrderState.SENT.value, "sent, and not answered before it expired"),
                else_="accepted, and no result came",
            )
            result: Any = await session.execute(
                update(OrderRow)
                .where(untold | silent)
                .values(state=OrderState.TIMEOUT.value, finished_ns=now_ns, detail=why)
                .execution_options(synchronize_session=False)
            )
        return int(result.rowcount)

    async def retain(self) -> int:
        """Remove jobs that ended long ago, with orders and results."""
        if not self._config.history_days:
            return 0
        oldest_ns = self._clock.now_ns() - int(self._config.history_days * DAY_NS)
        async with self._db.write() as session:
            result: Any = await session.execute(delete(JobRow).where(JobRow.expires_ns < oldest_ns))
        return int(result.rowcount)

    async def erase(self, vehicle_id: str) -> None:
        """Forget a vehicle's orders and results."""
        async with self._db.write() as session:
            await session.execute(delete(OrderRow).where(OrderRow.vehicle_id == vehicle_id))


def summary(steps: Sequence[Step]) -> str:
    """The steps in a line."""
    parts = []
    for step in steps[:6]:
        number = "" if step.parameter is None else f" {step.parameter:04X}"
        parts.append(
            f"{WORDS.get(step.do, step.do.replace('_', ' '))}{number} on {'all ECUs' if step.ecu == '*' else step.ecu}"
        )
    return (", ".join(parts) + (", …" if len(steps) > 6 else ""))[:MAX_TITLE_CHARS]


async def _views(session: AsyncSession, rows: Sequence[JobRow]) -> list[JobView]:
    states: dict[int, dict[str, int]] = {row.id: {} for row in rows}
    problems: dict[int, int] = {}
    grouped = (
        select(OrderRow.job_id, OrderRow.state, func.count(), func.sum(OrderRow.bad))
        .where(OrderRow.job_id.in_(states))
        .group_by(OrderRow.job_id, OrderRow.state)
    )
    for job_id, state, count, bad in await session.execute(grouped):
        states[job_id][state] = count
        if state == OrderState.COMPLETED:
            problems[job_id] = int(bad or 0)
    return [_view(row, states[row.id], problems.get(row.id, 0)) for row in rows]


def _view(row: JobRow, states: dict[str, int], problems: int) -> JobView:
    order = msgspec.json.decode(row.order, type=DiagnosticOrder)
    return JobView(
        id=row.id,
        title=row.title,
        created_ns=row.created_ns,
        created_by=row.created_by,
        expires_ns=row.expires_ns,
        changes=row.changes,
        steps=[{"do": s.do, "ecu": s.ecu, "parameter": s.parameter, "data_hex": s.data.hex()} for s in order.steps],
        stop_on_error=order.stop_on_error,
        filter=msgspec.json.decode(row.wanted, type=dict[str, Any]),
        vehicles=sum(states.values()),
        states=states,
        problems=problems,
        open=sum(states.get(state, 0) for state in OPEN_STATES),
        cancelled_ns=row.cancelled_ns,
        cancelled_by=row.cancelled_by,
    )
