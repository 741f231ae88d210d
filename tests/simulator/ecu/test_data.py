"""Data by identifier: reading, scaling, writing, holding, composing, sending periodically."""

from __future__ import annotations

import pytest

from tests.simulator.ecu.support import Bench, unlock

SPEED = "powertrain.VehicleMotion.VehicleSpeed"
FAN = "powertrain.ThermalControl.FanDuty"


@pytest.fixture
def bench() -> Bench:
    """A motor control unit."""
    return Bench("motor")


def test_a_value_follows_the_signal(bench: Bench) -> None:
    bench.vehicle.values[SPEED] = 52.5
    assert bench.one("22 01 01") == "62 01 01 14 82"


def test_values_beyond_the_bytes_are_bounded(bench: Bench) -> None:
    bench.vehicle.values[SPEED] = 1e9
    assert bench.one("22 01 01") == "62 01 01 FF FF"
    bench.vehicle.values[SPEED] = -5.0
    assert bench.one("22 01 01") == "62 01 01 00 00"


def test_several_identifiers_answer_those_that_exist(bench: Bench) -> None:
    assert bench.one("22 DE AD F1 86 BE EF") == "62 F1 86 01"
    assert bench.one("22 DE AD") == "7F 22 31"


def test_odd_length(bench: Bench) -> None:
    assert bench.one("22 F1") == "7F 22 13"
    assert bench.one("22 F1 86 F1") == "7F 22 13"


def test_answer_too_long() -> None:
    bench = Bench("battery")
    bench.one("10 03")
    assert len(bytes.fromhex(bench.one("22 03 02"))) == 4003
    assert bench.one("22 03 02 03 02") == "7F 22 14"


def test_unknown_before_locked() -> None:
    bench = Bench("body")
    assert bench.one("22 03 02") == "7F 22 31"  # exists in the extended session only
    bench.one("10 03")
    assert bench.one("22 03 02") == "7F 22 33"
    unlock(bench, 1)
    assert bench.one("22 03 02") == "62 03 02 02"


def test_needs_authentication() -> None:
    bench = Bench("battery")
    bench.one("10 03")
    assert bench.one("22 03 03") == "7F 22 34"


def test_functional_requests_are_silent_where_others_may_answer(bench: Bench) -> None:
    assert bench.one("22 DE AD", functional=True) == ""
    assert bench.one("22 F1 86", functional=True) == "62 F1 86 01"


def test_writing_is_judged_in_order(bench: Bench) -> None:
    assert bench.one("2E F1 98 00") == "7F 2E 7F"
    bench.one("10 03")
    assert bench.one("2E DE AD 00") == "7F 2E 31"  # unknown before its length
    assert bench.one("2E F1 98 00") == "7F 2E 13"
    assert bench.one("2E 03 00 00 64") == "7F 2E 33"
    unlock(bench, 1)
    assert bench.one("2E 03 00 00 01") == "7F 2E 31"  # below 30 km/h
    assert bench.one("2E 03 00 00 64") == "6E 03 00"
    assert bench.one("22 03 00") == "62 03 00 00 64"


def test_a_read_only_identifier_is_out_of_range_for_writing(bench: Bench) -> None:
    bench.one("10 03")
    assert bench.one("2E F1 86 03") == "7F 2E 31"


def test_condition_comes_last(bench: Bench) -> None:
    bench.one("10 03")
    unlock(bench, 1)
    bench.vehicle.values[SPEED] = 20.0
    assert bench.one(b"\x2e\xf1\x90" + b"W" * 17) == "7F 2E 22"
    bench.vehicle.values[SPEED] = 0.0
    assert bench.one(b"\x2e\xf1\x90" + b"\xff" * 17) == "7F 2E 31"
    assert bench.one(b"\x2e\xf1\x90" + b"W" * 17) == "6E F1 90"


def test_what_was_written_survives_a_loss_of_power(bench: Bench) -> None:
    bench.one("10 03")
    bench.one("2E F1 98" + b"WORKSHOP 7".hex())
    bench.power_cycle()
    assert bench.one("22 F1 98") == "62 F1 98 " + b"WORKSHOP 7".hex(" ").upper()


def test_slow_writing_is_pending() -> None:
    bench = Bench("battery")
    bench.one("10 03")
    unlock(bench, 1)
    assert bench.ask(b"\x2e\x03\x01" + b"A" * 96) == []
    assert bench.advance(0.06) == ["7F 2E 78"]
    assert bench.advance(0.5) == ["6E 03 01"]


def test_scaling_tells_type_formula_and_unit(bench: Bench) -> None:
    """0.01 km/h per bit in two bytes: 1 * 10^-2, and no offset."""
    assert bench.one("24 01 01") == "64 01 01 02 95 00 E0 01 00 00 A1 30"
    assert bench.one("24 F1 90") == "64 F1 90 6F 62"
    assert bench.one("24 DE AD") == "7F 24 31"
    assert bench.one("24 01 01 00") == "7F 24 13"


def test_holding_a_signal_until_it_is_given_back(bench: Bench) -> None:
    bench.vehicle.values[FAN] = 10.0
    bench.one("10 03")
    assert bench.one("2F 02 10 03 A0") == "6F 02 10 03 A0"
    assert bench.vehicle.overrides == {FAN: 80.0}
    assert bench.one("2F 02 10 00") == "6F 02 10 00 14"
    assert bench.vehicle.overrides == {}


