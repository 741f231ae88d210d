"""Time as a port: everything in the cloud that asks for the time asks a ``Clock``."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one for records, one for durations."""

    def now_ns(self) -> int:
        """UTC nanoseconds since the epoch. May jump."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds that never go back, for durations only."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


class ManualClock:
    """A clock that moves when told to; for tests and simulations."""

    def __init__(self, now_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now_ns = now_ns
        self._monotonic_ns = 0

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def advance_s(self, seconds: float) -> None:
        """Move both clocks forward."""
        step_ns = int(seconds * 1e9)
        self._now_ns += step_ns
        self._monotonic_ns += step_ns
