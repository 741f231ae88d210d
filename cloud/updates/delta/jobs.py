"""Deltas on request: a queue in the database, one build at a time in a worker process, results handed on.

What was asked for is never forgotten: a job that ran when the cloud stopped waits again when it starts, and its build
goes on at the segment it had reached. A build that fails is given up with the reason; asking again tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.clock import Clock
from cloud.db import Database
from cloud.errors import CloudError, InvalidInput, NotFound
from cloud.log import get_logger
from cloud.updates.delta.build import USEFUL_PART, DeltaFacts, delta_name
from cloud.updates.delta.tables import DeltaJobRow, JobState
from cloud.updates.delta.worker import Answer, Request
from cloud.updates.model import DeltaImageRow, ImageRow, ImageState

log = get_logger("cloud.updates.delta")

#: Registers a finished delta as an image (and may move the file); a false result means that it could not.
DeltaDone = Callable[[ImageRow, ImageRow, Path, DeltaFacts], Awaitable[object]]
#: A local file with the content of that SHA-256; blocking. Raises ``CloudError`` when there is none.
OpenImage = Callable[[str], Path]

#: Builds that ended without an answer, or that the cloud did not outlive, before a job is given up.
MAX_ATTEMPTS = 8
BUILDER = (sys.executable, "-m", "cloud.updates.delta.worker")
_SAVE_NS = 5_000_000_000
_BUILDABLE = (ImageState.STORED, ImageState.SIGNED)
_MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaJob:
    """A job as people see it."""

    id: int
    base_image_id: int
    target_image_id: int
    state: str
    step: str
    percent: float
    attempts: int
    reason: str
    delta_bytes: int
    full_bytes: int
    target_bytes: int
    asked_ns: int
    started_ns: int | None
    finished_ns: int | None
    build_s: float


class _Stopped(Exception):
    """The worker process ended without an answer."""


class DeltaJobs:
    """The queue. ``run`` is one task for the life of the service; everything else may be called at any time."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        directory: Path,
        *,
        open_image: OpenImage,
        on_done: DeltaDone,
        useful_part: float = USEFUL_PART,
        segment_bytes: int = 0,
        builder: Sequence[str] = BUILDER,
    ) -> None:
        """Takes no step yet.

        Args:
            db: with the tables ``images`` and ``delta_jobs``.
            clock: for records and progress.
            directory: work files and finished deltas not yet handed on; the queue's own.
            open_image: where an image's bytes are.
            on_done: takes a finished delta. It may be called twice for one delta, after a crash.
            useful_part: of the compressed target that a delta must stay below.
            segment_bytes: 0: chosen by the target's length.
            builder: the command of the worker process.
        """
        self._db, self._clock, self._directory = db, clock, directory
        self._open_image, self._on_done = open_image, on_done
        self._useful_part, self._segment_bytes = useful_part, segment_bytes
        self._builder = builder
        self._wake = asyncio.Event()
        self._live: dict[int, Answer] = {}

    async def ensure(self, base_image_id: int, target_image_id: int) -> int:
        """See to it that there will be a delta; does nothing when there is one, or one is on its way.

        One that failed, or whose image is no target any more, is built again.

        Returns:
            The job's id.

        Raises:
            NotFound: there is no such image.
            InvalidInput: a delta between these two makes no sense.
        """
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            base, target = [await _image(session, i) for i in (base_image_id, target_image_id)]
            if base.id == target.id or base.sha256 == target.sha256:
                raise InvalidInput("base and target are the same image")
            if base.kind == "delta" or target.kind == "delta" or base.kind != target.kind:
                raise InvalidInput(f"no delta leads from a {base.kind} to a {target.kind}")
            pair = (DeltaJobRow.base_image_id == base.id) & (DeltaJobRow.target_image_id == target.id)
            row = await session.scalar(select(DeltaJobRow).where(pair))
            if row is None:
                row = DeltaJobRow(
                    base_image_id=base.id, target_image_id=target.id, state=JobState.WAITING, asked_ns=now_ns
                )
                session.add(row)
            elif row.state == JobState.FAILED or (row.state == JobState.DONE and not await _is_offered(session, row)):
                row.state, row.attempts, row.reason, row.asked_ns = JobState.WAITING, 0, "", now_ns
            await session.flush()
            number = row.id
        self._wake.set()
        return number

    async def listing(self) -> list[DeltaJob]:
        """All jobs, newest first."""
        async with self._db.read() as session:
            rows = await session.execute(
                select(DeltaJobRow, ImageRow.length)
                .join(ImageRow, ImageRow.id == DeltaJobRow.target_image_id)
                .order_by(DeltaJobRow.id.desc())
            )
            return [self._view(row, length) for row, length in rows]

    def _view(self, row: DeltaJobRow, target_bytes: int) -> DeltaJob:
        live = self._live.get(row.id)
        step, done, total = (live.step, live.done, live.total) if live else (row.step, row.bytes_done, row.bytes_total)
        return DeltaJob(
            id=row.id,
            base_image_id=row.base_image_id,
            target_image_id=row.target_image_id,
            state=row.state,
            step=step,
            percent=100.0 if row.state == JobState.DONE else 100.0 * done / total if total else 0.0,
            attempts=row.attempts,
            reason=row.reason,
            delta_bytes=row.delta_bytes,
            full_bytes=row.full_bytes,
            target_bytes=target_bytes,
            asked_ns=row.asked_ns,
            started_ns=row.started_ns,
            finished_ns=row.finished_ns,
            build_s=row.build_s,
        )

    async def run(self) -> None:
        """Build what is waiting, until cancelled; a cancelled build goes on in the next run."""
        await self.recover()
        while True:
            self._wake.clear()
            while await self.step():
                pass
            await self._wake.wait()

    async def recover(self) -> None:
        """What ran when the last process ended waits again. Work files that belong to no job are removed."""
        async with self._db.write() as session:
            running = DeltaJobRow.state == JobState.RUNNING
            spent = running & (DeltaJobRow.attempts >= MAX_ATTEMPTS)
            given_up = {
                "state": JobState.FAILED,
                "reason": "interrupted too often",
                "finished_ns": self._clock.now_ns(),
            }
            await session.execute(update(DeltaJobRow).where(spent).values(**given_up))
            await session.execute(update(DeltaJobRow).where(running).values(state=JobState.WAITING))
            rows = (await session.scalars(select(DeltaJobRow).where(DeltaJobRow.state == JobState.WAITING))).all()
            wanted = set()
            for row in rows:
                base, target = [await _image(session, i) for i in (row.base_image_id, row.target_image_id)]
                wanted.add(delta_name(base.sha256, target.sha256))
        await asyncio.to_thread(self._sweep, wanted)

    def _sweep(self, wanted: set[str]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self._directory.iterdir():
            if ".delta" in path.name and not any(name in path.name for name in wanted):
                path.unlink(missing_ok=True)

    async def step(self) -> bool:
        """Take the oldest waiting job to an end (or back to waiting); False: none is waiting."""
        async with self._db.write() as session:
            oldest = select(func.min(DeltaJobRow.id)).where(DeltaJobRow.state == JobState.WAITING)
            row = await session.scalar(select(DeltaJobRow).where(DeltaJobRow.id == oldest.scalar_subquery()))
            if row is None:
                return False
            base, target = [await _image(session, i) for i in (row.base_image_id, row.target_image_id)]
            row.state, row.started_ns, row.finished_ns = JobState.RUNNING, self._clock.now_ns(), None
            row.attempts += 1
        begun_ns = self._clock.monotonic_ns()
        try:
            ended = await self._attempt(row, base, target)
        except _Stopped as error:
            again = row.attempts < MAX_ATTEMPTS
            ended = {"state": JobState.WAITING if again else JobState.FAILED, "reason": str(error)}
        except Exception as error:  # one delta's trouble must not stop the others
            expected = isinstance(error, CloudError | OSError)
            log.warning("delta_job_failed", job=row.id, exc_info=None if expected else error)
            ended = {"state": JobState.FAILED, "reason": str(error)[:400] or type(error).__name__}
        finally:
            self._live.pop(row.id, None)
        ended |= {
            "finished_ns": None if ended["state"] == JobState.WAITING else self._clock.now_ns(),
            "build_s": (self._clock.monotonic_ns() - begun_ns) / 1e9,
        }
        if ended["state"] != JobState.WAITING:
            await asyncio.to_thread(self._clean, self._path(base, target))
        await self._save(row.id, ended)
        log.info("delta_job_ended", job=row.id, state=str(ended["state"]), reason=ended.get("reason", ""))
        return True

    async def _attempt(self, row: DeltaJobRow, base: ImageRow, target: ImageRow) -> dict[str, object]:
        """Build and hand on; the columns that change."""
        if base.state not in _BUILDABLE or target.state not in _BUILDABLE:
            return {"state": JobState.FAILED, "reason": "an image was withdrawn or is not whole"}
        path = self._path(base, target)
        paths = [await asyncio.to_thread(self._open_image, image.sha256) for image in (base, target)]
        answer = await self._build(row.id, self._request(base, target, paths, path))
        if answer.facts is None:
            if answer.problem == "not useful":
                return {"state": JobState.NOT_USEFUL, "reason": answer.detail[:400]}
            return {"state": JobState.FAILED, "reason": f"{answer.problem}: {answer.detail}"[:400]}
        facts = answer.facts
        told: dict[str, object] = {
            "delta_bytes": facts.length,
            "delta_sha256": facts.sha256,
            "full_bytes": facts.full_bytes,
            "bytes_done": facts.target_length,
            "bytes_total": facts.target_length,
        }
        if not await self._on_done(base, target, path, facts):
            return told | {"state": JobState.FAILED, "reason": "built, but it could not be signed for"}
        return told | {"state": JobState.DONE, "reason": ""}

    def _path(self, base: ImageRow, target: ImageRow) -> Path:
        return self._directory / delta_name(base.sha256, target.sha256)

    def _request(self, base: ImageRow, target: ImageRow, paths: Sequence[Path], path: Path) -> Request:
        return Request(
            base=str(paths[0]),
            base_length=base.length,
            base_sha256=base.sha256,
            target=str(paths[1]),
            target_length=target.length,
            target_sha256=target.sha256,
            path=str(path),
            useful_part=self._useful_part,
            segment_bytes=self._segment_bytes,
        )

    async def _build(self, number: int, request: Request) -> Answer:
        """Run the worker. When this is cancelled, the worker is killed and waited for."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        process = await asyncio.create_subprocess_exec(
            *self._builder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            limit=_MAX_LINE_BYTES,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(request) + b"\n")
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
            answer = await self._follow(number, process.stdout)
            if answer is not None:
                return answer
            raise _Stopped(f"the builder ended with status {await process.wait()}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _follow(self, number: int, lines: asyncio.StreamReader) -> Answer | None:
        """Pass on progress; the last answer, or None when there was none."""
        saved_ns = self._clock.monotonic_ns()
        async for line in lines:
            answer = msgspec.json.decode(line, type=Answer)
            if answer.facts is not None or answer.problem:
                return answer
            self._live[number] = answer
            if self._clock.monotonic_ns() - saved_ns >= _SAVE_NS:
                saved_ns = self._clock.monotonic_ns()
                columns = {"step": answer.step, "bytes_done": answer.done, "bytes_total": answer.total}
                await self._save(number, columns)
        return None

    async def _save(self, number: int, columns: dict[str, object]) -> None:
        async with self._db.write() as session:
            await session.execute(update(DeltaJobRow).where(DeltaJobRow.id == number).values(**columns))

    def _clean(self, path: Path) -> None:
        """Remove what is left of a job that came to its end."""
        for left in self._directory.glob(f"*{path.name}*"):
            left.unlink(missing_ok=True)


async def _image(session: AsyncSession, number: int) -> ImageRow:
    row = await session.get(ImageRow, number)
    if row is None:
        raise NotFound(f"there is no image {number}")
    return row


async def _is_offered(session: AsyncSession, row: DeltaJobRow) -> bool:
    """Whether the delta that was built is still a target."""
    pair = (
        DeltaImageRow.base_image_id == row.base_image_id,
        DeltaImageRow.target_image_id == row.target_image_id,
    )
    images = select(ImageRow.id).join(DeltaImageRow, DeltaImageRow.image_id == ImageRow.id)
    return await session.scalar(images.where(*pair, ImageRow.is_target).limit(1)) is not None
