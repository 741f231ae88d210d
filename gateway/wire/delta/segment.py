"""The payload of a segment: from bytes and windows of the base to the segment's content, and back.

No I/O: ``SegmentPlan`` says which windows of the base it needs, the caller reads them and gives them to ``output``.
The builder in the cloud checks each segment with this same code before it keeps it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import zstandard
from numpy.typing import NDArray

from gateway.wire.codec.errors import CodecError
from gateway.wire.codec.numbers import pack_varints, unpack_varints, unzigzag, zigzag
from gateway.wire.delta.header import (
    MAX_REFERENCE_BYTES,
    MAX_WINDOW_LIST_BYTES,
    MAX_WINDOWS,
    DeltaFormatError,
    Method,
    SegmentRecord,
)

I64: TypeAlias = NDArray[np.int64]
Bytes: TypeAlias = NDArray[np.uint8]

#: Methods whose payload begins with a list of windows.
WITH_WINDOWS = (Method.COPY, Method.REFERENCE, Method.PATCH)
#: A patch unpacked: its numbers, changed bytes and literal bytes, as a multiple of the segment's length.
PATCH_FACTOR = 3
#: A patch has at most one step for so many bytes of its segment.
MIN_STEP_BYTES = 32
_SLACK_BYTES = 64
_COUNT_BYTES = 4
_PARTS = 6
_PIECE_BYTES = 64 * 1024
_LAST_BYTE = 0x80  # bytes below end a varint


def _most_steps(length: int) -> int:
    """Steps of a patch that makes so many bytes."""
    return length // MIN_STEP_BYTES + 1


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the base."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """A payload whose window list has been checked against the base's length."""

    record: SegmentRecord
    windows: tuple[Window, ...]
    body: bytes

    @property
    def reference_bytes(self) -> int:
        """All windows together."""
        return sum(w.length for w in self.windows)


def plan_segment(record: SegmentRecord, payload: bytes, base_length: int) -> SegmentPlan:
    """Read what a payload needs.

    Raises:
        DeltaFormatError: damaged, or it asks for more than the limits or the base allow.
    """
    if len(payload) != record.payload_bytes:
        raise DeltaFormatError("payload ends early")
    if record.method not in WITH_WINDOWS:
        return SegmentPlan(record, (), payload)
    windows, start = _decode_windows(payload, record.output_offset, base_length)
    if record.method is Method.COPY and (
        start != len(payload) or sum(w.length for w in windows) != record.output_bytes
    ):
        raise DeltaFormatError("copied windows are not as long as the segment")
    return SegmentPlan(record, windows, payload[start:])


def output(plan: SegmentPlan, reference: bytes | bytearray) -> bytes:
    """The segment's content, proved by its SHA-256.

    Args:
        plan: of ``plan_segment``.
        reference: the windows of the base, one after another.

    Raises:
        DeltaFormatError: damaged, or the base is not the one it was made from.
    """
    record = plan.record
    if len(reference) != plan.reference_bytes:
        raise DeltaFormatError("the base ends within a window")
    match record.method:
        case Method.ZERO:
            content = bytes(record.output_bytes)
        case Method.RAW:
            content = plan.body
        case Method.COPY:
            content = bytes(reference)
        case Method.ZSTD | Method.REFERENCE:
            content = _unpack(plan.body, record.output_bytes, record.output_bytes, reference)
        case Method.PATCH:
            body = _unpack(plan.body, 0, PATCH_FACTOR * record.output_bytes + _SLACK_BYTES)
            content = _apply_patch(np.frombuffer(body, np.uint8), reference, record.output_bytes)
    if len(content) != record.output_bytes or hashlib.sha256(content).digest() != record.sha256:
        raise DeltaFormatError("the content of the segment does not match its SHA-256")
    return content


