"""A query sees every sample once: in files, in waiting batches, and while compaction moves between them."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.history.answers import Question, RawPoints, RollupPoints, answer, list_signals
from cloud.history.query import History
from cloud.lake.columns import Columns
from cloud.lake.config import LakeConfig
from cloud.lake.rollup import MINUTE_NS, Rollup, merge_rollups, physical_values, roll_up
from gateway.wire.frames import FrameBatch
from tests.cloud.lake.support import DAY_NS, MS_NS, SECOND_NS, T0_NS, Rig, rig

VEHICLE_SIGNAL = "powertrain.Speed.Vehicle"
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None


def history_of(r: Rig) -> History:
    return History(r.lake, r.reader, queries_at_once=2, timeout_s=30)


@settings(max_examples=15, deadline=None)
@given(
    batches=st.lists(
        st.lists(
            st.tuples(
                st.integers(-200_000, 200_000), st.integers(0, 1), st.integers(-50, 50), st.sampled_from([0, 0, 2])
            ),
            max_size=15,
        ),
        max_size=5,
    ),
    compacted=st.integers(0, 5),
    merged=st.booleans(),
    cut_ms=st.tuples(st.integers(-200_000, 200_000), st.integers(-200_000, 200_000)),
)
def test_raw_and_rolled_up_answers_equal_all_samples(
    batches: list[list[tuple[int, int, int, int]]], compacted: int, merged: bool, cut_ms: tuple[int, int]
) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory(dir=FAST) as folder:
            async with rig(Path(folder)) as r:
                history = history_of(r)
                everything: list[tuple[int, int, int, int]] = []
                for i, batch in enumerate(batches):
                    samples = [(T0_NS + ms * MS_NS, s, raw, q) for ms, s, raw, q in batch]
                    everything += samples
                    await r.store(samples)
                    if i < compacted:
                        await r.compactor.compact(everything=True)
                if merged:
                    await r.compactor.merge(everything=True)
                from_ns, to_ns = (T0_NS + ms * MS_NS for ms in sorted(cut_ms))
                inside = [s for s in everything if from_ns <= s[0] < to_ns]
                got = await history.samples("CAR-1", None, from_ns, to_ns)
                names = r.catalog.names
                assert r.rows(got) == sorted(
                    (t, f"powertrain.Speed.{('Vehicle', 'Mode')[s]}", raw, q) for t, s, raw, q in inside
                )
                bucket_from = from_ns // MINUTE_NS * MINUTE_NS
                bucket_to = to_ns // MINUTE_NS * MINUTE_NS
                series = sorted(names)
                rolled = await history.rollup("CAR-1", series, "1m", bucket_from, bucket_to)
                whole = await history.samples("CAR-1", None, bucket_from, bucket_to)
                direct = merge_rollups([roll_up(whole, physical_values(whole, r.catalog.definitions), MINUTE_NS)])
                same(rolled, direct)

    asyncio.run(run())


def same(a: Rollup, b: Rollup) -> None:
    for name in ("series", "definition", "bucket_ns", "count", "bad", "minimum", "maximum", "last", "last_ns"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
    np.testing.assert_allclose(a.sum, b.sum, rtol=1e-9)


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_pages_put_together_are_the_whole_even_with_equal_times(tmp_path: Path, limit: int) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            history = history_of(r)
            samples = [(T0_NS + (i // 4) * SECOND_NS, 0, i, 0) for i in range(20)]
            await r.store(samples[:9])
            await r.compactor.compact(everything=True)
            await r.store(samples[9:])
            got: list[int] = []
            cursor = ""
            for _ in range(50):
                question = Question(
                    vehicle="CAR-1", signal=VEHICLE_SIGNAL, from_ns=T0_NS, to_ns=T0_NS + DAY_NS, resolution="raw",
                    limit=limit, cursor=cursor,
                )  # fmt: skip
                page = await answer(history, question)
                assert isinstance(page.points, RawPoints)
                got += page.points.raw
                if page.next is None:
                    break
                cursor = page.next
                await r.compactor.compact(everything=True)  # moving data between pages changes nothing
            assert sorted(got) == list(range(20))

    asyncio.run(run())


def test_pages_of_rollups_put_together_are_the_whole(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            history = history_of(r)
            await r.store([(T0_NS + i * MINUTE_NS, 0, i, 0) for i in range(10)])
            got: list[float] = []
            cursor = ""
            while True:
                question = Question(
                    vehicle="CAR-1", signal=VEHICLE_SIGNAL, from_ns=T0_NS, to_ns=T0_NS + DAY_NS, resolution="1m",
                    limit=3, cursor=cursor,
                )  # fmt: skip
                page = await answer(history, question)
                assert isinstance(page.points, RollupPoints)
                got += [v for v in page.points.last if v is not None]
                if page.next is None:
                    break
                cursor = page.next
            assert got == [i * 0.5 for i in range(10)]

    asyncio.run(run())


def test_auto_takes_the_finest_resolution_that_fits(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            history = history_of(r)
            await r.store([(T0_NS + i * 100 * MS_NS, 0, i % 7, 0) for i in range(6_000)])  # 10 min at 10 Hz
            await r.compactor.compact(everything=True)

            async def resolution(limit: int) -> str:
                question = Question(
                    vehicle="CAR-1", signal=VEHICLE_SIGNAL, from_ns=T0_NS, to_ns=T0_NS + 600 * SECOND_NS, limit=limit
                )
                return (await answer(history, question)).resolution

            assert [await resolution(n) for n in (6_000, 600, 60, 12, 2)] == ["raw", "1s", "10s", "1m", "1h"]

    asyncio.run(run())


def test_a_file_that_vanishes_while_reading_is_read_where_it_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            history = history_of(r)
            for i in range(3):
                await r.store([(T0_NS + i * SECOND_NS, 0, i, 0)])
                await r.compactor.compact(everything=True)
            listed = r.lake.files

            async def list_then_merge(*args: object, **kw: object) -> object:
                files = await listed(*args, **kw)  # type: ignore[arg-type]  # passed through unchanged
                monkeypatch.setattr(r.lake, "files", listed)
                await r.compactor.merge(everything=True)
                return files

            monkeypatch.setattr(r.lake, "files", list_then_merge)
            got = await history.samples("CAR-1", None, T0_NS, T0_NS + DAY_NS)
            assert got.raw.tolist() == [0, 1, 2]

    asyncio.run(run())


def test_signals_list_counts_waiting_batches_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            await r.store([(T0_NS, 0, 1, 0), (T0_NS, 1, 1, 0)])
            await r.compactor.compact(everything=True)
            await r.store([(T0_NS + SECOND_NS, 0, 2, 0)])
            infos = await list_signals(history_of(r), "CAR-1")
            assert [(i.signal, i.count, i.unit) for i in infos] == [
                ("powertrain.Speed.Mode", 1, ""),
                (VEHICLE_SIGNAL, 2, "km/h"),
            ]
            assert infos[1].last_seen == "2025-10-09T08:53:21.000Z"

    asyncio.run(run())


def test_one_vehicle_never_sees_another(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            await r.store([(T0_NS, 0, 1, 0)], vehicle="A")
            await r.store([(T0_NS, 0, 2, 0)], vehicle="B")
            history = history_of(r)
            for _ in range(2):
                assert (await history.samples("A", None, T0_NS, T0_NS + 1)).raw.tolist() == [1]
                await r.compactor.compact(everything=True)

    asyncio.run(run())


def test_long_ranges_are_read_in_windows_and_gaps_are_skipped(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path, config=LakeConfig(max_days_per_batch=100_000)) as r:
            history = history_of(r)
            times = [-5 * 365 * DAY_NS, 0, 3 * DAY_NS]
            await r.store([(T0_NS + t, 0, i, 0) for i, t in enumerate(times)])
            await r.compactor.compact(everything=True)
            reads = 0

            async def read(a: int, b: int) -> Columns:
                nonlocal reads
                reads += 1
                return await history.samples("CAR-1", None, a, b)

            got = [p async for p in history.windows("CAR-1", "raw", -(2**62), 2**62, read, len)]
            assert Columns.concatenate(got).raw.tolist() == [0, 1, 2]
            assert reads < 100

    asyncio.run(run())


def test_black_box_frames_come_from_files_and_waiting_batches_in_order(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            await r.store(frames=FrameBatch.from_rows([(T0_NS + SECOND_NS, 0, 2, 0, b"b")]))
            await r.compactor.compact(everything=True)
            await r.store(frames=FrameBatch.from_rows([(T0_NS, 0, 1, 0, b"a"), (T0_NS + DAY_NS, 0, 3, 0, b"c")]))
            got = await history_of(r).frames("CAR-1", T0_NS, T0_NS + DAY_NS)
            assert got.frames.can_id.tolist() == [1, 2]

    asyncio.run(run())
