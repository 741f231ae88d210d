"""The lake: Parquet files and the database rows that make them part of it.

The rule everything rests on: a file belongs to the lake exactly while it has a row in ``lake_files``. Files are written
and made durable first; one transaction then registers them and takes away what they replace (waiting batches, or the
files merged into them). A crash before that commit leaves files without rows, which ``sweep`` removes; a crash after it
leaves replaced files without rows, which the same sweep removes. No order of crashes loses or doubles a sample.

All changes run one at a time under ``lock``; reading needs no lock (``FileNotFoundError`` means: list again).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.clock import Clock
from cloud.db import Database
from cloud.errors import StorageError
from cloud.lake.catalog import Catalog
from cloud.lake.columns import Columns
from cloud.lake.config import LakeConfig
from cloud.lake.mark import check_mark
from cloud.lake.names import new_path
from cloud.lake.parquet import (
    TEMPORARY,
    FileLimits,
    FrameColumns,
    file_metadata,
    sync_folder,
    write_frames,
    write_rollup,
    write_samples,
)
from cloud.lake.rollup import WIDTH_NS, Rollup, physical_values, roll_up
from cloud.lake.tables import FileRow, Tier

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeFile:
    """A file of the lake, or one about to be registered."""

    id: int = 0
    tier: str
    vehicle_id: str
    day: int
    path: str
    rows: int
    size_bytes: int
    resolution_ns: int
    first_ns: int
    last_ns: int

    @staticmethod
    def of(row: FileRow) -> LakeFile:
        """The value of a database row."""
        return LakeFile(
            id=row.id,
            tier=row.tier,
            vehicle_id=row.vehicle_id,
            day=row.day,
            path=row.path,
            rows=row.rows,
            size_bytes=row.size_bytes,
            resolution_ns=row.resolution_ns,
            first_ns=row.first_ns,
            last_ns=row.last_ns,
        )


class LakeChanged(RuntimeError):
    """What a transaction was to replace is no longer there; nothing was changed."""


class Lake:
    """Files below ``root`` and their rows."""

    def __init__(self, database: Database, root: Path, catalog: Catalog, clock: Clock, config: LakeConfig) -> None:
        self.database = database
        self.root = root
        self.catalog = catalog
        self.clock = clock
        self.config = config
        self.limits = FileLimits(row_group_rows=config.row_group_rows, compression_level=config.compression_level)
        self.lock = asyncio.Lock()

    async def open(self) -> None:
        """Load the catalog and remove what a crash left behind.

        Raises:
            StorageError: the folder cannot be made, or belongs to another database; nothing was removed.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            await check_mark(self.database, self.root)
        except OSError as error:
            raise StorageError(f"{error.filename or self.root}: {error.strerror}") from error
        await self.catalog.load()
        await self.sweep()

    def write_day(self, vehicle_id: str, day: int, columns: Columns, resolution_ns: int) -> list[LakeFile]:
        """Write one day's samples and their roll-up parts; blocking. The files are not registered yet."""
        columns = columns.sorted()
        values = physical_values(columns, self.catalog.definitions)
        files = [self.write_raw(vehicle_id, day, columns, resolution_ns)]
        files += [self.write_parts(t, vehicle_id, day, roll_up(columns, values, w)) for t, w in WIDTH_NS.items()]
        return files

    def write_raw(self, vehicle_id: str, day: int, columns: Columns, resolution_ns: int) -> LakeFile:
        """Write sorted samples of one day; blocking."""
        path = new_path(Tier.RAW, vehicle_id, day)
        metadata = self._metadata(vehicle_id, resolution_ns, columns.definition.tolist())
        size = write_samples(self.root / path, columns, resolution_ns, metadata, self.limits)
        return LakeFile(
            tier=Tier.RAW,
            vehicle_id=vehicle_id,
            day=day,
            path=path,
            rows=len(columns),
            size_bytes=size,
            resolution_ns=resolution_ns,
            first_ns=int(columns.time_ns.min()),
            last_ns=int(columns.time_ns.max()),
        )

    def write_parts(self, tier: str, vehicle_id: str, day: int, rollup: Rollup) -> LakeFile:
        """Write roll-up parts of one day; blocking."""
        path = new_path(tier, vehicle_id, day)
        metadata = self._metadata(vehicle_id, WIDTH_NS[tier], rollup.definition.tolist())
        size = write_rollup(self.root / path, rollup, metadata, self.limits)
        return LakeFile(
            tier=tier,
            vehicle_id=vehicle_id,
            day=day,
            path=path,
            rows=len(rollup),
            size_bytes=size,
            resolution_ns=WIDTH_NS[tier],
            first_ns=int(rollup.bucket_ns.min()),
            last_ns=int(rollup.bucket_ns.max()),
        )

    def write_black_box(self, vehicle_id: str, day: int, frames: FrameColumns) -> LakeFile:
        """Write raw frames of one day; blocking."""
        path = new_path(Tier.FRAMES, vehicle_id, day)
        size = write_frames(self.root / path, frames.sorted(), self._metadata(vehicle_id, 1, ()), self.limits)
        return LakeFile(
            tier=Tier.FRAMES,
            vehicle_id=vehicle_id,
            day=day,
            path=path,
            rows=len(frames.frames),
            size_bytes=size,
            resolution_ns=1,
            first_ns=int(frames.frames.timestamp_ns.min()),
            last_ns=int(frames.frames.timestamp_ns.max()),
        )

    def _metadata(self, vehicle_id: str, resolution_ns: int, definitions: Iterable[int]) -> dict[str, str]:
        known = self.catalog.definitions
        return file_metadata(vehicle_id, resolution_ns, {n: known[n] for n in set(definitions)})

    def register(self, session: AsyncSession, files: Sequence[LakeFile]) -> None:
        """Make written files part of the lake at the caller's commit."""
        now_ns = self.clock.now_ns()
        for file in files:
            session.add(
                FileRow(
                    tier=file.tier,
                    vehicle_id=file.vehicle_id,
                    day=file.day,
                    path=file.path,
                    rows=file.rows,
                    size_bytes=file.size_bytes,
                    resolution_ns=file.resolution_ns,
                    first_ns=file.first_ns,
                    last_ns=file.last_ns,
                    created_ns=now_ns,
                )
            )

    async def unregister(self, session: AsyncSession, files: Sequence[LakeFile]) -> None:
        """Take files out of the lake at the caller's commit; ``LakeChanged`` when one is out already."""
        removed = 0
        for start in range(0, len(files), 500):
            ids = [file.id for file in files[start : start + 500]]
            result = await session.execute(delete(FileRow).where(FileRow.id.in_(ids)).returning(FileRow.id))
            removed += len(result.all())
        if removed != len(files):
            raise LakeChanged(f"{len(files) - removed} of {len(files)} files are no longer in the lake")

    async def files(
        self,
        session: AsyncSession,
        vehicle_id: str,
        tier: str,
        from_ns: int | None = None,
        to_ns: int | None = None,
    ) -> list[LakeFile]:
        """Files that may hold something with ``from_ns <= time < to_ns``, by their first time."""
        query = select(FileRow).where(FileRow.vehicle_id == vehicle_id, FileRow.tier == tier)
        if from_ns is not None:
            query = query.where(FileRow.last_ns >= from_ns)
        if to_ns is not None:
            query = query.where(FileRow.first_ns < to_ns)
        return [LakeFile.of(row) for row in await session.scalars(query.order_by(FileRow.first_ns, FileRow.id))]

    def unlink(self, files: Iterable[LakeFile]) -> None:
        """Remove files that have no rows (any more), and folders that became empty; blocking."""
        for file in files:
            self._remove(self.root / file.path)

    def _remove_all(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._remove(path)

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        folder = path.parent
        while folder != self.root:
            try:
                folder.rmdir()
            except OSError:  # not empty, or gone
                break
            folder = folder.parent
        if folder.is_dir():
            sync_folder(folder)

    async def sweep(self) -> int:
        """Remove files that are not in the lake: leftovers of a crash. Returns how many."""
        async with self.lock:
            on_disk = await asyncio.to_thread(lambda: [p for p in self.root.rglob("*") if p.is_file()])
            async with self.database.read() as session:
                known = set(await session.scalars(select(FileRow.path)))
            left = [
                p
                for p in on_disk
                if p.suffix in {".parquet", TEMPORARY} and p.relative_to(self.root).as_posix() not in known
            ]
            await asyncio.to_thread(self._remove_all, left)
        if left:
            log.warning("lake_orphans_removed", extra={"files": len(left)})
        return len(left)
