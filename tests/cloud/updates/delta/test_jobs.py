"""Deltas on request: each is built once, one at a time, through crashes; failures are told and can be tried again."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import delete, update

import cloud.registry.model  # noqa: F401  # other tables refer to its own
from cloud.clock import ManualClock
from cloud.db import Database
from cloud.errors import DamagedFile, InvalidInput, NotFound
from cloud.updates.delta.build import DeltaFacts
from cloud.updates.delta.jobs import BUILDER, MAX_ATTEMPTS, DeltaJobs
from cloud.updates.delta.tables import DeltaJobRow, JobState
from cloud.updates.model import DeltaImageRow, ImageRow, ImageState
from tests.cloud.updates.delta.test_round_trip import noise
from tests.gateway.delta.support import applied

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SEGMENT = 64 * 1024
CONTENT = noise(1, 4 * SEGMENT)


def poked(content: bytes, seed: int) -> bytes:
    changed = bytearray(content)
    for at in random.Random(seed).sample(range(len(content)), 500):
        changed[at] ^= 1
    return bytes(changed)


@dataclass
class Rig:
    """A queue, and what it handed on."""

    db: Database
    clock: ManualClock
    folder: Path
    jobs: DeltaJobs
    done: list[tuple[int, int, bytes, DeltaFacts]] = field(default_factory=list)
    accepts: bool = True
    stored: dict[str, Path] = field(default_factory=dict)

    async def image(self, content: bytes, kind: str = "rootfs", state: str = ImageState.SIGNED) -> int:
        """An image in the database and in the store; its id."""
        digest = hashlib.sha256(content).hexdigest()
        self.stored[digest] = self.folder / f"image-{digest[:8]}"
        self.stored[digest].write_bytes(content)
        async with self.db.write() as session:
            row = ImageRow(
                filename=f"{len(self.stored)}-{state}-{digest[:8]}",
                state=state,
                kind=kind,
                hardware_ids=b"[]",
                version="1",
                release_counter=1,
                length=len(content),
                sha256=digest,
                created_ns=0,
            )
            session.add(row)
            await session.flush()
            return row.id

    def open_image(self, sha256: str) -> Path:
        if sha256 not in self.stored:
            raise DamagedFile(f"image {sha256[:8]} is not in the store")
        return self.stored[sha256]

    async def on_done(self, base: ImageRow, target: ImageRow, path: Path, facts: DeltaFacts) -> object:
        if self.accepts:
            self.done.append((base.id, target.id, path.read_bytes(), facts))
            delta = await self.image(path.read_bytes(), "delta")
            async with self.db.write() as session:
                (await session.get_one(ImageRow, delta)).is_target = True
                session.add(DeltaImageRow(image_id=delta, base_image_id=base.id, target_image_id=target.id))
        return self.accepts

    def again(self, builder: Sequence[str] = BUILDER) -> None:
        """The cloud restarts."""
        self.jobs = DeltaJobs(
            self.db,
            self.clock,
            self.folder / "work",
            open_image=self.open_image,
            on_done=self.on_done,
            segment_bytes=SEGMENT,
            builder=builder,
        )

    async def row(self, number: int) -> DeltaJobRow:
        async with self.db.read() as session:
            row = await session.get(DeltaJobRow, number)
        assert row is not None
        return row

    def left(self) -> list[str]:
        return [p.name for p in (self.folder / "work").iterdir()]


@asynccontextmanager
async def rig_in(folder: Path) -> AsyncIterator[Rig]:
    db = Database(folder / "cloud.db")
    await db.open()
    rig = Rig(db, ManualClock(), folder, None)  # type: ignore[arg-type]  # made by the next line
    rig.again()
    try:
        yield rig
    finally:
        await db.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # files and processes send no events
            await asyncio.sleep(0.005)


async def test_a_delta_is_built_registered_and_told_once(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        base, target = await rig.image(CONTENT), await rig.image(poked(CONTENT, 1))
        number = await rig.jobs.ensure(base, target)
        assert await rig.jobs.ensure(base, target) == number
        assert await rig.jobs.step()
        assert not await rig.jobs.step()
        assert await rig.jobs.ensure(base, target) == number
        assert not await rig.jobs.step()
        ((base_id, target_id, delta, facts),) = rig.done
        assert (base_id, target_id) == (base, target)
        assert applied(delta, CONTENT) == poked(CONTENT, 1)
        assert facts.sha256 == hashlib.sha256(delta).hexdigest()
        (job,) = await rig.jobs.listing()
        assert (job.state, job.percent, job.delta_bytes) == (JobState.DONE, 100.0, len(delta))
        assert job.full_bytes > job.delta_bytes * 2
        assert job.finished_ns == rig.clock.now_ns()
        assert rig.left() == []


async def test_a_delta_that_is_no_target_any_more_is_built_again(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        base, target = await rig.image(CONTENT), await rig.image(poked(CONTENT, 1))
        await rig.jobs.ensure(base, target)
        assert await rig.jobs.step()
        async with rig.db.write() as session:
            await session.execute(update(ImageRow).where(ImageRow.kind == "delta").values(is_target=False))
            await session.execute(delete(DeltaImageRow))
            await session.execute(delete(ImageRow).where(ImageRow.kind == "delta"))
        await rig.jobs.ensure(base, target)
        assert await rig.jobs.step()
        assert len(rig.done) == 2


async def test_the_queue_runs_in_order_and_wakes_when_asked(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        base, one, two = [await rig.image(c) for c in (CONTENT, poked(CONTENT, 1), poked(CONTENT, 2))]
        task = asyncio.create_task(rig.jobs.run())
        await rig.jobs.ensure(base, two)
        await rig.jobs.ensure(base, one)
        await until(lambda: len(rig.done) == 2)
        await rig.jobs.ensure(one, two)
        await until(lambda: len(rig.done) == 3)
        assert [d[:2] for d in rig.done] == [(base, two), (base, one), (one, two)]
        task.cancel()
        await asyncio.wait([task])


async def test_a_job_that_ran_when_the_cloud_stopped_goes_on(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        base, target = await rig.image(CONTENT * 3), await rig.image(poked(CONTENT * 3, 1))
        number = await rig.jobs.ensure(base, target)
        task = asyncio.create_task(rig.jobs.run())
        folder = tmp_path / "work"
        await until(lambda: folder.exists() and any(p.stat().st_size for p in folder.glob("*.work")))
        task.cancel()
        await asyncio.wait([task])
        assert (await rig.row(number)).state == JobState.RUNNING
        (folder / "0-1.f1.delta").write_bytes(b"of a job that is gone")
        rig.again()
        await rig.jobs.recover()
        assert not (folder / "0-1.f1.delta").exists()
        assert (await rig.row(number)).state == JobState.WAITING
        assert await rig.jobs.step()
        ((_, _, delta, facts),) = rig.done
        assert facts.resumed_segments >= 1
        assert applied(delta, CONTENT * 3) == poked(CONTENT * 3, 1)


async def test_a_builder_that_is_killed_is_started_again_but_not_for_ever(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        number = await rig.jobs.ensure(await rig.image(CONTENT), await rig.image(poked(CONTENT, 1)))
        rig.again(("/bin/sh", "-c", "kill -9 $$"))
        for attempt in range(1, MAX_ATTEMPTS + 1):
            assert await rig.jobs.step()
            row = await rig.row(number)
            assert row.attempts == attempt
            assert row.state == (JobState.WAITING if attempt < MAX_ATTEMPTS else JobState.FAILED)
        assert "status -9" in row.reason
        assert not await rig.jobs.step()
        rig.again()
        await rig.jobs.ensure(row.base_image_id, row.target_image_id)
        assert await rig.jobs.step()
        assert (await rig.row(number)).state == JobState.DONE


async def test_a_job_that_takes_the_cloud_down_each_time_is_given_up(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        number = await rig.jobs.ensure(await rig.image(CONTENT), await rig.image(poked(CONTENT, 1)))
        async with rig.db.write() as session:
            row = await session.get_one(DeltaJobRow, number)
            row.state, row.attempts = JobState.RUNNING, MAX_ATTEMPTS
        await rig.jobs.recover()
        assert (await rig.row(number)).reason == "interrupted too often"
        assert not await rig.jobs.step()


async def test_a_full_disk_ends_the_job_cleanly_and_it_may_be_tried_again(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        number = await rig.jobs.ensure(await rig.image(CONTENT), await rig.image(poked(CONTENT, 1)))
        # files of at most 512 bytes: as on a full disk, a write fails with an error number
        rig.again(("/bin/sh", "-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh", *BUILDER))
        assert await rig.jobs.step()
        row = await rig.row(number)
        assert row.state == JobState.FAILED
        assert row.reason.startswith("disk full")
        assert rig.left() == []
        rig.again()
        await rig.jobs.ensure(row.base_image_id, row.target_image_id)
        assert await rig.jobs.step()
        assert (await rig.row(number)).state == JobState.DONE


async def test_what_makes_no_useful_delta_is_told_and_not_tried_again(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        base, target = await rig.image(CONTENT), await rig.image(noise(9, len(CONTENT)))
        number = await rig.jobs.ensure(base, target)
        assert await rig.jobs.step()
        assert (await rig.row(number)).state == JobState.NOT_USEFUL
        await rig.jobs.ensure(base, target)
        assert not await rig.jobs.step()
        assert rig.done == []
        assert rig.left() == []


async def test_pairs_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        base, same = await rig.image(CONTENT), await rig.image(CONTENT, state=ImageState.STORED)
        firmware, delta = await rig.image(b"f", "firmware"), await rig.image(b"d", "delta")
        for pair in ((base, base), (base, same), (base, firmware), (base, delta), (delta, base)):
            with pytest.raises(InvalidInput):
                await rig.jobs.ensure(*pair)
        with pytest.raises(NotFound):
            await rig.jobs.ensure(base, 99)
        assert await rig.jobs.listing() == []


async def test_missing_withdrawn_damaged_or_unsigned_ends_with_a_reason(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        base, target = await rig.image(CONTENT), await rig.image(poked(CONTENT, 1))
        withdrawn = await rig.image(poked(CONTENT, 2), state=ImageState.WITHDRAWN)
        lost, damaged = await rig.image(poked(CONTENT, 3)), await rig.image(poked(CONTENT, 4))
        rig.stored.pop(hashlib.sha256(poked(CONTENT, 3)).hexdigest())
        rig.stored[hashlib.sha256(poked(CONTENT, 4)).hexdigest()].write_bytes(CONTENT)
        rig.accepts = False
        numbers = [await rig.jobs.ensure(base, image) for image in (withdrawn, lost, damaged, target)]
        while await rig.jobs.step():
            pass
        reasons = [(await rig.row(n)).reason for n in numbers]
        for reason, word in zip(reasons, ("withdrawn", "not in the store", "wrong image", "signed"), strict=True):
            assert word in reason
        assert {(await rig.row(n)).state for n in numbers} == {JobState.FAILED}
        assert rig.left() == []


async def test_progress_is_told_while_it_runs(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        await rig.jobs.ensure(await rig.image(CONTENT * 3), await rig.image(poked(CONTENT * 3, 1)))
        task = asyncio.create_task(rig.jobs.step())
        steps: set[str] = set()
        while not task.done():
            (job,) = await rig.jobs.listing()
            steps.add(job.step)
            assert 0 <= job.percent <= 100
            await asyncio.sleep(0.01)
        assert {"index", "segments"} & steps
        assert os.listdir(tmp_path / "work") == []
