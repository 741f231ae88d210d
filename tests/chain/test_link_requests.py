"""What the cloud has lost it asks for again, and gets it as long as the vehicle has it; the rest is shown as lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.spool import SpoolLimits
from tests.chain.roadside import LinkedVehicle, RealCloud, until

pytestmark = pytest.mark.anyio


async def is_complete(cloud: RealCloud) -> bool:
    """Whether both sides' books agree and no gap is open."""
    return (await cloud.services.accounting.accounting("VIN1")).complete is True


async def kinds(cloud: RealCloud) -> dict[str, int]:
    """Batches missing from the cloud, by what is known of them."""
    found: dict[str, int] = {}
    for gap in (await cloud.services.accounting.accounting("VIN1")).gaps:
        found[gap.kind] = found.get(gap.kind, 0) + gap.last - gap.first + 1
    return found


@pytest.mark.parametrize("way", ["check-in", "downlink"])
async def test_batches_a_restored_cloud_lacks_are_sent_again(
    cloud: RealCloud, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.ingest.routes.DOWNLINK_PERIOD_S", 0.2)
    await cloud.enrol("VIN1", tmp_path / "identity")
    async with LinkedVehicle(tmp_path, parts=("uplink", "check-in")).running() as vehicle:
        await vehicle.store("normal", 5)
        await vehicle.delivered()
        copy = cloud.save()
        await vehicle.store("normal", 10)
        await vehicle.store("critical", 3)
        await vehicle.delivered()
        await until("agreement", lambda: is_complete(cloud))
    await cloud.restore(copy)
    assert len(cloud.batches("VIN1")) == 5
    # With the downlink there is one check-in, at the start; the gap is too young then and is pushed later.
    parts, period_s = (
        (("uplink", "check-in"), 0.2) if way == "check-in" else (("uplink", "check-in", "downlink"), 3600.0)
    )
    async with LinkedVehicle(tmp_path, parts=parts, check_in_s=period_s).running() as vehicle:
        await until("the missing normal batches", lambda: cloud.batches("VIN1").count(("normal", 15)) == 1)
        await until("all of them", lambda: len(set(cloud.batches("VIN1"))) >= 15)
        assert await vehicle.pending() == 0
        # The backup knew nothing of the critical stream, which is quiet: the check-in alone tells that it was there.
        await until("the critical ones", lambda: cloud.batches("VIN1").count(("critical", 3)) == 1)
        await until("agreement", lambda: is_complete(cloud))


async def test_stream_the_restored_cloud_never_knew_is_asked_for_once_it_moves(
    cloud: RealCloud, tmp_path: Path
) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    copy = cloud.save()
    async with LinkedVehicle(tmp_path).running() as vehicle:
        await vehicle.store("critical", 3)
        await vehicle.delivered()
        await cloud.restore(copy)
        await vehicle.store("critical", 1)
        await until("the lost ones", lambda: {s for _, s in cloud.batches("VIN1")} == {1, 2, 3, 4})
        await until("agreement", lambda: is_complete(cloud))


@pytest.mark.slow
async def test_what_the_vehicle_no_longer_has_is_answered_and_shown_as_lost(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    limits = SpoolLimits(max_bytes=64 * 1024, segment_bytes=4 * 1024)
    async with LinkedVehicle(tmp_path, limits=limits).running() as vehicle:
        await vehicle.store("normal", 2, rows=100)
        await vehicle.delivered()
        copy = cloud.save()
        await vehicle.store("normal", 120, rows=250)  # more than the spool retains
        await vehicle.delivered()
        kept = next(s for s in range(1, 200) if vehicle.spool.read("normal", s) is not None)
        assert 10 < kept < 122
        await cloud.restore(copy)
        await until("what is left", lambda: len(cloud.batches("VIN1")) == 2 + 122 - kept + 1)
        await until("the answer", lambda: not vehicle.uplink.not_found() and vehicle.says("check-in") == "ok")

        async def is_told() -> bool:
            return await kinds(cloud) == {"lost": kept - 3}

        await until("the rest as lost", is_told)


async def test_evicted_ranges_are_told_confirmed_and_leave_no_gap(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    limits = SpoolLimits(max_bytes=64 * 1024, segment_bytes=4 * 1024)
    vehicle = LinkedVehicle(tmp_path, limits=limits)
    await vehicle.store("normal", 150, rows=250)
    evicted = vehicle.spool.totals()["normal"].evicted
    assert evicted > 0
    async with vehicle.running():
        await vehicle.delivered()
        await until("confirmation", lambda: not vehicle.spool.evicted("normal"))
        await until("agreement", lambda: is_complete(cloud))
        assert await kinds(cloud) == {"evicted": evicted // 1000}
        assert vehicle.uplink.not_found() == ()


async def test_requests_of_a_replaced_spool_are_answered(cloud: RealCloud, tmp_path: Path) -> None:
    """A vehicle with a new disk: what the old spool held and the cloud lost is gone, and that is said."""
    await cloud.enrol("VIN1", tmp_path / "identity")
    async with LinkedVehicle(tmp_path).running() as vehicle:
        await vehicle.store("normal", 2)
        await vehicle.delivered()
        copy = cloud.save()
        await vehicle.store("normal", 5)
        await vehicle.delivered()
        await cloud.restore(copy)
        await vehicle.report(False)
        await until("the cloud's suspicion", lambda: cloud.query("SELECT max(stalled_ns) FROM streams")[0][0] > 0)
    (tmp_path / "spool").rename(tmp_path / "broken")
    async with LinkedVehicle(tmp_path).running() as vehicle:
        await vehicle.store("normal", 3)
        await vehicle.delivered()

        async def nothing_missing() -> bool:
            return "missing" not in await kinds(cloud)

        await until("an end to the gap", nothing_missing)
