"""The commands on the simulated vehicle, as a technician types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.tester.conftest import Uds
from tests.tester.support import Vehicle

NAMES = ["battery", "body", "brakes", "gearbox", "motor", "telematics"]
COOLANT = "P0A93-00"


@pytest.fixture
def fault(vehicle: Vehicle) -> Iterator[None]:
    """A confirmed code in the motor's memory."""
    vehicle.do("dtc_force", ecu="motor", code=COOLANT, failing=True)
    for _ in range(20):
        vehicle.do("dtc_report", ecu="motor", code=COOLANT, failed=True)
    yield
    vehicle.do("dtc_force", ecu="motor", code=COOLANT, failing=None)


def test_every_ecu_answers(uds: Uds) -> None:
    done = uds("tester-present", "--json")
    assert done.status == 0
    assert done.json["ecus"] == [{"ecu": name, "present": True} for name in NAMES]


def test_the_connection_may_come_from_the_environment_or_a_file(
    offline: Uds, vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "no connection" in offline("info").err
    via = f"udp_multicast:{vehicle.channel('body')}"
    folder = tmp_path / "config" / "outrider"
    folder.mkdir(parents=True)
    (folder / "uds.toml").write_text(f'via = ["{via}"]\nvehicle = "{vehicle.description}"\n')
    assert "(blank)" in offline("info", "--ecu", "body").out
    monkeypatch.setenv("OUTRIDER_UDS", "can:surely_not_there")
    assert offline("info", "--ecu", "body").status == 74
    (folder / "uds.toml").write_text("speling = 1\n")
    assert offline("info").status == 65


def test_info_identifies(uds: Uds) -> None:
    done = uds("info", "--ecu", "motor", "--json")
    dids = {entry["name"]: entry["values"] for entry in done.json["ecus"][0]["dids"]}
    assert dids["Spare part number"] == [{"name": "", "value": "OR1-MC-0001", "unit": ""}]


def test_faults_are_listed_with_text_status_and_severity(uds: Uds, fault: None) -> None:
    done = uds("dtc", "list", "--json")
    assert done.status == 0
    motor = next(entry for entry in done.json["ecus"] if entry["ecu"] == "motor")
    [found] = [dtc for dtc in motor["dtcs"] if dtc["code"] == COOLANT]
    assert {"failing", "confirmed"} <= set(found["status_words"])
    assert found["text"] == "Inverter cooling: no coolant flow"
    assert found["severity"] == "check immediately"
    table = uds("dtc", "list", "--confirmed").out
    assert COOLANT in table
    assert "no codes: " in table


def test_a_fault_is_shown_with_its_snapshot(uds: Uds, fault: None) -> None:
    done = uds("dtc", "show", COOLANT, "--ecu", "motor", "--json")
    [found] = done.json["ecus"][0]["dtcs"]
    values = {value["name"]: value["fields"][0] for value in found["snapshots"][0]["values"]}
    assert values["Supply voltage"]["unit"] == "V"
    assert 9 < values["Supply voltage"]["value"] < 16
    assert {record["name"] for record in found["extended"]} >= {"occurrence counter", "aging counter"}
    text = uds("dtc", "show", "P0A93", "--ecu", "motor").out
    assert "x confirmed" in text
    assert "- not tested since clear" in text


def test_a_code_nobody_knows_is_told(uds: Uds) -> None:
    done = uds("dtc", "show", "P0001", "--ecu", "motor", "--ecu", "body")
    assert done.status == 64
    assert "no ECU asked knows P0001-00" in done.err
    assert uds("dtc", "show", "X1").status == 64


def test_clearing_needs_write_and_says_what_it_did(uds: Uds, vehicle: Vehicle, fault: None) -> None:
    refused = uds("dtc", "clear", "--ecu", "motor")
    assert refused.status == 77
    assert "add --write" in refused.err
    tried = uds("dtc", "clear", "--ecu", "motor", "--dry-run", "--json")
    assert tried.json["dry_run"] is True
    assert COOLANT in uds("dtc", "list", "--ecu", "motor").out
    vehicle.do("dtc_force", ecu="motor", code=COOLANT, failing=False)
    done = uds("dtc", "clear", "--ecu", "motor", "--write", "--json")
    assert done.status == 0
    assert COOLANT in [dtc["code"] for dtc in done.json["before"][0]["dtcs"]]
    assert COOLANT not in [dtc["code"] for dtc in done.json["after"][0]["dtcs"]]


def test_watching_tells_what_is_there(uds: Uds, fault: None) -> None:
    done = uds("dtc", "watch", "--ecu", "motor", "--duration", "2", "--json")
    assert done.status == 0
    assert COOLANT in [json.loads(line)["code"] for line in done.out.splitlines()]


def test_identifiers_are_read_by_number_name_and_range(uds: Uds) -> None:
    done = uds("did", "read", "0100", "vehicle speed", "F190-F191", "--ecu", "motor", "--json")
    dids = done.json["ecus"][0]["dids"]
    assert [entry["did"] for entry in dids] == ["0100", "0101", "F190", "F191"]
    assert dids[1]["values"] == [{"name": "", "value": 0, "unit": "km/h"}]
    assert dids[2]["values"][0]["value"] == bytes.fromhex(dids[2]["data"]).decode()


def test_an_identifier_that_does_not_exist_is_a_refusal(uds: Uds) -> None:
    done = uds("did", "read", "1234", "--ecu", "motor", "--json")
    assert done.status == 76
    error = done.json["ecus"][0]["dids"][0]["error"]
    assert (error["kind"], error["nrc"]) == ("negative_response", "31")
    assert uds("did", "read", "no such name").status == 64


def test_values_are_written_in_their_units_and_read_back(uds: Uds) -> None:
    words = ("did", "write", "speed limit", "131", "--ecu", "motor")
    assert uds(*words).status == 77
    assert "131 km/h (00 83) (enter the extended session, open security level 01)" in uds(*words, "--dry-run").err
    done = uds(*words, "--write", "--json")
    assert done.status == 0
    assert (done.json["written"], done.json["after"]) == ("0083", "0083")
    assert uds("did", "write", "0300", "fast", "--ecu", "motor", "--write").status == 64
    assert uds("did", "write", "0101", "hex:0000", "--ecu", "motor", "--write").status == 76
    session = uds("did", "read", "F186", "--ecu", "motor", "--json").json["ecus"][0]["dids"][0]["data"]
    assert session == "01", "left in its default session"


def test_a_dump_has_all_described_identifiers(uds: Uds, tmp_path: Path) -> None:
    out = tmp_path / "dump.json"
    assert uds("did", "dump", "--ecu", "gearbox", "--out", str(out)).status == 0
    [gearbox] = json.loads(out.read_bytes())["ecus"]
    assert {"0100", "F190", "0203"} <= {entry["did"] for entry in gearbox["dids"]}
    assert not [entry for entry in gearbox["dids"] if "error" in entry]
    assert uds("did", "dump", "--ecu", "gearbox", "--out", str(tmp_path / "no" / "dir")).status == 73


def test_watching_identifiers_is_a_stream(uds: Uds) -> None:
    done = uds("did", "watch", "0100", "--ecu", "body", "--interval", "0.05", "--count", "3", "--json")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["ecus"][0]["dids"][0]["did"] for line in lines] == ["0100"] * 3


