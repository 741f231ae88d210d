"""The whole car for tests of diagnostics: the simulator's process with its ECUs, and the gateway's with all its ports.

The buses are vcan0 to vcan4, the connector vcan5; DoIP is on loopback.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from gateway.errors import GatewayError
from gateway.status import Status, read_status
from outrider.demo.processes import Child, Children, run, wait_until
from outrider.demo.stage import EVERYTHING
from simulator.buses import BUSES, find_bus
from simulator.ecu.describe import describe
from simulator.ecu.description import load_description
from simulator.model.parameters import VIN
from tests.vcan.plugin import has_vcan

ECUS = ("motor", "gearbox", "battery", "body", "brakes", "telematics")
#: Where there is no vcan the same works on ``udp_multicast``, which helps when a test is written.
INTERFACE = "socketcan" if has_vcan() else "udp_multicast"
CONNECTOR = "vcan5" if has_vcan() else "239.74.163.7"
DOIP_PORT = 13400
START_S = 120.0

ECU_TABLE = """
[[diagnostics.ecus]]
name = "motor"
bus = "powertrain"
logical_address = 0x1010
request_id = 0x7E0
response_id = 0x7E8
functional_id = 0x7DF
emissions = true

[[diagnostics.ecus]]
name = "gearbox"
bus = "powertrain"
logical_address = 0x1011
request_id = 0x7E1
response_id = 0x7E9
functional_id = 0x7DF
emissions = true

[[diagnostics.ecus]]
name = "battery"
bus = "battery"
logical_address = 0x1020
request_id = 0x7E4
response_id = 0x7EC
functional_id = 0x7DF
tx_dl = 64

[[diagnostics.ecus]]
name = "body"
bus = "body"
logical_address = 0x1030
request_id = 0x740
response_id = 0x748
functional_id = 0x7DF

[[diagnostics.ecus]]
name = "brakes"
bus = "chassis"
logical_address = 0x1040
addressing = "extended"
request_id = 0x6F1
response_id = 0x629
target_address = 0x29

[[diagnostics.ecus]]
name = "telematics"
bus = "auxiliary"
logical_address = 0x1050
addressing = "normal_fixed"
target_address = 0x50
functional_id = 0x18DB33F1
"""


@cache
def declared(ecu: str) -> dict[str, Any]:
    """What ``outrider sim describe --json`` tells of an ECU."""
    told: dict[str, Any] = json.loads(json.dumps(describe(load_description(ecu))))
    return told


def channel_of(bus: str) -> str:
    """The interface of one of the vehicle's buses."""
    found = find_bus(bus)
    return found.vcan if INTERFACE == "socketcan" else found.group


def diagnostics_toml(*, poll_s: float = 0.0, isotp: str = "auto", monitors: str = "") -> str:
    """The part of ``gateway.toml`` that is about diagnostics.

    A speed may be five seconds old, because the guest is slow.
    """
    wide = "\np2_ms = 1000"  # the guest has one slow processor, for gateway, ECUs and testers
    ecus = ECU_TABLE.replace("\nbus = ", f"{wide}\nbus = ")
    return f"""
[diagnostics]
descriptions = "ecus.json"
kernel_isotp = "{isotp}"
{ecus}
[diagnostics.poll]
period_s = {poll_s}
first_s = 0.5
[diagnostics.doip]
enabled = true
vin = "{VIN}"
port = {DOIP_PORT}
[diagnostics.obd_port]
enabled = true
interface = "{INTERFACE}"
channel = "{CONNECTOR}"
[diagnostics.vehicle_state]
speed_signal = "powertrain.VehicleMotion.VehicleSpeed"
second_speed_signal = "chassis.WheelSpeeds.WheelSpeedRearLeft"
max_age_ms = 5000
[diagnostics.monitors]
rules = "{monitors}"
"""


