"""Every accepted sample is in the lake exactly once, whatever the order of work and wherever it is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from cloud.lake.config import LakeConfig
from cloud.lake.parquet import read_frames, read_metadata
from cloud.lake.tables import EventRow, FileRow, VehicleSignalRow
from cloud.spool.model import BatchRow, BatchState, DeadLetterRow
from gateway.wire.frames import EXTENDED, FD, FrameBatch
from gateway.wire.samples import Event, EventKind
from tests.cloud.lake.support import DAY_NS, MS_NS, SECOND_NS, T0_NS, TWO, Rig, manifest_of, rig, signal

FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None  # crashes here are simulated; no need to wait for a disk
Sample = tuple[int, int, int, int]

samples = st.lists(
    st.tuples(
        st.integers(-3 * 86_400_000, 3 * 86_400_000).map(lambda ms: T0_NS + ms * MS_NS),
        st.integers(0, 1),
        st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-3, 3)),
        st.sampled_from([0, 0, 0, 1, 15]),
    ),
    max_size=12,
)
steps = st.lists(
    st.one_of(
        samples,
        st.sampled_from(["compact", "merge", "restart", "crash_before_commit", "crash_in_file", "sweep"]),
    ),
    max_size=10,
)


def expected(stored: list[list[Sample]]) -> list[tuple[int, str, int, int]]:
    return sorted((t, TWO.signal_names[s], raw, quality) for batch in stored for t, s, raw, quality in batch)


class Cut(BaseException):
    """The process ends here."""


async def _crash(r: Rig, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Compact and merge, but die either before the commit or with a file half written; then start again."""

    def cut(*_args: object, **_kw: object) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        if where == "crash_before_commit":
            patch.setattr(r.lake, "register", cut)
            patch.setattr(r.lake, "unlink", lambda files: None)  # a dead process cleans nothing up
        else:
            patch.setattr(Path, "rename", cut)
            patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        for work in (r.compactor.compact, r.compactor.merge):
            with contextlib.suppress(Cut):
                await work(everything=True)
    await r.restart()


@settings(max_examples=15, deadline=None)
@given(plan=steps)
def test_any_order_of_work_and_crashes_keeps_every_sample_once(plan: list[list[Sample] | str]) -> None:
    async def run() -> None:
        stored: list[list[Sample]] = []
        with tempfile.TemporaryDirectory(dir=FAST) as folder, pytest.MonkeyPatch.context() as patch:
            async with rig(Path(folder)) as r:
                for step in plan:
                    match step:
                        case list():
                            stored.append(step)
                            await r.store(step)
                        case "compact":
                            await r.compactor.compact(everything=True)
                        case "merge":
                            await r.compactor.merge(everything=True)
                        case "restart":
                            await r.restart()
                        case "sweep":
                            assert await r.lake.sweep() == 0, "a running lake leaves nothing behind"
                        case _:
                            await _crash(r, patch, step)
                await r.compactor.compact(everything=True)
                await r.compactor.merge(everything=True)
                assert r.rows(await r.raw()) == expected(stored)
                async with r.database.read() as session:
                    count = await session.scalar(select(func.coalesce(func.sum(VehicleSignalRow.count), 0)))
                    on_disk = sorted(p.relative_to(r.lake.root).as_posix() for p in r.lake.root.rglob("*.*"))
                    assert on_disk == sorted(await session.scalars(select(FileRow.path)))
                assert count == sum(map(len, stored))

    asyncio.run(run())


