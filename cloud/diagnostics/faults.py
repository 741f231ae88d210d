"""Fault memory of the fleet: takes reports out of batches, and answers who has which fault since when.

Two ways lead here. Batches with events are read as soon as they are stored, for people who watch; and whatever that way
misses (a full queue, a restart, a manifest that came late) is taken from the lake's events, after a cursor. Each report
counts once: its digest is in the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.clock import Clock
from cloud.config import Diagnostics as DiagnosticsConfig
from cloud.db import Database
from cloud.diagnostics.folding import BadReport, Context, Key, Known, Plan, Told, plan, read_report
from cloud.diagnostics.model import FaultChangeRow, FaultCursorRow, FaultRow
from cloud.ingest.model import CheckInRow
from cloud.lake.tables import EventRow
from cloud.log import get_logger
from cloud.registry.model import VehicleRow
from gateway.wire.samples import Event, EventKind

DAY_NS = 86_400_000_000_000
EVENTS_AT_ONCE = 500
ROWS_AT_ONCE = 100
log = get_logger("cloud.diagnostics")


@dataclass(slots=True)
class FaultStatistics:
    """Totals since the start of the process."""

    reports: int = 0  # taken, each once
    repeated: int = 0  # known already
    malformed: int = 0  # events of kind dtc that are none
    too_many: int = 0  # a vehicle has more faults than are kept of it
    late: int = 0  # taken out of the lake, since the batch was not seen when it came


@dataclass(frozen=True, slots=True)
class _Folded:
    """What became of a vehicle's reports."""

    reports: int = 0
    repeated: int = 0
    too_many: int = 0
    changes: int = 0


