"""Check-ins, gaps and re-requests: what the vehicle tells, what the cloud wants in return."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.clock import Clock
from cloud.config import Fleet, IngestLimits
from cloud.db import Database
from cloud.errors import InvalidInput
from cloud.ingest.model import CheckInRow, RangeKind, RangeRow, StreamRow
from cloud.ingest.names import check_range, is_stream, resolve_stream
from cloud.ingest.sequences import SequenceSet
from cloud.manifests import ManifestRow
from gateway.wire.api import CheckIn, CheckInReply, SequenceRange
from gateway.wire.orders import SignedOrder

#: A gap is asked for only when it has stayed open this long: uploads travel several at once and overtake each other.
GAP_GRACE_NS = 2_000_000_000


#: The signed orders a vehicle has not answered.
OrderSource = Callable[[str], Awaitable[tuple[SignedOrder, ...]]]
#: What changes whenever the Director has something new for a vehicle.
UpdateMark = Callable[[AsyncSession, str], Awaitable[str]]


class CheckIns:
    """Keeps the newest check-in of each vehicle and answers it."""

    def __init__(self, db: Database, clock: Clock, limits: IngestLimits, fleet: Fleet) -> None:
        self._db, self._clock, self._limits, self._fleet = db, clock, limits, fleet
        self.order_source: OrderSource | None = None  # who has orders for vehicles
        self.update_mark: UpdateMark | None = None

    async def take(self, vehicle_id: str, check_in: CheckIn, raw: bytes) -> CheckInReply:
        """Store a check-in and what it explains; the reply confirms only what is durable.

        Raises:
            InvalidInput: a range that cannot be, or too many of them.
        """
        for told in (*check_in.evicted, *check_in.not_found):
            check_range(told)
        if len(check_in.evicted) + len(check_in.not_found) > self._limits.max_ranges_per_stream:
            raise InvalidInput("too many ranges in one check-in", where="evicted")
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            await self._store(session, vehicle_id, check_in, raw, now_ns)
            await self._explain(session, vehicle_id, check_in.evicted, RangeKind.EVICTED, now_ns)
            await self._explain(session, vehicle_id, check_in.not_found, RangeKind.LOST, now_ns)
            await self._close_abandoned(session, vehicle_id, check_in.not_found, now_ns)
            await self._note_acknowledged(session, vehicle_id, check_in, now_ns)
        return await self.wishes(
            vehicle_id,
            evicted_known=check_in.evicted,
            manifest_hash=check_in.manifest_hash,
            has_time=not check_in.stopping,
        )

    async def _store(self, session: AsyncSession, vehicle_id: str, check_in: CheckIn, raw: bytes, now_ns: int) -> None:
        row = await session.get(CheckInRow, vehicle_id)
        if row is None:
            row = CheckInRow(vehicle_id=vehicle_id, boots=1, count=0, boot_id=check_in.boot_id[:64])
            session.add(row)
        elif row.boot_id != check_in.boot_id[:64]:
            row.boots += 1
        row.received_ns, row.at_ns, row.boot_id = now_ns, check_in.at_ns, check_in.boot_id[:64]
        row.count += 1
        row.stopping, row.content = check_in.stopping, raw
        row.software = check_in.software[:100]

    async def _explain(
        self,
        session: AsyncSession,
        vehicle_id: str,
        ranges: tuple[SequenceRange, ...],
        kind: RangeKind,
        now_ns: int,
    ) -> None:
        """Write ranges down and count them as covered."""
        for told in ranges:
            await session.execute(
                insert(RangeRow)
                .values(
                    vehicle_id=vehicle_id,
                    stream=told.stream,
                    kind=kind.value,
                    first=told.first,
                    last=told.last,
                    told_ns=now_ns,
                )
                .on_conflict_do_nothing()
            )
        by_stream: dict[str, list[SequenceRange]] = {}
        for told in ranges:
            by_stream.setdefault(told.stream, []).append(told)
        for name, told_here in by_stream.items():
            row = await self._stream_row(session, vehicle_id, name)
            held = SequenceSet.from_bytes(row.contiguous, row.ahead)
            for told in told_here:
                held = held.add(told.first, told.last)
            if len(held.ahead) > self._limits.max_ranges_per_stream:
                raise InvalidInput(f"stream {name} has too many gaps", where="evicted")
            _update(row, held, now_ns)

    async def _close_abandoned(
        self, session: AsyncSession, vehicle_id: str, not_found: tuple[SequenceRange, ...], now_ns: int
    ) -> None:
        """A vehicle that cannot find a batch of a spool it has since replaced will find none of that spool."""
        for told in not_found:
            row = await session.get(StreamRow, (vehicle_id, told.stream))
            owner = told.stream.partition("/")[0]
            if row is None or not row.ahead:
                continue
            newer = await session.scalar(
                select(StreamRow.stream)
                .where(
                    StreamRow.vehicle_id == vehicle_id,
                    StreamRow.first_received_ns > row.last_received_ns,
                    ~StreamRow.stream.startswith(owner + "/", autoescape=True),
                )
                .limit(1)
            )
            if newer is not None:
                gaps = SequenceSet.from_bytes(row.contiguous, row.ahead).gaps()
                lost = tuple(SequenceRange(told.stream, first, last) for first, last in gaps)
                await self._explain(session, vehicle_id, lost, RangeKind.LOST, now_ns)

    async def _note_acknowledged(self, session: AsyncSession, vehicle_id: str, check_in: CheckIn, now_ns: int) -> None:
        """What the vehicle believes acknowledged must be here; where it is not (a restored backup), it is a gap."""
        rows = {
            row.stream: row
            for row in await session.scalars(select(StreamRow).where(StreamRow.vehicle_id == vehicle_id))
        }
        for told in check_in.ledger.streams:
            full = f"{check_in.spool_id}/{told.stream}"
            if full not in rows and is_stream(full) and told.acknowledged_sequence > 0:
                rows[full] = await self._stream_row(session, vehicle_id, full)
            name = resolve_stream(told.stream, rows, check_in.spool_id)
            if name is None:
                continue
            row = rows[name]
            row.acknowledged_told = max(0, min(told.acknowledged_sequence, (1 << 62)))
            if row.acknowledged_told > row.contiguous and not row.stalled_ns:
                row.stalled_ns = now_ns

    async def _stream_row(self, session: AsyncSession, vehicle_id: str, name: str) -> StreamRow:
        row = await session.get(StreamRow, (vehicle_id, name))
        if row is None:
            known = await session.scalars(select(StreamRow.stream).where(StreamRow.vehicle_id == vehicle_id))
            if len(known.all()) >= self._limits.max_streams_per_vehicle:
                raise InvalidInput("too many streams", where="evicted")
            row = StreamRow(vehicle_id=vehicle_id, stream=name)
            for column in StreamRow.__table__.columns:
                if column.name not in ("vehicle_id", "stream"):
                    setattr(row, column.name, b"" if column.name == "ahead" else 0)
            session.add(row)
            await session.flush()
        return row

    async def wishes(
        self,
        vehicle_id: str,
        *,
        evicted_known: tuple[SequenceRange, ...] = (),
        manifest_hash: str | None = None,
        has_time: bool = True,
    ) -> CheckInReply:
        """What the cloud wants from a vehicle now.

        Args:
            vehicle_id: of whom.
            evicted_known: ranges just told and durable.
            manifest_hash: as in its check-in, None for the last one told.
            has_time: False for one that stops; it gets no orders.
        """
        now_ns = self._clock.now_ns()
        requests: list[SequenceRange] = []
        async with self._db.read() as session:
            rows = await session.scalars(
                select(StreamRow)
                .where(StreamRow.vehicle_id == vehicle_id, StreamRow.stalled_ns > 0)
                .order_by(StreamRow.last_received_ns.desc())
            )
            for row in rows:
                room = self._limits.max_requests_per_reply - len(requests)
                if room <= 0:
                    break
                if row.stalled_ns + GAP_GRACE_NS > now_ns:
                    continue
                held = SequenceSet.from_bytes(row.contiguous, row.ahead)
                gaps = held.gaps(row.acknowledged_told, room)
                requests.extend(SequenceRange(row.stream, first, last) for first, last in gaps)
            if manifest_hash is None:
                manifest_hash = await self._last_manifest(session, vehicle_id)
            needs_manifest = bool(manifest_hash) and await session.get(ManifestRow, manifest_hash) is None
            update_mark = await self.update_mark(session, vehicle_id) if self.update_mark else ""
        return CheckInReply(
            now_ns=self._clock.now_ns(),
            requests=tuple(requests),
            evicted_known=evicted_known,
            needs_manifest=needs_manifest,
            check_in_s=self._fleet.check_in_s or None,
            orders=await self.order_source(vehicle_id) if self.order_source and has_time else (),
            update_mark=update_mark,
        )

    async def _last_manifest(self, session: AsyncSession, vehicle_id: str) -> str:
        content = await session.scalar(select(CheckInRow.content).where(CheckInRow.vehicle_id == vehicle_id))
        return msgspec.json.decode(content, type=CheckIn).manifest_hash if content else ""

    async def latest(self, vehicle_id: str) -> tuple[CheckIn, int] | None:
        """The newest check-in and when it came (UTC ns)."""
        async with self._db.read() as session:
            row = await session.get(CheckInRow, vehicle_id)
        return None if row is None else (msgspec.json.decode(row.content, type=CheckIn), row.received_ns)


def _update(row: StreamRow, held: SequenceSet, now_ns: int) -> None:
    moved = held.contiguous != row.contiguous
    row.contiguous, row.ahead = held.contiguous, held.to_bytes()
    open_gap = bool(held.ahead) or row.acknowledged_told > held.contiguous
    row.stalled_ns = 0 if not open_gap else now_ns if moved or not row.stalled_ns else row.stalled_ns
