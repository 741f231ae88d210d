"""A campaign from draft to end on a real database: phases, gates, actions."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.campaigns.core import Action
from cloud.campaigns.plan import PhasePlan
from cloud.errors import Conflict
from tests.cloud.campaigns.support import DAY_S, HOUR_S, fleet_in, hourly, numbered, plan_for

pytestmark = pytest.mark.anyio


async def test_phases_follow_each_other_and_every_vehicle_is_updated_once(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(100))
        campaign = await fleet.started(plan_for(2))
        sizes = []
        for _ in range(3):
            await fleet.ticks()
            sizes.append(len(await fleet.report(campaign, "succeeded")))
            assert (await fleet.desk.get(campaign)).state == "running"
            await fleet.later(HOUR_S)
        assert sizes == [10, 40, 50]
        view = await fleet.desk.get(campaign)
        assert (view.state, view.members, view.totals["succeeded"]) == ("succeeded", 100, 100)
        assert await fleet.one("SELECT count(DISTINCT vehicle_id) FROM assignments") == 100
        assert await fleet.actions(campaign) == ["create", "submit", "start", "phase", "phase", "succeeded"]


async def test_a_phase_waits_for_its_duration_and_for_enough_reports(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(20))
        campaign = await fleet.started(plan_for(2, *hourly(0.5, 1.0, reported_share=0.8)))
        await fleet.ticks()
        await fleet.report(campaign, "succeeded", count=7)
        await fleet.later(HOUR_S)
        assert (await fleet.desk.get(campaign)).phase == 1  # 7 of 10 is less than 80 %
        await fleet.report(campaign, "succeeded", count=1)
        await fleet.ticks()
        assert (await fleet.desk.get(campaign)).phase == 2


async def test_the_failure_gate_pauses_and_no_further_vehicle_is_assigned(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(40))
        campaign = await fleet.started(plan_for(2, *hourly(0.5, 1.0, failure_min=2, failure_rate=0.2)))
        await fleet.ticks()
        await fleet.report(campaign, "succeeded", count=8)
        await fleet.report(campaign, "rolled_back", count=1)
        await fleet.later(60)
        assert (await fleet.desk.get(campaign)).state == "running"
        await fleet.report(campaign, "failed", count=1)
        await fleet.later(60)
        view = await fleet.desk.get(campaign)
        assert (view.state, view.paused_by) == ("paused", "gate:failures")
        assert "2 of 10" in view.reason
        await fleet.later(DAY_S)
        assert await fleet.one("SELECT count(*) FROM assignments") == 20
        # Seen and accepted: the same failures do not trip again, new ones do.
        await fleet.act(campaign, Action.RESUME)
        await fleet.ticks()
        assert (await fleet.desk.get(campaign)).state == "running"
        await fleet.report(campaign, "failed", count=2)
        await fleet.ticks()
        assert (await fleet.desk.get(campaign)).paused_by == "gate:failures"


async def test_a_gate_may_withdraw_the_release_and_send_everybody_back(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(1)
        await fleet.release(2)
        await fleet.vehicles(numbered(30))
        plan = plan_for(2, *hourly(0.5, 1.0, failure_count=1), on_failure="roll_back")
        campaign = await fleet.started(plan)
        await fleet.ticks()
        done = set(await fleet.report(campaign, "succeeded", count=6))
        begun = set(await fleet.report(campaign, "running", count=2))
        await fleet.report(campaign, "rolled_back", count=1, where="state = 'assigned'")
        await fleet.ticks()
        assert (await fleet.desk.get(campaign)).state == "rolling_back"
        back = await fleet.sql("SELECT vehicle_id, release_id FROM assignments WHERE is_rollback")
        assert {row[0] for row in back} == done | begun
        assert {row[1] for row in back} == {1}
        assert await fleet.one("SELECT state FROM releases WHERE id = 2") == "withdrawn"
        assert await fleet.one("SELECT count(*) FROM assignments WHERE state = 'assigned' AND NOT is_rollback") == 0
        await fleet.report(campaign, "succeeded", where="is_rollback")
        await fleet.ticks()
        view = await fleet.desk.get(campaign)
        assert (view.state, view.totals["back_done"]) == ("rolled_back", 8)
        assert await fleet.one("SELECT count(*) FROM vehicle_ecus WHERE sha256 LIKE '%2'") == 0


async def test_rolling_back_is_refused_where_vehicles_would_refuse_it(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(1, counter=5)
        await fleet.release(2, counter=6)
        await fleet.vehicles(numbered(4))
        campaign = await fleet.started(plan_for(2, PhasePlan(share=1.0)))
        await fleet.ticks()
        await fleet.report(campaign, "succeeded")
        with pytest.raises(Conflict, match=r"release counter 5 .* 6 refuse"):
            await fleet.act(campaign, Action.ROLL_BACK)
        assert (await fleet.desk.get(campaign)).state == "running"
