"""The shipped rules: silent on a healthy vehicle, and right about a faulty one. The simulator runs at full speed."""

from __future__ import annotations

import pytest

from dbc.manifest import Manifest
from gateway.diag.config import VehicleStateSection
from gateway.wire.dtc import format_dtc, parse_dtc
from simulator.cli_common import vehicle_manifest
from simulator.faults import parse_fault
from simulator.scenario import load_scenario
from tests.gateway.dtc.drive import STATE, Drive
from tests.support import LONG


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return vehicle_manifest()


def texts(codes: set[int]) -> set[str]:
    return {format_dtc(code) for code in codes}


@pytest.mark.parametrize(
    ("scenario", "seconds"), [("city", 12), ("motorway", 34), ("charging", 10), ("parked", 30), ("day", 8)]
)
def test_a_healthy_vehicle_has_no_faults(manifest: Manifest, scenario: str, seconds: float) -> None:
    chosen = load_scenario(scenario)
    drive = Drive(manifest, chosen)
    drive.run(chosen.duration_s if LONG else seconds)
    assert texts(drive.failed()) == set()
    if scenario == "motorway":
        untested = {code for code, state in drive.memory.states.items() if state.status & 0x10}
        assert texts(untested) == {"U0155-00"}, "all but the one that needs a poller have run"


def faulty(manifest: Manifest, fault: str, seconds: float, scenario: str = "motorway") -> Drive:
    drive = Drive(manifest, load_scenario(scenario))
    drive.simulation.faults.add(parse_fault(fault))
    drive.run(seconds)
    return drive


@pytest.mark.parametrize(
    ("fault", "seconds", "expected"),
    [
        ("stuck:powertrain.InverterTemperatures.CoolantInletTemperature@0.5=90", 8, {"P0A3C-98"}),
        ("stuck:powertrain.InverterTemperatures.CoolantFlow@0.5=0", 8, {"P0A94-77"}),
        ("stuck:body.LowVoltage.BatteryVoltage@0.5=11.2", 13, {"P0562-00"}),
        ("stuck:body.LowVoltage.BatteryVoltage@0.5=16", 4, {"P0563-00"}),
        ("stuck:battery.CellStatistics.CellVoltageMin@0.5=3.0", 13, {"P0BBD-00"}),
        ("stuck:battery.Insulation.ResistanceNegative@0.5=90", 4, {"P0AA6-1A"}),
        ("stuck:chassis.TyrePressures.PressureRearLeft@0.5=150", 4, {"C0750-00"}),
        ("offset:powertrain.VehicleMotion.VehicleSpeed@0.5=40", 4, {"C0031-64"}),
        ("stuck:powertrain.AcceleratorPedal.PedalVoltage2@0.5=3", 4, {"P2138-00"}),
        ("noise:chassis.VehicleDynamics.YawRate@0.5=20", 6, {"C0061-62"}),
        ("bad_checksum:powertrain.InverterStatus@0.5", 4, {"U0411-83"}),
        ("counter_frozen:battery.PackStatus@0.5", 4, {"U0412-82"}),
        ("missing:powertrain.TorqueRequest@0.5", 6, {"U0100-87"}),
        ("missing:battery.PackStatus@0.5", 4, {"U0111-87"}),
        ("missing:chassis.WheelSpeeds@0.5", 4, {"U0121-87"}),
        ("missing:body.DoorStatus@0.5", 6, {"U0140-87"}),
        ("silent:auxiliary@0.5", 7, {"U0198-87"}),
        ("bus_off:chassis@0.5+4", 4, {"U0073-88"}),
        ("wrong_length:body.DoorStatus@0.5=5", 4, set()),
    ],
)
def test_an_injected_fault_gives_its_dtc_and_no_other(
    manifest: Manifest, fault: str, seconds: float, expected: set[str]
) -> None:
    assert texts(faulty(manifest, fault, seconds).failed()) == expected


def test_physical_faults_are_found(manifest: Manifest) -> None:
    drive = faulty(manifest, "tyre_leak:rear_left@1=5", 25, "city")
    assert texts(drive.failed()) == {"C0750-00"}
    entry = drive.memory.states[parse_dtc("C0750-00")].entry
    assert entry is not None
    pressures = {v.name.rpartition(".")[2]: v.value for v in entry.first.values}
    assert pressures["PressureRearLeft"] is not None
    assert pressures["PressureRearLeft"] < 190 < (pressures["PressureFrontLeft"] or 0)
    assert entry.first.odometer_km == pytest.approx(drive.state.odometer_km, abs=1)


def test_a_fault_that_ends_heals_but_stays_stored(manifest: Manifest) -> None:
    drive = faulty(manifest, "bad_checksum:powertrain.InverterStatus@0.5+2", 8)
    assert drive.memory.states[parse_dtc("U0411-83")].status == 0xAE


def test_ignition_off_ends_the_cycle_and_falling_asleep_is_no_fault(manifest: Manifest) -> None:
    section = VehicleStateSection(**{f: getattr(STATE, f) for f in STATE.__struct_fields__} | {
        "ignition_signal": "powertrain.VehicleState.ReadyToDrive",
    })  # fmt: skip
    drive = Drive(manifest, load_scenario("motorway"), section=section)
    drive.run(5)
    assert drive.memory.cycles == 1
    drive.simulation.faults.add(parse_fault("stuck:powertrain.VehicleState.ReadyToDrive=0"))
    drive.run(2)
    assert not drive.memory.is_cycle_running
