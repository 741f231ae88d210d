"""From the files of a spool, whatever state they are in, to its streams. Nothing here raises on damaged content.

Theory of operation. Three sources tell of a sequence: a sound record, an evicted range of the accounts, and the
acknowledged sequence. What none of them explains although later ones prove that it existed is a hole, and becomes an
evicted range; the items in it follow from the counts in the heads around it. A record at the end of the newest segment
that the file is too short for was never durable, hence never sent: it is cut off and its number used again. Anything
else that cannot be read at the end may have been durable once: its numbers are not used again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from gateway.spool.accounts import Accounts, EvictedRange
from gateway.spool.ports import Disk
from gateway.spool.record import (
    RECORD_HEAD_BYTES,
    SEGMENT_HEAD_BYTES,
    Record,
    SegmentHead,
    split_body,
    walk,
)
from gateway.spool.stream import Segment, Stream
from gateway.wire.batch import STREAMS

SUFFIX = ".seg"


@dataclass(slots=True)
class Recovered:
    """What was found."""

    streams: dict[str, Stream]
    spool_id: int | None
    damaged_items: int = 0  # pending once, unreadable now
    cut_bytes: int = 0
    useless: list[str] = field(default_factory=list)  # files with nothing in them that counts


def segment_name(stream: str, first_sequence: int) -> str:
    """The file of the segment that begins with a sequence."""
    return f"{stream}-{first_sequence:016d}{SUFFIX}"


def parse_name(name: str) -> tuple[str, int] | None:
    """(stream, first sequence) of a segment's file name."""
    stem = name.removesuffix(SUFFIX)
    stream, _, first = stem.rpartition("-")
    if stem == name or stream not in STREAMS or not (first.isascii() and first.isdigit() and len(first) <= 19):
        return None
    return stream, int(first)


def recover(disk: Disk, accounts: Accounts | None) -> Recovered:
    """Read all heads, and all of each stream's newest segment; cut off torn tails durably."""
    told = {a.stream: a for a in accounts.streams} if accounts else {}
    files: dict[str, list[tuple[int, str]]] = {name: [] for name in STREAMS}
    for name in disk.names():
        parsed = parse_name(name)
        if parsed:
            files[parsed[0]].append((parsed[1], name))
    result = Recovered({}, accounts.spool_id if accounts else None)
    for number, stream_name in enumerate(STREAMS):
        stream = Stream(stream_name, number, told.get(stream_name))
        result.streams[stream_name] = stream
        burnt = _read_segments(disk, stream, [name for _, name in sorted(files[stream_name])], result)
        _explain(stream, result)
        stream.skip_to(stream.last_sequence + burnt)
    return result


def _read_segments(disk: Disk, stream: Stream, names: list[str], result: Recovered) -> int:
    """Fill in the stream's segments. Returns how many numbers may have been used without a trace."""
    after = burnt = 0
    for name in names:
        segment = Segment(name, _first_of(name), size=disk.size(name))
        head = SegmentHead.decode(disk.read(name, 0, SEGMENT_HEAD_BYTES))
        if head is not None and head.stream == stream.number:
            result.spool_id = result.spool_id or head.spool_id
            stream.last_sequence = max(stream.last_sequence, head.first_sequence - 1)
            stream.stored = max(stream.stored, head.items_before)
        found = list(walk(partial(disk.read, name), segment.size, stream.number, after))
        if name == names[-1]:
            found, burnt = _mend_tail(disk, segment, found, result)
            found_sound = [r for r in found if _is_sound(disk, name, r)]
        else:
            found_sound = [r for r in found if r.end <= segment.size]
        for record in found:
            after = record.sequence
            stream.last_sequence = max(stream.last_sequence, record.sequence)
            stream.stored = max(stream.stored, record.items_through)
        gone = stream.ranges
        segment.records = [r for r in found_sound if not any(g.first <= r.sequence <= g.last for g in gone)]
        if segment.records:
            stream.segments.append(segment)
        else:
            result.useless.append(name)
    return burnt


def _first_of(name: str) -> int:
    parsed = parse_name(name)
    return parsed[1] if parsed else 0


def _is_sound(disk: Disk, name: str, record: Record) -> bool:
    body = disk.read(name, record.offset + RECORD_HEAD_BYTES, record.state_bytes + record.payload_bytes)
    return split_body(record, body) is not None


def _mend_tail(disk: Disk, segment: Segment, found: list[Record], result: Recovered) -> tuple[list[Record], int]:
    """Cut what follows the last whole record. Returns (whole records, numbers that may have been used for the rest)."""
    burnt = 0
    if found and found[-1].end > segment.size:
        end = found[-1].offset
        found = found[:-1]
    else:
        end = found[-1].end if found else min(SEGMENT_HEAD_BYTES, segment.size)
        rest = disk.read(segment.name, end, segment.size - end)
        if rest.strip(b"\0"):
            burnt = len(rest) // RECORD_HEAD_BYTES
    if end < segment.size:
        file = disk.open(segment.name)
        try:
            file.truncate(end)
            file.sync()
        finally:
            file.close()
        result.cut_bytes += segment.size - end
        segment.size = end
    return found, burnt


def _explain(stream: Stream, result: Recovered) -> None:
    """Count pending records, and evict what no source explains."""
    pieces = [(r.first, r.last, r.items_before, r.items_before + r.items) for r in stream.ranges]
    for segment in stream.segments:
        for record in stream.pending_in(segment):
            stream.pending += record.items
            stream.pending_bytes += record.payload_bytes
            pieces.append((record.sequence, record.sequence, record.items_before, record.items_through))
    position, through = stream.acknowledged_sequence, stream.acknowledged_through
    holes = []
    for first, last, items_before, items_through in sorted(pieces):
        if first > position + 1:
            holes.append(EvictedRange(position + 1, first - 1, through, max(0, items_before - through)))
        position, through = max(position, last), max(through, items_through)
    if position < stream.last_sequence:
        holes.append(EvictedRange(position + 1, stream.last_sequence, through, max(0, stream.stored - through)))
    for hole in holes:
        stream.add_range(hole)
        stream.evicted += hole.items
        result.damaged_items += hole.items
    # Heads that contradict each other cannot break the identity: what they leave unexplained is evicted too.
    unexplained = stream.stored - stream.acknowledged - stream.evicted - stream.pending
    stream.evicted += max(0, unexplained)
    stream.stored -= min(0, unexplained)
