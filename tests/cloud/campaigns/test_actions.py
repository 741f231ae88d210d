"""What people and circumstances do to a campaign, on a real database."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cloud.auth.audit import CLI, Actor
from cloud.campaigns.core import Action
from cloud.campaigns.desk import ActionOrder
from cloud.campaigns.plan import DtcGate, PhasePlan, VehicleFilter
from cloud.errors import Conflict, InvalidInput, NotAllowed, NotFound
from gateway.wire.uptane import InstallPolicy
from tests.cloud.campaigns.support import DAY_S, HOUR_S, QUICK, SECOND_NS, fleet_in, hourly, numbered, plan_for

pytestmark = pytest.mark.anyio
ALL_AT_ONCE = (PhasePlan(share=1.0, min_duration_s=HOUR_S),)


async def test_an_admin_approves_and_where_asked_for_it_is_not_who_made_it(tmp_path: Path) -> None:
    config = msgspec.structs.replace(QUICK, needs_approval=True, four_eyes=True)
    async with fleet_in(tmp_path, config) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(3))
        campaign = (await fleet.desk.create(plan_for(2), CLI)).id
        assert (await fleet.act(campaign, Action.SUBMIT)).state == "waiting"
        with pytest.raises(NotAllowed, match="somebody else"):
            await fleet.act(campaign, Action.APPROVE)
        with pytest.raises(Conflict, match="is waiting"):
            await fleet.act(campaign, Action.START)
        assert (await fleet.act(campaign, Action.REJECT, reason="not on a Friday")).state == "draft"
        await fleet.act(campaign, Action.SUBMIT)
        view = await fleet.desk.act(campaign, Action.APPROVE, ActionOrder(), Actor("user:other"))
        assert (view.state, view.approved_by) == ("scheduled", "user:other")
        await fleet.ticks()
        assert (await fleet.desk.get(campaign)).state == "running"


async def test_it_starts_by_itself_at_its_time_and_not_before(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(3))
        plan = plan_for(2, starts_ns=fleet.now_ns + HOUR_S * SECOND_NS)
        campaign = (await fleet.desk.create(plan, CLI)).id
        await fleet.act(campaign, Action.SUBMIT)
        await fleet.later(HOUR_S - 1)
        assert (await fleet.desk.get(campaign)).state == "scheduled"
        await fleet.later(1)
        assert (await fleet.desk.get(campaign)).state == "running"


async def test_a_campaign_that_nobody_needs_ends_and_says_why(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(3), runs=2)
        campaign = (await fleet.desk.create(plan_for(2), CLI)).id
        await fleet.act(campaign, Action.SUBMIT)
        with pytest.raises(Conflict, match="no selected vehicle needs"):
            await fleet.act(campaign, Action.START)
        await fleet.ticks()
        view = await fleet.desk.get(campaign)
        assert (view.state, view.reason) == ("cancelled", "could not start: no selected vehicle needs the release")


async def test_a_draft_changes_and_what_cannot_be_is_refused(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.release(3, state="withdrawn")
        await fleet.release(4, state="draft")
        await fleet.vehicles(numbered(3))
        with pytest.raises(NotFound, match="no release 9"):
            await fleet.desk.create(plan_for(9), CLI)
        with pytest.raises(Conflict, match="withdrawn"):
            await fleet.desk.create(plan_for(3), CLI)
        with pytest.raises(InvalidInput, match="another release"):
            await fleet.desk.create(plan_for(2, rollback_release=2), CLI)
        draft = await fleet.desk.create(plan_for(4), CLI)
        with pytest.raises(Conflict, match="not published"):
            await fleet.act(draft.id, Action.SUBMIT)
        changed = await fleet.desk.change(draft.id, plan_for(2, name="second"), CLI)
        assert (changed.name, changed.release_id) == ("second", 2)
        await fleet.act(draft.id, Action.SUBMIT)
        with pytest.raises(Conflict, match="only drafts"):
            await fleet.desk.change(draft.id, plan_for(2), CLI)


async def test_a_pause_holds_further_vehicles_and_not_those_that_have_begun(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(20))
        campaign = await fleet.started(plan_for(2, *hourly(0.5, 1.0)))
        await fleet.ticks()
        await fleet.act(campaign, Action.PAUSE, reason="strike")
        await fleet.report(campaign, "succeeded")
        await fleet.later(DAY_S)
        view = await fleet.desk.get(campaign)
        assert (view.state, view.reason, view.totals["succeeded"], view.totals["pending"]) == (
            "paused",
            "strike",
            10,
            10,
        )
        await fleet.act(campaign, Action.RESUME)
        await fleet.ticks()
        assert (await fleet.desk.get(campaign)).phase == 2


async def test_a_manual_campaign_waits_for_a_person_between_phases(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(10))
        campaign = await fleet.started(plan_for(2, *hourly(0.5, 1.0), strategy="manual"))
        with pytest.raises(Conflict, match="still being assigned"):
            await fleet.act(campaign, Action.NEXT)
        await fleet.ticks()
        await fleet.report(campaign, "succeeded")
        await fleet.later(DAY_S)
        assert (await fleet.desk.get(campaign)).phase == 1
        assert (await fleet.act(campaign, Action.NEXT)).phase == 2
        await fleet.ticks()
        await fleet.report(campaign, "succeeded")
        await fleet.later(HOUR_S)
        assert (await fleet.desk.get(campaign)).state == "succeeded"


@pytest.mark.parametrize("stop", [False, True])
async def test_cancelling_takes_back_what_has_not_begun(tmp_path: Path, stop: bool) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(20))
        campaign = await fleet.started(plan_for(2, *ALL_AT_ONCE))
        await fleet.ticks()
        await fleet.report(campaign, "running", count=4)
        await fleet.report(campaign, "offered", count=3, where="state = 'assigned'")
        totals = (await fleet.act(campaign, Action.CANCEL, stop_running=stop)).totals
        assert (totals["cancelled"], totals["running"]) == ((20, 0) if stop else (16, 4))
        await fleet.later(DAY_S)
        assert (await fleet.desk.get(campaign)).state == "cancelled"
        with pytest.raises(Conflict):
            await fleet.act(campaign, Action.RESUME)


async def test_withdrawing_reaches_every_campaign_of_the_release(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(10, "a") + numbered(10, "b"))
        await fleet.vehicles(["single"])
        await fleet.sql(
            """INSERT INTO assignments (vehicle_id, release_id, phase, attempt, is_rollback, state, policy, created_ns,
            created_by, detail, attack) VALUES ('single', 2, 0, 1, 0, 'assigned', x'', 0, '', '', '')"""
        )
        one, other = [
            await fleet.started(plan_for(2, *ALL_AT_ONCE, filter=VehicleFilter(search=name), everyone=False))
            for name in ("a0", "b0")
        ]
        await fleet.ticks()
        assert (await fleet.act(one, Action.WITHDRAW, reason="smoke")).state == "withdrawn"
        await fleet.ticks()
        assert (await fleet.desk.get(other)).reason == "the release has been withdrawn"
        assert await fleet.one("SELECT count(*) FROM assignments WHERE state != 'cancelled'") == 0


async def test_failed_vehicles_are_tried_again_in_a_phase_of_their_own_and_not_for_ever(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(20))
        lax = PhasePlan(share=1.0, min_duration_s=0, failure_rate=1.0, success_rate=0.5)
        campaign = await fleet.started(plan_for(2, lax, retries=2))
        await fleet.ticks()
        await fleet.report(campaign, "rolled_back", count=1)
        failing = set(await fleet.report(campaign, "failed", count=4))
        await fleet.report(campaign, "succeeded")
        for attempt in (2, 3):
            await fleet.ticks()
            again = await fleet.sql(
                "SELECT vehicle_id FROM assignments WHERE state = 'assigned' AND attempt = :n", n=attempt
            )
            assert {row[0] for row in again} == failing
            view = await fleet.desk.get(campaign)
            assert view.phases[-1].kind == "retry"
            assert (view.totals["failed"], view.totals["assigned"], view.totals["rolled_back"]) == (0, 4, 1)
            await fleet.report(campaign, "failed")
        await fleet.ticks()
        view = await fleet.desk.get(campaign)
        assert (view.state, view.totals["failed"], view.totals["succeeded"]) == ("succeeded", 4, 15)


async def test_an_operator_may_have_failed_vehicles_tried_again_and_then_go_on(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(20))
        campaign = await fleet.started(plan_for(2, *hourly(0.5, 1.0, failure_count=2)))
        with pytest.raises(Conflict, match="no vehicle failed"):
            await fleet.act(campaign, Action.RETRY)
        await fleet.ticks()
        await fleet.report(campaign, "failed", count=2)
        await fleet.report(campaign, "succeeded")
        await fleet.ticks()
        assert (await fleet.desk.get(campaign)).paused_by == "gate:failures"
        await fleet.act(campaign, Action.RETRY)
        await fleet.ticks()
        await fleet.report(campaign, "succeeded")
        await fleet.later(HOUR_S)
        view = await fleet.desk.get(campaign)
        assert (view.state, view.phase, view.totals["succeeded"], view.totals["assigned"]) == ("running", 2, 10, 10)


async def test_a_vehicle_has_one_update_open_and_the_higher_priority_takes_it(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        for release in (2, 3, 4):
            await fleet.release(release)
        await fleet.vehicles(numbered(10))
        first = await fleet.started(plan_for(2, *ALL_AT_ONCE))
        await fleet.ticks()
        begun = set(await fleet.report(first, "running", count=3))
        equal = await fleet.started(plan_for(3, *ALL_AT_ONCE))
        await fleet.ticks()
        assert (await fleet.desk.get(equal)).totals["busy"] == 10
        urgent = await fleet.started(plan_for(4, *ALL_AT_ONCE, priority=5))
        await fleet.ticks()
        view = await fleet.desk.get(urgent)
        assert (view.totals["assigned"], view.totals["busy"]) == (7, 3)
        told = await fleet.sql("SELECT DISTINCT detail FROM assignments WHERE state = 'superseded'")
        assert [row[0] for row in told] == [f"campaign {urgent} has priority"]
        # Whoever is free again is taken up later.
        assert set(await fleet.report(first, "succeeded")) == begun
        await fleet.ticks()
        assert (await fleet.desk.get(urgent)).totals["busy"] == 0
        await fleet.report(urgent, "succeeded")
        await fleet.ticks()
        assert (await fleet.desk.get(equal)).totals["assigned"] == 10


async def test_vehicles_enrolled_later_join_the_last_phase(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(20))
        plan = plan_for(2, *hourly(0.5, 1.0), late_joiners=True, open_until_ns=fleet.now_ns + DAY_S * SECOND_NS)
        campaign = await fleet.started(plan)
        await fleet.ticks()
        fleet.clock.advance_s(60)
        await fleet.vehicles(numbered(3, "late"))
        await fleet.vehicles(["latesiren"], is_critical=True)
        await fleet.ticks()
        view = await fleet.desk.get(campaign)
        assert [phase.members for phase in view.phases] == [10, 13]
        assert await fleet.one("SELECT count(*) FROM assignments WHERE vehicle_id LIKE 'late%'") == 0
        await fleet.report(campaign, "succeeded")
        await fleet.later(HOUR_S)
        await fleet.report(campaign, "succeeded")
        await fleet.later(HOUR_S)
        assert (await fleet.desk.get(campaign)).state == "running"  # others may come
        await fleet.vehicles(numbered(2, "later"))
        await fleet.later(HOUR_S)
        assert len(await fleet.report(campaign, "succeeded")) == 2
        await fleet.later(DAY_S)
        view = await fleet.desk.get(campaign)
        assert (view.state, view.members, view.totals["succeeded"]) == ("succeeded", 25, 25)


async def test_vehicles_long_offline_hold_nobody_up_and_get_it_when_they_are_back(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(6) + numbered(4, "dead"))
        campaign = await fleet.started(plan_for(2, PhasePlan(share=1.0, reported_share=1.0), offline_days=3.0))
        await fleet.ticks()
        await fleet.report(campaign, "succeeded", where="vehicle_id LIKE 'car%'")
        await fleet.later(DAY_S)
        assert (await fleet.desk.get(campaign)).state == "running"
        await fleet.later(2 * DAY_S + 1)
        view = await fleet.desk.get(campaign)
        assert (view.state, view.phases[0].vehicles["uncounted"]) == ("succeeded", 4)
        assert len(await fleet.report(campaign, "succeeded")) == 4


async def test_a_vehicle_that_began_and_fell_silent_has_failed(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(10))
        plan = plan_for(2, PhasePlan(share=1.0, failure_count=2), vehicle_timeout_s=HOUR_S, offline_days=0.01)
        campaign = await fleet.started(plan)
        await fleet.ticks()
        silent = await fleet.report(campaign, "running", count=2)
        await fleet.report(campaign, "running", count=1, where="state = 'assigned'")
        talking = await fleet.one("SELECT vehicle_id FROM assignments WHERE state = 'running' ORDER BY id DESC LIMIT 1")
        await fleet.later(HOUR_S)
        await fleet.sql(
            """INSERT INTO vehicle_updates (vehicle_id, assignment_id, targets_version, snapshot_version,
            timestamp_version,
            content_digest, expires_ns, state, percent, reported_ns, report, manifest_problem)
            SELECT vehicle_id, id, 0, 0, 0, x'', 0, 'downloading', 5, :now, x'', '' FROM assignments
            WHERE vehicle_id = :vehicle""",
            now=fleet.now_ns,
            vehicle=talking,
        )
        await fleet.later(60)
        failed = await fleet.sql("SELECT vehicle_id, detail FROM assignments WHERE state = 'failed'")
        assert {row[0] for row in failed} == set(silent)
        assert "not heard of for 3600 s" in failed[0][1]
        assert (await fleet.desk.get(campaign)).paused_by == "gate:failures"


async def test_new_trouble_codes_of_the_updated_trip_the_gate_and_old_ones_do_not(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(60))
        gate = DtcGate(min_vehicles=3, rate=0.1, factor=3.0, min_others=10)
        campaign = await fleet.started(plan_for(2, *hourly(0.5, 1.0), dtc_gate=gate))
        await fleet.ticks()
        updated = await fleet.report(campaign, "succeeded", count=20)
        for vehicle in updated[:9]:
            await fleet.fault(vehicle, 0x0AA616, first_ns=fleet.now_ns - 1)  # from before
        await fleet.fault(updated[9], 0x0AA616, first_ns=fleet.now_ns + 1)
        await fleet.fault(updated[10], 0x0AA616, first_ns=fleet.now_ns + 1)
        await fleet.fault(updated[11], 0x0AA616, status=0x01, first_ns=fleet.now_ns + 1)  # not confirmed
        await fleet.later(600)
        assert (await fleet.desk.get(campaign)).state == "running"
        await fleet.fault(updated[12], 0x0AA616, first_ns=fleet.now_ns)
        await fleet.later(60)
        view = await fleet.desk.get(campaign)
        assert view.paused_by == "gate:dtc"
        assert "3 of 20 updated vehicles" in view.reason
        assert "P0AA6-16 of motor in 3" in view.reason
        await fleet.act(campaign, Action.RESUME)
        await fleet.later(60)
        assert (await fleet.desk.get(campaign)).state == "running"


async def test_codes_that_everybody_gets_do_not_stop_a_campaign(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(60))
        gate = DtcGate(min_vehicles=3, rate=0.1, factor=3.0, min_others=10)
        campaign = await fleet.started(plan_for(2, *hourly(0.5, 1.0), dtc_gate=gate))
        await fleet.ticks()
        await fleet.report(campaign, "succeeded", count=20)
        for vehicle in numbered(60)[::2]:  # a cold night
            await fleet.fault(vehicle, 0x0AA616, first_ns=fleet.now_ns + 1)
        await fleet.later(600)
        assert (await fleet.desk.get(campaign)).state == "running"


async def test_a_gate_that_means_to_go_back_holds_in_a_pause(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(1)
        await fleet.release(2)
        await fleet.vehicles(numbered(10))
        plan = plan_for(2, PhasePlan(share=1.0, failure_count=1), on_failure="roll_back")
        campaign = await fleet.started(plan)
        await fleet.ticks()
        await fleet.act(campaign, Action.PAUSE)
        await fleet.report(campaign, "succeeded", count=3)
        await fleet.report(campaign, "rolled_back", count=1)
        await fleet.ticks()
        assert (await fleet.desk.get(campaign)).state == "rolling_back"


async def test_where_there_is_no_way_back_the_release_is_withdrawn_all_the_same(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(10))
        campaign = await fleet.started(plan_for(2, PhasePlan(share=1.0, failure_count=1), on_failure="roll_back"))
        await fleet.ticks()
        await fleet.report(campaign, "failed", count=1)
        await fleet.ticks()
        view = await fleet.desk.get(campaign)
        assert (view.state, view.totals["cancelled"]) == ("withdrawn", 9)
        assert "cannot go back: no published release" in view.reason


async def test_each_vehicle_goes_back_to_what_it_came_from_or_to_what_was_named(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        for release in (1, 2, 3, 5):
            await fleet.release(release)
        await fleet.vehicles(numbered(4, "one"), runs=1)
        await fleet.vehicles(numbered(4, "two"), runs=2)
        await fleet.vehicles(numbered(2, "odd"), runs=77)
        campaign = await fleet.started(plan_for(3, *ALL_AT_ONCE))
        await fleet.ticks()
        await fleet.report(campaign, "succeeded")
        await fleet.act(campaign, Action.ROLL_BACK)
        await fleet.ticks()
        back = await fleet.sql(
            "SELECT substr(vehicle_id, 1, 3), release_id, count(*) FROM assignments WHERE is_rollback GROUP BY 1, 2"
        )
        assert {tuple(row) for row in back} == {("one", 1, 4), ("two", 2, 4)}
        again = await fleet.started(plan_for(5, *ALL_AT_ONCE, priority=1))
        await fleet.report(campaign, "succeeded", where="is_rollback")
        await fleet.ticks()
        await fleet.report(again, "succeeded")
        await fleet.act(again, Action.ROLL_BACK, release=1, withdraw=True)
        await fleet.ticks()
        named = await fleet.sql(
            "SELECT DISTINCT release_id FROM assignments WHERE is_rollback AND campaign_id = :c", c=again
        )
        assert [row[0] for row in named] == [1]


async def test_revoked_and_erased_vehicles_leave_a_campaign(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(10))
        campaign = await fleet.started(plan_for(2, *ALL_AT_ONCE))
        await fleet.sql("UPDATE vehicles SET state = 'revoked' WHERE id = 'car0003'")
        await fleet.desk.erase("car0004")
        await fleet.sql("DELETE FROM vehicles WHERE id = 'car0004'")
        await fleet.ticks()
        view = await fleet.desk.get(campaign)
        assert (view.members, view.totals["gone"], view.totals["assigned"]) == (9, 1, 8)
        await fleet.report(campaign, "succeeded")
        await fleet.later(HOUR_S)
        assert (await fleet.desk.get(campaign)).state == "succeeded"


async def test_the_policy_of_the_plan_travels_with_each_assignment(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(2))
        policy = InstallPolicy(needs_consent=True, window_start_min=1320, window_end_min=300, window_days=(5, 6))
        await fleet.started(plan_for(2, *ALL_AT_ONCE, policy=policy))
        await fleet.ticks()
        kept = await fleet.sql("SELECT DISTINCT policy FROM assignments")
        assert [msgspec.json.decode(row[0], type=InstallPolicy) for row in kept] == [policy]


async def test_a_plan_never_takes_back_the_consent_that_its_release_asks_for(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(1)
        await fleet.release(2)
        await fleet.sql("UPDATE releases SET needs_consent = 1")
        await fleet.vehicles(numbered(2))
        night = InstallPolicy(window_start_min=60, window_end_min=120)
        campaign = await fleet.started(plan_for(2, *ALL_AT_ONCE, policy=night))
        await fleet.ticks()
        kept = msgspec.json.decode(await fleet.one("SELECT policy FROM assignments"), type=InstallPolicy)
        assert kept == msgspec.structs.replace(night, needs_consent=True)
        await fleet.report(campaign, "succeeded")
        await fleet.act(campaign, Action.ROLL_BACK)
        await fleet.ticks()
        back = await fleet.one("SELECT policy FROM assignments WHERE is_rollback")
        assert msgspec.json.decode(back, type=InstallPolicy) == InstallPolicy(is_critical=True)  # waits for no window


async def test_an_operator_may_finish_with_what_there_is(tmp_path: Path) -> None:
    async with fleet_in(tmp_path) as fleet:
        await fleet.release(2)
        await fleet.vehicles(numbered(10))
        campaign = await fleet.started(plan_for(2, *ALL_AT_ONCE))
        await fleet.ticks()
        await fleet.report(campaign, "succeeded", count=3)
        view = await fleet.act(campaign, Action.FINISH)
        assert (view.state, view.totals["succeeded"], view.totals["cancelled"]) == ("succeeded", 3, 7)
