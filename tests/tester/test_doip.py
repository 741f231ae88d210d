"""The tool through a gateway: by DoIP, and on the CAN side of the diagnostic connector."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from gateway.diag.config import EcuConfig
from tester.vehicle_files import load_vehicle
from tests.support import ROOT
from tests.tester.conftest import Uds
from tests.tester.support import GROUPS, Vehicle

SCHEME = 'id = "all"\nversion = 1\n[[signals]]\nname = "powertrain.VehicleMotion.VehicleSpeed"\nmin_period_ms = 1000\n'


def _ecu(link: EcuConfig) -> str:
    lines = ["[[diagnostics.ecus]]"]
    for key in EcuConfig.__struct_fields__:
        value = getattr(link, key)
        if value is not None:
            shown = str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else value
            lines.append(f"{key} = {shown}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def gateway(vehicle: Vehicle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A gateway process in front of the simulated vehicle; its DoIP port."""
    folder = tmp_path_factory.mktemp("gateway")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "outrider", "sim", "manifest", "--out", str(folder / "vehicle.manifest")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (folder / "all.toml").write_text(SCHEME)
    buses = [
        f'[[buses]]\nname = "{bus}"\ninterface = "udp_multicast"\nchannel = "{vehicle.channel(bus)}"' for bus in GROUPS
    ]
    lines = [
        'vehicle = "OUTR1DER000000001"', *buses, '[collect]\nmanifest = "vehicle.manifest"\nschemes = ["all.toml"]',
        f'[diagnostics]\ndescriptions = "{vehicle.description}"',
        *(_ecu(ecu.link) for ecu in load_vehicle(vehicle.description).ecus),
        f"[diagnostics.doip]\nenabled = true\nport = {port}\nannounce = false",
        '[diagnostics.obd_port]\nenabled = true\ninterface = "udp_multicast"',
        f'channel = "{vehicle.channel("diagnostic")}"',
        '[diagnostics.vehicle_state]\nspeed_signal = "powertrain.VehicleMotion.VehicleSpeed"',
        "[diagnostics.poll]\nperiod_s = 0.0",
    ]  # fmt: skip
    (folder / "gateway.toml").write_text("\n".join(lines) + "\n")
    with (folder / "log").open("wb") as log:
        run = [sys.executable, "-m", "outrider", "gateway", "run", "--config", str(folder / "gateway.toml")]
        process = subprocess.Popen(run, cwd=ROOT, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((folder / "log").read_text())
            yield port
        finally:
            process.terminate()
            process.wait(30)


def test_by_doip(offline: Uds, vehicle: Vehicle, gateway: int) -> None:
    arguments = ["--via", f"doip:127.0.0.1:{gateway}", "--vehicle", str(vehicle.description), "--latency", "4000"]
    done = offline("ecus", *arguments, "--doip-range", "1000-1060", "--json")
    assert done.status == 0
    found = {entry["ecu"]: entry for entry in done.json["ecus"]}
    assert sorted(found) == ["0x1001", "battery", "body", "brakes", "gearbox", "motor", "telematics"]
    assert found["0x1001"]["known"] is False
    assert done.json["nodes"][0]["vin"] == "OUTR1DER000000001"
    written = offline("did", "write", "0300", "125", "--ecu", "motor", "--write", *arguments, "--json")
    assert (written.status, written.json["after"]) == (0, "007D")
    assert offline("info", "--ecu", "0x10EE", *arguments).status == 69
    refused = offline("info", "--ecu", "motor", "--via", f"doip:127.0.0.1:{gateway}?source=1", *arguments[2:], "--json")
    assert (refused.status, refused.json["ecus"][0]["error"]["kind"]) == (77, "activation_refused")


def test_on_the_connectors_can(offline: Uds, vehicle: Vehicle, gateway: int) -> None:
    arguments = ["--via", f"udp_multicast:{vehicle.channel('diagnostic')}", "--latency", "4000"]
    done = offline("tester-present", "--vehicle", str(vehicle.description), *arguments, "--json")
    assert done.status == 0
    assert all(entry["present"] for entry in done.json["ecus"])
    found = offline("ecus", "--range", "730-750", *arguments, "--json").json["ecus"]
    assert {"740/748", "6F1/629 extended 29", "18DA50F1", "7E0/7E8", "7E4/7EC"} <= {e["address"] for e in found}
