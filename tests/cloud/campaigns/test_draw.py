"""Who belongs to a campaign, and in which order."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from cloud.campaigns.draw import draw_members, draw_number
from cloud.campaigns.plan import VehicleFilter
from cloud.updates.model import ReleaseState
from tests.cloud.campaigns.support import HARDWARE, Fleet, fleet_in, numbered, plan_for

pytestmark = pytest.mark.anyio


async def order(fleet: Fleet, seed: int, **more: Any) -> list[tuple[str, str]]:
    """(vehicle, stratum) in the drawn order; nothing is kept."""
    plan = plan_for(2, **more)
    async with fleet.db.read() as session:
        await session.execute(text("PRAGMA defer_foreign_keys = ON"))
        await draw_members(session, 1, plan, seed)
        rows = await session.execute(
            text(
                """SELECT v.id, v.is_critical || v.model || v.region || v.usage FROM campaign_vehicles m
                JOIN vehicles v ON v.id = m.vehicle_id ORDER BY m.position"""
            )
        )
        return [(row[0], row[1]) for row in rows]


async def test_the_order_depends_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(200))
        first = await order(fleet, 1)
        assert first == await order(fleet, 1)
        assert first != await order(fleet, 2)
        assert sorted(first) == sorted(await order(fleet, 2))
        assert [v for v, _ in first] != sorted(v for v, _ in first)


def test_the_draw_is_the_same_as_another_databases_md5() -> None:
    assert draw_number("") == 0xD41D8CD98F00B20
    assert 0 <= draw_number("anything") < 1 << 60


@settings(max_examples=6, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=9), seed=st.integers(0, 1 << 48))
async def test_every_beginning_of_the_order_holds_its_share_of_each_stratum(sizes: list[int], seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with fleet_in(Path(directory)) as fleet:
            await fleet.release(2)
            for i, size in enumerate(sizes):
                await fleet.vehicles(numbered(size, f"s{i}-"), model=f"m{i % 2}", region=f"r{i}", usage="u")
            drawn = await order(fleet, seed)
        total, whole = len(drawn), Counter(stratum for _, stratum in drawn)
        seen: Counter[str] = Counter()
        for position, (_, stratum) in enumerate(drawn, 1):
            seen[stratum] += 1
            share = position / total
            for name, size in whole.items():
                # One vehicle of rounding of its own, and its part of the rounding of all others.
                assert abs(seen[name] - share * size) <= 1 + size * len(whole) / total


async def test_small_strata_are_spread_and_do_not_all_come_at_once(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        for i in range(60):
            await fleet.vehicles([f"single{i}"], region=f"island{i}")
        await fleet.vehicles(numbered(60), region="mainland", model="van", usage="taxi")
        drawn = [vehicle for vehicle, _ in await order(fleet, 5)]
        for quarter in range(4):
            singles = sum(v.startswith("single") for v in drawn[quarter * 30 : quarter * 30 + 30])
            assert 5 <= singles <= 25


async def test_critical_vehicles_come_last_or_not_at_all(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(30))
        await fleet.vehicles(numbered(5, "ambulance"), is_critical=True)
        assert all(not vehicle.startswith("ambulance") for vehicle, _ in await order(fleet, 1))
        last = [vehicle for vehicle, _ in await order(fleet, 1, critical="last")]
        assert len(last) == 35
        assert all(vehicle.startswith("ambulance") for vehicle in last[30:])


async def test_a_dry_run_says_who_is_left_out_and_why(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(1)
        await fleet.release(2)
        await fleet.release(3, hardware="other-box")
        await fleet.vehicles(numbered(10, "old"))
        await fleet.vehicles(numbered(2, "done"), runs=2)
        await fleet.vehicles(numbered(3, "ahead"), runs=9, counter=99)
        await fleet.vehicles(numbered(4, "siren"), is_critical=True)
        await fleet.vehicles(["revoked"], state="revoked")
        await fleet.vehicles(["mute"])
        await fleet.sql("DELETE FROM vehicle_ecus WHERE vehicle_id = 'mute'")
        await fleet.vehicles(["alien"])
        await fleet.sql("UPDATE vehicle_ecus SET hardware_id = 'toaster' WHERE vehicle_id = 'alien'")
        await fleet.sql("UPDATE check_ins SET received_ns = 0 WHERE vehicle_id = 'old0003'")
        told = await fleet.desk.count(plan_for(2))
        assert (told.members, told.selected, told.offline) == (10, 22, 1)
        assert told.excluded == {
            "up_to_date": 2,
            "newer_installed": 3,
            "critical": 4,
            "not_enrolled": 1,
            "no_inventory": 1,
            "other_hardware": 1,
        }
        assert told.phases == [1, 4, 5]
        assert sum(stratum["vehicles"] for stratum in told.strata) == 10
        assert (await fleet.desk.count(plan_for(3))).members == 0
        campaign = await fleet.started(plan_for(2))
        chosen = await fleet.sql("SELECT vehicle_id FROM campaign_vehicles WHERE campaign_id = :c", c=campaign)
        assert {row[0] for row in chosen} == set(numbered(10, "old"))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (VehicleFilter(vehicles=("a1", "nobody")), {"a1"}),
        (VehicleFilter(search="b"), {"b1", "b2"}),
        (VehicleFilter(tag="pilot"), {"a1", "b2"}),
        (VehicleFilter(without_tags=("pilot",)), {"a2", "b1"}),
        (VehicleFilter(region=("north", "south"), model=("van",)), {"a1", "b1"}),
        (VehicleFilter(usage=("taxi",)), {"a1", "a2"}),
        (VehicleFilter(image="1.*"), {"a1", "a2", "b1", "b2"}),
        (VehicleFilter(image="1.5"), set()),
        (VehicleFilter(hardware_id=HARDWARE, software="2.*"), {"b2"}),
        (VehicleFilter(fault="P0AA6"), {"b1"}),
    ],
)
async def test_filters_must_all_hold(tmp_path: Path, wanted: VehicleFilter, expected: set[str]) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(["a1"], region="north", model="van", usage="taxi")
        await fleet.vehicles(["a2"], region="alps", model="van", usage="taxi")
        await fleet.vehicles(["b1"], region="south", model="van", usage="delivery")
        await fleet.vehicles(["b2"], region="south", model="truck", usage="delivery")
        await fleet.sql("INSERT INTO vehicle_tags VALUES ('a1', 'pilot'), ('b2', 'pilot')")
        await fleet.sql("UPDATE check_ins SET software = '2.4' WHERE vehicle_id = 'b2'")
        await fleet.fault("b1", 0x0AA616)
        assert {vehicle for vehicle, _ in await order(fleet, 1, filter=wanted, everyone=False)} == expected


async def test_a_release_of_several_images_needs_one_that_is_not_there_yet(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.release(3, hardware="brake-box", state=ReleaseState.DRAFT)
        await fleet.sql("INSERT INTO release_images VALUES (2, 3, '', 1, 0)")
        await fleet.vehicles(["both", "half", "none"])
        await fleet.sql(
            """INSERT INTO vehicle_ecus SELECT vehicle_id, 'brakes', 'brake-box', 0, key_id, method, public,
            registered_ns, filename, :sha, length, version, release_counter, report_counter, report_time_ns,
            reported_ns,
            attack, detail FROM vehicle_ecus WHERE vehicle_id IN ('both', 'half')""",
            sha=f"{3:064x}",
        )
        await fleet.sql(
            "UPDATE vehicle_ecus SET sha256 = :sha WHERE ecu = 'gateway' AND vehicle_id = 'both'", sha=f"{2:064x}"
        )
        assert {vehicle for vehicle, _ in await order(fleet, 1)} == {"half", "none"}
        assert math.isclose((await fleet.desk.count(plan_for(2))).excluded["up_to_date"], 1)
