"""The shipped ECUs in the simulated vehicle: nothing fails in a healthy car, faults lead to the codes they should."""

from __future__ import annotations

import pytest

from gateway.wire.dtc import Status, format_dtc
from simulator.cli_common import vehicle_manifest
from simulator.ecu.description import ecu_names, load_description
from simulator.ecu.dtc_unit import fault_unit
from simulator.ecu.server import EcuServer
from simulator.ecu.services import build_server
from simulator.ecu.sim_vehicle import SimulatedVehicle
from simulator.ecu.storage import NvStore
from simulator.faults import parse_fault
from simulator.generator import Simulation
from simulator.scenario import load_scenario
from tests.support import LONG

pytestmark = pytest.mark.slow


class World:
    """A vehicle in a scenario with all its ECUs, without buses."""

    def __init__(self, scenario: str, *faults: str) -> None:
        self.simulation = Simulation(
            vehicle_manifest(), load_scenario(scenario), seed=1, epoch_ns=1_767_600_000 * 1_000_000_000
        )
        for fault in faults:
            self.simulation.faults.add(parse_fault(fault))
        vehicle = SimulatedVehicle(self.simulation)
        self.ecus: dict[str, EcuServer] = {
            name: build_server(load_description(name), vehicle, NvStore(None, name), 0.0) for name in ecu_names()
        }

    def run(self, seconds: float) -> World:
        for _ in range(round(seconds * 10)):
            self.simulation.advance(100_000_000)
            for ecu in self.ecus.values():
                ecu.poll(self.simulation.now_ns / 1e9)
        return self

    def failed(self) -> set[str]:
        """Codes that have failed since the beginning, as ``ecu code``."""
        return {
            f"{name} {format_dtc(code)}"
            for name, ecu in self.ecus.items()
            for code, _ in fault_unit(ecu.context).memory.having(Status.FAILED_SINCE_CLEAR)
        }

    def completed(self) -> int:
        """How many tests have had a result."""
        memories = [fault_unit(ecu.context).memory for ecu in self.ecus.values()]
        bit = Status.NOT_COMPLETED_SINCE_CLEAR
        return sum(not state.has(bit) for memory in memories for state in memory.states.values())


@pytest.mark.parametrize("scenario", ["city", "motorway", "charging", "parked"])
def test_nothing_fails_in_a_healthy_car(scenario: str) -> None:
    world = World(scenario).run(600 if LONG else 22)
    assert world.failed() == set()
    if scenario in ("city", "motorway"):
        assert world.completed() >= 65


def test_physical_faults_lead_to_their_codes() -> None:
    faults = ("coolant_pump@10", "converter_12v@10", "tyre_leak:rear_left@10=10", "cell_short:7@10=20000")
    world = World("city", *faults).run(26)
    assert world.failed() >= {
        "motor P0A93-00", "battery P0C73-00", "motor P0A94-00", "brakes C0752-16", "battery P0BBD-00",
    }  # fmt: skip
    assert not any(name.startswith(("telematics", "gearbox")) for name in world.failed())


def test_sensor_and_bus_faults_lead_to_their_codes() -> None:
    world = World(
        "city", "stuck:chassis.VehicleDynamics.YawRate@15", "stuck:powertrain.AcceleratorPedal.PedalVoltage2@15=4",
        "missing:chassis.SteeringWheel@15", "bus_off:body@15",
        "counter_frozen:battery.CellVoltages@15", "bad_checksum:powertrain.VehicleMotion@15",
        "missing:powertrain.DcDcStatus@15",
        "offset:powertrain.InverterTemperatures.GearboxOilTemperature@15=150",
    ).run(32)  # fmt: skip
    assert world.failed() == {
        "brakes C0196-29", "motor P2138-62", "brakes U0126-87", "body U0001-88", "motor U0298-87", "gearbox P0218-4B",
        "battery U1121-83", "gearbox U0401-83",
    }  # fmt: skip


def test_an_ecu_that_is_told_to_be_silent_is_missed_by_others_unless_their_setting_is_off() -> None:
    world = World("city").run(5)
    gearbox, motor = world.ecus["gearbox"], world.ecus["motor"]
    now_s = world.simulation.now_ns / 1e9
    assert motor.receive(bytes.fromhex("10 03"), functional=False, now_s=now_s)
    assert motor.receive(bytes.fromhex("85 02"), functional=False, now_s=now_s)[0].pdu.hex() == "c502"
    gearbox.context.silence_messages(normal=True)
    world.run(3)
    assert world.failed() == set()
    assert motor.receive(bytes.fromhex("85 01"), functional=False, now_s=now_s)[0].pdu.hex() == "c501"
    world.run(3)
    assert world.failed() == {"motor U0110-87"}


def test_a_snapshot_holds_the_values_of_the_moment() -> None:
    world = World("motorway", "missing:powertrain.InverterStatus@8").run(10)
    motor = world.ecus["motor"]
    entry = fault_unit(motor.context).memory.entries[0xC11087]
    values = dict(entry.snapshots[1])
    speed_kmh = int.from_bytes(values[0x0101], "big") / 100
    assert abs(speed_kmh - world.simulation.vehicle.drive.speed_m_s * 3.6) < 15
    assert speed_kmh > 30
    assert entry.odometer_km == pytest.approx(world.simulation.vehicle.drive.odometer_m / 1000, abs=0.5)


def test_there_are_about_ten_codes_in_each_ecu_and_each_has_its_test() -> None:
    world = World("city")
    codes = {name: fault_unit(ecu.context).codes for name, ecu in world.ecus.items()}
    assert sum(len(found) for found in codes.values()) >= 50
    for name, found in codes.items():
        assert len(found) >= 9, name
        assert all(dtc.test is not None and dtc.text for dtc in found)
