"""Durable storage of batches before their acknowledgement, many batches per transaction.

One task takes whatever uploads wait, writes them in one SQLite transaction on a thread of its own, and only then
resolves their futures. While one transaction waits for the disk the next group gathers, so the cost of the sync is
shared by all that are under way. Plain ``sqlite3``: the ORM would cost more than the write.

All decisions about a sequence (new, duplicate, conflict) are taken inside that transaction, from the database alone.
There is no state in memory that a crash could lose or another process could contradict.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum

from cloud.clock import Clock
from cloud.config import IngestLimits
from cloud.db import Database, connect
from cloud.errors import Unavailable
from cloud.ingest.sequences import SequenceSet
from cloud.spool.model import BatchState, StoredBatch
from gateway.wire.batch import BatchHeader


class Verdict(Enum):
    """What became of an upload."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"  # other content under the same sequence
    TOO_TORN = "too_torn"  # the stream has too many gaps; they must be filled first
    TOO_MANY_STREAMS = "too_many_streams"
    TOO_MANY_WAITING = "too_many_waiting"  # batches wait for a manifest nobody sends


@dataclass(frozen=True, slots=True)
class Upload:
    """A batch that passed the checks of the header."""

    vehicle_id: str
    header: BatchHeader
    content: bytes
    received_ns: int
    dead: bool = False  # unreadable, the header is the vehicle's word; the content lies with the dead letters
    replay: bool = False  # from the dead letters: may take the place of the same batch in state dead


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to an upload, true once the transaction has committed."""

    verdict: Verdict
    contiguous: int = 0
    has_gap: bool = False
    needs_manifest: bool = False
    dead: bool = False  # a duplicate of a batch that turned out unreadable
    stored: StoredBatch | None = None


@dataclass(slots=True)
class _Stream:
    """A stream's row during one transaction."""

    held: SequenceSet
    batches: int = 0
    items: int = 0
    content_bytes: int = 0
    dead_batches: int = 0
    dead_items: int = 0
    duplicates: int = 0
    conflicts: int = 0
    last_received_ns: int = 0
    stalled_ns: int = 0
    receipts_through: int = 0


@dataclass(slots=True)
class WriterStatistics:
    """Totals since the start of the process."""

    batches: int = 0
    items: int = 0
    content_bytes: int = 0
    duplicates: int = 0
    conflicts: int = 0
    refused: int = 0
    transactions: int = 0
    failures: int = 0


_INSERT = (
    "INSERT INTO batches (vehicle_id, stream, sequence, received_ns, manifest_hash, items, items_before, first_ns,"
    " last_ns, content, content_bytes, digest, state) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_NEW_STREAM = (
    "INSERT INTO streams (vehicle_id, stream, contiguous, ahead, stored_batches, stored_items, stored_bytes,"
    " dead_batches, dead_items, duplicates, conflicts, acknowledged_told, stalled_ns, first_received_ns,"
    " last_received_ns) VALUES (?,?,0,x'',0,0,0,0,0,0,0,0,0,?,?)"
)
_UPDATE_STREAM = (
    "UPDATE streams SET contiguous=?, ahead=?, stored_batches=stored_batches+?, stored_items=stored_items+?,"
    " stored_bytes=stored_bytes+?, dead_batches=dead_batches+?, dead_items=dead_items+?,"
    " duplicates=duplicates+?, conflicts=conflicts+?, stalled_ns=?,"
    " last_received_ns=max(last_received_ns,?) WHERE vehicle_id=? AND stream=?"
)
_EXPLAINED = "SELECT 1 FROM explained_ranges WHERE vehicle_id=? AND stream=? AND first<=? AND last>=? LIMIT 1"
_COUNT_DAY = (
    "INSERT INTO ingest_daily (vehicle_id, day, batches, items, content_bytes) VALUES (?,?,?,?,?)"
    " ON CONFLICT (vehicle_id, day) DO UPDATE SET batches=batches+excluded.batches, items=items+excluded.items,"
    " content_bytes=content_bytes+excluded.content_bytes"
)
DAY_NS = 86_400_000_000_000


