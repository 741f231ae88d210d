"""The container: magic, format, header with its checksum, zstd body. ``docs/reference/wire-format.md`` is the law.

Nothing but ``CodecError`` leaves ``read_header`` and ``decode_batch``, whatever the bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from dbc.frames import FrameBatch
from gateway.wire.batch import Batch, BatchHeader
from gateway.wire.codec.canonical import canonical_events
from gateway.wire.codec.errors import MAX_ITEMS, CodecError, Limits
from gateway.wire.codec.frame_columns import check_frames, decode_frames, encode_frames, read_frame_directory
from gateway.wire.codec.numbers import (
    U64,
    Directory,
    pack_planes,
    pack_varints,
    planes_bytes,
    unpack_planes,
    unpack_varints,
)
from gateway.wire.codec.sample_columns import check_block, drop_unused_rows, encode_samples
from gateway.wire.codec.sample_reading import decode_samples, read_sample_directory
from gateway.wire.codec.times import Scale
from gateway.wire.samples import Event, SampleBlock

MAGIC = b"ORB"
FORMAT = 1
LEVEL = 9
HASH_BYTES = 32
MAX_HEADER_BYTES = 64 * 1024
MAX_RESOLUTION_NS = 3_600_000_000_000

_PREFIX_BYTES = len(MAGIC) + 1 + 2
_CRC_BYTES = 4
_MAX_I64 = (1 << 63) - 1
_DEFAULT_LIMITS = Limits()


def encode_batch(
    *,
    stream: str,
    sequence: int,
    items_before: int,
    manifest_hash: bytes,
    created_ns: int,
    resolution_ns: int = 1_000_000,
    schemes: Sequence[tuple[str, int]] = (),
    samples: SampleBlock | None = None,
    frames: FrameBatch | None = None,
    events: Sequence[Event] = (),
    level: int = LEVEL,
) -> bytes:
    """One batch as bytes; ``decode_batch`` gives the content back in its canonical form.

    Args:
        stream: ``<spool id>/<stream name>``.
        sequence: from 1.
        items_before: items in all earlier batches of the stream.
        manifest_hash: 32 bytes.
        created_ns: UTC.
        resolution_ns: times are floored to multiples of this.
        schemes: (id, version) of the schemes that contributed.
        samples: rows without samples are left out.
        frames: raw frames.
        events: in the order in which they are to arrive.
        level: zstd's, 1 to 19.

    Raises:
        ValueError: the content contradicts itself, or has more than ``MAX_ITEMS`` items.
    """
    block = samples if samples is not None else SampleBlock.empty()
    raw_frames = frames if frames is not None else FrameBatch.empty()
    check_block(block)
    check_frames(raw_frames)
    if not 1 <= resolution_ns <= MAX_RESOLUTION_NS:
        raise ValueError(f"resolution of {resolution_ns} ns")
    block = drop_unused_rows(block)
    known = canonical_events(events, resolution_ns)
    extremes = [t for t in (block.row_timestamp_ns, raw_frames.timestamp_ns) if len(t)]
    times_ns = [int(f(t)) for t in extremes for f in (np.min, np.max)] + [e.timestamp_ns for e in known]
    first_tick = min(times_ns, default=created_ns) // resolution_ns
    last_tick = max(times_ns, default=created_ns) // resolution_ns
    header = BatchHeader(
        stream=stream,
        sequence=sequence,
        items=len(block) + len(raw_frames) + len(known),
        items_before=items_before,
        manifest_hash=manifest_hash,
        created_ns=created_ns,
        first_ns=first_tick * resolution_ns,
        last_ns=last_tick * resolution_ns,
        resolution_ns=resolution_ns,
        samples=len(block),
        frames=len(raw_frames),
        events=len(known),
        schemes=tuple((str(name), int(version)) for name, version in schemes),
    )
    if header.items > MAX_ITEMS:
        raise ValueError(f"{header.items} items, a batch holds at most {MAX_ITEMS}")
    problem = _header_problem(header)
    if problem:
        raise ValueError(problem)
    body = _encode_body(block, raw_frames, known, Scale(first_tick, resolution_ns))
    return _wrap(header, zstandard.ZstdCompressor(level=level, write_checksum=True).compress(body))


def _encode_body(block: SampleBlock, frames: FrameBatch, events: tuple[Event, ...], scale: Scale) -> bytes:
    sample_part = encode_samples(block, scale.ticks(block.row_timestamp_ns))
    frame_part = encode_frames(frames, scale.ticks(frames.timestamp_ns))
    columns = [*sample_part.columns, frame_part.times]
    numbers = pack_varints(np.concatenate([*sample_part.directory, *frame_part.directory]))
    planes = pack_planes(
        np.concatenate([c.values for c in columns]),
        np.concatenate([c.counts for c in columns]),
        np.concatenate([c.widths for c in columns]),
    )
    told = msgspec.msgpack.encode(events) if events else b""
    return b"".join((len(numbers).to_bytes(4, "little"), numbers, planes, frame_part.payload, told))


def _wrap(header: BatchHeader, body: bytes) -> bytes:
    encoded = msgspec.msgpack.encode(header)
    if len(encoded) > MAX_HEADER_BYTES - 1:
        raise ValueError(f"header of {len(encoded)} bytes, too many schemes or too long names")
    prefix = MAGIC + bytes((FORMAT,)) + len(encoded).to_bytes(2, "little") + encoded
    return prefix + zlib.crc32(prefix).to_bytes(4, "little") + body


def _header_problem(header: BatchHeader) -> str:
    """What is wrong with a header, "" when nothing is."""
    counts = (header.items, header.items_before, header.samples, header.frames, header.events)
    times = (header.created_ns, header.first_ns, header.last_ns)
    if not 1 <= header.sequence <= _MAX_I64 or any(not 0 <= c <= _MAX_I64 for c in counts):
        return "sequence or count out of range"
    if any(not -_MAX_I64 <= t <= _MAX_I64 for t in times):
        return "time out of range"
    if header.items != header.samples + header.frames + header.events:
        return "items are not the sum of samples, frames and events"
    if len(header.manifest_hash) != HASH_BYTES:
        return f"manifest hash of {len(header.manifest_hash)} bytes"
    if not 1 <= header.resolution_ns <= MAX_RESOLUTION_NS:
        return f"resolution of {header.resolution_ns} ns"
    if header.first_ns > header.last_ns or header.first_ns % header.resolution_ns:
        return "first time is after the last, or no multiple of the resolution"
    return ""


def _split(content: bytes) -> tuple[BatchHeader, int]:
    """(header, where the body begins)."""
    if content[: len(MAGIC)] != MAGIC:
        raise CodecError("not an Outrider batch")
    if len(content) < _PREFIX_BYTES:
        raise CodecError("batch ends within its header")
    if content[len(MAGIC)] != FORMAT:
        raise CodecError(f"batch format {content[len(MAGIC)]}, this version reads {FORMAT}")
    end = _PREFIX_BYTES + int.from_bytes(content[len(MAGIC) + 1 : _PREFIX_BYTES], "little")
    if len(content) < end + _CRC_BYTES:
        raise CodecError("batch ends within its header")
    if zlib.crc32(content[:end]) != int.from_bytes(content[end : end + _CRC_BYTES], "little"):
        raise CodecError("checksum of the header does not match")
    try:
        header = msgspec.msgpack.decode(content[_PREFIX_BYTES:end], type=BatchHeader)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"header: {error}") from error
    problem = _header_problem(header)
    if problem:
        raise CodecError(f"header: {problem}")
    return header, end + _CRC_BYTES


def read_header(content: bytes) -> BatchHeader:
    """The header, checked by its own checksum, without looking at the body.

    Raises:
        CodecError: no batch, another format, or damaged.
    """
    return _split(content)[0]


def decode_batch(content: bytes, limits: Limits = _DEFAULT_LIMITS) -> Batch:
    """The whole batch, in canonical order.

    Raises:
        CodecError: damaged, of another format, or beyond ``limits``.
    """
    if len(content) > limits.max_bytes:
        raise CodecError(f"batch of {len(content)} bytes, at most {limits.max_bytes} are accepted")
    header, start = _split(content)
    if header.items > limits.max_items:
        raise CodecError(f"batch of {header.items} items, at most {limits.max_items} are accepted")
    return _decode_body(header, _unpack(content[start:], limits.max_unpacked_bytes))


def _unpack(body: bytes, max_unpacked_bytes: int) -> NDArray[np.uint8]:
    try:
        parameters = zstandard.get_frame_parameters(body)
        size = zstandard.frame_content_size(body)
        if size < 0 or not parameters.has_checksum:
            raise CodecError("body does not tell its size or has no checksum")
        if size > max_unpacked_bytes:
            raise CodecError(f"body of {size} bytes unpacked, at most {max_unpacked_bytes} are accepted")
        plain = zstandard.ZstdDecompressor().decompress(body, read_across_frames=False, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise CodecError(f"body: {error}") from error
    return np.frombuffer(plain, np.uint8)


def _decode_body(header: BatchHeader, body: NDArray[np.uint8]) -> Batch:
    if len(body) < 4:
        raise CodecError("body ends within its directory")
    at = 4 + int.from_bytes(body[:4].tobytes(), "little")
    if at > len(body):
        raise CodecError("body ends within its directory")
    directory = Directory(unpack_varints(body[4:at]))
    sample_shape = read_sample_directory(directory, header.samples)
    frame_shape = read_frame_directory(directory, header.frames)
    directory.finish()
    shapes = [*sample_shape.shapes(), (frame_shape.times.counts, frame_shape.times.width)]
    counts, widths = np.concatenate([c for c, _ in shapes]), np.concatenate([w for _, w in shapes])
    planes_end = at + planes_bytes(counts, widths)
    payload_end = planes_end + frame_shape.payload_bytes
    if payload_end > len(body):
        raise CodecError("body ends within its columns")
    values = unpack_planes(body[at:planes_end], counts, widths)
    *sample_columns, frame_times = _cut(values, [int(c.sum()) for c, _ in shapes])
    scale = Scale(header.first_ns // header.resolution_ns, header.resolution_ns)
    batch = Batch(
        header=header,
        samples=decode_samples(sample_shape, sample_columns, scale),
        frames=decode_frames(frame_shape, frame_times, body[planes_end:payload_end], scale),
        events=_decode_events(body[payload_end:].tobytes(), header.events),
    )
    _check_times(batch)
    return batch


def _cut(values: U64, sizes: list[int]) -> list[U64]:
    ends = np.cumsum(sizes)
    return np.split(values, ends[:-1])


def _decode_events(content: bytes, count: int) -> tuple[Event, ...]:
    if not count:
        if content:
            raise CodecError("bytes after the end of the body")
        return ()
    try:
        events = msgspec.msgpack.decode(content, type=tuple[Event, ...])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"events: {error}") from error
    if len(events) != count:
        raise CodecError("events and header disagree about their number")
    return events


def _check_times(batch: Batch) -> None:
    """The header tells the truth about first and last time, or nothing was there to tell it of."""
    header = batch.header
    times = [t for t in (batch.samples.row_timestamp_ns, batch.frames.timestamp_ns) if len(t)]
    bounds = [int(f(t)) for t in times for f in (np.min, np.max)] + [e.timestamp_ns for e in batch.events]
    if bounds and (min(bounds) != header.first_ns or max(bounds) != header.last_ns):
        raise CodecError("header and content disagree about the first or last time")
