"""What happened in a vehicle besides values: events out of the lake and out of the batches not yet in it."""

from __future__ import annotations

import msgspec
from sqlalchemy import select

from cloud.history.params import format_time
from cloud.history.query import History
from cloud.lake.pending import pending_batches
from cloud.lake.reader import ManifestMissing, UnreadableBatch
from cloud.lake.tables import EventRow


class EventInfo(msgspec.Struct, frozen=True):
    """One event."""

    time: str
    time_ms: float
    kind: str
    source: str
    detail: str


async def list_events(
    history: History, vehicle_id: str, *, from_ns: int, to_ns: int, kind: str = "", limit: int = 200
) -> list[EventInfo]:
    """The newest ``limit`` events with ``from_ns <= time < to_ns``, newest first."""
    async with history.turn(), history.lake.database.read() as session:
        query = select(EventRow).where(
            EventRow.vehicle_id == vehicle_id, EventRow.at_ns >= from_ns, EventRow.at_ns < to_ns
        )
        if kind:
            query = query.where(EventRow.kind == kind)
        rows = await session.scalars(query.order_by(EventRow.at_ns.desc(), EventRow.id.desc()).limit(limit))
        found = [(row.at_ns, row.kind, row.source, row.detail) for row in rows]
        async for batch in pending_batches(session, vehicle_id, from_ns, to_ns):
            try:
                events = (await history.read_batch(batch)).events
            except (UnreadableBatch, ManifestMissing):
                continue
            found += [
                (e.timestamp_ns, str(e.kind), e.source, e.detail)
                for e in events
                if from_ns <= e.timestamp_ns < to_ns and kind in ("", e.kind)
            ]
    found.sort(key=lambda event: -event[0])
    return [EventInfo(format_time(t), t / 1e6, k, s, d) for t, k, s, d in found[:limit]]
