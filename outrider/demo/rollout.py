"""The demo's release: deltas are built, a campaign rolls it out in two phases, one vehicle is unwell with it.

Each vehicle is a board of processes (``outrider boot play``): two slots in files, a boot loader that counts tries, and
a gateway that runs from the slot it was booted from. What makes one vehicle unwell is that the new software does not
find its CAN bus, as a missing driver would have it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from outrider.demo.processes import Child, Children, DemoError, run, wait_until
from outrider.demo.stage import Bus, Cloud, Vehicle

HARDWARE, PRIMARY = "gateway-demo", "gateway"
OLD, NEW = "1.0", "2.0"
PACKAGES = ("anyio", "httpx", "msgspec", "websockets", "tuf", "securesystemslib")
CHANGED = 12  # files that the new release touches
PATIENCE_S = 120.0
SPEED = "powertrain.VehicleMotion.VehicleSpeed"
NOWHERE = "239.74.163.99"  # a multicast group (or vcan9) that nobody sends to
SCHEME = """\
id = "drive"
version = 1

[[signals]]
name = "{speed}"
heartbeat_ms = 1000
on_change = true
"""
#: SIGTERM to the gateway once the wish to reboot is written down, as a service manager would do it.
REBOOT = 'touch "$OUTRIDER_REBOOT"; kill -TERM "$PPID"'


def make_image(version: str) -> bytes:
    """A root file system to play with: this program and some of its packages as an uncompressed archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        _add(tar, "etc/os-release", f'NAME="Outrider demo"\nVERSION_ID="{version}"\n'.encode())
        for number, (name, content) in enumerate(_files()):
            touched = version != OLD and number % 40 == 0 and number < 40 * CHANGED
            _add(tar, name, content + (f"\n# changed in {version}\n".encode() if touched else b""))
    return archive.getvalue()


def _files() -> Iterator[tuple[str, bytes]]:
    root, site = Path(__file__).resolve().parent.parent.parent, Path(sysconfig.get_paths()["purelib"])
    for base, names in ((root, ("gateway", "dbc", "bootctl")), (site, PACKAGES)):
        for name in names:
            for path in sorted((base / name).rglob("*.py")):
                yield f"usr/lib/outrider/{path.relative_to(base)}", path.read_bytes()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


class Board:
    """A vehicle whose gateway is booted from one of two slots."""

    def __init__(self, vehicle: Vehicle, children: Children) -> None:
        self.vehicle, self._children = vehicle, children
        self.process: Child | None = None

    def prepare(self, cloud: Cloud, image: bytes, anchors: Path, *, more: str = "", is_heard: bool = True) -> None:
        """Slots, trust anchors, configuration and identity.

        Args:
            cloud: where it belongs.
            image: what is in slot A.
            anchors: the ceremony's directory.
            more: text behind the configuration.
            is_heard: its buses speak: it must be parked before, and hear them after the update.
        """
        directory = self.vehicle.directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "slot-a.img").write_bytes(image)
        with (directory / "slot-b.img").open("wb") as slot:
            slot.truncate(2 * len(image))
        trust = directory / "uptane"
        trust.mkdir()
        for repository in ("director", "image"):
            (trust / f"{repository}.root.json").write_bytes((anchors / repository / "1.root.json").read_bytes())
        factory = {PRIMARY: _facts(f"gateway/{OLD}.img", image, OLD)}
        (directory / "factory.json").write_text(json.dumps(factory))
        self.vehicle.prepare(
            cloud,
            schemes={"drive.toml": SCHEME.format(speed=SPEED)},
            settings={"link": {"check_in_s": 1.0, "backoff_max_s": 2.0}},
            more=_update_section([bus.name for bus in self.vehicle.buses] if is_heard else []) + more,
        )
        (directory / "gateway-b.toml").write_text(self.vehicle.config.read_text())

    def make_unwell(self) -> None:
        """What is booted from slot B will not hear its first bus."""
        path = self.vehicle.directory / "gateway-b.toml"
        channel = "vcan9" if self.vehicle.buses[0].interface == "socketcan" else NOWHERE
        path.write_text(re.sub(r'(?m)^channel = ".*"$', f'channel = "{channel}"', path.read_text(), count=1))

    def start(self) -> None:
        """Switch it on."""
        directory = self.vehicle.directory

        def command(config: str) -> str:
            return f"{sys.executable} -m outrider gateway run --config {directory / config} --log-level info"

        self.process = self._children.start(
            f"board-{self.vehicle.name}",
            *("boot", "play", "--config", str(directory / "boot.json")),
            *("--slot", f"A={command('gateway.toml')}", "--slot", f"B={command('gateway-b.toml')}"),
        )
        wait_until("the board's gateway", partial(self.process.has_logged, "gateway_ready"), PATIENCE_S, self.process)

    def stop(self) -> int:
        """Switch it off in order."""
        return self.process.stop() if self.process else 0


