"""What the lake, the live state and queries need from the spool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from cloud.spool.model import StoredBatch


class BatchSpool(Protocol):
    """Accepted batches, in order of acceptance.

    Methods that take a session work inside the caller's transaction, so that "in the lake" and "no longer in the
    spool" become true at the same commit.
    """

    async def uncompacted(self, limit: int, *, after_id: int = 0, vehicle_id: str | None = None) -> list[StoredBatch]:
        """At most ``limit`` batches in state stored, oldest first, with an id above ``after_id``."""
        ...

    async def uncompacted_between(
        self, session: AsyncSession, vehicle_id: str, from_ns: int, to_ns: int, limit: int
    ) -> list[StoredBatch]:
        """Batches in state stored that overlap ``[from_ns, to_ns]``, as the caller's snapshot sees them."""
        ...

    async def mark_compacted(self, session: AsyncSession, ids: Sequence[int]) -> int:
        """Stored → compacted and drop the content. Returns how many changed; the rest were not in state stored."""
        ...

    async def move_to_dead_letters(self, session: AsyncSession, batch: StoredBatch, reason: str) -> bool:
        """Stored → dead, content to the dead letters (bounded). False when the batch was not in state stored."""
        ...

    async def note_failure(self, session: AsyncSession, batch: StoredBatch, reason: str, max_attempts: int) -> bool:
        """Count a failed try to process the batch; True when it was the last one and the batch is a dead letter now."""
        ...
