"""Three ECUs of the simulator's process, on three buses, are changed together over ISO-TP, with kills in the middle."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.update.config import UpdateEcu
from gateway.update.model import VerifiedTarget
from gateway.wire.uptane import FileFacts, MustMatch
from simulator.ecu.description import load_description
from simulator.ecu.flash_image import make_image
from tests.chain.diagnostics.car import Car, car
from tests.chain.updates.ecu_driver import ALL_NEW, ALL_OLD, Plan

pytestmark = [pytest.mark.car, pytest.mark.slow, pytest.mark.timeout(400)]

NAMES = ("motor", "battery", "brakes")
PAYLOAD_BYTES = 10 * 1024


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Car]:
    """The simulator runs, and the gateway's configuration is there; of the gateway only the driver is used."""
    with car(tmp_path) as made:
        made.prepare()
        made.simulator.start("workshop")
        yield made


def hardware_of(ecu: str) -> str:
    told = load_description(ecu).did(0xF191)
    assert told is not None
    return str(told.fields[0].value)


def write_plan(directory: Path, *, new: str, old: str, spoil: str = "") -> Path:
    """Images, keys and the plan; the new image of ``spoil`` is for other hardware."""
    targets, ecus = [], []
    for number, name in enumerate(NAMES):
        hardware = hardware_of(name)
        level = next(s for s in load_description(name).security if s.level == 0x11)
        (directory / f"{name}.key").write_text(level.constant)
        ecus.append(UpdateEcu(name=name, hardware_id=hardware, security_key_file=f"{name}.key"))
        files = {}
        for version in (new, old):
            made_for = "OTHER-HW" if name == spoil and version == new else hardware
            payload = random.Random(f"{number} {version}").randbytes(PAYLOAD_BYTES)
            content = make_image(name, version, payload, hardware_id=made_for)
            file = f"{name}-{version}.img"
            (directory / file).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            match = MustMatch(hardware_ids=(hardware,), release_counter=1, kind="firmware", version=version)
            files[version] = (FileFacts(filename=file, length=len(content), hashes={"sha256": digest}), match)
        targets.append(
            VerifiedTarget(
                ecu=name, hardware_id=hardware, image=files[new][0], must_match=files[new][1], fallback=files[old][0],
                fallback_must_match=files[old][1],
            )
        )  # fmt: skip
    path = directory / f"plan-{new}.json"
    path.write_bytes(msgspec.json.encode(Plan(ecus=tuple(ecus), targets=tuple(targets))))
    return path


def drive(made: Car, plan: Path, *, kill_at: tuple[str, float] | None = None) -> int:
    """One life of the driver; it is killed when the ECU's image has come so far. Its exit status, -9 when killed."""
    command = [sys.executable, "-m", "tests.chain.updates.ecu_driver", str(made.config), str(plan)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if "failed" in told:
                print(told["failed"])
            is_there = kill_at is not None and told.get("ecu") == kill_at[0] and told["state"] == "installing"
            if kill_at is not None and is_there and told["done"] >= kill_at[1] * told["total"]:
                process.kill()
    return process.returncode


def versions(made: Car) -> dict[str, str | None]:
    """Of the applications, None in a boot loader."""
    found: dict[str, str | None] = {}
    for name in NAMES:
        told = made.simulator.do("flash", ecu=name)
        found[name] = None if told["boot_loader"] else told["regions"][0]["version"]
    return found


def test_killed_in_the_middle_of_each_ecu_the_set_is_whole_in_the_end(standing: Car, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, new="05.00.00", old="04.00.00")
    for place in (("motor", 0.5), ("battery", 0.3), ("brakes", 0.9)):
        assert drive(standing, plan, kill_at=place) == -9
    assert drive(standing, plan) == ALL_NEW
    assert versions(standing) == dict.fromkeys(NAMES, "05.00.00")
    states = standing.simulator.do("ecus")["ecus"]
    assert all(states[name]["session"] == 1 and not states[name]["dtcs_frozen"] for name in states)


def test_one_that_is_refused_puts_all_back_though_the_gateway_is_killed_on_the_way(
    standing: Car, tmp_path: Path
) -> None:
    plan = write_plan(tmp_path, new="05.00.00", old="04.00.00", spoil="brakes")
    assert drive(standing, plan, kill_at=("battery", 0.6)) == -9
    assert versions(standing)["battery"] is None
    assert drive(standing, plan) == ALL_OLD
    assert versions(standing) == dict.fromkeys(NAMES, "04.00.00")
