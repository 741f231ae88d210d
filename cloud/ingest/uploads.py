"""What happens to the bytes of an upload: limits, header, durable storage, or the dead letters. Knows no HTTP."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from cloud.clock import Clock
from cloud.config import IngestLimits, Storage
from cloud.db import Database
from cloud.errors import InvalidInput, TooMany, Unavailable
from cloud.ingest.limits import Buckets
from cloud.ingest.listeners import BatchListeners
from cloud.ingest.names import MAX_SEQUENCE, is_stream
from cloud.ingest.writer import IngestWriter, Outcome, Upload, Verdict
from cloud.spool.deadletters import DeadLetters
from cloud.spool.model import BatchState, StoredBatch
from gateway.wire.api import BatchAck
from gateway.wire.batch import BatchHeader
from gateway.wire.codec import CodecError, read_header

CONFLICT = "conflict: another batch was stored under this sequence"
FREE_SPACE_PERIOD_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Claim:
    """What request headers say of a batch; used only where the batch itself cannot be read."""

    stream: str
    sequence: int
    items: int


class Uploads:
    """Takes uploads of identified vehicles."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        limits: IngestLimits,
        storage: Storage,
        writer: IngestWriter,
        dead_letters: DeadLetters,
        listeners: BatchListeners,
    ) -> None:
        self._db, self._clock, self._limits, self._storage = db, clock, limits, storage
        self._writer, self._dead_letters, self._listeners = writer, dead_letters, listeners
        self._batches = Buckets(limits.batches_per_s, limits.batches_burst)
        self._bytes = Buckets(limits.bytes_per_s, limits.bytes_burst)
        self._free_checked_ns = -FREE_SPACE_PERIOD_NS
        self._has_room = True

    def admit(self, vehicle_id: str) -> None:
        """Before the body is read.

        Raises:
            TooMany: the vehicle has spent its rate.
            Unavailable: no room on the disk.
        """
        now_ns = self._clock.monotonic_ns()
        if not self._room(now_ns):
            raise Unavailable("no room on the disk", retry_after_s=60)
        wait_s = self._bytes.of(vehicle_id, now_ns).wait_s(1, now_ns)
        wait_s = wait_s or self._batches.try_take(vehicle_id, now_ns)
        if wait_s > 0:
            raise TooMany("this vehicle sends faster than it may", retry_after_s=wait_s)

    def _room(self, now_ns: int) -> bool:
        if now_ns - self._free_checked_ns >= FREE_SPACE_PERIOD_NS:
            self._free_checked_ns = now_ns
            self._has_room = free_bytes(self._db.path.parent) >= self._storage.min_free_bytes
        return self._has_room

    async def take(self, vehicle_id: str, content: bytes, claim: Claim | None = None) -> BatchAck:
        """Keep one upload durably and say so. Anything but a raised error means the cloud has it.

        Raises:
            Unavailable: it was not stored; send again.
        """
        self._bytes.of(vehicle_id, self._clock.monotonic_ns()).take(len(content), self._clock.monotonic_ns())
        try:
            header = read_header(content)
            if not is_stream(header.stream) or header.sequence > MAX_SEQUENCE:
                raise CodecError("the header names no stream of the form <spool id>/<stream>")
        except CodecError as error:
            return await self._keep_unreadable(vehicle_id, content, f"unreadable: {error}", claim)
        outcome = await self._writer.submit(Upload(vehicle_id, header, content, self._clock.now_ns()))
        return await self._answer(vehicle_id, content, header, outcome)

    async def _answer(self, vehicle_id: str, content: bytes, header: BatchHeader, outcome: Outcome) -> BatchAck:
        dead_letter = ""
        _raise_refusal(outcome)
        self._tell(outcome)
        if outcome.verdict is Verdict.CONFLICT:
            dead_letter = CONFLICT
            await self._bury(vehicle_id, content, CONFLICT, header)
        elif outcome.dead:
            dead_letter = "unreadable: found when it was processed"
        return BatchAck(
            stream=header.stream,
            sequence=header.sequence,
            contiguous=outcome.contiguous,
            duplicate=outcome.verdict is Verdict.DUPLICATE,
            needs_manifest=outcome.needs_manifest,
            dead_letter=dead_letter,
        )

    async def _keep_unreadable(self, vehicle_id: str, content: bytes, reason: str, claim: Claim | None) -> BatchAck:
        """Into the dead letters; with a claim the sequence counts as held, so that it is not asked for again."""
        if claim is None or not is_stream(claim.stream) or not 1 <= claim.sequence <= MAX_SEQUENCE:
            await self._bury(vehicle_id, content, reason, None)
            return BatchAck(stream="", sequence=0, contiguous=0, dead_letter=reason)
        now_ns = self._clock.now_ns()
        header = BatchHeader(
            stream=claim.stream,
            sequence=claim.sequence,
            items=max(0, min(claim.items, MAX_SEQUENCE)),
            items_before=0,
            manifest_hash=b"",
            created_ns=now_ns,
            first_ns=now_ns,
            last_ns=now_ns,
            resolution_ns=1,
            samples=0,
            frames=0,
            events=0,
            schemes=(),
        )
        await self._bury(vehicle_id, content, reason, header)
        outcome = await self._writer.submit(Upload(vehicle_id, header, content, now_ns, dead=True))
        _raise_refusal(outcome)
        return BatchAck(
            stream=claim.stream,
            sequence=claim.sequence,
            contiguous=outcome.contiguous,
            duplicate=outcome.verdict is Verdict.DUPLICATE,
            dead_letter=reason,
        )

    async def _bury(self, vehicle_id: str, content: bytes, reason: str, header: BatchHeader | None) -> None:
        letter = StoredBatch(
            id=0,
            vehicle_id=vehicle_id,
            stream=header.stream if header else "",
            sequence=header.sequence if header else 0,
            received_ns=self._clock.now_ns(),
            manifest_hash=header.manifest_hash.hex() if header else "",
            items=header.items if header else 0,
            first_ns=header.first_ns if header else 0,
            last_ns=header.last_ns if header else 0,
            content=content,
            state=BatchState.DEAD,
        )
        async with self._db.write() as session:
            await self._dead_letters.add(session, letter, reason)

    async def replay(self, vehicle_id: str, content: bytes) -> Outcome:
        """Take the content of a dead letter as if it had just come.

        Raises:
            InvalidInput: it still cannot be read.
            Unavailable: it could not be stored.
        """
        try:
            header = await asyncio.to_thread(read_header, content)
        except CodecError as error:
            raise InvalidInput(f"still unreadable: {error}") from error
        if not is_stream(header.stream) or header.sequence > MAX_SEQUENCE:
            raise InvalidInput("still unreadable: the header names no stream")
        outcome = await self._writer.submit(Upload(vehicle_id, header, content, self._clock.now_ns(), replay=True))
        _raise_refusal(outcome)
        self._tell(outcome)
        return outcome

    def _tell(self, outcome: Outcome) -> None:
        """Listeners hear of batches that can be decoded; the rest are told when their manifest comes."""
        if outcome.stored is not None and outcome.stored.state is BatchState.STORED:
            self._listeners.tell(outcome.stored)


def _raise_refusal(outcome: Outcome) -> None:
    if outcome.verdict is Verdict.TOO_TORN:
        raise Unavailable("the stream has too many gaps; send the missing batches first", retry_after_s=30)
    if outcome.verdict is Verdict.TOO_MANY_STREAMS:
        raise TooMany("this vehicle has too many streams", retry_after_s=3600)
    if outcome.verdict is Verdict.TOO_MANY_WAITING:
        raise Unavailable("too many batches wait for their manifest; send it first", retry_after_s=30)


def free_bytes(path: Path) -> int:
    """Bytes the disk of ``path`` still takes from an ordinary user."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
