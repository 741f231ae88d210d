"""docs/bench-technician/flash-and-faults.md says what the code does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import msgspec
import pytest

from outrider.cli import main
from simulator.ecu.description import ecu_names, load_description
from simulator.ecu.dtc_description import (
    DtcDescription,
    FaultMemoryDescription,
    FaultTest,
    ObdDescription,
    ObdMonitor,
)
from simulator.ecu.dtc_read import EXTENDED
from simulator.ecu.ecu_faults import FAULT_ACTIONS
from simulator.ecu.flash_store import FlashDescription, Verdict
from tests.support import ROOT

TEXT = (ROOT / "docs/bench-technician/flash-and-faults.md").read_text(encoding="utf-8")


def table(after: str) -> list[list[str]]:
    """The rows of the first table after a heading or line."""
    rows = re.search(r"^\|.*?$\n^\|[-| ]+\|$\n((?:^\|.*$\n)+)", TEXT[TEXT.index(after) :], re.M)
    assert rows is not None
    return [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows[1].splitlines()]


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
    assert len(lines) >= 4
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "outrider"
        assert not main(words[1:])
    printed = capsys.readouterr().out
    shown = re.findall(r"```text\n(.*?)```", TEXT, re.S)
    assert all(block in printed for block in shown)


def test_results_of_the_check() -> None:
    assert [row[0] for row in table("8. `11 01`")] == [f"{verdict:02X}" for verdict in Verdict]


def test_extended_data_records() -> None:
    assert [row[0] for row in table("### Extended data records")] == [f"{record:02X}" for record in EXTENDED]


def test_codes_of_the_table_of_faults_exist() -> None:
    codes = {dtc["code"] for name in ecu_names() for dtc in load_description(name).dtcs}
    named = set(re.findall(r"\b[PCBU]\d[0-9A-F]{3}-[0-9A-F]{2}\b", TEXT))
    assert named
    assert named <= codes


def test_memory_map() -> None:
    rows = {row[0]: (int(row[1], 16), int(row[2].replace(",", ""))) for row in table("### Memory")}
    for name in ecu_names():
        regions = {region.name: (region.start, region.bytes) for region in load_description(name).memory.regions}
        assert {region: regions[region] for region in rows} == rows


def test_control_requests() -> None:
    named = set(re.findall(r'"do": "(\w+)"', TEXT))
    assert named == set(FAULT_ACTIONS)


def test_room_of_the_memory() -> None:
    assert "has room for twelve codes" in TEXT
    assert FaultMemoryDescription().capacity == 12
    assert all("capacity" not in load_description(name).dtc_settings for name in ecu_names())


def _keys(heading: str) -> set[str]:
    return {key for row in table(heading) for key in re.findall(r"`(\w+)`", row[0])}


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("### `[[dtcs]]`", DtcDescription), ("### `test`", FaultTest), ("### `[dtc_settings]`", FaultMemoryDescription),
        ("### `[obd]`", ObdDescription), ("### `[flash]`", FlashDescription),
    ],
)  # fmt: skip
def test_keys_of_a_description(heading: str, kind: type[msgspec.Struct]) -> None:
    assert _keys(heading) == set(kind.__struct_fields__)


def test_keys_of_a_monitor() -> None:
    told = re.search(r"A monitor has (.*?)\n\n", TEXT, re.S)
    assert told is not None
    assert set(re.findall(r"`(\w+)`", told[1])) == set(ObdMonitor.__struct_fields__)
