"""check_timestamp (CT1 to CT4), check_snapshot (CS1 to CS7), R11 and R12, at both repositories."""

from __future__ import annotations

from pathlib import Path

import pytest
from tuf.api.metadata import MetaFile

from gateway.errors import TransportError
from gateway.wire.uptane import MAX_SNAPSHOT_BYTES, MAX_TIMESTAMP_BYTES
from tests.gateway.uptane.repos import Cloud, Image, Repository, flipped, image, new_key
from tests.gateway.uptane.rig import Vehicle


@pytest.fixture(params=["director", "image"])
def name(request: pytest.FixtureRequest) -> str:
    """Which repository is attacked."""
    return str(request.param)


@pytest.fixture
def repository(cloud: Cloud, wanted: Image, name: str) -> Repository:
    """That repository, with an image for the vehicle."""
    return cloud.director if name == "director" else cloud.image


def change(cloud: Cloud, assignment: str = "next") -> None:
    """Something new in both, honestly."""
    cloud.director.instruct(assignment=assignment)
    cloud.image.role("targets")
    cloud.publish()


def test_ct1_a_timestamp_of_any_length_is_not_read(
    cloud: Cloud, vehicle: Vehicle, repository: Repository, name: str
) -> None:
    faults = {(name, "timestamp.json"): lambda _: b" " * (MAX_TIMESTAMP_BYTES + 1)}
    error = vehicle.refused(cloud.fetcher(faults=faults, respects_limits=False))
    assert (error.attack, error.rule) == ("endless data", "CT1")


def test_ct2_a_timestamp_needs_its_keys(vehicle: Vehicle, repository: Repository) -> None:
    for signers in ([], [new_key()], repository.signers["snapshot"], repository.signers["targets"]):
        repository.publish_timestamp(signers)
        error = vehicle.refused()
        assert (error.attack, error.rule) == ("arbitrary software", "CT2")


def test_ct2_a_changed_byte_is_seen(cloud: Cloud, vehicle: Vehicle, repository: Repository, name: str) -> None:
    assert vehicle.refused(cloud.fetcher(faults={(name, "timestamp.json"): flipped})).rule == "CT2"


def test_ct2_metadata_of_another_role_is_no_timestamp(
    cloud: Cloud, vehicle: Vehicle, repository: Repository, name: str
) -> None:
    other = repository.files[repository.current("snapshot")]
    error = vehicle.refused(cloud.fetcher(faults={(name, "timestamp.json"): lambda _: other}))
    assert error.rule == "CT2"


