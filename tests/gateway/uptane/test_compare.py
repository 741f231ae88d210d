"""F11: what the Director wants must be in the Image repository, equal in everything; so must deltas and ways back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.wire.uptane import DirectorCustom, ImageCustom, MustMatch
from tests.gateway.uptane.repos import Cloud, Image, delta, image
from tests.gateway.uptane.rig import Vehicle


def differ(cloud: Cloud, director: Image, other: Image, **fields: Any) -> None:
    """The Director wants one, the Image repository has another."""
    cloud.director.assign(director, "gateway", **fields)
    cloud.image.add_image(other)
    cloud.publish()


def offer(base: Image, made: Image, **changes: Any) -> dict[str, Any]:
    """A delta as the Director offers it."""
    fields = {"base_sha256": base.sha256, "base_length": len(base.content), "delta": msgspec.to_builtins(made.facts)}
    return {**fields, **changes}


def test_f11_the_name_must_be_exactly_the_same(cloud: Cloud, vehicle: Vehicle) -> None:
    differ(cloud, image("images/a"), image("images/A", b"content of images/a"))
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("arbitrary software", "F11")


def test_f11_the_length_must_be_equal(cloud: Cloud, vehicle: Vehicle) -> None:
    wanted = image()
    target = wanted.target(ImageCustom(must_match=wanted.must_match))
    target.length += 1
    cloud.director.assign(wanted, "gateway")
    cloud.image.add_target(target)
    cloud.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("mix-and-match", "F11")


@pytest.mark.parametrize(
    ("director", "other"),
    [
        (("sha256",), ("sha256", "sha512")),
        (("sha256", "sha512"), ("sha256",)),
    ],
)
def test_f11_all_hashes_must_be_there_in_both(
    cloud: Cloud, vehicle: Vehicle, director: tuple[str, ...], other: tuple[str, ...]
) -> None:
    differ(cloud, image(algorithms=director), image(algorithms=other))
    assert (vehicle.refused().attack, vehicle.refused().rule) == ("mix-and-match", "F11")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_f11_each_hash_must_be_equal(cloud: Cloud, vehicle: Vehicle, algorithm: str) -> None:
    wanted = image()
    target = wanted.target(ImageCustom(must_match=wanted.must_match))
    target.hashes[algorithm] = "0" * len(target.hashes[algorithm])
    cloud.director.assign(wanted, "gateway")
    cloud.image.add_target(target)
    cloud.publish()
    assert (vehicle.refused().attack, vehicle.refused().rule) == ("mix-and-match", "F11")


@pytest.mark.parametrize(
    "change",
    [
        {"hardware": ["gateway-1", "gateway-2"]},
        {"counter": 2},
        {"kind": "config"},
        {"version": "2.0-evil"},
    ],
)
def test_f11_r5_what_must_match_must_be_equal(cloud: Cloud, vehicle: Vehicle, change: dict[str, Any]) -> None:
    differ(cloud, image(**change), image())
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("mix-and-match", "F11")


def test_f11_r5_an_image_for_other_hardware_is_refused(cloud: Cloud, vehicle: Vehicle) -> None:
    cloud.release(image(hardware=["gateway-2"]), "gateway")
    cloud.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("arbitrary software", "F11")


@pytest.mark.parametrize("custom", [None, {}, "x", {"must_match": {}}, {"must_match": {"kind": "rootfs"}}])
def test_f11_an_image_that_does_not_say_what_it_is_is_refused(cloud: Cloud, vehicle: Vehicle, custom: object) -> None:
    wanted = image()
    cloud.director.assign(wanted, "gateway")
    cloud.image.add_target(wanted.target(custom))
    cloud.publish()
    assert vehicle.refused().attack == "arbitrary software"


def test_f11_a_release_counter_below_the_floor_is_a_rollback(cloud: Cloud, vehicle: Vehicle) -> None:
    cloud.release(image(counter=3), "gateway")
    cloud.publish()
    assert vehicle.refresh().targets[0].must_match.release_counter == 3
    vehicle.raise_counters(gateway=4)
    assert vehicle.verifier.known() is None, "it may not be installed any more"
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("rollback", "F11")
    vehicle.restart()
    assert vehicle.refused().attack == "rollback"


def test_f11_an_equal_release_counter_goes_both_ways(cloud: Cloud, vehicle: Vehicle) -> None:
    vehicle.raise_counters(gateway=3)
    for version in ("2.0", "1.9", "2.0"):
        cloud.director.nothing()
        wanted = cloud.release(image(f"images/{version}", counter=3, version=version), "gateway")
        cloud.publish()
        assert vehicle.refresh().targets[0].image == wanted.facts


def test_f11_counters_are_kept_for_each_ecu_and_never_fall(cloud: Cloud, vehicle: Vehicle) -> None:
    vehicle.raise_counters(motor=5)
    vehicle.raise_counters(motor=2, brakes=1)
    assert (vehicle.verifier.counter("motor"), vehicle.verifier.counter("motor-2")) == (5, 0)
    motor = cloud.release(image("images/motor", hardware=["motor-3"], kind="firmware", counter=4), "motor-2")
    cloud.publish()
    assert vehicle.refresh().targets[0].image == motor.facts
    cloud.director.assign(motor, "motor-2", "motor")
    cloud.publish()
    assert vehicle.refused().attack == "rollback"
    for wrong in (-1, 2**63):
        with pytest.raises(ValueError, match="release counter"):
            vehicle.raise_counters(motor=wrong)


def test_f11_one_image_that_differs_refuses_all(cloud: Cloud, vehicle: Vehicle) -> None:
    cloud.release(image(), "gateway")
    cloud.director.assign(image("images/motor", hardware=["motor-3"], kind="firmware"), "motor")
    cloud.publish()
    assert vehicle.refused().rule == "F11"


def test_f11_a_delta_is_a_target_of_the_image_repository(cloud: Cloud, vehicle: Vehicle) -> None:
    base, made = image("images/base"), delta()
    cloud.release(image(), "gateway", deltas=[offer(base, made)])
    cloud.publish()
    assert vehicle.refused().rule == "F11"
    cloud.release(made)
    cloud.publish()
    assert vehicle.refresh().targets[0].deltas[0].delta == made.facts


@pytest.mark.parametrize(
    "made",
    [
        delta("images/delta"),
        delta("deltas/deeper/delta"),
        delta(hardware=["gateway-2"]),
        image("deltas/image", kind="rootfs"),
        delta(algorithms=("sha512",)),
    ],
)
def test_f11_a_delta_lies_with_the_deltas_and_is_one(cloud: Cloud, vehicle: Vehicle, made: Image) -> None:
    role = "targets" if made.filename.startswith("images") else "deltas"
    cloud.release(made, role=role)
    cloud.release(image(), "gateway", deltas=[offer(image("images/base"), made)])
    cloud.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("arbitrary software", "F11")


@pytest.mark.parametrize(
    "change", [{"base_sha256": "x"}, {"base_sha256": ""}, {"base_length": -1}, {"base_length": 2**60}]
)
def test_f11_the_base_of_a_delta_is_named_by_what_can_be_checked(
    cloud: Cloud, vehicle: Vehicle, change: dict[str, Any]
) -> None:
    made = cloud.release(delta())
    cloud.release(image(), "gateway", deltas=[offer(image("images/base"), made, **change)])
    cloud.publish()
    assert vehicle.refused().rule == "F11"


def test_f11_a_delta_with_another_hash_is_refused(cloud: Cloud, vehicle: Vehicle) -> None:
    cloud.release(delta())
    cloud.release(image(), "gateway", deltas=[offer(image("images/base"), delta(content=b"A delta"))])
    cloud.publish()
    assert vehicle.refused().attack == "mix-and-match"


def test_f11_no_delta_is_installed_as_an_image(cloud: Cloud, vehicle: Vehicle) -> None:
    """The key of the role for deltas is online: with the Director's keys it must not be enough for an image."""
    evil = image("deltas/evil.erofs")
    cloud.release(evil, "gateway", role="deltas")
    cloud.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("arbitrary software", "R6")


