"""Partial verification (PV1, PV2), and what a Primary keeps for Secondaries (V6)."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.update.model import AttackError, VerifiedTarget
from gateway.uptane.partial import PartialBundle, verify_partial
from gateway.wire.uptane import MAX_DIRECTOR_TARGETS_BYTES
from tests.gateway.uptane.repos import Cloud, Image, flipped, image, new_key
from tests.gateway.uptane.rig import Vehicle


@pytest.fixture
def motor(cloud: Cloud) -> Image:
    """Firmware for one ECU."""
    made = cloud.release(image("images/motor", hardware=["motor-3"], kind="firmware", counter=3), "motor")
    cloud.publish()
    return made


def check(cloud: Cloud, bundle: PartialBundle, **changes: Any) -> VerifiedTarget | None:
    """As the ECU ``motor`` would."""
    fields = {"vehicle": cloud.vehicle, "ecu": "motor", "hardware_id": "motor-3", "now_ns": cloud.clock.utc_ns()}
    return verify_partial(bundle, **{**fields, **changes})


def bundle_of(cloud: Cloud, targets: bytes | None = None) -> PartialBundle:
    """Straight from the Director."""
    files = cloud.director.files
    return PartialBundle(cloud.director_root, files[cloud.director.current("targets")] if targets is None else targets)


def test_v6_pv2_the_primary_keeps_what_a_secondary_needs(cloud: Cloud, vehicle: Vehicle, motor: Image) -> None:
    assert vehicle.verifier.partial_bundle() is None
    vehicle.refresh()
    bundle = vehicle.verifier.partial_bundle()
    assert bundle is not None
    found = check(cloud, bundle)
    assert found is not None
    assert found.image == motor.facts
    cloud.director.rotate("targets")
    cloud.director.publish()
    vehicle.refresh()
    newer = vehicle.verifier.partial_bundle()
    assert newer is not None
    assert check(cloud, newer) == found


def test_pv2_an_ecu_that_is_not_named_gets_nothing(cloud: Cloud, motor: Image) -> None:
    assert check(cloud, bundle_of(cloud), ecu="motor-2") is None


def test_pv1_expiry_is_checked_against_secure_time(cloud: Cloud, motor: Image) -> None:
    cloud.clock.advance(days=91)
    with pytest.raises(AttackError) as caught:
        check(cloud, bundle_of(cloud))
    assert (caught.value.attack, caught.value.rule) == ("freeze", "CG5")


def test_pv2_targets_need_the_keys_of_the_director(cloud: Cloud, motor: Image) -> None:
    for signers in ([], [new_key()], cloud.director.signers["snapshot"], cloud.image.signers["targets"]):
        with pytest.raises(AttackError) as caught:
            check(cloud, bundle_of(cloud, cloud.director.sign(cloud.director.targets, signers)))
        assert (caught.value.attack, caught.value.rule) == ("arbitrary software", "CG3")


@pytest.mark.parametrize(
    ("changes", "attack"),
    [
        ({"vehicle": "vehicle-2"}, "mix-and-match"),
        ({"hardware_id": "motor-4"}, "arbitrary software"),
        ({"previous_version": 99}, "rollback"),
        ({"release_counter": 4}, "rollback"),
    ],
)
def test_pv2_version_vehicle_hardware_and_counter_are_checked(
    cloud: Cloud, motor: Image, changes: dict[str, Any], attack: str
) -> None:
    with pytest.raises(AttackError) as caught:
        check(cloud, bundle_of(cloud), **changes)
    assert caught.value.attack == attack


def test_pv2_damaged_targets_are_refused(cloud: Cloud, motor: Image) -> None:
    good = bundle_of(cloud).director_targets
    bad = [b"", b"{}", b"\0" * 100, flipped(good), good[:-1], cloud.director.files["timestamp.json"]]
    for data in [*bad, b" " * (MAX_DIRECTOR_TARGETS_BYTES + 1)]:
        with pytest.raises(AttackError):
            check(cloud, bundle_of(cloud, data))
