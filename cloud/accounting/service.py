"""Collects the facts from the database for the accounting, for "why silent", and for the fleet overview."""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.accounting.reconcile import Accounting, Hole, StreamFacts, reconcile
from cloud.accounting.silence import Silence, SilenceFacts, explain
from cloud.accounting.summary import summarise
from cloud.clock import Clock
from cloud.config import CloudConfig
from cloud.db import Database
from cloud.errors import NotFound
from cloud.ingest.downlink import DownlinkHub
from cloud.ingest.model import CheckInRow, DailyRow, RangeKind, RangeRow, StreamRow
from cloud.ingest.names import resolve_stream
from cloud.ingest.sequences import Range, SequenceSet, subtract
from cloud.ingest.uploads import free_bytes
from cloud.ingest.writer import WriterStatistics
from cloud.registry.model import CertificateRow, EnrolTokenRow, VehicleRow, VehicleState
from cloud.registry.vehicles import VehicleFilter, Vehicles, VehicleView
from cloud.spool.model import BatchRow, BatchState, DeadLetterRow
from gateway.wire.api import CheckIn
from gateway.wire.ledger import StreamLedger

DAY_NS = 86_400_000_000_000
MAX_HOLES = 1_000  # of each kind and stream in one answer


class FleetRow(msgspec.Struct, frozen=True):
    """A vehicle in the fleet list."""

    vehicle: VehicleView
    silent: bool
    stopped: bool  # its last check-in was its good-bye
    connected: bool
    frames_per_s: float  # over all buses, as of the last check-in
    bytes_today: int
    accounted: bool | None  # None: no check-in yet
    unexplained: int


class FleetOverview(msgspec.Struct, frozen=True):
    """The fleet at a glance."""

    vehicles: dict[str, int]  # by state
    silent: int
    connected: int
    batches_today: int
    items_today: int
    bytes_today: int
    batches_per_s: float  # over the last minute
    items_per_s: float
    bytes_per_s: float
    dead_letters: int
    waiting_batches: int


class RateMeter:
    """Rates over the last minute from totals that only grow."""

    def __init__(self, clock: Clock, statistics: WriterStatistics) -> None:
        self._clock, self._statistics = clock, statistics
        self._points: deque[tuple[int, int, int, int]] = deque(maxlen=120)
        self.note()

    def note(self) -> None:
        """Remember the present totals; at most one point a second counts."""
        now_ns, s = self._clock.monotonic_ns(), self._statistics
        if not self._points or now_ns - self._points[-1][0] >= 1_000_000_000:
            self._points.append((now_ns, s.batches, s.items, s.content_bytes))

    async def run(self) -> None:
        """Note the totals every few seconds until cancelled."""
        while True:
            self.note()
            await asyncio.sleep(5.0)

    def rates(self) -> tuple[float, float, float]:
        """Batches, items and bytes per second."""
        self.note()
        now_ns, s = self._clock.monotonic_ns(), self._statistics
        while len(self._points) > 1 and now_ns - self._points[0][0] > 60_000_000_000:
            self._points.popleft()
        then_ns, batches, items, size = self._points[0]
        seconds = max((now_ns - then_ns) * 1e-9, 1.0)
        return (s.batches - batches) / seconds, (s.items - items) / seconds, (s.content_bytes - size) / seconds


