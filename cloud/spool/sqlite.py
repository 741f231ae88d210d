"""The embedded adapter of the spool: rows of the cloud's SQLite database, the content as a blob per batch."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.db import Database
from cloud.ingest.model import StreamRow
from cloud.spool.deadletters import DeadLetters
from cloud.spool.model import BatchRow, BatchState, StoredBatch


class SqliteBatchSpool:
    """See ``cloud.spool.ports.BatchSpool``."""

    def __init__(self, db: Database, dead_letters: DeadLetters) -> None:
        self._db = db
        self._dead_letters = dead_letters

    async def uncompacted(self, limit: int, *, after_id: int = 0, vehicle_id: str | None = None) -> list[StoredBatch]:
        query = select(BatchRow).where(BatchRow.state == BatchState.STORED, BatchRow.id > after_id)
        if vehicle_id is not None:
            query = query.where(BatchRow.vehicle_id == vehicle_id)
        async with self._db.read() as session:
            rows = await session.scalars(query.order_by(BatchRow.id).limit(limit))
            return [StoredBatch.of(row) for row in rows]

    async def uncompacted_between(
        self, session: AsyncSession, vehicle_id: str, from_ns: int, to_ns: int, limit: int
    ) -> list[StoredBatch]:
        query = (
            select(BatchRow)
            .where(
                BatchRow.vehicle_id == vehicle_id,
                BatchRow.state == BatchState.STORED,
                BatchRow.first_ns <= to_ns,
                BatchRow.last_ns >= from_ns,
            )
            .order_by(BatchRow.id)
            .limit(limit)
        )
        return [StoredBatch.of(row) for row in await session.scalars(query)]

    async def mark_compacted(self, session: AsyncSession, ids: Sequence[int]) -> int:
        changed = 0
        for start in range(0, len(ids), 500):  # below SQLite's limit of bound variables
            result = await session.execute(
                update(BatchRow)
                .where(BatchRow.id.in_(ids[start : start + 500]), BatchRow.state == BatchState.STORED)
                .values(state=BatchState.COMPACTED, content=b"")
                .execution_options(synchronize_session=False)
                .returning(BatchRow.id)
            )
            changed += len(result.all())
        return changed

    async def move_to_dead_letters(self, session: AsyncSession, batch: StoredBatch, reason: str) -> bool:
        result = await session.execute(
            update(BatchRow)
            .where(BatchRow.id == batch.id, BatchRow.state == BatchState.STORED)
            .values(state=BatchState.DEAD, content=b"")
            .execution_options(synchronize_session=False)
            .returning(BatchRow.id)
        )
        if not result.all():
            return False
        await session.execute(
            update(StreamRow)
            .where(StreamRow.vehicle_id == batch.vehicle_id, StreamRow.stream == batch.stream)
            .values(dead_batches=StreamRow.dead_batches + 1, dead_items=StreamRow.dead_items + batch.items)
            .execution_options(synchronize_session=False)
        )
        await self._dead_letters.add(session, batch, reason)
        return True

    async def note_failure(self, session: AsyncSession, batch: StoredBatch, reason: str, max_attempts: int) -> bool:
        attempts = await session.scalar(
            update(BatchRow)
            .where(BatchRow.id == batch.id, BatchRow.state == BatchState.STORED)
            .values(attempts=BatchRow.attempts + 1)
            .execution_options(synchronize_session=False)
            .returning(BatchRow.attempts)
        )
        if attempts is None or attempts < max_attempts:
            return False
        return await self.move_to_dead_letters(session, batch, reason)
