"""Accepted batches become files of the lake; small files of a day become larger ones."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import case, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.lake.columns import DAY_NS, Columns
from cloud.lake.parquet import FrameColumns, read_frames, read_rollup, read_samples
from cloud.lake.reader import BatchReader, DecodedBatch, ManifestMissing, UnreadableBatch
from cloud.lake.rollup import WIDTH_NS, merge_rollups
from cloud.lake.store import Lake, LakeChanged, LakeFile
from cloud.lake.tables import EventRow, FileRow, Tier, VehicleSignalRow
from cloud.spool.model import BatchRow, BatchState, StoredBatch
from cloud.spool.ports import BatchSpool
from gateway.wire.frames import FrameBatch
from gateway.wire.samples import EventKind

log = logging.getLogger(__name__)
MAX_ATTEMPTS = 3
#: Details that are JSON must stay whole; all others are a line for people.
DETAIL_CHARS = {EventKind.DTC: 65_536, EventKind.AUDIT: 16_384, EventKind.INTRUSION: 16_384}


@dataclass(slots=True)
class CompactionReport:
    """What a run did."""

    batches: int = 0
    samples: int = 0
    frames: int = 0
    events: int = 0
    files: int = 0
    dead_letters: int = 0
    waiting: int = 0  # batches whose manifest is not known
    failed: int = 0  # vehicles whose round failed; tried again next time


@dataclass(slots=True)
class CompactorStatistics:
    """Totals since the start, and what the lake held when last looked at; for metrics."""

    batches: int = 0
    samples: int = 0
    dead_letters: int = 0
    failures: int = 0
    seconds: float = 0.0
    merged_files: int = 0
    backlog_batches: int = 0
    files: dict[str, int] = field(default_factory=dict)  # by tier
    file_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Round:
    """Batches of one vehicle that go into the lake in one transaction."""

    batches: list[StoredBatch] = field(default_factory=list)
    decoded: list[DecodedBatch] = field(default_factory=list)
    dead: list[tuple[StoredBatch, str]] = field(default_factory=list)
    waiting: int = 0
    columns: Columns = field(default_factory=Columns.empty)  # of all decoded, sorted


class Compactor:
    """Moves batches from the spool into the lake and merges its files. One instance, run by one task."""

    def __init__(
        self,
        lake: Lake,
        spool: BatchSpool,
        reader: BatchReader,
        *,
        on_compacted: Callable[[str, Columns], None] = lambda vehicle_id, columns: None,
    ) -> None:
        self._on_compacted = on_compacted  # called with sorted samples after each commit
        self._lake = lake
        self._spool = spool
        self._reader = reader
        self.statistics = CompactorStatistics()

    async def compact(self, *, everything: bool = False) -> CompactionReport:
        """Compact the vehicles that are due, or all."""
        report, started = CompactionReport(), time.perf_counter()
        try:
            await self._compact_due(report, everything)
        finally:
            total = self.statistics
            total.batches += report.batches
            total.samples += report.samples
            total.dead_letters += report.dead_letters
            total.failures += report.failed
            total.seconds += time.perf_counter() - started
        async with self._lake.database.read() as session:
            waiting = await session.scalar(select(func.count()).where(BatchRow.state == BatchState.STORED))
        self.statistics.backlog_batches = waiting or 0
        return report

    async def _compact_due(self, report: CompactionReport, everything: bool) -> None:
        for vehicle_id in await self._due(everything):
            try:
                after_id = 0
                while after_id >= 0:
                    after_id = await self._compact_some(vehicle_id, after_id, report)
            except Exception:  # one vehicle's trouble must not stop the others; its batches stay in the spool
                log.exception("compaction_failed", extra={"vehicle": vehicle_id})
                report.failed += 1

    async def _due(self, everything: bool) -> list[str]:
        config = self._lake.config
        oldest_ns = self._lake.clock.now_ns() - int(config.compact_after_s * 1e9)
        query = select(BatchRow.vehicle_id).where(BatchRow.state == BatchState.STORED).group_by(BatchRow.vehicle_id)
        if not everything:
            query = query.having(
                (func.min(BatchRow.received_ns) <= oldest_ns)
                | (func.sum(BatchRow.items) >= config.compact_items)
                | (func.count() >= config.max_batches_per_round)
            )
        async with self._lake.database.read() as session:
            return list(await session.scalars(query))

    async def _compact_some(self, vehicle_id: str, after_id: int, report: CompactionReport) -> int:
        """One round; returns the id to go on after, or -1 when nothing is left."""
        config = self._lake.config
        async with self._lake.lock:
            found = await self._spool.uncompacted(
                config.max_batches_per_round, after_id=after_id, vehicle_id=vehicle_id
            )
            if not found:
                return -1
            taken = _within(found, config.max_items_per_round)
            try:
                await self._store(vehicle_id, taken, report)
            except LakeChanged:
                return after_id  # a batch was erased or taken meanwhile: look again
            except Exception as error:  # one of these batches; the others must not wait for it
                if _is_of_the_machine(error):
                    raise
                log.exception("compaction_failed", extra={"vehicle": vehicle_id})
                report.failed += 1
                await self._store_one_by_one(vehicle_id, taken, report)
        return taken[-1].id

    async def _store_one_by_one(
        self, vehicle_id: str, batches: Sequence[StoredBatch], report: CompactionReport
    ) -> None:
        """Each batch in a transaction of its own; one that fails ``MAX_ATTEMPTS`` times becomes a dead letter."""
        for batch in batches:
            try:
                await self._store(vehicle_id, [batch], report)
            except LakeChanged:
                continue
            except Exception as error:
                if _is_of_the_machine(error):
                    raise
                reason = f"cannot be processed: {type(error).__name__}: {error}"
                async with self._lake.database.write() as session:
                    report.dead_letters += await self._spool.note_failure(session, batch, reason, MAX_ATTEMPTS)

    async def _store(self, vehicle_id: str, taken: Sequence[StoredBatch], report: CompactionReport) -> None:
        """Decode, write and commit one round."""
        work = await self._decode(taken)
        files = await asyncio.to_thread(self._write, vehicle_id, work)
        try:
            await self._commit(vehicle_id, work, files)
        except BaseException:
            await asyncio.to_thread(self._lake.unlink, files)
            raise
        self._reader.forget(b.id for b in taken)
        self._on_compacted(vehicle_id, work.columns)
        report.batches += len(work.batches)
        report.samples += sum(len(d.columns) for d in work.decoded)
        report.frames += sum(len(d.frames.frames) for d in work.decoded)
        report.events += sum(len(d.events) for d in work.decoded)
        report.files += len(files)
        report.dead_letters += len(work.dead)
        report.waiting += work.waiting

    async def _decode(self, batches: Sequence[StoredBatch]) -> _Round:
        work = _Round()
        for batch in batches:
            try:
                decoded = await self._reader.read(batch, keep=False)
            except UnreadableBatch as error:
                work.dead.append((batch, str(error)))
            except ManifestMissing:
                work.waiting += 1
            else:
                work.batches.append(batch)
                work.decoded.append(decoded)
        return work

    def _write(self, vehicle_id: str, work: _Round) -> list[LakeFile]:
        files: list[LakeFile] = []
        work.columns = Columns.concatenate([d.columns for d in work.decoded]).sorted()
        resolution_ns = math.gcd(*(d.resolution_ns for d in work.decoded)) or 1
        try:
            for day, columns in work.columns.days():
                files += self._lake.write_day(vehicle_id, day, columns, resolution_ns)
            for day, frames in _frames_by_day([d.frames for d in work.decoded]):
                files.append(self._lake.write_black_box(vehicle_id, day, frames))
        except BaseException:
            self._lake.unlink(files)
            raise
        return files

    async def _commit(self, vehicle_id: str, work: _Round, files: Sequence[LakeFile]) -> None:
        """Register the files and let the batches go, in one transaction."""
        async with self._lake.database.write() as session:
            ids = [b.id for b in work.batches]
            if await self._spool.mark_compacted(session, ids) != len(ids):
                raise LakeChanged("a batch is no longer waiting")
            for batch, reason in work.dead:
                await self._spool.move_to_dead_letters(session, batch, reason)
            self._lake.register(session, files)
            session.add_all(
                EventRow(
                    vehicle_id=vehicle_id,
                    at_ns=e.timestamp_ns,
                    kind=e.kind,
                    source=e.source[:400],
                    detail=e.detail[: DETAIL_CHARS.get(e.kind, 2000)],
                )
                for decoded in work.decoded
                for e in decoded.events
            )
            await _update_signals(session, vehicle_id, work.columns)

    async def merge(self, *, everything: bool = False) -> int:
        """Fold small files of one vehicle, tier and day together; returns how many files went into others."""
        merged = 0
        for vehicle_id, tier, day in await self._crowded(everything):
            try:
                at_least = 2 if everything else self._lake.config.merge_files
                merged += await self._merge_day(vehicle_id, tier, day, at_least)
            except Exception:  # a damaged file must not keep the other days from being merged
                log.exception("merge_failed", extra={"vehicle": vehicle_id, "tier": tier, "day": day})
                self.statistics.failures += 1
        self.statistics.merged_files += merged
        query = select(FileRow.tier, func.count(), func.sum(FileRow.size_bytes)).group_by(FileRow.tier)
        async with self._lake.database.read() as session:
            held = (await session.execute(query)).all()
        self.statistics.files = {str(tier): int(count) for tier, count, _ in held}
        self.statistics.file_bytes = {str(tier): int(size) for tier, _, size in held}
        return merged

    def _max_rows(self, tier: str) -> int:
        config = self._lake.config
        return config.merge_frames_max_rows if tier == Tier.FRAMES else config.merge_max_rows

    async def _crowded(self, everything: bool) -> list[tuple[str, str, int]]:
        config = self._lake.config
        small = FileRow.rows < case(
            (FileRow.tier == Tier.FRAMES, config.merge_frames_max_rows // 2), else_=config.merge_max_rows // 2
        )
        query = (
            select(FileRow.vehicle_id, FileRow.tier, FileRow.day)
            .where(small)
            .group_by(FileRow.vehicle_id, FileRow.tier, FileRow.day)
            .having(func.count() >= (2 if everything else config.merge_files))
        )
        async with self._lake.database.read() as session:
            return [(v, t, d) for v, t, d in await session.execute(query)]

    async def _merge_day(self, vehicle_id: str, tier: str, day: int, at_least: int) -> int:
        limit = self._max_rows(tier)
        async with self._lake.lock:
            async with self._lake.database.read() as session:
                files = await self._lake.files(session, vehicle_id, tier, day * DAY_NS, (day + 1) * DAY_NS)
            group = _to_merge([f for f in files if f.day == day and f.rows < limit // 2], limit)
            if len(group) < at_least:
                return 0
            merged = await asyncio.to_thread(self._rewrite, group)
            try:
                async with self._lake.database.write() as session:
                    await self._lake.unregister(session, group)
                    self._lake.register(session, [merged])
            except BaseException:
                await asyncio.to_thread(self._lake.unlink, [merged])
                raise
            await asyncio.to_thread(self._lake.unlink, group)
        return len(group)

    def _rewrite(self, group: Sequence[LakeFile]) -> LakeFile:
        lake, first = self._lake, group[0]
        paths = [lake.root / f.path for f in group]
        if first.tier == Tier.RAW:
            resolution_ns = math.gcd(*(f.resolution_ns for f in group))
            parts = [read_samples(p, f.resolution_ns) for p, f in zip(paths, group, strict=True)]
            return lake.write_raw(first.vehicle_id, first.day, Columns.concatenate(parts).sorted(), resolution_ns)
        if first.tier in WIDTH_NS:
            rollup = merge_rollups([read_rollup(p) for p in paths])
            return lake.write_parts(first.tier, first.vehicle_id, first.day, rollup)
        return lake.write_black_box(first.vehicle_id, first.day, concatenate_frames([read_frames(p) for p in paths]))


def _is_of_the_machine(error: Exception) -> bool:
    """Whether disk, memory or database are to blame, not a batch: then the round is tried for as long as it takes."""
    if isinstance(error, DataError | IntegrityError) or type(error) is StatementError:
        return False
    return isinstance(error, OSError | MemoryError | SQLAlchemyError)


def _within(batches: Sequence[StoredBatch], max_items: int) -> list[StoredBatch]:
    """The first batches with at most ``max_items`` together, but at least one."""
    taken: list[StoredBatch] = []
    items = 0
    for batch in batches:
        items += batch.items
        if taken and items > max_items:
            break
        taken.append(batch)
    return taken


def _to_merge(files: Sequence[LakeFile], max_rows: int) -> list[LakeFile]:
    """Neighbours in time that fit into one file."""
    group: list[LakeFile] = []
    rows = 0
    for file in files:
        if rows + file.rows > max_rows:
            break
        group.append(file)
        rows += file.rows
    return group


def concatenate_frames(parts: Sequence[FrameColumns]) -> FrameColumns:
    """All frames in the order given, over one list of bus names."""
    names: dict[str, int] = {}
    batches: list[FrameBatch] = []
    for part in parts:
        to = np.array([names.setdefault(name, len(names)) for name in part.bus_names] or [0], np.uint8)
        f = part.frames
        batches.append(FrameBatch(f.timestamp_ns, to[f.bus], f.can_id, f.flags, f.length, f.data))
    return FrameColumns(FrameBatch.concatenate(batches), tuple(names))


def _frames_by_day(parts: Sequence[FrameColumns]) -> list[tuple[int, FrameColumns]]:
    present = [p for p in parts if len(p.frames)]
    if not present:
        return []
    whole = concatenate_frames(present)
    day = whole.frames.timestamp_ns // DAY_NS
    return [(int(d), FrameColumns(whole.frames.take(day == d), whole.bus_names)) for d in np.unique(day)]


async def _update_signals(session: AsyncSession, vehicle_id: str, columns: Columns) -> None:
    """Add sorted samples to the counts; take over the newest value where it is newer than the one known."""
    if not len(columns):
        return
    series, first, count = np.unique(columns.series, return_index=True, return_counts=True)
    newest = first + count - 1
    rows = [
        {
            "vehicle_id": vehicle_id,
            "series_id": int(series[i]),
            "definition_id": int(columns.definition[newest[i]]),
            "count": int(count[i]),
            "first_ns": int(columns.time_ns[first[i]]),
            "last_ns": int(columns.time_ns[newest[i]]),
            "raw": int(columns.raw[newest[i]]),
            "quality": int(columns.quality[newest[i]]),
        }
        for i in range(len(series))
    ]
    statement = insert(VehicleSignalRow)
    new, old = statement.excluded, VehicleSignalRow
    newer = new.last_ns >= old.last_ns
    statement = statement.on_conflict_do_update(
        index_elements=["vehicle_id", "series_id"],
        set_={
            "count": old.count + new.count,
            "first_ns": func.min(old.first_ns, new.first_ns),
            "last_ns": func.max(old.last_ns, new.last_ns),
            "definition_id": case((newer, new.definition_id), else_=old.definition_id),
            "raw": case((newer, new.raw), else_=old.raw),
            "quality": case((newer, new.quality), else_=old.quality),
        },
    )
    await session.execute(statement, rows)
