"""Time columns: what is left of each time after a prediction that fits how the message is sent.

Two predictions, chosen per column by the size of what is left:

* ``STEP``: the previous time plus the usual period. Right for irregular messages and after gaps.
* ``LINE``: a straight line through the whole column in fixed point. Right for periodic messages, whose jitter does not
  add up: differences of neighbours would carry each jitter twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.wire.codec.errors import CodecError
from gateway.wire.codec.numbers import I64, U64, Directory, plane_widths, positions, segment_starts, unzigzag, zigzag

STEP, LINE = 0, 1

_MAX_NS = (1 << 63) - 1

_SLOPE_BITS = 16
_OFFSET_BITS = 4
_SHIFT = _SLOPE_BITS - _OFFSET_BITS
#: Ticks beyond which a line in 64-bit fixed point could overflow; such columns use ``STEP``.
_MAX_LINE_TICKS = 1 << 44


@dataclass(frozen=True, slots=True)
class Scale:
    """Ticks relative to a batch's first ↔ UTC nanoseconds."""

    first_tick: int
    resolution_ns: int

    def ticks(self, timestamp_ns: I64) -> I64:
        """Floors to the resolution."""
        return np.floor_divide(timestamp_ns, self.resolution_ns) - self.first_tick

    def timestamps(self, ticks: I64) -> I64:
        """The inverse, of ticks ≥ 0.

        Raises:
            CodecError: a time lies beyond what 64 bits of nanoseconds can tell.
        """
        if len(ticks) and (self.first_tick + int(ticks.max())) * self.resolution_ns > _MAX_NS:
            raise CodecError("time beyond 64 bits of nanoseconds")
        return (ticks + self.first_tick) * self.resolution_ns


@dataclass(frozen=True, slots=True, eq=False)
class TimeColumns:
    """Time columns one after another: per column its prediction, per time what is left of it."""

    counts: NDArray[np.intp]
    mode: NDArray[np.uint8]
    first: I64
    second: I64
    width: NDArray[np.uint8]
    rest: U64

    def directory(self) -> list[U64]:
        """The directory entries, in the order of the format."""
        return [
            self.mode.astype(np.uint64),
            zigzag(self.first),
            zigzag(self.second),
            self.width.astype(np.uint64),
        ]


def _line(ticks: I64, counts: NDArray[np.intp]) -> tuple[I64, I64]:
    """Least squares through each column: (offset, slope) in fixed point."""
    starts = segment_starts(counts)
    index = positions(counts).astype(np.float64)
    value = ticks.astype(np.float64) + 0.5  # ticks are floors; the line runs through the middle
    n = counts.astype(np.float64)
    mean_index, mean_value = (n - 1) / 2, np.add.reduceat(value, starts) / n
    centred = index - np.repeat(mean_index, counts)
    spread = np.add.reduceat(centred * centred, starts)
    slope = np.add.reduceat(centred * (value - np.repeat(mean_value, counts)), starts) / np.maximum(spread, 1.0)
    offset = mean_value - slope * mean_index
    return (
        np.rint(offset * (1 << _OFFSET_BITS)).astype(np.int64),
        np.rint(slope * (1 << _SLOPE_BITS)).astype(np.int64),
    )


def _on_line(offset: I64, slope: I64, counts: NDArray[np.intp]) -> I64:
    """The predicted ticks of all columns, modulo 2**64."""
    start = np.repeat(offset << np.int64(_SHIFT), counts).view(np.uint64)
    step = np.repeat(slope, counts).view(np.uint64)
    index = positions(counts).astype(np.uint64)
    return (start + index * step).view(np.int64) >> np.int64(_SLOPE_BITS)


def _steps(ticks: I64, counts: NDArray[np.intp]) -> tuple[I64, I64]:
    """(usual step per column, difference to the previous tick per time; 0 for a column's first)."""
    starts = segment_starts(counts)
    step = np.diff(ticks, prepend=ticks[:1])
    step[starts] = 0
    column = np.repeat(np.arange(len(counts)), counts)
    by_size = step[np.lexsort((step, column))]
    middle = np.where(counts > 1, starts + (counts + 1) // 2, starts)  # skips the first one's 0, which sorts first
    return by_size[np.minimum(middle, starts + counts - 1)], step


def encode_times(ticks: I64, counts: NDArray[np.intp]) -> TimeColumns:
    """Choose predictions for columns of ascending ticks, all ≥ 0 (relative to the batch's first).

    No column may be empty.
    """
    if not len(counts):
        none = np.zeros(0, np.int64)
        return TimeColumns(counts, np.zeros(0, np.uint8), none, none, np.zeros(0, np.uint8), np.zeros(0, np.uint64))
    starts = segment_starts(counts)
    usual, step = _steps(ticks, counts)
    left_step = step - np.repeat(usual, counts)
    left_step[starts] = 0
    rest_step = zigzag(left_step)
    fits = (counts > 2) & (ticks[starts + counts - 1] < _MAX_LINE_TICKS)
    bounded = np.where(np.repeat(fits, counts), ticks, 0)
    offset, slope = _line(bounded, counts)
    rest_line = zigzag(bounded - _on_line(offset, slope, counts))
    bits_step = np.add.reduceat(np.log2(rest_step.astype(np.float64) + 1.0), starts)
    bits_line = np.add.reduceat(np.log2(rest_line.astype(np.float64) + 1.0), starts)
    line = fits & (bits_line + 8.0 < bits_step)
    rest = np.where(np.repeat(line, counts), rest_line, rest_step)
    return TimeColumns(
        counts,
        line.astype(np.uint8),
        np.where(line, offset, ticks[starts]),
        np.where(line, slope, usual),
        plane_widths(rest, counts),
        rest,
    )


@dataclass(frozen=True, slots=True, eq=False)
class TimeDirectory:
    """What the directory tells of time columns."""

    counts: NDArray[np.intp]
    mode: NDArray[np.intp]
    first: I64
    second: I64
    width: NDArray[np.uint8]

    @staticmethod
    def read(directory: Directory, counts: NDArray[np.intp]) -> TimeDirectory:
        """Take the entries of ``len(counts)`` columns."""
        n = len(counts)
        return TimeDirectory(
            counts,
            directory.small(n, LINE, "time mode"),
            unzigzag(directory.array(n)),
            unzigzag(directory.array(n)),
            directory.small(n, 8, "column width").astype(np.uint8),
        )

    def decode(self, rest: U64) -> I64:
        """The ticks of all columns.

        Raises:
            CodecError: the times of a column do not ascend, or begin before 0.
        """
        if not len(self.counts):
            return np.zeros(0, np.int64)
        starts = segment_starts(self.counts)
        left = unzigzag(rest)
        steps = left.view(np.uint64) + np.repeat(self.second, self.counts).view(np.uint64)
        steps[starts] = self.first.view(np.uint64)
        total = np.cumsum(steps, dtype=np.uint64)
        total -= np.repeat(total[starts] - steps[starts], self.counts)
        line = _on_line(self.first, self.second, self.counts).view(np.uint64) + left.view(np.uint64)
        ticks = np.where(np.repeat(self.mode == LINE, self.counts), line, total).view(np.int64)
        falling = np.diff(ticks) < 0
        falling[starts[1:] - 1] = False
        if falling.any() or (ticks[starts] < 0).any():
            raise CodecError("times of a column do not ascend")
        return ticks
