"""Campaigns over REST: roles, errors, pages, and the live view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from cloud.clock import ManualClock
from tests.cloud.campaigns.support import EPOCH_NS, Fleet, numbered
from tests.cloud.support import Cloud, cloud_in

pytestmark = pytest.mark.anyio
CAMPAIGNS = "/api/v1/campaigns"
#: The engine is ticked by hand.
STILL = {"campaigns": {"tick_s": 3600.0, "recount_s": 0.0, "four_eyes": True, "price_per_mb": 0.5}}
PLAN: dict[str, Any] = {
    "name": "winter",
    "release": 2,
    "everyone": True,
    "dtc_gate": None,
    "seed": 1,
    "phases": [{"share": 0.2, "min_duration_s": 0, "reported_share": 1.0}, {"share": 1.0, "min_duration_s": 0}],
}


async def a_fleet(cloud: Cloud, clock: ManualClock) -> Fleet:
    """Ten vehicles and a release."""
    campaigns = cloud.services.campaigns
    fleet = Fleet(cloud.services.db, clock, campaigns.engine, campaigns.desk)
    await fleet.release(1)
    await fleet.release(2)
    await fleet.vehicles(numbered(10))
    return fleet


async def test_operators_make_campaigns_and_admins_approve_them(tmp_path: Path) -> None:
    clock = ManualClock(EPOCH_NS)
    async with cloud_in(tmp_path, clock, **STILL) as cloud:
        fleet = await a_fleet(cloud, clock)
        viewer, operator, admin = [await cloud.logged_in(role) for role in ("viewer", "operator", "admin")]
        assert (await viewer.post(CAMPAIGNS, json=PLAN)).status_code == 403
        made = await operator.post(CAMPAIGNS, json=PLAN)
        assert made.status_code == 201
        one = f"{CAMPAIGNS}/{made.json()['id']}"
        assert (await operator.post(f"{one}/actions/submit", json={})).json()["state"] == "waiting"
        refused = await operator.post(f"{one}/actions/approve", json={})
        assert (refused.status_code, "needs the role admin" in refused.json()["detail"]) == (403, True)
        assert (await admin.post(f"{one}/actions/approve", json={"reason": "go"})).json()["state"] == "scheduled"
        assert (await operator.post(f"{one}/actions/start", json={})).json()["state"] == "running"
        await fleet.ticks()
        await fleet.report(made.json()["id"], "succeeded")
        await fleet.ticks()
        shown = (await viewer.get(one)).json()
        assert [(p["number"], p["state"], p["vehicles"]["succeeded"]) for p in shown["phases"]] == [
            (1, "passed", 2),
            (2, "running", 0),
        ]
        assert {"pause", "cancel", "roll_back"} <= set(shown["actions"])
        audit = (await viewer.get(f"{one}/audit")).json()
        assert [e["action"] for e in audit["items"]] == [
            f"campaign.{what}" for what in ("phase", "start", "approve", "submit", "create")
        ]
        assert audit["items"][2]["actor"] == "user:the-admin"
        assert (await operator.post(f"{one}/actions/withdraw", json={})).status_code == 403
        assert (await operator.post(f"{one}/actions/roll_back", json={"withdraw": True})).status_code == 403
        assert (await admin.post(f"{one}/actions/withdraw", json={})).json()["state"] == "withdrawn"


WRONG: list[tuple[str, str, Any, int, str]] = [
    ("POST", "", {**PLAN, "release": 99}, 404, "no release 99"),
    ("POST", "", {**PLAN, "everyone": False}, 400, "whole fleet"),
    ("POST", "", {**PLAN, "speed": "ludicrous"}, 400, "speed"),
    ("POST", "", {**PLAN, "phases": [{"share": 2}]}, 400, "phases[0].share"),
    ("POST", "/selection", {**PLAN, "filter": {"fault": "X"}}, 400, "filter.fault"),
    ("GET", "/7", None, 404, "no campaign 7"),
    ("GET", "/7/vehicles", None, 404, "no campaign 7"),
    ("GET", "/7/forecast", None, 404, "no campaign 7"),
    ("GET", "/7/live", None, 404, "no campaign 7"),
    ("POST", "/7/actions/pause", {}, 404, "no campaign 7"),
    ("POST", "/7/actions/explode", {}, 400, "one of submit"),
    ("POST", "/7/actions/pause", {"reason": "x" * 999}, 400, "at most 300"),
]


async def test_what_cannot_be_is_told_as_a_problem(tmp_path: Path) -> None:
    clock = ManualClock(EPOCH_NS)
    async with cloud_in(tmp_path, clock, **STILL) as cloud:
        await a_fleet(cloud, clock)
        operator = await cloud.logged_in("operator")
        for method, path, body, status, words in WRONG:
            answer = await operator.request(method, CAMPAIGNS + path, json=body)
            assert (answer.status_code, path) == (status, path)
            assert words in answer.text


async def test_vehicles_are_paged_and_found_by_state_phase_and_name(tmp_path: Path) -> None:
    clock = ManualClock(EPOCH_NS)
    async with cloud_in(tmp_path, clock, **STILL) as cloud:
        fleet = await a_fleet(cloud, clock)
        operator = await cloud.logged_in("operator")
        campaign = (await operator.post(CAMPAIGNS, json=PLAN)).json()["id"]
        await fleet.sql("UPDATE campaigns SET state = 'scheduled'")
        await fleet.ticks()
        done = await fleet.report(campaign, "succeeded", count=1)

        async def page(**params: Any) -> tuple[int, list[str]]:
            answer = (await operator.get(f"{CAMPAIGNS}/{campaign}/vehicles", params=params)).json()
            return answer["total"], [item["vehicle"] for item in answer["items"]]

        total, everyone = await page()
        assert (total, sorted(everyone)) == (10, numbered(10))
        assert await page(limit=3, offset=2) == (10, everyone[2:5])
        assert await page(state="succeeded") == (1, done)
        assert await page(state="pending") == (8, everyone[2:])
        assert (await page(phase=1))[0] == 2
        assert (await page(phase=2))[0] == 8
        assert await page(search="0007") == (1, ["car0007"])
        assert (await operator.get(f"{CAMPAIGNS}/{campaign}/vehicles", params={"state": "bored"})).status_code == 400
        listed = (await operator.get(CAMPAIGNS, params={"state": "running"})).json()
        assert [(item["name"], item["members"], item["totals"]["succeeded"]) for item in listed["items"]] == [
            ("winter", 10, 1)
        ]


async def test_the_mark_changes_with_every_outcome_and_only_then(tmp_path: Path) -> None:
    clock = ManualClock(EPOCH_NS)
    async with cloud_in(tmp_path, clock, **STILL) as cloud:
        fleet = await a_fleet(cloud, clock)
        operator = await cloud.logged_in("operator")
        campaign = (await operator.post(CAMPAIGNS, json=PLAN)).json()["id"]
        await fleet.sql("UPDATE campaigns SET state = 'scheduled'")
        await fleet.ticks()
        one = f"{CAMPAIGNS}/{campaign}"
        mark = (await operator.get(one)).json()["mark"]
        assert (await operator.get(one)).json()["mark"] == mark
        await fleet.report(campaign, "running", count=1)
        assert (await operator.get(one)).json()["mark"] != mark


async def test_a_forecast_counts_deltas_and_what_data_costs(tmp_path: Path) -> None:
    clock = ManualClock(EPOCH_NS)
    async with cloud_in(tmp_path, clock, **STILL) as cloud:
        fleet = await a_fleet(cloud, clock)
        await fleet.release(9)
        async with cloud.services.db.write() as session:
            await session.execute(text("UPDATE images SET kind = 'delta', length = 20000 WHERE id = 9"))
            await session.execute(text("INSERT INTO delta_images VALUES (9, 1, 2)"))
        await fleet.sql("UPDATE vehicle_ecus SET sha256 = 'unknown' WHERE vehicle_id = 'car0003'")
        operator = await cloud.logged_in("operator")
        told = (await operator.post(f"{CAMPAIGNS}/forecast", json=PLAN)).json()
        assert (told["vehicles"], told["bytes_full"], told["bytes_total"]) == (10, 20_000_000, 2_180_000)
        assert told["cost"] == pytest.approx(2.18 * 0.5)
        campaign = (await operator.post(CAMPAIGNS, json=PLAN)).json()["id"]
        assert (await operator.get(f"{CAMPAIGNS}/{campaign}/forecast")).json()["bytes_total"] == 2_180_000
