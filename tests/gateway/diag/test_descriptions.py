"""What the ECUs' identifiers are called and mean, from a description any tool may write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.diag.descriptions import load_descriptions
from gateway.errors import ConfigError
from gateway.wire.dtc import SnapshotValue


def field(size: int, **more: object) -> dict[str, object]:
    return {"bytes": size, **more}


def load(tmp_path: Path, content: object) -> dict[str, dict[int, list[SnapshotValue]]]:
    """Each identifier's words for the bytes 00 01 02 …"""
    path = tmp_path / "ecus.json"
    path.write_text(json.dumps(content))
    return {
        name: {did: layout.values_of(bytes(range(layout.length))) for did, layout in ecu.dids.items()}
        for name, ecu in load_descriptions(path).items()
    }


def test_fields_become_named_values_with_units_and_labels(tmp_path: Path) -> None:
    dids = {
        "0100": {"name": "Voltage", "bytes": 2, "fields": [field(2, scale=0.5, offset=-1, unit="V")]},
        "0101": {
            "name": "Key",
            "bytes": 3,
            "fields": [field(1, name="Position", values={"0": "off"}), field(2, name="Level", encoding="int")],
        },
        "F190": {"name": "Serial", "bytes": 4, "fields": [field(4, encoding="hex")], "more": "is ignored"},
        "F191": {"name": "Odd", "bytes": 2, "fields": [field(2, encoding="roman")]},
        "F192": {"name": "Of unknown length", "fields": []},
    }
    words = load(tmp_path, {"ecus": [{"ecu": "motor", "dids": dids, "services": {}}], "version": 3})
    assert words == {
        "motor": {
            0x0100: [SnapshotValue(name="Voltage", value=-0.5, unit="V")],
            0x0101: [SnapshotValue(name="Key: Position", value="off"), SnapshotValue(name="Key: Level", value=0x0102)],
            0xF190: [SnapshotValue(name="Serial", value="00010203")],
            0xF191: [SnapshotValue(name="Odd", value="0001")],
        }
    }


def test_trouble_codes_have_words(tmp_path: Path) -> None:
    path = tmp_path / "ecus.json"
    service = {"details": {"codes": {"0AA61A": "Insulation too low"}, "capacity": 3}}
    path.write_text(json.dumps({"ecus": [{"ecu": "m", "services": {"19": service, "22": {}}}]}))
    assert load_descriptions(path)["m"].texts == {0x0AA61A: "Insulation too low"}


def test_bytes_of_another_length_are_told_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "ecus.json"
    path.write_text(json.dumps({"ecus": [{"ecu": "m", "dids": {"0100": {"bytes": 2, "fields": [field(2)]}}}]}))
    layout = load_descriptions(path)["m"].dids[0x0100]
    assert layout.values_of(b"\x01\x02\x03") == [SnapshotValue(name="0100", value="010203")]


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"ecus": 3},
        {"ecus": [{"dids": {}}]},
        {"ecus": [{"ecu": "m", "dids": {"xyz": {"bytes": 1, "fields": [field(1)]}}}]},
    ],
)
def test_something_else_is_refused_with_its_file(tmp_path: Path, content: object) -> None:
    with pytest.raises(ConfigError, match=r"ecus\.json"):
        load(tmp_path, content)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_descriptions(tmp_path / "none.json")
