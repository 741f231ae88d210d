"""``outrider dbc decode`` from the outside: what it prints, writes and returns."""

from __future__ import annotations

import argparse
import csv
import io
import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet
import pytest

from dbc.decode_cli import add_decode_command
from dbc.manifest import Manifest
from tests.dbc.decode_support import manifest, message, signal
from tests.support import ROOT

ENGINE_DBC = """VERSION ""
BU_: ECU
BO_ 256 Engine: 8 ECU
 SG_ Speed : 0|16@1+ (0.25,0) [0|8000] "rpm" ECU
 SG_ Gear : 16|4@1+ (1,0) [0|15] "" ECU
 SG_ Text : 24|8@1- (1,0) [0|0] "a,b" ECU
BO_ 2566848512 Long: 8 ECU
 SG_ Wide : 0|64@1+ (1,0) [0|0] "" ECU
VAL_ 256 Gear 0 "park, or stop" 1 "drive" ;
"""
BODY_DBC = """VERSION ""
BU_: ECU
BO_ 257 Body: 1 ECU
 SG_ Door : 0|1@1+ (1,0) [0|1] "" ECU
"""
LOG = """(1700000000.000001) can0 100#A00F01FF00000000
(1700000000.000002) can1 101#01
(1700000000.000003) can0 18FF0000#FFFFFFFFFFFFFFFF
(1700000000.000004) can0 7FF#00
(1700000000.000005) can0 100#A00F
garbage
(1700000000.000006) can0 100#R
"""


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.out)))


