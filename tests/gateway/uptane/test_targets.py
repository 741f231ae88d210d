"""check_targets (CG1 to CG8) and what entries may say (R3 to R9)."""

from __future__ import annotations

import unicodedata
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tuf.api.metadata import Delegations, TargetFile

from gateway.uptane.names import MAX_NAME_CHARACTERS, image_name
from gateway.wire.uptane import MAX_DIRECTOR_TARGETS_BYTES, TARGETS_FIELD, DirectorCustom, ImageCustom
from tests.gateway.uptane.repos import Cloud, Image, MemoryFetcher, Repository, flipped, image, new_key
from tests.gateway.uptane.rig import Vehicle


@pytest.fixture(params=["director", "image"])
def name(request: pytest.FixtureRequest) -> str:
    """Which repository is attacked."""
    return str(request.param)


@pytest.fixture
def repository(cloud: Cloud, wanted: Image, name: str) -> Repository:
    """That repository, with an image for the vehicle."""
    return cloud.director if name == "director" else cloud.image


def test_cg1_targets_are_no_longer_than_the_snapshot_says(
    cloud: Cloud, vehicle: Vehicle, repository: Repository, name: str
) -> None:
    fault = {(name, repository.current("targets")): lambda data: (data or b"") + b"\n"}
    error = vehicle.refused(cloud.fetcher(faults=fault, respects_limits=False))
    assert (error.attack, error.rule) == ("endless data", "CG1")


