"""Debouncing: single test results to a verdict, and the fault detection counter that shows how far it is.

ISO 14229-1, D.4: the fault detection counter runs from -128 (passed) to 127 (failed); 0 tells nothing yet.
"""

from __future__ import annotations

from gateway.dtc.model import FDC_MAX, FDC_MIN, Debounce, TestResult

_MS = 1_000_000


class Debouncer:
    """The debouncing of one DTC. Forgets everything at ``reset`` (cycle start, clear, DTC setting off)."""

    def __init__(self, settings: Debounce) -> None:
        self._settings = settings
        by_time = settings.kind == "time"
        self._up = settings.fail_ms * _MS if by_time else settings.fail_after
        self._down = settings.pass_ms * _MS if by_time else settings.pass_after
        self._counter = 0  # steps, or nanoseconds of agreement (negative: towards passed)
        self._last_ns: int | None = None  # time of the last result that counts, None after an UNKNOWN
        self._was_bad: bool | None = None

    def reset(self) -> None:
        """Know nothing."""
        self._counter, self._last_ns, self._was_bad = 0, None, None

    @property
    def fault_detection(self) -> int:
        """-128..127; the ends are reached exactly when the verdict is."""
        if self._counter >= 0:
            return self._counter * FDC_MAX // self._up
        return -(-self._counter * -FDC_MIN // self._down)

    def take(self, result: TestResult, now_ns: int) -> bool | None:
        """True when the test failed, False when it passed, None when that is open (again).

        ``now_ns`` is monotonic; time that goes back counts as none.
        """
        if result is TestResult.UNKNOWN:
            self._last_ns = None
            return None
        is_bad = result in (TestResult.FAILED, TestResult.PREFAILED)
        if result in (TestResult.FAILED, TestResult.PASSED) or self._settings.kind == "none":
            self._counter = self._up if is_bad else -self._down
        elif self._settings.kind == "counter":
            self._step(is_bad)
        else:
            self._elapse(is_bad, now_ns)
        self._last_ns, self._was_bad = now_ns, is_bad
        if self._counter >= self._up:
            return True
        return False if self._counter <= -self._down else None

    def _step(self, is_bad: bool) -> None:
        own = self._settings
        if is_bad:
            start = self._counter if own.jump_up is None else max(self._counter, own.jump_up)
            self._counter = min(self._up, start + own.step_up)
        else:
            start = self._counter if own.jump_down is None else min(self._counter, own.jump_down)
            self._counter = max(-self._down, start - own.step_down)

    def _elapse(self, is_bad: bool, now_ns: int) -> None:
        passed_ns = 0 if self._last_ns is None else max(0, now_ns - self._last_ns)
        if self._was_bad is not is_bad:
            self._counter, passed_ns = 0, 0
        if is_bad:
            self._counter = min(self._up, self._counter + passed_ns)
        else:
            self._counter = max(-self._down, self._counter - passed_ns)
