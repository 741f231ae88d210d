"""Faults do what they say, when they say, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbc.frames import ERROR, FrameBatch
from dbc.manifest import Manifest
from simulator.buses import BUS_NAMES
from simulator.faults import KINDS, Fault, FaultError, FaultSet, parse_fault, resolve
from simulator.generator import Simulation
from simulator.protection import CRCS
from tests.simulator.conftest import MakeSimulation
from tests.simulator.support import decoded, series

SECOND = 1_000_000_000


def run(simulate: MakeSimulation, *faults: str, seconds: int = 3, scenario: str = "motorway") -> FrameBatch:
    simulation = simulate(scenario)
    for text in faults:
        simulation.faults.add(parse_fault(text))
    return simulation.advance(seconds * SECOND)


def relative(simulation_epoch_s: float, t: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[float]:
    return [float(x) for x in t - simulation_epoch_s]


def test_stuck_holds_the_value_it_had_and_then_lets_go(simulate: MakeSimulation) -> None:
    name = "powertrain.InverterControl.RotorAngle"
    t, values = series(run(simulate, f"stuck:{name}@1+1"), name)
    at = t - np.floor(t[0])
    within = values[(at >= 1) & (at < 2)]
    assert np.ptp(within) == 0
    assert within[0] == values[at < 1][-1] or np.ptp(values[at < 1]) > 0
    assert np.ptp(values[at < 1]) > 0
    assert np.ptp(values[at >= 2]) > 0


def test_stuck_at_a_value_and_offset(simulate: MakeSimulation) -> None:
    speed, yaw = "powertrain.VehicleMotion.VehicleSpeed", "chassis.VehicleDynamics.YawRate"
    plain = run(simulate)
    frames = run(simulate, f"stuck:{speed}@1+1=77.5", f"offset:{yaw}@1+1=20")
    t, values = series(frames, speed)
    assert set(values[(t % 60 >= 1) & (t % 60 < 2)].tolist()) == {77.5}
    t, values = series(frames, yaw)
    _, before = series(plain, yaw)
    moved = values - before
    assert moved[(t % 60 >= 1) & (t % 60 < 2)] == pytest.approx(20, abs=0.02)
    assert not moved[(t % 60 < 1) | (t % 60 >= 2)].any()


def test_noise_has_the_deviation_asked_for(simulate: MakeSimulation) -> None:
    name = "chassis.VehicleDynamics.YawRate"
    _, noisy = series(run(simulate, f"noise:{name}=5", seconds=5), name)
    _, plain = series(run(simulate, seconds=5), name)
    assert np.std(noisy - plain) == pytest.approx(5, rel=0.15)


def test_a_missing_message_is_missing_and_the_rest_is_untouched(simulate: MakeSimulation) -> None:
    plain, frames = run(simulate), run(simulate, "missing:chassis.WheelSpeeds@1+0.5")
    assert len(plain) - len(frames) == 50
    gone = [t for t, _ in decoded(plain, "chassis.WheelSpeeds")]
    left = [t for t, _ in decoded(frames, "chassis.WheelSpeeds")]
    lost = sorted(set(gone) - set(left))
    assert (lost[-1] - lost[0]) / 1e9 == pytest.approx(0.49, abs=0.01)
    others = plain.take((plain.bus != BUS_NAMES.index("chassis")) | (plain.can_id != 0x0B0))
    rest = frames.take((frames.bus != BUS_NAMES.index("chassis")) | (frames.can_id != 0x0B0))
    assert np.array_equal(others.data, rest.data)


def test_bad_checksum_spoils_the_checksum_alone(simulate: MakeSimulation) -> None:
    frames = run(simulate, "bad_checksum:powertrain.InverterStatus@1+1")
    good = bad = 0
    mine = frames.take((frames.bus == 0) & (frames.can_id == 0x0F5))
    for i in range(len(mine)):
        payload = mine.data[i, :8].tobytes()
        right = CRCS["crc8-autosar"].of(b"\0" + payload[1:] + b"\xf5\x00") == payload[0]
        good, bad = good + right, bad + (not right)
    assert (good, bad) == (200, 100)


def test_a_frozen_counter_keeps_its_value_under_a_right_checksum(simulate: MakeSimulation) -> None:
    frames = run(simulate, "counter_frozen:battery.PackStatus@1+1")
    counters = [values["Counter"] for _, values in decoded(frames, "battery.PackStatus")]
    assert counters[99] == counters[100] == counters[199]
    assert len(set(counters[100:200])) == 1
    assert counters[200] == 200
    mine = frames.take((frames.bus == 1) & (frames.can_id == 0x201))
    payload = mine.data[150, :24].tobytes()
    assert CRCS["crc16-ccitt"].of(b"\0\0" + payload[2:] + b"\x01\x02") == int.from_bytes(payload[:2], "little")


def test_wrong_length_cuts_the_payload(simulate: MakeSimulation) -> None:
    frames = run(simulate, "wrong_length:body.DoorStatus@1+1=5")
    mine = frames.take((frames.bus == 2) & (frames.can_id == 0x300))
    assert sorted(set(mine.length.tolist())) == [5, 8]
    assert np.count_nonzero(mine.length == 5) == 10
    assert not mine.data[mine.length == 5, 5:].any()


def test_bus_off_is_an_error_frame_silence_and_a_restart(simulate: MakeSimulation) -> None:
    frames = run(simulate, "bus_off:chassis@1+1")
    mine = frames.take(frames.bus == BUS_NAMES.index("chassis"))
    errors = mine.take(mine.flags & ERROR != 0)
    assert errors.can_id.tolist() == [0x40, 0x100]
    at = (mine.timestamp_ns - mine.timestamp_ns[0] // SECOND * SECOND) / 1e9
    silent = (at > 1) & (at < 2)
    assert not silent.any()
    assert np.count_nonzero(at > 2) > 700


def test_a_flood_has_the_rate_asked_for(simulate: MakeSimulation) -> None:
    frames = run(simulate, "flood:body@1+1=5000")
    assert np.count_nonzero((frames.can_id == 0) & (frames.bus == 2)) == 5000


def test_physical_faults_show_everywhere(simulate: MakeSimulation) -> None:
    simulation: Simulation = simulate("motorway")
    simulation.faults.add(parse_fault("tyre_leak:rear_left=20"))
    simulation.faults.add(parse_fault("converter_12v@0"))
    frames = simulation.advance(8 * SECOND)
    _, pressure = series(frames, "chassis.TyrePressures.PressureRearLeft")
    assert pressure[-1] < 150 < pressure[0]
    _, warning = series(frames, "chassis.TyreWarnings.PressureWarningRearLeft")
    assert (warning[0], warning[-1]) == (0, 1)
    _, lamp = series(frames, "body.Cluster.WarningTyre")
    assert lamp[-1] == 1
    _, code = series(frames, "auxiliary.DM1.SuspectParameterLow")
    assert code[-1] == 241
    _, converter = series(frames, "powertrain.DcDcStatus.DcDcState")
    assert converter[-1] == 3
    assert simulation.faults.clear() == 2
    frames = simulation.advance(SECOND)
    _, converter = series(frames, "powertrain.DcDcStatus.DcDcState")
    assert converter[-1] == 2


def test_a_shorted_cell_stands_out_and_limps_the_car_home(simulate: MakeSimulation) -> None:
    simulation = simulate("motorway")
    simulation.faults.add(parse_fault("cell_short:41=9000"))
    frames = simulation.advance(12 * SECOND)
    _, lowest = series(frames, "battery.CellStatistics.CellNumberMin")
    assert lowest[-1] == 41
    _, limp = series(frames, "powertrain.VehicleState.LimpHome")
    assert (limp[0], limp[-1]) == (0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gremlin", "no fault 'gremlin'"),
        ("", "expected KIND"),
        ("stuck:a@b", "'b' is no number"),
        ("stuck:chassis.VehicleDynamics.Yaw", "did you mean chassis.VehicleDynamics.YawRate"),
        ("offset:chassis.VehicleDynamics.YawRate", "needs a value"),
        ("offset:chassis.VehicleDynamics.YawRate=nan", "out of range"),
        ("missing:chassis.Foo", "no message"),
        ("missing:chassis.WheelSpeeds=3", "takes no value"),
        ("bad_checksum:chassis.WheelSpeeds", "has no checksum"),
        ("counter_frozen:chassis.WheelSpeeds", "has no counter"),
        ("wrong_length:chassis.WheelSpeeds=12", "can be sent with"),
        ("wrong_length:chassis.WheelSpeeds=1.5", "can be sent with"),
        ("bus_off:canbus", "no bus 'canbus'"),
        ("flood:body=1e9", "1 to 20000"),
        ("tyre_leak:spare", "no wheel"),
        ("cell_short:97", "no cell"),
        ("coolant_pump:left", "takes no target"),
        ("coolant_pump@-3", "must be positive"),
        ("coolant_pump@1+0", "must be positive"),
    ],
)
def test_impossible_faults_are_refused(manifest: Manifest, text: str, message: str) -> None:
    with pytest.raises(FaultError, match=message):
        resolve(parse_fault(text), manifest, 1)


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_fault_or_an_error(text: str) -> None:
    try:
        fault: Fault | None = parse_fault(text)
    except FaultError:
        fault = None
    assert fault is None or fault.kind in text


def test_faults_are_numbered_and_taken_back(manifest: Manifest) -> None:
    faults = FaultSet(manifest)
    first = faults.add(Fault(kind="missing", target="chassis.WheelSpeeds"))
    second = faults.add(Fault(kind="bus_off", target="body", at_s=5, duration_s=1))
    assert [f["number"] for f in faults.listed(0.0)] == [first, second]
    assert [f["active"] for f in faults.listed(0.0)] == [True, False]
    assert faults.clear(first) == 1
    assert faults.clear(99) == 0
    assert faults.listed(7.0) == []


def test_every_kind_is_documented_in_the_table() -> None:
    for what, meaning, default in KINDS.values():
        assert what in ("signal", "message", "bus", "wheel", "cell", "")
        assert meaning or default is None