def test_sessions_tell_their_timing(uds: Uds) -> None:
    done = uds("session", "extended", "--ecu", "motor", "--json")
    assert done.json["ecus"] == [{"ecu": "motor", "session": "03", "name": "extended", "p2_ms": 50,
                                  "p2_star_ms": 5000}]  # fmt: skip
    assert uds("session", "programming", "--ecu", "motor").status == 77
    assert uds("session", "nonsense", "--ecu", "motor").status == 64
    assert uds("session", "60", "--ecu", "motor").status == 76


def test_levels_open_by_each_algorithm_and_no_key_is_sent_unasked(uds: Uds) -> None:
    seed = uds("unlock", "01", "--ecu", "brakes", "--seed-only", "--json").json["seed"]
    assert len(seed) == 8
    assert uds("unlock", "01", "--ecu", "brakes").status == 77
    assert uds("unlock", "01", "--ecu", "brakes", "--write", "--json").json["open"] is True
    assert uds("unlock", "03", "--ecu", "brakes", "--write").status == 0
    assert uds("unlock", "02", "--ecu", "brakes", "--write").status == 64
    assert uds("unlock", "05", "--ecu", "brakes", "--write").status == 64
    wrong = uds("unlock", "01", "--ecu", "brakes", "--write", "--key", "00 00 00 00", "--json")
    assert wrong.status == 76
    assert wrong.json["error"]["nrc"] == "35"
    assert uds("unlock", "01", "--ecu", "brakes", "--write").status == 0  # the attempts start over


