"""What may no longer be kept goes, from every tier, and only that; asking again changes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import select

from cloud.lake import retention
from cloud.lake.config import LakeConfig
from cloud.lake.retention import apply_retention, erase_vehicle
from cloud.lake.tables import DeletionRow
from gateway.wire.frames import FrameBatch
from gateway.wire.samples import Event, EventKind
from tests.cloud.lake.support import DAY_NS, T0_NS, Rig, rig

CONFIG = LakeConfig(raw_days=2, minute_days=5, hour_days=0, frames_days=1, events_days=3)


async def fill(r: Rig, vehicle: str) -> None:
    """One sample, frame and event on each of ten days."""
    for day in range(10):
        at_ns = T0_NS + day * DAY_NS
        await r.store(
            [(at_ns, 0, day, 0)],
            vehicle=vehicle,
            frames=FrameBatch.from_rows([(at_ns, 0, 1, 0, b"x")]),
            events=(Event(at_ns, EventKind.TRIGGER, "s"),),
        )
    await r.compactor.compact(everything=True)


def tiers(r: Rig) -> dict[str, int]:
    return {t.name: len(list(t.rglob("*.parquet"))) for t in sorted(r.lake.root.iterdir()) if t.is_dir()}


def test_each_tier_keeps_its_own_days_and_the_report_says_what_went(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path, config=CONFIG) as r:
            await fill(r, "A")
            r.clock.advance_s((T0_NS + 9 * DAY_NS - r.clock.now_ns()) / 1e9)
            deleted = {d.tier: (d.files, d.rows) for d in await apply_retention(r.lake)}
            assert deleted == {"raw": (7, 7), "1m": (4, 4), "frames": (8, 8), "events": (0, 6)}
            assert tiers(r) == {"1h": 10, "1m": 6, "frames": 2, "raw": 3}
            assert await apply_retention(r.lake) == []
            async with r.database.read() as session:
                rows = list(await session.scalars(select(DeletionRow)))
            assert {(row.reason, row.tier, row.rows) for row in rows} == {
                ("retention", tier, rows) for tier, (_, rows) in deleted.items()
            }

    asyncio.run(run())


def test_erasing_a_vehicle_reaches_every_file_and_row_and_leaves_the_others(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path, config=CONFIG) as r:
            for vehicle in ("A", "B"):
                await fill(r, vehicle)
                await r.store([(T0_NS, 0, 1, 0)], vehicle=vehicle)
                await r.store(content=b"damaged", vehicle=vehicle)
            deleted = {d.tier for d in await erase_vehicle(r.lake, "A")}
            assert deleted >= {"raw", "1m", "1h", "frames", "events", "signals", "batches"}
            assert not [p for p in r.lake.root.rglob("*") if "vehicle=A" in p.as_posix()]
            assert len(await r.raw("B")) == 10
            assert await erase_vehicle(r.lake, "A") == []
            report = await r.compactor.compact(everything=True)
            assert (report.samples, report.dead_letters) == (1, 1)  # B's

    asyncio.run(run())


def test_an_erasure_cut_short_is_finished_by_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            await fill(r, "A")
            monkeypatch.setattr(retention, "_remove_folders", lambda lake, vehicle: None)  # killed after the commit
            await erase_vehicle(r.lake, "A")
            assert sum(tiers(r).values()) > 0
            await r.restart()
            assert tiers(r) == {}

    asyncio.run(run())


def test_batches_erased_while_they_are_compacted_do_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            await r.store([(T0_NS, 0, 1, 0)], vehicle="A")
            read = r.spool.uncompacted

            async def read_then_erase(*args: object, **kw: object) -> object:
                monkeypatch.setattr(r.spool, "uncompacted", read)
                batches = await read(*args, **kw)  # type: ignore[arg-type]  # passed through unchanged
                async with r.database.write() as session:
                    for batch in batches:
                        await r.spool.move_to_dead_letters(session, batch, "taken away")
                return batches

            monkeypatch.setattr(r.spool, "uncompacted", read_then_erase)
            await r.compactor.compact(everything=True)
            assert len(await r.raw("A")) == 0
            assert list(r.lake.root.rglob("*.parquet")) == []

    asyncio.run(run())