def _facts(name: str, content: bytes, version: str) -> dict[str, object]:
    hashes = {kind: hashlib.new(kind, content).hexdigest() for kind in ("sha256", "sha512")}
    return {"filename": name, "length": len(content), "hashes": hashes, "release_counter": 1, "version": version}


def _update_section(buses: list[str]) -> str:
    sections: dict[str, dict[str, object]] = {
        "update": {
            "primary": PRIMARY,
            "hardware_id": HARDWARE,
            "factory": "factory.json",
            "poll_s": 30.0,
            "report_s": 0.5,
            "reboot_command": ["sh", "-c", REBOOT],
            "restart_command": ["sh", "-c", REBOOT],
            "keep_free_bytes": 0,
        },
        "update.slots": {"backend": "file", "config": "boot.json"},
        "update.slots.devices": {"A": "slot-a.img", "B": "slot-b.img"},
        "update.health": {"within_s": 15.0, "steady_s": 2.0, "buses": buses},
    }
    lines: list[str] = []
    for name, values in sections.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    if buses:
        lines += ["", "[[update.conditions]]", 'name = "parked"', f'signal = "{SPEED}"', "at_most = 1.0"]
        lines += ["max_age_s = 3.0", "may_be_silent = true"]  # a parked car's buses sleep
    return "\n".join(lines) + "\n"


class Releases:
    """A cloud's releases, with the key ceremony of a bench."""

    def __init__(self, cloud: Cloud, directory: Path) -> None:
        self._cloud, self.directory = cloud, directory
        self.keys = directory / "keys"
        directory.mkdir(parents=True, exist_ok=True)

    def ceremony(self) -> None:
        """Keys, both roots, the first targets."""
        run("cloud", "keys", "quick-start", str(self.keys), "--config", str(self._cloud.config))

    def publish(self, name: str, version: str, content: bytes) -> int:
        """A release of one root file system; its id."""
        target = f"{PRIMARY}/{version}.img"
        return self._publish(name, target, content, "--kind", "rootfs", "--hardware-id", HARDWARE, "--version", version)

    def payload(self, name: str, version: str, content: bytes) -> int:
        """A release of one scheme; its id."""
        facts = ("--kind", "scheme", "--hardware-id", HARDWARE, "--version", version)
        return self._publish(name, f"schemes/{version}.toml", content, *facts, place="@schemes")

    def _publish(self, name: str, target: str, content: bytes, *facts: str, place: str = "") -> int:
        """Take one image in, sign for it, make a release of it."""
        file, here = self.directory / name, ("--config", str(self._cloud.config))
        file.write_bytes(content)
        run("cloud", "releases", "add-image", str(file), "--name", target, *facts, "--counter", "1", *here)
        run("cloud", "keys", "sign-release", str(self.keys), *here, "--yes")
        run("cloud", "keys", "upload", str(self.keys), *here)
        run("cloud", "releases", "create", name, "--image", target + place, *here)
        (found,) = [r for r in self._cloud.get("/api/v1/releases")["items"] if r["name"] == name]
        self._cloud.post(f"/api/v1/releases/{found['id']}/publish", {})
        return int(found["id"])

    def delta(self) -> dict[str, Any]:
        """The newest delta job."""
        jobs = self._cloud.get("/api/v1/updates/deltas")
        return dict(jobs[0]) if jobs else {}


def versions(cloud: Cloud, vehicle: str) -> dict[str, str]:
    """What each ECU of a vehicle runs, as its last signed manifest said."""
    return {ecu["name"]: ecu["version"] for ecu in cloud.get(f"/api/v1/vehicles/{vehicle}/inventory")["ecus"]}


def _runs(cloud: Cloud, vehicle: str, version: str) -> bool:
    return versions(cloud, vehicle).get(PRIMARY) == version


