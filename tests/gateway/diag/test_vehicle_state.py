"""What the vehicle does, and that unknown counts as moving."""

from __future__ import annotations

import numpy as np
import pytest

from dbc.frames import FrameBatch
from dbc.manifest import Kind, Manifest, Message, Signal
from gateway.diag.config import VehicleStateSection
from gateway.diag.vehicle_state import VehicleState
from gateway.errors import ConfigError
from tests.gateway.dtc.drive import FakeClock

MS = 1_000_000


def a_signal(name: str, start: int, length: int, scale: float, unit: str, kind: Kind = Kind.UNSIGNED) -> Signal:
    return Signal(name, start, length, False, kind, scale, 0.0, None, None, unit, {}, False, ())


MANIFEST = Manifest(
    1,
    "car",
    ("a", "b"),
    (
        Message(
            "Speed", 1, 0x100, False, False, 4, 10, None, "", "", (a_signal("V", 0, 32, 1.0, "m/s", Kind.FLOAT32),)
        ),
        Message(
            "Rest", 0, 0x18FF0021, True, False, 8, 100, None, "", "",
            (a_signal("U", 0, 16, 0.01, "V"), a_signal("Odo", 16, 32, 1.0, "m"), a_signal("Key", 48, 8, 1.0, "")),
        ),
    ),
)  # fmt: skip
SECTION = VehicleStateSection(
    speed_signal="b.Speed.V",
    speed_unit="m/s",
    standstill_below=0.5,
    max_age_ms=1000,
    voltage_signal="U",
    odometer_signal="Odo",
    ignition_signal="Key",
)


def make(section: VehicleStateSection = SECTION) -> tuple[VehicleState, FakeClock]:
    clock = FakeClock()
    return VehicleState(section, MANIFEST, clock), clock


def stands(state: VehicleState) -> bool:
    return state.is_standstill


def ignition(state: VehicleState) -> bool | None:
    return state.is_ignition_on


def speed(value: float) -> FrameBatch:
    return FrameBatch.from_rows([(0, 1, 0x100, 0, np.float32(value).tobytes())])


def rest(volts: float, metres: int, key: int) -> FrameBatch:
    payload = round(volts * 100).to_bytes(2, "little") + metres.to_bytes(4, "little") + bytes([key, 0])
    return FrameBatch.from_rows([(0, 0, 0x18FF0021, 1, payload)])


def test_nothing_seen_means_moving_and_all_unknown() -> None:
    state, _ = make()
    assert not stands(state)
    assert state.speed_kmh is state.voltage_v is state.odometer_km is state.is_ignition_on is None


def test_without_configuration_it_moves_for_ever() -> None:
    state, _ = make(VehicleStateSection())
    state.observe(speed(0.0), 0)
    assert not stands(state)
    assert state.wanted() == {}
    assert not state.has_ignition


@pytest.mark.parametrize(("mps", "expected"), [(0.0, True), (0.49, True), (0.51, False), (-3.0, False), (30.0, False)])
def test_standstill_is_below_the_threshold_in_the_signals_unit(mps: float, expected: bool) -> None:
    state, _ = make()
    state.observe(speed(mps), 0)
    assert stands(state) is expected
    assert state.speed_kmh == pytest.approx(mps * 3.6, rel=1e-6)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_a_speed_that_is_no_number_is_moving(odd: float) -> None:
    state, _ = make()
    state.observe(speed(0.0), 0)
    state.observe(speed(odd), 0)
    assert state.speed_kmh is None
    assert not stands(state)
    assert not state.was_standstill


def test_a_standstill_becomes_unknown_with_age() -> None:
    state, clock = make()
    state.observe(speed(0.0), 0)
    clock.now_ns = 1000 * MS
    assert stands(state)
    clock.now_ns += 1
    assert not stands(state)
    assert state.was_standstill
    assert state.reading("speed").value == 0.0
    assert state.reading("speed").age_ms == pytest.approx(1000, rel=1e-3)


TWO = VehicleStateSection(
    speed_signal="b.Speed.V", second_speed_signal="a.Rest.U", speed_unit="m/s", standstill_below=0.5, max_age_ms=1000
)


def test_a_second_speed_serves_while_the_first_is_silent() -> None:
    state, clock = make(TWO)
    state.observe(speed(0.0), 0)
    clock.now_ns = 1500 * MS
    assert not stands(state)
    state.observe(rest(0.1, 0, 0), 0)
    assert stands(state)
    assert state.was_standstill
    state.observe(rest(20.0, 0, 0), 0)
    assert state.speed_kmh == pytest.approx(72.0)
    assert not state.was_standstill


@pytest.mark.parametrize(("first", "second"), [(0.0, 20.0), (20.0, 0.0), (-20.0, 0.0)])
def test_of_two_speeds_the_faster_counts(first: float, second: float) -> None:
    state, _ = make(TWO)
    state.observe(speed(first), 0)
    state.observe(rest(second, 0, 0), 0)
    assert not stands(state)
    assert not state.was_standstill


def test_other_buses_short_frames_and_error_frames_do_not_count() -> None:
    state, _ = make()
    state.observe(FrameBatch.from_rows([(0, 0, 0x100, 0, bytes(4))]), 0)  # the other bus
    state.observe(FrameBatch.from_rows([(0, 1, 0x100, 0, bytes(3))]), 0)  # too short for the signal
    state.observe(FrameBatch.from_rows([(0, 1, 0x100, 4, bytes(8))]), 0)  # an error frame
    state.observe(FrameBatch.from_rows([(0, 1, 0x100, 2, bytes(4))]), 0)  # a remote frame
    state.observe(FrameBatch.from_rows([(0, 1, 0x100, 1, bytes(4))]), 0)  # a 29-bit identifier
    assert not stands(state)


def test_the_newest_frame_of_a_batch_counts() -> None:
    state, _ = make()
    state.observe(FrameBatch.concatenate([speed(0.0), speed(20.0)]), 0)
    assert not stands(state)
    state.observe(FrameBatch.concatenate([speed(20.0), speed(0.0)]), 0)
    assert stands(state)


def test_voltage_odometer_and_ignition() -> None:
    state, clock = make()
    state.observe(rest(12.6, 45_678_900, 1), 0)
    assert state.voltage_v == pytest.approx(12.6)
    assert state.odometer_km == pytest.approx(45678.9)
    assert ignition(state) is True
    state.observe(rest(12.6, 45_678_900, 0), 0)
    assert ignition(state) is False
    clock.now_ns = 10_000 * MS
    assert state.voltage_v is None
    assert ignition(state) is None
    assert state.odometer_km == pytest.approx(45678.9)


def test_it_asks_for_its_frames() -> None:
    state, _ = make()
    assert {bus: set(ids) for bus, ids in state.wanted().items()} == {"b": {(0x100, False)}, "a": {(0x18FF0021, True)}}


def test_unknown_signals_are_refused_by_key() -> None:
    with pytest.raises(ConfigError, match=r"no signal 'Vx'.*vehicle_state.speed_signal"):
        make(VehicleStateSection(speed_signal="Vx"))
