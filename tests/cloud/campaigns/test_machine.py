"""Any order of reports, joins, clock jumps, actions and crashes keeps the promises of a campaign."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import event

from cloud.auth.audit import CLI
from cloud.campaigns.core import Action, PhaseCounts, failure_gate, is_legal
from cloud.campaigns.desk import ActionOrder
from cloud.campaigns.model import ENDS, CampaignState
from cloud.campaigns.plan import PhasePlan
from cloud.errors import Conflict
from tests.cloud.campaigns.support import DAY_S, HOUR_S, QUICK, Fleet, fleet_in, numbered, plan_for
from tests.support import LONG

VEHICLES = 24
PHASES = (
    PhasePlan(vehicles=3, min_duration_s=HOUR_S, failure_count=2, reported_share=0.5),
    PhasePlan(vehicles=10, min_duration_s=HOUR_S, failure_rate=0.3, failure_min=2, reported_share=0.5),
    PhasePlan(share=1.0, min_duration_s=HOUR_S, failure_rate=0.5, failure_min=3, reported_share=0.5),
)
OUTCOMES = ("offered", "running", "succeeded", "succeeded", "failed", "rolled_back")
ACTIONS = [a for a in Action if a not in (Action.SUBMIT, Action.APPROVE, Action.REJECT, Action.WITHDRAW)]


class Cut(Exception):
    """The power went between two statements."""


class CampaignMachine(RuleBasedStateMachine):
    """Two campaigns over one small fleet, and everything that can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.context = fleet_in(self.directory, QUICK)
        self.fleet: Fleet = self.run(self.context.__aenter__())
        self.statements_left = -1
        self.campaigns: list[int] = []
        self.ended: dict[int, str] = {}
        self.joined = 0
        event.listen(self.fleet.db.engine.sync_engine, "before_cursor_execute", self._count)

    def _count(self, *_: Any) -> None:
        if self.statements_left > 0:
            self.statements_left -= 1
            if self.statements_left == 0:
                raise Cut

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.statements_left = -1
        self.run(self.context.__aexit__(None, None, None))
        self.loop.close()
        shutil.rmtree(self.directory)

    @initialize(seed=st.integers(0, 1000), on_failure=st.sampled_from(("pause", "roll_back")))
    def begin(self, seed: int, on_failure: str) -> None:
        async def work() -> None:
            for release in (1, 2, 3):
                await self.fleet.release(release)
            await self.fleet.vehicles(numbered(VEHICLES))
            await self.fleet.vehicles(numbered(3, "siren"), is_critical=True)
            for release, priority in ((2, 0), (3, 1)):
                more = {"late_joiners": release == 2, "retries": 1, "priority": priority}
                plan = plan_for(release, *PHASES, **more, on_failure=on_failure, vehicle_timeout_s=DAY_S)
                self.campaigns.append((await self.fleet.desk.create(plan, CLI)).id)
            await self.fleet.act(self.campaigns[0], Action.SUBMIT)
            await self.fleet.act(self.campaigns[0], Action.START)

        self.run(work())

    @rule()
    def tick(self) -> None:
        self.run(self.fleet.engine.tick())

    @rule(statements=st.integers(1, 40))
    def tick_and_crash(self, statements: int) -> None:
        """A step that is cut leaves nothing half done; the error is the engine's to log."""
        self.statements_left = statements
        try:
            self.run(self.fleet.engine.tick())
        except Cut:
            pass
        finally:
            self.statements_left = -1

    @rule(state=st.sampled_from(OUTCOMES), count=st.integers(1, 8), which=st.integers(0, 1), back=st.booleans())
    def report(self, state: str, count: int, which: int, back: bool) -> None:
        where = "is_rollback" if back else "NOT is_rollback"
        self.run(self.fleet.report(self.campaigns[which], state, count=count, where=where))

    @rule(seconds=st.sampled_from((60, HOUR_S, DAY_S, -HOUR_S, 20 * DAY_S)), seen=st.booleans())
    def time_passes(self, seconds: int, seen: bool) -> None:
        self.fleet.clock.advance_s(seconds)
        if seen:
            self.run(self.fleet.sql("UPDATE check_ins SET received_ns = :now", now=self.fleet.now_ns))

    @rule(which=st.integers(0, 1), action=st.sampled_from(ACTIONS), twice=st.booleans())
    def act(self, which: int, action: Action, twice: bool) -> None:
        campaign = self.campaigns[which]
        for _ in range(1 + twice):
            state = CampaignState(self.run(self.fleet.desk.get(campaign)).state)
            try:
                self.run(self.fleet.desk.act(campaign, action, ActionOrder(), CLI))
                assert is_legal(state, action)
                if state in ENDS:
                    self.ended.pop(campaign)
            except Conflict:
                pass

    @precondition(lambda self: not self.ended.get(self.campaigns[1]))
    @rule()
    def start_the_other(self) -> None:
        for action in (Action.SUBMIT, Action.START):
            try:
                self.run(self.fleet.act(self.campaigns[1], action))
            except Conflict:
                return

    @precondition(lambda self: self.joined < 4)
    @rule()
    def enrol(self) -> None:
        self.joined += 1
        self.fleet.clock.advance_s(1)
        self.run(self.fleet.vehicles([f"late{self.joined}"]))

    @rule(number=st.integers(0, VEHICLES - 1))
    def erase(self, number: int) -> None:
        vehicle = numbered(VEHICLES)[number]
        self.run(self.fleet.desk.erase(vehicle))
        self.run(self.fleet.sql("DELETE FROM vehicles WHERE id = :v", v=vehicle))

    @invariant()
    def promises_hold(self) -> None:
        if self.campaigns:
            self.run(self._check())

    async def _check(self) -> None:
        one = self.fleet.one
        assert not await one("SELECT count(*) FROM assignments WHERE campaign_id AND vehicle_id LIKE 'siren%'")
        twice = """SELECT count(*) FROM (SELECT 1 FROM assignments WHERE state IN ('assigned', 'offered', 'running')
            GROUP BY vehicle_id HAVING count(*) > 1)"""
        assert not await one(twice)
        assert not await one("SELECT count(*) FROM campaign_vehicles WHERE skipped NOT IN ('', 'busy', 'gone')")
        often = """SELECT count(*) FROM (SELECT 1 FROM assignments WHERE NOT is_rollback
            GROUP BY campaign_id, vehicle_id, attempt HAVING count(*) > 1)"""
        assert not await one(often)
        for campaign in self.campaigns:
            await self._check_one(campaign)

    async def _check_one(self, campaign: int) -> None:
        view = await self.fleet.desk.get(campaign)
        assert sum(n for name, n in view.totals.items() if not name.startswith("back_")) == view.members
        assert all(count >= 0 for count in view.totals.values())
        for phase in view.phases:
            outside = """SELECT count(*) FROM assignments a JOIN campaign_vehicles m USING (campaign_id, vehicle_id)
                JOIN campaign_phases p ON p.campaign_id = a.campaign_id AND p.number = a.phase
                WHERE a.campaign_id = :c AND a.phase = :p AND NOT m.position BETWEEN p.first AND p.assigned_through"""
            assert not await self.fleet.one(outside, c=campaign, p=phase.number)
            if phase.kind == "rollout" and phase.state == "waiting" and phase.number > 1:
                assert sum(phase.vehicles[s] for s in ("assigned", "offered", "running", "succeeded", "failed")) == 0
            if phase.number < 3:
                assert phase.members <= (3, 7)[phase.number - 1]
        if view.state in ENDS:
            assert self.ended.setdefault(campaign, view.state) == view.state, "an end is an end"
        else:
            assert campaign not in self.ended
        audited = await self.fleet.one("SELECT count(*) FROM audit WHERE target = :t", t=f"campaign {campaign}")
        assert audited == view.revision  # every change, and nothing twice

    @invariant()
    def gates_trip(self) -> None:
        """Once the engine has looked, no campaign runs with its failure gate over the threshold."""
        if self.campaigns:
            self.run(self._check_gates())

    async def _check_gates(self) -> None:
        await self.fleet.engine.tick()
        for campaign in self.campaigns:
            view = await self.fleet.desk.get(campaign)
            if view.state != "running" or view.phases[view.phase - 1].kind != "rollout":
                continue
            counts = PhaseCounts(members=view.phases[view.phase - 1].members, **view.phases[view.phase - 1].vehicles)
            accepted = await self.fleet.sql(
                "SELECT accepted_reported, accepted_failed FROM campaign_phases WHERE campaign_id = :c AND number = :n",
                c=campaign,
                n=view.phase,
            )
            assert not failure_gate(PHASES[view.phase - 1], counts, *accepted[0])


CampaignMachine.TestCase.settings = settings(
    max_examples=150 if LONG else 4,
    stateful_step_count=60 if LONG else 16,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestCampaignMachine = CampaignMachine.TestCase
