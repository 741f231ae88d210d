"""Computing conditions, as arrays over all instants of a batch.

An instant is a frame that brought a sample of one of the condition's signals, or a tick. Every value is a float64, a
truth 0 or 1, and **unknown is NaN**: a signal not seen yet or older than ``stale_ns``, a NaN or infinity on the bus, a
division by zero, ``min``, ``max`` or ``mean`` of an empty window. Arithmetic, comparisons and ``not`` of unknown are
unknown; ``false and unknown`` is false, ``true or unknown`` is true. A condition holds only where it is true.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.collect.bind import Condition, Term
from gateway.collect.inputs import Series

_NEVER = 1 << 62

Floats = NDArray[np.float64]

_ARITHMETIC: dict[str, Callable[[Floats, Floats], Floats]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
_COMPARISONS: dict[str, Callable[[Floats, Floats], NDArray[np.bool_]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Evaluator:
    """One condition with what it remembers between batches (``rising``, and its own last truth)."""

    def __init__(self, condition: Condition, stale_ns: int = 0) -> None:
        self.condition = condition
        self._stale_ns = stale_ns
        self._slots = [0.0] * condition.slots
        self._held = False

    def instants(self, series: Sequence[Series]) -> NDArray[np.intp]:
        """The frames that brought a sample of any input, ascending."""
        if len(series) == 1:
            return series[0].frame
        return np.unique(np.concatenate([s.frame for s in series])) if series else np.zeros(0, np.intp)

    def evaluate(
        self, series: Sequence[Series], instants: NDArray[np.intp], time_ns: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Where the condition holds, and where it came to hold (it did not at the instant before).

        Args:
            series: one per input of the condition, for the same batch.
            instants: frame indices, ascending; for a tick one index after all frames.
            time_ns: of each instant.
        """
        moment = _Moment(series, instants, time_ns, self._stale_ns, self._slots)
        with np.errstate(all="ignore"):
            truth = moment.compute(self.condition.root)
        holds = np.broadcast_to(truth == 1.0, instants.shape)
        before = np.empty(len(holds), np.bool_)
        if len(holds):
            before[0] = self._held
            before[1:] = holds[:-1]
            self._held = bool(holds[-1])
        return holds, holds & ~before


class _Moment:
    """All instants of one batch."""

    def __init__(
        self,
        series: Sequence[Series],
        instants: NDArray[np.intp],
        time_ns: NDArray[np.int64],
        stale_ns: int,
        slots: list[float],
    ) -> None:
        self._series, self._instants, self._time = series, instants, time_ns
        self._stale_ns, self._slots = stale_ns, slots
        self._counts: dict[int, NDArray[np.intp]] = {}

    def compute(self, term: Term) -> Floats:
        """The value of a term at each instant."""
        name = term.operator
        if name == "const":
            return np.full(len(self._time), term.constant)
        if term.input >= 0:
            return self._of_signal(term)
        values = [self.compute(argument) for argument in term.arguments]
        if name in _ARITHMETIC:
            return _finite(_ARITHMETIC[name](values[0], values[1]))
        if name in _COMPARISONS:
            unknown = np.isnan(values[0]) | np.isnan(values[1])
            return np.where(unknown, np.nan, _COMPARISONS[name](values[0], values[1]))
        match name:
            case "/":
                return _finite(values[0] / values[1])
            case "neg":
                return -values[0]
            case "abs":
                return np.abs(values[0])
            case "not":
                return 1.0 - values[0]
            case "and":
                return np.where((values[0] == 0) | (values[1] == 0), 0.0, values[0] * values[1])
            case "or":
                return np.where((values[0] == 1) | (values[1] == 1), 1.0, values[0] + values[1])
            case "rising":
                return self._rising(values[0], term.slot)
        raise ValueError(f"unknown operator {name!r}")

    def _of_signal(self, term: Term) -> Floats:
        series = self._series[term.input]
        count = self._count(term.input)
        match term.operator:
            case "value":
                old = self._time - series.time_ns[count] > (self._stale_ns or _NEVER)
                return np.where(old, np.nan, series.value[count])
            case "age":
                age = (self._time - series.time_ns[count]) / 1e6
                return np.where((count == 0) & (not series.known), np.nan, np.maximum(age, 0.0))
            case "changed":
                if not len(series.frame):
                    return np.zeros(len(self._time))
                last = np.maximum(count - 1, 0)
                arrived = (count > 0) & (series.frame[last] == self._instants)
                return np.where(arrived & series.changed[last], 1.0, 0.0)
        return self._window(term, series, count)

    def _window(self, term: Term, series: Series, count: NDArray[np.intp]) -> Floats:
        """A function of the samples later than ``window_ns`` before each instant, up to and with the instant."""
        past = len(series.past_time_ns) - len(series.frame)
        high = count + past
        low = np.minimum(np.searchsorted(series.past_time_ns, self._time - term.window_ns, "right"), high)
        if term.operator == "count":
            return (high - low).astype(np.float64)
        values = series.past_value
        known = ~np.isnan(values)
        if term.operator == "mean":
            sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
            counts = np.concatenate([[0], np.cumsum(known)])
            number = counts[high] - counts[low]
            return np.where(number > 0, (sums[high] - sums[low]) / number, np.nan)
        sign = 1.0 if term.operator == "max" else -1.0
        best = _range_max(np.where(known, sign * values, -np.inf), low, high)
        return np.where(best == -np.inf, np.nan, sign * best)

    def _count(self, number: int) -> NDArray[np.intp]:
        """How many samples of the batch each instant has seen of an input."""
        if number not in self._counts:
            self._counts[number] = np.searchsorted(self._series[number].frame, self._instants, "right")
        return self._counts[number]

    def _rising(self, value: Floats, slot: int) -> Floats:
        before = np.concatenate([[self._slots[slot]], value[:-1]]) if len(value) else value
        if len(value):
            self._slots[slot] = float(value[-1])
        return np.where(np.isnan(value), np.nan, (value == 1.0) & (before != 1.0))


def _finite(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, np.nan)


def _range_max(values: Floats, low: NDArray[np.intp], high: NDArray[np.intp]) -> Floats:
    """The largest of ``values[low:high]`` for each pair; minus infinity for empty ranges. O(n log n) array work."""
    width = high - low
    result = np.full(len(low), -np.inf)
    if not len(low) or int(width.max()) <= 0:
        return result
    level, table = 0, values
    while True:
        span = 1 << level
        chosen = np.flatnonzero((width >= span) & (width < 2 * span))
        if len(chosen):
            result[chosen] = np.maximum(table[low[chosen]], table[high[chosen] - span])
        if int(width.max()) < 2 * span:
            return result
        table = np.maximum(table[:-span], table[span:])
        level += 1
