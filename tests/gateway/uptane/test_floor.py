"""The floor: what was trusted once holds when the metadata is lost or restored, or the floor itself is damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.errors import TransportError
from gateway.uptane.floor import Floor, Mark, seal, unseal
from tests.crash.disk import CrashFiles
from tests.gateway.uptane.repos import Cloud, Image, image
from tests.gateway.uptane.rig import Vehicle


@pytest.fixture
def advanced(cloud: Cloud, vehicle: Vehicle) -> tuple[dict[str, bytes], dict[str, bytes], Path]:
    """A vehicle at the second release; both repositories and its own folder as they were at the first."""
    cloud.release(image("images/one"), "gateway")
    cloud.publish()
    vehicle.refresh()
    old = cloud.director.checkpoint(), cloud.image.checkpoint()
    backup = vehicle.directory.with_name("backup")
    shutil.copytree(vehicle.directory, backup)
    cloud.director.nothing()
    cloud.release(image("images/two"), "gateway")
    cloud.publish()
    vehicle.refresh()
    return (*old, backup)


@pytest.mark.parametrize("damage", ["emptied", "zeroed", "truncated", "restored", "removed"])
def test_ct3_cs4_cg4_a_replay_is_refused_whatever_became_of_the_metadata(
    cloud: Cloud, vehicle: Vehicle, advanced: tuple[dict[str, bytes], dict[str, bytes], Path], damage: str
) -> None:
    director, images, backup = advanced
    vehicle.verifier.close()
    for name in ("director", "image"):
        folder = vehicle.directory / name
        if damage == "removed":
            shutil.rmtree(folder)
        elif damage == "restored":
            shutil.rmtree(folder)
            shutil.copytree(backup / name, folder)
        else:
            for path in folder.rglob("*.json"):
                content = path.read_bytes()
                new = {"emptied": b"", "zeroed": bytes(len(content)), "truncated": content[: len(content) // 2]}[damage]
                path.write_bytes(new)
    vehicle.restart()
    newest = cloud.director.checkpoint(), cloud.image.checkpoint()
    cloud.director.files = director
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("rollback", "CT3")
    cloud.director.files = newest[0]
    cloud.director.instruct(assignment="again")
    cloud.director.publish()
    cloud.image.files = images
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("rollback", "CT3")
    cloud.image.files = newest[1]
    assert vehicle.refresh().assignment == "again"


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_ct3_cs4_cg4_another_content_of_a_trusted_version_is_refused_also_when_the_metadata_is_lost(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, role: str
) -> None:
    vehicle.refresh()
    vehicle.verifier.close()
    for path in (vehicle.directory / "director").rglob("*.json"):
        path.unlink()
    vehicle.restart()
    director = cloud.director
    if role == "targets":
        director.instruct(assignment="other")
        director.targets.version -= 1
        director.publish_targets()
    if role == "snapshot":
        director.snapshot.version -= 1
        director.snapshot.unrecognized_fields["x"] = 1
    if role == "timestamp":
        director.timestamp.version -= 1
        director.timestamp.unrecognized_fields["x"] = 1
    else:
        director.publish_snapshot()
    director.publish_timestamp()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("rollback", {"timestamp": "CT3", "snapshot": "CS4", "targets": "CG4"}[role])


def test_one_damaged_copy_loses_nothing(
    cloud: Cloud, vehicle: Vehicle, advanced: tuple[dict[str, bytes], dict[str, bytes], Path]
) -> None:
    for name in ("a", "b"):
        (vehicle.directory / "floor" / name).write_bytes(b"\0" * 100)
        shutil.rmtree(vehicle.directory / "director")
        vehicle.restart()
        newest, cloud.director.files = cloud.director.files, advanced[0]
        assert vehicle.refused().attack == "rollback"
        cloud.director.files = newest
        cloud.director.publish_timestamp()
        vehicle.refresh()
        assert unseal((vehicle.directory / "floor" / name).read_bytes())


def test_a_lost_floor_is_rebuilt_from_metadata_that_verifies_and_is_told(
    cloud: Cloud, vehicle: Vehicle, advanced: tuple[dict[str, bytes], dict[str, bytes], Path]
) -> None:
    for damage in (b"", None):
        for name in ("a", "b"):
            path = vehicle.directory / "floor" / name
            path.unlink()
            if damage is not None:
                path.write_bytes(damage)
        vehicle.restart()
        assert vehicle.verifier.statistics()["floor_was_rebuilt"]
        newest, cloud.director.files = cloud.director.files, advanced[0]
        assert vehicle.refused().attack == "rollback"
        cloud.director.files = newest
        cloud.director.publish_timestamp()
        vehicle.refresh()
        vehicle.restart()
        assert not vehicle.verifier.statistics()["floor_was_rebuilt"]


def test_a_lost_floor_is_rebuilt_from_expired_metadata_too(
    cloud: Cloud, vehicle: Vehicle, advanced: tuple[dict[str, bytes], dict[str, bytes], Path]
) -> None:
    cloud.clock.advance(days=300)
    for name in ("a", "b"):
        (vehicle.directory / "floor" / name).write_bytes(b"?")
    vehicle.restart()
    versions = vehicle.verifier.statistics()["versions"]
    assert versions["director"] == {"root": 1, "timestamp": 3, "snapshot": 3, "targets": 3}
    assert versions["image"] == {"root": 1, "timestamp": 3, "snapshot": 3, "targets": 3}


def test_a_lost_floor_knows_the_counters_of_what_ran(cloud: Cloud, vehicle: Vehicle) -> None:
    old = cloud.release(image("images/old", counter=4))
    cloud.release(image(counter=5), "gateway", fallback={"gateway": old.facts})
    cloud.publish()
    vehicle.refresh()
    vehicle.raise_counters(gateway=4)
    for name in ("a", "b"):
        (vehicle.directory / "floor" / name).write_bytes(b"")
    vehicle.restart()
    assert vehicle.verifier.counter("gateway") == 4


def test_a_new_vehicle_has_nothing_to_rebuild(vehicle: Vehicle) -> None:
    assert not vehicle.verifier.statistics()["floor_was_rebuilt"]


def test_a_floor_that_cannot_be_written_stops_trust(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    folder = vehicle.directory / "floor"
    if folder.exists():
        shutil.rmtree(folder)
    folder.write_text("in the way")
    with pytest.raises(TransportError):
        vehicle.refresh()
    folder.unlink()
    assert vehicle.refresh().targets[0].image == wanted.facts


def test_a_full_disk_stops_trust_and_nothing_else(cloud: Cloud, wanted: Image) -> None:
    files = CrashFiles(capacity_bytes=0)
    vehicle = Vehicle(cloud, Path("/data/uptane"), files=files)
    with pytest.raises(TransportError):
        vehicle.refresh()
    for capacity in range(500, 30_000, 2500):
        files.capacity_bytes = capacity
        try:
            vehicle.refresh()
        except TransportError:
            vehicle.restart()
    assert vehicle.refresh().targets[0].image == wanted.facts


def test_both_copies_are_written_and_the_newer_one_counts() -> None:
    files, folder = CrashFiles(), Path("/floor")
    floor = Floor(files, folder)
    assert floor.is_new
    floor.record.director.marks["root"] = Mark(version=1, digest="x")
    floor.save()
    first = files.read(folder / "a")
    floor.record.director.marks["root"] = Mark(version=2, digest="y")
    floor.save()
    calls = len(files.log)
    floor.save()
    assert len(files.log) == calls, "nothing changed, nothing written"
    files.write(folder / "b", first)
    again = Floor(files, folder)
    assert again.record.director.marks["root"].version == 2
    again.save()
    assert files.read(folder / "a") == files.read(folder / "b")


def test_a_sealed_record_is_whole_or_nothing() -> None:
    sealed = seal(b"content")
    assert unseal(sealed) == b"content"
    for length in range(len(sealed)):
        with pytest.raises(ValueError, match="damaged"):
            unseal(sealed[:length])
