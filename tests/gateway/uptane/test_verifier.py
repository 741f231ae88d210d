"""The way of an honest update, and what the standard asks of its steps (F1 to F13)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.uptane.repos import Cloud, delta, image
from tests.gateway.uptane.rig import Vehicle


@pytest.fixture
def cloud() -> Cloud:
    """Both repositories, with nothing to do."""
    return Cloud()


@pytest.fixture
def vehicle(cloud: Cloud, tmp_path: Path) -> Iterator[Vehicle]:
    """A vehicle that has never asked."""
    made = Vehicle(cloud, tmp_path / "uptane")
    yield made
    made.verifier.close()


def test_an_honest_update_is_verified_for_each_of_its_ecus(cloud: Cloud, vehicle: Vehicle) -> None:
    old = cloud.release(image("images/gateway-1.0.erofs"))
    offered = cloud.release(delta())
    new = cloud.release(image(), "gateway", fallback={"gateway": old.facts})
    motor = cloud.release(image("images/motor.bin", hardware=["motor-3"], kind="firmware"), "motor", "motor-2")
    cloud.publish()
    update = vehicle.refresh()
    assert {target.ecu: target.image for target in update.targets} == {
        "gateway": new.facts,
        "motor": motor.facts,
        "motor-2": motor.facts,
    }
    assert update == vehicle.verifier.known()
    assert offered
    vehicle.restart()
    assert update == vehicle.verifier.known()
