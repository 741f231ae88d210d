"""What a vehicle's signals said: samples and roll-ups out of the lake and out of the batches not yet in it.

Each read takes one snapshot of the database: which files are in the lake and which batches still wait. As compaction
swaps one for the other in a single commit, a sample is seen in exactly one of the two. A file that vanishes between
snapshot and reading was merged or deleted: the read starts over with a new snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import numpy as np
from sqlalchemy import func, select

from cloud.errors import DamagedFile, NotFound, Unavailable
from cloud.lake.columns import Columns
from cloud.lake.compactor import concatenate_frames
from cloud.lake.parquet import FrameColumns, read_frames, read_rollup, read_samples
from cloud.lake.pending import pending_batches
from cloud.lake.reader import BatchReader, DecodedBatch, ManifestMissing, UnreadableBatch
from cloud.lake.rollup import WIDTH_NS, Rollup, merge_rollups, physical_values, roll_up
from cloud.lake.store import Lake, LakeFile
from cloud.lake.tables import FileRow, Tier, VehicleSignalRow
from cloud.spool.model import BatchRow, BatchState, StoredBatch

ATTEMPTS = 5
HOUR_NS = 3_600_000_000_000
FIRST_WINDOW_NS = HOUR_NS
SHORTEST_WINDOW_NS = 60_000_000_000
LONGEST_WINDOW_NS = 31 * 24 * HOUR_NS
COMFORTABLE_ROWS = 500_000  # a window with fewer rows in it makes the next one longer
MAX_WINDOW_ROWS = 20_000_000  # of all signals, in the files a window touches
T = TypeVar("T")


def _read(of_file: Callable[[LakeFile], T], file: LakeFile) -> T:
    try:
        return of_file(file)
    except FileNotFoundError as error:
        raise DamagedFile(f"the lake's file {file.path} is missing") from error
    except (OSError, ValueError) as error:  # pyarrow says ArrowInvalid, a ValueError, for damage
        raise DamagedFile(f"the lake's file {file.path} cannot be read") from error


class History:
    """Reads; nothing here changes anything. At most ``queries_at_once`` run, each for at most ``timeout_s``."""

    def __init__(self, lake: Lake, reader: BatchReader, *, queries_at_once: int, timeout_s: float) -> None:
        self.lake = lake
        self.catalog = lake.catalog
        self._reader = reader
        self._slots = asyncio.Semaphore(queries_at_once)
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A place among the queries, and a time limit for the block.

        Raises:
            Unavailable: the time is over.
        """
        try:
            async with asyncio.timeout(self._timeout_s), self._slots:
                yield
        except TimeoutError as error:
            text = f"the query took longer than {self._timeout_s:g} s; ask for less at once or a coarser resolution"
            raise Unavailable(text) from error

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A place among the queries without a time limit, for one step of a download."""
        async with self._slots:
            yield

    async def samples(self, vehicle_id: str, series: Sequence[int] | None, from_ns: int, to_ns: int) -> Columns:
        """All samples with ``from_ns <= time < to_ns``, sorted by (series, time). The caller bounds the range."""

        def of_file(file: LakeFile) -> Columns:
            return read_samples(
                self.lake.root / file.path, file.resolution_ns, series=series, from_ns=from_ns, to_ns=to_ns
            )

        def of_batch(batch: DecodedBatch) -> Columns:
            columns = batch.columns.between(from_ns, to_ns)
            return columns if series is None else columns.only(series)

        parts = await self._union(vehicle_id, Tier.RAW, from_ns, to_ns, of_file, of_batch)
        return await asyncio.to_thread(lambda: Columns.concatenate(parts).sorted())

    async def rollup(self, vehicle_id: str, series: Sequence[int], tier: str, from_ns: int, to_ns: int) -> Rollup:
        """Buckets of a tier that start in ``[from_ns, to_ns)``, by (series, definition, time)."""
        width_ns = WIDTH_NS[tier]
        until_ns = to_ns + width_ns  # a batch counts with all its samples of the buckets asked for

        def of_file(file: LakeFile) -> Rollup:
            return read_rollup(self.lake.root / file.path, series=series, from_ns=from_ns, to_ns=to_ns)

        def of_batch(batch: DecodedBatch) -> Rollup:
            columns = batch.columns.only(series)
            rollup = roll_up(columns, physical_values(columns, self.catalog.definitions), width_ns)
            return rollup.take((rollup.bucket_ns >= from_ns) & (rollup.bucket_ns < to_ns))

        parts = await self._union(vehicle_id, tier, from_ns, until_ns, of_file, of_batch)
        return await asyncio.to_thread(merge_rollups, parts)

    async def frames(self, vehicle_id: str, from_ns: int, to_ns: int) -> FrameColumns:
        """Raw frames of the black box with ``from_ns <= time < to_ns``, in order of time."""

        def of_file(file: LakeFile) -> FrameColumns:
            return read_frames(self.lake.root / file.path, from_ns=from_ns, to_ns=to_ns)

        def of_batch(batch: DecodedBatch) -> FrameColumns:
            times = batch.frames.frames.timestamp_ns
            return FrameColumns(batch.frames.frames.take((times >= from_ns) & (times < to_ns)), batch.frames.bus_names)

        parts = await self._union(vehicle_id, Tier.FRAMES, from_ns, to_ns, of_file, of_batch)
        whole = concatenate_frames(parts)
        order = np.argsort(whole.frames.timestamp_ns, kind="stable")
        return FrameColumns(whole.frames.take(order), whole.bus_names)

    async def _union(
        self,
        vehicle_id: str,
        tier: str,
        from_ns: int,
        to_ns: int,
        of_file: Callable[[LakeFile], T],
        of_batch: Callable[[DecodedBatch], T],
    ) -> list[T]:
        for attempt in range(ATTEMPTS):
            parts: list[T] = []
            async with self.lake.database.read() as session:
                files = await self.lake.files(session, vehicle_id, tier, from_ns, to_ns)
                async for stored in pending_batches(session, vehicle_id, from_ns, to_ns):
                    try:
                        decoded = await self._reader.read(stored)
                    except (UnreadableBatch, ManifestMissing):
                        continue  # becomes a dead letter, or waits for its manifest: not history yet
                    parts.append(await asyncio.to_thread(of_batch, decoded))
            try:
                for file in files:
                    parts.append(await asyncio.to_thread(_read, of_file, file))
            except DamagedFile:  # or merged into another one meanwhile
                if attempt + 1 < ATTEMPTS:
                    continue
                raise
            return parts
        raise AssertionError("unreachable")

    async def series(self, vehicle_id: str, signal: str) -> int:
        """The number of a signal; asks the manifests of waiting batches when no batch has needed it yet.

        Raises:
            NotFound: no vehicle has such a signal.
        """
        if signal not in self.catalog.series:
            async with self.lake.database.read() as session:
                query = select(BatchRow.manifest_hash).where(
                    BatchRow.vehicle_id == vehicle_id, BatchRow.state == BatchState.STORED
                )
                hashes = list(await session.scalars(query.distinct()))
            for manifest_hash in hashes:
                await self.catalog.translation(manifest_hash)
        if signal not in self.catalog.series:
            raise NotFound(f"no vehicle has sent a signal {signal[:200]!r}")
        return self.catalog.series[signal]

    async def read_batch(self, batch: StoredBatch) -> DecodedBatch:
        """A waiting batch, decoded; errors as of ``BatchReader.read``."""
        return await self._reader.read(batch)

    async def estimate(self, vehicle_id: str, series: int, from_ns: int, to_ns: int) -> int:
        """About how many samples a range holds: by the signal's mean rate in the lake, exact in waiting batches."""
        waiting = 0
        async with self.lake.database.read() as session:
            row = await session.get(VehicleSignalRow, (vehicle_id, series))
            async for batch in pending_batches(session, vehicle_id, from_ns, to_ns):
                try:
                    columns = (await self._reader.read(batch)).columns
                except (UnreadableBatch, ManifestMissing):
                    continue
                first, end = np.searchsorted(columns.series, [series, series + 1])
                inside = np.searchsorted(columns.time_ns[first:end], [from_ns, to_ns])
                waiting += int(inside[1] - inside[0])
        if row is None:
            return waiting
        overlap_ns = min(to_ns, row.last_ns + 1) - max(from_ns, row.first_ns)
        return waiting + int(row.count * max(0, overlap_ns) / max(1, row.last_ns + 1 - row.first_ns))

    async def extent(self, vehicle_id: str, tier: str) -> tuple[int, int] | None:
        """First and last time of anything a vehicle has in a tier or in waiting batches; None when nothing."""
        async with self.lake.database.read() as session:
            files = select(func.min(FileRow.first_ns), func.max(FileRow.last_ns)).where(
                FileRow.vehicle_id == vehicle_id, FileRow.tier == tier
            )
            waiting = select(func.min(BatchRow.first_ns), func.max(BatchRow.last_ns)).where(
                BatchRow.vehicle_id == vehicle_id, BatchRow.state == BatchState.STORED
            )
            first, last = (await session.execute(files)).one()
            first_waiting, last_waiting = (await session.execute(waiting)).one()
        firsts = [t for t in (first, first_waiting) if t is not None]
        lasts = [t for t in (last, last_waiting) if t is not None]
        return (min(firsts), max(lasts)) if firsts else None

    async def _rows(self, vehicle_id: str, tier: str, from_ns: int, window_ns: int) -> int:
        """Rows of all signals in the files a window touches: an upper bound of what a read can give."""
        query = select(func.coalesce(func.sum(FileRow.rows), 0)).where(
            FileRow.vehicle_id == vehicle_id,
            FileRow.tier == tier,
            FileRow.last_ns >= from_ns,
            FileRow.first_ns < from_ns + window_ns,
        )
        async with self.lake.database.read() as session:
            return int(await session.scalar(query) or 0)

    async def windows(
        self,
        vehicle_id: str,
        tier: str,
        from_ns: int,
        to_ns: int,
        read: Callable[[int, int], Awaitable[T]],
        size: Callable[[T], int],
        *,
        step_ns: int = 1,
    ) -> AsyncIterator[T]:
        """What ``read(from, to)`` gives for consecutive windows, longer ones where there is little.

        Memory stays bounded by a window's rows whatever the range. Windows begin at multiples of ``step_ns``, which
        divides an hour, so that no bucket is cut in two.
        """
        known = await self.extent(vehicle_id, tier)
        if known is None:
            return
        at_ns, end_ns = max(from_ns, known[0] // step_ns * step_ns), min(to_ns, known[1] + 1)
        window_ns = FIRST_WINDOW_NS
        while at_ns < end_ns:
            while (
                window_ns > FIRST_WINDOW_NS and await self._rows(vehicle_id, tier, at_ns, window_ns) > MAX_WINDOW_ROWS
            ):
                window_ns = max(window_ns // 2 // SHORTEST_WINDOW_NS * SHORTEST_WINDOW_NS, FIRST_WINDOW_NS)
            until_ns = min(at_ns + window_ns, end_ns)
            part = await read(at_ns, until_ns)
            yield part
            at_ns = until_ns
            if size(part) < COMFORTABLE_ROWS:
                window_ns = min(window_ns * 2, LONGEST_WINDOW_NS)
            elif size(part) > 4 * COMFORTABLE_ROWS:
                window_ns = max(window_ns // 4 // SHORTEST_WINDOW_NS * SHORTEST_WINDOW_NS, SHORTEST_WINDOW_NS)

    async def has_frames(self, vehicle_id: str) -> bool:
        """Whether the black box of a vehicle holds anything, as far as the lake and waiting batches tell."""
        async with self.lake.database.read() as session:
            kept = select(FileRow.id).where(FileRow.vehicle_id == vehicle_id, FileRow.tier == Tier.FRAMES).limit(1)
            if await session.scalar(kept) is not None:
                return True
            async for batch in pending_batches(session, vehicle_id):
                try:
                    if len((await self._reader.read(batch)).frames.frames):
                        return True
                except (UnreadableBatch, ManifestMissing):
                    continue
        return False
