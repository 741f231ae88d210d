"""The store of what could not be read: bounded per vehicle, oldest dropped and counted."""

from __future__ import annotations

import hashlib

from sqlalchemy import BigInteger, Integer, String, delete, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from cloud.db import Base
from cloud.spool.model import DeadLetterRow, StoredBatch

MAX_REASON_CHARS = 400


class DeadLetterDropsRow(Base):
    """How many dead letters of a vehicle had to be dropped to stay within the bounds."""

    __tablename__ = "dead_letter_drops"

    vehicle_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    dropped: Mapped[int] = mapped_column(Integer)
    dropped_bytes: Mapped[int] = mapped_column(BigInteger)


class DeadLetters:
    """Adds to the store within the caller's transaction."""

    def __init__(self, *, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes

    async def add(self, session: AsyncSession, batch: StoredBatch, reason: str) -> int:
        """Keep ``batch`` (its ``content`` whole) with the reason; the same bytes again only count up.

        Returns:
            The id of the dead letter.
        """
        digest = hashlib.sha256(batch.content).digest()
        known = await session.scalar(
            select(DeadLetterRow).where(DeadLetterRow.vehicle_id == batch.vehicle_id, DeadLetterRow.digest == digest)
        )
        if known is not None:
            known.times_seen += 1
            return known.id
        row = DeadLetterRow(
            vehicle_id=batch.vehicle_id,
            stream=batch.stream,
            sequence=batch.sequence,
            items=batch.items,
            manifest_hash=batch.manifest_hash,
            received_ns=batch.received_ns,
            reason=reason[:MAX_REASON_CHARS],
            digest=digest,
            times_seen=1,
            content=batch.content,
            content_bytes=len(batch.content),
        )
        session.add(row)
        await session.flush()
        await self._trim(session, batch.vehicle_id)
        return row.id

    async def _trim(self, session: AsyncSession, vehicle_id: str) -> None:
        """Drop the oldest until count and bytes are within the bounds; the newest always stays."""
        mine = DeadLetterRow.vehicle_id == vehicle_id
        count, size = (
            await session.execute(select(func.count(), func.sum(DeadLetterRow.content_bytes)).where(mine))
        ).one()
        if count <= self._max_count and size <= self._max_bytes:
            return
        oldest = (
            await session.execute(
                select(DeadLetterRow.id, DeadLetterRow.content_bytes).where(mine).order_by(DeadLetterRow.id)
            )
        ).all()
        drop: list[int] = []
        dropped_bytes = 0
        for row_id, content_bytes in oldest[:-1]:
            if count - len(drop) <= self._max_count and size - dropped_bytes <= self._max_bytes:
                break
            drop.append(row_id)
            dropped_bytes += content_bytes
        await session.execute(delete(DeadLetterRow).where(DeadLetterRow.id.in_(drop)))
        counted = insert(DeadLetterDropsRow).values(
            vehicle_id=vehicle_id, dropped=len(drop), dropped_bytes=dropped_bytes
        )
        await session.execute(
            counted.on_conflict_do_update(
                index_elements=["vehicle_id"],
                set_={
                    "dropped": DeadLetterDropsRow.dropped + counted.excluded.dropped,
                    "dropped_bytes": DeadLetterDropsRow.dropped_bytes + counted.excluded.dropped_bytes,
                },
            )
        )
