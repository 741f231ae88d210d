"""A cloud that refuses: too large, too fast, too busy. Nothing is lost, and others pass where they can."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.spool import Spool
from tests.chain.roadside import LinkedVehicle, RealCloud, until

pytestmark = pytest.mark.anyio


async def test_batch_above_the_clouds_limit_is_parked_and_delivered_when_the_limit_is_raised(
    cloud: RealCloud, tmp_path: Path
) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    await cloud.restart(ingest={"max_batch_bytes": 4_000})
    async with LinkedVehicle(tmp_path).running() as vehicle:
        await vehicle.store("normal", 2)
        await vehicle.store("normal", 1, rows=4_000)
        await vehicle.store("normal", 4)
        await until("the others", lambda: len(cloud.batches("VIN1")) == 6)
        await until("a word about it", lambda: "413" in vehicle.says("uplink"))
        assert await vehicle.pending() == 16_000 + 4 * 12  # what follows waits for its turn in the books
        await cloud.restart()
        vehicle.queue.retry_parked()  # in the field: by the hour
        vehicle.desk.wake()
        await vehicle.delivered()
        assert len(set(cloud.batches("VIN1"))) == 7
        await until("health", lambda: vehicle.says("uplink") == "ok")


async def test_request_for_a_batch_that_is_refused_does_not_spin(cloud: RealCloud, tmp_path: Path) -> None:
    """The gap a parked batch leaves is asked for again and again; it is not sent again and again."""
    await cloud.enrol("VIN1", tmp_path / "identity")
    await cloud.restart(ingest={"max_batch_bytes": 4_000})
    async with LinkedVehicle(tmp_path, check_in_s=0.1).running() as vehicle:
        await vehicle.store("normal", 1, rows=4_000)
        await vehicle.store("normal", 4)
        await until("the others", lambda: len(cloud.batches("VIN1")) == 4)
        sent: list[int] = []
        original = vehicle.client.send_batch

        async def counted(content: bytes, *, stream: str, sequence: int, items: int) -> object:
            sent.append(sequence)
            return await original(content, stream=stream, sequence=sequence, items=items)

        vehicle.client.send_batch = counted  # type: ignore[method-assign,assignment]  # counts, then does the real thing
        await until("the cloud's request", lambda: bool(cloud.query("SELECT 1 FROM streams WHERE stalled_ns > 0")))
        count = int(cloud.query("SELECT count FROM check_ins")[0][0])
        await until("more check-ins", lambda: int(cloud.query("SELECT count FROM check_ins")[0][0]) > count + 25)
        assert sent == []
        assert vehicle.uplink.not_found() == ()


async def test_rate_limit_slows_down_and_loses_nothing(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    await cloud.restart(ingest={"batches_per_s": 10.0, "batches_burst": 3})
    async with LinkedVehicle(tmp_path, parts=("uplink",)).running() as vehicle:
        await vehicle.store("normal", 12)
        await until("the limit", lambda: "429" in vehicle.says("uplink"))
        await vehicle.delivered()
        assert len(cloud.batches("VIN1")) == 12
        await until("health", lambda: vehicle.says("uplink") == "ok")


async def test_cloud_without_room_is_waited_for(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    await cloud.restart(storage={"min_free_bytes": 1 << 60})
    async with LinkedVehicle(tmp_path, parts=("uplink",)).running() as vehicle:
        await vehicle.store("normal", 3)
        await until("the refusal", lambda: "503" in vehicle.says("uplink"))
        assert await vehicle.pending() == 36
        assert cloud.batches("VIN1") == []


async def test_batch_the_cloud_cannot_read_becomes_a_dead_letter_and_holds_up_nothing(
    cloud: RealCloud, tmp_path: Path
) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    vehicle = LinkedVehicle(tmp_path)
    await vehicle.store("normal", 1)

    def work(spool: Spool) -> None:
        vehicle.keeper.select_items(7)
        spool.append("normal", b"ORB\x63 of a format nobody knows", 7, vehicle.keeper.persisted())
        vehicle.keeper.store_items(7)

    await vehicle.desk.store(work)
    await vehicle.store("normal", 3)
    async with vehicle.running():
        await vehicle.delivered()
        assert cloud.states("VIN1") == {"stored", "dead"} or cloud.states("VIN1") == {"dead", "waiting_manifest"}
        assert len(cloud.batches("VIN1")) == 5
        assert cloud.query("SELECT count(*) FROM dead_letters") == [(1,)]


@pytest.mark.timeout(60)
async def test_cloud_restarted_in_between_is_found_again(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    async with LinkedVehicle(tmp_path).running() as vehicle:
        await vehicle.store("normal", 5)
        await vehicle.delivered()
        await cloud.stop()
        await vehicle.store("normal", 5)
        await until("a failure", lambda: vehicle.says("uplink").startswith("degraded"))
        await cloud.start()
        await vehicle.delivered()
        await until("health", lambda: {vehicle.says(c) for c in ("uplink", "downlink", "check-in")} == {"ok"})
        assert len(cloud.batches("VIN1")) == 10