def encode_windows(windows: Sequence[Window], output_offset: int) -> bytes:
    """The list that a payload begins with.

    Raises:
        DeltaFormatError: more windows or bytes than the format allows.
    """
    numbers = np.zeros((len(windows), 2), np.int64)
    at = output_offset
    for i, window in enumerate(windows):
        numbers[i] = window.offset - at, window.length
        at = window.offset + window.length
    packed = numbers.view(np.uint64)
    packed[:, 0] = zigzag(numbers[:, 0].copy())
    content = pack_varints(packed.ravel())
    if len(windows) > MAX_WINDOWS or sum(w.length for w in windows) > MAX_REFERENCE_BYTES:
        raise DeltaFormatError("too many windows")
    if len(content) + _COUNT_BYTES > MAX_WINDOW_LIST_BYTES:
        raise DeltaFormatError("list of windows is too long")
    return len(content).to_bytes(_COUNT_BYTES, "little") + content


def _decode_windows(payload: bytes, at: int, base_length: int) -> tuple[tuple[Window, ...], int]:
    """(windows, where the body begins)."""
    end = _COUNT_BYTES + int.from_bytes(payload[:_COUNT_BYTES], "little")
    if len(payload) < _COUNT_BYTES or end > min(len(payload), MAX_WINDOW_LIST_BYTES):
        raise DeltaFormatError("list of windows is too long")
    numbers = _numbers(np.frombuffer(payload[_COUNT_BYTES:end], np.uint8), 2 * MAX_WINDOWS)
    if len(numbers) % 2:
        raise DeltaFormatError("list of windows ends within a window")
    steps = unzigzag(numbers[0::2]).tolist()
    windows, total = [], 0
    for step, length in zip(steps, numbers[1::2].tolist(), strict=True):
        offset = at + step
        total += length
        if not length or total > MAX_REFERENCE_BYTES or offset < 0 or offset + length > base_length:
            raise DeltaFormatError("window is empty, too long or outside of the base")
        windows.append(Window(offset, length))
        at = offset + length
    return tuple(windows), end


def _numbers(content: Bytes, most: int) -> NDArray[np.uint64]:
    """At most so many varints; counted before there is an array for them."""
    if int(np.count_nonzero(content < _LAST_BYTE)) > most:
        raise DeltaFormatError(f"more than {most} numbers")
    try:
        return unpack_varints(content)
    except CodecError as error:
        raise DeltaFormatError(f"numbers: {error}") from error


