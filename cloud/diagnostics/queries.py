"""Who has which fault: lists, history, statistics; a fixed number of statements each, whatever the fleet's size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Select, and_, func, or_, select

from cloud.db import Database
from cloud.diagnostics.folding import Context
from cloud.diagnostics.model import FaultChangeRow, FaultRow
from cloud.diagnostics.selection import Selection, code_range, vehicle_ids
from cloud.diagnostics.texts import FaultTexts
from gateway.wire.dtc import Snapshot, Status
from gateway.wire.dtc_texts import own_codes, status_words

MAX_WORDS_CODES = 300


class FaultFilter(msgspec.Struct, frozen=True):
    """Filters that must all hold; "" and None mean any."""

    vehicle: str = ""
    ecu: str = ""
    code: str = ""  # P0AA6: any failure type; P0AA6-16: this one
    words: str = ""  # in the text, or the beginning of the code
    status: int = 0  # at least one of these bits
    present: bool | None = True  # stored now; False: cleared or gone
    selection: Selection = Selection()  # of vehicles


class FaultView(msgspec.Struct, frozen=True, kw_only=True):
    """A fault as it is now."""

    vehicle: str
    ecu: str
    code: int
    dtc: str  # P0AA6-16
    text: str
    is_known: bool  # False: nobody has words for this code
    failure: str
    vehicle_text: str  # the vehicle's own words
    status: int
    status_words: list[str]
    is_present: bool
    is_confirmed: bool
    change: str
    by: str
    first_ns: int
    changed_ns: int
    severity: int | None
    occurrences: int | None
    aging: int | None
    odometer_km: float | None
    software: str
    snapshots: list[Snapshot]
    extended: dict[str, float | str]


class ChangeView(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the history."""

    id: int
    vehicle: str
    at_ns: int
    received_ns: int
    ecu: str
    code: int
    dtc: str
    text: str
    status: int
    status_words: list[str]
    previous: int | None
    change: str
    by: str
    software: str
    snapshots: list[Snapshot]
    extended: dict[str, float | str]


class CodeCount(msgspec.Struct, frozen=True, kw_only=True):
    """One code of one ECU over the fleet."""

    ecu: str
    code: int
    dtc: str
    text: str
    vehicles: int
    failing: int
    confirmed: int
    lamp: int
    first_ns: int
    last_ns: int


class DayCount(msgspec.Struct, frozen=True):
    """What happened on one day (UTC)."""

    day: int  # since 1970
    appeared: int
    disappeared: int
    vehicles: int  # with something that appeared


