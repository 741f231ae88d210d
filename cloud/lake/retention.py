"""Data that may no longer be kept goes away: by age, tier by tier, and by vehicle. Both can be repeated at any time.

Retention works in whole UTC days: a day's file goes once the whole day is older than the tier's limit. The rows go
first, then the files; a crash in between leaves files without rows, which the sweep removes.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.lake.columns import DAY_NS
from cloud.lake.names import vehicle_folder
from cloud.lake.store import Lake, LakeFile
from cloud.lake.tables import DeletionRow, EventRow, FileRow, Tier, VehicleSignalRow
from cloud.spool.model import BatchRow, BatchState, DeadLetterRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """What was removed of one tier (or "events", "batches", "dead_letters", "signals")."""

    tier: str
    files: int = 0
    rows: int = 0
    size_bytes: int = 0


async def apply_retention(lake: Lake) -> list[Deletion]:
    """Remove what is older than its tier's limit; returns and records what was removed."""
    config = lake.config
    days = {
        Tier.RAW: config.raw_days,
        Tier.MINUTE: config.minute_days,
        Tier.HOUR: config.hour_days,
        Tier.FRAMES: config.frames_days,
    }
    now_ns = lake.clock.now_ns()
    deletions: list[Deletion] = []
    async with lake.lock:
        gone: list[LakeFile] = []
        async with lake.database.write() as session:
            for tier, keep_days in days.items():
                if not keep_days:
                    continue
                first_kept_day = (now_ns - int(keep_days * DAY_NS)) // DAY_NS
                rows = await session.scalars(select(FileRow).where(FileRow.tier == tier, FileRow.day < first_kept_day))
                files = [LakeFile.of(row) for row in rows]
                if files:
                    await lake.unregister(session, files)
                    deletions.append(_deletion(tier, files))
                    gone += files
            if config.events_days:
                oldest_ns = now_ns - int(config.events_days * DAY_NS)
                removed = await session.execute(
                    delete(EventRow).where(EventRow.at_ns < oldest_ns).returning(EventRow.id)
                )
                if count := len(removed.all()):
                    deletions.append(Deletion(tier="events", rows=count))
            _record(session, deletions, "retention", "", now_ns)
        await asyncio.to_thread(lake.unlink, gone)
    return deletions


async def erase_vehicle(lake: Lake, vehicle_id: str) -> list[Deletion]:
    """Remove everything the lake and the spool hold of a vehicle, in every tier, cold files included.

    The registry's own rows (certificates, check-ins) are not touched here.
    """
    deletions: list[Deletion] = []
    async with lake.lock:
        async with lake.database.write() as session:
            rows = await session.scalars(select(FileRow).where(FileRow.vehicle_id == vehicle_id))
            files = [LakeFile.of(row) for row in rows]
            if files:
                await lake.unregister(session, files)
            for tier in sorted({f.tier for f in files}):
                deletions.append(_deletion(tier, [f for f in files if f.tier == tier]))
            kept = select(func.count(), func.sum(BatchRow.content_bytes)).where(
                BatchRow.vehicle_id == vehicle_id, BatchRow.state != BatchState.COMPACTED
            )
            _, waiting_bytes = (await session.execute(kept)).one()
            for name, table in (
                ("events", EventRow),
                ("signals", VehicleSignalRow),
                ("batches", BatchRow),
                ("dead_letters", DeadLetterRow),
            ):
                removed = await session.execute(
                    delete(table).where(table.vehicle_id == vehicle_id).returning(table.vehicle_id)
                )
                if count := len(removed.all()):
                    size = int(waiting_bytes or 0) if name == "batches" else 0
                    deletions.append(Deletion(tier=name, rows=count, size_bytes=size))
            _record(session, deletions, "erasure", vehicle_id, lake.clock.now_ns())
        await asyncio.to_thread(_remove_folders, lake, vehicle_id)
    return deletions


def _remove_folders(lake: Lake, vehicle_id: str) -> None:
    for tier in Tier:
        folder = lake.root / tier / vehicle_folder(vehicle_id)
        if folder.is_dir():
            shutil.rmtree(folder)


def _deletion(tier: str, files: Sequence[LakeFile]) -> Deletion:
    return Deletion(
        tier=tier, files=len(files), rows=sum(f.rows for f in files), size_bytes=sum(f.size_bytes for f in files)
    )


def _record(session: AsyncSession, deletions: Sequence[Deletion], reason: str, vehicle_id: str, now_ns: int) -> None:
    session.add_all(
        DeletionRow(
            at_ns=now_ns,
            reason=reason,
            vehicle_id=vehicle_id,
            tier=d.tier,
            files=d.files,
            rows=d.rows,
            size_bytes=d.size_bytes,
        )
        for d in deletions
    )
