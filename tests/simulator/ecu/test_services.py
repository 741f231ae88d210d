"""Communication, timing, links, routines, memory."""

from __future__ import annotations

import pytest

from tests.simulator.ecu.support import Bench, unlock

SPEED = "powertrain.VehicleMotion.VehicleSpeed"


@pytest.fixture
def bench() -> Bench:
    """A motor control unit in the extended session."""
    bench = Bench("motor")
    bench.one("10 03")
    return bench


# -- 0x28


@pytest.mark.parametrize(
    ("request_", "normal", "network", "deaf"),
    [
        ("28 01 01", True, False, False),
        ("28 01 02", False, True, False),
        ("28 03 03", True, True, True),
        ("28 02 01", False, False, True),
        ("28 00 03", False, False, False),
    ],
)
def test_messages_are_silenced(bench: Bench, request_: str, normal: bool, network: bool, deaf: bool) -> None:
    assert bench.one(request_) == f"68 {request_[3:5]}"
    assert bench.vehicle.silent["VCU"] == (normal, network)
    assert bench.context.receive_off == deaf


def test_messages_come_back_with_the_default_session(bench: Bench) -> None:
    bench.one("28 03 01")
    bench.one("10 03")
    assert bench.vehicle.silent["VCU"] == (True, False)
    bench.one("10 01")
    assert bench.vehicle.silent["VCU"] == (False, False)


@pytest.mark.parametrize(
    ("request_", "nrc"),
    [("28 01", 0x13), ("28 01 01 00", 0x13), ("28 04 01", 0x12), ("28 01 00", 0x31), ("28 01 21", 0x31)],
)
def test_communication_control_is_refused(bench: Bench, request_: str, nrc: int) -> None:
    assert bench.one(request_) == f"7F 28 {nrc:02X}"


def test_communication_stays_while_moving(bench: Bench) -> None:
    bench.vehicle.values[SPEED] = 50.0
    assert bench.one("28 03 01") == "7F 28 22"


# -- 0x83, 0x87


def test_timing_is_read_set_and_forgotten(bench: Bench) -> None:
    assert bench.one("83 01") == "C3 01 03 E8 09 C4"
    assert bench.one("83 04 00 64 00 C8") == "C3 04"
    assert bench.one("83 03") == "C3 03 00 64 00 C8"
    bench.one("10 03")
    assert bench.one("83 03") == "C3 03 00 32 01 F4"


def test_timing_in_force_moves_the_first_pending(bench: Bench) -> None:
    bench.one("83 04 03 E8 01 F4")
    bench.ask("31 01 02 00")
    assert bench.advance(0.4) == []
    assert bench.advance(0.2) == ["7F 31 78"]


@pytest.mark.parametrize(("request_", "nrc"), [("83 04 00 01 01 F4", 0x31), ("83 04 00 64", 0x13), ("83 05", 0x12)])
def test_timing_is_refused(bench: Bench, request_: str, nrc: int) -> None:
    assert bench.one(request_) == f"7F 83 {nrc:02X}"


def test_link_transition_needs_verification(bench: Bench) -> None:
    assert bench.one("87 03") == "7F 87 24"
    assert bench.one("87 01 13") == "C7 01"
    assert bench.one("87 03") == "C7 03"
    assert bench.one("87 03") == "7F 87 24"
    assert bench.one("87 02 07 A1 20") == "C7 02"
    assert bench.one("87 02 00 00 07") == "7F 87 31"
    assert bench.one("87 03") == "7F 87 24"


# -- 0x31


def test_unknown_routine_before_its_subfunction(bench: Bench) -> None:
    assert bench.one("31 01 BE EF") == "7F 31 31"
    assert bench.one("31 7A BE EF") == "7F 31 31"
    assert bench.one("31 7A 02 00") == "7F 31 12"
    assert bench.one("31 02 02 00") == "7F 31 12"  # cannot be stopped
    assert bench.one("31 01 02") == "7F 31 13"
    assert bench.one("31 01 02 00 00") == "7F 31 13"


def test_results_before_start(bench: Bench) -> None:
    assert bench.one("31 03 02 00") == "7F 31 24"


def test_a_long_routine_is_pending_and_then_answered(bench: Bench) -> None:
    assert bench.one("31 01 02 00") == "71 01 02 00 00 00 00"
    assert bench.one("31 03 02 00") == "71 03 02 00 00 00 00"


