"""check_root (CR1 to CR5) and the keys in it (R1), at both repositories."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Role

from gateway.wire.uptane import MAX_ROOT_BYTES
from tests.gateway.uptane.repos import Cloud, Image, Repository, image, new_key
from tests.gateway.uptane.rig import Vehicle

BOTH = pytest.mark.parametrize("name", ["director", "image"])


def ask_both(cloud: Cloud) -> None:
    """Something new from the Director, so that the Image repository is looked at, too."""
    cloud.director.instruct(assignment="other")
    cloud.director.publish()


def repository_of(cloud: Cloud, name: str) -> Repository:
    """By its name."""
    return cloud.director if name == "director" else cloud.image


@BOTH
def test_r1_one_key_under_two_names_is_one_signature(cloud: Cloud, vehicle: Vehicle, wanted: Image, name: str) -> None:
    repository = repository_of(cloud, name)
    signer = new_key()
    twin = deepcopy(signer)
    twin.public_key.keyid = "f" * 64
    repository.set_keys("timestamp", [signer, twin], threshold=2)
    repository.publish_root()
    repository.publish_timestamp()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("arbitrary software", "CT2")


@BOTH
def test_r1_a_root_without_a_role_is_refused(cloud: Cloud, vehicle: Vehicle, wanted: Image, name: str) -> None:
    repository = repository_of(cloud, name)
    del repository.root.roles["snapshot"]
    repository.publish_root()
    assert vehicle.refused().rule == "CR2"


@BOTH
def test_cr1_a_root_of_any_length_is_not_read(cloud: Cloud, vehicle: Vehicle, wanted: Image, name: str) -> None:
    faults = {(name, "2.root.json"): lambda _: b" " * (MAX_ROOT_BYTES + 1)}
    for respects_limits in (True, False):
        error = vehicle.refused(cloud.fetcher(faults=faults, respects_limits=respects_limits))
        assert (error.attack, error.rule) == ("endless data", "CR1")


@BOTH
def test_cr1_roots_without_end_are_not_followed_in_one_refresh(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.uptane.trust.MAX_ROOTS", 5)
    repository = repository_of(cloud, name)
    for _ in range(12):
        repository.publish_root()
    assert vehicle.refused().rule == "CR1"
    assert vehicle.refused().rule == "CR1"
    assert vehicle.refresh().targets[0].image == wanted.facts


@BOTH
@pytest.mark.parametrize("who", ["the old keys only", "the new keys only", "nobody", "a stranger"])
def test_cr2_a_root_needs_the_keys_before_and_its_own(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, name: str, who: str
) -> None:
    repository = repository_of(cloud, name)
    old = repository.signers["root"]
    repository.set_keys("root", [new_key()])
    repository.publish_root()
    new = repository.signers["root"]
    signers = {"the old keys only": old, "the new keys only": new, "nobody": [], "a stranger": [new_key()]}[who]
    repository.files["2.root.json"] = repository.sign(repository.root, signers)
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("arbitrary software", "CR2")
    repository.files["2.root.json"] = repository.sign(repository.root, [*old, *new])
    assert vehicle.refresh().targets[0].image == wanted.facts


@BOTH
def test_cr2_a_threshold_of_root_keys_is_met_or_not(tmp_path: Path, name: str) -> None:
    cloud = Cloud(thresholds={"root": (3, 2)})
    wanted = cloud.release(image(), "gateway")
    cloud.publish()
    vehicle = Vehicle(cloud, tmp_path)
    repository = repository_of(cloud, name)
    repository.publish_root()
    one, two, three = repository.signers["root"]
    repository.files["2.root.json"] = repository.sign(repository.root, [two])
    assert vehicle.refused().rule == "CR2"
    repository.files["2.root.json"] = repository.sign(repository.root, [one, three])
    assert vehicle.refresh().targets[0].image == wanted.facts
    vehicle.verifier.close()


@BOTH
def test_cr2_one_root_key_under_two_names_is_one_signature(tmp_path: Path, name: str) -> None:
    cloud = Cloud(thresholds={"root": (2, 2)})
    vehicle = Vehicle(cloud, tmp_path)
    repository = repository_of(cloud, name)
    one, two = repository.signers["root"]
    twin = deepcopy(one)
    twin.public_key.keyid = "e" * 64
    cloud.release(image(), "gateway")
    repository.root.roles["root"] = Role([one.public_key.keyid, "e" * 64], 2)
    repository.root.keys["e" * 64] = SSlibKey("e" * 64, "ed25519", "ed25519", dict(one.public_key.keyval))
    repository.publish_root()
    repository.files["2.root.json"] = repository.sign(repository.root, [one, two, twin])
    cloud.publish()
    assert vehicle.refused().rule == "CR2"
    vehicle.verifier.close()


@BOTH
def test_cr2_one_key_of_the_root_before_under_two_names_is_one_signature(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, name: str
) -> None:
    repository = repository_of(cloud, name)
    first = repository.signers["root"]
    one, other = new_key(), new_key()
    twin = deepcopy(one)
    twin.public_key.keyid = "d" * 64
    repository.set_keys("root", [one, twin, other], threshold=2)
    repository.files["2.root.json"] = repository.publish_root()
    repository.files["2.root.json"] = repository.sign(repository.root, [*first, one, other])
    assert vehicle.refresh().targets[0].image == wanted.facts
    repository.set_keys("root", [new_key()])
    repository.publish_root()
    repository.files["3.root.json"] = repository.sign(repository.root, [one, twin, *repository.signers["root"]])
    ask_both(cloud)
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("arbitrary software", "CR2")


@BOTH
@pytest.mark.parametrize("step", [-1, 0, 2, 40])
def test_cr3_the_next_root_has_the_next_version(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, name: str, step: int
) -> None:
    repository = repository_of(cloud, name)
    repository.publish_root()
    vehicle.refresh()
    ask_both(cloud)
    repository.root.version += step
    repository.files["3.root.json"] = repository.sign(repository.root, repository.signers["root"])
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("rollback", "CR3")


@BOTH
def test_cr3_a_root_that_was_trusted_cannot_be_withheld_later(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, name: str
) -> None:
    repository = repository_of(cloud, name)
    before = repository.checkpoint()
    repository.rotate("timestamp", "snapshot", "targets")
    cloud.publish()
    vehicle.refresh()
    repository.files = before
    for path in (vehicle.directory / name).rglob("*.json"):
        path.unlink()
    if name == "image":
        ask_both(cloud)
    vehicle.restart()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("rollback", "CR3")


@BOTH
def test_cr3_a_second_chain_of_roots_by_leaked_keys_is_not_the_one_that_was_trusted(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, name: str
) -> None:
    repository = repository_of(cloud, name)
    leaked, other = deepcopy(repository.signers), deepcopy(repository.root)
    repository.rotate("root", "timestamp", "snapshot", "targets")
    cloud.publish()
    vehicle.refresh()
    for path in (vehicle.directory / name).rglob("*.json"):
        path.unlink()
    other.version = 2
    honest = repository.files["2.root.json"]
    repository.files["2.root.json"] = repository.sign(other, leaked["root"])
    if name == "image":
        ask_both(cloud)
    vehicle.restart()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("rollback", "CR3")
    # Nor when it lies on the disk already, and the honest one can still be had.
    roots = vehicle.directory / name / "roots"
    roots.mkdir(parents=True, exist_ok=True)
    (roots / "2.json").write_bytes(repository.files["2.root.json"])
    repository.files["2.root.json"] = honest
    ask_both(cloud)
    vehicle.restart()
    assert vehicle.refresh().assignment == "other"
    assert (roots / "2.json").read_bytes() == honest


@BOTH
def test_cr4_a_final_root_that_has_expired_is_refused(cloud: Cloud, vehicle: Vehicle, wanted: Image, name: str) -> None:
    repository = repository_of(cloud, name)
    cloud.clock.advance(days=366)
    other = cloud.image if name == "director" else cloud.director
    other.publish_root()
    cloud.publish()
    for each in (cloud.director, cloud.image):
        each.role("targets")
    cloud.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("freeze", "CR4")
    repository.publish_root()
    assert vehicle.refresh().targets[0].image == wanted.facts


def test_cr4_roots_on_the_way_may_have_expired_and_twelve_rotations_are_followed(
    cloud: Cloud, vehicle: Vehicle, wanted: Image
) -> None:
    vehicle.refresh()
    for _ in range(12):
        cloud.clock.advance(days=200)
        for repository in (cloud.director, cloud.image):
            repository.rotate("root", "timestamp", "snapshot", "targets")
    cloud.director.instruct(assignment="thirteenth")
    cloud.image.role("targets")
    cloud.publish()
    vehicle.restart()
    assert vehicle.refresh().assignment == "thirteenth"
    assert vehicle.verifier.statistics()["versions"]["image"]["root"] == 13
    vehicle.refresh()
    assert ("director", "13.root.json") not in vehicle.fetcher.asked


@BOTH
@pytest.mark.parametrize("roles", [("timestamp",), ("snapshot",), ("timestamp", "snapshot")])
def test_cr5_new_keys_recover_from_versions_driven_up_with_the_old_ones(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, name: str, roles: tuple[str, ...]
) -> None:
    repository = repository_of(cloud, name)
    honest = repository.timestamp.version, repository.snapshot.version
    repository.timestamp.version = 2**62
    if "snapshot" in roles:
        repository.snapshot.version = 2**62
        repository.publish_snapshot()
    repository.publish_timestamp()
    vehicle.refresh()
    repository.timestamp.version, repository.snapshot.version = honest
    cloud.director.instruct(assignment="recovered")
    cloud.publish()
    error = vehicle.refused()
    assert error.attack == "rollback"
    repository.rotate(*roles)
    cloud.publish()
    vehicle.restart()
    assert vehicle.refresh().assignment == "recovered"


@BOTH
def test_cr5_another_key_beside_the_old_one_opens_no_way_back(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, name: str
) -> None:
    repository = repository_of(cloud, name)
    old = repository.checkpoint()
    cloud.director.instruct(assignment="new")
    cloud.image.role("targets")
    cloud.publish()
    vehicle.refresh()
    repository.set_keys("timestamp", [*repository.signers["timestamp"], new_key()])
    repository.publish_root()
    repository.restore(old, keep_roots=True)
    if name == "image":
        cloud.director.instruct(assignment="newer")
        cloud.director.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("rollback", "CT3")


@BOTH
def test_cr5_rotating_targets_keys_recovers_targets(cloud: Cloud, vehicle: Vehicle, wanted: Image, name: str) -> None:
    repository = repository_of(cloud, name)
    repository.targets.version = 2**61
    repository.role("targets")
    repository.publish()
    vehicle.refresh()
    repository.targets.version = 10
    repository.rotate("timestamp", "snapshot", "targets")
    cloud.director.instruct(assignment="recovered")
    cloud.image.role("targets")
    cloud.publish()
    assert vehicle.refresh().assignment == "recovered"
