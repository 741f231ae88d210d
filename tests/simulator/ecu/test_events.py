"""0x86: answers nobody asked for a second time."""

from __future__ import annotations

import pytest

from tests.simulator.ecu.support import Bench

SPEED = "powertrain.VehicleMotion.VehicleSpeed"


@pytest.fixture
def bench() -> Bench:
    """A motor control unit in the extended session."""
    bench = Bench("motor")
    bench.one("10 03")
    return bench


def alive(bench: Bench, seconds: float) -> list[str]:
    """Time passes in a session that is kept open."""
    out: list[str] = []
    while seconds > 0:
        out += bench.advance(min(seconds, 2.0))
        bench.one("3E 80")
        seconds -= 2.0
    return out


def test_change_of_data_is_answered_once_per_change(bench: Bench) -> None:
    assert bench.one("86 03 02 02 08 22 02 08") == "C6 03 00 02 02 08 22 02 08"
    bench.vehicle.values["powertrain.VehicleState.PowerMode"] = 3.0
    assert bench.advance(0.1) == []  # not started
    assert bench.one("86 05 02") == "C6 05 00 02"
    assert bench.advance(0.5) == []
    bench.vehicle.values["powertrain.VehicleState.PowerMode"] = 4.0
    assert bench.advance(0.5) == ["62 02 08 04"]


def test_a_value_that_always_changes_is_told_ten_times_a_second(bench: Bench) -> None:
    bench.one("86 03 02 01 01 22 01 01")
    bench.one("86 05 02")
    sent = 0
    for i in range(200):
        bench.vehicle.values[SPEED] = float(i)
        sent += len(bench.advance(0.01))
    assert 18 <= sent <= 21


def test_comparison_fires_when_it_becomes_true(bench: Bench) -> None:
    """Speed (0101, first 16 bits) above 50 km/h (raw 5000), hysteresis 10 %."""
    assert bench.one("86 07 02 01 01 02 00 00 13 88 0A 40 00 22 01 01").startswith("C6 07 00")
    bench.one("86 05 02")
    for speed, fires in ((40.0, False), (51.0, True), (49.0, False), (51.0, False), (40.0, False), (60.0, True)):
        bench.vehicle.values[SPEED] = speed
        assert (bench.advance(0.3) != []) == fires, speed


def test_dtc_status_change(bench: Bench) -> None:
    bench.one("86 01 02 08 19 01 FF")
    bench.one("86 05 02")
    bench.context.dtc_changed(0x123400, 0x50, 0x2F)
    assert bench.advance(0.05)[0].startswith("59 01")
    bench.context.dtc_changed(0x123400, 0x2F, 0x2E)  # bit 3 stays
    assert bench.advance(0.3) == []


def test_window_ends_with_a_final_answer(bench: Bench) -> None:
    bench.one("86 03 03 02 08 22 02 08")
    bench.one("86 05 03")
    bench.vehicle.values["powertrain.VehicleState.PowerMode"] = 2.0
    sent = alive(bench, 12.0)
    assert sent == ["62 02 08 02", "C6 03 01 03 02 08 22 02 08"]


def test_stop_clear_and_report(bench: Bench) -> None:
    bench.one("86 03 02 02 08 22 02 08")
    assert bench.one("86 04 02") == "C6 04 01 03 02 02 08 22 02 08"
    bench.one("86 05 02")
    assert bench.one("86 00 02") == "C6 00 00 02"
    bench.vehicle.values["powertrain.VehicleState.PowerMode"] = 5.0
    assert bench.advance(0.3) == []
    assert bench.one("86 06 02") == "C6 06 00 02"
    assert bench.one("86 04 02") == "C6 04 00"
    assert bench.one("86 05 02") == "7F 86 24"


def test_events_end_with_the_session(bench: Bench) -> None:
    bench.one("86 03 02 02 08 22 02 08")
    bench.one("86 05 02")
    bench.one("10 03")
    bench.vehicle.values["powertrain.VehicleState.PowerMode"] = 5.0
    assert bench.advance(0.3) == []


def test_stored_events_run_again_after_a_reset(bench: Bench) -> None:
    bench.one("86 43 02 02 08 22 02 08")
    bench.one("86 45 02")
    bench.power_cycle()
    bench.vehicle.values["powertrain.VehicleState.PowerMode"] = 5.0
    assert bench.advance(0.3) == ["62 02 08 05"]
    bench.one("86 46 02")
    bench.power_cycle()
    bench.vehicle.values["powertrain.VehicleState.PowerMode"] = 1.0
    assert bench.advance(0.3) == []


@pytest.mark.parametrize(
    ("request_", "nrc"),
    [
        ("86 03", 0x13),
        ("86 03 02", 0x13),
        ("86 03 09 02 08 22 02 08", 0x31),
        ("86 03 02 DE AD 22 02 08", 0x31),
        ("86 03 02 02 08 2E 02 08", 0x31),  # nothing that writes
        ("86 02 02 01 22 02 08", 0x12),
        ("86 05 02 00", 0x13),
    ],
)
def test_events_are_refused(bench: Bench, request_: str, nrc: int) -> None:
    assert bench.one(request_) == f"7F 86 {nrc:02X}"
