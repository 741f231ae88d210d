"""When to try again: exponential with full jitter, so that a fleet does not come back all at once."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Pauses that grow with each failure in a row. ``random`` gives a float in [0, 1)."""

    def __init__(self, first_s: float, max_s: float, random: Callable[[], float]) -> None:
        self._first_s, self._max_s, self._random = first_s, max_s, random
        self.failures = 0

    def failed(self, at_least_s: float = 0.0) -> float:
        """Seconds to wait after one more failure; never less than the server asked for (``Retry-After``)."""
        ceiling_s = min(self._max_s, self._first_s * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return max(at_least_s, ceiling_s * (0.5 + 0.5 * self._random()))

    def succeeded(self) -> None:
        """Start from the beginning next time."""
        self.failures = 0