class GroupCount(msgspec.Struct, frozen=True):
    """Faults by ECU or software."""

    name: str
    vehicles: int
    faults: int


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Faults of the fleet, or of a part of it."""

    vehicles: int  # with any of these faults
    faults: int
    codes: list[CodeCount]  # most vehicles first
    more_codes: bool
    by_ecu: list[GroupCount]
    by_software: list[GroupCount]
    days: list[DayCount]


class FaultQueries:
    """Reads what ``FaultKeeper`` writes."""

    def __init__(self, db: Database, texts: FaultTexts) -> None:
        self._db, self._texts = db, texts

    async def faults(self, wanted: FaultFilter, limit: int, offset: int) -> tuple[list[FaultView], int]:
        """A page of faults: of one vehicle by ECU and code, of many the newest change first."""
        conditions = self._conditions(wanted, FaultRow)
        query = select(FaultRow).where(*conditions)
        if wanted.vehicle:
            query = query.order_by(FaultRow.is_present.desc(), FaultRow.ecu, FaultRow.code)
        else:
            query = query.order_by(FaultRow.changed_ns.desc(), FaultRow.vehicle_id, FaultRow.ecu, FaultRow.code)
        async with self._db.read() as session:
            rows = (await session.scalars(query.limit(limit).offset(offset))).all()
            total = await session.scalar(select(func.count()).select_from(FaultRow).where(*conditions))
        return [self._fault(row) for row in rows], total or 0

    async def history(self, wanted: FaultFilter, limit: int, offset: int) -> tuple[list[ChangeView], int]:
        """A page of changes, newest first."""
        conditions = self._conditions(msgspec.structs.replace(wanted, present=None), FaultChangeRow)
        same = and_(
            FaultRow.vehicle_id == FaultChangeRow.vehicle_id,
            FaultRow.ecu == FaultChangeRow.ecu,
            FaultRow.code == FaultChangeRow.code,
        )
        query = select(FaultChangeRow, FaultRow.text).outerjoin(FaultRow, same).where(*conditions)
        query = query.order_by(FaultChangeRow.at_ns.desc(), FaultChangeRow.id.desc())
        async with self._db.read() as session:
            rows = (await session.execute(query.limit(limit).offset(offset))).all()
            total = await session.scalar(select(func.count()).select_from(FaultChangeRow).where(*conditions))
        return [self._change(row, text or "") for row, text in rows], total or 0

    async def statistics(self, wanted: FaultFilter, *, first_day: int, codes: int = 200) -> Statistics:
        """Counts by code, ECU, software, and day from ``first_day`` on."""
        conditions = self._conditions(wanted, FaultRow)
        past = self._conditions(msgspec.structs.replace(wanted, present=None, status=0), FaultChangeRow)
        async with self._db.read() as session:
            by_code = (await session.execute(_by_code(conditions).limit(codes + 1))).all()
            overall = select(func.count(FaultRow.vehicle_id.distinct()), func.count()).where(*conditions)
            vehicles, faults = (await session.execute(overall)).one()
            by_ecu = await session.execute(_grouped(FaultRow.ecu, conditions))
            by_software = await session.execute(_grouped(FaultRow.software, conditions))
            days = await session.execute(_by_day(past, first_day))
            return Statistics(
                vehicles=vehicles,
                faults=faults,
                codes=[self._count(row) for row in by_code[:codes]],
                more_codes=len(by_code) > codes,
                by_ecu=[GroupCount(*row) for row in by_ecu],
                by_software=[GroupCount(*row) for row in by_software],
                days=[DayCount(*row) for row in days],
            )

    async def ecus(self) -> list[str]:
        """Names of ECUs that have reported anything."""
        async with self._db.read() as session:
            return list(await session.scalars(select(FaultRow.ecu).distinct().order_by(FaultRow.ecu)))

    def _conditions(self, wanted: FaultFilter, table: Any) -> list[Any]:
        conditions: list[Any] = []
        if wanted.present is not None:
            conditions.append(table.is_present.is_(wanted.present))
        if wanted.vehicle:
            conditions.append(table.vehicle_id == wanted.vehicle)
        if wanted.ecu:
            conditions.append(table.ecu == wanted.ecu)
        if wanted.code:
            first, last = code_range(wanted.code, "query.code")
            conditions.append(table.code.between(first, last))
        if wanted.status:
            conditions.append(table.status.op("&")(wanted.status) != 0)
        if wanted.words.strip():
            conditions.append(self._has_words(wanted.words.strip(), table))
        if not wanted.selection.is_everyone:
            conditions.append(table.vehicle_id.in_(vehicle_ids(wanted.selection)))
        return conditions

    def _has_words(self, words: str, table: Any) -> Any:
        """Codes whose text has these words, or that begin like it; the vehicle's own texts too."""
        keys = self._texts.matching(words)
        keys += [-1 - code for code, text in own_codes().items() if words.lower() in text.lower()][:MAX_WORDS_CODES]
        exact = [key for key in keys if key >= 0]
        short = [-1 - key for key in keys if key < 0]
        options: list[Any] = [table.code.in_(exact), (table.code.op(">>")(8)).in_(short)]
        letter = "PCBU".find(words[0].upper())
        digits = words[1:].replace("-", "")
        if letter >= 0 and re.fullmatch(r"[0-3][0-9A-Fa-f]{0,5}", digits):
            low = letter << 22 | int(digits[0]) << 20 | int(digits[1:].ljust(5, "0"), 16)
            high = letter << 22 | int(digits[0]) << 20 | int(digits[1:].ljust(5, "f"), 16)
            options.append(table.code.between(low, high))
        if table is FaultRow:
            escaped = words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            options.append(and_(FaultRow.text != "", FaultRow.text.ilike(f"%{escaped}%", escape="\\")))
        return or_(*options)

    def _fault(self, row: FaultRow) -> FaultView:
        told, context = self._texts.describe(row.code), msgspec.json.decode(row.detail, type=Context)
        return FaultView(
            vehicle=row.vehicle_id,
            ecu=row.ecu,
            code=row.code,
            dtc=told.code,
            text=told.text if told.known or not row.text else row.text,
            is_known=told.known,
            failure=told.failure,
            vehicle_text=row.text,
            status=row.status,
            status_words=status_words(row.status),
            is_present=row.is_present,
            is_confirmed=bool(row.status & Status.CONFIRMED),
            change=row.change,
            by=row.by,
            first_ns=row.first_ns,
            changed_ns=row.changed_ns,
            severity=row.severity,
            occurrences=row.occurrences,
            aging=row.aging,
            odometer_km=row.odometer_km,
            software=row.software,
            snapshots=list(context.snapshots),
            extended=context.extended,
        )

    def _change(self, row: FaultChangeRow, vehicle_text: str) -> ChangeView:
        told, context = self._texts.describe(row.code), msgspec.json.decode(row.detail, type=Context)
        return ChangeView(
            id=row.id,
            vehicle=row.vehicle_id,
            at_ns=row.at_ns,
            received_ns=row.received_ns,
            ecu=row.ecu,
            code=row.code,
            dtc=told.code,
            text=told.text if told.known or not vehicle_text else vehicle_text,
            status=row.status,
            status_words=status_words(row.status),
            previous=row.previous,
            change=row.change,
            by=row.by,
            software=row.software,
            snapshots=list(context.snapshots),
            extended=context.extended,
        )

    def _count(self, row: Any) -> CodeCount:
        told = self._texts.describe(row.code)
        return CodeCount(
            ecu=row.ecu,
            code=row.code,
            dtc=told.code,
            text=told.text,
            vehicles=row.vehicles,
            failing=row.failing,
            confirmed=row.confirmed,
            lamp=row.lamp,
            first_ns=row.first_ns,
            last_ns=row.last_ns,
        )


