"""Removes old receipts of batches that are in the lake; the stream keeps in one number that it has them.

A batch's row stays as its receipt when the lake has taken its items: it answers repeated uploads and is counted in the
accounting. Once a batch is old, below all gaps, and the vehicle itself counts it as acknowledged, one bound per stream
says the same. Rows that the bound cannot speak for stay: unreadable batches, and those in or beside a range that the
vehicle has explained as evicted or lost, which tell how many items such a hole has.
"""

from __future__ import annotations

from sqlalchemy import func, select, text, update

from cloud.db import Database
from cloud.ingest.model import StreamRow
from cloud.spool.model import BatchRow, BatchState

DAY_NS = 86_400_000_000_000
ROWS_AT_ONCE = 2_000  # uploads wait for the transaction

_DELETE = text(
    """
    DELETE FROM batches WHERE id IN (
        SELECT b.id FROM batches b
        WHERE b.vehicle_id = :vehicle AND b.stream = :stream AND b.sequence < :below
          AND b.state = :compacted AND b.received_ns < :before_ns
          AND NOT EXISTS (
              SELECT 1 FROM explained_ranges e
              WHERE e.vehicle_id = b.vehicle_id AND e.stream = b.stream
                AND b.sequence BETWEEN e.first - 1 AND e.last + 1)
        ORDER BY b.sequence LIMIT :at_once)
    RETURNING sequence
    """
)


async def prune_receipts(db: Database, now_ns: int, days: float) -> int:
    """Remove receipts older than ``days``; 0 keeps them for ever. Idempotent. Returns how many went."""
    if not days:
        return 0
    before_ns, removed = now_ns - int(days * DAY_NS), 0
    async with db.read() as session:
        streams = (
            await session.execute(
                select(BatchRow.vehicle_id, BatchRow.stream)
                .where(BatchRow.state == BatchState.COMPACTED, BatchRow.received_ns < before_ns)
                .group_by(BatchRow.vehicle_id, BatchRow.stream)
            )
        ).all()
    for vehicle_id, stream in streams:
        while True:
            count = await _prune_some(db, vehicle_id, stream, before_ns)
            removed += count
            if count < ROWS_AT_ONCE:
                break
    return removed


async def _prune_some(db: Database, vehicle_id: str, stream: str, before_ns: int) -> int:
    mine = (StreamRow.vehicle_id == vehicle_id, StreamRow.stream == stream)
    async with db.write() as session:
        below = await session.scalar(select(func.min(StreamRow.contiguous, StreamRow.acknowledged_told)).where(*mine))
        if not below:
            return 0
        gone = await session.scalars(
            _DELETE,
            {
                "vehicle": vehicle_id,
                "stream": stream,
                "below": below,
                "compacted": BatchState.COMPACTED.value,
                "before_ns": before_ns,
                "at_once": ROWS_AT_ONCE,
            },
        )
        sequences = list(gone)
        if sequences:
            await session.execute(
                update(StreamRow)
                .where(*mine)
                .values(receipts_through=func.max(StreamRow.receipts_through, max(sequences)))
                .execution_options(synchronize_session=False)
            )
    return len(sequences)
