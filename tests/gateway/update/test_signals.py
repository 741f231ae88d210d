"""What conditions and health checks hear of the buses."""

from __future__ import annotations

import math

import pytest

from dbc.frames import FrameBatch
from gateway.errors import ConfigError
from gateway.update.conditions import SignalCondition
from gateway.update.config import Condition
from gateway.update.signals import EVERYTHING, WatchedSignals
from tests.gateway.diag.test_vehicle_state import MANIFEST, rest, speed
from tests.gateway.dtc.drive import FakeClock

SECOND_NS = 1_000_000_000


def watched(*buses: str) -> tuple[WatchedSignals, FakeClock]:
    clock = FakeClock()
    return WatchedSignals(MANIFEST, ("b.Speed.V", "U"), buses, clock), clock


def test_a_signal_never_seen_is_unknown() -> None:
    signals, _ = watched()
    assert signals.latest("U").value is None


def test_the_latest_value_and_its_age() -> None:
    signals, clock = watched()
    signals.observe(rest(12.5, 0, 1), 0)
    signals.observe(speed(3.0), 0)
    clock.now_ns += 2 * SECOND_NS
    assert signals.latest("U").value == pytest.approx(12.5)
    assert (signals.latest("U").age_s, signals.latest("b.Speed.V").value) == (2.0, 3.0)


def test_a_value_that_is_no_number_is_unknown() -> None:
    signals, _ = watched()
    signals.observe(speed(math.nan), 0)
    assert signals.latest("b.Speed.V").value is None


def test_a_bus_is_silent_since_its_last_frame_of_any_kind() -> None:
    signals, clock = watched("a")
    assert signals.silent_s("a") is None
    signals.observe(FrameBatch.from_rows([(0, 0, 0x7FF, 0, b"")]), 0)
    clock.now_ns += SECOND_NS
    signals.observe(speed(1.0), 0)
    assert signals.silent_s("a") == 1.0
    assert signals.silent_s("b") == 0.0
    assert signals.latest("U").bus_silent_s == 1.0


def test_a_condition_is_told_what_is_missing() -> None:
    signals, clock = watched()
    parked = SignalCondition(Condition(name="parked", signal="b.Speed.V", at_most=0.5, max_age_s=5), signals)
    sleeping = SignalCondition(
        Condition(name="parked", signal="b.Speed.V", at_most=0.5, max_age_s=5, may_be_silent=True), signals
    )
    assert "not known" in parked.missing(0)
    signals.observe(speed(3.0), 0)
    assert "is 3" in parked.missing(0)
    signals.observe(speed(0.0), 0)
    assert parked.missing(0) == ""
    clock.now_ns += 6 * SECOND_NS
    assert "not known" in parked.missing(0)
    assert sleeping.missing(0) == ""


def test_a_bus_that_must_be_heard_passes_the_filter_whole_only_on_trial() -> None:
    """Else a trial would fail because nothing of that bus is collected."""
    signals, _ = watched("a")
    assert signals.wanted().get("a") != EVERYTHING
    signals.is_on_trial = True
    assert signals.wanted()["a"] == EVERYTHING


def test_unknown_signals_and_buses_are_configuration_errors() -> None:
    with pytest.raises(ConfigError, match=r"conditions\[0\]"):
        WatchedSignals(MANIFEST, ("Nothing",), (), FakeClock())
    with pytest.raises(ConfigError, match=r"health\.buses\[0\]"):
        WatchedSignals(MANIFEST, (), ("c",), FakeClock())