def test_ct2_metadata_of_the_other_repository_is_refused(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    cloud.director.files, cloud.image.files = cloud.image.files, cloud.director.files
    assert vehicle.refused().attack == "arbitrary software"


def test_ct3_a_timestamp_older_than_the_trusted_one_is_a_rollback(
    cloud: Cloud, vehicle: Vehicle, repository: Repository, name: str
) -> None:
    old = repository.files["timestamp.json"]
    change(cloud)
    vehicle.refresh()
    change(cloud, "third")
    error = vehicle.refused(cloud.fetcher(faults={(name, "timestamp.json"): lambda _: old}))
    assert (error.attack, error.rule) == ("rollback", "CT3")


def test_ct3_another_timestamp_of_the_same_version_is_refused(
    cloud: Cloud, vehicle: Vehicle, repository: Repository
) -> None:
    vehicle.refresh()
    repository.timestamp.version -= 1
    repository.snapshot.version += 1
    repository.publish_snapshot()
    repository.publish_timestamp()
    if repository is cloud.image:
        cloud.director.instruct(assignment="other")
        cloud.director.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("rollback", "CT3")


def test_ct3_one_more_signature_makes_no_other_timestamp(
    cloud: Cloud, vehicle: Vehicle, repository: Repository
) -> None:
    vehicle.refresh()
    repository.timestamp.version -= 1
    repository.publish_timestamp([*repository.signers["timestamp"], new_key()])
    cloud.director.instruct(assignment="next")
    cloud.director.publish()
    assert vehicle.refresh().assignment == "next"


def test_ct4_an_expired_timestamp_is_a_freeze(cloud: Cloud, vehicle: Vehicle, repository: Repository) -> None:
    vehicle.refresh()
    cloud.clock.advance(days=7, seconds=1)
    (cloud.image if repository is cloud.director else cloud.director).publish()
    if repository is cloud.image:
        cloud.director.instruct(assignment="other")
        cloud.director.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("freeze", "CT4")


def test_ct4_expiry_is_at_the_second(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    cloud.clock.advance(days=7, seconds=-1)
    vehicle.refresh()
    cloud.clock.advance(seconds=1)
    assert vehicle.refused().rule == "CT4"


def test_a_repository_without_a_timestamp_is_not_there_yet(vehicle: Vehicle, repository: Repository) -> None:
    del repository.files["timestamp.json"]
    with pytest.raises(TransportError, match="no timestamp"):
        vehicle.refresh()


def test_r12_a_timestamp_owes_the_hash_of_the_snapshot(vehicle: Vehicle, repository: Repository) -> None:
    meta = repository.timestamp.snapshot_meta
    for hashes in (None, {"sha512": "0" * 128}):
        repository.timestamp.snapshot_meta = MetaFile(meta.version, meta.length, hashes)
        repository.publish_timestamp()
        error = vehicle.refused()
        assert (error.attack, error.rule) == ("mix-and-match", "R12")


def test_cs1_a_snapshot_is_no_longer_than_the_timestamp_says(
    cloud: Cloud, vehicle: Vehicle, repository: Repository, name: str
) -> None:
    snapshot = repository.current("snapshot")
    fetcher = cloud.fetcher(faults={(name, snapshot): lambda data: (data or b"") + b" "}, respects_limits=False)
    error = vehicle.refused(fetcher)
    assert (error.attack, error.rule) == ("endless data", "CS1")
    meta = repository.timestamp.snapshot_meta
    repository.timestamp.snapshot_meta = MetaFile(meta.version, MAX_SNAPSHOT_BYTES + 1, meta.hashes)
    repository.publish_timestamp()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("endless data", "CS1")


def test_cs2_a_snapshot_that_is_not_the_named_one_is_mix_and_match(
    cloud: Cloud, vehicle: Vehicle, repository: Repository
) -> None:
    old = repository.files[repository.current("snapshot")]
    change(cloud)
    newest = repository.current("snapshot")
    right = repository.files[newest]
    repository.files[newest] = old
    error = vehicle.refused()
    assert (error.attack, error.rule) in {("mix-and-match", "CS2"), ("endless data", "CS1")}
    repository.files[newest] = right
    repository.timestamp.snapshot_meta = MetaFile.from_data(repository.snapshot.version + 1, right, ["sha256"])
    repository.files[f"{repository.snapshot.version + 1}.snapshot.json"] = right
    repository.publish_timestamp()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("mix-and-match", "CS2")


def test_cs2_a_snapshot_that_is_named_but_not_there_is_told(vehicle: Vehicle, repository: Repository) -> None:
    del repository.files[repository.current("snapshot")]
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("drop request", "CS2")


def test_cs3_a_snapshot_needs_its_keys(vehicle: Vehicle, repository: Repository) -> None:
    for signers in ([], [new_key()], repository.signers["timestamp"]):
        repository.publish_snapshot(signers)
        repository.publish_timestamp()
        error = vehicle.refused()
        assert (error.attack, error.rule) == ("arbitrary software", "CS3")


def test_cs4_a_snapshot_older_than_the_trusted_one_is_a_rollback(
    cloud: Cloud, vehicle: Vehicle, repository: Repository
) -> None:
    old = repository.files[repository.current("snapshot")], repository.snapshot.version
    change(cloud)
    vehicle.refresh()
    if repository is cloud.image:
        cloud.director.instruct(assignment="other")
        cloud.director.publish()
    repository.timestamp.snapshot_meta = MetaFile.from_data(old[1], old[0], ["sha256"])
    repository.publish_timestamp()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("rollback", "CS4")


def test_cs5_r11_a_snapshot_never_lists_an_older_targets_file(
    cloud: Cloud, vehicle: Vehicle, repository: Repository
) -> None:
    old = repository.snapshot.meta["targets.json"]
    change(cloud)
    vehicle.refresh()
    change(cloud, "third")
    repository.snapshot.meta["targets.json"] = old
    repository.publish_snapshot()
    repository.publish_timestamp()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("rollback", "CS5")


def test_cs5_cs6_hold_when_the_stored_snapshot_is_lost(
    cloud: Cloud, vehicle: Vehicle, repository: Repository, name: str
) -> None:
    old = repository.snapshot.meta["targets.json"]
    change(cloud)
    vehicle.refresh()
    change(cloud, "third")
    for path in (vehicle.directory / name).rglob("*.json"):
        path.write_bytes(b"")
    repository.snapshot.meta["targets.json"] = old
    repository.publish_snapshot()
    repository.publish_timestamp()
    vehicle.restart()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("rollback", "CS5")
    del repository.snapshot.meta["targets.json"]
    repository.publish_snapshot()
    repository.publish_timestamp()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("mix-and-match", "CS6")


def test_cs6_r11_a_snapshot_never_drops_a_targets_file(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    vehicle.refresh()
    del cloud.image.snapshot.meta["deltas.json"]
    change(cloud)
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("mix-and-match", "CS6")


def test_cs7_an_expired_snapshot_is_a_freeze(cloud: Cloud, vehicle: Vehicle, repository: Repository) -> None:
    change(cloud)
    cloud.clock.advance(days=31)
    for each in (cloud.image, cloud.director):
        if each is not repository:
            each.publish_snapshot()
        each.publish_timestamp()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("freeze", "CS7")


def test_cs7_a_stored_snapshot_that_has_expired_is_replaced(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    vehicle.refresh()
    cloud.clock.advance(days=31)
    change(cloud)
    assert vehicle.refresh().assignment == "next"


@pytest.mark.parametrize("version", [True, "3", None, -1, 0, 2**63, [1]])
def test_r2_a_version_is_a_positive_integer(vehicle: Vehicle, repository: Repository, version: object) -> None:
    repository.timestamp.version = version  # type: ignore[assignment]  # what python-tuf would not make itself
    repository.files["timestamp.json"] = repository.sign(repository.timestamp, repository.signers["timestamp"])
    assert vehicle.refused().attack == "arbitrary software"


def test_thresholds_above_one_hold_for_every_role(tmp_path: Path) -> None:
    roles = {"timestamp": (3, 2), "snapshot": (2, 2), "targets": (3, 3)}
    cloud = Cloud(thresholds=roles)
    vehicle = Vehicle(cloud, tmp_path)
    made = cloud.release(image(), "gateway")
    cloud.publish()
    assert vehicle.refresh().targets[0].image == made.facts
    for repository in (cloud.image, cloud.director):
        for role, rule in {"timestamp": "CT2", "snapshot": "CS3", "targets": "CG3"}.items():
            good = dict(repository.signers)
            repository.signers[role] = good[role][: roles[role][1] - 1]
            change(cloud, f"{role} {id(repository)}")
            assert vehicle.refused().rule == rule
            repository.signers[role] = good[role][: roles[role][1]]
            change(cloud, "enough")
            assert vehicle.refresh().assignment == "enough"
            repository.signers[role] = good[role]
    vehicle.verifier.close()