def _bits(status: Status) -> Any:
    return func.count().filter(FaultRow.status.op("&")(int(status)) != 0)


def _by_code(conditions: Sequence[Any]) -> Select[Any]:
    vehicles = func.count().label("vehicles")
    return (
        select(
            FaultRow.code,
            FaultRow.ecu,
            vehicles,
            _bits(Status.TEST_FAILED).label("failing"),
            _bits(Status.CONFIRMED).label("confirmed"),
            _bits(Status.WARNING_INDICATOR).label("lamp"),
            func.min(FaultRow.first_ns).label("first_ns"),
            func.max(FaultRow.changed_ns).label("last_ns"),
        )
        .where(*conditions)
        .group_by(FaultRow.code, FaultRow.ecu)
        .order_by(vehicles.desc(), FaultRow.code, FaultRow.ecu)
    )


def _grouped(column: Any, conditions: Sequence[Any]) -> Select[Any]:
    vehicles = func.count(FaultRow.vehicle_id.distinct())
    return (
        select(column, vehicles, func.count())
        .where(*conditions)
        .group_by(column)
        .order_by(func.count().desc(), column)
        .limit(50)
    )


def _by_day(conditions: Sequence[Any], first_day: int) -> Any:
    appeared = FaultChangeRow.change.in_(("new", "present"))
    gone = FaultChangeRow.change.in_(("cleared", "gone"))
    return (
        select(
            FaultChangeRow.day,
            func.count().filter(appeared),
            func.count().filter(gone),
            func.count(FaultChangeRow.vehicle_id.distinct()).filter(appeared),
        )
        .where(FaultChangeRow.day >= first_day, or_(appeared, gone), *conditions)
        .group_by(FaultChangeRow.day)
        .order_by(FaultChangeRow.day)
    )