def phased_plan(release: int, vehicles: list[str]) -> dict[str, object]:
    """One vehicle first, then all; a single failure pauses it."""
    gates = {"min_duration_s": 1, "min_reported": 1, "reported_share": 1.0, "success_rate": 1.0, "failure_count": 1}
    return {
        "name": f"Roll out {NEW}",
        "release": release,
        "filter": {"vehicles": vehicles},
        "phases": [{"vehicles": 1, **gates}, {"share": 1.0, **gates}],
        "retries": 0,
        "dtc_gate": None,
        "seed": 1,
    }


def roll_out(
    cloud: Cloud, directory: Path, children: Children, bus: Bus, say: Callable[[str], None], *, count: int = 3
) -> list[Board]:
    """Play it; the boards run on.

    Raises:
        DemoError: something of it did not happen.
    """
    releases = Releases(cloud, directory / "release")
    releases.ceremony()
    image = make_image(OLD)
    say(f"   image {OLD}: {len(image):,} bytes, as an uncompressed file system")
    releases.publish(f"release-{OLD}", OLD, image)
    names = [f"UPDATED-{number}" for number in range(1, count + 1)]
    boards = []
    for name in names:
        board = Board(Vehicle(name, directory / name.lower(), children, [bus]), children)
        board.prepare(cloud, image, releases.keys)
        board.start()
        boards.append(board)
    for name in names:
        wait_until(f"the first manifest of {name}", partial(_runs, cloud, name, OLD), PATIENCE_S)
    say(f"   {count} vehicles have told what they run, in signed manifests")
    new = make_image(NEW)
    release = releases.publish(f"release-{NEW}", NEW, new)
    wait_until("the delta", lambda: releases.delta().get("state") in ("done", "failed"), PATIENCE_S)
    job = releases.delta()
    whole = len(gzip.compress(new, 6))
    say(f"   release {NEW} is signed and published; delta {OLD} to {NEW}: {job.get('delta_bytes', 0):,} bytes")
    say(f"   (the whole image is {len(new):,}, {whole:,} with gzip)")
    _campaign(cloud, release, names, boards, say)
    return boards


def _campaign(cloud: Cloud, release: int, names: list[str], boards: list[Board], say: Callable[[str], None]) -> None:
    plan = phased_plan(release, names)
    made = cloud.post("/api/v1/campaigns", plan)
    number = int(made["id"])
    for action in ("submit", "approve", "start"):
        view = cloud.get(f"/api/v1/campaigns/{number}")
        if action in view["actions"]:
            cloud.post(f"/api/v1/campaigns/{number}/actions/{action}", {})
    members = cloud.get(f"/api/v1/campaigns/{number}/vehicles")["items"]
    unwell = max(members, key=lambda member: int(member["position"]))["vehicle"]
    boards[names.index(unwell)].make_unwell()
    say(f"   campaign: one vehicle first, then all, one failure stops it ({cloud.url}/console/campaigns/{number})")
    seen: dict[str, str] = {}
    ended: list[Any] = []

    def watch() -> bool:
        view = cloud.get(f"/api/v1/campaigns/{number}")
        for member in cloud.get(f"/api/v1/campaigns/{number}/vehicles")["items"]:
            told = member["state"] + (f" {member['step']}" if member["state"] == "running" else "")
            if seen.get(member["vehicle"]) != told:
                seen[member["vehicle"]] = told
                if member["state"] != "pending":
                    detail = f": {member['detail']}" if member["detail"] else ""
                    say(f"   phase {member['phase']}  {member['vehicle']}  {told}{detail}")
        ended[:] = [view]
        states = {member.split()[0] for member in seen.values()}
        return view["state"] == "paused" and not states & {"assigned", "offered", "running"}

    wait_until("the campaign's gate", watch, 3 * PATIENCE_S, *(b.process for b in boards if b.process is not None))
    say(f"   the gate of phase {ended[0]['phase']} has stopped it: {ended[0]['reason']}")
    running = {name: versions(cloud, name).get(PRIMARY) for name in names}
    say("   " + ", ".join(f"{name} runs {version}" for name, version in running.items()))
    if running[unwell] != OLD or set(running.values()) != {OLD, NEW}:
        raise DemoError(f"the vehicles run {running}")