def test_routines_run(uds: Uds) -> None:
    listed = uds("routine", "list", "--ecu", "motor", "--json").json["ecus"][0]["routines"]
    assert "0200" in [routine["routine"] for routine in listed]
    assert uds("routine", "start", "self test", "--ecu", "motor").status == 77
    done = uds("routine", "start", "self test", "--ecu", "motor", "--write", "--wait", "--json")
    assert done.status == 0
    assert done.json["record"]
    assert uds("routine", "start", "test", "--ecu", "motor", "--write").status == 64  # which one?


def test_outputs_are_given_back(uds: Uds) -> None:
    done = uds("io", "radiator fan", "adjust", "50", "--ecu", "motor", "--hold", "0.2", "--write", "--json")
    assert done.status == 0
    assert done.json["values"][0]["value"] == 50
    assert uds("did", "read", "0210", "--ecu", "motor", "--json").json["ecus"][0]["dids"][0]["data"] == "00"
    assert uds("io", "0210", "adjust", "500", "--ecu", "motor", "--write").status == 64
    assert uds("io", "0210", "freeze", "1", "--ecu", "motor", "--write").status == 64


def test_memory_is_read_and_written(uds: Uds, tmp_path: Path) -> None:
    out = tmp_path / "ram.bin"
    assert uds("memory", "write", "20000100", "01 02 03", "--ecu", "motor").status == 77
    assert "read back" in uds("memory", "write", "20000100", "01 02 03", "--ecu", "motor", "--write").out
    assert uds("memory", "read", "20000100", "3", "--ecu", "motor", "--out", str(out)).status == 0
    assert out.read_bytes() == b"\x01\x02\x03"
    assert "20000100  01 02 03" in uds("memory", "read", "20000100", "16", "--ecu", "motor").out
    assert uds("memory", "read", "7F000000", "4", "--ecu", "motor").status == 76
    assert uds("memory", "read", "20000100", "0", "--ecu", "motor").status == 64


def test_a_reset_waits_until_the_ecu_is_back(uds: Uds) -> None:
    assert uds("reset", "--ecu", "body").status == 77
    done = uds("reset", "soft", "--ecu", "body", "--write", "--json")
    assert done.status == 0
    assert done.json["ecus"][0]["back_after_s"] > 0


