"""Parts of the picker: samples grouped by rule, leaping in time, and the plain statement of when to send a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MAX_SPAN_NS = 10**13  # longer batches (a clock jump inside) are walked


@dataclass(frozen=True, slots=True)
class Group:
    """The samples of a batch sorted by rule; segment ``i`` is ``starts[i]:ends[i]`` and belongs to one rule."""

    rule: NDArray[np.intp]
    time: NDArray[np.int64]
    raw: NDArray[np.int64]
    quality: NDArray[np.uint8] | None
    starts: NDArray[np.intp]
    ends: NDArray[np.intp]


def group_by_rule(
    rule: NDArray[np.intp], time: NDArray[np.int64], raw: NDArray[np.int64], quality: NDArray[np.uint8] | None
) -> Group:
    """Samples already sorted by rule, with the borders found."""
    borders = np.flatnonzero(rule[1:] != rule[:-1]) + 1
    starts = np.concatenate([np.zeros(1, np.intp), borders])
    return Group(rule, time, raw, quality, starts, np.append(borders, len(rule)))


def disordered(group: Group, segment: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Segments whose times step back; all of them when the batch spans more than ``Clock`` bears."""
    if int(group.time.max()) - int(group.time.min()) > _MAX_SPAN_NS:
        return np.ones(len(segment), np.bool_)
    back = np.zeros(len(group.time), np.bool_)
    np.less(group.time[1:], group.time[:-1], out=back[1:])
    back[group.starts] = False
    if not back.any():
        return np.zeros(len(segment), np.bool_)
    found: NDArray[np.bool_] = np.logical_or.reduceat(back, group.starts)[segment]
    return found


def spread(start: NDArray[np.intp], end: NDArray[np.intp]) -> NDArray[np.intp]:
    """All indices of the ranges ``start[i]:end[i]``, in order."""
    length = end - start
    ends = np.cumsum(length)
    total = int(ends[-1]) if len(ends) else 0
    places: NDArray[np.intp] = np.arange(total) + np.repeat(start - (ends - length), length)
    return places


class Clock:
    """One ascending number per sample, so that a single binary search finds times in many segments."""

    def __init__(self, group: Group) -> None:
        self._base = int(group.time.min())
        self._span = int(group.time.max()) - self._base + 2
        ordinal = np.zeros(len(group.time), np.int64)
        ordinal[group.starts[1:]] = 1
        self._clock = np.cumsum(ordinal) * self._span + (group.time - self._base)

    def seek(self, segment: NDArray[np.intp], time: NDArray[np.int64], position: NDArray[np.intp]) -> NDArray[np.intp]:
        """The first sample of each segment, from ``position`` on, that is not before ``time``; its end if none."""
        wanted = segment * self._span + np.clip(time - self._base, 0, self._span - 1)
        return np.maximum(np.searchsorted(self._clock, wanted), position)


def all_due(
    time: NDArray[np.int64],
    at: NDArray[np.intp],
    end: NDArray[np.intp],
    due: NDArray[np.int64],
    period: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], NDArray[np.int64]] | None:
    """Segments ``at[i]:end[i]`` of which every sample is due, and when each is due next; None when there is none.

    If all are sent, sample k is due at ``max(due + k * period, max over j < k of time[j] + period / 2 + (k-1-j) *
    period)``: a running maximum, taken over all candidates at once by lifting each segment above the one before.
    """
    length = end - at
    span = time[np.maximum(end, 1) - 1] - time[np.minimum(at, len(time) - 1)]
    chosen = (length > 2) & (span * 10 >= period * 9 * (length - 1)) & (period * length < _MAX_SPAN_NS)
    if not chosen.any():
        return None
    at, end, due, period, length = at[chosen], end[chosen], due[chosen], period[chosen], length[chosen]
    place = spread(at, end)
    step = np.repeat(period, length)
    base = int(time[place].min())
    number = np.arange(len(place)) - np.repeat(np.cumsum(length) - length, length)
    after = time[place] - base + (step >> 1) - (number + 1) * step  # what each sample adds to the running maximum
    floor = due - base
    floor = np.maximum(floor, -_MAX_SPAN_NS)
    low, high = min(int(after.min()), int(floor.min())), max(int(after.max()), int(floor.max()))
    if (high - low + 1) * len(at) > 1 << 62:
        return None
    lift = np.arange(len(at)) * (high - low + 1)
    first = np.cumsum(length) - length
    before = np.empty(len(place), np.int64)
    before[1:] = after[:-1]
    before[first] = floor
    before += np.repeat(lift, length)
    top = np.maximum.accumulate(before) - np.repeat(lift, length)
    on_time = np.logical_and.reduceat(time[place] - base >= top + number * step, first)
    if not on_time.any():
        return None
    last = first + length - 1
    next_due = np.maximum(top[last], after[last]) + length * period + base
    whole = np.zeros(len(chosen), np.bool_)
    whole[np.flatnonzero(chosen)[on_time]] = True
    return whole, next_due[on_time]


@dataclass(slots=True)
class Step:
    """One rule going from sample to sample. Everything faster must agree with ``wants``."""

    rule: int
    period: int
    band: float
    beat: int
    on_change: bool
    force: bool
    seen: bool
    due: int
    time: int
    raw: int
    value: float
    mark: int

    def wants(self, now: int, raw: int, value: float, mark: int) -> bool:
        """Whether to send this sample; remembers it if so."""
        back = now < self.time
        if self.seen:
            differs = raw != self.raw
            if differs and self.band > 0:
                differs = not abs(value - self.value) < self.band  # a NaN on one side is a difference
            differs = differs or mark != self.mark
            is_due = now >= self.due or back
            beats = now - self.time >= self.beat
            if not (beats or (differs and (is_due or self.force)) or (is_due and not self.on_change)):
                return False
        in_step = self.seen and self.due <= now and not back
        self.due = max(self.due + self.period, now + (self.period >> 1)) if in_step else now + self.period
        self.seen, self.time, self.raw, self.value, self.mark = True, now, raw, value, mark
        return True
