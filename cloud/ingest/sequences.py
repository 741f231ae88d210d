"""Which sequences of a stream the cloud holds: a contiguous start and ranges ahead of it. Pure.

"Covered" means stored here, or explained by the vehicle (evicted before upload, or not found when asked again).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import msgspec

Range = tuple[int, int]  # first and last, both included


@dataclass(frozen=True, slots=True)
class SequenceSet:
    """All sequences from 1 to ``contiguous``, and the ranges of ``ahead``: sorted, apart, beyond contiguous + 1."""

    contiguous: int = 0
    ahead: tuple[Range, ...] = ()

    def covers(self, sequence: int) -> bool:
        """Whether one sequence is in the set."""
        if sequence <= self.contiguous:
            return True
        i = bisect_right(self.ahead, (sequence, 1 << 63))
        return i > 0 and self.ahead[i - 1][1] >= sequence

    def add(self, first: int, last: int) -> SequenceSet:
        """The set with ``first`` to ``last`` in it. ``1 <= first <= last`` is the caller's duty."""
        if last <= self.contiguous:
            return self
        if first == last == self.contiguous + 1 and not self.ahead:  # the usual case
            return SequenceSet(last)
        if first <= self.contiguous + 1:
            contiguous, rest = last, list(self.ahead)
            while rest and rest[0][0] <= contiguous + 1:
                contiguous = max(contiguous, rest.pop(0)[1])
            return SequenceSet(contiguous, tuple(rest))
        before = [r for r in self.ahead if r[1] < first - 1]
        after = [r for r in self.ahead if r[0] > last + 1]
        touching = self.ahead[len(before) : len(self.ahead) - len(after)]
        merged = (min(first, touching[0][0]), max(last, touching[-1][1])) if touching else (first, last)
        return SequenceSet(self.contiguous, (*before, merged, *after))

    @property
    def highest(self) -> int:
        """The highest sequence in the set; 0 when it is empty."""
        return self.ahead[-1][1] if self.ahead else self.contiguous

    def gaps(self, up_to: int = 0, limit: int = 1 << 30) -> list[Range]:
        """What is missing between 1 and ``max(highest, up_to)``, lowest first, at most ``limit`` ranges."""
        missing: list[Range] = []
        at = self.contiguous + 1
        for first, last in self.ahead:
            if len(missing) >= limit:
                return missing
            missing.append((at, first - 1))
            at = last + 1
        if at <= up_to and len(missing) < limit:
            missing.append((at, up_to))
        return missing

    def to_bytes(self) -> bytes:
        """``ahead`` for the database."""
        return msgspec.msgpack.encode(self.ahead) if self.ahead else b""

    @staticmethod
    def from_bytes(contiguous: int, ahead: bytes) -> SequenceSet:
        """The inverse of ``to_bytes``."""
        return SequenceSet(contiguous, msgspec.msgpack.decode(ahead, type=tuple[Range, ...]) if ahead else ())


def subtract(whole: Range, holes: list[Range]) -> list[Range]:
    """``whole`` without ``holes`` (any order, may overlap)."""
    parts: list[Range] = []
    at, end = whole
    for first, last in sorted(holes):
        if last < at or first > end:
            continue
        if first > at:
            parts.append((at, first - 1))
        at = max(at, last + 1)
    if at <= end:
        parts.append((at, end))
    return parts
