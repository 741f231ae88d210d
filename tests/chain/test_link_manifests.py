"""Batches and the manifests they name: both arrive, also those of a manifest that has since been replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chain.proxy import Proxy
from tests.chain.roadside import LinkedVehicle, RealCloud, until
from tests.cloud.support import make_manifest

pytestmark = pytest.mark.anyio
OLD, NEW = make_manifest("old"), make_manifest("new")


def manifests(cloud: RealCloud) -> set[str]:
    return {str(row[0]) for row in cloud.query("SELECT name FROM manifests")}


async def test_unsent_batches_of_the_former_manifest_become_readable(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    before = LinkedVehicle(tmp_path, manifest=OLD)
    await before.store("normal", 4)
    await before.close()  # never had a link
    async with LinkedVehicle(tmp_path, manifest=NEW).running() as vehicle:
        await vehicle.store("normal", 2)
        await vehicle.delivered()
        await until("both manifests", lambda: manifests(cloud) == {"old", "new"})
        await until("readable batches", lambda: cloud.states("VIN1") == {"stored"})


async def test_manifest_not_delivered_before_the_restart_is_delivered_after_it(
    cloud: RealCloud, tmp_path: Path
) -> None:
    """All its batches are acknowledged, so nothing that is still to be sent names it."""
    await cloud.enrol("VIN1", tmp_path / "identity")
    await cloud.restart(ingest={"max_manifest_bytes": 10})
    async with LinkedVehicle(tmp_path, manifest=OLD).running() as before:
        await before.store("normal", 4)
        await before.delivered()
        await until("the refusal", lambda: "413" in before.says("uplink"))
        assert cloud.states("VIN1") == {"waiting_manifest"}
    await cloud.restart()
    async with LinkedVehicle(tmp_path, manifest=NEW).running():
        await until("readable batches", lambda: cloud.states("VIN1") == {"stored"})


async def test_refused_manifest_holds_up_no_batch(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    await cloud.restart(ingest={"max_manifest_bytes": 10})
    async with LinkedVehicle(tmp_path).running() as vehicle:
        await vehicle.store("normal", 20)
        await vehicle.delivered()
        assert len(cloud.batches("VIN1")) == 20
        assert cloud.duplicates("VIN1") == 0
        await until("a word about it", lambda: "manifest" in vehicle.says("uplink"))


async def test_restored_cloud_gets_batches_and_their_old_manifest_again(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    copy = cloud.save()
    async with LinkedVehicle(tmp_path, manifest=OLD).running() as before:
        await before.store("normal", 3)
        await before.delivered()
        await until("the manifest", lambda: manifests(cloud) == {"old"})
    async with LinkedVehicle(tmp_path, manifest=NEW).running() as vehicle:
        await vehicle.store("normal", 1)
        await vehicle.delivered()
        await cloud.restore(copy)
        await vehicle.store("normal", 1)
        await until("all batches", lambda: len(set(cloud.batches("VIN1"))) == 5)
        await until("both manifests", lambda: manifests(cloud) == {"old", "new"})
        await until("readable batches", lambda: cloud.states("VIN1") == {"stored"})


async def test_lost_answer_to_a_manifest_is_no_loss(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    proxy = Proxy(cloud.vehicle_port)
    try:
        async with LinkedVehicle(tmp_path, url=f"https://localhost:{proxy.port}").running() as vehicle:
            proxy.drop_answers = True
            await vehicle.store("normal", 3, rows=2000)
            await until("a delivery", lambda: len(cloud.batches("VIN1")) == 3)
            proxy.drop_answers = False
            await vehicle.delivered()
            await until("readable batches", lambda: cloud.states("VIN1") == {"stored"})
    finally:
        proxy.close()