class Simulator:
    """The running simulator and its control socket."""

    def __init__(self, directory: Path, children: Children) -> None:
        self.directory, self._children = directory, children
        self.socket = directory / "sim.sock"
        self.summary = directory / "sent.json"
        self.process: Child | None = None

    def start(self, scenario: str, *, isotp: str = "auto", more: tuple[str, ...] = ()) -> None:
        """Drive, and wait until the ECUs have booted."""
        self.process = self._children.start(
            "simulator", "sim", "run", "--interface", INTERFACE, "--scenario", scenario, "--ecus", "all",
            "--isotp", isotp, "--control", str(self.socket), "--summary", str(self.summary), *more,
        )  # fmt: skip
        wait_until("the simulated ECUs", self._has_booted, START_S, self.process)

    def _has_booted(self) -> bool:
        try:
            states = self.do("ecus")["ecus"]
        except OSError:
            return False
        return all(state["power"] == "on" for state in states.values())

    def do(self, what: str, **request: object) -> dict[str, Any]:
        """One request to the control socket, which must succeed."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(30)
            line.connect(str(self.socket))
            line.sendall(json.dumps({"do": what, **request}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(line.makefile("rb").readline())
        assert answer["ok"], answer
        return answer

    def ecu(self, name: str) -> dict[str, Any]:
        """The state of one ECU."""
        state: dict[str, Any] = self.do("ecu", ecu=name)["ecu"]
        return state

    def wait(self, what: str, is_true: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Until something holds."""
        assert self.process is not None
        wait_until(what, is_true, timeout_s, self.process)

    def quirks(self, ecu: str, **quirks: object) -> None:
        """Let an ECU misbehave."""
        self.do("ecu_quirks", ecu=ecu, set=quirks)

    def sent(self) -> dict[str, int]:
        """Frames of the vehicle's own messages per bus, as the simulator says after its end."""
        told = json.loads(self.summary.read_text())
        return {name: int(bus["sent"]) for name, bus in told["buses"].items()}


class Car:
    """A vehicle without a cloud."""

    def __init__(self, directory: Path, children: Children) -> None:
        self.directory, self.children = directory, children
        self.simulator = Simulator(directory, children)
        self.config = directory / "gateway.toml"
        self.process: Child | None = None

    def prepare(self, diagnostics: str | None = None) -> None:
        """Write everything the gateway reads."""
        run("sim", "manifest", "--out", str(self.directory / "vehicle.manifest"))
        (self.directory / "all.toml").write_text(EVERYTHING.format(id="all"))
        write_descriptions(self.directory)
        lines = [f'vehicle = "{VIN}"']
        for bus in BUSES:
            lines += [f'[[buses]]\nname = "{bus.name}"\ninterface = "{INTERFACE}"\nchannel = "{channel_of(bus.name)}"']
        lines += ['[collect]\nmanifest = "vehicle.manifest"\nschemes = ["all.toml"]']
        self.config.write_text("\n".join(lines) + "\n" + (diagnostics_toml() if diagnostics is None else diagnostics))

    def start_gateway(self) -> None:
        """Run it, and wait until it is ready."""
        self.process = child = self.children.start("gateway", "gateway", "run", "--config", str(self.config))
        wait_until("the gateway's readiness", lambda: child.has_logged("gateway_ready"), START_S, child)

    def start(self, scenario: str, *, isotp: str = "auto") -> None:
        """Simulator and gateway."""
        self.simulator.start(scenario, isotp=isotp)
        self.start_gateway()
        self.settle()

    def settle(self) -> None:
        """Until the gateway has heard the vehicle's speed: before that it counts as moving."""
        assert self.process is not None
        wait_until("frames at the gateway", lambda: self.received() > 200, START_S, self.process)

    def status(self) -> Status | None:
        """What the gateway says of itself, None when it does not answer."""
        try:
            return read_status(self.directory / "gateway.sock")
        except GatewayError:
            return None

    def received(self) -> int:
        """Frames the running gateway has received so far."""
        status = self.status()
        return sum(bus.received for bus in status.report.ledger.buses) if status else 0

    def audit(self) -> list[dict[str, Any]]:
        """The audit log's records."""
        out = run("gateway", "audit", "show", "--config", str(self.config), "--json")
        return [json.loads(line) for line in out.splitlines()]


def write_descriptions(directory: Path) -> None:
    """What ``outrider sim describe --json`` prints, for the gateway."""
    (directory / "ecus.json").write_text(json.dumps({"ecus": [declared(ecu) for ecu in ECUS]}))


@contextmanager
def car(directory: Path) -> Iterator[Car]:
    """A car in a directory; everything it started is stopped at the end."""
    (directory / "logs").mkdir()
    with Children(directory / "logs") as children:
        yield Car(directory, children)
