"""Tells others of stored batches, behind a bounded queue, so that nobody can delay an acknowledgement."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cloud.log import get_logger
from cloud.spool.model import StoredBatch

log = get_logger("cloud.ingest")


@dataclass(slots=True)
class ListenerStatistics:
    """Totals since the start of the process."""

    told: int = 0
    skipped: int = 0  # the queue was full
    failed: int = 0


class BatchListeners:
    """One queue and one task for all listeners. Full: the newest batch is skipped for them, and counted."""

    def __init__(self, listeners: Sequence[Callable[[StoredBatch], Awaitable[None]]], queue_max: int) -> None:
        self._listeners = listeners
        self._queue: asyncio.Queue[StoredBatch] = asyncio.Queue(queue_max)
        self.statistics = ListenerStatistics()

    def tell(self, batch: StoredBatch) -> None:
        """Queue a batch for the listeners; never waits."""
        try:
            self._queue.put_nowait(batch)
        except asyncio.QueueFull:
            self.statistics.skipped += 1

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            batch = await self._queue.get()
            for listener in self._listeners:
                try:
                    await listener(batch)
                except Exception as error:  # one listener's mistake must reach neither the others nor ingest
                    self.statistics.failed += 1
                    log.error("batch_listener_failed", batch=batch.id, exc_info=error)
            self.statistics.told += 1
            self._queue.task_done()
