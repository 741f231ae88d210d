"""What conditions look at: the latest value of each signal, and its recent past for window functions.

One history serves all conditions of a vehicle. A ``Series`` is one signal in one batch, with the value known before
the batch in front.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.collect.scaling import Scaling


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The samples of one signal in one batch.

    Attributes:
        frame: intp[n], index of each sample's frame, ascending.
        time_ns: int64[n + 1]; the first is the sample before the batch.
        value: float64[n + 1], physical; the first is NaN when the signal was never seen.
        changed: bool[n], differs from the sample before it; the very first sample ever did not change.
        past_time_ns, past_value: everything inside the longest window, the batch included; times never decrease.
        known: the signal was seen before the batch.
    """

    frame: NDArray[np.intp]
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    changed: NDArray[np.bool_]
    past_time_ns: NDArray[np.int64]
    past_value: NDArray[np.float64]
    known: bool


@dataclass(slots=True)
class _Memory:
    window_ns: int
    known: bool = False
    time_ns: int = 0
    raw: int = 0
    value: float = float("nan")
    past_time_ns: NDArray[np.int64] = None  # type: ignore[assignment]  # set in __post_init__
    past_value: NDArray[np.float64] = None  # type: ignore[assignment]  # set in __post_init__

    def __post_init__(self) -> None:
        self.past_time_ns = np.zeros(0, np.int64)
        self.past_value = np.zeros(0, np.float64)


class Inputs:
    """The memory of all signals that conditions look at, keyed by (signal, only valid samples).

    Args:
        windows_ns: the signals and the longest window over each; 0 where only the latest value matters.
        max_samples: bound over all histories together; each signal with a window gets an equal share.
    """

    def __init__(self, windows_ns: dict[tuple[int, bool], int], scaling: Scaling, max_samples: int) -> None:
        self._scaling = scaling
        self._memory = {key: _Memory(window) for key, window in windows_ns.items()}
        windowed = sum(1 for window in windows_ns.values() if window)
        self._share = max(16, max_samples // max(1, windowed))
        self.dropped = 0  # samples that left a history before their window ended

    def adopt(self, other: Inputs) -> None:
        """Continue with what another memory knows of the same signals."""
        for key, memory in self._memory.items():
            if (known := other._memory.get(key)) is not None:
                window = memory.window_ns
                self._memory[key] = known
                known.window_ns = max(window, known.window_ns)
        self.dropped += other.dropped

    def forget_past(self) -> None:
        """Drop all histories; the latest values stay, as of ``Series.known``. For clock jumps."""
        for memory in self._memory.values():
            memory.past_time_ns, memory.past_value = memory.past_time_ns[:0], memory.past_value[:0]

    def shift(self, step_ns: int) -> None:
        """Move the time of the latest values by a clock's step, so that their age stays what it was."""
        for memory in self._memory.values():
            memory.time_ns += step_ns

    def feed(
        self,
        key: tuple[int, bool],
        frame: NDArray[np.intp],
        time_ns: NDArray[np.int64],
        raw: NDArray[np.int64],
    ) -> Series:
        """Take in the samples of one signal (there may be none) and return them with their past."""
        memory = self._memory[key]
        signal = np.full(len(raw), key[0], np.intp)
        value = self._scaling.physical(signal, raw)
        value[~np.isfinite(value)] = np.nan
        before = np.concatenate([[memory.raw], raw])
        changed = before[1:] != before[:-1]
        if len(changed) and not memory.known:
            changed[0] = False
        series_time = np.concatenate([np.array([memory.time_ns], np.int64), time_ns])
        series_value = np.concatenate([[memory.value], value])
        past_time, past_value = memory.past_time_ns, memory.past_value
        if memory.window_ns and len(raw):
            past_time = np.maximum.accumulate(np.concatenate([past_time, time_ns]))
            past_value = np.concatenate([past_value, value])
        series = Series(frame, series_time, series_value, changed, past_time, past_value, memory.known)
        if len(raw):
            memory.known, memory.time_ns = True, int(time_ns[-1])
            memory.raw, memory.value = int(raw[-1]), float(value[-1])
        memory.past_time_ns, memory.past_value = past_time, past_value
        return series

    def trim(self, now_ns: int) -> None:
        """Let go of what no window reaches any more."""
        for memory in self._memory.values():
            if not memory.window_ns or not len(memory.past_time_ns):
                continue
            first = int(np.searchsorted(memory.past_time_ns, now_ns - memory.window_ns, "right"))
            over = len(memory.past_time_ns) - first - self._share
            if over > 0:
                self.dropped += over
                first += over
            if first:
                memory.past_time_ns = memory.past_time_ns[first:].copy()
                memory.past_value = memory.past_value[first:].copy()
