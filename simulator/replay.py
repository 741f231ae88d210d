"""Plays a recorded log onto buses at the speed it was recorded, faster, slower, or as fast as it goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dbc.frames import FrameBatch
from dbc.logs import open_log
from simulator.pacing import Pacer
from simulator.runner import Summary
from simulator.sinks import Sink

TICK_NS = 10_000_000
#: A longer pause in the log (a clock that jumped, the night between two drives) is shortened to this.
LONGEST_PAUSE_NS = 10_000_000_000


class Timeline:
    """Times of frames as time since the beginning: never backwards, no pause longer than ``LONGEST_PAUSE_NS``."""

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._at_ns = 0
        self.shortened = 0

    @property
    def elapsed_s(self) -> float:
        """From the first frame to the last one placed."""
        return self._at_ns / 1e9

    def place(self, timestamp_ns: NDArray[np.int64]) -> list[int]:
        """Where the next frames fall."""
        if not len(timestamp_ns):
            return []
        first = timestamp_ns[0] if self._last_ns is None else self._last_ns
        highest = np.maximum.accumulate(np.concatenate([[first], timestamp_ns]))
        pauses = np.diff(highest)
        self.shortened += int(np.count_nonzero(pauses > LONGEST_PAUSE_NS))
        at = self._at_ns + np.cumsum(np.minimum(pauses, LONGEST_PAUSE_NS))
        self._last_ns, self._at_ns = int(highest[-1]), int(at[-1])
        return [int(t) for t in at]


def ticks(frames: FrameBatch, at_ns: list[int]) -> Iterator[tuple[int, FrameBatch]]:
    """Cut a batch into ticks: when each is due, and its frames."""
    times = np.asarray(at_ns)
    edges = np.flatnonzero(np.diff(times // TICK_NS)) + 1
    for begin, end in zip([0, *edges], [*edges, len(times)], strict=True):
        if end > begin:
            yield int(times[begin]), frames.take(slice(int(begin), int(end)))


@dataclass(slots=True)
class _Once:
    """One pass over a log."""

    path: str
    buses: dict[str, int] | None
    sink: Sink
    pacer: Pacer
    speed: float
    timeline: Timeline = field(default_factory=Timeline)
    behind_s: float = 0.0
    skipped: int = 0
    sent: int = 0

    def play(self) -> None:
        start_s = self.pacer.now_s()
        with open_log(self.path, self.buses) as log:
            for batch in log:
                for due_ns, frames in ticks(batch, self.timeline.place(batch.timestamp_ns)):
                    due_s = start_s + due_ns / 1e9 / self.speed if self.speed else 0.0
                    if self.speed:
                        self.behind_s = max(self.behind_s, self.pacer.now_s() - due_s)
                    self.pacer.wait_until(due_s)
                    if self.pacer.stopped:
                        return
                    self.sink.send(frames)
                    self.sent += len(frames)
            self.skipped = log.report.skipped_count


def replay(path: str, buses: dict[str, int] | None, sink: Sink, pacer: Pacer, *, speed: float, loops: int) -> Summary:
    """Play ``path``; ``speed`` 0 is as fast as it goes, ``loops`` 0 is for ever.

    Args:
        path: the log.
        buses: number of each of the log's buses; None numbers them as they appear.
        sink: takes the frames; not closed.
        pacer: time.
        speed: log seconds in a second.
        loops: how often.

    Raises:
        dbc.logs.LogError: not a log, or one that cannot be read on.
        ValueError: the speed is out of range.
    """
    if not 0 <= speed <= 1000 or loops < 0:
        raise ValueError(f"speed {speed} or loops {loops} is out of range")
    began_s = pacer.now_s()
    behind_s = simulated_s = 0.0
    skipped = done = 0
    while not pacer.stopped and (loops == 0 or done < loops):
        once = _Once(path, buses, sink, pacer, speed)
        once.play()
        done += 1
        skipped += once.skipped
        simulated_s += once.timeline.elapsed_s
        behind_s = max(behind_s, once.behind_s)
        if not once.sent:
            break  # an empty log for ever would spin
    return Summary(
        command="replay",
        name=path,
        simulated_s=round(simulated_s, 6),
        elapsed_s=round(pacer.now_s() - began_s, 3),
        behind_s=round(behind_s, 3),
        buses=sink.counts(),
        skipped_lines=skipped,
        complete=not pacer.stopped,
        end="stopped" if pacer.stopped else "finished",
    )
