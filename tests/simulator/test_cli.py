"""The commands as a user starts them: exit statuses, messages, summaries, signals, the control socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dbc.manifest import load_manifest
from outrider.cli import main
from simulator.control import MAX_LINE_BYTES, Control
from simulator.runner import Runner
from simulator.sinks import CountingSink
from tests.simulator.conftest import MakeSimulation
from tests.simulator.test_traffic import FakePacer
from tests.support import ROOT


def test_run_records_a_log_and_writes_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, summary = tmp_path / "out.log", tmp_path / "summary.json"
    command = ["sim", "run", "--scenario", "motorway", "--duration", "1", "--log", str(log), "--summary", str(summary)]
    assert main([*command, "--fault", "missing:chassis.WheelSpeeds@0.5"]) == os.EX_OK
    told = json.loads(summary.read_text())
    assert told["frames"] == log.read_text().count("\n") == 1916 - 50
    assert told["buses"]["chassis"]["sent"] == 756 - 50
    assert (told["complete"], told["failed"], told["seed"], told["name"]) == (True, 0, 2, "motorway")
    assert "powertrain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "--scenario", "moon"], os.EX_DATAERR, "no scenario 'moon'"),
        (["run", "--fault", "stuck:x.y.z"], os.EX_DATAERR, "no signal 'x.y.z'"),
        (["run", "--bus", "powertrain"], os.EX_USAGE, "expected NAME=CHANNEL"),
        (["run", "--bus", "engine=vcan0"], os.EX_USAGE, "no bus 'engine'"),
        (["run", "--bus", "body=a", "--bus", "body=b"], os.EX_USAGE, "given twice"),
        (["run", "--interface", "pcan"], os.EX_USAGE, "say --bus"),
        (["run", "--speed", "-1"], os.EX_USAGE, "out of range"),
        (["run", "--duration", "nan"], os.EX_USAGE, "out of range"),
        (["run", "--seed", "-4"], os.EX_USAGE, "--seed"),
        (["run", "--log", "/nonexistent/x.log"], os.EX_CANTCREAT, "/nonexistent"),
        (["run", "--duration", "0.05", "--log", "/dev/full"], os.EX_IOERR, "No space left"),
        (["run", "--duration", "0"], os.EX_USAGE, "out of range"),
        (["load", "--rate", "99", "--duration", "1", "--log", "/dev/full"], os.EX_IOERR, "No space left"),
        (["load", "--rate", "9", "--duration", "1", "--summary", "/nonexistent/s"], os.EX_CANTCREAT, "/nonexistent"),
        (["run", "--bus", "body=nocan9"], os.EX_UNAVAILABLE, "nocan9"),
        (["replay", "/nonexistent.log"], os.EX_NOINPUT, "nonexistent"),
        (["replay", str(ROOT / "Makefile")], os.EX_DATAERR, "not a log"),
        (["replay", "x.log", "--interface", "socketcan"], os.EX_USAGE, "say --bus"),
        (["load", "--rate", "10", "--ids", "zz"], os.EX_USAGE, "identifiers"),
        (["load", "--percent", "900"], os.EX_USAGE, "--percent"),
        (["load", "--rate", "0", "--duration", "1"], os.EX_USAGE, "rate 0"),
        (["load", "--rate", "1", "--bus", "a=b", "--log", "x"], os.EX_USAGE, "--log"),
        (["manifest", "--out", "/nonexistent/x"], os.EX_CANTCREAT, "/nonexistent"),
    ],
)
def test_what_is_wrong_is_told_on_stderr(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sim", *arguments]) == status
    told = capsys.readouterr()
    assert message in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_list_tells_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "list"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} >= {"city", "fault", "charging"}


def test_manifest_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vehicle.manifest"
    assert main(["sim", "manifest", "--out", str(path)]) == 0
    manifest = load_manifest(path)
    assert capsys.readouterr().out.startswith(manifest.hash.hex())
    assert manifest.buses == ("powertrain", "battery", "body", "chassis", "auxiliary")


def test_load_to_a_log_and_replay_of_it(tmp_path: Path) -> None:
    log, summary = str(tmp_path / "load.log"), tmp_path / "s.json"
    assert main(["sim", "load", "--rate", "5000", "--duration", "2", "--log", log]) == 0
    assert main(["sim", "replay", log, "--summary", str(summary)]) == 0
    assert json.loads(summary.read_text())["frames"] == 10_000


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_cleanly_with_summary_and_whole_log(tmp_path: Path, how: signal.Signals) -> None:
    log, summary, control = tmp_path / "x.log", tmp_path / "s.json", tmp_path / "c.sock"
    command = [sys.executable, "-m", "outrider", "sim", "run", "--speed", "1", "--log", str(log)]
    command += ["--summary", str(summary), "--control", str(control)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        told = ask(control, {"do": "state"}, process)
        assert told["ok"]
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    told = json.loads(summary.read_text())
    assert (told["end"], told["complete"]) == ("stopped", False)
    assert told["frames"] == log.read_text().count("\n")
    assert not control.exists()


def ask(path: Path, request: dict[str, Any], process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """One request; waits for the socket to appear while the process lives."""
    while True:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.connect(str(path))
                client.sendall(json.dumps(request).encode() + b"\n")
                with client.makefile() as answers:
                    return dict(json.loads(answers.readline()))
        except (FileNotFoundError, ConnectionRefusedError):
            assert process.poll() is None, "the simulator ended"


def test_the_control_socket_injects_reads_and_stops(tmp_path: Path) -> None:
    summary, control = tmp_path / "s.json", tmp_path / "c.sock"
    command = [sys.executable, "-m", "outrider", "sim", "run", "--scenario", "motorway", "--speed", "1"]
    with subprocess.Popen(
        [*command, "--summary", str(summary), "--control", str(control)], cwd=ROOT, stderr=subprocess.PIPE
    ) as process:
        assert ask(control, {"do": "pause"}, process) == {"ok": True, "paused": True}
        assert control.stat().st_mode & 0o077 == 0
        one = ask(control, {"do": "state"}, process)
        assert one["scenario"] == "motorway"
        number = ask(control, {"do": "inject", "fault": "missing:chassis.WheelSpeeds"}, process)["number"]
        faults = ask(control, {"do": "faults"}, process)["faults"]
        assert [(f["number"], f["kind"], f["active"]) for f in faults] == [(number, "missing", True)]
        assert (
            ask(
                control,
                {"do": "command", "message": "HornCommand", "values": {"HornRequest": 1, "HornDuration": 5}},
                process,
            )["result"]
            == "accepted"
        )
        assert ask(control, {"do": "state"}, process)["simulated_s"] == one["simulated_s"], "paused"
        assert ask(control, {"do": "clear"}, process)["cleared"] == 1
        assert ask(control, {"do": "stop"}, process)["ok"]
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(summary.read_text())["commands_accepted"] == 1


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"", "Expecting value"),
        (b"[]", "JSON object"),
        (b"\xff", "utf-8"),
        (b'{"do": "fly"}', "do: one of"),
        (b'{"do": "inject"}', "fault: a text"),
        (b'{"do": "inject", "fault": "gremlin"}', "no fault"),
        (b'{"do": "inject", "fault": "stuck:a.b.c"}', "no signal"),
        (b'{"do": "clear", "number": "x"}', "whole number"),
        (b'{"do": "speed", "value": 0}', "above 0"),
        (b'{"do": "speed", "value": NaN}', "above 0"),
        (b'{"do": "command", "message": "DoorStatus"}', "actuator message"),
        (b'{"do": "command", "message": "LockCommand", "values": {"LockRequest": "x"}}', "numbers"),
        (b'{"do": "command", "message": "LockCommand", "values": {"Lock": 1}}', "no signal"),
        (b'{"do": "command", "message": "LockCommand", "values": {"LockRequest": 9}}', "out of range"),
        (b"[" * MAX_LINE_BYTES, ""),
    ],
)
def test_a_bad_request_is_answered_with_an_error(simulate: MakeSimulation, line: bytes, error: str) -> None:
    runner = Runner(simulate("city"), CountingSink(("a", "b", "c", "d", "e")), FakePacer(), speed=1, duration_s=1)
    answer = json.loads(Control(runner).answer(line))
    assert answer["ok"] is False
    assert error in answer["error"]


def test_a_bus_that_the_log_does_not_have_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "a.log"
    log.write_text("(1.000000) can0 100#00\n")
    words = ["sim", "replay", str(log), "--interface", "virtual", "--speed", "0"]
    assert main([*words, "--bus", "can7=x"]) == os.EX_USAGE
    assert "no frame of can7" in capsys.readouterr().err
    assert main([*words, "--bus", "can7=x", "--bus", "can0=y"]) == os.EX_OK
    assert "no frame of can7" in capsys.readouterr().err


def test_an_error_of_a_file_names_it_and_no_error_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["sim", "run", "--duration", "1"]
    assert main([*short, "--log", str(tmp_path / "no" / "x.log")]) == os.EX_CANTCREAT
    assert f"{tmp_path / 'no' / 'x.log'}: No such file" in capsys.readouterr().err
    assert main([*short, "--control", str(tmp_path / ("s" * 120))]) == os.EX_IOERR
    assert f"--control {tmp_path}" in capsys.readouterr().err
    assert main([*short, "--log", "/dev/full"]) == os.EX_IOERR
    assert "/dev/full: No space left" in capsys.readouterr().err


def test_a_summary_never_replaces_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "run", "--duration", "1", "--summary", "/dev/null"]) == os.EX_OK
    assert Path("/dev/null").is_char_device()
