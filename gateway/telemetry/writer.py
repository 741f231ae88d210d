"""From selected pieces to durable batches: the component between collector and disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio
import numpy as np
from anyio.abc import TaskStatus
from numpy.typing import NDArray

from dbc.frames import FrameBatch
from gateway.collect.budget import BudgetKeeper
from gateway.runtime import Channel, ChannelClosed, Clock, ComponentHealth, HealthBoard
from gateway.spool import Spool, SpoolError
from gateway.telemetry.batcher import Batcher, OpenBatch, Piece
from gateway.telemetry.desk import SpoolDesk
from gateway.telemetry.ledger import LedgerKeeper
from gateway.wire.codec import MAX_ITEMS, encode_batch
from gateway.wire.samples import Event, SampleBlock

log = logging.getLogger(__name__)

Content = tuple[SampleBlock, FrameBatch, tuple[Event, ...]]


def halves(content: Content) -> tuple[Content, Content]:
    """Split a batch's content in two: by rows, by frames and by events, each in the middle."""
    samples, frames, events = content
    rows, middle_frame, middle_event = len(samples.row_timestamp_ns), len(frames) // 2, len(events) // 2
    middle_row = rows // 2
    return (
        (_rows(samples, 0, middle_row), frames.take(slice(0, middle_frame)), events[:middle_event]),
        (_rows(samples, middle_row, rows), frames.take(slice(middle_frame, None)), events[middle_event:]),
    )


def _rows(block: SampleBlock, first: int, last: int) -> SampleBlock:
    mine: NDArray[np.bool_] = (block.row >= first) & (block.row < last)
    return SampleBlock(
        block.row_timestamp_ns[first:last],
        block.row_message[first:last],
        block.row[mine] - np.int32(first),
        block.signal[mine],
        block.raw[mine],
        block.quality[mine],
    )


def items_of(content: Content) -> int:
    """What the accounting counts."""
    return len(content[0]) + len(content[1]) + len(content[2])


class Writer:
    """Receives pieces, closes batches, encodes and stores them; on a full disk counts what it had to refuse.

    Urgent batches are made durable at once, others with the next checkpoint. Each stored record carries the ledger's
    state, so that what was in memory at a crash can be told from what was stored.
    """

    name, optional = "writer", False

    def __init__(
        self,
        *,
        inlet: Channel[list[Piece]],
        batcher: Batcher,
        desk: SpoolDesk,
        keeper: LedgerKeeper,
        budget: BudgetKeeper,
        manifest_hash: bytes,
        health: HealthBoard,
        clock: Clock,
        max_batch_bytes: int,
        checkpoint_s: float,
        drain_s: float,
    ) -> None:
        self._inlet, self._batcher, self._desk, self._keeper, self._budget = inlet, batcher, desk, keeper, budget
        self._manifest_hash, self._health, self._clock = manifest_hash, health, clock
        self._max_batch_bytes, self._checkpoint_s, self.drain_s = max_batch_bytes, checkpoint_s, drain_s
        self._is_undurable = False

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Work until the channel is closed and everything taken from it is durable."""
        self._health.register(self.name, self._clock.monotonic_ns(), limit_s=60.0)
        self._health.report(self.name, ComponentHealth.OK)
        task_status.started()
        try:
            await self._work()
        finally:
            self._desk.finish()

    async def _work(self) -> None:
        checkpoint_at_ns = 0
        while True:
            now_ns = self._clock.monotonic_ns()
            self._health.beat(self.name, now_ns)
            if now_ns >= checkpoint_at_ns:
                await self._checkpoint()
                checkpoint_at_ns = now_ns + int(self._checkpoint_s * 1e9)
            deadline_ns = min(checkpoint_at_ns, self._batcher.next_deadline_ns() or checkpoint_at_ns)
            pieces: list[Piece] | None = []
            with anyio.move_on_after(max(0.0, (deadline_ns - now_ns) / 1e9)):
                try:
                    pieces = await self._inlet.receive()
                except ChannelClosed:
                    pieces = None
            if pieces is None:
                break
            full = self._batcher.add(pieces, self._clock.monotonic_ns())
            await self._store_all(full + self._batcher.due(self._clock.monotonic_ns()))
        await self._store_all(self._batcher.flush())
        await self._checkpoint()

    async def _checkpoint(self) -> None:
        """Make durable what can be; a disk that refuses now may take it at the next checkpoint."""
        try:
            await self._desk.sync()
            await self._desk.checkpoint(self._keeper.persisted())
        except SpoolError as error:
            if self._health.report(self.name, ComponentHealth.DEGRADED, f"not durable: {error}"):
                log.error("checkpoint_failed", extra={"error": str(error)})
            self._is_undurable = True
        else:
            if self._is_undurable:
                self._health.report(self.name, ComponentHealth.OK)
            self._is_undurable = False

    async def _store_all(self, batches: Sequence[OpenBatch]) -> None:
        for batch in batches:
            await self._store(batch, batch.content())

    async def _store(self, batch: OpenBatch, content: Content) -> None:
        """Store one batch, in two if its bytes are more than a batch may have."""
        items = items_of(content)
        if items == 0:
            return
        may_split = max(len(content[0].row_timestamp_ns), len(content[1]), len(content[2])) > 1
        if items > MAX_ITEMS and may_split:
            for half in halves(content):
                await self._store(batch, half)
            return
        created_ns, state = self._clock.utc_ns(), self._keeper.persisted()

        def work(spool: Spool) -> int:
            sequence = spool.next_sequence(batch.stream)
            encoded = encode_batch(
                stream=f"{spool.spool_id}/{batch.stream}",
                sequence=sequence,
                items_before=spool.stored_items(batch.stream),
                manifest_hash=self._manifest_hash,
                created_ns=created_ns,
                resolution_ns=batch.resolution_ns,
                schemes=batch.schemes(),
                samples=content[0],
                frames=content[1],
                events=content[2],
            )
            if len(encoded) > self._max_batch_bytes and may_split:
                return -len(encoded)
            spool.append(batch.stream, encoded, items, state)
            return len(encoded)

        try:
            size = await self._desk.store(work)
        except SpoolError as error:  # full, or the disk fails: count what is gone and go on with what comes
            self._keeper.refuse_items(items)
            if self._health.report(self.name, ComponentHealth.DEGRADED, f"batches refused: {error}"):
                log.error("batches_refused", extra={"stream": batch.stream, "items": items, "error": str(error)})
            return
        if size < 0:
            for half in halves(content):
                await self._store(batch, half)
            return
        self._keeper.store_items(items)
        self._budget.spent(batch.priority, size, created_ns)
        self._health.report(self.name, ComponentHealth.OK)
