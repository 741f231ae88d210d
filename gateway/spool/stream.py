"""One stream in memory: which records are where, and the accounting. No I/O.

``stored = acknowledged + evicted + pending`` holds after every method.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter

import msgspec

from gateway.spool.accounts import EvictedRange, StreamAccount
from gateway.spool.record import SEGMENT_HEAD_BYTES, Record
from gateway.wire.ledger import StreamLedger

_sequence = attrgetter("sequence")


@dataclass(slots=True)
class Segment:
    """A segment file and its sound records, in ascending order."""

    name: str
    first_sequence: int
    records: list[Record] = field(default_factory=list)
    size: int = SEGMENT_HEAD_BYTES

    @property
    def last_sequence(self) -> int:
        """Of the last sound record; below ``first_sequence`` when there is none."""
        return self.records[-1].sequence if self.records else self.first_sequence - 1

    @property
    def counter(self) -> int:
        """Of the first record: tells which of two segments is older."""
        return self.records[0].counter if self.records else 0

    def at_or_after(self, sequence: int) -> Record | None:
        """The first record from ``sequence`` on."""
        i = bisect_left(self.records, sequence, key=_sequence)
        return self.records[i] if i < len(self.records) else None


class Stream:
    """The accounting of one stream."""

    def __init__(self, name: str, number: int, account: StreamAccount | None = None) -> None:
        account = account or StreamAccount(name)
        self.name, self.number = name, number
        self.segments: list[Segment] = []
        self.last_sequence, self.stored = account.last_sequence, account.stored
        self.acknowledged_sequence, self.acknowledged = account.acknowledged_sequence, account.acknowledged
        self.acknowledged_through, self.evicted = account.acknowledged_through, account.evicted
        self.ranges = list(account.ranges)
        self.pending = self.pending_bytes = 0

    def account(self) -> StreamAccount:
        """What has to be persisted."""
        return StreamAccount(
            self.name,
            self.last_sequence,
            self.stored,
            self.acknowledged_sequence,
            self.acknowledged,
            self.acknowledged_through,
            self.evicted,
            tuple(self.ranges),
        )

    def ledger(self) -> StreamLedger:
        """The accounting as it is told to the cloud."""
        return StreamLedger(
            stream=self.name,
            stored=self.stored,
            acknowledged=self.acknowledged,
            evicted=self.evicted,
            pending=self.pending,
            pending_bytes=self.pending_bytes,
            last_sequence=self.last_sequence,
            acknowledged_sequence=self.acknowledged_sequence,
        )

    def append(self, segment: Segment, record: Record) -> None:
        """A record was written to the end of ``segment``."""
        segment.records.append(record)
        segment.size = record.end
        self.last_sequence, self.stored = record.sequence, record.items_through
        self.pending += record.items
        self.pending_bytes += record.payload_bytes

    def find(self, sequence: int) -> tuple[Segment, Record] | None:
        """Where a record is, acknowledged or not."""
        i = bisect_left(self.segments, sequence, key=attrgetter("last_sequence"))
        for segment in self.segments[i:]:
            record = segment.at_or_after(sequence)
            if record is not None:
                return (segment, record) if record.sequence == sequence else None
        return None

    def next_pending(self, after: int) -> int | None:
        """The first pending sequence above ``after``."""
        wanted = max(after, self.acknowledged_sequence) + 1
        i = bisect_left(self.segments, wanted, key=attrgetter("last_sequence"))
        for segment in self.segments[i:]:
            record = segment.at_or_after(wanted)
            if record is not None:
                return record.sequence
        return None

    def pending_in(self, segment: Segment) -> list[Record]:
        """The segment's records that are not acknowledged."""
        i = bisect_left(segment.records, self.acknowledged_sequence + 1, key=_sequence)
        return segment.records[i:]

    def _between(self, after: int, upto: int) -> Iterable[Record]:
        for segment in self.segments:
            if segment.last_sequence > after:
                i = bisect_left(segment.records, after + 1, key=_sequence)
                for record in segment.records[i:]:
                    if record.sequence > upto:
                        return
                    yield record

    def acknowledge(self, sequence: int) -> None:
        """Everything pending up to ``sequence`` is in the cloud. Going back has no effect."""
        sequence = min(sequence, self.last_sequence)
        if sequence <= self.acknowledged_sequence:
            return
        for record in self._between(self.acknowledged_sequence, sequence):
            self._no_longer_pending(record)
            self.acknowledged += record.items
        following = next(iter(self._between(sequence, self.last_sequence)), None)
        gone = [r for r in self.ranges if r.last > sequence]
        bounds = [following.items_before] if following else []
        bounds += [r.items_before for r in gone if r.first > sequence]
        self.acknowledged_through = min(bounds, default=self.stored)
        self.acknowledged_sequence = sequence
        self._forget_ranges()

    def _no_longer_pending(self, record: Record) -> None:
        self.pending -= record.items
        self.pending_bytes -= record.payload_bytes

    def skip_to(self, sequence: int) -> None:
        """Numbers up to ``sequence`` were used, though nothing here tells for what; they are not used again."""
        if sequence > self.last_sequence:
            self.add_range(EvictedRange(self.last_sequence + 1, sequence, self.stored, 0))
            self.last_sequence = sequence

    def evict(self, segment: Segment) -> int:
        """Drop a segment; what was pending in it is evicted. Returns its items."""
        lost = self.pending_in(segment)
        for record in lost:
            self._drop(record)
        self.segments.remove(segment)
        return sum(record.items for record in lost)

    def drop_record(self, segment: Segment, record: Record) -> None:
        """A record turned out to be damaged; evicted if it was pending."""
        segment.records.remove(record)
        if record.sequence > self.acknowledged_sequence:
            self._drop(record)

    def _drop(self, record: Record) -> None:
        self._no_longer_pending(record)
        self.evicted += record.items
        self.add_range(EvictedRange(record.sequence, record.sequence, record.items_before, record.items))

    def add_range(self, new: EvictedRange) -> None:
        """Insert a range, joined to its neighbour where the two are alike and touch."""
        i = bisect_left(self.ranges, new.first, key=attrgetter("first"))
        before = self.ranges[i - 1] if i else None
        if before and before.last + 1 == new.first and before.confirmed == new.confirmed:
            new = msgspec.structs.replace(
                new, first=before.first, items_before=before.items_before, items=before.items + new.items
            )
            self.ranges[i - 1] = new
        else:
            self.ranges.insert(i, new)

    def unconfirmed(self) -> tuple[tuple[int, int], ...]:
        """(first, last) of the ranges the cloud has not heard of."""
        return tuple((r.first, r.last) for r in self.ranges if not r.confirmed)

    def confirm(self, first: int, last: int) -> None:
        """The cloud knows that ``first`` to ``last`` are gone. A range that has grown since is told again, whole."""
        for old in [r for r in self.ranges if not r.confirmed and r.first <= last and r.last >= first]:
            if first <= old.first and old.last <= last:
                self.ranges[self.ranges.index(old)] = msgspec.structs.replace(old, confirmed=True)
        self._forget_ranges()

    def _forget_ranges(self) -> None:
        self.ranges = [r for r in self.ranges if not r.confirmed or r.last > self.acknowledged_sequence]