class Bench:
    """A folder with a log and databases, and the command."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        (folder / "engine.dbc").write_text(ENGINE_DBC)
        (folder / "body.dbc").write_text(BODY_DBC)
        (folder / "drive.log").write_text(LOG)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def run(self, *arguments: str, log: str = "drive.log") -> Result:
        parser = argparse.ArgumentParser()
        add_decode_command(parser.add_subparsers())
        parsed = parser.parse_args(["decode", self.path(log), *arguments])
        status = int(parsed.run(parsed))
        captured = self._capsys.readouterr()
        return Result(status, captured.out, captured.err)


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, capsys)


def test_csv_has_one_row_per_sample_with_all_columns(bench: Bench) -> None:
    result = bench.run("--dbc", bench.path("engine.dbc"), "--format", "csv")
    assert result.status == 0
    assert result.out.splitlines()[0] == "timestamp,bus,id,message,signal,raw,value,unit,label"
    assert [tuple(row.values()) for row in result.rows] == [
        ("1700000000.000001", "can0", "100", "Engine", "Speed", "4000", "1000", "rpm", ""),
        ("1700000000.000001", "can0", "100", "Engine", "Gear", "1", "1", "", "drive"),
        ("1700000000.000001", "can0", "100", "Engine", "Text", "-1", "-1", "a,b", ""),
        ("1700000000.000003", "can0", "18FF0000", "Long", "Wide", str(2**64 - 1), str(2**64 - 1), "", ""),
        ("1700000000.000005", "can0", "100", "Engine", "Speed", "4000", "1000", "rpm", ""),
    ]


def test_the_summary_accounts_for_every_frame_and_line(bench: Bench) -> None:
    lines = bench.run("--dbc", bench.path("engine.dbc"), "--format", "csv").err.splitlines()
    facts = {line[:14].strip(): line[14:].split(None, 1) for line in lines}
    assert facts["frames"] == ["6", "candump, buses can0, can1"]
    assert facts["decoded"] == ["3"]
    assert facts["partial"][0] == "1"
    assert facts["unknown id"] == ["2", "101 (1), 7FF (1)"]
    assert facts["remote"] == ["1"]
    assert facts["samples"] == ["5"]
    assert facts["skipped lines"] == ["1", "6: no candump line"]


def test_databases_of_two_buses_apply_to_their_own(bench: Bench) -> None:
    result = bench.run(
        "--dbc", f"can0={bench.path('engine.dbc')}", "--dbc", f"can1={bench.path('body.dbc')}", "--format", "csv"
    )
    assert {(row["bus"], row["message"]) for row in result.rows} == {
        ("can0", "Engine"),
        ("can0", "Long"),
        ("can1", "Body"),
    }


def test_a_named_database_leaves_other_buses_alone_and_says_so(bench: Bench) -> None:
    result = bench.run("--dbc", f"can1={bench.path('body.dbc')}", "--format", "csv")
    assert {row["bus"] for row in result.rows} == {"can1"}
    assert "no database for can0" in result.err


def test_an_unnamed_database_applies_to_buses_without_their_own(bench: Bench) -> None:
    result = bench.run("--dbc", bench.path("body.dbc"), "--dbc", f"can0={bench.path('engine.dbc')}", "--format", "csv")
    assert {(row["bus"], row["message"]) for row in result.rows} == {
        ("can0", "Engine"),
        ("can0", "Long"),
        ("can1", "Body"),
    }


@pytest.mark.parametrize(
    ("glob", "signals"),
    [
        ("gear", {"Gear"}),
        ("engine.*", {"Speed", "Gear", "Text"}),
        ("*.long.wide", {"Wide"}),
        ("*e*", {"Speed", "Gear", "Text", "Wide"}),
    ],
)
def test_signals_are_chosen_by_glob(bench: Bench, glob: str, signals: set[str]) -> None:
    result = bench.run("--dbc", bench.path("engine.dbc"), "--format", "csv", "--signal", glob)
    assert {row["signal"] for row in result.rows} == signals


def test_a_glob_without_a_signal_is_a_usage_error(bench: Bench) -> None:
    result = bench.run("--dbc", bench.path("engine.dbc"), "--signal", "spped")
    assert (result.status, result.out) == (64, "")
    assert "--signal spped: no signal has such a name" in result.err


def test_labels_with_commas_survive_csv_and_json(bench: Bench) -> None:
    (bench.folder / "park.log").write_text("(1.5) can0 100#0000000000000000\n")
    arguments = ("--dbc", bench.path("engine.dbc"), "--signal", "Gear")
    assert bench.run(*arguments, "--format", "csv", log="park.log").rows[0]["label"] == "park, or stop"
    assert json.loads(bench.run(*arguments, "--json", log="park.log").out) == {
        "timestamp": 1.5,
        "bus": "can0",
        "id": "100",
        "message": "Engine",
        "signal": "Gear",
        "raw": 0,
        "value": 0,
        "unit": "",
        "label": "park, or stop",
    }


def test_a_table_is_aligned(bench: Bench) -> None:
    lines = bench.run("--dbc", bench.path("engine.dbc"), "--signal", "speed", "--signal", "gear").out.splitlines()
    head = lines[0]
    for line in lines[1:]:
        assert line[head.index("message") :].startswith("Engine")
        assert line[head.index("signal") :].startswith(("Speed", "Gear"))


def test_parquet_holds_the_same_rows(bench: Bench) -> None:
    out = bench.folder / "rows.parquet"
    result = bench.run("--dbc", bench.path("engine.dbc"), "--out", str(out))
    assert (result.status, result.out) == (0, "")
    table = pyarrow.parquet.read_table(out)
    assert table.column_names == ["timestamp", "bus", "id", "message", "signal", "raw", "value", "unit", "label"]
    rows = table.select(["bus", "id", "signal", "raw", "value", "unit", "label"]).to_pylist()
    assert [tuple(row.values()) for row in rows[:2]] == [
        ("can0", "100", "Speed", 4000, 1000.0, "rpm", ""),
        ("can0", "100", "Gear", 1, 1.0, "", "drive"),
    ]
    assert table["timestamp"].cast("int64").to_pylist()[0] == 1700000000_000001_000
    assert (len(rows), rows[3]["raw"]) == (5, -1)


def test_parquet_needs_a_file(bench: Bench) -> None:
    assert bench.run("--dbc", bench.path("engine.dbc"), "--format", "parquet").status == 64


def test_a_manifest_of_one_bus_applies_to_every_bus(bench: Bench) -> None:
    layout = manifest(message("Engine", 0x100, signal("Speed", 0, 16)), buses=("powertrain",))
    (bench.folder / "vehicle.manifest").write_bytes(layout.to_bytes())
    result = bench.run("--manifest", bench.path("vehicle.manifest"), "--format", "csv")
    assert [row["raw"] for row in result.rows] == ["4000", "4000"]


def test_buses_of_a_manifest_are_named_with_bus(bench: Bench) -> None:
    layout: Manifest = manifest(
        message("Engine", 0x100, signal("Speed", 0, 16)),
        message("Body", 0x101, signal("Door", 0, 1), bus=1),
        buses=("p", "b"),
    )
    (bench.folder / "vehicle.manifest").write_bytes(layout.to_bytes())
    arguments = ("--manifest", bench.path("vehicle.manifest"), "--format", "csv")
    assert bench.run(*arguments).rows == []
    result = bench.run(*arguments, "--bus", "can0=p", "--bus", "can1=b")
    assert {row["signal"] for row in result.rows} == {"Speed", "Door"}
    wrong = bench.run(*arguments, "--bus", "can0=x")
    assert (wrong.status, "the buses are p, b" in wrong.err) == (64, True)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ((), 64, "name the databases with --dbc"),
        (
            (
                "--dbc",
                "x=",
            ),
            64,
            "write FILE or BUS=FILE",
        ),
        (("--dbc", "/nowhere/x.dbc"), 66, "No such file"),
        (("--manifest", "drive.log"), 66, "drive.log"),
    ],
)
def test_wrong_arguments_are_named(bench: Bench, arguments: tuple[str, ...], status: int, text: str) -> None:
    result = bench.run(*arguments)
    assert (result.status, result.out) == (status, "")
    assert text in result.err


def test_a_missing_log_and_a_file_that_is_none_are_told_apart(bench: Bench) -> None:
    missing = bench.run("--dbc", bench.path("engine.dbc"), log="nowhere.log")
    assert (missing.status, "No such file" in missing.err) == (66, True)
    other = bench.run("--dbc", bench.path("engine.dbc"), log="engine.dbc")
    assert (other.status, "not a log of a known format" in other.err) == (65, True)


def test_a_damaged_manifest_is_refused(bench: Bench) -> None:
    (bench.folder / "bad.manifest").write_bytes(b"ORMF\x01nonsense")
    result = bench.run("--manifest", bench.path("bad.manifest"))
    assert (result.status, "damaged manifest" in result.err) == (65, True)


def test_a_truncated_log_gives_its_rows_and_exit_status_65(bench: Bench) -> None:
    packed = lzma.compress("".join(f"({i}.000000) can0 100#A00F{i % 256:02X}\n" for i in range(9000)).encode())
    (bench.folder / "cut.log.xz").write_bytes(packed[: len(packed) * 3 // 4])
    out = bench.folder / "rows.csv"
    result = bench.run("--dbc", bench.path("engine.dbc"), "--signal", "speed", "--out", str(out), log="cut.log.xz")
    assert result.status == 65
    assert "the log ends early" in result.err
    assert len(out.read_text().splitlines()) > 1000


def test_a_file_that_cannot_be_written_is_an_error_of_its_own(bench: Bench) -> None:
    result = bench.run("--dbc", bench.path("engine.dbc"), "--out", bench.path("no/such/folder.csv"))
    assert result.status == 73
    assert "No such file" in result.err


def test_no_half_file_is_left_when_the_run_is_interrupted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dbc.rows.CsvWriter.write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.run("--dbc", bench.path("engine.dbc"), "--out", bench.path("rows.csv"))
    assert {p.name for p in bench.folder.iterdir()} == {"engine.dbc", "body.dbc", "drive.log"}


def test_text_that_would_steer_a_terminal_is_made_harmless_in_the_table(bench: Bench) -> None:
    (bench.folder / "evil.dbc").write_text(ENGINE_DBC.replace('"rpm"', '"\x1b[2Jrpm"'))
    result = bench.run("--dbc", bench.path("evil.dbc"), "--signal", "speed")
    assert "\x1b" not in result.out
    assert "rpm" in result.out


@pytest.mark.parametrize("name", ["drive.log", "engine.dbc"])
def test_what_is_read_is_never_written_over(bench: Bench, name: str) -> None:
    before = (bench.folder / name).read_bytes()
    for database in (bench.path("engine.dbc"), f"can0={bench.path('engine.dbc')}"):
        result = bench.run("--dbc", database, "--format", "csv", "--out", bench.path(name))
        assert result.status == 64
        assert f"would replace {bench.path(name)}" in result.err
    assert (bench.folder / name).read_bytes() == before


def test_a_device_is_written_to_and_not_replaced(bench: Bench) -> None:
    result = bench.run("--dbc", bench.path("engine.dbc"), "--out", "/dev/null")
    assert result.status == 0
    assert Path("/dev/null").is_char_device()


def test_standard_output_by_name_is_written_to_and_not_replaced(bench: Bench) -> None:
    """It may be redirected to a regular file; root could replace the link in /dev."""
    link = Path("/dev/stdout")
    if not link.is_symlink():
        pytest.skip("/dev/stdout is no link here")
    words = [sys.executable, "-m", "outrider", "dbc", "decode", bench.path("drive.log"), "--dbc"]
    words += [bench.path("engine.dbc"), "--out", "/dev/stdout", "--format", "csv"]
    with (bench.folder / "rows.csv").open("w") as out:
        subprocess.run(words, stdout=out, stderr=subprocess.DEVNULL, cwd=ROOT, timeout=60, check=True)
    assert link.is_symlink()
    assert (bench.folder / "rows.csv").read_text().startswith("timestamp,bus,id")


def test_an_ending_that_tells_no_format_is_asked_about(bench: Bench) -> None:
    result = bench.run("--dbc", bench.path("engine.dbc"), "--out", bench.path("rows.xlsx"))
    assert (result.status, "say which --format" in result.err) == (64, True)
    assert not (bench.folder / "rows.xlsx").exists()


def test_a_database_without_a_message_is_an_error(bench: Bench) -> None:
    (bench.folder / "empty.dbc").write_text("")
    result = bench.run("--dbc", bench.path("empty.dbc"))
    assert (result.status, "no message in" in result.err) == (65, True)


def test_a_bus_that_the_log_does_not_have_is_told(bench: Bench) -> None:
    result = bench.run("--dbc", f"can9={bench.path('engine.dbc')}")
    assert "the log has no can9" in result.err
    assert "no database for can0, can1" in result.err


def test_a_format_that_needs_a_package_has_its_own_exit_status(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asammdf", None)  # importing it fails from now on
    (bench.folder / "x.mf4").write_bytes(b"MDF     4.11" + bytes(100))
    result = bench.run("--dbc", bench.path("engine.dbc"), log="x.mf4")
    assert (result.status, "asammdf" in result.err) == (69, True)
