"""Recorded logs as buses: at their own pace, faster, or as fast as the gateway takes them.

Logs of one replay share a clock, so that what was recorded together plays together. What the gateway does not take yet
waits in the file; nothing is dropped. A log that ends early because it is damaged is an event and an ended bus.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dbc.frames import ERROR, FrameBatch
from dbc.logs import LogError, LogReader, open_log
from gateway.can.config import BusConfig, ReplayConfig
from gateway.can.model import BusCounters, Filters, LinkState, SourceError
from gateway.can.monitor import BusMonitor
from gateway.can.ports import Poller
from gateway.wire.samples import Event, EventKind

#: A log's clock that goes back, or leaps ahead by more than this, was set; play goes on without the step.
BACK_NS, AHEAD_NS = 1_000_000_000, 3_600_000_000_000
#: Logs that start within this time of each other were recorded together.
TOGETHER_NS = 3_600_000_000_000


class ReplayClock:
    """When a frame of the logs is due. All logs register before the first one is played."""

    def __init__(self, config: ReplayConfig) -> None:
        self.config = config
        self._first_ns: int | None = None
        self._start_monotonic_ns: int | None = None
        self.start_utc_ns = 0

    @property
    def paced(self) -> bool:
        """Whether frames wait for their time."""
        return self.config.speed > 0

    def register(self, first_ns: int) -> None:
        """A log starts at this time."""
        if self._first_ns is None or first_ns < self._first_ns:
            self._first_ns = first_ns

    def base_ns(self, first_ns: int) -> int:
        """The log time at which play starts, for a log that starts at ``first_ns``."""
        base_ns = first_ns if self._first_ns is None else self._first_ns
        return base_ns if first_ns - base_ns < TOGETHER_NS else first_ns

    def start(self, monotonic_ns: int, utc_ns: int) -> None:
        """Play starts now, unless it has started."""
        if self._start_monotonic_ns is None:
            self._start_monotonic_ns, self.start_utc_ns = monotonic_ns, utc_ns

    def played_ns(self, monotonic_ns: int) -> int:
        """Log time since the start of play."""
        start_ns = monotonic_ns if self._start_monotonic_ns is None else self._start_monotonic_ns
        return int((monotonic_ns - start_ns) * self.config.speed)

    def due_monotonic_ns(self, played_ns: int) -> int:
        """When that much of the log has been played; never before its time by rounding."""
        if self._start_monotonic_ns is None or not self.paced:
            return 0
        return self._start_monotonic_ns + int(played_ns / self.config.speed) + 1


class LogTimeline:
    """Makes one growing time of a log's timestamps; pure.

    ``place`` gives, for each frame, how far to shift its timestamp so that steps of the log's clock vanish, and tells
    the steps it found.
    """

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._shift_ns = 0

    def place(self, timestamps_ns: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
        """Shifted timestamps and the steps taken out, both in ns."""
        if not len(timestamps_ns):
            return timestamps_ns, []
        before = int(timestamps_ns[0]) if self._last_ns is None else self._last_ns
        deltas = np.diff(timestamps_ns, prepend=before)
        steps = np.where((deltas < -BACK_NS) | (deltas > AHEAD_NS), deltas, 0)
        shifts = self._shift_ns - np.cumsum(steps)
        self._last_ns, self._shift_ns = int(timestamps_ns[-1]), int(shifts[-1])
        return timestamps_ns + shifts, [int(step) for step in steps[steps != 0]]


class ReplayPort:
    """One log file with one or more of our buses in it."""

    def __init__(self, configs: Sequence[BusConfig], clock: ReplayClock) -> None:
        """``configs`` have the same ``channel``, the log. Nothing is opened yet.

        Raises:
            SourceError: several buses without telling which of the log's they are.
        """
        self._configs = tuple(configs)
        self._clock = clock
        self._monitors = [BusMonitor(config.name) for config in configs]
        if len(configs) > 1 and not all(config.log_bus for config in configs):
            unnamed = next(config.name for config in configs if not config.log_bus)
            raise SourceError(unnamed, "log_bus is missing; several buses come from the same log")
        self._log: LogReader | None = None
        self._batches: Iterator[FrameBatch] = iter(())
        self._timeline = LogTimeline()
        self._read = [0] * len(configs)
        self._last_frame_ns = [0] * len(configs)
        self._waiting = FrameBatch.empty()
        self._placed: NDArray[np.int64] = np.zeros(0, np.int64)
        self._due_ns: NDArray[np.int64] = np.zeros(0, np.int64)  # played time at which each waiting frame is due
        self._base_ns: int | None = None
        self._ended = False
        self._more = False

    @property
    def names(self) -> tuple[str, ...]:
        """Bus names in the order of the configuration."""
        return tuple(config.name for config in self._configs)

    @property
    def has_more(self) -> bool:
        """The last ``collect`` stopped at its limit."""
        return self._more

    @property
    def ended(self) -> bool:
        """Everything was handed out."""
        return self._ended

    def open(self, poller: Poller) -> None:
        """Open the log and read its beginning.

        Raises:
            SourceError: no such file, or not a log.
        """
        named = {config.log_bus: i for i, config in enumerate(self._configs) if config.log_bus}
        try:
            self._log = open_log(Path(self._configs[0].channel), named or None)
            self._batches = iter(self._log)
            self._fetch()
        except LogError as error:
            raise SourceError(self._configs[0].name, str(error)) from error
        if len(self._waiting):
            self._clock.register(int(self._waiting.timestamp_ns[0]))

    def collect(self, limit: int, monotonic_ns: int, utc_ns: int) -> FrameBatch:
        """The frames that are due by now."""
        self._more = False
        if self._ended:
            return FrameBatch.empty()
        self._clock.start(monotonic_ns, utc_ns)
        if self._monitors[0].state is LinkState.DOWN:
            rebased = self._clock.config.rebase_time or not len(self._waiting)
            begin_ns = utc_ns if rebased else int(self._waiting.timestamp_ns[0])
            for monitor, config in zip(self._monitors, self._configs, strict=True):
                monitor.link_up(begin_ns, f"replay of {Path(config.channel).name}")
        parts: list[FrameBatch] = []
        room = limit
        while room > 0 and len(self._waiting):
            due = self._due(monotonic_ns)
            count = min(room, due)
            if count:
                parts.append(self._take(count))
                room -= count
            if len(self._waiting):
                break  # not due yet, or no room
            self._fetch()
        self._more = bool(len(self._waiting)) and self._due(monotonic_ns) > 0
        batch = parts[0] if len(parts) == 1 else FrameBatch.concatenate(parts)
        if len(batch):
            self._account(batch)
        if not len(self._waiting):
            self._end(utc_ns)
        return batch

    def next_due_ns(self) -> int | None:
        """When the next frame is due."""
        if self._ended or not len(self._waiting) or self._base_ns is None:
            return None if self._ended else 0
        return self._clock.due_monotonic_ns(int(self._due_ns[0]))

    def take_events(self) -> list[Event]:
        """Events since the last call."""
        return [event for monitor in self._monitors for event in monitor.take_events()]

    def statistics(self) -> list[BusCounters]:
        """Counters; what the log's lines lacked is counted by its first bus."""
        skipped = 0 if self._log is None else self._log.report.skipped_count
        return [
            BusCounters(
                bus=config.name,
                received=self._read[i],
                read=self._read[i],
                error_frames=self._monitors[i].error_frames,
                malformed=0 if i else skipped,
                state=self._monitors[i].state,
                detail=self._monitors[i].detail,
                last_frame_ns=self._last_frame_ns[i],
            )
            for i, config in enumerate(self._configs)
        ]

    def set_filters(self, filters: Filters | None) -> None:
        """Nothing: a replay shows the gateway all that was recorded."""

    def close(self) -> None:
        """Close the file; idempotent."""
        self._ended = True
        if self._log is not None:
            self._log.close()
        for monitor in self._monitors:
            if monitor.state is not LinkState.ENDED:
                monitor.end(time.time_ns(), LinkState.STOPPED, "closed")

    # --- inside ---

    def _fetch(self) -> None:
        """The next frames of our buses into ``_waiting``; none left means the log is over."""
        for batch in self._batches:
            if not all(config.log_bus for config in self._configs):
                batch = batch.take(batch.bus == 0)  # the log's first bus; ``_end`` tells of the others
            if not len(batch):
                continue
            placed, steps = self._timeline.place(batch.timestamp_ns)
            for step in steps:
                self._monitors[0].clock_stepped(int(batch.timestamp_ns[0]), step)
            self._waiting = batch
            self._placed = placed
            self._due_ns = np.zeros(0, np.int64)
            return
        self._waiting = FrameBatch.empty()

    def _due(self, monotonic_ns: int) -> int:
        """How many of the waiting frames are due."""
        if not len(self._waiting):
            return 0
        if self._base_ns is None:
            self._base_ns = self._clock.base_ns(int(self._waiting.timestamp_ns[0]))
        if len(self._due_ns) != len(self._waiting):
            self._due_ns = np.maximum.accumulate(self._placed - self._base_ns)
        if not self._clock.paced:
            return len(self._waiting)
        return int(np.searchsorted(self._due_ns, self._clock.played_ns(monotonic_ns), side="right"))

    def _take(self, count: int) -> FrameBatch:
        """The first ``count`` waiting frames, stamped as configured."""
        batch, placed = self._waiting.take(slice(0, count)), self._placed[:count]
        self._waiting, self._placed = self._waiting.take(slice(count, None)), self._placed[count:]
        self._due_ns = self._due_ns[count:]
        if not self._clock.config.rebase_time or self._base_ns is None:
            return batch
        begin_ns = self._clock.start_utc_ns - int(self._clock.config.begin_ago_s * 1e9)
        times = placed - self._base_ns + begin_ns
        return FrameBatch(times, batch.bus, batch.can_id, batch.flags, batch.length, batch.data)

    def _account(self, batch: FrameBatch) -> None:
        for i, monitor in enumerate(self._monitors):
            rows = np.flatnonzero(batch.bus == i)
            if not len(rows):
                continue
            self._read[i] += len(rows)
            self._last_frame_ns[i] = int(batch.timestamp_ns[rows[-1]])
            errors = rows[(batch.flags[rows] & ERROR) != 0]
            if len(errors):
                monitor.error_frames_seen(batch.can_id[errors], batch.data[errors], batch.timestamp_ns[errors])
            if not len(errors) or errors[-1] != rows[-1]:
                monitor.frames_seen(self._last_frame_ns[i])

    def _end(self, utc_ns: int) -> None:
        """Tell how it went; the bus has ended."""
        self._ended = True
        if self._log is None:
            return
        report = self._log.report
        self._log.close()
        first = self._monitors[0]
        at_ns = max(self._last_frame_ns) or utc_ns
        if report.damage:
            first.tell(EventKind.BUS_ERROR, at_ns, f"log ended early: {report.damage}")
        if report.skipped_count:
            line = report.skipped[0]
            detail = f"{report.skipped_count} lines were no frames, the first is line {line.number}: {line.reason}"
            first.tell(EventKind.BUS_ERROR, at_ns, detail)
        others = self._log.buses[1:] if not self._configs[0].log_bus else ()
        if others:
            detail = f"the log has other buses too ({', '.join(others)}), left out; name one with log_bus"
            first.tell(EventKind.BUS_ERROR, at_ns, detail)
        for i, monitor in enumerate(self._monitors):
            if (wanted := self._configs[i].log_bus) and not self._read[i] and not report.damage:
                monitor.tell(EventKind.BUS_ERROR, at_ns, f"the log has no frame of a bus {wanted!r} (log_bus)")
            monitor.flush_all(at_ns)
            monitor.end(at_ns, LinkState.ENDED, f"replay ended after {self._read[i]} frames")
