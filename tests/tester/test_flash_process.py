"""Flashing the simulated vehicle by the command line, with its power cut in the middle through the control socket."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outrider.cli import main
from simulator.ecu.flash_image import make_image
from tests.support import ROOT
from tests.tester.conftest import Uds
from tests.tester.support import Vehicle

DOCUMENTS = ("flash-an-ecu", "record-a-session", "live-data")


def flash(vehicle: Vehicle, image: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "outrider", "uds", "flash", str(image), "--ecu", "motor", "--write", "--json",
               "--block", "258", "--state", str(folder), *vehicle.arguments]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


def until(process: subprocess.Popen[str], done: int) -> dict[str, Any]:
    """The first line that tells of so many bytes transferred."""
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "transfer" and event["done"] >= done:
            return event
    raise AssertionError(process.stderr.read() if process.stderr else "")


def rest(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, err = process.communicate(timeout=100)
    assert "Traceback" not in err, err
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.slow
def test_power_lost_in_the_middle_and_a_tester_that_is_interrupted(vehicle: Vehicle, tmp_path: Path, uds: Uds) -> None:
    image = tmp_path / "motor.img"
    image.write_bytes(make_image("motor", "02.07.00", bytes(range(256)) * 160))

    process = flash(vehicle, image, tmp_path / "state")
    until(process, 2048)
    vehicle.do("ecu_power", ecu="motor", on=False)
    vehicle.do("ecu_power", ecu="motor", on=True)
    events = rest(process)
    assert process.returncode == 0, events
    result = events[-1]["result"]
    assert result["version"].startswith("02.07.00")
    assert result["lost"] >= 1
    assert result["resumed"] + result["restarted"] >= 1

    image.write_bytes(make_image("motor", "02.08.00", bytes(range(256)) * 160))
    process = flash(vehicle, image, tmp_path / "state")
    until(process, 4096)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "to go on" in err
    assert len(list((tmp_path / "state").iterdir())) == 1
    process = flash(vehicle, image, tmp_path / "state")
    events = rest(process)
    assert process.returncode == 0, events
    assert events[-1]["result"]["version"].startswith("02.08.00")
    assert events[-1]["result"]["resumed"] == 1
    assert uds("did", "read", "F189", "--ecu", "motor", "--json").status == 0


def test_nothing_is_written_without_being_told_to(uds: Uds, tmp_path: Path) -> None:
    image = tmp_path / "motor.img"
    image.write_bytes(make_image("motor", "02.09.00", b"x" * 500))
    assert uds("flash", str(image), "--ecu", "motor").status == 77
    assert uds("flash", str(image), "--ecu", "motor", "--plan", "--json").json["plan"]["version"] == "02.09.00"
    wrong = uds("flash", str(image), "--ecu", "gearbox", "--write")
    assert wrong.status == 4
    assert "not for 'gearbox'" in wrong.err
    (tmp_path / "x.hex").write_text(":00")
    assert uds("flash", str(tmp_path / "x.hex"), "--ecu", "motor").status == 65
    assert uds("flash", str(tmp_path / "none"), "--ecu", "motor").status == 66


def test_obd_clears_only_when_told_to(uds: Uds) -> None:
    assert uds("obd", "--clear").status == 77
    assert uds("obd", "--clear", "--write", "--json").json == {"cleared": ["gearbox", "motor"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_examples_of_the_documents_work(
    name: str, offline: Uds, vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("OUTRIDER_UDS", " ".join(vehicle.via[1::2]))
    monkeypatch.setenv("OUTRIDER_UDS_VEHICLE", str(vehicle.description))
    text = (ROOT / "docs" / "bench-technician" / f"{name}.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S) for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("outrider ")]
    assert commands
    for file, content in re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END$", text, re.M | re.S):
        (tmp_path / file).write_text(content)
    for line in commands:
        words = shlex.split(line)[1:]
        if words[0] != "uds":
            assert main(words) == 0
            continue
        waits = [] if words[1] in ("trace", "compare") else ["--latency", "2000"]
        done = offline(*words[1:], *waits)
        assert done.status == (0 if words[1] != "compare" else done.status), f"{line}\n{done.out}{done.err}"
