"""One vehicle as processes: gateway, boot loader, cloud; updated, attacked, killed and taken back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.update.control import ask
from outrider.demo.processes import Children, wait_until
from outrider.demo.rollout import NEW, OLD, PRIMARY, Board, Releases, make_image, versions
from outrider.demo.stage import Bus, Cloud, Vehicle
from simulator.buses import BUSES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAME, PATIENCE_S = "CHAIN-1", 150.0
QUIET = "239.74.163.98"  # nobody speaks there
PAYLOAD = """
[[update.payloads]]
name = "schemes"
kind = "scheme"
path = "drive.toml"
"""
SCHEME = 'id = "drive"\nversion = {version}\n\n[[signals]]\nname = "{signal}"\non_change = true\n'


@dataclass
class Scene:
    """A cloud, its releases, one vehicle."""

    cloud: Cloud
    releases: Releases
    board: Board
    old: int  # the release that the vehicle came with

    def update(self) -> dict[str, Any]:
        """Where the vehicle's update is, for an operator."""
        found: dict[str, Any] = self.cloud.get(f"/api/v1/vehicles/{NAME}/update")
        return found

    def assign(self, release: int) -> None:
        """Give the vehicle a release."""
        self.cloud.post(f"/api/v1/vehicles/{NAME}/update", {"release_id": release})

    def ends(self, state: str) -> dict[str, Any]:
        """Wait for the end of the assignment, which must be ``state``."""

        def has_ended() -> bool:
            assignment = self.update()["assignment"]
            return bool(assignment) and assignment["state"] not in ("assigned", "offered", "running")

        wait_until("the end of the update", has_ended, PATIENCE_S)
        found = self.update()
        assert found["assignment"]["state"] == state, found
        return found

    def runs(self, version: str) -> bool:
        """Whether the last signed manifest says that the gateway runs it."""
        return versions(self.cloud, NAME).get(PRIMARY) == version

    def local(self) -> dict[str, Any]:
        """What the gateway itself says of the update."""
        return ask(self.board.vehicle.directory / "update.sock", do="status")

    def slot(self, name: str) -> bytes:
        """What a slot holds."""
        return (self.board.vehicle.directory / f"slot-{name}.img").read_bytes()

    def kill_gateway(self) -> None:
        """kill -9 of the gateway; the board boots again, as a watchdog would make it."""
        assert self.board.process is not None
        children = Path(f"/proc/{self.board.process.pid}/task/{self.board.process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The vehicle runs the old release and has said so."""
    directory = tmp_path_factory.mktemp("updates")
    (directory / "logs").mkdir()
    with Children(directory / "logs") as children:
        cloud = Cloud(directory / "cloud", children, port=0, vehicle_port=0)
        cloud.start()
        releases = Releases(cloud, directory / "release")
        releases.ceremony()
        image = make_image(OLD)
        old = releases.publish(f"release-{OLD}", OLD, image)
        (dbc,) = [bus.dbc for bus in BUSES if bus.name == "powertrain"]
        bus = Bus(name="powertrain", dbc=dbc, interface="udp_multicast", channel=QUIET)
        board = Board(Vehicle(NAME, directory / "vehicle", children, [bus]), children)
        board.prepare(cloud, image, releases.keys, more=PAYLOAD, is_heard=False)
        board.start()
        made = Scene(cloud, releases, board, old)
        wait_until("the first manifest", partial(made.runs, OLD), PATIENCE_S)
        yield made
        cloud.close()


def test_an_image_that_was_changed_on_the_server_is_refused_by_name_and_the_right_one_taken(scene: Scene) -> None:
    """Whoever owns the server's disk can hold up an update, and no more. The attack is told in the signed manifest."""
    new = make_image(NEW)
    release = scene.releases.publish(f"release-{NEW}", NEW, new)
    stored = [p for p in scene.cloud.directory.rglob("*") if p.is_file() and p.stat().st_size == len(new)]
    assert stored
    genuine = {path: path.read_bytes() for path in stored if path.read_bytes() == new}
    for path, content in genuine.items():
        mode = path.stat().st_mode
        path.chmod(0o600)
        path.write_bytes(content[:-1] + b"X")
        path.chmod(mode)
    before = scene.slot("a")
    scene.assign(release)
    found = scene.ends("failed")
    assert found["attack"] == "arbitrary software" or "arbitrary software" in str(found), found
    assert scene.runs(OLD)
    assert scene.slot("a") == before
    for path, content in genuine.items():
        path.chmod(0o600)
        path.write_bytes(content)


def test_an_update_goes_on_over_kills_and_is_proved_after_the_boot(scene: Scene) -> None:
    release = next(r["id"] for r in scene.cloud.get("/api/v1/releases")["items"] if r["name"] == f"release-{NEW}")
    scene.assign(int(release))
    wait_until("the update's beginning", lambda: scene.update()["status"] not in ("none", "assigned"), PATIENCE_S)
    scene.kill_gateway()
    scene.ends("succeeded")
    assert scene.runs(NEW)
    assert scene.slot("b").startswith(make_image(NEW))
    assert scene.local()["stage"] == "ended"


def test_a_commanded_rollback_switches_and_fetches_nothing(scene: Scene) -> None:
    """The old slot still holds the old image: it is read back, and booted on trial."""
    before = scene.slot("a")
    scene.assign(scene.old)
    scene.ends("succeeded")
    assert scene.runs(OLD)
    assert scene.slot("a") == before


def test_a_scheme_is_loaded_for_trial_and_only_a_sound_one_is_used(scene: Scene) -> None:
    path = scene.board.vehicle.directory / "drive.toml"
    before = path.read_bytes()
    foolish = scene.releases.payload("scheme-2", "2", SCHEME.format(version=2, signal="no.such.signal").encode())
    scene.assign(foolish)
    assert "no.such.signal" in str(scene.ends("failed"))
    assert path.read_bytes() == before
    signal_name = "powertrain.VehicleMotion.VehicleSpeed"
    sound = SCHEME.format(version=3, signal=signal_name).encode()
    scene.assign(scene.releases.payload("scheme-3", "3", sound))
    scene.ends("succeeded")
    assert path.read_bytes() == sound
    assert versions(scene.cloud, NAME)["schemes"] == "3"
    assert versions(scene.cloud, NAME)[PRIMARY] == OLD
