"""The tests behind the monitors: what each kind says at one moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from gateway.dtc.latest import NEVER
from gateway.dtc.model import TestResult
from gateway.dtc.rules import (
    BusOffTest,
    ConditionTest,
    EcuTest,
    IntegrityTest,
    MissingTest,
    RangeTest,
    RateTest,
    Test,
)
from gateway.dtc.scalar import Present, Reader

_BAD, _GOOD, _UNKNOWN = TestResult.PREFAILED, TestResult.PREPASSED, TestResult.UNKNOWN


class Look:
    """What all tests look at, at one moment.

    Attributes:
        present: values of signals, by place.
        seen_ns: by slot, when each message came last; ``NEVER`` if not yet.
        frames, bad_checksums, bad_counters: by message number, since the moment before.
        bus_seen_ns: by bus, when any frame came last.
        bus_is_off, silent_ecus: as told.
    """

    def __init__(self, present: Present, messages: int, buses: int) -> None:
        self.now_ns = 0
        self.present = present
        self.seen_ns: list[int] = []
        self.frames = np.zeros(messages, np.int64)
        self.bad_checksums = np.zeros(messages, np.int64)
        self.bad_counters = np.zeros(messages, np.int64)
        self.bus_seen_ns = [NEVER] * buses
        self.bus_is_off = [False] * buses
        self.silent_ecus: dict[str, bool] = {}

    def forget_counts(self) -> None:
        """Begin counting for the next moment."""
        if self.frames.any():
            self.frames[:] = self.bad_checksums[:] = self.bad_counters[:] = 0


class Check(Protocol):
    """One test."""

    def begin(self, look: Look) -> None:
        """It is enabled from now on; what was before does not count."""

    def look(self, look: Look) -> TestResult:
        """What it says now."""


class RangeCheck:
    """Outside the limits, until inside again by the hysteresis."""

    def __init__(self, test: RangeTest, place: int) -> None:
        self._test, self._place, self._is_bad = test, place, False

    def begin(self, look: Look) -> None:
        """See ``Check``."""
        self._is_bad = False

    def look(self, look: Look) -> TestResult:
        """See ``Check``."""
        value, test = look.present.value[self._place], self._test
        if value != value:
            return _UNKNOWN
        margin = test.hysteresis if self._is_bad else 0.0
        self._is_bad = not test.low + margin <= value <= test.high - margin
        return _BAD if self._is_bad else _GOOD


class RateCheck:
    """Faster than allowed between two moments at which the value was known and newer than before."""

    def __init__(self, test: RateTest, place: int) -> None:
        self._test, self._place = test, place
        self._before: tuple[float, float] | None = None  # value, its time in ms

    def begin(self, look: Look) -> None:
        """See ``Check``."""
        self._before = None

    def look(self, look: Look) -> TestResult:
        """See ``Check``."""
        value = look.present.value[self._place]
        if value != value:
            self._before = None
            return _UNKNOWN
        at_ms = look.now_ns / 1e6 - look.present.age_ms[self._place]
        before = self._before
        if before is not None and at_ms <= before[1] + 0.001:  # the same sample
            return _UNKNOWN
        self._before = value, at_ms
        if before is None:
            return _UNKNOWN
        rate = (value - before[0]) / (at_ms - before[1]) * 1000
        return _BAD if rate > self._test.rise or -rate > self._test.fall else _GOOD


class ConditionCheck:
    """The condition holds."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def begin(self, look: Look) -> None:
        """See ``Check``."""

    def look(self, look: Look) -> TestResult:
        """See ``Check``."""
        truth = self._reader()
        if truth != truth:
            return _UNKNOWN
        return _BAD if truth == 1.0 else _GOOD


class MissingCheck:
    """Any of the messages, or the bus, was silent for too long, counted from when the test was enabled at the earliest.

    On a bus that is known to be off nothing is missing: another test tells of that.
    """

    def __init__(self, test: MissingTest, slots: Mapping[int, int], buses: Mapping[int, int]) -> None:
        self._watched = [(slots[message], timeout, buses[message]) for message, timeout in test.messages]
        self._bus, self._bus_timeout_ns = test.bus, test.bus_timeout_ns
        self._since_ns = 0

    def begin(self, look: Look) -> None:
        """See ``Check``."""
        self._since_ns = look.now_ns

    def look(self, look: Look) -> TestResult:
        """See ``Check``."""
        if self._bus >= 0:
            if look.bus_is_off[self._bus]:
                return _UNKNOWN
            return self._judge(look, look.bus_seen_ns[self._bus], self._bus_timeout_ns)
        worst = _GOOD
        for slot, timeout_ns, bus in self._watched:
            result = _UNKNOWN if look.bus_is_off[bus] else self._judge(look, look.seen_ns[slot], timeout_ns)
            if result is _BAD:
                return _BAD
            if result is _UNKNOWN:
                worst = _UNKNOWN
        return worst

    def _judge(self, look: Look, seen_ns: int, timeout_ns: int) -> TestResult:
        if look.now_ns - max(seen_ns, self._since_ns) > timeout_ns:
            return _BAD
        return _GOOD if seen_ns >= self._since_ns else _UNKNOWN  # nothing came yet, and need not have


class IntegrityCheck:
    """Any frame since the moment before was wrong."""

    def __init__(self, test: IntegrityTest) -> None:
        self._messages = np.array([r.message for r in test.rules], np.intp)
        self._checksum, self._counter = test.checksum, test.counter

    def begin(self, look: Look) -> None:
        """See ``Check``."""

    def look(self, look: Look) -> TestResult:
        """See ``Check``."""
        if self._checksum and look.bad_checksums[self._messages].any():
            return _BAD
        if self._counter and look.bad_counters[self._messages].any():
            return _BAD
        return _GOOD if look.frames[self._messages].any() else _UNKNOWN


class EcuCheck:
    """The ECU was silent when asked last; each answer is judged once."""

    def __init__(self, test: EcuTest) -> None:
        self._ecu = test.ecu

    def begin(self, look: Look) -> None:
        """See ``Check``."""

    def look(self, look: Look) -> TestResult:
        """See ``Check``."""
        told = look.silent_ecus.pop(self._ecu, None)
        if told is None:
            return _UNKNOWN
        return _BAD if told else _GOOD


class BusOffCheck:
    """The controller is off the bus."""

    def __init__(self, test: BusOffTest) -> None:
        self._bus = test.bus

    def begin(self, look: Look) -> None:
        """See ``Check``."""

    def look(self, look: Look) -> TestResult:
        """See ``Check``."""
        return _BAD if look.bus_is_off[self._bus] else _GOOD


def make_check(
    test: Test,
    places: Mapping[int, int],
    slots: Mapping[int, int],
    buses: Mapping[int, int],
    compiled: Callable[[ConditionTest], Reader],
) -> Check:
    """The check of a test. ``places`` by signal, ``slots`` and ``buses`` by message number."""
    match test:
        case RangeTest():
            return RangeCheck(test, places[test.signal])
        case RateTest():
            return RateCheck(test, places[test.signal])
        case ConditionTest():
            return ConditionCheck(compiled(test))
        case MissingTest():
            return MissingCheck(test, slots, buses)
        case IntegrityTest():
            return IntegrityCheck(test)
        case EcuTest():
            return EcuCheck(test)
        case BusOffTest():
            return BusOffCheck(test)
