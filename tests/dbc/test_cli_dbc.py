"""``outrider dbc check|compile|show`` as a user calls them: output, exit status, files written."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from dbc.cli import bus_name
from dbc.load.codes import MEANINGS
from dbc.manifest import load_manifest
from outrider.cli import main

SG = "(1,0) [0|0]"
GOOD = f"""BO_ 256 Motor: 8 Ecu
 SG_ Speed : 7|16@0- (0.5,-10) [-100|100] "km/h" Dash
 SG_ State : 16|4@1+ {SG} "" Dash
BO_ 2566844926 Muxed: 8 Ecu
 SG_ Selector M : 0|8@1+ {SG} "" Dash
 SG_ A m0 : 8|16@1+ {SG} "" Dash
 SG_ B m1 : 8|32@1- {SG} "" Dash
CM_ SG_ 256 Speed "over
ground";
VAL_ 256 State 0 "off" 1 "on" ;
BA_ "GenMsgCycleTime" BO_ 256 100;
"""
BAD = GOOD + 'CM_ SG_ Motor "which?";\n'


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "good.dbc").write_text(GOOD)
    (tmp_path / "bad.dbc").write_text(BAD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("files")
def test_check_of_a_sound_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbc", "check", "good.dbc"]) == os.EX_OK
    assert capsys.readouterr().out == "good.dbc: 2 messages, 5 signals; 0 errors, 0 warnings, 0 notes\n"


@pytest.mark.usefixtures("files")
def test_check_lists_defects_with_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbc", "check", "good.dbc", "bad.dbc"]) == os.EX_DATAERR
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "bad.dbc: 2 messages, 5 signals; 1 error, 0 warnings, 0 notes"
    assert lines[2].split()[:3] == ["12", "error", "malformed_comment"]
    assert len(lines) == 3


@pytest.mark.usefixtures("files")
def test_check_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbc", "check", "--json", "good.dbc", "bad.dbc"]) == os.EX_DATAERR
    first, second = json.loads(capsys.readouterr().out)["files"]
    assert first == {
        "path": "good.dbc", "format": "dbc", "version": "", "messages": 2, "signals": 5,
        "errors": 0, "warnings": 0, "notes": 0, "defects": [],
    }  # fmt: skip
    defect = second["defects"][0]
    assert {key: defect[key] for key in ("severity", "line", "message", "signal", "code")} == {
        "severity": "error", "line": 12, "message": "", "signal": "", "code": "malformed_comment",
    }  # fmt: skip
    assert defect["code"] in MEANINGS


@pytest.mark.usefixtures("files")
def test_check_at_a_level(capsys: pytest.CaptureFixture[str]) -> None:
    Path("warn.dbc").write_text("BO_ 1 M: 65 X\nwhat\n")
    assert main(["dbc", "check", "--level", "error", "warn.dbc"]) == os.EX_DATAERR
    lines = capsys.readouterr().out.splitlines()
    assert ["unknown_line" in line for line in lines[1:]] == [True]


@pytest.mark.usefixtures("files")
def test_check_goes_on_after_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbc", "check", "none.dbc", ".", "bad.dbc"]) == os.EX_NOINPUT
    captured = capsys.readouterr()
    assert captured.out.startswith("bad.dbc: ")
    assert captured.err == "none.dbc: No such file or directory\n.: Is a directory\n"


@pytest.mark.usefixtures("files")
def test_compile_writes_a_manifest_and_prints_its_hash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbc", "compile", "--dbc", "pt=good.dbc", "--dbc", "body=good.dbc", "--out", "car.manifest"]) == 0
    manifest = load_manifest(Path("car.manifest"))
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert facts["hash"] == manifest.hash.hex()
    assert (facts["buses"], facts["messages"], facts["signals"]) == ("pt, body", "4", "10")
    assert (manifest.name, manifest.buses) == ("car", ("pt", "body"))
    assert stat.S_IMODE(Path("car.manifest").stat().st_mode) & 0o044 == 0o044
    assert sorted(p.name for p in Path().iterdir()) == ["bad.dbc", "car.manifest", "good.dbc"]


@pytest.mark.usefixtures("files")
def test_compile_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbc", "compile", "bad.dbc", "--out", "m", "--name", "Van", "--json"]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert (facts["name"], facts["buses"], facts["signals"]) == ("Van", ["bad"], 5)
    assert facts["bytes"] == Path("m").stat().st_size
    assert [report["errors"] for report in facts["files"]] == [1]
    assert "malformed_comment" in captured.err


@pytest.mark.usefixtures("files")
def test_strict_compile_writes_nothing_when_something_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    Path("m").write_text("old")
    assert main(["dbc", "compile", "bad.dbc", "--out", "m", "--strict"]) == os.EX_DATAERR
    assert Path("m").read_text() == "old"
    assert "m is not written" in capsys.readouterr().err


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["none.dbc", "--out", "m"], os.EX_NOINPUT),
        (["--dbc", "pt=none.dbc", "--out", "m"], os.EX_NOINPUT),
        (["--out", "m"], os.EX_USAGE),
        (["--dbc", "good.dbc", "--out", "m"], os.EX_USAGE),
        (["--dbc", "=good.dbc", "--out", "m"], os.EX_USAGE),
        (["--dbc", "a.b=good.dbc", "--out", "m"], os.EX_USAGE),
        (["good.dbc", "--out", "no/such/folder/m"], os.EX_CANTCREAT),
        (["empty.dbc", "--out", "m"], os.EX_DATAERR),
    ],
)
def test_compile_that_cannot_be(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.dbc").write_text("")
    assert main(["dbc", "compile", *arguments]) == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err != "") == ("", True)
    assert not Path("m").exists()


@pytest.mark.usefixtures("files")
def test_show_lists_messages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbc", "show", "good.dbc"]) == 0
    header, motor, muxed = capsys.readouterr().out.splitlines()
    assert header.split() == ["BUS", "ID", "MESSAGE", "BYTES", "CYCLE", "SIGNALS", "SENDER"]
    assert motor.split() == ["good", "0x100", "Motor", "8", "100", "ms", "2", "Ecu"]
    assert muxed.split() == ["good", "0x18FEF1FE", "Muxed", "8", "-", "3", "Ecu"]


@pytest.mark.usefixtures("files")
def test_show_lays_a_message_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbc", "show", "good.dbc", "--message", "Motor"]) == 0
    expected = """Motor  0x100 on good, 8 bytes, every 100 ms, from Ecu
  SIGNAL  START|BITS  BYTES  ORDER  KIND      VALUE           RANGE      UNIT
  Speed         7|16  0-1    big    signed    raw * 0.5 - 10  -100..100  km/h
      over ground
  State         16|4  2      -      unsigned  raw
      0 = off, 1 = on
