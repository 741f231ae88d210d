"""Raw frames as columns: per bus, identifier, flags and length one time column and one column per payload byte.

A payload byte travels as its difference to the same byte of the frame before, modulo 256.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbc.frames import MAX_LENGTH, REMOTE, FrameBatch
from gateway.wire.codec.errors import CodecError
from gateway.wire.codec.numbers import I64, U64, Directory, running_steps, segment_starts, unzigzag, zigzag
from gateway.wire.codec.sample_columns import Planes
from gateway.wire.codec.times import Scale, TimeDirectory, encode_times

Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedFrames:
    """The frame part of a body."""

    directory: list[U64]
    times: Planes
    payload: bytes


def frame_key(frames: FrameBatch) -> NDArray[np.uint64]:
    """Bus, identifier, flags and length as one number that orders the columns."""
    key: U64 = frames.bus.astype(np.uint64) << np.uint64(48)
    key |= frames.can_id.astype(np.uint64) << np.uint64(16)
    key |= frames.flags.astype(np.uint64) << np.uint64(8)
    key |= frames.length.astype(np.uint64)
    return key


def payload_bytes(flags: NDArray[np.uint8], length: NDArray[np.uint8]) -> Index:
    """Payload bytes that travel; a remote frame's length asks for some and has none."""
    return np.where((flags & REMOTE) > 0, 0, length).astype(np.intp)


def check_frames(frames: FrameBatch) -> None:
    """Raises ``ValueError`` for a batch that contradicts itself."""
    arrays = (frames.bus, frames.can_id, frames.flags, frames.length, frames.data)
    if any(len(a) != len(frames) for a in arrays) or frames.data.shape[1:] != (MAX_LENGTH,):
        raise ValueError("arrays of a frame batch differ in length")
    if len(frames) and frames.length.max() > MAX_LENGTH:
        raise ValueError(f"frame of more than {MAX_LENGTH} bytes")


def encode_frames(frames: FrameBatch, ticks: I64) -> EncodedFrames:
    """Columns of checked frames; ``ticks`` are their times relative to the batch's first."""
    if not len(frames):
        none = np.zeros(0, np.intp)
        return EncodedFrames([np.zeros(1, np.uint64)], Planes(none.astype(np.uint64), none, none.astype(np.uint8)), b"")
    key = frame_key(frames)
    order = np.lexsort((ticks, key))
    ordered = frames.take(order)
    starts = np.flatnonzero(np.diff(key[order], prepend=np.uint64(0xFFFFFFFFFFFFFFFF)))
    counts = np.diff(np.append(starts, len(order))).astype(np.intp)
    times = encode_times(ticks[order], counts)
    size = payload_bytes(ordered.flags[starts], ordered.length[starts])
    step = ordered.data.copy()
    step[1:] -= ordered.data[:-1]
    step[starts] = ordered.data[starts]
    payload = b"".join(
        np.ascontiguousarray(step[first : first + count, :width].T).tobytes()
        for first, count, width in zip(starts.tolist(), counts.tolist(), size.tolist(), strict=True)
    )
    directory = [
        np.array([len(starts)], np.uint64),
        zigzag(running_steps(ordered.bus[starts].astype(np.int64))),
        zigzag(running_steps(ordered.can_id[starts].astype(np.int64))),
        ordered.flags[starts].astype(np.uint64),
        ordered.length[starts].astype(np.uint64),
        counts.astype(np.uint64),
        *times.directory(),
    ]
    return EncodedFrames(directory, Planes(times.rest, counts, times.width), payload)


@dataclass(frozen=True, slots=True, eq=False)
class FrameDirectory:
    """What the directory tells of the frames; counts checked against the header's."""

    bus: NDArray[np.uint8]
    can_id: NDArray[np.uint32]
    flags: NDArray[np.uint8]
    length: NDArray[np.uint8]
    times: TimeDirectory

    @property
    def payload_bytes(self) -> int:
        """How many bytes of payload follow the planes."""
        return int(np.dot(payload_bytes(self.flags, self.length), self.times.counts))


def _running(directory: Directory, count: int, maximum: int, what: str) -> NDArray[np.int64]:
    """Numbers told as differences to the one before, each within 0..maximum."""
    step = unzigzag(directory.array(count))
    if count and (step.min() < -maximum or step.max() > maximum):
        raise CodecError(f"{what} out of range")
    values = np.cumsum(step)
    if count and (values.min() < 0 or values.max() > maximum):
        raise CodecError(f"{what} out of range")
    return values


def read_frame_directory(directory: Directory, frames: int) -> FrameDirectory:
    """Take the frame part of the directory of a batch whose header tells of ``frames`` frames."""
    groups = directory.one(frames, "number of frame columns")
    bus = _running(directory, groups, 0xFF, "bus").astype(np.uint8)
    can_id = _running(directory, groups, 0xFFFFFFFF, "identifier").astype(np.uint32)
    flags = directory.small(groups, 0xFF, "flags").astype(np.uint8)
    length = directory.small(groups, MAX_LENGTH, "length").astype(np.uint8)
    counts = directory.small(groups, frames, "number of frames")
    if int(counts.sum()) != frames or (groups and counts.min() < 1):
        raise CodecError("columns and header disagree about the number of frames")
    return FrameDirectory(bus, can_id, flags, length, TimeDirectory.read(directory, counts))


def decode_frames(shape: FrameDirectory, rest: U64, payload: NDArray[np.uint8], scale: Scale) -> FrameBatch:
    """The frames in canonical order; ``payload`` has exactly ``shape.payload_bytes`` bytes."""
    counts = shape.times.counts
    ticks = shape.times.decode(rest)
    frames = FrameBatch.empty(len(ticks))
    sizes = payload_bytes(shape.flags, shape.length)
    at = 0
    for first, count, size in zip(segment_starts(counts).tolist(), counts.tolist(), sizes.tolist(), strict=True):
        steps = payload[at : at + count * size].reshape(size, count)
        frames.data[first : first + count, :size] = np.cumsum(steps, axis=1, dtype=np.uint8).T
        at += count * size
    frames.bus[:] = np.repeat(shape.bus, counts)
    frames.can_id[:] = np.repeat(shape.can_id, counts)
    frames.flags[:] = np.repeat(shape.flags, counts)
    frames.length[:] = np.repeat(shape.length, counts)
    frames.timestamp_ns[:] = scale.timestamps(ticks)
    key = frame_key(frames)
    return frames.take(np.lexsort((key, ticks)))
