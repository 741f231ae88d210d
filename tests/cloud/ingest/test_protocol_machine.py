"""The upload protocol under any order of uploads, lost answers, evictions, re-requests and restarts of the cloud.

The machine is a vehicle that remembers what it did; the cloud is the real writer, check-ins and database. After each
step the cloud must hold every uploaded batch exactly once, know exactly what is missing, and never confirm anything
that a restart would forget.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import select

from cloud.clock import ManualClock
from cloud.config import Fleet, IngestLimits, Storage
from cloud.db import Database
from cloud.ingest.checkins import CheckIns
from cloud.ingest.listeners import BatchListeners
from cloud.ingest.model import StreamRow
from cloud.ingest.uploads import Uploads
from cloud.ingest.writer import IngestWriter
from cloud.spool.deadletters import DeadLetters
from cloud.spool.model import BatchRow
from gateway.wire.api import BatchAck, CheckInReply, SequenceRange
from tests.cloud.support import make_batch, make_check_in

STREAM, VEHICLE = "spool/normal", "VIN1"
T = TypeVar("T")


class Core:
    """The cloud's ingest on a database file, without HTTP and without the lake."""

    def __init__(self, path: Path, clock: ManualClock) -> None:
        limits = IngestLimits(batches_per_s=1e6, batches_burst=1_000_000)
        self.db = Database(path)
        self.writer = IngestWriter(self.db, limits, clock)
        self.check_ins = CheckIns(self.db, clock, limits, Fleet())
        self.uploads = Uploads(
            db=self.db,
            clock=clock,
            limits=limits,
            storage=Storage(min_free_bytes=0),
            writer=self.writer,
            dead_letters=DeadLetters(max_count=100, max_bytes=1 << 20),
            listeners=BatchListeners([], 10),
        )

    async def start(self) -> None:
        self._task = asyncio.ensure_future(self.writer.run())
        await asyncio.sleep(0)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self.db.close()