"""
    assert capsys.readouterr().out == expected


@pytest.mark.usefixtures("files")
def test_show_draws_the_tree_of_multiplexing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbc", "show", "good.dbc", "--message", "0x18fef1fe"]) == 0
    names = [line.split("  " * 8)[0].rstrip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [name.split("|")[0].rstrip("0123456789 ") for name in names] == [
        "  Selector", "      (multiplexor)", "    when Selector =", "      A", "    when Selector =", "      B",
    ]  # fmt: skip


@pytest.mark.usefixtures("files")
def test_show_of_a_manifest_is_show_of_its_database(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbc", "compile", "good.dbc", "--out", "good.manifest"]) == 0
    capsys.readouterr()
    for arguments in ([], ["--message", "*"], ["--json"], ["--json", "--message", "good.Mot?r"]):
        outputs = []
        for file in ("good.dbc", "good.manifest"):
            assert main(["dbc", "show", file, *arguments]) == 0
            outputs.append(capsys.readouterr().out)
        assert outputs[0] == outputs[1]


@pytest.mark.usefixtures("files")
def test_show_says_that_not_all_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbc", "show", "bad.dbc"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3
    assert captured.err == "bad.dbc: 1 error, 0 warnings, 0 notes; 'outrider dbc check' tells all\n"


@pytest.mark.usefixtures("files")
def test_show_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbc", "show", "good.dbc", "--message", "Muxed", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    (message,) = content["messages"]
    assert (message["name"], message["bus"], message["can_id"], message["extended"]) == (
        "Muxed",
        "good",
        0x18FEF1FE,
        True,
    )
    assert message["signals"][2]["mux"] == [{"selector": "Selector", "ranges": [[1, 1]]}]
    assert message["signals"][2]["kind"] == "signed"


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["none.dbc"], os.EX_NOINPUT),
        (["good.dbc", "--message", "Nothing"], os.EX_DATAERR),
        (["good.dbc", "--message", "0"], os.EX_DATAERR),
        (["good.dbc", "--message", "12V"], os.EX_DATAERR),
        (["empty.dbc"], os.EX_DATAERR),
        (["broken.manifest"], os.EX_DATAERR),
        (["newer.manifest"], os.EX_DATAERR),
    ],
)
def test_show_of_what_is_not_there(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.dbc").write_text("")
    Path("broken.manifest").write_bytes(b"ORMF\x01broken")
    Path("newer.manifest").write_bytes(b"ORMF\x02")
    assert main(["dbc", "show", *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert arguments[0] in captured.err


@pytest.mark.parametrize(("file", "bus"), [("can0", "can0"), ("my car (2)", "my_car_2_"), ("é", "_"), ("", "bus")])
def test_buses_called_like_their_file(file: str, bus: str) -> None:
    assert bus_name(file) == bus


@pytest.mark.data
def test_every_public_file_can_be_shown(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every signal has its line in the layout of its message."""
    for path in sorted((data_dir / "can" / "dbc").glob("*.dbc")):
        assert main(["dbc", "show", str(path), "--message", "*"]) == 0
        laid_out = capsys.readouterr().out
        assert main(["dbc", "show", str(path), "--json"]) == 0
        messages = json.loads(capsys.readouterr().out)["messages"]
        rows = [line for line in laid_out.splitlines() if "|" in line and line.startswith("  ")]
        assert len(rows) >= sum(len(message["signals"]) for message in messages)


def test_compile_never_writes_over_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.dbc"
    path.write_text('VERSION ""\nBU_: E\nBO_ 1 A: 8 E\n SG_ S : 0|8@1+ (1,0) [0|0] "" E\n')
    before = path.read_bytes()
    assert main(["dbc", "compile", "--dbc", f"can0={path}", "--out", str(path)]) == os.EX_USAGE
    assert "would replace" in capsys.readouterr().err
    assert path.read_bytes() == before
