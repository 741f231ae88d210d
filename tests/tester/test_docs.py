"""The examples of the documents work on the simulated vehicle, and every command is in the reference."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from outrider.cli import build_parser
from tester.vehicle_files import load_vehicle
from tests.support import ROOT
from tests.tester.conftest import Uds
from tests.tester.support import Vehicle

GUIDE = ROOT / "docs" / "bench-technician" / "uds.md"
REFERENCE = ROOT / "docs" / "reference" / "uds-command.md"


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(encoding="utf-8"), re.M | re.S)


def test_the_guides_examples_work(
    offline: Uds, vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In their order, in one folder, on buses of this test; what needs a CAN interface is left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTRIDER_UDS", " ".join(vehicle.via[1::2]))
    monkeypatch.setenv("OUTRIDER_UDS_VEHICLE", str(vehicle.description))
    lines = [line for block in blocks(GUIDE, "sh") for line in block.splitlines() if line.startswith("outrider uds")]
    lines = [line for line in lines if "can:can0" not in line]
    assert len(lines) > 30
    for line in lines:
        done = offline(*shlex.split(line)[2:], "--latency", "2000")
        assert done.status == 0, f"{line}\n{done.out}{done.err}"
        assert done.out or done.err


def test_the_vehicle_file_of_the_reference_is_sound(tmp_path: Path) -> None:
    [example] = blocks(REFERENCE, "toml")
    (tmp_path / "codes.csv").write_text("P0001,text\n")
    (tmp_path / "v.toml").write_text(example)
    motor = load_vehicle(tmp_path / "v.toml").ecu("motor")
    assert motor.dids[0x0101].read is not None
    assert motor.dids[0x0300].write is not None
    assert motor.dids[0x0300].fields[0].maximum == 250


def test_every_command_and_verb_is_in_the_reference() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    parser = build_parser(["uds"])
    groups = next(action for action in parser._actions if action.dest == "group")
    assert isinstance(groups.choices, dict)
    commands = next(a for a in groups.choices["uds"]._actions if isinstance(a.choices, dict)).choices
    assert isinstance(commands, dict)
    missing = [name for name in commands if f"`outrider uds {name}" not in text]
    assert missing == []
    for name in ("dtc", "did", "routine", "memory", "scan", "vehicle"):
        verbs = next(a for a in commands[name]._actions if isinstance(a.choices, dict)).choices
        row = " ".join(line for line in text.splitlines() if f"`outrider uds {name}" in line)
        assert [verb for verb in verbs or () if verb not in row] == []
