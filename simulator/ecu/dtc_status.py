"""One trouble code over time: debounce, status byte, confirmation, healing, aging. A core without I/O.

Theory of operation (ISO 14229-1 annex D). A test runs again and again within an *operation cycle* and each time finds
the condition of a fault present or absent; the *fault detection counter* goes up or down with each and the test has a
*result* when it reaches +127 (failed) or -128 (passed). Results set the status bits; the start of an operation cycle
judges the cycle before it: did the test complete, did it fail? A cycle with a failure counts as a *trip*; as many in a
row as the code asks for make it confirmed and light its lamp. Cycles that completed without a failure first put the
lamp out, then, if they were warm-up cycles, age the code until it is forgotten. A cycle in which the test did not
complete proves nothing and changes nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from gateway.wire.dtc import Status
from simulator.ecu.dtc_description import DtcDescription

FAILED_AT, PASSED_AT = 127, -128
CLEARED = int(Status.NOT_COMPLETED_SINCE_CLEAR | Status.NOT_COMPLETED_THIS_CYCLE)
MAX_COUNT = 255
_FAILING = int(
    Status.TEST_FAILED | Status.TEST_FAILED_THIS_CYCLE | Status.PENDING | Status.FAILED_SINCE_CLEAR
)  # fmt: skip


@dataclass(slots=True)
class CodeState:
    """What an ECU remembers of one code, its text and limits apart. All of it is non-volatile but ``detection``."""

    status: int = CLEARED
    detection: float = 0.0  # fault detection counter
    trips: int = 0  # cycles with a failure, no completed one without between them
    good_cycles: int = 0  # completed without a failure since the last one with
    aging: int = 0  # warm-up cycles towards being forgotten
    occurrences: int = 0
    failed_cycles: int = 0  # cycles with a failure since the code was stored
    permanent: bool = False

    @property
    def detection_byte(self) -> int:
        """The fault detection counter as sent, a signed byte."""
        return int(self.detection) & 0xFF

    def has(self, bit: Status) -> bool:
        """Whether a status bit is set."""
        return bool(self.status & bit)

    # ---- results

    def observe(self, failing: bool, elapsed_ms: float, for_ms: float, heal_ms: float) -> bool | None:
        """One look at the condition; returns a result: True failed, False passed, None not decided (or not anew).

        A counter that turns round starts from zero, so that a condition that comes and goes is judged by its last run.
        """
        before = self.detection
        if failing:
            self.detection = min(FAILED_AT, max(0.0, before) + FAILED_AT * elapsed_ms / for_ms)
            return True if self.detection >= FAILED_AT > before else None
        self.detection = max(PASSED_AT, min(0.0, before) + PASSED_AT * elapsed_ms / heal_ms)
        return False if self.detection <= PASSED_AT < before else None

    def fail(self, dtc: DtcDescription, *, may_confirm: bool) -> bool:
        """The test failed. Returns whether this is an occurrence (not merely the same failure going on).

        Without a place in the memory a code cannot be confirmed.
        """
        first_in_cycle = not self.has(Status.TEST_FAILED_THIS_CYCLE)
        occurrence = first_in_cycle or not self.has(Status.TEST_FAILED)
        self.status = self.status & ~CLEARED | _FAILING
        self.good_cycles = self.aging = 0
        if occurrence:
            self.occurrences = min(MAX_COUNT, self.occurrences + 1)
        if first_in_cycle:
            self.trips = min(MAX_COUNT, self.trips + 1)
            self.failed_cycles = min(MAX_COUNT, self.failed_cycles + 1)
        if may_confirm and self.trips >= dtc.confirm_cycles:
            self.status |= Status.CONFIRMED
            if dtc.lamp:
                self.status |= Status.WARNING_INDICATOR
                self.permanent |= dtc.emissions
        return occurrence

    def succeed(self) -> None:
        """The test passed."""
        self.status &= ~int(Status.TEST_FAILED) & ~CLEARED

    # ---- operation cycles

    def begin_cycle(self, dtc: DtcDescription, *, warm_up: bool) -> bool:
        """An operation cycle begins; ``warm_up``: the one before counted as a warm-up cycle.

        Returns whether the code was forgotten: aged out, or no longer suspected and never confirmed.
        """
        completed = not self.has(Status.NOT_COMPLETED_THIS_CYCLE)
        good = completed and not self.has(Status.TEST_FAILED_THIS_CYCLE)
        forgotten = self._judge_good_cycle(dtc, warm_up) if good else False
        self.status &= ~int(Status.TEST_FAILED_THIS_CYCLE)
        self.status |= Status.NOT_COMPLETED_THIS_CYCLE
        self.detection = 0.0
        return forgotten

    def _judge_good_cycle(self, dtc: DtcDescription, warm_up: bool) -> bool:
        was_pending = self.has(Status.PENDING)
        self.trips = 0
        self.status &= ~int(Status.PENDING)
        if self.has(Status.WARNING_INDICATOR):
            self.good_cycles += 1
            if self.good_cycles >= dtc.heal_cycles:
                self.status &= ~int(Status.WARNING_INDICATOR)
                self.permanent = False
            return False
        self.permanent = False
        if not self.has(Status.CONFIRMED):
            return was_pending
        self.aging += warm_up
        if self.aging < dtc.aging_cycles:
            return False
        self.forget()
        return True

    # ---- forgetting

    def forget(self) -> None:
        """Aged or displaced: no longer pending or confirmed. That it failed since the last clear stays true."""
        self.status &= ~int(Status.PENDING | Status.CONFIRMED | Status.WARNING_INDICATOR)
        self.trips = self.good_cycles = self.aging = self.occurrences = self.failed_cycles = 0

    def clear(self) -> None:
        """Cleared by a tester: as new, but a permanent code stays until the ECU itself has seen the test pass."""
        self.forget()
        self.status, self.detection = CLEARED, 0.0

    # ---- non-volatile

    def save(self) -> dict[str, int | bool]:
        """For the non-volatile memory."""
        values = asdict(self)
        del values["detection"]
        return values

    @classmethod
    def load(cls, saved: dict[str, int | bool]) -> CodeState:
        """From ``save``; what an older version did not save is as new."""
        known = {name for name in cls.__dataclass_fields__ if name in saved}
        return cls(**{name: saved[name] for name in known})  # type: ignore[arg-type]  # bool and int fields alike
