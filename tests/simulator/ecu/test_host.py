"""ECUs in a running simulation: what they do to the vehicle's buses, and what the control socket can do to them."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.buses import BUS_NAMES
from simulator.control import Control
from simulator.ecu.description import EcuDescription
from simulator.ecu.host import EcuHost
from simulator.ecu.sim_vehicle import SimulatedVehicle
from simulator.ecu.vehicle import VehiclePort
from simulator.faults import parse_fault
from simulator.generator import Simulation
from simulator.runner import Runner
from simulator.sinks import CountingSink
from tests.simulator.conftest import MakeSimulation
from tests.simulator.support import series


class Rig:
    """A parked vehicle with all its ECUs, no sockets, and a clock that is moved by hand."""

    def __init__(self, simulation: Simulation, folder: Path | None = None) -> None:
        self.simulation = simulation
        self.now_s = 1000.0

        def vehicle(descriptions: Collection[EcuDescription]) -> VehiclePort:
            return SimulatedVehicle(simulation)

        names = ["motor", "gearbox", "battery", "body", "brakes", "telematics"]
        self.host = EcuHost(names, vehicle, state=folder, now=lambda: self.now_s)
        self.sent: dict[str, list[str]] = {name: [] for name in names}

    def ask(self, ecu: str, request: str) -> str:
        """The last answer to a request."""
        server = self.host.ecus[ecu].server
        out = server.receive(bytes.fromhex(request), functional=False, now_s=self.now_s)
        return out[-1].pdu.hex(" ").upper() if out else ""

    def run(self, seconds: float) -> Any:
        """Time passes on the buses and for the ECUs; the frames."""
        frames = self.simulation.advance(round(seconds * 100) * 10_000_000)
        for _ in range(round(seconds * 100)):
            self.now_s += 0.01
            self.host.poll(self.now_s)
        return frames


@pytest.fixture
def rig(simulate: MakeSimulation) -> Rig:
    """All ECUs of a parked vehicle."""
    return Rig(simulate("parked"))


def senders(rig: Rig, frames: Any) -> set[str]:
    """Which nodes sent."""
    by_id = {(m.bus, m.can_id): m.sender for m in rig.simulation.manifest.messages}
    heard = {(int(bus), int(can_id)) for bus, can_id in zip(frames.bus, frames.can_id, strict=True)}
    return {by_id[key] for key in heard if key in by_id}


def test_communication_control_takes_messages_off_the_bus(rig: Rig) -> None:
    rig.run(0.5)
    rig.ask("body", "10 03")
    assert rig.ask("body", "28 03 01") == "68 03"
    others = senders(rig, rig.run(1.0))
    assert "BCM" not in others
    assert {"HVAC", "CLU", "VCU", "BMS"} <= others
    rig.ask("body", "28 00 01")
    assert "BCM" in senders(rig, rig.run(1.0))


def test_an_ecu_that_boots_is_silent_on_its_buses(rig: Rig) -> None:
    rig.run(0.5)
    assert rig.ask("battery", "11 01") == "51 01"
    rig.run(0.02)
    assert "BMS" not in senders(rig, rig.run(1.0))
    rig.run(1.5)
    assert "BMS" in senders(rig, rig.run(1.0))


def test_session_timeout_brings_messages_back(rig: Rig) -> None:
    rig.ask("motor", "10 03")
    rig.ask("motor", "28 01 01")
    assert "VCU" not in senders(rig, rig.run(1.0))
    rig.run(5.0)
    assert "VCU" in senders(rig, rig.run(1.0))


def test_held_signals_are_seen_on_the_bus(rig: Rig) -> None:
    rig.ask("motor", "10 03")
    assert rig.ask("motor", "2F 02 10 03 A0") == "6F 02 10 03 A0"
    _, values = series(rig.run(1.0), "powertrain.ThermalControl.FanDuty")
    assert set(values) == {80.0}
    rig.ask("motor", "2F 02 10 00")
    _, values = series(rig.run(1.0), "powertrain.ThermalControl.FanDuty")
    assert set(values) == {0.0}


def test_the_horn_sounds_at_standstill(rig: Rig) -> None:
    rig.ask("body", "10 03")
    assert rig.ask("body", "2F 02 10 03 01") == "6F 02 10 03 01"
    _, values = series(rig.run(1.0), "body.WiperHorn.HornActive")
    assert set(values) == {1.0}


def test_values_are_those_of_the_model(rig: Rig) -> None:
    rig.run(0.5)
    soc = int(rig.ask("battery", "22 02 02").replace(" ", "")[6:], 16) / 100
    assert soc == pytest.approx(rig.simulation.vehicle.battery.soc * 100, abs=0.02)
    kilometres = int(rig.ask("body", "22 01 02").replace(" ", "")[6:], 16) / 10
    assert kilometres == pytest.approx(rig.simulation.vehicle.drive.odometer_m / 1000, abs=0.1)


def test_all_cells_are_read_in_one_answer(rig: Rig) -> None:
    rig.run(0.5)
    raw = bytes.fromhex(rig.ask("battery", "22 02 08"))[3:]
    cells = np.frombuffer(raw, ">u2") / 1e4
    assert cells == pytest.approx(rig.simulation.vehicle.battery.cell_v, abs=1e-3)


def test_sensor_faults_are_seen_by_ecus(rig: Rig) -> None:
    rig.simulation.faults.add(parse_fault("stuck:body.LowVoltage.BatteryVoltage@0=9"))
    rig.run(0.1)
    assert rig.ask("body", "22 01 00") == "62 01 00 03 84"


def test_age_of_messages(rig: Rig) -> None:
    vehicle = rig.host.ecus["motor"].server.context.vehicle
    rig.run(1.0)
    assert vehicle.age_s("battery.PackStatus") < 0.2
    rig.simulation.faults.add(parse_fault(f"missing:battery.PackStatus@{rig.simulation.now_ns / 1e9}"))
    rig.run(2.0)
    assert vehicle.age_s("battery.PackStatus") > 1.8
    assert not vehicle.bus_off("battery")
    rig.simulation.faults.add(parse_fault(f"bus_off:battery@{rig.simulation.now_ns / 1e9}"))
    assert vehicle.bus_off("battery")


def test_a_deaf_body_controller_takes_no_commands(rig: Rig) -> None:
    assert not rig.host.is_deaf("BCM")
    rig.ask("body", "10 03")
    rig.ask("body", "28 02 01")
    assert rig.host.is_deaf("BCM")
    rig.ask("body", "10 01")
    assert not rig.host.is_deaf("BCM")
    rig.host.ecus["body"].power(False)
    assert rig.host.is_deaf("BCM")


def test_ecus_do_not_change_the_traffic(simulate: MakeSimulation) -> None:
    """Bit for bit the frames of a vehicle without ECUs, as long as nobody asks for more."""
    plain, rig = simulate("city"), Rig(simulate("city"))
    for _ in range(5):
        one, two = plain.advance(1_000_000_000), rig.run(1.0)
        assert one.data.tobytes() == two.data.tobytes()
        assert one.timestamp_ns.tobytes() == two.timestamp_ns.tobytes()


def test_a_defect_is_answered_and_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ecu = rig.host.ecus["motor"]
    monkeypatch.setattr(ecu.server, "receive", lambda *args, **kwargs: 1 / 0)
    ecu.received(b"\x22\xf1\x90", False)
    assert ecu.state()["defects"] == 1
    assert ecu.record[-1]["answers"] == ["7f2210"]


def test_state_survives_a_restart(simulate: MakeSimulation, tmp_path: Path) -> None:
    first = Rig(simulate("parked"), tmp_path)
    first.ask("body", "10 03")
    assert first.ask("body", "2E F1 98" + b"WORKSHOP 7".hex()) == "6E F1 98"
    first.run(1.2)  # saved by the ECU itself: nothing is closed
    second = Rig(simulate("parked"), tmp_path)
    assert bytes.fromhex(second.ask("body", "22 F1 98"))[3:] == b"WORKSHOP 7"


# -- the control socket


class Still:
    """A clock nobody waits for."""

    stopped = False

    def now_s(self) -> float:
        return 0.0

    def wait_until(self, deadline_s: float) -> None:
        raise AssertionError("nothing runs here")


@pytest.fixture
def control(rig: Rig) -> Control:
    """The control of a run with ECUs."""
    runner = Runner(rig.simulation, CountingSink(BUS_NAMES), Still(), speed=1.0, duration_s=10.0)
    return Control(runner, rig.host.actions())


def do(control: Control, **request: object) -> dict[str, Any]:
    """One request."""
    answer: dict[str, Any] = json.loads(control.answer(json.dumps(request).encode()))
    return answer


def test_state_of_ecus(rig: Rig, control: Control) -> None:
    rig.ask("motor", "10 03")
    answer = do(control, do="ecus")
    assert answer["ecus"]["motor"]["session"] == 3
    assert answer["ecus"]["body"]["session"] == 1
    assert do(control, do="ecu", ecu="motor")["ecu"]["power"] == "on"


def test_power_and_reset(rig: Rig, control: Control) -> None:
    assert do(control, do="ecu_power", ecu="brakes", on=False)["power"] == "off"
    assert rig.ask("brakes", "3E 00") == ""
    assert "ESC" not in senders(rig, rig.run(0.5))
    assert do(control, do="ecu_power", ecu="brakes", on=True)["power"] == "booting"
    rig.run(1.3)
    assert rig.ask("brakes", "3E 00") == "7E 00"
    assert do(control, do="ecu_reset", ecu="brakes")["ok"]
    assert do(control, do="ecu", ecu="brakes")["ecu"]["resets"] == 2


def test_quirks_are_switched(rig: Rig, control: Control) -> None:
    assert do(control, do="ecu_quirks", ecu="motor", set={"busy_times": 2})["quirks"]["busy_times"] == 2
    assert [rig.ask("motor", "22 F1 86") for _ in range(3)] == ["7F 22 21", "7F 22 21", "62 F1 86 01"]
    assert do(control, do="ecu_quirks", ecu="motor", set={"busy_times": 0, "mute": [0x22]})["ok"]
    assert rig.ask("motor", "22 F1 86") == ""
    do(control, do="ecu_quirks", ecu="motor", set={"mute": [], "wrong_length": [0x22]})
    assert rig.ask("motor", "22 F1 86") == "62 F1 86"


def test_pending_for_ever_and_slow(rig: Rig, control: Control) -> None:
    do(control, do="ecu_quirks", ecu="body", set={"pending_for_ever": [0x22]})
    server = rig.host.ecus["body"].server
    assert server.receive(b"\x22\xf1\x86", functional=False, now_s=rig.now_s) == []
    sent = []
    for _ in range(3000):
        rig.now_s += 0.01
        sent += [out.pdu.hex() for out in server.poll(rig.now_s)]
    assert sent == ["7f2278"] * 12
    do(control, do="ecu_quirks", ecu="motor", set={"slow_ms": 200})
    assert rig.ask("motor", "22 F1 86") == ""


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "ecu", "ecu": "toaster"},
        {"do": "ecu"},
        {"do": "ecu_power", "ecu": "motor"},
        {"do": "ecu_quirks", "ecu": "motor", "set": {"unheard_of": 1}},
        {"do": "ecu_quirks", "ecu": "motor", "set": {"busy_times": "often"}},
        {"do": "ecu_quirks", "ecu": "motor", "set": 3},
    ],
)
def test_bad_requests_are_refused(control: Control, request_: dict[str, object]) -> None:
    answer = do(control, **request_)
    assert answer["ok"] is False
    assert answer["error"]


def test_record_of_requests(rig: Rig, control: Control) -> None:
    rig.host.ecus["motor"].received(b"\x3e\x00", False)
    (last,) = do(control, do="ecu_requests", ecu="motor")["requests"]
    assert (last["request"], last["answers"]) == ("3e00", ["7e00"])