def test_f11_the_image_to_go_back_to_is_verified_like_any_other(cloud: Cloud, vehicle: Vehicle) -> None:
    old = image("images/old")
    cloud.release(image(), "gateway", fallback={"gateway": old.facts})
    cloud.publish()
    assert vehicle.refused().rule == "F11"
    cloud.image.add_image(image("images/old", hardware=["gateway-2"]))
    cloud.publish()
    assert vehicle.refused().attack == "arbitrary software"
    cloud.image.add_image(image("images/old", b"another content"))
    cloud.publish()
    assert vehicle.refused().attack == "mix-and-match"
    cloud.image.add_image(old)
    cloud.publish()
    assert vehicle.refresh().targets[0].fallback == old.facts
    vehicle.raise_counters(gateway=2)
    cloud.director.nothing()
    cloud.release(image(counter=2), "gateway", fallback={"gateway": old.facts})
    cloud.publish()
    assert vehicle.refused().attack == "rollback"


def test_f11_a_delta_is_nothing_to_go_back_to(cloud: Cloud, vehicle: Vehicle) -> None:
    made = cloud.release(delta())
    cloud.release(image(), "gateway", fallback={"gateway": made.facts})
    cloud.publish()
    assert vehicle.refused().rule == "F11"


def test_f11_true_is_not_one(cloud: Cloud, vehicle: Vehicle) -> None:
    wanted = image()
    custom = msgspec.to_builtins(DirectorCustom(must_match=wanted.must_match, ecus=("gateway",)))
    custom["must_match"]["release_counter"] = True
    cloud.director.add_target(wanted.target(custom))
    cloud.image.add_target(wanted.target({"must_match": custom["must_match"]}))
    cloud.publish()
    assert vehicle.refused().attack == "arbitrary software"


def test_must_match_of_the_contract_has_no_hidden_fields() -> None:
    fields = {field.name for field in msgspec.structs.fields(MustMatch)}
    assert fields == {"hardware_ids", "release_counter", "kind", "version"}
