"""Partial verification in place of the ECUs, on the very bytes that the Primary keeps for them."""

from __future__ import annotations

import msgspec
import pytest

from gateway.update.ecu_partial import PartialVerification
from gateway.update.model import AttackError, InstallError, VerifiedTarget
from gateway.uptane.partial import PartialBundle
from tests.gateway.uptane.repos import Cloud, flipped, image


def released() -> tuple[Cloud, VerifiedTarget, PartialVerification]:
    """A Director that wants an image of the motor, and what the Primary made of it."""
    cloud = Cloud()
    made = cloud.release(image("images/motor", hardware=["motor-3"], kind="firmware", counter=3), "motor")
    cloud.publish()
    files = cloud.director.files
    bundle = PartialBundle(cloud.director_root, files[cloud.director.current("targets")])
    check = PartialVerification(lambda: bundle, cloud.vehicle, cloud.clock)
    target = VerifiedTarget(ecu="motor", hardware_id="motor-3", image=made.facts, must_match=made.must_match)
    return cloud, target, check


def test_pv2_what_the_director_signed_passes() -> None:
    _, target, check = released()
    check(target)


def test_pv2_anything_else_for_this_ecu_is_refused() -> None:
    _, target, check = released()
    other = msgspec.structs.replace(target.image, length=target.image.length + 1)
    match = msgspec.structs.replace(target.must_match, release_counter=4)
    for wrong in (
        msgspec.structs.replace(target, image=other),
        msgspec.structs.replace(target, must_match=match),
        msgspec.structs.replace(target, ecu="brakes"),
    ):
        with pytest.raises(AttackError) as caught:
            check(wrong)
        assert (caught.value.attack, caught.value.rule) == ("mix-and-match", "PV2")


def test_pv1_expired_targets_are_a_freeze() -> None:
    cloud, target, check = released()
    cloud.clock.advance(days=400)
    with pytest.raises(AttackError) as caught:
        check(target)
    assert caught.value.attack == "freeze"


def test_pv2_a_bit_that_fell_over_or_no_metadata_at_all() -> None:
    cloud, target, _ = released()
    files = cloud.director.files
    spoiled = flipped(files[cloud.director.current("targets")])
    assert spoiled is not None
    bundle = PartialBundle(cloud.director_root, spoiled)
    with pytest.raises(AttackError):
        PartialVerification(lambda: bundle, cloud.vehicle, cloud.clock)(target)
    with pytest.raises(InstallError, match="PV2"):
        PartialVerification(lambda: None, cloud.vehicle, cloud.clock)(target)
