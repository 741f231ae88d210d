"""The demo as a visitor runs it, headless, on a machine with or without vcan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LOG = "".join(
    f"({100 + i * 0.01:.6f}) can0 123#{i % 256:02X}00\n({100.001 + i * 0.01:.6f}) can1 200#01\n" for i in range(500)
)
DBC = """VERSION ""
BU_: A
BO_ 291 Engine: 2 A
 SG_ Speed : 0|16@1+ (0.5,0) [0|0] "km/h" A
BO_ 512 Door: 1 A
 SG_ Open : 0|1@1+ (1,0) [0|0] "" A
"""


def demo(tmp_path: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "outrider", "demo", "--dir", str(tmp_path / "demo"), "--port", "0", *arguments]


def test_headless_demo_with_a_log_of_ones_own_ends_by_itself_with_nothing_lost(tmp_path: Path) -> None:
    (tmp_path / "my.log").write_text(LOG)
    (tmp_path / "my.dbc").write_text(DBC)
    mine = ("--log", str(tmp_path / "my.log"), "--dbc", str(tmp_path / "my.dbc"))
    command = demo(tmp_path, "--headless", "--seconds", "5", "--speed", "0", *mine)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("every frame and item is accounted for, nothing was lost") == 2
    assert "battery tells U1120-87: Lost communication with cell monitoring (failing" in done.stdout
    assert "its snapshot: Supply voltage 1" in done.stdout
    assert "cleared; who did it" in done.stdout
    assert "vehicles have told what they run, in signed manifests" in done.stdout
    assert "rolled_back" in done.stdout
    assert "the gate of phase 2 has stopped it" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("RECORDED-1 can")]
    assert [row[1:4] for row in rows] == [["can0", "500", "500"], ["can1", "500", "500"]]


def test_interrupted_demo_leaves_nothing_running(tmp_path: Path) -> None:
    with subprocess.Popen(
        demo(tmp_path, "--headless"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "2. A simulated car" in line:
                break
        process.send_signal(signal.SIGINT)
        said += process.stdout.read()
        assert process.wait(120) == 130, said
    assert "nothing is left running" in said
    mine = str(tmp_path / "demo").encode()
    commands = [Path("/proc", pid, "cmdline") for pid in os.listdir("/proc") if pid.isdigit()]
    assert [path for path in commands if path.exists() and mine in path.read_bytes()] == []


def test_directory_of_someone_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "precious").write_text("mine")
    done = subprocess.run(
        demo(tmp_path, "--headless"), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 69
    assert "was not made by a demo" in done.stderr
    assert (tmp_path / "demo" / "precious").read_text() == "mine"


def test_log_that_is_none_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "my.log").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "my.dbc").write_text(DBC)
    mine = ("--log", str(tmp_path / "my.log"), "--dbc", str(tmp_path / "my.dbc"))
    command = demo(tmp_path, "--headless", *mine)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (69, "")
    assert "outrider demo:" in done.stderr


@pytest.mark.parametrize("given", [("--log", "x.log"), ("--dbc", "x.dbc"), ("--log", "no.log", "--dbc", "no.dbc")])
def test_what_is_missing_is_told_before_anything_starts(tmp_path: Path, given: tuple[str, ...]) -> None:
    command = demo(tmp_path, "--headless", *given)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 69
    assert "outrider demo:" in done.stderr
    assert "Traceback" not in done.stderr
    assert "1. The cloud" not in done.stdout