def test_raw_requests_show_answers_and_refusals(uds: Uds, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    done = uds("raw", "22", "F1", "86", "--ecu", "motor", "--json", "--trace", str(trace))
    assert done.json["ecus"] == [{"ecu": "motor", "answer": "62F18601"}]
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [(line["kind"], line["pdu"]) for line in lines] == [("request", "22F186"), ("answer", "62F18601")]
    assert uds("raw", "BA", "00", "--ecu", "motor").status == 77
    refused = uds("raw", "BA", "00", "--ecu", "motor", "--write", "--json")
    assert (refused.status, refused.json["ecus"][0]["error"]["nrc"]) == (76, "11")
    assert uds("raw", "14FFFFFF", "--ecu", "motor").status == 77
    assert uds("raw", "xyz").status == 64


def test_silence_is_told_apart_from_refusal(offline: Uds, vehicle: Vehicle) -> None:
    via = f"udp_multicast:{vehicle.channel('powertrain')}"
    done = offline("raw", "22F190", "--ecu", "7E5", "--via", via, "--json")
    assert done.status == 69
    assert done.json["ecus"][0]["error"]["kind"] == "no_answer"
    assert offline("info", "--ecu", "7E0", "--via", "can:no_such_bus").status == 74
    assert offline("info", "--ecu", "0x1010", "--via", "doip:127.0.0.1:9").status == 74
    assert offline("info", "--ecu", "motor", "--via", via).status == 64


def test_ecus_are_found_without_a_vehicle_file(offline: Uds, vehicle: Vehicle) -> None:
    """11-bit pairs, extended and 29-bit addressing, on buses that carry normal traffic."""
    vias = [w for b in ("body", "chassis", "auxiliary") for w in ("--via", f"{b}=udp_multicast:{vehicle.channel(b)}")]
    done = offline("ecus", *vias, "--range", "730-750", "--latency", "2000", "--json")
    assert done.status == 0
    found = {entry["address"]: entry for entry in done.json["ecus"]}
    assert set(found) == {"740/748", "6F1/629 extended 29", "18DA50F1"}
    parts = {i["did"]: i["values"][0]["value"] for i in found["740/748"]["identification"]}
    assert parts[f"{0xF187:04X}"] == "OR1-BC-0001"


def test_known_ecus_keep_their_names(uds: Uds) -> None:
    done = uds("ecus", "--no-sweep", "--json")
    assert [entry["ecu"] for entry in done.json["ecus"]] == NAMES
    assert done.json["missing"] == []


def test_a_scan_finds_the_described_services_and_sends_nothing_unsafe(uds: Uds, vehicle: Vehicle) -> None:
    described = {e["ecu"]: e for e in json.loads(vehicle.description.read_bytes())["ecus"]}["gearbox"]
    done = uds("scan", "services", "--ecu", "gearbox", "--json")
    found = {entry["number"] for entry in done.json["found"]}
    untried = set(done.json["not_tried"])
    assert {sid for sid in described["services"] if sid > "0A"} - untried == {sid for sid in found if sid > "0A"}
    assert {"04", "11", "14", "28", "2E", "2F", "31", "34", "35", "36", "37", "3D", "85", "87"} <= untried
    sent = {
        str(r["request"])[:2].upper() for r in vehicle.do("ecu_requests", ecu="gearbox")["requests"] if "request" in r
    }
    assert not sent & untried
    assert uds("scan", "services", "--ecu", "gearbox", "--unsafe").status == 77


def test_a_scan_finds_sessions_without_entering_them(uds: Uds) -> None:
    done = uds("scan", "sessions", "--ecu", "battery", "--json")
    assert [entry["number"] for entry in done.json["found"]] == ["01", "02", "03", "04"]
    assert all(entry["described"] for entry in done.json["found"])


def test_a_scan_finds_the_described_identifiers(uds: Uds) -> None:
    done = uds("scan", "dids", "--range", "0100-0105", "--range", "F18A-F18C", "--ecu", "brakes", "--json")
    assert all(entry["described"] for entry in done.json["found"])
    assert {"0100", "F18A"} <= {entry["number"] for entry in done.json["found"]}
    assert uds("scan", "dids", "--range", "5-1", "--ecu", "brakes").status == 64


def test_the_vehicle_file_is_shown_and_exported(uds: Uds, offline: Uds, tmp_path: Path) -> None:
    assert "Radiator fan test" in uds("vehicle", "show", "--ecu", "motor").out
    out = tmp_path / "v.toml"
    assert uds("vehicle", "export", "--out", str(out)).status == 0
    assert uds("vehicle", "export", "--out", str(out)).status == 73, "never overwrites"
    shown = offline("vehicle", "show", "--vehicle", str(out), "--json")
    assert [entry["ecu"] for entry in shown.json["ecus"]] == NAMES


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_gives_back_what_it_took(uds: Uds, vehicle: Vehicle, end: signal.Signals) -> None:
    words = ["io", "0210", "adjust", "50", "--ecu", "motor", "--write", *vehicle.arguments]
    process = subprocess.Popen(
        [sys.executable, "-m", "outrider", "uds", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=dict(os.environ),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert "adjust  50 %" in process.stdout.readline()
        taken = uds("did", "read", "0210", "--ecu", "motor", "--json").json["ecus"][0]["dids"][0]["data"]
        assert taken == "64"
    finally:
        process.send_signal(end)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    dids = uds("did", "read", "0210", "F186", "--ecu", "motor", "--json").json["ecus"][0]["dids"]
    assert [entry["data"] for entry in dids] == ["00", "01"]
