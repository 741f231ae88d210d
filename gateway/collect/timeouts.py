"""Messages that should come and do not. One event when a message is overdue, one when it is back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.wire.samples import Event, EventKind

_NEVER = 1 << 62


class Timeouts:
    """Watches messages for schemes.

    Args:
        watched: ``(scheme, message, timeout_ns, source)``; ``source`` names the message in events.
        message_count: of the manifest.
    """

    def __init__(self, watched: Sequence[tuple[int, int, int, str]], message_count: int) -> None:
        self._watched = watched
        self._message = np.array([w[1] for w in watched], np.intp)
        self._limit = np.array([w[2] for w in watched], np.int64)
        self._last = np.full(len(watched), -1, np.int64)  # -1: the watch has not begun
        self._overdue = np.zeros(len(watched), np.bool_)
        self._interesting = np.zeros(message_count + 1, np.bool_)
        self._interesting[self._message] = True

    def __bool__(self) -> bool:
        return bool(self._watched)

    def feed(self, message: NDArray[np.int32], time_ns: NDArray[np.int64]) -> list[tuple[int, Event]]:
        """Take in a batch's message numbers (-1: none) and times; returns ``(scheme, event)``.

        Gaps inside the batch and up to its first frames are told too, so events do not depend on how frames are cut
        into batches. The watch of a message begins with the first batch, whether the message is in it or not.
        """
        if not self._watched or not len(time_ns):
            return []
        self._last[self._last < 0] = int(time_ns[0])
        events: list[tuple[int, Event]] = []
        chosen = np.flatnonzero(self._interesting[message])
        if not len(chosen):
            return events
        messages = message[chosen]
        present = np.flatnonzero(np.isin(self._message, messages))
        for watch in present.tolist():
            times = time_ns[chosen[messages == self._message[watch]]]
            gaps = np.diff(np.concatenate([self._last[watch : watch + 1], times]))
            late = np.flatnonzero(gaps > self._limit[watch])
            if self._overdue[watch] and not (len(late) and late[0] == 0):
                events.append(self._event(watch, int(times[0]), back=True))
            for at in late.tolist():
                if not (at == 0 and self._overdue[watch]):
                    due = int(times[at]) - int(gaps[at]) + int(self._limit[watch])
                    events.append(self._event(watch, due, back=False))
                events.append(self._event(watch, int(times[at]), back=True))
            self._last[watch] = times[-1]
            self._overdue[watch] = False
        return events

    def tick(self, now_ns: int) -> list[tuple[int, Event]]:
        """Tell what became overdue by ``now_ns``."""
        if not self._watched:
            return []
        late = (self._last >= 0) & ~self._overdue & (now_ns - self._last > self._limit)
        events = []
        for watch in np.flatnonzero(late).tolist():
            self._overdue[watch] = True
            events.append(self._event(watch, int(self._last[watch] + self._limit[watch]), back=False))
        return events

    def shift(self, step_ns: int) -> None:
        """The clock was set: what has passed stays what it was."""
        begun = self._last >= 0
        self._last[begun] = np.maximum(self._last[begun] + step_ns, 0)

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` will next have something to tell."""
        waiting = (self._last >= 0) & ~self._overdue
        if not waiting.any():
            return None
        return int((self._last[waiting] + self._limit[waiting]).min()) + 1

    def adopt(self, other: Timeouts, schemes: dict[int, int]) -> None:
        """Continue the watches of another set; ``schemes`` maps its scheme numbers to ours."""
        there = {(schemes.get(w[0]), w[1], w[2]): i for i, w in enumerate(other._watched)}
        for own, watch in enumerate(self._watched):
            if (number := there.get((watch[0], watch[1], watch[2]))) is not None:
                self._last[own], self._overdue[own] = other._last[number], other._overdue[number]

    def _event(self, watch: int, at_ns: int, *, back: bool) -> tuple[int, Event]:
        scheme, _, limit, source = self._watched[watch]
        kind = EventKind.RECOVERED if back else EventKind.TIMEOUT
        return scheme, Event(at_ns, kind, source, "" if back else f"none for {limit // 1_000_000} ms")
