"""The header of a delta file: what it is made from, what it makes, and one record per segment.

``docs/reference/delta-format.md`` is the law. Nothing but ``DeltaFormatError`` leaves the decoders, whatever the bytes,
and every number is checked against a limit before anything is allocated or read because of it.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

MAGIC = b"ORD"
FORMAT = 1
HASH_BYTES = 32
MIN_SEGMENT_BYTES = 4 * 1024
MAX_SEGMENT_BYTES = 2 * 1024 * 1024
DEFAULT_SEGMENT_BYTES = 1024 * 1024
MAX_SEGMENTS = 65_536
#: All windows of a segment together; what an applier holds of the base at a time.
MAX_REFERENCE_BYTES = 6 * 1024 * 1024
MAX_WINDOWS = 4096
#: What a payload may need besides one segment's length: the list of its windows.
MAX_WINDOW_LIST_BYTES = 32 * 1024

_FIXED = struct.Struct("<3sBIQ32sQ32sI")
_RECORD = struct.Struct("<BxxxI32s")
FIXED_BYTES = _FIXED.size
RECORD_BYTES = _RECORD.size


class DeltaFormatError(ValueError):
    """The bytes are no delta of this format: damaged, truncated, of a newer format, or beyond the limits."""


class Method(IntEnum):
    """How a segment of the result is made. The docs tell the payload of each."""

    ZERO = 0  # nothing but zeros
    RAW = 1  # the payload is the result
    ZSTD = 2  # a zstd frame
    COPY = 3  # windows of the base, one after another
    REFERENCE = 4  # a zstd frame whose dictionary is windows of the base
    PATCH = 5  # windows of the base with changed bytes and bytes in between


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRecord:
    """Where a segment comes from and goes to."""

    method: Method
    payload_offset: int  # in the delta file
    payload_bytes: int
    output_offset: int  # in the target
    output_bytes: int
    sha256: bytes  # of the output


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSegment:
    """What a builder tells of a segment; everything else follows from its place."""

    method: Method
    payload_bytes: int
    sha256: bytes


class DeltaHeader:
    """A header that has been checked. Segments are numbered from 0 and cover the target without gaps."""

    def __init__(self, content: bytes, delta_length: int) -> None:
        """Read one; ``content`` is exactly the header, ``delta_length`` the length of the whole file."""
        fixed = _read_fixed(content)
        self.segment_bytes, self.count = fixed.segment_bytes, fixed.count
        self.base_length, self.base_sha256 = fixed.base_length, fixed.base_sha256
        self.target_length, self.target_sha256 = fixed.target_length, fixed.target_sha256
        if len(content) != header_bytes(fixed.count):
            raise DeltaFormatError("header ends within its table")
        body, digest = content[:-HASH_BYTES], content[-HASH_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            raise DeltaFormatError("checksum of the header does not match")
        self._records = body[FIXED_BYTES:]
        self._offsets = array("Q", [len(content)])
        for i in range(fixed.count):
            self._offsets.append(self._offsets[-1] + self._check_record(i))
        if self._offsets[-1] != delta_length:
            raise DeltaFormatError(f"segments end at byte {self._offsets[-1]}, the file at {delta_length}")

    def __len__(self) -> int:
        return self.count

    def segment(self, index: int) -> SegmentRecord:
        """The record of a segment.

        Raises:
            IndexError: there is none of that number.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"segment {index} of {self.count}")
        method, payload_bytes, sha256 = _RECORD.unpack_from(self._records, index * RECORD_BYTES)
        return SegmentRecord(
            method=Method(method),
            payload_offset=self._offsets[index],
            payload_bytes=payload_bytes,
            output_offset=index * self.segment_bytes,
            output_bytes=self._output_bytes(index),
            sha256=sha256,
        )

    def _output_bytes(self, index: int) -> int:
        return min(self.segment_bytes, self.target_length - index * self.segment_bytes)

    def _check_record(self, index: int) -> int:
        at = index * RECORD_BYTES
        method, payload_bytes, _ = _RECORD.unpack_from(self._records, at)
        if method >= len(Method) or any(self._records[at + 1 : at + 4]):
            raise DeltaFormatError(f"segment {index}: no such method")
        most = self._output_bytes(index) + MAX_WINDOW_LIST_BYTES
        if payload_bytes > most or (method == Method.ZERO) != (payload_bytes == 0):
            raise DeltaFormatError(f"segment {index}: payload of {payload_bytes} bytes, at most {most}")
        return int(payload_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fixed:
    segment_bytes: int
    base_length: int
    base_sha256: bytes
    target_length: int
    target_sha256: bytes
    count: int


def _read_fixed(content: bytes) -> _Fixed:
    if content[: len(MAGIC)] != MAGIC[: len(content)] or not content:
        raise DeltaFormatError("not an Outrider delta")
    if len(content) < FIXED_BYTES:
        raise DeltaFormatError("delta ends within its header")
    _, version, segment_bytes, base_length, base, target_length, target, count = _FIXED.unpack_from(content)
    if version != FORMAT:
        raise DeltaFormatError(f"delta format {version}, this version reads {FORMAT}")
    if not is_segment_size(segment_bytes):
        raise DeltaFormatError(f"segments of {segment_bytes} bytes")
    if count > MAX_SEGMENTS or count != segments_of(target_length, segment_bytes):
        raise DeltaFormatError(f"{count} segments for a target of {target_length} bytes")
    if base_length > (1 << 63) - 1:
        raise DeltaFormatError(f"base of {base_length} bytes")
    return _Fixed(
        segment_bytes=segment_bytes,
        base_length=base_length,
        base_sha256=base,
        target_length=target_length,
        target_sha256=target,
        count=count,
    )


def is_segment_size(size: int) -> bool:
    """A power of two within the limits."""
    return MIN_SEGMENT_BYTES <= size <= MAX_SEGMENT_BYTES and size & (size - 1) == 0


def segments_of(target_length: int, segment_bytes: int) -> int:
    """How many segments a target has."""
    return -(-target_length // segment_bytes)


def header_bytes(count: int) -> int:
    """The length of the header of a delta with so many segments."""
    return FIXED_BYTES + count * RECORD_BYTES + HASH_BYTES


def header_length(prefix: bytes) -> int:
    """The length of the header, from the first ``FIXED_BYTES`` of the file.

    Raises:
        DeltaFormatError: no delta, of another format, or beyond the limits.
    """
    return header_bytes(_read_fixed(prefix).count)


def encode_header(
    *,
    segment_bytes: int,
    base_length: int,
    base_sha256: bytes,
    target_length: int,
    target_sha256: bytes,
    segments: Sequence[NewSegment],
) -> bytes:
    """The header of a file that goes on with the payloads of ``segments``, back to back.

    Raises:
        DeltaFormatError: what is told contradicts itself or is beyond the limits.
    """
    fixed = _FIXED.pack(
        MAGIC, FORMAT, segment_bytes, base_length, base_sha256, target_length, target_sha256, len(segments)
    )
    records = b"".join(_RECORD.pack(s.method, s.payload_bytes, s.sha256) for s in segments)
    content = fixed + records + hashlib.sha256(fixed + records).digest()
    DeltaHeader(content, len(content) + sum(s.payload_bytes for s in segments))
    return content
