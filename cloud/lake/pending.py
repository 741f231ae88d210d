"""Batches that wait for compaction, one at a time, as one snapshot of the database sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.spool.model import BatchRow, BatchState, StoredBatch


async def pending_batches(
    session: AsyncSession, vehicle_id: str, from_ns: int | None = None, to_ns: int | None = None
) -> AsyncIterator[StoredBatch]:
    """Batches of a vehicle in state stored that may hold something with ``from_ns <= time < to_ns``.

    Only one content is in memory at a time; all belong to the session's snapshot.
    """
    query = select(BatchRow.id).where(BatchRow.vehicle_id == vehicle_id, BatchRow.state == BatchState.STORED)
    if from_ns is not None:
        query = query.where(BatchRow.last_ns >= from_ns)
    if to_ns is not None:
        query = query.where(BatchRow.first_ns < to_ns)
    for number in list(await session.scalars(query.order_by(BatchRow.id))):
        row = await session.get_one(BatchRow, number)
        batch = StoredBatch.of(row)
        session.expunge(row)
        yield batch
