"""The Director: what each vehicle is told to install, and which manifests it believes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.wire.uptane import TARGETS_FIELD, DirectorCustom, DirectorInstructions
from tests.cloud.updates.support import BRAKES, make_car, rig_in

pytestmark = pytest.mark.anyio


async def test_a_release_becomes_targets_and_a_manifest_ends_it(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        assert (await car.targets()).targets == {}
        rootfs = await rig.image("gateway/rootfs-2.img", b"rootfs two" * 100, version="2.0")
        brakes = await rig.image(
            "brakes/fw-2.bin", b"brakes two", version="2.0", kind="firmware", hardware_ids=[BRAKES]
        )
        release = await rig.release("summer", rootfs, brakes)
        answer = await rig.assign(car.id, release)
        assert answer.status_code == 201, answer.text
        targets = await car.targets()
        assert set(targets.targets) == {"gateway/rootfs-2.img", "brakes/fw-2.bin"}
        told = msgspec.convert(targets.unrecognized_fields[TARGETS_FIELD], DirectorInstructions)
        assert (told.vehicle, told.release, [one.ecus for one in told.sets]) == (
            "VIN1",
            "summer",
            [("brakes", "gateway")],
        )
        custom = msgspec.convert(targets.targets["brakes/fw-2.bin"].custom, DirectorCustom)
        assert custom.ecus == ("brakes",)
        assert (await car.report(told.assignment, "downloading", percent=40.0, bytes_per_s=1e6)).status_code == 204
        state = await rig.state(car.id)
        assert (state["status"], state["percent"], state["pending"]) == ("downloading", 40.0, ["brakes", "gateway"])
        car.install(targets)
        assert (await car.tell()).status_code == 204
        state = await rig.state(car.id)
        assert (state["status"], state["updated"], state["pending"]) == ("succeeded", ["brakes", "gateway"], [])
        assert (await car.targets()).targets == {}