def test_samples_are_partitioned_by_vehicle_and_utc_day(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            midnight = T0_NS // DAY_NS * DAY_NS
            await r.store([(midnight - MS_NS, 0, 1, 0), (midnight, 0, 2, 0)], vehicle="A/../B")
            await r.compactor.compact(everything=True)
            paths = sorted(p.relative_to(r.lake.root).parent.as_posix() for p in r.lake.root.rglob("raw/*/*/*.parquet"))
            assert paths == ["raw/vehicle=A%2F..%2FB/day=2025-10-08", "raw/vehicle=A%2F..%2FB/day=2025-10-09"]

    asyncio.run(run())


def test_a_signal_keeps_its_series_when_numbers_and_scale_change(tmp_path: Path) -> None:
    later = manifest_of(signal("Extra"), signal("Vehicle", 16, scale=0.1, unit="mph"), name="later")

    async def run() -> None:
        async with rig(tmp_path, TWO, later) as r:
            await r.store([(T0_NS, 0, 100, 0)])
            await r.store([(T0_NS + SECOND_NS, 1, 100, 0)], manifest=later)
            await r.compactor.compact(everything=True)
            columns = (await r.raw()).sorted()
            assert {r.catalog.names[int(s)] for s in columns.series} == {"powertrain.Speed.Vehicle"}
            meaning = [r.catalog.definitions[int(d)] for d in columns.definition]
            assert [(m.value(100), m.unit) for m in meaning] == [(50.0, "km/h"), (10.0, "mph")]

    asyncio.run(run())


def test_an_unreadable_batch_goes_to_the_dead_letters_and_the_others_go_on(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            await r.store([(T0_NS, 0, 1, 0)])
            await r.store(content=b"no batch at all")
            await r.store([(T0_NS, 1, 2, 0)])
            report = await r.compactor.compact(everything=True)
            assert (report.samples, report.dead_letters) == (2, 1)
            async with r.database.read() as session:
                states = list(await session.scalars(select(BatchRow.state).order_by(BatchRow.id)))
                reason = await session.scalar(select(DeadLetterRow.reason))
            assert states == [BatchState.COMPACTED, BatchState.DEAD, BatchState.COMPACTED]
            assert reason

    asyncio.run(run())


def test_a_batch_over_too_many_days_is_a_dead_letter(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path, config=LakeConfig(max_days_per_batch=3)) as r:
            await r.store([(T0_NS + day * DAY_NS, 0, day, 0) for day in range(4)])
            report = await r.compactor.compact(everything=True)
            assert (report.samples, report.dead_letters, report.files) == (0, 1, 0)

    asyncio.run(run())


def test_a_batch_without_its_manifest_waits(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            r.manifests.known.clear()
            await r.store([(T0_NS, 0, 1, 0)])
            assert (await r.compactor.compact(everything=True)).waiting == 1
            r.manifests.known[TWO.hash.hex()] = TWO
            assert (await r.compactor.compact(everything=True)).samples == 1

    asyncio.run(run())


def test_only_vehicles_that_are_due_are_compacted(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path, config=LakeConfig(compact_after_s=60, compact_items=3)) as r:
            await r.store([(T0_NS, 0, 1, 0)], vehicle="SMALL")
            await r.store([(T0_NS + i * MS_NS, 0, i, 0) for i in range(3)], vehicle="MANY")
            assert (await r.compactor.compact()).samples == 3
            r.clock.advance_s(61)
            assert (await r.compactor.compact()).samples == 1

    asyncio.run(run())


def test_late_data_keeps_the_newest_value_by_its_own_time(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            await r.store([(T0_NS, 0, 7, 0), (T0_NS + SECOND_NS, 0, 8, 0)])
            await r.compactor.compact(everything=True)
            await r.store([(T0_NS - SECOND_NS, 0, 9, 0)])
            await r.compactor.compact(everything=True)
            async with r.database.read() as session:
                row = (await session.scalars(select(VehicleSignalRow))).one()
            assert (row.count, row.raw, row.first_ns, row.last_ns) == (3, 8, T0_NS - SECOND_NS, T0_NS + SECOND_NS)

    asyncio.run(run())


def test_raw_frames_and_events_survive_compaction_and_merging(tmp_path: Path) -> None:
    def frames(first_ns: int) -> FrameBatch:
        return FrameBatch.from_rows(
            [
                (first_ns, 0, 0x1ABCDEF, EXTENDED, b"\x01\x02"),
                (first_ns + MS_NS, 0, 0x7FF, FD, bytes(range(64))),
                (first_ns + 2 * MS_NS, 0, 0x100, 0, b""),
            ]
        )

    async def run() -> None:
        async with rig(tmp_path) as r:
            for i in range(2):
                await r.store(
                    frames=frames(T0_NS + i * SECOND_NS),
                    events=(Event(T0_NS + i * SECOND_NS, EventKind.BUS_OFF, "powertrain", "0x04"),),
                )
                await r.compactor.compact(everything=True)
            await r.compactor.merge(everything=True)
            async with r.database.read() as session:
                (file,) = await r.lake.files(session, "CAR-1", "frames")
                assert await session.scalar(select(func.count()).select_from(EventRow)) == 2
            read = read_frames(r.lake.root / file.path)
            got = read.frames.take(np.argsort(read.frames.timestamp_ns, kind="stable"))
            want = FrameBatch.concatenate([frames(T0_NS), frames(T0_NS + SECOND_NS)])
            assert read.bus_names == ("powertrain",)
            for name in ("timestamp_ns", "can_id", "flags", "length", "data"):
                assert np.array_equal(getattr(got, name), getattr(want, name)), name

    asyncio.run(run())


def test_a_file_explains_itself_without_the_database(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            await r.store([(T0_NS, 1, 1, 0)])
            await r.compactor.compact(everything=True)
            (path,) = r.lake.root.rglob("raw/*/*/*.parquet")
            vehicle, resolution_ns, definitions = read_metadata(path)
            assert (vehicle, resolution_ns) == ("CAR-1", MS_NS)
            assert [(d.name, d.labels) for d in definitions.values()] == [
                ("powertrain.Speed.Mode", {0: "Off", 1: "On"})
            ]

    asyncio.run(run())


def test_times_finer_than_the_batch_says_are_kept_exactly(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            await r.store([(T0_NS + 1, 0, 1, 0)], resolution_ns=1)
            await r.store([(T0_NS + MS_NS, 0, 1, 0)])
            await r.compactor.compact(everything=True)
            assert sorted((await r.raw()).time_ns.tolist()) == [T0_NS + 1, T0_NS + MS_NS]

    asyncio.run(run())


def test_small_files_of_a_day_become_one(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path, config=LakeConfig(merge_files=4)) as r:
            for i in range(4):
                await r.store([(T0_NS + i * SECOND_NS, 0, i, 0)])
                await r.compactor.compact(everything=True)
            assert await r.compactor.merge() == 12  # four each of raw, 1m, 1h
            assert len(list(r.lake.root.rglob("*.parquet"))) == 3
            assert await r.compactor.merge() == 0

    asyncio.run(run())
