"""Where in the base a piece of the target may come from: an index of the base's blocks, looked up at every byte.

The base is cut into blocks of one size; a hash of each is kept in one sorted array of at most ``MAX_BLOCKS`` words, so
the index needs 32 MiB whatever the base's length: a longer base gets longer blocks. Blocks that only repeat one word
(zeros, padding) are left out: they are everywhere and say nothing. A hit is a hint; whoever uses it compares the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

MAX_BLOCKS = 1 << 22
MIN_BLOCK_BYTES = 64
_CHUNK_BYTES = 4 * 1024 * 1024
_WORD = 8
_TOP_BITS = 25
_FACTOR = 0x9E37_79B9_7F4A_7C15  # odd
_MIX = np.uint64(0xFF51_AFD7_ED55_8CCD)
_MODULUS = 1 << 64


def block_bytes_for(length: int) -> int:
    """The smallest power of two that keeps the index within its bounds."""
    size = MIN_BLOCK_BYTES
    while length // size > MAX_BLOCKS:
        size *= 2
    return size


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(_FACTOR, exponent, _MODULUS))


def _mix(hashes: U64) -> U64:
    """Spread what a sum of products leaves in the high bits over all that are kept."""
    mixed: U64 = (hashes ^ (hashes >> np.uint64(32))) * _MIX
    return mixed


class BaseIndex:
    """The index of one base."""

    def __init__(self, length: int, pieces: Iterator[bytes]) -> None:
        """Read the base once.

        Args:
            length: of the base, bytes.
            pieces: the base from its beginning, each but the last a multiple of ``block_bytes``.
        """
        self.block_bytes = block_bytes_for(length)
        blocks = length // self.block_bytes
        self._number_bits = np.uint64(max(blocks, 1).bit_length())
        self._number_mask = (np.uint64(1) << self._number_bits) - np.uint64(1)
        table = np.empty(blocks, np.uint64)
        filled = first = 0
        for piece in pieces:
            count = len(piece) // self.block_bytes
            hashes, useful = self._aligned(piece, count)
            entries = (hashes & ~self._number_mask) | np.arange(first, first + count, dtype=np.uint64)
            kept = entries[useful]
            table[filled : filled + len(kept)] = kept
            filled, first = filled + len(kept), first + count
        table = table[:filled]
        table.sort()
        self._table = table
        self._seen = np.zeros(
            1 << (_TOP_BITS - 3), np.uint8
        )  # one bit per value of a hash's first bits: most misses end here
        for at in range(0, filled, 1 << 18):
            top = table[at : at + (1 << 18)] >> np.uint64(64 - _TOP_BITS)
            np.bitwise_or.at(self._seen, top >> np.uint64(3), np.uint8(1) << (top & np.uint64(7)).astype(np.uint8))

    @property
    def memory_bytes(self) -> int:
        """What it holds."""
        return int(self._table.nbytes + self._seen.nbytes)

    def _aligned(self, piece: bytes, count: int) -> tuple[U64, NDArray[np.bool_]]:
        words = np.frombuffer(piece, "<u8", count * self.block_bytes // _WORD).reshape(count, self.block_bytes // _WORD)
        powers = np.array([_power(i) for i in range(self.block_bytes // _WORD)], np.uint64)
        return _mix(words @ powers), (words != words[:, :1]).any(axis=1)

    def _sliding(self, content: NDArray[np.uint8]) -> U64:
        """The hash of the block that begins at each byte."""
        count = len(content) - _WORD + 1
        hashes = np.empty(count, np.uint64)
        for shift in range(min(_WORD, count)):
            words = np.frombuffer(content[shift:].data, "<u8", (len(content) - shift) // _WORD)
            hashes[shift::_WORD] = words
        span = 1
        while span * _WORD < self.block_bytes:
            hashes = hashes[: -span * _WORD] + hashes[span * _WORD :] * _power(span)
            span *= 2
        return _mix(hashes)

    def hits(self, content: NDArray[np.uint8]) -> tuple[I64, I64]:
        """(places in ``content``, offsets in the base) where a block of the base may lie, by place."""
        nothing = np.zeros(0, np.int64)
        if len(content) < self.block_bytes or not len(self._table):
            return nothing, nothing
        hashes = self._sliding(content)
        top = hashes >> np.uint64(64 - _TOP_BITS)
        maybe = (self._seen[top >> np.uint64(3)] >> (top & np.uint64(7)).astype(np.uint8)) & np.uint8(1)
        places = np.flatnonzero(maybe)
        wanted = hashes[places] & ~self._number_mask
        found = np.searchsorted(self._table, wanted)
        found[found == len(self._table)] -= 1
        entries = self._table[found]
        same = (entries & ~self._number_mask) == wanted
        return places[same], (entries[same] & self._number_mask).astype(np.int64) * self.block_bytes


def index_file(read: Callable[[int, int], bytes], length: int, seen: Callable[[bytes], None]) -> BaseIndex:
    """The index of what ``read(offset, length)`` gives; ``seen`` gets every byte once, in order."""

    def pieces() -> Iterator[bytes]:
        for at in range(0, length, _CHUNK_BYTES):
            piece = read(at, min(_CHUNK_BYTES, length - at))
            seen(piece)
            yield piece

    return BaseIndex(length, pieces())
