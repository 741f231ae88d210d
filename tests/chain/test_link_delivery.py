"""Over a bad network everything arrives, exactly once in the cloud's books, the urgent first."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import anyio
import pytest

from gateway.spool import SpoolLimits
from tests.chain.proxy import Proxy
from tests.chain.roadside import LinkedVehicle, RealCloud, until

pytestmark = pytest.mark.anyio


def each_once(cloud: RealCloud, vehicle: str, expected: int) -> None:
    """Every batch is in the database, none twice."""
    held = Counter(cloud.batches(vehicle))
    assert len(held) == expected
    assert set(held.values()) == {1}


async def waits(vehicle: LinkedVehicle, items: int) -> bool:
    """Whether exactly so many items wait in the spool."""
    return await vehicle.pending() == items


async def test_batches_arrive_with_their_manifest(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    async with LinkedVehicle(tmp_path).running() as vehicle:
        await vehicle.store("normal", 20)
        await vehicle.delivered()
        await until("the manifest", lambda: cloud.states("VIN1") == {"stored"})
        each_once(cloud, "VIN1", 20)
        assert cloud.query("SELECT count(*) FROM manifests") == [(1,)]


async def test_lost_answers_are_duplicates_and_nothing_is_stored_twice(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    proxy = Proxy(cloud.vehicle_port)
    try:
        url = f"https://localhost:{proxy.port}"
        async with LinkedVehicle(tmp_path, url=url, parts=("uplink",)).running() as vehicle:
            proxy.drop_answers = True
            await vehicle.store("normal", 12, rows=2000)
            await until("an unanswered delivery", lambda: len(cloud.batches("VIN1")) >= 4)
            assert await vehicle.pending() == 12 * 8000
            proxy.drop_answers = False
            await vehicle.delivered()
            each_once(cloud, "VIN1", 12)
            assert cloud.duplicates("VIN1") >= 4
    finally:
        proxy.close()


async def test_flapping_network_delays_and_loses_nothing(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    proxy = Proxy(cloud.vehicle_port)
    try:
        async with LinkedVehicle(tmp_path, url=f"https://localhost:{proxy.port}").running() as vehicle:
            for _ in range(6):
                await vehicle.store("normal", 10, rows=50)
                await vehicle.store("critical", 2)
                with anyio.move_on_after(0.1):
                    await vehicle.delivered()
                proxy.cut()
                await until("a failure", lambda: vehicle.says("uplink") != "ok" or vehicle.says("downlink") != "ok")
                proxy.mend()
            await vehicle.delivered()
            each_once(cloud, "VIN1", 72)
            await until("health", lambda: vehicle.says("uplink") == "ok")
    finally:
        proxy.close()


async def test_slow_network_delivers_what_fits_and_the_critical_first(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    proxy = Proxy(cloud.vehicle_port)
    proxy.bytes_per_s = 200_000
    try:
        url = f"https://localhost:{proxy.port}"
        async with LinkedVehicle(tmp_path, url=url, window=2, parts=("uplink",)).running() as vehicle:
            await vehicle.store("bulk", 30, rows=2_000)
            await until("the first", lambda: len(cloud.batches("VIN1")) >= 2)
            await vehicle.store("critical")
            await vehicle.delivered(30)
            each_once(cloud, "VIN1", 31)
            assert cloud.batches("VIN1").index(("critical", 1)) < 30
    finally:
        proxy.close()


async def test_critical_overtakes_a_backlog_of_bulk(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    vehicle = LinkedVehicle(tmp_path, window=1, parts=("uplink",))
    await vehicle.store("bulk", 15)
    await vehicle.store("normal", 5)
    await vehicle.store("critical", 2)
    async with vehicle.running():
        await vehicle.delivered()
        order = [stream for stream, _ in cloud.batches("VIN1")]
        assert order == ["critical"] * 2 + ["normal"] * 5 + ["bulk"] * 15


async def test_full_spool_evicts_bulk_before_critical_and_counts_it(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    proxy = Proxy(cloud.vehicle_port)
    proxy.cut()
    limits = SpoolLimits(max_bytes=64 * 1024, segment_bytes=8 * 1024)
    try:
        vehicle = LinkedVehicle(tmp_path, url=f"https://localhost:{proxy.port}", limits=limits)
        async with vehicle.running():
            for _ in range(20):
                await vehicle.store("bulk", 10, rows=40)
                await vehicle.store("critical", 1)
            totals = await vehicle.desk.totals()
            assert totals["bulk"].evicted > 0
            assert totals["critical"].evicted == 0
            proxy.mend()
            await vehicle.delivered()
            await until("evictions known", lambda: not vehicle.spool.evicted("bulk"))
            totals = await vehicle.desk.totals()
            assert sum(t.unexplained for t in totals.values()) == 0
            held = cloud.query("SELECT sum(stored_items) FROM streams")[0][0]
            assert held == sum(t.acknowledged for t in totals.values())
            (row,) = cloud.query("SELECT contiguous, length(ahead) FROM streams WHERE stream LIKE '%/bulk'")
            assert row == (totals["bulk"].last_sequence, 0)
    finally:
        proxy.close()


async def test_wifi_streams_wait_for_wifi_and_others_go(
    cloud: RealCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.link.uplink.IDLE_S", 0.2)
    await cloud.enrol("VIN1", tmp_path / "identity")
    kind = tmp_path / "kind"
    kind.write_text("cellular\n")
    vehicle = LinkedVehicle(tmp_path, kind_file=kind, parts=("uplink",))
    await vehicle.store("bulk-wifi", 3)
    await vehicle.store("normal", 3)
    async with vehicle.running():
        await until("the others", lambda: waits(vehicle, 3 * 12))
        assert {stream for stream, _ in cloud.batches("VIN1")} == {"normal"}
        kind.write_text("wifi\n")
        await vehicle.delivered()
        each_once(cloud, "VIN1", 6)
