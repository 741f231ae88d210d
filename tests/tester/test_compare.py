"""Snapshots of simulated ECUs and what differs between two."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from gateway.uds.client import UdsClient
from gateway.wire.dtc import parse_dtc
from outrider.cli import main
from simulator.ecu.describe import describe
from simulator.ecu.description import load_description
from tester.compare import EcuEntry, VehicleSnapshot, differences, load_snapshot, read_ecu, snapshot_of
from tester.errors import FileError
from tester.vehicle import Vehicle
from tester.vehicle_files import load_vehicle
from tests.gateway.uds.test_with_ecus import SimulatedEcu, fail, on


def motor_vehicle(folder: Path) -> Vehicle:
    path = folder / "motor.json"
    path.write_text(json.dumps({"ecus": [describe(load_description("motor"))]}))
    return load_vehicle(path)


def two_snapshots(folder: Path) -> tuple[VehicleSnapshot, VehicleSnapshot]:
    """Before and after a fault."""
    vehicle = motor_vehicle(folder)

    async def work(client: UdsClient, ecu: SimulatedEcu) -> tuple[EcuEntry, EcuEntry]:
        before = await read_ecu(vehicle, vehicle.ecu("motor"), client)
        fail(ecu, parse_dtc("P0A93-00"))
        return before, await read_ecu(vehicle, vehicle.ecu("motor"), client)

    before, after = on("motor", work)
    return snapshot_of(vehicle, [before]), snapshot_of(vehicle, [after])


def test_a_fault_is_the_difference(tmp_path: Path) -> None:
    before, after = two_snapshots(tmp_path)
    assert before.vin == "0UTR1DER0NE000001"
    assert len(before.ecus[0].dids) > 20
    [found] = differences(before, after)
    assert (found.ecu, found.kind, found.item, found.before) == ("motor", "dtc", "P0A93-00", "")
    assert "failing" in found.after
    [fault] = after.ecus[0].dtcs
    assert {value.name for value in fault.snapshots} & {"Vehicle speed", "Supply voltage", "Odometer"}
    assert [value.text for value in fault.extended if value.record == "01"] == ["1"]


def test_versions_count_and_measured_values_only_when_asked(tmp_path: Path) -> None:
    before, _ = two_snapshots(tmp_path)
    ecu = before.ecus[0]
    dids = [
        msgspec.structs.replace(d, data="00", text="other") if d.did in ("F189", "0100") else d
        for d in ecu.dids
        if d.did != "F191"
    ]
    after = msgspec.structs.replace(before, ecus=(msgspec.structs.replace(ecu, dids=tuple(dids)),))
    assert [d.item for d in differences(before, after)] == ["F189", "F191"]
    assert [d.item for d in differences(before, after, values=True)] == ["0100", "F189", "F191"]
    assert differences(before, before, values=True) == []


def test_an_ecu_that_no_longer_answers_is_a_difference(tmp_path: Path) -> None:
    before, _ = two_snapshots(tmp_path)
    silent = msgspec.structs.replace(before, ecus=(EcuEntry(ecu="motor", error="no answer"),))
    gone = msgspec.structs.replace(before, ecus=())
    assert [(d.kind, d.after) for d in differences(before, silent)] == [("ecu", "no answer")]
    assert [(d.kind, d.after) for d in differences(before, gone)] == [("ecu", "")]


def test_compare_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, snapshot in zip("ab", two_snapshots(tmp_path), strict=True):
        (tmp_path / name).write_bytes(msgspec.json.encode(snapshot))
    assert main(["uds", "compare", str(tmp_path / "a"), str(tmp_path / "a")]) == 0
    assert main(["uds", "compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 1
    out = capsys.readouterr().out
    assert json.loads(out.partition("\n")[2])["differences"][0]["item"] == "P0A93-00"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "x/9", "taken_utc": "", "vehicle": "", "ecus": []}'])
def test_what_is_no_snapshot_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "x").write_text(content)
    with pytest.raises(FileError, match="snapshot"):
        load_snapshot(tmp_path / "x")
