"""Time as a port. Cores take it as an argument; shells ask this."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """UTC for records, monotonic for durations; both in nanoseconds."""

    def utc_ns(self) -> int:
        """Nanoseconds since the epoch; may jump."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since some start; never goes back."""


class SystemClock:
    """The machine's clocks."""

    def utc_ns(self) -> int:
        """The wall clock."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns()
