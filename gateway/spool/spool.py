"""The spool: batches wait here, durably and in order, until the cloud has them.

Blocking, for a single writer; asynchronous callers queue up in front of it. Durability by priority: an append to a
critical stream returns once it would survive a power cut, other appends become durable with ``sync``, when a segment
is full, or before they are first read, so that nothing leaves the vehicle that a power cut could make it forget.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from gateway.spool.accounts import Accounts
from gateway.spool.adapters import PosixDisk
from gateway.spool.errors import SpoolError, SpoolFull
from gateway.spool.ports import Disk, File
from gateway.spool.record import (
    RECORD_HEAD_BYTES,
    SEGMENT_HEAD_BYTES,
    Record,
    SegmentHead,
    decode_head,
    encode_record,
    split_body,
)
from gateway.spool.recovery import Recovered, recover, segment_name
from gateway.spool.slots import TwoSlots
from gateway.spool.stream import Segment, Stream
from gateway.wire.batch import STREAMS, Priority
from gateway.wire.ledger import StreamLedger

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SKIPPED_BITS = 40
_MAX_SEQUENCE = 1 << 62

#: stream -> priority; the "-wifi" variants share their sibling's.
PRIORITY = {name: Priority[name.removesuffix("-wifi").upper()] for name in STREAMS}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolLimits:
    """Bounds of a spool."""

    max_bytes: int = 512 * 1024 * 1024  # of all segments together; the slots take some 64 KiB on top
    segment_bytes: int = 4 * 1024 * 1024
    sync_each: frozenset[Priority] = frozenset({Priority.CRITICAL})
    unsynced_bytes: int = 4 * 1024 * 1024  # a stream with more than this not yet durable is synced by the append


@dataclass(slots=True)
class _Active:
    """The segment a stream appends to."""

    segment: Segment
    file: File
    durable_bytes: int = 0  # of the file, from its beginning
    is_named: bool = False  # the directory entry is durable


class Spool:
    """Use ``Spool.open``; then one call at a time, ``close`` at the end."""

    def __init__(self, disk: Disk, limits: SpoolLimits) -> None:
        """Recover what the disk holds.

        Raises:
            SpoolError: the disk refused.
        """
        self._disk, self._limits = disk, limits
        self._active: dict[str, _Active] = {}
        self._doomed: list[str] = []  # evicted in the accounts, still to be deleted
        try:
            self._slots = TwoSlots(disk, "accounts")
            accounts = Accounts.decode(self._slots.value)
            found = recover(disk, accounts)
            self.recovered = found
            self._streams = found.streams
            self._begin(found, accounts)
            self._persist()
        except OSError as error:
            raise SpoolError(f"spool: {error}") from error

    @staticmethod
    def open(path: Path, limits: SpoolLimits | None = None) -> Spool:
        """Open or create the spool in a directory.

        Raises:
            SpoolBusy: another process has it open.
            SpoolError: the disk refused.
        """
        try:
            disk = PosixDisk(path)
        except OSError as error:
            raise SpoolError(f"spool {path}: {error.strerror or error}") from error
        try:
            return Spool(disk, limits or SpoolLimits())
        except BaseException:
            disk.close()
            raise

    def _begin(self, found: Recovered, accounts: Accounts | None) -> None:
        is_new = found.spool_id is None
        self._spool_id = secrets.randbits(64) | 1 if found.spool_id is None else found.spool_id
        if accounts is None and not is_new:
            # Both slots are lost. A stream without segments had numbers nobody knows: begin far beyond them.
            for stream in self._streams.values():
                if not stream.segments:
                    stream.skip_to(secrets.randbits(_SKIPPED_BITS) + (1 << _SKIPPED_BITS))
        self._doomed = found.useless
        self._counter, self._state = (accounts.counter, accounts.state) if accounts else (0, None)
        newest = [(r.counter, s.name, r) for st in self._streams.values() for s in st.segments for r in s.records]
        base = self._counter
        for counter, name, record in sorted(newest, key=lambda entry: -entry[0]):
            if counter <= base:
                break
            self._counter = max(self._counter, counter)
            body = self._body(name, record)
            if body is not None:
                self._state = body[0]
                break

    @property
    def spool_id(self) -> str:
        """16 hex digits, made once; in the name of each stream on the wire."""
        return f"{self._spool_id:016x}"

    def streams(self) -> tuple[str, ...]:
        """The names of all streams."""
        return STREAMS

    def next_sequence(self, stream: str) -> int:
        """The number the next append to a stream gets."""
        return self._streams[stream].last_sequence + 1

    def stored_items(self, stream: str) -> int:
        """Items stored in a stream so far: ``items_before`` of the next batch."""
        return self._streams[stream].stored

    def acknowledged(self, stream: str) -> int:
        """The sequence up to which a stream is acknowledged."""
        return self._streams[stream].acknowledged_sequence

    def totals(self) -> dict[str, StreamLedger]:
        """The accounting per stream."""
        return {name: stream.ledger() for name, stream in self._streams.items()}

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for stream in self._streams.values() for segment in stream.segments)

    def last_state(self) -> bytes | None:
        """The newest state from any record or checkpoint; None in a new spool."""
        return self._state

    # Writing

    def append(self, stream: str, payload: bytes, items: int, state: bytes) -> int:
        """Store a batch and the caller's state with it. Returns its sequence.

        Raises:
            SpoolFull: no room even after eviction; nothing was written.
            SpoolError: the disk refused; nothing was written.
        """
        target = self._streams[stream]
        counter = self._counter + 1

        def write() -> None:  # encodes at each attempt: a failed one may have cost a number
            raw = encode_record(
                stream=target.number,
                sequence=target.last_sequence + 1,
                items_before=target.stored,
                counter=counter,
                items=items,
                state=state,
                payload=payload,
            )
            self._write(target, raw)

        self._evicting(target, SEGMENT_HEAD_BYTES + RECORD_HEAD_BYTES + len(state) + len(payload), write)
        self._counter, self._state = counter, state
        return target.last_sequence

    def _evicting(self, target: Stream, needed_bytes: int, write: Callable[[], None]) -> None:
        """Run ``write``, making room before it and again while the disk is full."""
        if needed_bytes > self._limits.max_bytes:
            raise SpoolFull(f"{needed_bytes} bytes, the spool may hold {self._limits.max_bytes}")
        try:
            while self.size_bytes + needed_bytes > self._limits.max_bytes:
                if not self._free_one(target):
                    raise SpoolFull(f"{self.size_bytes} of {self._limits.max_bytes} bytes in use")
            while True:
                try:
                    return write()
                except OSError as error:
                    if error.errno not in _FULL:
                        raise
                    if not self._free_one(target):
                        raise SpoolFull(f"disk full: {error}") from error
        except OSError as error:
            raise (SpoolFull if error.errno in _FULL else SpoolError)(f"spool: {error}") from error

    def _write(self, target: Stream, raw: bytes) -> None:
        active = self._active.get(target.name)
        if active and active.segment.size + len(raw) > self._limits.segment_bytes and active.segment.records:
            self._retire(target)
            active = None
        if active is None:
            active = self._create(target)
        before = active.segment.size
        is_durable = PRIORITY[target.name] in self._limits.sync_each
        is_durable |= before + len(raw) - active.durable_bytes > self._limits.unsynced_bytes
        try:
            active.file.write_at(before, raw)
            active.segment.size = before + len(raw)
            if is_durable:
                self._sync_active(active)
        except OSError:
            active.segment.size = before
            self._undo(target, active, before)
            raise
        record = decode_head(raw, before)
        if record is None:
            raise RuntimeError("a record just encoded has a sound head")
        target.append(active.segment, record)

    def _undo(self, target: Stream, active: _Active, size: int) -> None:
        """Take a failed write back, durably: what the caller was told did not happen must not reappear after a power
        cut. Where even that fails the segment gets no more records, and the number no more use."""
        try:
            active.file.truncate(size)
            active.file.sync()
            active.durable_bytes = size
        except OSError:
            self._abandon(target)
            target.skip_to(target.last_sequence + 1)

    def _abandon(self, target: Stream) -> None:
        active = self._active.pop(target.name)
        with contextlib.suppress(OSError):
            active.file.close()

    def _create(self, target: Stream) -> _Active:
        sequence = target.last_sequence + 1
        head = SegmentHead(target.number, self._spool_id, sequence, target.stored)
        name = segment_name(target.name, sequence)
        file = self._disk.open(name)
        try:
            file.truncate(0)
            file.write_at(0, head.encode())
        except OSError:
            file.close()
            with contextlib.suppress(OSError):
                self._disk.remove(name)
            raise
        active = _Active(Segment(name, sequence), file)
        target.segments.append(active.segment)
        self._active[target.name] = active
        return active

    def _retire(self, target: Stream) -> None:
        """The active segment is full: make it durable and append to it no more."""
        active = self._active[target.name]
        self._sync_active(active)
        del self._active[target.name]
        active.file.close()

    def _sync_active(self, active: _Active) -> None:
        if active.durable_bytes < active.segment.size:
            active.file.sync()
            active.durable_bytes = active.segment.size
        if not active.is_named:
            self._disk.sync()
            for each in self._active.values():
                each.is_named = True

    def sync(self) -> None:
        """Everything appended so far survives a power cut once this returns.

        Raises:
            SpoolError: the disk refused.
        """
        try:
            for active in self._active.values():
                self._sync_active(active)
        except OSError as error:
            raise SpoolError(f"spool: {error}") from error

    def checkpoint(self, state: bytes) -> None:
        """Persist the caller's state, and what was acknowledged, between appends. Durable on return.

        Raises:
            SpoolError: the disk refused; the state before stays.
        """
        before = self._counter, self._state
        self._counter, self._state = self._counter + 1, state
        try:
            self._persist()
        except OSError as error:
            self._counter, self._state = before
            raise SpoolError(f"spool: {error}") from error

    def _persist(self) -> None:
        """Write the accounts, then delete what they call evicted."""
        for active in self._active.values():  # the accounts never know of more than the segments
            self._sync_active(active)
        accounts = Accounts(
            self._spool_id, self._counter, self._state, tuple(s.account() for s in self._streams.values())
        )
        self._slots.replace(accounts.encode())
        if self._doomed:
            for name in list(self._doomed):
                self._disk.remove(name)
                self._doomed.remove(name)
            self._disk.sync()

    # Eviction

    def _free_one(self, target: Stream) -> bool:
        """Delete one segment to make room for an append to ``target``: one that is no longer needed, else the oldest
        of the lowest priority that has any pending, unless that is above the target's. False when there is none."""
        appended_to = [active.segment for active in self._active.values()]
        candidates = [
            (segment.counter, segment, stream)
            for stream in self._streams.values()
            for segment in stream.segments
            if segment.records or segment not in appended_to
        ]
        done = [c for c in candidates if not c[2].pending_in(c[1])]
        if not done:
            lowest = max((PRIORITY[st.name] for _, _, st in candidates), default=None)
            if lowest is None or lowest < PRIORITY[target.name]:
                return False
            done = [c for c in candidates if PRIORITY[c[2].name] == lowest]
        if not done:
            return False
        _, segment, stream = min(done, key=lambda c: c[0])
        active = self._active.get(stream.name)
        if active is not None and active.segment is segment:
            self._retire(stream)
        stream.evict(segment)
        self._doomed.append(segment.name)
        self._persist()
        return True

    def evicted(self, stream: str) -> tuple[tuple[int, int], ...]:
        """Ranges (first, last) of a stream that are gone unacknowledged and that the cloud has not confirmed."""
        return self._streams[stream].unconfirmed()

    def confirm_evicted(self, ranges: Iterable[tuple[str, int, int]]) -> None:
        """The cloud knows of these (stream, first, last). Durable with the next checkpoint."""
        for name, first, last in ranges:
            if name in self._streams:
                self._streams[name].confirm(first, last)

    # Reading

    def read(self, stream: str, sequence: int) -> bytes | None:
        """A batch, pending or acknowledged; None when it is gone. What cannot be read whole becomes evicted.

        Raises:
            SpoolError: the disk refused.
        """
        source = self._streams[stream]
        found = source.find(sequence)
        if found is None:
            return None
        segment, record = found
        try:
            active = self._active.get(stream)
            if active is not None and active.segment is segment and record.end > active.durable_bytes:
                self._sync_active(active)
            body = self._body(segment.name, record)
            if body is None:
                source.drop_record(segment, record)
                self._persist()
                return None
        except OSError as error:
            raise SpoolError(f"spool: {error}") from error
        return body[1]

    def _body(self, name: str, record: Record) -> tuple[bytes, bytes] | None:
        """(state, payload), None when damaged."""
        raw = self._disk.read(name, record.offset + RECORD_HEAD_BYTES, record.state_bytes + record.payload_bytes)
        return split_body(record, raw)

    def next_pending(self, stream: str, after: int = 0) -> int | None:
        """The first sequence above ``after`` that waits for its acknowledgement."""
        return self._streams[stream].next_pending(after)

    def acknowledge(self, stream: str, sequence: int) -> None:
        """The cloud holds everything up to ``sequence``. Durable with the next checkpoint: after a crash it may be
        forgotten, never invented.

        A sequence this spool has not reached tells that numbers were used which it forgot: they are skipped.
        """
        target = self._streams[stream]
        if target.last_sequence < sequence <= _MAX_SEQUENCE:
            target.last_sequence = sequence
        target.acknowledge(sequence)

    def close(self) -> None:
        """Make everything durable and let go of the directory.

        Raises:
            SpoolError: the disk refused; the directory is free all the same.
        """
        try:
            self._persist()
        except OSError as error:
            raise SpoolError(f"spool: {error}") from error
        finally:
            for active in self._active.values():
                active.file.close()
            self._active.clear()
            self._slots.close()
            self._disk.close()
