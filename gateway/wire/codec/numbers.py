"""Integers as bytes: LEB128 varints for the directory, byte planes for the columns. Vectorised over whole batches.

Conventions: ``zigzag`` maps signed to unsigned with small magnitudes first; all arithmetic is modulo 2**64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gateway.wire.codec.errors import CodecError

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

_MAX_VARINT_BYTES = 10


def zigzag(values: I64) -> U64:
    """0, -1, 1, -2 … become 0, 1, 2, 3 …"""
    return ((values << np.int64(1)) ^ (values >> np.int64(63))).view(np.uint64)


def unzigzag(values: U64) -> I64:
    """The inverse of ``zigzag``."""
    sign: U64 = np.uint64(0) - (values & np.uint64(1))
    return ((values >> np.uint64(1)) ^ sign).view(np.int64)


def bit_length(values: U64) -> NDArray[np.uint8]:
    """Bits needed for each value; 0 for 0."""
    left = values.copy()
    bits = np.zeros(len(values), np.uint8)
    for step in (32, 16, 8, 4, 2, 1):
        large = left >= np.uint64(1 << step)
        bits[large] += np.uint8(step)
        left[large] >>= np.uint64(step)
    return bits + (left > 0).astype(np.uint8)


def segment_starts(counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """Where each of the consecutive segments of the given lengths begins."""
    return np.cumsum(counts, dtype=np.intp) - counts


def running_steps(values: I64) -> I64:
    """Each value as the difference to the one before it; the first to 0."""
    steps = values.copy()
    steps[1:] -= values[:-1]
    return steps


def positions(counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """0, 1, 2 … within each segment, for all segments one after another."""
    return np.arange(int(counts.sum()), dtype=np.intp) - np.repeat(segment_starts(counts), counts)


def pack_varints(values: U64) -> bytes:
    """LEB128 of each value, one after another."""
    if not len(values):
        return b""
    sizes = np.maximum((bit_length(values).astype(np.intp) + 6) // 7, 1)
    starts = segment_starts(sizes)
    out = np.empty(int(sizes.sum()), np.uint8)
    for i in range(int(sizes.max())):
        has = sizes > i
        byte = ((values[has] >> np.uint64(7 * i)) & np.uint64(0x7F)).astype(np.uint8)
        out[starts[has] + i] = byte | np.where(sizes[has] > i + 1, 0x80, 0).astype(np.uint8)
    return out.tobytes()


def unpack_varints(content: NDArray[np.uint8]) -> U64:
    """All varints in ``content``.

    Raises:
        CodecError: the last one has no end, or one is longer than 10 bytes or beyond 64 bits.
    """
    if not len(content):
        return np.zeros(0, np.uint64)
    ends = np.flatnonzero(content < 0x80)
    if not len(ends) or ends[-1] != len(content) - 1:
        raise CodecError("directory ends within a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    longest = int(sizes.max())
    if longest > _MAX_VARINT_BYTES or (longest == _MAX_VARINT_BYTES and (content[ends[sizes == longest]] > 1).any()):
        raise CodecError("number beyond 64 bits")
    values = np.zeros(len(ends), np.uint64)
    for i in range(longest):
        has = sizes > i
        values[has] |= (content[starts[has] + i] & 0x7F).astype(np.uint64) << np.uint64(7 * i)
    return values


def plane_widths(values: U64, counts: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Bytes that the largest value of each segment needs; no segment may be empty."""
    if not len(counts):
        return np.zeros(0, np.uint8)
    largest = np.maximum.reduceat(values, segment_starts(counts))
    return (bit_length(largest) + np.uint8(7)) // np.uint8(8)


def pack_planes(values: U64, counts: NDArray[np.intp], widths: NDArray[np.uint8]) -> bytes:
    """The lowest bytes of all segments, then the second bytes of those wider than one byte, and so on."""
    each = np.repeat(widths, counts)
    planes = []
    for i in range(int(widths.max(initial=0))):
        wide = each > i
        values, each = values[wide], each[wide]
        planes.append((values >> np.uint64(8 * i)).astype(np.uint8).tobytes())
    return b"".join(planes)


def planes_bytes(counts: NDArray[np.intp], widths: NDArray[np.uint8]) -> int:
    """How long ``pack_planes`` of such columns is."""
    return int(np.dot(counts, widths.astype(np.intp)))


def unpack_planes(content: NDArray[np.uint8], counts: NDArray[np.intp], widths: NDArray[np.uint8]) -> U64:
    """The inverse of ``pack_planes``; ``content`` has exactly ``planes_bytes`` bytes."""
    each = np.repeat(widths, counts)
    values = np.zeros(len(each), np.uint64)
    at = 0
    for i in range(int(widths.max(initial=0))):
        wide = np.flatnonzero(each > i)
        values[wide] |= content[at : at + len(wide)].astype(np.uint64) << np.uint64(8 * i)
        at += len(wide)
    return values


class Directory:
    """The numbers at the front of a body, taken one after another. Every take is checked against what is left."""

    def __init__(self, numbers: U64) -> None:
        self._numbers = numbers
        self._at = 0

    def array(self, count: int) -> U64:
        """The next ``count`` numbers.

        Raises:
            CodecError: fewer are left.
        """
        if count > len(self._numbers) - self._at:
            raise CodecError(f"directory names {count} entries and has {len(self._numbers) - self._at} left")
        self._at += count
        return self._numbers[self._at - count : self._at]

    def small(self, count: int, maximum: int, what: str) -> NDArray[np.intp]:
        """The next ``count`` numbers, none above ``maximum`` (which fits a signed word)."""
        values = self.array(count)
        if count and int(values.max()) > maximum:
            raise CodecError(f"{what} above {maximum}")
        return values.astype(np.intp)

    def one(self, maximum: int, what: str) -> int:
        """The next number."""
        return int(self.small(1, maximum, what)[0])

    def finish(self) -> None:
        """Raises ``CodecError`` when numbers are left over."""
        if self._at != len(self._numbers):
            raise CodecError(f"{len(self._numbers) - self._at} numbers too many in the directory")
