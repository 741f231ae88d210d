"""The vehicle's side of jobs: which signed orders it is told of, and what its results change."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.audit import Actor, record
from cloud.clock import Clock
from cloud.db import Database
from cloud.diagnostics.model import JobRow, OrderResultRow, OrderRow, OrderState
from cloud.errors import InvalidInput, NotFound
from cloud.identity.enrolment import Enrolment
from gateway.wire.diagnostics import DiagnosticOrder, DiagnosticResult, StepResult
from gateway.wire.orders import Order, SignedOrder

ORDERS_PER_REPLY = 4
MAX_RESULTS = 4_096
KIND = "diagnostics"
ANSWERED = (OrderState.COMPLETED.value, OrderState.FAILED.value)
OUTCOMES = ("ok", "refused", "negative", "no_answer", "failed")


class Delivery:
    """Orders down, results up."""

    def __init__(self, db: Database, clock: Clock, enrolment: Enrolment) -> None:
        self._db, self._clock, self._enrolment = db, clock, enrolment

    async def orders_for(self, vehicle_id: str) -> tuple[SignedOrder, ...]:
        """The oldest orders the vehicle has not answered; they count as sent from now on."""
        signer = self._enrolment.signer
        if signer is None:
            return ()
        now_ns = self._clock.now_ns()
        query = (
            select(OrderRow, JobRow.order)
            .join(JobRow, JobRow.id == OrderRow.job_id)
            .where(
                OrderRow.vehicle_id == vehicle_id,
                OrderRow.state.in_((OrderState.PENDING.value, OrderState.SENT.value)),
                OrderRow.expires_ns > now_ns,
            )
            .order_by(OrderRow.created_ns, OrderRow.id)
            .limit(ORDERS_PER_REPLY)
        )
        async with self._db.read() as session:
            rows = (await session.execute(query)).all()
        if not rows:
            return ()
        if any(row.state == OrderState.PENDING for row, _ in rows):
            await self._mark_sent([row.id for row, _ in rows], now_ns)
        return tuple(
            signer.sign(
                Order(
                    id=row.id,
                    vehicle=row.vehicle_id,
                    kind=KIND,
                    issued_ns=row.created_ns,
                    expires_ns=row.expires_ns,
                    body=msgspec.Raw(body),
                )
            )
            for row, body in rows
        )

    async def _mark_sent(self, ids: list[str], now_ns: int) -> None:
        async with self._db.write() as session:
            await session.execute(
                update(OrderRow)
                .where(OrderRow.id.in_(ids), OrderRow.state == OrderState.PENDING.value)
                .values(state=OrderState.SENT.value, sent_ns=now_ns)
                .execution_options(synchronize_session=False)
            )

    async def take_result(self, vehicle_id: str, result: DiagnosticResult, address: str) -> int:
        """Apply what a vehicle says of an order; the same again changes nothing. Returns the job's id.

        Raises:
            NotFound: the vehicle has no such order.
            InvalidInput: a state or result that cannot be.
        """
        _check(result)
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            order = await session.get(OrderRow, result.order)
            if order is None or order.vehicle_id != vehicle_id:
                raise NotFound(f"this vehicle has no order {result.order[:64]!r}")
            job = await session.get_one(JobRow, order.job_id)
            if result.state == "accepted":
                _advance(order, OrderState.ACKNOWLEDGED, now_ns)
            elif result.state == "running":
                _advance(order, OrderState.EXECUTING, now_ns)
            elif result.state == "refused":
                if order.state in (OrderState.PENDING.value, OrderState.SENT.value):
                    self._finish(session, order, job, result, now_ns, address)
            elif order.state not in ANSWERED:
                await self._store(session, order, job, result)
                self._finish(session, order, job, result, now_ns, address)
            return order.job_id

    async def _store(self, session: AsyncSession, order: OrderRow, job: JobRow, result: DiagnosticResult) -> None:
        await session.execute(delete(OrderResultRow).where(OrderResultRow.order_id == order.id))
        rows: list[dict[str, Any]] = [
            {
                "order_id": order.id,
                "number": number,
                "step": r.step,
                "ecu": r.ecu[:64],
                "outcome": r.outcome,
                "nrc": r.nrc,
                "detail": r.detail[:400],
                "content": msgspec.json.encode(r),
            }
            for number, r in enumerate(result.results)
        ]
        if rows:
            await session.execute(insert(OrderResultRow), rows)

    def _finish(
        self, session: AsyncSession, order: OrderRow, job: JobRow, result: DiagnosticResult, now_ns: int, address: str
    ) -> None:
        order.good = sum(r.outcome == "ok" for r in result.results)
        order.bad = len(result.results) - order.good
        order.state = OrderState.COMPLETED.value if order.good else OrderState.FAILED.value
        order.finished_ns, order.detail = now_ns, result.detail[:400]
        steps = msgspec.json.decode(job.order, type=DiagnosticOrder).steps
        told = "; ".join(_words(r, steps[r.step].do if 0 <= r.step < len(steps) else "?") for r in result.results[:20])
        words = f"job {job.id}, asked for by {job.created_by}: {order.state}"
        detail = ": ".join(part for part in (words, result.detail[:300], told) if part)
        record(
            session,
            Actor(f"vehicle:{order.vehicle_id}", address),
            now_ns,
            "diagnostics.result",
            order.vehicle_id,
            detail,
        )


def _words(result: StepResult, do: str) -> str:
    why = f" ({result.detail[:60]})" if result.detail and result.outcome != "ok" else ""
    return f"{do} {result.ecu[:40]} {result.outcome}{why}"


def _advance(order: OrderRow, state: OrderState, now_ns: int) -> None:
    """Forward only; an order that was withdrawn or timed out meanwhile is under way after all."""
    if order.state in ANSWERED or (order.state == OrderState.EXECUTING and state == OrderState.ACKNOWLEDGED):
        return
    order.state, order.finished_ns, order.detail = state.value, None, ""
    order.acknowledged_ns = order.acknowledged_ns or now_ns


def _check(result: DiagnosticResult) -> None:
    if result.state not in ("accepted", "running", "refused", "done"):
        raise InvalidInput("the state is accepted, running, refused or done", where="state")
    if len(result.results) > MAX_RESULTS:
        raise InvalidInput(f"at most {MAX_RESULTS} results", where="results")
    for r in result.results:
        if r.outcome not in OUTCOMES:
            raise InvalidInput(f"an outcome is one of {', '.join(OUTCOMES)}", where="results")
        if not 0 <= r.step < 1 << 31 or (r.nrc is not None and not 0 <= r.nrc <= 0xFF):
            raise InvalidInput("a step or negative response code out of range", where="results")
        if any(not 0 <= code <= 0xFFFFFF or not 0 <= status <= 0xFF for code, status in r.dtcs):
            raise InvalidInput("a trouble code out of range", where="results")
