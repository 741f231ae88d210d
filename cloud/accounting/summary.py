"""The accounting of many vehicles at once, as far as a list shows it: complete or not, and how much is unexplained.

A handful of statements for all vehicles, where ``AccountingDesk.accounting`` needs several for each stream. The rule is
the same one, ``reconcile``; holes are counted, not described.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.accounting.reconcile import Hole, StreamFacts, reconcile
from cloud.ingest.model import CheckInRow, RangeKind, RangeRow, StreamRow
from cloud.ingest.names import resolve_stream
from cloud.ingest.sequences import Range, SequenceSet
from gateway.wire.api import CheckIn
from gateway.wire.ledger import StreamLedger

MAX_HOLES = 1_000
_ITEMS = text(
    """
    SELECT j.key, coalesce((
        SELECT sum(b.items) FROM batches b
        WHERE b.vehicle_id = j.value ->> 0 AND b.stream = j.value ->> 1
          AND b.sequence BETWEEN j.value ->> 2 AND j.value ->> 3), 0)
    FROM json_each(:spans) j
    """
)
_END = 1 << 62


@dataclass(frozen=True, slots=True)
class Summary:
    """One vehicle."""

    complete: bool | None  # None: no check-in yet
    unexplained: int
    frames_per_s: float  # as of the last check-in
    stopped: bool  # it said good-bye


@dataclass(slots=True)
class _Stream:
    row: StreamRow
    told: StreamLedger | None = None
    beyond: int = 0
    evicted_here: int = 0


async def summarise(session: AsyncSession, vehicle_ids: Sequence[str]) -> dict[str, Summary]:
    """A summary for each vehicle."""
    check_ins = {
        vehicle_id: msgspec.json.decode(content, type=CheckIn)
        for vehicle_id, content in await session.execute(
            select(CheckInRow.vehicle_id, CheckInRow.content).where(CheckInRow.vehicle_id.in_(vehicle_ids))
        )
    }
    streams: dict[str, dict[str, _Stream]] = {vehicle_id: {} for vehicle_id in vehicle_ids}
    for row in await session.scalars(select(StreamRow).where(StreamRow.vehicle_id.in_(check_ins))):
        streams[row.vehicle_id][row.stream] = _Stream(row)
    unseen: dict[str, dict[str, StreamLedger]] = {}
    for vehicle_id, check_in in check_ins.items():
        rows = {name: stream.row for name, stream in streams[vehicle_id].items()}
        for told in check_in.ledger.streams:
            name = resolve_stream(told.stream, rows, check_in.spool_id)
            if name is None:
                unseen.setdefault(vehicle_id, {})[told.stream] = told
            else:
                streams[vehicle_id][name].told = told
    await _count_items(session, [s for of_one in streams.values() for s in of_one.values() if s.told is not None])
    return {
        vehicle_id: _summary(vehicle_id, check_ins.get(vehicle_id), streams[vehicle_id], unseen.get(vehicle_id, {}))
        for vehicle_id in vehicle_ids
    }


async def _count_items(session: AsyncSession, streams: Sequence[_Stream]) -> None:
    """Fill in ``beyond`` and ``evicted_here``."""
    evicted = await _evicted(session, {s.row.vehicle_id for s in streams})
    spans: list[tuple[str, str, int, int]] = []
    targets: list[tuple[_Stream, bool]] = []
    for stream in streams:
        if stream.told is None:
            continue
        row, acknowledged = stream.row, stream.told.acknowledged_sequence
        key = (row.vehicle_id, row.stream)
        spans.append((*key, acknowledged + 1, _END))
        targets.append((stream, False))
        for first, last in evicted.get(key, ()):
            if first <= min(last, acknowledged):
                spans.append((*key, first, min(last, acknowledged)))
                targets.append((stream, True))
    found = await session.execute(_ITEMS, {"spans": msgspec.json.encode(spans).decode()})
    for index, items in found:
        stream, is_evicted = targets[int(index)]
        if is_evicted:
            stream.evicted_here += int(items)
        else:
            stream.beyond += int(items)


async def _evicted(session: AsyncSession, vehicle_ids: set[str]) -> dict[tuple[str, str], list[Range]]:
    """Evicted ranges by vehicle and stream, merged."""
    query = (
        select(RangeRow.vehicle_id, RangeRow.stream, RangeRow.first, RangeRow.last)
        .where(RangeRow.vehicle_id.in_(vehicle_ids), RangeRow.kind == RangeKind.EVICTED.value)
        .order_by(RangeRow.first)
    )
    merged: dict[tuple[str, str], list[Range]] = {}
    for vehicle_id, stream, first, last in await session.execute(query):
        ranges = merged.setdefault((vehicle_id, stream), [])
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
        else:
            ranges.append((first, last))
    return merged


def _summary(
    vehicle_id: str, check_in: CheckIn | None, streams: dict[str, _Stream], unseen: dict[str, StreamLedger]
) -> Summary:
    if check_in is None:
        return Summary(None, 0, 0.0, stopped=False)
    told = {name: s.told for name, s in streams.items() if s.told is not None} | unseen
    facts = [_facts(stream) for stream in streams.values()]
    accounting = reconcile(vehicle_id, check_in.ledger, told, facts, 0)
    frames_per_s = sum(b.frames_per_s for b in check_in.buses)
    return Summary(accounting.complete, accounting.unexplained, frames_per_s, check_in.stopping)


def _facts(stream: _Stream) -> StreamFacts:
    row = stream.row
    held = SequenceSet.from_bytes(row.contiguous, row.ahead)
    gaps = held.gaps(row.acknowledged_told, MAX_HOLES)
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
        items_beyond_acknowledged=stream.beyond,
        items_evicted_but_here=stream.evicted_here,
        gaps=tuple(Hole(first=first, last=last, items=None) for first, last in gaps),
    )