class FaultKeeper:
    """Writes fault memory and history."""

    def __init__(self, db: Database, clock: Clock, config: DiagnosticsConfig) -> None:
        self._db, self._clock, self._config = db, clock, config
        self.statistics = FaultStatistics()

    async def take(self, vehicle_id: str, events: Iterable[Event]) -> bool:
        """Fold a vehicle's events of kind ``dtc``, others are left out; True when something changed."""
        now_ns = self._clock.now_ns()
        found = [(e.timestamp_ns, e.source, e.detail) for e in events if e.kind is EventKind.DTC]
        told = self._read(vehicle_id, found, now_ns)
        if not told:
            return False
        async with self._db.write() as session:
            folded = await self._fold(session, vehicle_id, told, now_ns)
        self._count(folded)
        return folded.changes > 0

    async def catch_up(self) -> list[str]:
        """Fold what the lake holds and nobody has folded; the vehicles of which something changed."""
        changed: set[str] = set()
        while await self._catch_up_some(changed):
            pass
        return sorted(changed)

    async def _catch_up_some(self, changed: set[str]) -> bool:
        """Some of it, and the cursor with it, in one transaction; True while there is more."""
        async with self._db.read() as session:  # most of the time nothing is new, and no writer is held up
            after = await session.scalar(select(FaultCursorRow.event_id)) or 0
            last = await session.scalar(select(func.max(EventRow.id))) or 0
            if last <= after:
                return False
            query = select(EventRow.id, EventRow.vehicle_id, EventRow.at_ns, EventRow.source, EventRow.detail).where(
                EventRow.id > after, EventRow.id <= last, EventRow.kind == EventKind.DTC.value
            )
            rows = (await session.execute(query.order_by(EventRow.id).limit(EVENTS_AT_ONCE))).all()
        has_more = len(rows) == EVENTS_AT_ONCE
        upto = rows[-1].id if has_more else last
        by_vehicle: dict[str, list[tuple[int, str, str]]] = {}
        for row in rows:
            by_vehicle.setdefault(row.vehicle_id, []).append((row.at_ns, row.source, row.detail))
        now_ns = self._clock.now_ns()
        done: dict[str, _Folded] = {}
        async with self._db.write() as session:
            for vehicle_id, found in by_vehicle.items():
                told = self._read(vehicle_id, found, now_ns)
                done[vehicle_id] = await self._fold(session, vehicle_id, told, now_ns)
            cursor = insert(FaultCursorRow).values(id=1, event_id=upto)
            await session.execute(cursor.on_conflict_do_update(index_elements=["id"], set_={"event_id": upto}))
        for folded in done.values():
            self._count(folded)
            self.statistics.late += folded.changes
        changed.update(vehicle_id for vehicle_id, folded in done.items() if folded.changes)
        return has_more

    def _count(self, folded: _Folded) -> None:
        """Once it is durable."""
        self.statistics.reports += folded.reports
        self.statistics.repeated += folded.repeated
        self.statistics.too_many += folded.too_many

    def _read(self, vehicle_id: str, found: Sequence[tuple[int, str, str]], now_ns: int) -> list[Told]:
        told: dict[bytes, Told] = {}
        for at_ns, source, detail in found:
            try:
                one = read_report(at_ns, source, detail, now_ns)
            except BadReport as error:
                self.statistics.malformed += 1
                log.warning("fault_report_malformed", vehicle=vehicle_id, source=source[:100], problem=str(error)[:200])
                continue
            told[one.digest] = one
        return list(told.values())

    async def _fold(self, session: AsyncSession, vehicle_id: str, told: Sequence[Told], now_ns: int) -> _Folded:
        if not told or await session.get(VehicleRow, vehicle_id) is None:  # erased meanwhile
            return _Folded()
        known_digests = set(
            await session.scalars(
                select(FaultChangeRow.digest).where(
                    FaultChangeRow.vehicle_id == vehicle_id, FaultChangeRow.digest.in_([t.digest for t in told])
                )
            )
        )
        fresh = [t for t in told if t.digest not in known_digests]
        repeated = len(told) - len(fresh)
        if not fresh:
            return _Folded(repeated=repeated)
        query = select(
            FaultRow.ecu, FaultRow.code, FaultRow.status, FaultRow.is_present, FaultRow.first_ns, FaultRow.changed_ns
        ).where(FaultRow.vehicle_id == vehicle_id)
        known: dict[Key, Known] = {
            (ecu, code): Known(status, is_present, first_ns, changed_ns)
            for ecu, code, status, is_present, first_ns, changed_ns in await session.execute(query)
        }
        planned = plan(known, fresh, self._config.max_faults_per_vehicle)
        await self._write(session, vehicle_id, planned, known, now_ns)
        return _Folded(len(fresh) - planned.too_many, repeated, planned.too_many, len(planned.changes))

    async def _write(
        self, session: AsyncSession, vehicle_id: str, planned: Plan, known: dict[Key, Known], now_ns: int
    ) -> None:
        software = await session.scalar(select(CheckInRow.software).where(CheckInRow.vehicle_id == vehicle_id)) or ""
        changes = [_change_values(vehicle_id, told, software, now_ns) for told in planned.changes]
        for start in range(0, len(changes), ROWS_AT_ONCE):
            await session.execute(insert(FaultChangeRow).values(changes[start : start + ROWS_AT_ONCE]))
        for key, state in planned.faults.items():
            if state.newest is None:
                where = (FaultRow.vehicle_id == vehicle_id, FaultRow.ecu == key[0], FaultRow.code == key[1])
                await session.execute(update(FaultRow).where(*where).values(first_ns=state.first_ns))
                continue
            values = _fault_values(vehicle_id, state, state.newest, software)
            context = {"detail": msgspec.json.encode(state.context)} if state.context is not None else {}
            statement = insert(FaultRow).values({"detail": b"{}", **values, **context})
            if key in known:
                changed = {**values, **context}
                statement = statement.on_conflict_do_update(index_elements=["vehicle_id", "ecu", "code"], set_=changed)
            await session.execute(statement)

    async def erase(self, vehicle_id: str) -> None:
        """Forget a vehicle's faults."""
        async with self._db.write() as session:
            for table in (FaultChangeRow, FaultRow):
                await session.execute(delete(table).where(table.vehicle_id == vehicle_id))

    async def retain(self) -> int:
        """Remove history that is too old or too much, and faults that are long gone; how many rows went."""
        if not self._config.history_days:
            return 0
        oldest_ns = self._clock.now_ns() - int(self._config.history_days * DAY_NS)
        crowded = select(FaultChangeRow.vehicle_id).group_by(FaultChangeRow.vehicle_id)
        async with self._db.write() as session:
            gone = await session.execute(delete(FaultChangeRow).where(FaultChangeRow.at_ns < oldest_ns))
            old = delete(FaultRow).where(FaultRow.is_present.is_(False), FaultRow.changed_ns < oldest_ns)
            removed = _rows(gone) + _rows(await session.execute(old))
            limit = self._config.max_changes_per_vehicle
            for vehicle_id in await session.scalars(crowded.having(func.count() > limit)):
                newest = (
                    select(FaultChangeRow.id)
                    .where(FaultChangeRow.vehicle_id == vehicle_id)
                    .order_by(FaultChangeRow.at_ns.desc(), FaultChangeRow.id.desc())
                    .limit(limit)
                )
                removed += _rows(
                    await session.execute(
                        delete(FaultChangeRow).where(
                            FaultChangeRow.vehicle_id == vehicle_id, FaultChangeRow.id.not_in(newest)
                        )
                    )
                )
        return removed


def _rows(result: Any) -> int:
    return int(result.rowcount)


def _change_values(vehicle_id: str, told: Told, software: str, now_ns: int) -> dict[str, Any]:
    report = told.report
    return {
        "vehicle_id": vehicle_id,
        "digest": told.digest,
        "at_ns": told.at_ns,
        "received_ns": now_ns,
        "day": told.at_ns // DAY_NS,
        "ecu": report.ecu,
        "code": report.code,
        "status": report.status,
        "previous": report.previous,
        "change": report.change,
        "software": software,
        "by": report.by[:200],
        "detail": b"{}" if told.context == Context() else msgspec.json.encode(told.context),
    }


def _fault_values(vehicle_id: str, state: Known, newest: Told, software: str) -> dict[str, Any]:
    report = newest.report
    return {
        "vehicle_id": vehicle_id,
        "ecu": report.ecu,
        "code": report.code,
        "status": state.status,
        "is_present": state.is_present,
        "change": report.change,
        "first_ns": state.first_ns,
        "changed_ns": state.changed_ns,
        "severity": report.severity,
        "occurrences": report.occurrences,
        "aging": report.aging,
        "odometer_km": report.odometer_km,
        "software": software,
        "text": report.text[:400],
        "by": report.by[:200],
    }
