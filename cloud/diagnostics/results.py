"""What came of a job, vehicle by vehicle and step by step, for pages and for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.db import Database
from cloud.diagnostics.model import JobRow, OrderResultRow, OrderRow, OrderState
from cloud.diagnostics.texts import FaultTexts
from cloud.errors import InvalidInput, NotFound
from gateway.wire.diagnostics import DiagnosticOrder, StepResult

CSV_COLUMNS = (
    "vehicle", "state", "order_detail", "finished_ns", "step", "do", "ecu", "outcome", "nrc", "detail", "data", "dtcs",
    "values",
)  # fmt: skip
ORDERS_AT_ONCE = 200


class ReadCode(msgspec.Struct, frozen=True):
    """A trouble code that a step read."""

    dtc: str
    status: int
    text: str


class ResultView(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one step on one ECU."""

    step: int
    do: str
    ecu: str
    outcome: str
    nrc: int | None
    detail: str
    data_hex: str
    dtcs: list[ReadCode]
    values: dict[str, str]


class OrderView(msgspec.Struct, frozen=True, kw_only=True):
    """One vehicle's part of a job."""

    id: str
    job: int
    vehicle: str
    state: str
    detail: str
    created_ns: int
    sent_ns: int | None
    acknowledged_ns: int | None
    finished_ns: int | None
    good: int
    bad: int
    results: list[ResultView]


class JobResults:
    """Reads orders and results."""

    def __init__(self, db: Database, texts: FaultTexts) -> None:
        self._db, self._texts = db, texts

    async def orders(self, job_id: int, state: str, limit: int, offset: int) -> tuple[list[OrderView], int]:
        """A page of a job's orders by vehicle, with results.

        Raises:
            NotFound: no such job.
            InvalidInput: no such state.
        """
        if state and state not in set(OrderState):
            raise InvalidInput(f"a state is one of {', '.join(OrderState)}", where="query.state")
        where = [OrderRow.job_id == job_id, *([OrderRow.state == state] if state else [])]
        async with self._db.read() as session:
            steps = await _steps(session, job_id)
            query = select(OrderRow).where(*where).order_by(OrderRow.vehicle_id).limit(limit).offset(offset)
            rows = list(await session.scalars(query))
            total = await session.scalar(select(func.count()).select_from(OrderRow).where(*where))
            return await self._views(session, rows, steps), total or 0

    async def _views(self, session: AsyncSession, rows: list[OrderRow], steps: list[str]) -> list[OrderView]:
        results: dict[str, list[ResultView]] = {row.id: [] for row in rows}
        query = select(OrderResultRow).where(OrderResultRow.order_id.in_(results)).order_by(OrderResultRow.number)
        for result in await session.scalars(query):
            results[result.order_id].append(self._result(result, steps))
        return [
            OrderView(
                id=row.id,
                job=row.job_id,
                vehicle=row.vehicle_id,
                state=row.state,
                detail=row.detail,
                created_ns=row.created_ns,
                sent_ns=row.sent_ns,
                acknowledged_ns=row.acknowledged_ns,
                finished_ns=row.finished_ns,
                good=row.good,
                bad=row.bad,
                results=results[row.id],
            )
            for row in rows
        ]

    def _result(self, row: OrderResultRow, steps: list[str]) -> ResultView:
        told = msgspec.json.decode(row.content, type=StepResult)
        texts = ((status, self._texts.describe(code)) for code, status in told.dtcs)
        return ResultView(
            step=row.step,
            do=steps[row.step] if 0 <= row.step < len(steps) else "?",
            ecu=row.ecu,
            outcome=row.outcome,
            nrc=row.nrc,
            detail=row.detail,
            data_hex=told.data.hex(),
            dtcs=[ReadCode(text.code, status, text.text) for status, text in texts],
            values=told.values,
        )

    async def lines(self, job_id: int) -> AsyncIterator[bytes]:
        """One JSON object per order and line. ``NotFound`` at the first."""
        offset = 0
        while True:
            orders, _ = await self.orders(job_id, "", ORDERS_AT_ONCE, offset)
            yield msgspec.json.Encoder().encode_lines(orders)
            if len(orders) < ORDERS_AT_ONCE:
                return
            offset += ORDERS_AT_ONCE

    async def csv(self, job_id: int) -> AsyncIterator[bytes]:
        """One line per vehicle, step and ECU; a vehicle without results has one line. ``NotFound`` at the first."""
        offset = 0
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\r\n")
        writer.writerow(CSV_COLUMNS)
        while True:
            orders, _ = await self.orders(job_id, "", ORDERS_AT_ONCE, offset)
            for order in orders:
                for line in _lines(order):
                    writer.writerow([_cell(value) for value in line])
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
            if len(orders) < ORDERS_AT_ONCE:
                return
            offset += ORDERS_AT_ONCE


async def _steps(session: AsyncSession, job_id: int) -> list[str]:
    row = await session.get(JobRow, job_id)
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    return [step.do for step in msgspec.json.decode(row.order, type=DiagnosticOrder).steps]


def _lines(order: OrderView) -> list[tuple[Any, ...]]:
    head = (order.vehicle, order.state, order.detail, order.finished_ns or "")
    return [
        (
            *head, r.step, r.do, r.ecu, r.outcome, "" if r.nrc is None else f"0x{r.nrc:02X}", r.detail, r.data_hex,
            " ".join(f"{c.dtc}:{c.status:02X}" for c in r.dtcs), "; ".join(f"{k}={v}" for k, v in r.values.items()),
        )
        for r in order.results
    ] or [(*head, *[""] * (len(CSV_COLUMNS) - len(head)))]  # fmt: skip


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula is marked as text."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value