class _Transaction:
    """The decisions of one group, on an open transaction. Synchronous; runs on the writer's thread."""

    def __init__(self, connection: sqlite3.Connection, limits: IngestLimits) -> None:
        self._db = connection
        self._limits = limits
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._manifests: dict[str, bool] = {}
        self._waiting: dict[str, int] = {}
        self._today: dict[tuple[str, int], list[int]] = {}

    def take(self, upload: Upload) -> Outcome:
        """Decide on one upload and write it."""
        header = upload.header
        stream = self._stream(upload.vehicle_id, header.stream, upload.received_ns)
        if stream is None:
            return Outcome(Verdict.TOO_MANY_STREAMS)
        digest = hashlib.sha256(upload.content).digest()
        if stream.held.covers(header.sequence):
            known = self._known(upload, stream, digest)
            if known is not None:
                return known
        held = stream.held.add(header.sequence, header.sequence)
        if not upload.dead and self._too_many_wait(upload):
            return Outcome(Verdict.TOO_MANY_WAITING, stream.held.contiguous, bool(stream.held.ahead))
        if len(held.ahead) > self._limits.max_ranges_per_stream and len(held.ahead) > len(stream.held.ahead):
            return Outcome(Verdict.TOO_TORN, stream.held.contiguous, has_gap=True)
        if held.contiguous != stream.held.contiguous or (held.ahead and not stream.stalled_ns):
            stream.stalled_ns = upload.received_ns if held.ahead else 0
        stream.held = held
        return self._store(upload, stream, digest)

    def _known(self, upload: Upload, stream: _Stream, digest: bytes) -> Outcome | None:
        """The answer for a sequence that is covered, or None when the batch is welcome after all."""
        header = upload.header
        row = self._db.execute(
            "SELECT digest, state, manifest_hash FROM batches WHERE vehicle_id=? AND stream=? AND sequence=?",
            (upload.vehicle_id, header.stream, header.sequence),
        ).fetchone()
        if row is None and header.sequence <= stream.receipts_through and not self._is_explained(upload):
            stream.duplicates += 1  # stored long ago; its receipt has been removed
            return Outcome(Verdict.DUPLICATE, stream.held.contiguous, bool(stream.held.ahead))
        if row is None:  # explained as evicted or lost, and here it comes: better than none
            return None
        if row[0] != digest:
            stream.conflicts += 1
            return Outcome(Verdict.CONFLICT, stream.held.contiguous, bool(stream.held.ahead))
        if upload.replay and row[1] == BatchState.DEAD:
            return self._revive(upload, stream)
        stream.duplicates += 1
        return Outcome(
            Verdict.DUPLICATE,
            stream.held.contiguous,
            bool(stream.held.ahead),
            needs_manifest=row[1] == BatchState.WAITING_MANIFEST,
            dead=row[1] == BatchState.DEAD,
        )

    def _is_explained(self, upload: Upload) -> bool:
        key = (upload.vehicle_id, upload.header.stream, upload.header.sequence, upload.header.sequence)
        return self._db.execute(_EXPLAINED, key).fetchone() is not None

    def _revive(self, upload: Upload, stream: _Stream) -> Outcome:
        """Dead → stored, with what the header says now that it can be read."""
        key = (upload.vehicle_id, upload.header.stream, upload.header.sequence)
        (items, size) = self._db.execute(
            "DELETE FROM batches WHERE vehicle_id=? AND stream=? AND sequence=? RETURNING items, content_bytes", key
        ).fetchone()
        self._db.execute(
            "UPDATE streams SET dead_batches=dead_batches-1, dead_items=dead_items-? WHERE vehicle_id=? AND stream=?",
            (items, *key[:2]),
        )
        stream.batches, stream.items, stream.content_bytes = (
            stream.batches - 1,
            stream.items - items,
            stream.content_bytes - size,
        )
        return self._store(upload, stream, hashlib.sha256(upload.content).digest())

    def _store(self, upload: Upload, stream: _Stream, digest: bytes) -> Outcome:
        header = upload.header
        manifest_hash = header.manifest_hash.hex()
        known_manifest = self._has_manifest(manifest_hash)
        state = BatchState.STORED if known_manifest else BatchState.WAITING_MANIFEST
        if upload.dead:
            state, known_manifest = BatchState.DEAD, True
            stream.dead_batches, stream.dead_items = stream.dead_batches + 1, stream.dead_items + header.items
        cursor = self._db.execute(
            _INSERT,
            (
                upload.vehicle_id,
                header.stream,
                header.sequence,
                upload.received_ns,
                manifest_hash,
                header.items,
                header.items_before,
                header.first_ns,
                header.last_ns,
                b"" if upload.dead else upload.content,
                len(upload.content),
                digest,
                state.value,
            ),
        )
        stream.batches += 1
        stream.items += header.items
        stream.content_bytes += len(upload.content)
        stream.last_received_ns = max(stream.last_received_ns, upload.received_ns)
        today = self._today.setdefault((upload.vehicle_id, upload.received_ns // DAY_NS), [0, 0, 0])
        today[0] += 1
        today[1] += header.items
        today[2] += len(upload.content)
        stored = StoredBatch(
            id=cursor.lastrowid or 0,
            vehicle_id=upload.vehicle_id,
            stream=header.stream,
            sequence=header.sequence,
            received_ns=upload.received_ns,
            manifest_hash=manifest_hash,
            items=header.items,
            first_ns=header.first_ns,
            last_ns=header.last_ns,
            content=upload.content,
            state=state,
        )
        return Outcome(
            Verdict.STORED,
            stream.held.contiguous,
            bool(stream.held.ahead),
            needs_manifest=not known_manifest,
            stored=None if upload.dead else stored,
            dead=upload.dead,
        )

    def _stream(self, vehicle_id: str, name: str, now_ns: int) -> _Stream | None:
        key = (vehicle_id, name)
        found = self._streams.get(key)
        if found is not None:
            return found
        row = self._db.execute(
            "SELECT contiguous, ahead, stalled_ns, receipts_through FROM streams WHERE vehicle_id=? AND stream=?", key
        ).fetchone()
        if row is None:
            (count,) = self._db.execute("SELECT count(*) FROM streams WHERE vehicle_id=?", (vehicle_id,)).fetchone()
            if count >= self._limits.max_streams_per_vehicle:
                return None
            self._db.execute(_NEW_STREAM, (*key, now_ns, now_ns))
            row = (0, b"", 0, 0)
        stream = _Stream(SequenceSet.from_bytes(row[0], row[1]), stalled_ns=row[2], receipts_through=row[3])
        self._streams[key] = stream
        return stream

    def _has_manifest(self, manifest_hash: str) -> bool:
        known = self._manifests.get(manifest_hash)
        if known is None:
            row = self._db.execute("SELECT 1 FROM manifests WHERE hash=?", (manifest_hash,)).fetchone()
            known = self._manifests[manifest_hash] = row is not None
        return known

    def _too_many_wait(self, upload: Upload) -> bool:
        if self._has_manifest(upload.header.manifest_hash.hex()):
            return False
        waiting = self._waiting.get(upload.vehicle_id)
        if waiting is None:
            (waiting,) = self._db.execute(
                "SELECT count(*) FROM batches WHERE vehicle_id=? AND state=?",
                (upload.vehicle_id, BatchState.WAITING_MANIFEST.value),
            ).fetchone()
        self._waiting[upload.vehicle_id] = waiting + 1
        return bool(waiting >= self._limits.max_waiting_per_vehicle)

    def finish(self) -> None:
        """Write the totals."""
        self._db.executemany(_COUNT_DAY, [(*key, *counts) for key, counts in self._today.items()])
        self._db.executemany(
            _UPDATE_STREAM,
            [
                (
                    s.held.contiguous,
                    s.held.to_bytes(),
                    s.batches,
                    s.items,
                    s.content_bytes,
                    s.dead_batches,
                    s.dead_items,
                    s.duplicates,
                    s.conflicts,
                    s.stalled_ns,
                    s.last_received_ns,
                    vehicle_id,
                    name,
                )
                for (vehicle_id, name), s in self._streams.items()
            ],
        )


class IngestWriter:
    """Uploads in, outcomes out, in groups. ``run`` must be running."""

    def __init__(self, db: Database, limits: IngestLimits, clock: Clock) -> None:
        self._db = db
        self._limits = limits
        self._clock = clock
        self._queue: asyncio.Queue[tuple[Upload, asyncio.Future[Outcome]]] = asyncio.Queue(limits.queue_max)
        self._thread = ThreadPoolExecutor(1, "ingest-writer")
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._committing: asyncio.Future[None] | None = None
        self.statistics = WriterStatistics()

    @property
    def depth(self) -> int:
        """Uploads that wait."""
        return self._queue.qsize()

    async def submit(self, upload: Upload) -> Outcome:
        """Store one upload; returns after its commit.

        Cancelling the caller does not undo the write: the vehicle sends again and gets a duplicate.

        Raises:
            Unavailable: the queue is full, the disk refused, or the service stops. Nothing was stored.
        """
        if self._closed:
            raise Unavailable("the service is stopping")
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((upload, future))
        except asyncio.QueueFull:
            self.statistics.refused += 1
            raise Unavailable("too many uploads wait", retry_after_s=1.0) from None
        return await future

    async def run(self) -> None:
        """Serve until cancelled; what has been taken from the queue is committed and answered first."""
        loop = asyncio.get_running_loop()
        self._connection = await loop.run_in_executor(
            self._thread, lambda: connect(self._db.path, busy_timeout_ms=self._db.busy_timeout_ms)
        )
        try:
            while True:
                group = [await self._queue.get()]
                while len(group) < self._limits.group_commit_max and not self._queue.empty():
                    group.append(self._queue.get_nowait())
                self._committing = asyncio.ensure_future(self._commit_group(group))
                await asyncio.shield(self._committing)
        finally:
            await self._close()

    async def _close(self) -> None:
        self._closed = True
        if self._committing is not None:  # a commit that was under way when we were cancelled
            await asyncio.wait([self._committing])
        while not self._queue.empty():
            _, future = self._queue.get_nowait()
            if not future.done():
                future.set_exception(Unavailable("the service is stopping"))
        if self._connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown(wait=False)

    async def _commit_group(self, group: list[tuple[Upload, asyncio.Future[Outcome]]]) -> None:
        uploads = [upload for upload, _ in group]
        try:
            async with self._db.write_lock:
                outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, uploads)
        except sqlite3.Error as error:
            self.statistics.failures += 1
            for _, future in group:
                if not future.done():
                    future.set_exception(Unavailable(f"the batch could not be stored ({error})"))
            return
        except Exception as error:  # a mistake of ours: it must cost one upload, not the service
            self.statistics.failures += 1
            if len(group) == 1:
                if not group[0][1].done():
                    group[0][1].set_exception(error)
                return
            for single in group:
                await self._commit_group([single])
            return
        self._count(outcomes)
        for (_, future), outcome in zip(group, outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)

    def _commit(self, uploads: list[Upload]) -> list[Outcome]:
        connection = self._connection
        if connection is None:
            raise sqlite3.OperationalError("the database is not open")
        connection.execute("BEGIN IMMEDIATE")
        try:
            transaction = _Transaction(connection, self._limits)
            outcomes = [transaction.take(upload) for upload in uploads]
            transaction.finish()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return outcomes

    def _count(self, outcomes: list[Outcome]) -> None:
        statistics = self.statistics
        statistics.transactions += 1
        for outcome in outcomes:
            if outcome.stored is not None:
                statistics.batches += 1
                statistics.items += outcome.stored.items
                statistics.content_bytes += len(outcome.stored.content)
            elif outcome.verdict is Verdict.DUPLICATE:
                statistics.duplicates += 1
            elif outcome.verdict is Verdict.CONFLICT:
                statistics.conflicts += 1
            else:
                statistics.refused += 1
