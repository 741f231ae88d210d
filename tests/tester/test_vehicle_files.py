"""Vehicle files: what is understood, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.cli_ecus import describe_all
from tester.errors import FileError, UsageError
from tester.vehicle_files import load_vehicle
from tester.vehicle_write import to_toml

MINIMAL = '[[ecus]]\nname = "m"\nrequest_id = 0x7E0\nresponse_id = 0x7E8\n'
GATEWAY = """
vehicle = "A"
[diagnostics]
descriptions = "ecus.json"
[[diagnostics.ecus]]
name = "motor"
bus = "powertrain"
logical_address = 0x1010
request_id = 0x7E0
response_id = 0x7E8
p2_ms = 75
"""


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("description") / "ecus.json"
    path.write_text(json.dumps({"ecus": describe_all()}))
    return path


def test_the_simulators_description_is_a_vehicle(description: Path) -> None:
    vehicle = load_vehicle(description)
    motor, brakes = vehicle.ecu("motor"), vehicle.ecu("brakes")
    assert motor.link.request_id == 0x7E0
    assert motor.dids[0x0101].fields[0].unit == "km/h"
    assert motor.routines[0x0204].name == "Radiator fan test"
    assert motor.levels[1].algorithm == "xor_rotate"
    assert vehicle.texts_of(motor)[0x0A9300] == "Inverter cooling: no coolant flow"
    assert (brakes.link.addressing, brakes.link.target_address) == ("extended", 0x29)
    assert vehicle.ecu("telematics").link.target_address == 0x50
    assert vehicle.ecu("battery").link.tx_dl == 64
    assert motor.download is not None
    assert motor.download.hardware_id == "OR1-MC-HW02"


def test_exported_and_read_back_it_is_the_same(description: Path, tmp_path: Path) -> None:
    vehicle = load_vehicle(description)
    (tmp_path / "v.toml").write_text(to_toml(vehicle), encoding="utf-8")
    assert load_vehicle(tmp_path / "v.toml").ecus == vehicle.ecus


def test_a_gateways_configuration_brings_the_descriptions_it_names(description: Path, tmp_path: Path) -> None:
    (tmp_path / "ecus.json").write_bytes(description.read_bytes())
    (tmp_path / "gateway.toml").write_text(GATEWAY)
    vehicle = load_vehicle(tmp_path / "gateway.toml")
    assert [ecu.name for ecu in vehicle.ecus] == ["motor", "gateway"]
    assert vehicle.ecu("motor").link.p2_ms == 75
    assert vehicle.ecu("motor").dids[0x0101].name == "Vehicle speed"


def test_ecus_are_found_by_name_and_by_address(description: Path) -> None:
    vehicle = load_vehicle(description)
    assert vehicle.ecu("MOTOR").name == vehicle.ecu("7e0").name == vehicle.ecu("0x1010").name == "motor"
    with pytest.raises(UsageError, match="there are battery, body"):
        vehicle.ecu("engine")


def test_user_texts_come_first(tmp_path: Path) -> None:
    (tmp_path / "codes.csv").write_text("code,text\nP0A93,from the file\nU0100,lost\n")
    own = MINIMAL + '[ecus.dtcs]\n"P0A93-00" = "from the ECU"\n'
    (tmp_path / "v.toml").write_text('dtc_texts = ["codes.csv"]\n' + own)
    vehicle = load_vehicle(tmp_path / "v.toml")
    assert vehicle.texts_of(vehicle.ecu("m"))[0x0A9300] == "from the ECU"
    assert "lost" in vehicle.dtc_texts.values()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no \\[\\[ecus\\]\\]"),
        ("ecus = []", "no \\[\\[ecus\\]\\]"),
        ("[[ecus]]\n", "name"),
        ("speling = 1\n" + MINIMAL, "unknown key 'speling'"),
        (MINIMAL + "speling = 1\n", "unknown key 'speling' - at \\$.ecus\\[0\\]"),
        (MINIMAL + MINIMAL, "two ECUs are called 'm'"),
        (MINIMAL + '[ecus.dids]\nF1G0 = {name="x"}\n', "'F1G0' is no hexadecimal number"),
        (MINIMAL + "[ecus.dids]\nF190 = 5\n", "no vehicle"),
        (MINIMAL + '[ecus.dtcs]\nX9 = "x"\n', "no DTC"),
        (MINIMAL + "[[ecus.dids.F190.fields]]\nbytes = 0\n", "0|>= 1"),
        ('dtc_texts = ["none.csv"]\n' + MINIMAL, "none.csv"),
        ("= broken", "no vehicle"),
        ("{", "no vehicle"),
        ('{"ecus": [{"ecu": "m", "transport": {}}]}', "key 'kind' is missing"),
        ("[diagnostics]\n", "no \\[\\[diagnostics.ecus\\]\\]"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_name(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "v.toml"
    path.write_text(content)
    with pytest.raises(FileError, match=problem) as caught:
        load_vehicle(path)
    assert str(path) in str(caught.value)
    assert caught.value.status == 65


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError) as caught:
        load_vehicle(tmp_path / "none")
    assert caught.value.status == 66


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["ecus", "ecu", "transport", "dids", "kind", "diagnostics", "F190"]), inner,
                      max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON)
def test_any_json_is_a_vehicle_or_a_file_error(tmp_path: Path, content: object) -> None:
    path = tmp_path / "v.json"
    path.write_text(json.dumps({"ecus": [content]} if not isinstance(content, dict) else content))
    with pytest.raises(FileError):
        load_vehicle(path)
