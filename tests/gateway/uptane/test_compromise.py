"""What each leaked key can do, and that a new Root takes it back: the table of the model."""

from __future__ import annotations

import pytest

from tests.gateway.uptane.repos import Cloud, Image, Repository, image, new_key
from tests.gateway.uptane.rig import Vehicle


def leaked(repository: Repository) -> dict[str, list[object]]:
    """The attacker's copy of all online keys."""
    return {role: list(signers) for role, signers in repository.signers.items() if role != "root"}


def recover(cloud: Cloud, repository: Repository, vehicle: Vehicle) -> None:
    """New online keys by the offline Root, and all published anew."""
    repository.rotate("timestamp", "snapshot", "targets")
    cloud.director.nothing()
    cloud.director.instruct(assignment="recovered")
    cloud.image.role("targets")
    cloud.publish()
    vehicle.restart()
    assert vehicle.refresh().assignment == "recovered"


@pytest.fixture
def evil() -> Image:
    """Software that the Image repository has not signed."""
    return image("images/evil.erofs", b"evil")


def test_all_keys_of_the_director_install_nothing_that_is_not_in_the_image_repository(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, evil: Image
) -> None:
    vehicle.refresh()
    cloud.director.nothing()
    cloud.director.assign(evil, "gateway")
    cloud.director.publish()
    assert vehicle.refused().attack == "arbitrary software"
    recover(cloud, cloud.director, vehicle)


def test_all_keys_of_the_director_lower_no_release_counter(cloud: Cloud, vehicle: Vehicle) -> None:
    old = cloud.release(image("images/old", counter=1))
    cloud.release(image(counter=2), "gateway")
    cloud.publish()
    vehicle.refresh()
    vehicle.raise_counters(gateway=2)
    cloud.director.nothing()
    cloud.director.assign(old, "gateway")
    cloud.director.publish()
    assert vehicle.refused().attack == "rollback"
    cloud.director.assign(old, "gateway", must_match=image(counter=2).must_match)
    cloud.director.publish()
    assert vehicle.refused().attack == "mix-and-match"
    recover(cloud, cloud.director, vehicle)


def test_all_keys_of_the_director_install_on_no_other_hardware(cloud: Cloud, vehicle: Vehicle) -> None:
    motor = cloud.release(image("images/motor", hardware=["motor-3"], kind="firmware"))
    cloud.director.assign(motor, "brakes")
    cloud.publish()
    assert vehicle.refused().attack == "arbitrary software"
    forged = image("images/motor", hardware=["motor-3", "brake-7"], kind="firmware").must_match
    cloud.director.assign(motor, "brakes", must_match=forged)
    cloud.director.publish()
    assert vehicle.refused().attack in ("arbitrary software", "mix-and-match")
    recover(cloud, cloud.director, vehicle)


def test_all_keys_of_the_director_and_the_online_keys_of_the_image_repository_are_still_not_enough(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, evil: Image
) -> None:
    """More than the model asks: of the Image repository's keys, those for Targets are not online."""
    cloud.director.assign(evil, "motor")
    cloud.director.publish()
    targets = cloud.image.targets
    targets.targets[evil.filename] = evil.target({"must_match": {}})
    targets.version += 1
    online = [*cloud.image.signers["snapshot"], *cloud.image.signers["timestamp"], *cloud.image.signers["deltas"]]
    cloud.image.replace_everywhere("targets", cloud.image.sign(targets, online))
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("arbitrary software", "CG3")


def test_timestamp_and_snapshot_keys_of_the_image_repository_freeze_and_no_more(
    cloud: Cloud, vehicle: Vehicle, wanted: Image
) -> None:
    vehicle.refresh()
    frozen = cloud.image.checkpoint()
    fixed = cloud.release(image("images/fixed"))
    cloud.director.nothing()
    cloud.director.assign(fixed, "gateway")
    cloud.publish()
    honest = cloud.image.checkpoint()
    # Freeze: the attacker goes on signing the Snapshot of before.
    cloud.image.files = frozen
    old = cloud.image.snapshot.meta["targets.json"]
    cloud.image.snapshot.meta["targets.json"].version = 2
    cloud.image.publish_snapshot()
    cloud.image.publish_timestamp()
    assert vehicle.refused().attack in ("mix-and-match", "endless data", "arbitrary software", "drop request")
    assert old.version == 2
    # It cannot name an older Targets than was trusted, nor sign another one.
    cloud.image.replace_everywhere("targets", cloud.image.sign(cloud.image.targets, cloud.image.signers["snapshot"]))
    assert vehicle.refused().attack == "arbitrary software"
    cloud.image.files = honest
    recover(cloud, cloud.image, vehicle)


def test_a_supplier_key_speaks_for_its_paths_and_hardware_only(cloud: Cloud, vehicle: Vehicle, evil: Image) -> None:
    cloud.image.delegate("supplier", ["supplier/*"], hardware=["motor-3"], terminating=True)
    mine = image("supplier/motor-9", b"evil", hardware=["motor-3"], kind="firmware")
    foreign_hardware = image("supplier/brakes-9", b"evil", hardware=["brake-7"], kind="firmware")
    for each in (mine, foreign_hardware, evil):
        cloud.image.add_image(each, role="supplier")
    cloud.director.assign(evil, "gateway")
    cloud.publish()
    assert vehicle.refused().attack == "arbitrary software"
    cloud.director.nothing()
    cloud.director.assign(foreign_hardware, "brakes")
    cloud.publish()
    assert vehicle.refused().attack == "arbitrary software"
    cloud.director.nothing()
    cloud.director.assign(mine, "motor")
    cloud.publish()
    assert vehicle.refresh().targets[0].image == mine.facts
    # The delegator gives the role another key: what the old one signed does not count any more.
    cloud.image.delegate("supplier", ["supplier/*"], hardware=["motor-3"], signers=[new_key()])
    stolen = cloud.image.files[cloud.image.current("supplier")]
    cloud.director.instruct(assignment="again")
    cloud.publish()
    cloud.image.replace_everywhere("supplier", stolen)
    assert vehicle.refused().rule == "RD4"


def test_a_supplier_key_that_drove_its_version_up_is_recovered_from(cloud: Cloud, vehicle: Vehicle) -> None:
    cloud.image.delegate("supplier", ["supplier/*"])
    motor = image("supplier/motor", hardware=["motor-3"], kind="firmware")
    cloud.image.add_image(motor, role="supplier")
    cloud.image.delegated["supplier"].version = 2**60
    cloud.director.assign(motor, "motor")
    cloud.publish()
    vehicle.refresh()
    cloud.image.delegate("supplier", ["supplier/*"], signers=[new_key()])
    cloud.image.delegated["supplier"].version = 5
    cloud.image.rotate("snapshot")
    cloud.director.instruct(assignment="again")
    cloud.publish()
    assert vehicle.refresh().assignment == "again"


@pytest.mark.parametrize("name", ["director", "image"])
def test_one_root_key_of_several_changes_nothing(cloud: Cloud, vehicle: Vehicle, name: str) -> None:
    strong = Cloud(thresholds={"root": (3, 2)})
    other = Vehicle(strong, vehicle.directory.with_name("strong"))
    repository = strong.director if name == "director" else strong.image
    one = repository.signers["root"][0]
    repository.set_keys("targets", [new_key()])
    repository.publish_root()
    repository.files["2.root.json"] = repository.sign(repository.root, [one])
    strong.release(image(), "gateway")
    strong.publish()
    assert other.refused().rule == "CR2"
    other.verifier.close()
