"""The bytes of a segment: its head, and records one after another. ``docs/reference/spool-format.md`` specifies them.

A record's head has a checksum of its own, so that its lengths can be trusted where its content cannot: a damaged record
is stepped over, and how much was in it is known. Every head tells the items stored before it, so that even a head that
is gone leaves no doubt about how much went with it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SEGMENT_MAGIC = b"OSG\x01"
RECORD_MAGIC = b"OSR\x01"
#: magic, stream number, spool id, first sequence, items before, checksum of all that.
_SEGMENT = struct.Struct("<4sB3xQQQI")
#: magic, stream number, sequence, items before, counter, items, bytes of state and payload, checksums of body and head.
_RECORD = struct.Struct("<4sB3xQQQIIIII")
SEGMENT_HEAD_BYTES = _SEGMENT.size
RECORD_HEAD_BYTES = _RECORD.size
_CHECKSUM_BYTES = 4

MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
MAX_STATE_BYTES = 1024 * 1024
_MAX_ITEMS = (1 << 32) - 1

Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class SegmentHead:
    """What a segment file begins with."""

    stream: int
    spool_id: int
    first_sequence: int
    items_before: int

    def encode(self) -> bytes:
        """The head's bytes."""
        raw = _SEGMENT.pack(SEGMENT_MAGIC, self.stream, self.spool_id, self.first_sequence, self.items_before, 0)
        return raw[:-_CHECKSUM_BYTES] + zlib.crc32(raw[:-_CHECKSUM_BYTES]).to_bytes(_CHECKSUM_BYTES, "little")

    @staticmethod
    def decode(raw: bytes) -> SegmentHead | None:
        """None when it is damaged."""
        if len(raw) < SEGMENT_HEAD_BYTES:
            return None
        raw = raw[:SEGMENT_HEAD_BYTES]
        magic, stream, spool_id, first, before, checksum = _SEGMENT.unpack(raw)
        if magic != SEGMENT_MAGIC or zlib.crc32(raw[:-_CHECKSUM_BYTES]) != checksum:
            return None
        return SegmentHead(stream, spool_id, first, before)


@dataclass(frozen=True, slots=True)
class Record:
    """Where a record lies and what its head tells."""

    offset: int
    stream: int
    sequence: int
    items_before: int
    counter: int
    items: int
    state_bytes: int
    payload_bytes: int
    checksum: int

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.offset + RECORD_HEAD_BYTES + self.state_bytes + self.payload_bytes

    @property
    def items_through(self) -> int:
        """Items stored in the stream up to and with this record."""
        return self.items_before + self.items


def encode_record(
    *, stream: int, sequence: int, items_before: int, counter: int, items: int, state: bytes, payload: bytes
) -> bytes:
    """Head, state and payload.

    Raises:
        ValueError: a part is larger than the format allows.
    """
    if len(payload) > MAX_PAYLOAD_BYTES or len(state) > MAX_STATE_BYTES or not 0 <= items <= _MAX_ITEMS:
        raise ValueError(f"record of {items} items, {len(payload)} bytes and {len(state)} bytes of state")
    checksum = zlib.crc32(payload, zlib.crc32(state))
    raw = _RECORD.pack(
        RECORD_MAGIC, stream, sequence, items_before, counter, items, len(state), len(payload), checksum, 0
    )[:-_CHECKSUM_BYTES]
    return b"".join((raw, zlib.crc32(raw).to_bytes(_CHECKSUM_BYTES, "little"), state, payload))


def decode_head(raw: bytes, offset: int) -> Record | None:
    """The record whose head ``raw`` begins with; None when that is damaged or none at all."""
    if len(raw) < RECORD_HEAD_BYTES or raw[:4] != RECORD_MAGIC:
        return None
    raw = raw[:RECORD_HEAD_BYTES]
    _, stream, sequence, before, counter, items, state, payload, checksum, own = _RECORD.unpack(raw)
    if zlib.crc32(raw[:-_CHECKSUM_BYTES]) != own or payload > MAX_PAYLOAD_BYTES or state > MAX_STATE_BYTES:
        return None
    return Record(offset, stream, sequence, before, counter, items, state, payload, checksum)


def split_body(record: Record, body: bytes) -> tuple[bytes, bytes] | None:
    """(state, payload), None when they are damaged or cut short."""
    if len(body) != record.state_bytes + record.payload_bytes or zlib.crc32(body) != record.checksum:
        return None
    return body[: record.state_bytes], body[record.state_bytes :]


def walk(read: Read, size: int, stream: int, after: int) -> Iterator[Record]:
    """The records of a segment of ``size`` bytes by their heads; what lies between sound heads is stepped over.

    Args:
        read: (offset, size) → bytes.
        size: of the file.
        stream: records of any other are not believed.
        after: sequences up to this are not believed either.
    """
    offset = SEGMENT_HEAD_BYTES
    while offset + RECORD_HEAD_BYTES <= size:
        record = decode_head(read(offset, RECORD_HEAD_BYTES), offset)
        if record is None or record.stream != stream or record.sequence <= after:
            offset = _next_magic(read, offset + 1, size)
            continue
        yield record
        after, offset = record.sequence, record.end


def _next_magic(read: Read, offset: int, size: int) -> int:
    """Where the next record may begin; ``size`` when nowhere."""
    chunk_bytes = 256 * 1024
    while offset < size:
        chunk = read(offset, chunk_bytes + len(RECORD_MAGIC) - 1)
        at = chunk.find(RECORD_MAGIC)
        if at >= 0:
            return offset + at
        offset += chunk_bytes
    return size