def test_cg1_targets_have_a_limit_whatever_the_snapshot_says(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    cloud.director.snapshot.meta["targets.json"].length = MAX_DIRECTOR_TARGETS_BYTES + 1
    cloud.director.publish_snapshot()
    cloud.director.publish_timestamp()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("endless data", "CG1")


def test_cg2_targets_have_the_version_and_hash_of_the_snapshot(
    cloud: Cloud, vehicle: Vehicle, repository: Repository
) -> None:
    old = repository.files[repository.current("targets")]
    repository.role("targets")
    repository.publish()
    repository.files[repository.current("targets")] = old
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("mix-and-match", "CG2")
    meta = repository.snapshot.meta["targets.json"]
    meta.hashes = meta.length = None
    repository.publish_snapshot()
    repository.publish_timestamp()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("mix-and-match", "CG2")


def test_cg2_targets_that_are_named_but_not_there_are_told(vehicle: Vehicle, repository: Repository) -> None:
    del repository.files[repository.current("targets")]
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("drop request", "CG2")


def test_cg3_targets_need_their_keys(vehicle: Vehicle, repository: Repository) -> None:
    online = [*repository.signers["snapshot"], *repository.signers["timestamp"]]
    for signers in ([], [new_key()], online):
        data = repository.sign(repository.targets, signers)
        repository.replace_everywhere("targets", data)
        error = vehicle.refused()
        assert (error.attack, error.rule) == ("arbitrary software", "CG3")


def test_cg3_a_changed_byte_is_seen(cloud: Cloud, vehicle: Vehicle, repository: Repository, name: str) -> None:
    error = vehicle.refused(cloud.fetcher(faults={(name, repository.current("targets")): flipped}))
    assert (error.attack, error.rule) == ("mix-and-match", "CG2")


def test_cg4_targets_older_than_the_trusted_ones_are_a_rollback(
    cloud: Cloud, vehicle: Vehicle, repository: Repository
) -> None:
    old = repository.files[repository.current("targets")]
    cloud.director.instruct(assignment="next")
    cloud.image.role("targets")
    cloud.publish()
    vehicle.refresh()
    # With the keys of Timestamp and Snapshot rotated, only the mark of Targets is left to say so.
    repository.rotate("timestamp", "snapshot")
    repository.replace_everywhere("targets", old)
    if repository is cloud.image:
        cloud.director.instruct(assignment="other")
        cloud.director.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("rollback", "CG4")


def test_cg5_expired_targets_are_a_freeze(cloud: Cloud, vehicle: Vehicle, repository: Repository) -> None:
    vehicle.refresh()
    cloud.clock.advance(days=91)
    for each in (cloud.image, cloud.director):
        if each is not repository:
            each.role("targets")
        each.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("freeze", "CG5")


def test_cg6_r9_a_director_never_delegates(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    cloud.director.role("targets").delegations = Delegations({}, {})
    cloud.director.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("arbitrary software", "CG6")


def test_cg7_no_ecu_gets_two_images(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    cloud.release(image("images/other.erofs"), "gateway")
    cloud.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("mix-and-match", "CG7")


def test_cg7_no_ecu_is_named_twice_for_one_image(cloud: Cloud, vehicle: Vehicle) -> None:
    cloud.release(image(), "gateway", "gateway")
    cloud.publish()
    assert vehicle.refused().rule == "CG7"


def test_cg7_no_ecu_is_in_two_install_sets(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    cloud.director.instruct(sets=[{"ecus": ["gateway", "motor"]}, {"ecus": ["gateway"]}])
    cloud.director.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("partial bundle installation", "CG7")


def test_cg8_all_ecus_are_of_this_vehicle(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    cloud.release(image("images/radio.bin", hardware=["radio-1"]), "radio")
    cloud.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("mix-and-match", "CG8")


def test_r7_targets_of_another_vehicle_are_refused_also_when_empty(cloud: Cloud, vehicle: Vehicle) -> None:
    for assigned in (False, True):
        if assigned:
            cloud.release(image(), "gateway")
        cloud.director.instruct(vehicle="vehicle-2")
        cloud.publish()
        error = vehicle.refused()
        assert (error.attack, error.rule) == ("mix-and-match", "R7")


@pytest.mark.parametrize("field", [None, {}, [], "vehicle-1", {"vehicle": 1}, {"vehicle": "vehicle-1", "sets": [{}]}])
def test_r7_targets_that_do_not_say_whose_they_are_are_refused(cloud: Cloud, vehicle: Vehicle, field: object) -> None:
    fields = cloud.director.role("targets").unrecognized_fields
    if field is None:
        del fields[TARGETS_FIELD]
    else:
        fields[TARGETS_FIELD] = field
    cloud.director.publish()
    assert vehicle.refused().rule == "R7"


@pytest.mark.parametrize(
    "change",
    [
        {"ecus": []},
        {"ecus": "gateway"},
        {"must_match": None},
        {"must_match": {"kind": "delta", "hardware_ids": ["gateway-1"], "release_counter": 1, "version": "1"}},
        {"must_match": {"kind": "toaster", "hardware_ids": ["gateway-1"], "release_counter": 1, "version": "1"}},
        {"must_match": {"kind": "rootfs", "hardware_ids": ["gateway-1"], "release_counter": "1", "version": "1"}},
        {"must_match": {"kind": "rootfs", "hardware_ids": ["gateway-1"], "release_counter": 1, "version": "1", "x": 1}},
        {"deltas": [{}]},
        {"fallback": {"gateway": "images/old"}},
    ],
)
def test_r5_r6_an_entry_says_what_it_is_and_for_which_ecus(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, change: dict[str, Any]
) -> None:
    custom = msgspec.to_builtins(DirectorCustom(must_match=wanted.must_match, ecus=("gateway",)))
    cloud.director.add_target(wanted.target({**custom, **change}))
    cloud.director.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("arbitrary software", "R6")


def test_r6_fields_of_later_versions_are_ignored(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    custom = msgspec.to_builtins(DirectorCustom(must_match=wanted.must_match, ecus=("gateway",)))
    cloud.director.add_target(wanted.target({**custom, "later": {"a": 1}}))
    later = wanted.target({**msgspec.to_builtins(ImageCustom(must_match=wanted.must_match)), "later": 2})
    cloud.image.add_target(later)
    cloud.publish()
    assert vehicle.refresh().targets[0].image == wanted.facts


@pytest.mark.parametrize(
    "path", ["../evil", "/etc/passwd", "a/../b", "a//b", "a/.", "", "a\\b", "a\nb", "a\0b", "x" * 401, "a/" + "é" * 64]
)
def test_r4_a_name_that_leaves_its_folder_is_refused(cloud: Cloud, vehicle: Vehicle, path: str) -> None:
    cloud.release(image(path), "gateway")
    cloud.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("arbitrary software", "R4")


@pytest.mark.parametrize(
    "hashes",
    [
        {"md5": "0" * 32},
        {"sha512": "0" * 128},
        {"sha256": "0" * 64, "md5": "0" * 32},
        {"sha256": "0" * 63},
        {"sha256": "A" * 64},
        {"sha256": "../" + "0" * 61},
    ],
)
def test_r4_every_hash_is_one_that_can_be_checked(cloud: Cloud, vehicle: Vehicle, hashes: dict[str, str]) -> None:
    wanted = image()
    custom = DirectorCustom(must_match=wanted.must_match, ecus=("gateway",))
    cloud.director.add_target(TargetFile(10, hashes, wanted.filename, {"custom": msgspec.to_builtins(custom)}))
    cloud.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("arbitrary software", "R4")


@pytest.mark.parametrize("length", [2**60, True, "10"])
def test_r4_a_length_is_a_number_of_bytes(cloud: Cloud, vehicle: Vehicle, length: Any) -> None:
    wanted = image()
    custom = DirectorCustom(must_match=wanted.must_match, ecus=("gateway",))
    target = wanted.target(custom)
    target.length = length
    cloud.director.add_target(target)
    cloud.publish()
    assert vehicle.refused().attack == "arbitrary software"


def test_r4_images_lie_under_each_of_their_hashes(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    update = vehicle.refresh()
    facts = update.targets[0].image
    assert set(facts.hashes) == {"sha256", "sha512"}
    assert all(f"images/{value}.gateway-2.0.erofs" in cloud.blobs for value in facts.hashes.values())


def test_r3_names_are_compared_in_normal_form(cloud: Cloud, vehicle: Vehicle) -> None:
    composed = unicodedata.normalize("NFC", "images/Gateway für Köln.erofs")
    decomposed = unicodedata.normalize("NFD", composed)
    assert composed != decomposed
    cloud.director.assign(image(decomposed, b"x"), "gateway")
    cloud.image.add_image(image(composed, b"x"))
    cloud.publish()
    assert vehicle.refresh().targets[0].image.filename == composed
    cloud.director.nothing()
    cloud.director.assign(image(composed, b"y"), "gateway")
    cloud.image.targets.targets.clear()
    cloud.image.add_image(image(decomposed, b"y"))
    cloud.publish()
    assert vehicle.refresh().targets[0].image.filename == composed


def test_r3_one_name_written_in_two_ways_is_refused(cloud: Cloud, vehicle: Vehicle, repository: Repository) -> None:
    for form in ("NFC", "NFD"):
        extra = image(unicodedata.normalize(form, "images/é"))
        if repository is cloud.director:
            cloud.director.assign(extra, "motor" if form == "NFC" else "brakes")
        else:
            cloud.image.add_image(extra)
    cloud.publish()
    assert vehicle.refused().rule in ("R3", "RD4")


@given(st.text(max_size=30) | st.from_regex(r"\A[a-z./\\]{1,20}\Z"))
@example("a/b")
@example("é")
def test_r4_a_name_is_either_plain_or_refused(name: str) -> None:
    try:
        made = image_name(name)
    except ValueError:
        return
    assert made == unicodedata.normalize("NFC", made)
    assert len(made) <= MAX_NAME_CHARACTERS
    assert not {"", ".", ".."} & set(made.split("/"))
    assert image_name(made) == made


def test_the_toolkit_hands_out_images_as_their_hashes_say(cloud: Cloud, wanted: Image) -> None:
    assert isinstance(cloud.fetcher(), MemoryFetcher)
    assert wanted.content in cloud.blobs.values()