class AccountingDesk:
    """Answers about vehicles from what is stored."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        config: CloudConfig,
        vehicles: Vehicles,
        downlinks: DownlinkHub,
        statistics: WriterStatistics,
    ) -> None:
        self._db, self._clock, self._config = db, clock, config
        self._vehicles, self._downlinks = vehicles, downlinks
        self.rates = RateMeter(clock, statistics)

    async def accounting(self, vehicle_id: str) -> Accounting:
        """The vehicle's accounting as of its last check-in. ``NotFound`` for an unknown vehicle."""
        async with self._db.read() as session:
            if await session.get(VehicleRow, vehicle_id) is None:
                raise NotFound(f"there is no vehicle {vehicle_id!r}")
            return await self._accounting(session, vehicle_id)

    async def _accounting(self, session: AsyncSession, vehicle_id: str) -> Accounting:
        check_in, received_ns = await _latest(session, vehicle_id)
        query = select(StreamRow).where(StreamRow.vehicle_id == vehicle_id).order_by(StreamRow.stream)
        rows = {row.stream: row for row in await session.scalars(query)}
        told: dict[str, StreamLedger] = {}
        for stream in check_in.ledger.streams if check_in else ():
            spool_id = check_in.spool_id if check_in else ""
            told[resolve_stream(stream.stream, rows, spool_id) or stream.stream] = stream
        facts = [await _stream_facts(session, row, told.get(name)) for name, row in rows.items()]
        return reconcile(vehicle_id, check_in.ledger if check_in else None, told, facts, received_ns)

    async def silence(self, vehicle_id: str) -> Silence:
        """Why the vehicle is silent. ``NotFound`` for an unknown vehicle."""
        now_ns = self._clock.now_ns()
        vehicle = await self._vehicles.get(vehicle_id)
        async with self._db.read() as session:
            check_in, check_in_ns = await _latest(session, vehicle_id)
            token_ns = await session.scalar(
                select(func.max(EnrolTokenRow.expires_ns)).where(
                    EnrolTokenRow.vehicle_id == vehicle_id,
                    EnrolTokenRow.used_ns.is_(None),
                    EnrolTokenRow.withdrawn_ns.is_(None),
                    EnrolTokenRow.expires_ns > now_ns,
                )
            )
            longest_ns = await session.scalar(
                select(func.max(CertificateRow.not_after_ns)).where(
                    CertificateRow.vehicle_id == vehicle_id, CertificateRow.revoked_ns.is_(None)
                )
            )
            waiting = await session.scalar(
                select(func.count()).where(
                    BatchRow.vehicle_id == vehicle_id, BatchRow.state == BatchState.WAITING_MANIFEST
                )
            )
            dead = await session.scalar(select(func.count()).where(DeadLetterRow.vehicle_id == vehicle_id))
        expired = longest_ns is not None and longest_ns <= now_ns
        fleet = self._config.fleet
        facts = SilenceFacts(
            now_ns=now_ns,
            state=vehicle.state,
            revoked_ns=vehicle.revoked_ns,
            revoked_reason=vehicle.revoked_reason,
            open_token_expires_ns=token_ns,
            valid_until_ns=None if expired else longest_ns,
            last_expired_ns=longest_ns if expired else None,
            last_batch_ns=vehicle.last_batch_ns,
            check_in=check_in,
            check_in_ns=check_in_ns,
            is_connected=self._downlinks.is_connected(vehicle_id),
            waiting_batches=waiting or 0,
            dead_letters=dead or 0,
            has_disk_room=free_bytes(self._db.path.parent) >= self._config.storage.min_free_bytes,
            silent_after_s=fleet.silent_after_s,
            clock_skew_warn_s=fleet.clock_skew_warn_s,
            certificate_warn_days=fleet.certificate_warn_days,
        )
        return explain(vehicle_id, facts)

    async def fleet(self) -> FleetOverview:
        """Counts over all vehicles."""
        now_ns = self._clock.now_ns()
        silent_since_ns = now_ns - int(self._config.fleet.silent_after_s * 1e9)
        _, silent = await self._vehicles.list(VehicleFilter(silent_since_ns=silent_since_ns), 1, 0)
        async with self._db.read() as session:
            states = await session.execute(select(VehicleRow.state, func.count()).group_by(VehicleRow.state))
            by_state = {**dict.fromkeys((s.value for s in VehicleState), 0), **{str(s): int(n) for s, n in states}}
            today = (
                await session.execute(
                    select(
                        func.sum(DailyRow.batches), func.sum(DailyRow.items), func.sum(DailyRow.content_bytes)
                    ).where(DailyRow.day == now_ns // DAY_NS)
                )
            ).one()
            dead = await session.scalar(select(func.count()).select_from(DeadLetterRow))
            waiting = await session.scalar(select(func.count()).where(BatchRow.state == BatchState.WAITING_MANIFEST))
        batches_per_s, items_per_s, bytes_per_s = self.rates.rates()
        return FleetOverview(
            vehicles=by_state,
            silent=silent,
            connected=len(self._downlinks),
            batches_today=today[0] or 0,
            items_today=today[1] or 0,
            bytes_today=today[2] or 0,
            batches_per_s=round(batches_per_s, 3),
            items_per_s=round(items_per_s, 1),
            bytes_per_s=round(bytes_per_s, 1),
            dead_letters=dead or 0,
            waiting_batches=waiting or 0,
        )

    async def fleet_rows(self, wanted: VehicleFilter, limit: int, offset: int) -> tuple[list[FleetRow], int]:
        """A page of the fleet list, and how many vehicles match."""
        vehicles, total = await self._vehicles.list(wanted, limit, offset)
        now_ns = self._clock.now_ns()
        ids = [vehicle.id for vehicle in vehicles]
        async with self._db.read() as session:
            summaries = await summarise(session, ids)
            found = await session.execute(
                select(DailyRow.vehicle_id, DailyRow.content_bytes).where(
                    DailyRow.day == now_ns // DAY_NS, DailyRow.vehicle_id.in_(ids)
                )
            )
            today = {str(row[0]): int(row[1]) for row in found}
        rows: list[FleetRow] = []
        for vehicle in vehicles:
            summary = summaries[vehicle.id]
            last_ns = max(vehicle.last_batch_ns or 0, vehicle.last_check_in_ns or 0)
            old = now_ns - last_ns > self._config.fleet.silent_after_s * 1e9
            rows.append(
                FleetRow(
                    vehicle=vehicle,
                    silent=vehicle.state == VehicleState.ENROLLED and old,
                    stopped=summary.stopped,
                    connected=self._downlinks.is_connected(vehicle.id),
                    frames_per_s=0.0 if old or summary.stopped else summary.frames_per_s,
                    bytes_today=today.get(vehicle.id, 0),
                    accounted=summary.complete,
                    unexplained=summary.unexplained,
                )
            )
        return rows, total


async def _latest(session: AsyncSession, vehicle_id: str) -> tuple[CheckIn | None, int | None]:
    row = await session.get(CheckInRow, vehicle_id)
    if row is None:
        return None, None
    return msgspec.json.decode(row.content, type=CheckIn), row.received_ns


async def _stream_facts(session: AsyncSession, row: StreamRow, told: StreamLedger | None) -> StreamFacts:
    held = SequenceSet.from_bytes(row.contiguous, row.ahead)
    explained = {kind: await _explained(session, row, kind) for kind in RangeKind}
    beyond = evicted_here = 0
    if told is not None:
        beyond = await _items(session, row, (told.acknowledged_sequence + 1, 1 << 62))
        for first, last in explained[RangeKind.EVICTED]:
            evicted_here += await _items(session, row, (first, min(last, told.acknowledged_sequence)))
    absent = {kind: await _absent(session, row, ranges) for kind, ranges in explained.items()}
    return StreamFacts(
        stream=row.stream,
        batches=row.stored_batches,
        items=row.stored_items,
        content_bytes=row.stored_bytes,
        dead_batches=row.dead_batches,
        dead_items=row.dead_items,
        duplicates=row.duplicates,
        conflicts=row.conflicts,
        contiguous=row.contiguous,
        highest=held.highest,
        items_beyond_acknowledged=beyond,
        items_evicted_but_here=evicted_here,
        gaps=await _holes(session, row, held.gaps(row.acknowledged_told, MAX_HOLES)),
        evicted=await _holes(session, row, absent[RangeKind.EVICTED]),
        lost=await _holes(session, row, absent[RangeKind.LOST]),
    )


async def _explained(session: AsyncSession, row: StreamRow, kind: RangeKind) -> list[Range]:
    """The vehicle's explanations of one kind, merged."""
    found = await session.execute(
        select(RangeRow.first, RangeRow.last)
        .where(RangeRow.vehicle_id == row.vehicle_id, RangeRow.stream == row.stream, RangeRow.kind == kind.value)
        .order_by(RangeRow.first)
    )
    merged: list[Range] = []
    for first, last in found:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


async def _absent(session: AsyncSession, row: StreamRow, ranges: list[Range]) -> list[Range]:
    """Explained ranges without the batches that arrived after all."""
    absent: list[Range] = []
    for first, last in ranges[:MAX_HOLES]:
        here = await session.scalars(
            select(BatchRow.sequence).where(
                BatchRow.vehicle_id == row.vehicle_id,
                BatchRow.stream == row.stream,
                BatchRow.sequence.between(first, last),
            )
        )
        absent += subtract((first, last), [(s, s) for s in here])
    return absent[:MAX_HOLES]


async def _items(session: AsyncSession, row: StreamRow, span: Range) -> int:
    """Items of the batches here within a range of sequences."""
    if span[0] > span[1]:
        return 0
    total = await session.scalar(
        select(func.sum(BatchRow.items)).where(
            BatchRow.vehicle_id == row.vehicle_id,
            BatchRow.stream == row.stream,
            BatchRow.sequence.between(span[0], span[1]),
        )
    )
    return int(total or 0)


async def _holes(session: AsyncSession, row: StreamRow, ranges: list[Range]) -> tuple[Hole, ...]:
    """With the number of items, from what the neighbours say of all items before them."""
    holes: list[Hole] = []
    for first, last in ranges:
        before = 0 if first == 1 else await _items_through(session, row, first - 1)
        after = await session.scalar(
            select(BatchRow.items_before).where(
                BatchRow.vehicle_id == row.vehicle_id, BatchRow.stream == row.stream, BatchRow.sequence == last + 1
            )
        )
        known = before is not None and after is not None and after >= before
        holes.append(Hole(first=first, last=last, items=after - before if known else None))  # type: ignore[operator]  # known
    return tuple(holes)


async def _items_through(session: AsyncSession, row: StreamRow, sequence: int) -> int | None:
    found = await session.scalar(
        select(BatchRow.items_before + BatchRow.items).where(
            BatchRow.vehicle_id == row.vehicle_id, BatchRow.stream == row.stream, BatchRow.sequence == sequence
        )
    )
    return None if found is None else int(found)