class UploadProtocol(RuleBasedStateMachine):
    """See the module."""

    template: Path | None = None

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp(prefix="outrider-test-"))
        self.clock = ManualClock()
        self.path = self.directory / "cloud.db"
        if UploadProtocol.template is None:
            UploadProtocol.template = Path(tempfile.mkdtemp(prefix="outrider-test-")) / "cloud.db"
            self.do(self._make_template())
        shutil.copy(UploadProtocol.template, self.path)
        self.produced = 0
        self.stored: set[int] = set()  # the cloud has answered 200, or may have
        self.acknowledged: set[int] = set()  # … and the answer arrived
        self.evicted: set[int] = set()  # gone from the vehicle before an answer arrived
        self.told: set[int] = set()  # evictions the cloud has heard of
        self.confirmed: set[int] = set()  # … and the vehicle knows that it has
        self.not_found: set[int] = set()
        self.lost: set[int] = set()  # not found again, and the cloud has heard of it
        self.conflicts = 0
        self.duplicates = 0
        self.core = Core(self.path, self.clock)
        self.do(self.core.start())

    async def _make_template(self) -> None:
        assert UploadProtocol.template is not None
        db = Database(UploadProtocol.template)
        await db.open()
        await db.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        if hasattr(self, "core"):
            self.do(self.core.stop())
            self.runner.close()
            shutil.rmtree(self.directory)

    @rule(count=st.integers(1, 4))
    def produce(self, count: int) -> None:
        self.produced += count

    def upload(self, sequence: int, *, answered: bool) -> BatchAck:
        ack = self.do(self.core.uploads.take(VEHICLE, make_batch(sequence, stream=STREAM)))
        assert (ack.stream, ack.sequence, ack.dead_letter) == (STREAM, sequence, "")
        assert ack.duplicate == (sequence in self.stored)
        self.duplicates += sequence in self.stored
        self.stored.add(sequence)
        assert ack.contiguous == self.contiguous()
        if answered:
            self.acknowledged.add(sequence)
        return ack

    @precondition(lambda self: self.produced > len(self.evicted))
    @rule(data=st.data(), answered=st.booleans())
    def upload_one(self, data: st.DataObject, answered: bool) -> None:
        sequence = data.draw(st.sampled_from([s for s in range(1, self.produced + 1) if s not in self.evicted]))
        self.upload(sequence, answered=answered)

    @precondition(lambda self: self.produced > len(self.evicted))
    @rule(data=st.data())
    def upload_several_at_once(self, data: st.DataObject) -> None:
        here = [s for s in range(1, self.produced + 1) if s not in self.evicted]
        chosen = data.draw(st.lists(st.sampled_from(here), max_size=5))

        async def together() -> list[BatchAck]:
            batches = [make_batch(s, stream=STREAM) for s in chosen]
            return await asyncio.gather(*(self.core.uploads.take(VEHICLE, b) for b in batches))

        acks = self.do(together())
        new = set(chosen) - self.stored
        assert sum(not a.duplicate for a in acks) == len(new)
        self.duplicates += len(chosen) - len(new)
        self.stored |= new
        self.acknowledged |= set(chosen)

    @precondition(lambda self: self.stored)
    @rule(data=st.data())
    def upload_other_content(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.stored)))
        ack = self.do(self.core.uploads.take(VEHICLE, make_batch(sequence, stream=STREAM, rows=9)))
        assert ack.dead_letter.startswith("conflict")
        self.conflicts += 1

    @rule()
    def evict_the_oldest_unacknowledged(self) -> None:
        pending = [s for s in range(1, self.produced + 1) if s not in self.acknowledged | self.evicted]
        if pending:
            self.evicted.add(pending[0])

    @rule(answered=st.booleans(), later_s=st.sampled_from([0, 3]))
    def check_in(self, answered: bool, later_s: float) -> None:
        self.clock.advance_s(later_s)
        telling = self.evicted - self.confirmed
        message = make_check_in(
            evicted=tuple(SequenceRange(STREAM, s, s) for s in sorted(telling)),
            not_found=tuple(SequenceRange(STREAM, s, s) for s in sorted(self.not_found)),
        )
        reply = self.do(self.core.check_ins.take(VEHICLE, message, msgspec.json.encode(message)))
        self.told |= telling
        self.lost |= self.not_found
        asked = {s for r in reply.requests for s in range(r.first, r.last + 1)}
        assert asked <= self.missing()
        if answered:
            self.hear(reply)

    def hear(self, reply: CheckInReply) -> None:
        self.confirmed |= {s for r in reply.evicted_known for s in range(r.first, r.last + 1)}
        self.not_found.clear()
        for wanted in reply.requests:
            for sequence in range(wanted.first, wanted.last + 1):
                if sequence in self.evicted:
                    self.not_found.add(sequence)
                else:
                    self.upload(sequence, answered=True)

    @rule()
    def restart_the_cloud(self) -> None:
        self.do(self.core.stop())
        self.core = Core(self.path, self.clock)
        self.do(self.core.start())

    def covered(self) -> set[int]:
        return self.stored | self.told | self.lost

    def contiguous(self) -> int:
        covered, at = self.covered(), 0
        while at + 1 in covered:
            at += 1
        return at

    def missing(self) -> set[int]:
        return set(range(1, max(self.covered(), default=0) + 1)) - self.covered()

    @invariant()
    def the_cloud_holds_each_batch_exactly_once(self) -> None:
        if not hasattr(self, "core"):
            return

        async def look() -> tuple[list[int], StreamRow | None]:
            async with self.core.db.read() as session:
                rows = await session.scalars(select(BatchRow.sequence).order_by(BatchRow.sequence))
                return list(rows), await session.get(StreamRow, (VEHICLE, STREAM))

        sequences, row = self.do(look())
        assert sequences == sorted(self.stored)
        if row is not None:
            assert row.contiguous == self.contiguous()
            assert (row.stored_batches, row.stored_items) == (len(self.stored), 12 * len(self.stored))
            assert (row.duplicates, row.conflicts) == (self.duplicates, self.conflicts)

    @invariant()
    def every_old_gap_is_asked_for(self) -> None:
        if not hasattr(self, "core"):
            return
        self.clock.advance_s(3)
        reply = self.do(self.core.check_ins.wishes(VEHICLE))
        asked = {s for r in reply.requests for s in range(r.first, r.last + 1)}
        assert asked == self.missing()


UploadProtocol.TestCase.settings = settings(
    max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestUploadProtocol = UploadProtocol.TestCase
