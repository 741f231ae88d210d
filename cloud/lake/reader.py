"""From a stored batch to columns: decoding, translation to lake numbers, and a bounded cache of the results.

The live state, queries over what is not compacted yet, and the compactor all read through here, so that a batch is
usually decoded once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from cloud.lake.catalog import Catalog, Translation
from cloud.lake.columns import DAY_NS, Columns, UnknownSignal, columns_of
from cloud.lake.config import LakeConfig
from cloud.lake.parquet import FrameColumns
from cloud.spool.model import StoredBatch
from gateway.wire.batch import Batch
from gateway.wire.samples import Event

Decode = Callable[[bytes], Batch]


class UnreadableBatch(Exception):
    """The batch can never be read; the message is the reason for its dead letter."""


class ManifestMissing(Exception):
    """Nobody has sent the manifest the batch names; it can be read later."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedBatch:
    """A batch in the lake's terms; ``columns`` are sorted by (series, time)."""

    columns: Columns
    frames: FrameColumns
    events: tuple[Event, ...]
    resolution_ns: int

    @property
    def size_bytes(self) -> int:
        """Memory held, roughly."""
        return 25 * len(self.columns) + 82 * len(self.frames.frames) + 300 * len(self.events) + 500


class BatchReader:
    """Decodes stored batches in a worker thread; results are shared and must not be changed."""

    def __init__(self, catalog: Catalog, decode: Decode, config: LakeConfig) -> None:
        self.catalog = catalog
        self._decode = decode
        self._config = config
        self._cache: OrderedDict[int, DecodedBatch] = OrderedDict()
        self._cached_bytes = 0

    async def read(self, batch: StoredBatch, *, keep: bool = True) -> DecodedBatch:
        """The decoded batch.

        Raises:
            UnreadableBatch: it will never decode; the message tells why.
            ManifestMissing: its manifest has not arrived.
        """
        cached = self._cache.get(batch.id)
        if cached is not None:
            self._cache.move_to_end(batch.id)
            return cached
        translation = await self.catalog.translation(batch.manifest_hash)
        if translation is None:
            raise ManifestMissing(batch.manifest_hash)
        decoded = await asyncio.to_thread(self._read, batch, translation)
        if keep and batch.id not in self._cache:
            self._cache[batch.id] = decoded
            self._cached_bytes += decoded.size_bytes
            while self._cached_bytes > self._config.cache_bytes:
                self._cached_bytes -= self._cache.popitem(last=False)[1].size_bytes
        return decoded

    def forget(self, ids: Iterable[int]) -> None:
        """These batches will not be asked for again."""
        for number in ids:
            dropped = self._cache.pop(number, None)
            if dropped is not None:
                self._cached_bytes -= dropped.size_bytes

    def _read(self, stored: StoredBatch, translation: Translation) -> DecodedBatch:
        try:
            batch = self._decode(stored.content)
        except ValueError as error:  # CodecError; nothing else escapes the codec
            raise UnreadableBatch(str(error) or type(error).__name__) from error
        try:
            columns = columns_of(batch.samples, translation.series, translation.definition).sorted()
        except UnknownSignal as error:
            raise UnreadableBatch(str(error)) from error
        frames = batch.frames
        if len(frames) and int(frames.bus.max()) >= len(translation.buses):
            raise UnreadableBatch(
                f"raw frame of bus {int(frames.bus.max())}, the manifest has {len(translation.buses)}"
            )
        days = len(np.union1d(columns.time_ns // DAY_NS, frames.timestamp_ns // DAY_NS))
        if days > self._config.max_days_per_batch:
            raise UnreadableBatch(f"times spread over {days} days, at most {self._config.max_days_per_batch}")
        resolution_ns = max(1, batch.header.resolution_ns)
        if len(columns) and bool((columns.time_ns % resolution_ns).any()):
            resolution_ns = 1
        return DecodedBatch(columns, FrameColumns(frames, translation.buses), batch.events, resolution_ns)
