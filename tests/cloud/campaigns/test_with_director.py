"""A campaign, the real Director, and cars that send signed manifests: out, a failure, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.wire.uptane import TARGETS_FIELD, DirectorInstructions
from tests.cloud.updates.support import Car, Rig, make_car, rig_in

pytestmark = pytest.mark.anyio
CAMPAIGNS = "/api/v1/campaigns"
STILL: dict[str, Any] = {"tick_s": 3600.0, "recount_s": 0.0, "needs_approval": False}


async def begin(rig: Rig, release: int, **more: Any) -> int:
    """A running campaign for everybody."""
    plan = {"name": "roll", "release": release, "everyone": True, "strategy": "immediate", "retries": 0, **more}
    made = await rig.admin.post(CAMPAIGNS, json=plan)
    assert made.status_code == 201, made.text
    number = int(made.json()["id"])
    for action in ("submit", "start"):
        answer = await rig.admin.post(f"{CAMPAIGNS}/{number}/actions/{action}", json={})
        assert answer.status_code == 200, answer.text
    await settle(rig)
    return number


async def settle(rig: Rig) -> None:
    while await rig.cloud.services.campaigns.tick():
        pass


async def told(car: Car) -> tuple[list[str], DirectorInstructions]:
    """What the Director wants of a car."""
    targets = await car.targets()
    return sorted(targets.targets), msgspec.convert(targets.unrecognized_fields[TARGETS_FIELD], DirectorInstructions)


async def obey(car: Car) -> None:
    """Install what is wanted and prove it."""
    car.install(await car.targets())
    assert (await car.tell()).status_code == 204


async def test_a_failure_stops_the_campaign_and_the_updated_car_goes_back(tmp_path: Path) -> None:
    async with rig_in(tmp_path, campaigns=STILL) as rig:
        cars = {name: await make_car(rig, name) for name in ("VIN1", "VIN2", "VIN3")}
        images = [
            await rig.upload(
                f"gateway/rootfs-{n}.img", f"rootfs {n}".encode() * 100, version=f"{n}.0", release_counter=4
            )
            for n in (1, 2)
        ]
        await rig.sign_all()
        old, new = [await rig.release(f"release {n}", image) for n, image in enumerate(images, 1)]
        first = await begin(rig, old)
        for car in cars.values():
            assert (await told(car))[0] == ["gateway/rootfs-1.img"]
            await obey(car)
        await settle(rig)
        shown = (await rig.admin.get(f"{CAMPAIGNS}/{first}")).json()
        assert (shown["state"], shown["totals"]["succeeded"]) == ("succeeded", 3)

        phases = [
            {"vehicles": 1, "min_duration_s": 0, "failure_count": 1},
            {"share": 1.0, "min_duration_s": 0, "failure_count": 1},
        ]
        second = await begin(rig, new, strategy="phased", phases=phases, on_failure="roll_back")
        wanted = {name: (await told(car))[0] for name, car in cars.items()}
        (pilot,) = [name for name, paths in wanted.items() if paths]
        await obey(cars[pilot])
        await settle(rig)
        others = [name for name in cars if name != pilot]
        paths, instructions = await told(cars[others[0]])
        assert (paths, instructions.campaign) == (["gateway/rootfs-2.img"], str(second))
        done = await cars[others[0]].report(instructions.assignment, "rolled_back", detail="no CAN traffic")
        assert done.status_code == 204
        await settle(rig)
        shown = (await rig.admin.get(f"{CAMPAIGNS}/{second}")).json()
        assert (shown["state"], "1 vehicle failed" in shown["reason"]) == ("rolling_back", True)
        assert (await told(cars[pilot]))[0] == ["gateway/rootfs-1.img"]
        assert (await told(cars[others[1]]))[0] == []  # offered or not, it is told to stay
        await obey(cars[pilot])
        await settle(rig)
        shown = (await rig.admin.get(f"{CAMPAIGNS}/{second}")).json()
        assert (shown["state"], shown["totals"]["back_done"]) == ("rolled_back", 1)
        assert (await rig.admin.get(f"/api/v1/releases/{new}")).json()["state"] == "withdrawn"