def test_freezing_and_resetting_to_default(bench: Bench) -> None:
    bench.vehicle.values[FAN] = 33.0
    bench.one("10 03")
    bench.one("2F 02 10 02")
    bench.vehicle.values[FAN] = 70.0
    assert bench.one("22 02 10") == "62 02 10 42"
    assert bench.one("2F 02 10 01") == "6F 02 10 01 00"


def test_control_ends_with_the_session(bench: Bench) -> None:
    bench.one("10 03")
    bench.one("2F 02 10 03 A0")
    bench.advance(5.1)
    assert bench.vehicle.overrides == {}


def test_control_is_judged_in_order(bench: Bench) -> None:
    assert bench.one("2F 02 10 03 A0") == "7F 2F 7F"
    bench.one("10 03")
    assert bench.one("2F 01 01 03 00 00") == "7F 2F 31"  # no control of the speed
    assert bench.one("2F 02 10 04") == "7F 2F 31"
    assert bench.one("2F 02 10 03") == "7F 2F 13"
    assert bench.one("2F 02 10 00 00") == "7F 2F 13"
    assert bench.one("2F 02 10 03 FF") == "7F 2F 31"  # 127.5 %
    assert bench.one("2F 02 11 03 10") == "7F 2F 33"


def test_the_mask_chooses_fields() -> None:
    bench = Bench("body")
    bench.one("10 03")
    bench.one("2F 02 11 03 01 01 01 01 01 01 50")
    assert set(bench.vehicle.overrides) == {"body.LightStatus.HighBeam", "body.LightStatus.ReverseLight"}
    bench.one("2F 02 11 00 40")
    assert set(bench.vehicle.overrides) == {"body.LightStatus.ReverseLight"}


def test_composed_identifiers(bench: Bench) -> None:
    bench.vehicle.values[SPEED] = 1.0
    assert bench.one("2C 01 F3 01 01 01 01 02 F1 86 01 01") == "6C 01 F3 01"
    assert bench.one("22 F3 01") == "62 F3 01 00 64 01"
    assert bench.one("2C 01 F3 01 F1 90 01 01") == "6C 01 F3 01"  # appends
    assert bench.one("22 F3 01") == "62 F3 01 00 64 01 30"
    assert bench.one("2C 03 F3 01") == "6C 03 F3 01"
    assert bench.one("22 F3 01") == "7F 22 31"
    assert bench.one("2C 03") == "6C 03"


@pytest.mark.parametrize(
    ("request_", "nrc"),
    [
        ("2C 01 F3", 0x13),
        ("2C 01 F3 01 01 01 01", 0x13),
        ("2C 01 01 01 01 01 01 02", 0x31),  # the target is a fixed one
        ("2C 01 F2 00 01 01 01 02", 0x31),
        ("2C 01 F3 01 DE AD 01 01", 0x31),
        ("2C 01 F3 01 01 01 00 01", 0x31),
        ("2C 01 F3 01 01 01 02 02", 0x31),  # beyond the value
        ("2C 01 F3 01 03 00 01 00", 0x31),
        ("2C 02 F3 01 99 20 00 00 00 04", 0x31),
        ("2C 04", 0x12),
    ],
)
def test_composing_is_refused(bench: Bench, request_: str, nrc: int) -> None:
    assert bench.one(request_) == f"7F 2C {nrc:02X}"


def test_composing_from_what_is_locked() -> None:
    bench = Bench("body")
    bench.one("10 03")
    assert bench.one("2C 01 F3 01 03 02 01 01") == "7F 2C 33"
    unlock(bench, 1)
    assert bench.one("2C 01 F3 01 03 02 01 01") == "6C 01 F3 01"
    bench.one("10 03")  # locks again: the composed one must not be a way around
    assert bench.one("22 F3 01") == "7F 22 33"


def test_composing_from_memory(bench: Bench) -> None:
    bench.one("10 03")
    assert bench.one("2C 02 F3 02 14 20 00 00 00 02 20 00 00 10 01") == "6C 02 F3 02"
    assert bench.one("22 F3 02") == "62 F3 02 00 00 00"


def test_periodic_data_at_its_rate_until_stopped(bench: Bench) -> None:
    bench.one("10 03")
    assert bench.one("2A 03 00") == "6A"
    sent = bench.advance(1.0)
    assert 18 <= len(sent) <= 21
    assert all(frame.startswith("00 ") and len(frame) == 3 * 7 - 1 for frame in sent)
    assert bench.one("2A 04 00") == "6A"
    assert bench.advance(1.0) == []


def test_periodic_data_without_an_identifier_of_its_own() -> None:
    bench = Bench("gearbox")
    bench.one("10 03")
    bench.one("2A 02 00")
    assert bench.advance(0.5)[0].startswith("6A 00 ")


def test_periodic_data_ends_with_the_session(bench: Bench) -> None:
    bench.one("10 03")
    bench.one("2A 01 00 01")
    bench.one("10 03")
    assert bench.advance(3.0) == []


@pytest.mark.parametrize(
    ("request_", "nrc"), [("2A 05 00", 0x31), ("2A 01", 0x13), ("2A 01 77", 0x31), ("2A 04 77", 0x31), ("2A", 0x13)]
)
def test_periodic_data_is_refused(bench: Bench, request_: str, nrc: int) -> None:
    bench.one("10 03")
    assert bench.one(request_) == f"7F 2A {nrc:02X}"


def test_periodic_data_needs_another_session(bench: Bench) -> None:
    assert bench.one("2A 01 00") == "7F 2A 7F"
