"""What diagnostics and routing name is read and resolved before anything starts; what is wrong is told with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbc.manifest import Manifest
from gateway.config import load_config
from gateway.diag.assembly import DiagnosticInputs, load_diagnostic_inputs
from gateway.errors import ConfigError
from gateway.runtime import SystemClock
from simulator.cli_common import vehicle_manifest

HEAD = """
vehicle = "V1"
[collect]
manifest = "vehicle.manifest"
schemes = ["all.toml"]
[[buses]]
name = "powertrain"
channel = "vcan0"
[[buses]]
name = "body"
interface = "{body}"
channel = "vcan2"
"""
ECU = """
[[diagnostics.ecus]]
name = "motor"
bus = "{bus}"
logical_address = 0x1010
request_id = 0x7E0
response_id = 0x7E8
"""
SILENT = """
[[monitor]]
kind = "ecu_silent"
dtc = "U0100-87"
ecu = "{ecu}"
"""


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return vehicle_manifest()


def load(
    tmp_path: Path, manifest: Manifest, text: str, *, body: str = "socketcan", bus: str = "powertrain"
) -> DiagnosticInputs:
    path = tmp_path / "gateway.toml"
    path.write_text(HEAD.format(body=body) + ECU.format(bus=bus) + text)
    return load_diagnostic_inputs(load_config(path), tmp_path, manifest, SystemClock())


def test_a_sound_configuration_is_resolved(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "monitors.toml").write_text(SILENT.format(ecu="motor"))
    (tmp_path / "routes.toml").write_text(
        '[[route]]\nname="r"\nfrom="body"\nto=["powertrain"]\nids=["body.KeyState"]\n'
    )
    text = '[diagnostics.monitors]\nrules = "monitors.toml"\n[routing]\nrules = "routes.toml"\n'
    inputs = load(tmp_path, manifest, text)
    assert inputs.rules.ecus == {"motor"}
    assert [route.name for route in inputs.routing.routes] == ["r"]


@pytest.mark.parametrize(
    ("text", "where", "part"),
    [
        ('[diagnostics.vehicle_state]\nspeed_signal = "powertrain.No.Such"\n', "speed_signal", "powertrain.No.Such"),
        ('[diagnostics.monitors]\nrules = "monitors.toml"\n', "$.diagnostics.monitors", "gearbox"),
        ('[diagnostics.monitors]\nrules = "none.toml"\n', "", "none.toml"),
        ('[diagnostics.firewall]\npolicy = "policy.toml"\n', "", "policy.toml"),
        ('[diagnostics]\ndescriptions = "none.json"\n', "", "none.json"),
        ('[diagnostics.doip]\nvin = "TOO SHORT"\n', "$.diagnostics.doip.vin", "VIN"),
        ("[diagnostics.doip]\nenabled = true\ntls_port = 3496\n", "", "tls"),
        ('[routing]\nrules = "routes.toml"\n', "$.route[0].to[0]", "chassis"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, manifest: Manifest, text: str, where: str, part: str
) -> None:
    (tmp_path / "monitors.toml").write_text(SILENT.format(ecu="gearbox"))
    (tmp_path / "policy.toml").write_text("rules = 3")
    (tmp_path / "routes.toml").write_text('[[route]]\nname="r"\nfrom="body"\nto=["chassis"]\nids=["1"]\n')
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, manifest, text)
    assert part in str(caught.value)
    assert where in caught.value.where


def test_an_ecu_on_a_recording_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(ConfigError, match="recording") as caught:
        load(tmp_path, manifest, "", body="replay", bus="body")
    assert caught.value.where == "$.diagnostics.ecus[0].bus"
