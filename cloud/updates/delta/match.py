"""Which parts of a segment are in the base as they are, and where in the base the rest may have come from.

``find_matches`` gives long exact matches (they cost nothing further) and, for the gaps between them, the regions of the
base that look alike: those are what a patch or a dictionary is made of. Images move their files about, so the same
offset is only one of several guesses: the others are hits of the index, and what neighbours matched.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud.updates.delta.index import I64, BaseIndex
from gateway.wire.delta import Window

#: Bytes of the base from an offset.
ReadBase = Callable[[int, int], bytes]

EXACT_BYTES = 2048
PAD_BYTES = 16 * 1024
MIN_PAD_BYTES = 1024
#: How much of a segment is looked up at a time; what an extent then covers is skipped.
LOOK_BYTES = 32 * 1024
JOIN_BYTES = 8 * 1024
MAX_GUESSES = 4
_STEP_BYTES = 256 * 1024
_FIRST_BYTES = 4096
_NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Extent:
    """``length`` bytes of the segment from ``start`` on are those of the base from ``source`` on."""

    start: int
    length: int
    source: int

    @property
    def end(self) -> int:
        """Where in the segment it ends."""
        return self.start + self.length

    @property
    def shift(self) -> int:
        """From a place in the segment to its offset in the base."""
        return self.source - self.start


@dataclass(frozen=True, slots=True)
class Matches:
    """What is known about a segment. Extents and gaps do not overlap and are in order."""

    extents: tuple[Extent, ...]
    gaps: tuple[tuple[int, int], ...]  # (start, end) of what no extent covers
    alike: tuple[Window, ...]  # parts of the base that the gaps may come from; sorted, apart


def equal_prefix(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> int:
    """How many bytes are the same at the beginning."""
    size = min(len(left), len(right))
    differs = left[:size] != right[:size]
    first = int(differs.argmax()) if size else 0
    return first if size and differs[first] else size


class Matcher:
    """Finds what segments have in common with one base."""

    def __init__(self, read: ReadBase, length: int, index: BaseIndex) -> None:
        self._read, self._length, self._index = read, length, index

    def find(self, content: bytes, guesses: Sequence[int], most_alike_bytes: int) -> Matches:
        """What a segment has in common with the base.

        Args:
            content: of the segment.
            guesses: shifts (offset in the base less place in the segment) to be tried first.
            most_alike_bytes: of ``alike`` together.
        """
        guess = guesses[0] if guesses else -1
        if guess >= 0 and self._read(guess, len(content)) == content:
            return Matches((Extent(0, len(content), guess),), (), ())
        extents, places, offsets = self._extents(np.frombuffer(content, np.uint8), guesses)
        gaps = _gaps(extents, len(content))
        alike = self._alike(gaps, extents, places, offsets - places, guesses, most_alike_bytes)
        return Matches(tuple(extents), tuple(gaps), alike)

    def _forward(self, data: NDArray[np.uint8], place: int, offset: int) -> int:
        total, step = 0, _FIRST_BYTES
        while place + total < len(data) and offset + total < self._length:
            size = min(step, len(data) - place - total)
            piece = np.frombuffer(self._read(offset + total, size), np.uint8)
            same = equal_prefix(data[place + total : place + total + size], piece)
            total += same
            if same < size:
                break
            step = _STEP_BYTES
        return total

    def _backward(self, data: NDArray[np.uint8], place: int, offset: int, floor: int) -> int:
        total, step = 0, _FIRST_BYTES
        while place - total > floor and offset - total > 0:
            size = min(step, place - total - floor, offset - total)
            piece = np.frombuffer(self._read(offset - total - size, size), np.uint8)
            same = equal_prefix(data[place - total - size : place - total][::-1], piece[::-1])
            total += same
            if same < size:
                break
            step = _STEP_BYTES
        return total

    def _extents(self, data: NDArray[np.uint8], guesses: Sequence[int]) -> tuple[list[Extent], I64, I64]:
        """Greedy, from the left; each attempt begins at a guess or a hit and grows both ways.

        Returns:
            The extents, and places and offsets of all hits between them. What is covered is not looked up.
        """
        extents: list[Extent] = []
        places, offsets = [_NOTHING], [_NOTHING]
        at = 0
        for guess in guesses:
            if 0 <= guess < self._length and (same := self._forward(data, 0, guess)) >= EXACT_BYTES:
                extents.append(Extent(0, same, guess))
                at = same
                break
        while at < len(data):
            end = min(at + LOOK_BYTES, len(data))
            near, sources = self._index.hits(data[at : end + self._index.block_bytes - 1])
            places.append(near + at)
            offsets.append(sources)
            covered = extents[-1].end if extents else 0
            at = max(self._grown(data, places[-1].tolist(), sources.tolist(), covered, extents), end)
        return extents, np.concatenate(places), np.concatenate(offsets)

    def _grown(
        self, data: NDArray[np.uint8], places: list[int], offsets: list[int], at: int, extents: list[Extent]
    ) -> int:
        """Add the extents that grow from hits; where the last one ends."""
        number = 0
        while number < len(places):
            place, offset = places[number], offsets[number]
            forward = self._forward(data, place, offset)
            back = self._backward(data, place, offset, at) if forward else 0
            if forward + back >= EXACT_BYTES:
                extents.append(Extent(place - back, forward + back, offset - back))
                at = place + forward
            number = bisect.bisect_left(places, place + max(forward, 1), number + 1)
        return at

    def _alike(
        self,
        gaps: Sequence[tuple[int, int]],
        extents: Sequence[Extent],
        places: I64,
        shifts: I64,
        guesses: Sequence[int],
        most_bytes: int,
    ) -> tuple[Window, ...]:
        """Windows around what the hits of each gap point to, and where its neighbours would go on; best first."""
        wanted: list[tuple[int, int, int]] = []  # (votes, start, end)
        for start, end in gaps:
            low, high = np.searchsorted(places, (start, end))
            wanted += _voted(places[low:high], shifts[low:high])
            near = [e.shift for e in extents if start in (e.end, e.end + 1) or e.start == end] or list(guesses[:1])
            wanted += [(1, start + shift, end + shift) for shift in dict.fromkeys(near)]
        wanted.sort(reverse=True)
        chosen: list[tuple[int, int]] = []
        room = most_bytes
        for _, start, end in wanted:
            pad = min(max(end - start, MIN_PAD_BYTES), PAD_BYTES)
            low = max(start - pad, 0)
            high = min(end + pad, self._length, low + room)
            if high > low and not any(a <= low and high <= b for a, b in chosen):
                chosen.append((low, high))
                room -= high - low
            if room <= 0:
                break
        return merge(chosen, JOIN_BYTES)


def _gaps(extents: Sequence[Extent], length: int) -> list[tuple[int, int]]:
    gaps, at = [], 0
    for extent in extents:
        if extent.start > at:
            gaps.append((at, extent.start))
        at = extent.end
    if at < length:
        gaps.append((at, length))
    return gaps


def _voted(places: I64, shifts: I64) -> list[tuple[int, int, int]]:
    """The regions that several hits agree about: (hits, start, end) in the base. Nearly equal shifts count together."""
    if not len(places):
        return []
    order = np.argsort(shifts, kind="stable")
    places, shifts = places[order], shifts[order]
    edges = np.flatnonzero(np.diff(shifts) > PAD_BYTES) + 1
    groups = []
    for group in np.split(np.arange(len(places)), edges):
        sources = places[group] + shifts[group]
        groups.append((len(group), int(sources.min()), int(sources.max())))
    groups.sort(reverse=True)
    return groups[:MAX_GUESSES]


def merge(ranges: Sequence[tuple[int, int]], join_bytes: int) -> tuple[Window, ...]:
    """Sorted windows that cover the ranges; those closer than ``join_bytes`` become one."""
    merged: list[list[int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1] + join_bytes:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return tuple(Window(start, end - start) for start, end in merged)