def test_busy_with_a_routine(bench: Bench) -> None:
    bench.ask("31 01 02 00")
    assert bench.ask("22 F1 86") == ["7F 22 21"]
    assert bench.ask("3E 00") == ["7E 00"]
    assert bench.advance(2.0)[-1].startswith("71 01")


def test_suppressed_answer_is_sent_after_pending(bench: Bench) -> None:
    assert bench.ask("31 81 02 00") == []
    assert bench.advance(2.0) == ["7F 31 78", "71 01 02 00 00 00 00"]


def test_an_actuator_moves_for_its_time(bench: Bench) -> None:
    signal = "powertrain.ThermalControl.FanDuty"
    assert bench.one("31 01 02 04") == "71 01 02 04 01"
    assert bench.vehicle.overrides == {signal: 80.0}
    for _ in range(3):
        bench.advance(3.5)
        bench.one("3E 80")
    assert bench.vehicle.overrides == {}
    assert bench.one("31 03 02 04") == "71 03 02 04 00"
    assert bench.one("31 02 02 04") == "7F 31 24"


def test_an_actuator_is_stopped(bench: Bench) -> None:
    bench.one("31 01 02 04")
    assert bench.one("31 02 02 04") == "71 02 02 04 02"
    assert bench.vehicle.overrides == {}
    assert bench.one("31 03 02 04") == "71 03 02 04 02"


def test_a_measurement_reads_the_model() -> None:
    bench = Bench("battery")
    bench.one("10 03")
    bench.vehicle.values["battery.Insulation.ResistancePositive"] = 2500.0
    assert bench.one("31 01 02 20") == "71 01 02 20 00 09 C4"
    bench.vehicle.values[SPEED] = 3.0
    assert bench.one("31 01 02 20") == "7F 31 22"


def test_routine_of_another_session() -> None:
    bench = Bench("battery")
    bench.one("10 03")
    assert bench.one("31 01 02 21") == "7F 31 31"
    bench.one("10 04")
    assert bench.one("31 01 02 21") == "71 01 02 21 01"


# -- 0x23, 0x3D


def test_memory_is_written_and_read(bench: Bench) -> None:
    assert bench.one("3D 14 20 00 00 10 04 DE AD BE EF") == "7F 3D 33"
    unlock(bench, 3)
    assert bench.one("3D 14 20 00 00 10 04 DE AD BE EF") == "7D 14 20 00 00 10 04"
    assert bench.one("23 24 20 00 00 0F 00 06") == "63 00 DE AD BE EF 00"


def test_volatile_memory_is_lost_with_power_and_calibration_is_not(bench: Bench) -> None:
    unlock(bench, 3)
    bench.one("3D 14 20 00 00 10 01 55")
    bench.one("3D 14 00 08 00 00 01 55")
    bench.power_cycle()
    assert bench.context.memory.read(0x20000010, 1) == b"\x00"
    assert bench.context.memory.read(0x00080000, 1) == b"\x55"


@pytest.mark.parametrize(
    ("request_", "nrc"),
    [
        ("23 11 20", 0x13),
        ("23 11 20 01", 0x31),  # one byte of address is not taken
        ("23 14 20 00 00 00", 0x13),
        ("23 14 20 00 00 00 01 00", 0x13),
        ("23 14 20 00 00 00 00", 0x31),  # nothing
        ("23 14 20 00 0F FF 02", 0x31),  # over the end
        ("23 44 20 00 00 00 FF FF FF FF", 0x31),
        ("23 14 00 08 00 00 01", 0x33),
    ],
)
def test_reading_memory_is_refused(bench: Bench, request_: str, nrc: int) -> None:
    assert bench.one(request_) == f"7F 23 {nrc:02X}"


def test_writing_memory_is_refused(bench: Bench) -> None:
    unlock(bench, 3)
    assert bench.one("3D 14 20 00 00 10 04 DE AD BE") == "7F 3D 13"
    assert bench.one("3D 14 20 00 10 00 01 00") == "7F 3D 31"
    bench.vehicle.values[SPEED] = 10.0
    assert bench.one("3D 14 00 08 00 00 01 55") == "7F 3D 22"