def _unpack(frame: bytes, least: int, most: int, dictionary: bytes | bytearray = b"") -> bytes:
    """A zstd frame that tells a content size within bounds."""
    try:
        size = zstandard.frame_content_size(frame)
        if not least <= size <= most:
            raise DeltaFormatError(f"frame of {size} bytes unpacked, {least} to {most} are right")
        window = zstandard.get_frame_parameters(frame).window_size
        if window > max(size, 1024):
            raise DeltaFormatError(f"frame with a window of {window} bytes for {size}")
        known = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        unpacker = zstandard.ZstdDecompressor(dict_data=known) if dictionary else zstandard.ZstdDecompressor()
        return unpacker.decompress(frame, read_across_frames=False, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise DeltaFormatError(f"frame: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """How to make a segment out of its reference.

    Each step is ``copies[i]`` bytes of the reference, from where the step before ended plus ``seeks[i]``, then
    ``literals[i]`` bytes of ``literal``. Of all copied bytes, one after another, those at ``changed`` are
    ``differences`` larger, modulo 256.
    """

    copies: I64
    literals: I64
    seeks: I64
    literal: bytes
    changed: I64
    differences: bytes


def encode_patch(patch: Patch) -> bytes:
    """The content of a patch's frame, to be compressed."""
    gaps = patch.changed.copy()
    gaps[1:] -= patch.changed[:-1] + 1
    parts = [
        pack_varints(patch.copies.view(np.uint64)),
        pack_varints(patch.literals.view(np.uint64)),
        pack_varints(zigzag(patch.seeks)),
        pack_varints(gaps.view(np.uint64)),
        patch.differences,
        patch.literal,
    ]
    return b"".join(len(p).to_bytes(_COUNT_BYTES, "little") for p in parts) + b"".join(parts)


def _split(body: Bytes) -> list[Bytes]:
    head = _COUNT_BYTES * _PARTS
    if len(body) < head:
        raise DeltaFormatError("patch ends within its lengths")
    sizes = body[:head].view("<u4").astype(np.int64)
    if int(sizes.sum()) != len(body) - head:
        raise DeltaFormatError("parts of the patch are not as long as the patch")
    return np.split(body[head:], np.cumsum(sizes)[:-1])


def _lengths(content: Bytes, length: int) -> I64:
    numbers = _numbers(content, _most_steps(length))
    if len(numbers) and int(numbers.max()) > length:
        raise DeltaFormatError("number in the patch is too large")
    return numbers.astype(np.int64)


def _seeks(content: Bytes, length: int) -> I64:
    seeks = unzigzag(_numbers(content, _most_steps(length)))
    if len(seeks) and not -MAX_REFERENCE_BYTES <= int(seeks.min()) <= int(seeks.max()) <= MAX_REFERENCE_BYTES:
        raise DeltaFormatError("number in the patch is too large")
    return seeks


def _apply_patch(body: Bytes, reference: bytes | bytearray, length: int) -> bytes:
    parts = _split(body)
    copies, literals, seeks = _lengths(parts[0], length), _lengths(parts[1], length), _seeks(parts[2], length)
    if not len(copies) == len(literals) == len(seeks):
        raise DeltaFormatError("columns of the patch are of different lengths")
    copied = int(copies.sum())
    if copied + int(literals.sum()) != length or int(literals.sum()) != len(parts[5]):
        raise DeltaFormatError("the patch makes more or less than the segment")
    sources = np.cumsum(seeks) + np.cumsum(copies) - copies
    if len(sources) and (int(sources.min()) < 0 or int((sources + copies).max()) > len(reference)):
        raise DeltaFormatError("the patch reads outside of its windows")
    plain = _gather(np.frombuffer(reference, np.uint8), sources, copies, copied)
    _change(plain, parts[3], parts[4])
    return _interleave(plain, parts[5], copies, literals, length) if len(parts[5]) else plain.tobytes()


def _change(plain: Bytes, gaps: Bytes, differences: Bytes) -> None:
    """Add the differences at their places. In pieces: places take eight times the memory of the bytes they are of."""
    at, done, end = -1, 0, 0
    while end < len(gaps):
        start, end = end, min(end + _PIECE_BYTES, len(gaps))
        while end < len(gaps) and gaps[end - 1] >= _LAST_BYTE:
            end += 1
        steps = _numbers(gaps[start:end], len(differences) - done)
        if len(steps) and int(steps.max()) > len(plain):
            raise DeltaFormatError("number in the patch is too large")
        places = at + np.cumsum(steps.astype(np.int64) + 1)
        at = int(places[-1])
        if at >= len(plain):
            raise DeltaFormatError("the patch changes bytes after its end")
        plain[places] += differences[done : done + len(places)]
        done += len(places)
    if done != len(differences):
        raise DeltaFormatError("columns of the patch are of different lengths")


def _gather(reference: Bytes, sources: I64, copies: I64, total: int) -> Bytes:
    plain = np.empty(total, np.uint8)
    at = 0
    for source, size in zip(sources.tolist(), copies.tolist(), strict=True):
        plain[at : at + size] = reference[source : source + size]
        at += size
    return plain


def _interleave(plain: Bytes, literal: Bytes, copies: I64, literals: I64, length: int) -> bytes:
    content = np.empty(length, np.uint8)
    at = plain_at = literal_at = 0
    for copy, new in zip(copies.tolist(), literals.tolist(), strict=True):
        content[at : at + copy] = plain[plain_at : plain_at + copy]
        at, plain_at = at + copy, plain_at + copy
        content[at : at + new] = literal[literal_at : literal_at + new]
        at, literal_at = at + new, literal_at + new
    return content.tobytes()
