"""Pages of campaigns: what each role sees and may do, and that a plan survives its form."""

from __future__ import annotations

import html
import re
from pathlib import Path

import httpx
import msgspec
import pytest

from cloud.auth.audit import CLI
from cloud.campaigns.core import Action
from cloud.campaigns.plan import DtcGate, PhasePlan, Plan, VehicleFilter
from cloud.clock import ManualClock
from cloud.console.campaign_facts import WIDTH, bar_of
from cloud.console.campaign_forms import empty_form, form_of, read_plan
from cloud.errors import InvalidInput
from gateway.wire.uptane import InstallPolicy
from tests.cloud.campaigns.support import EPOCH_NS, Fleet, numbered
from tests.cloud.console.support import browser, campaigns_in
from tests.cloud.console.test_pages import check
from tests.cloud.support import Cloud

pytestmark = pytest.mark.anyio
ROOT = "/console/campaigns"
PARTS = ("", "/progress", "/actions", "/vehicles", "/audit")
#: All at once but in two phases, without waiting.
FORM = {
    **empty_form(),
    "name": "winter",
    "release": "2",
    "everyone": "yes",
    "dtc": "",
    "seed": "1",
    **{f"p{n}_to": to for n, to in enumerate(("20", "100", "", ""), 1)},
    **{f"p{n}_hours": "0" for n in range(1, 5)},
    "p1_reported": "100",
}


async def a_fleet(cloud: Cloud, clock: ManualClock, name: str = "car") -> Fleet:
    """Ten vehicles and two releases."""
    campaigns = cloud.services.campaigns
    fleet = Fleet(cloud.services.db, clock, campaigns.engine, campaigns.desk)
    await fleet.release(1)
    await fleet.release(2)
    await fleet.vehicles(numbered(10, name))
    return fleet


def actions_in(text: str) -> set[str]:
    """The actions a page offers."""
    return set(re.findall(rf'action="{ROOT}/\d+/actions/(\w+)"', text))


async def act(client: httpx.AsyncClient, number: int, action: str, **form: str) -> httpx.Response:
    return await client.post(f"{ROOT}/{number}/actions/{action}", data=form)


PLANS = [
    Plan(name="a", release=1, everyone=True),
    Plan(name="b", release=2, strategy="manual", filter=VehicleFilter(model=("van", "truck"), tag="x"), dtc_gate=None),
    Plan(
        name="c",
        release=3,
        notes="two\nlines",
        filter=VehicleFilter(vehicles=("A", "B"), fault="P0AA6", without_tags=("lab",), hardware_id="h", image="1.*"),
        critical="last",
        phases=(
            PhasePlan(vehicles=5, min_duration_s=1800, failure_count=1),
            PhasePlan(share=0.333, reported_share=0.5),
            PhasePlan(share=1.0, success_rate=0.995, failure_rate=0.001, failure_min=2),
        ),
        dtc_gate=DtcGate(min_vehicles=2, rate=0.125, factor=1.5, min_others=3),
        on_failure="roll_back",
        offline_days=2.5,
        vehicle_timeout_s=5400,
        retries=3,
        late_joiners=True,
        open_until_ns=EPOCH_NS // 60_000_000_000 * 60_000_000_000,
        priority=-4,
        starts_ns=1_800_000_000_000_000_000,
        rollback_release=1,
        seed=0,
        policy=InstallPolicy(
            needs_consent=True,
            is_critical=True,
            window_start_min=1350,
            window_end_min=15,
            window_days=(0, 6),
            deadline_ns=1_900_000_020_000_000_000,
        ),
    ),
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_a_plan_survives_its_form(plan: Plan) -> None:
    read = read_plan(form_of(plan))
    wanted = plan if plan.phases else msgspec.structs.replace(plan, phases=read.phases)
    assert read == wanted
    assert [p.share for p in read.phases] == ([p.share for p in plan.phases] or [0.01, 0.1, 0.5, 1.0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retries", "many"),
        ("release", "²"),
        ("offline_days", "nan"),
        ("offline_days", "1e999"),
        ("p1_to", "half"),
        ("p1_hours", "1h"),
        ("window_start", "25:00"),
        ("starts", "tomorrow"),
        ("seed", "1.5"),
        ("dtc_rate", "x"),
    ],
)
def test_a_field_that_cannot_be_read_is_named(field: str, value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_plan({**form_of(PLANS[0]), field: value})
    assert caught.value.where == field


def test_a_bar_is_full_and_shows_the_smallest_part() -> None:
    parts = bar_of({"succeeded": 99_999, "failed": 1}, 100_000)
    assert [part.name for part in parts] == ["succeeded", "failed"]
    assert sum(part.width for part in parts) == pytest.approx(WIDTH, abs=0.1)
    assert parts[1].width >= 5
    assert bar_of({}, 0) == bar_of({"failed": 0}, 10) == []


async def test_an_operator_makes_a_campaign_and_an_admin_lets_it_run(tmp_path: Path) -> None:
    async with (
        campaigns_in(tmp_path) as (cloud, clock),
        browser(cloud, "operator") as operator,
        browser(cloud, "admin") as admin,
    ):
        fleet = await a_fleet(cloud, clock)
        form = await operator.get(f"{ROOT}/new?release=2")
        check(form.text)
        assert '<option value="2" selected>' in form.text
        preview = await operator.post(f"{ROOT}/preview", data=FORM)
        check(preview.text)
        assert '<b id="members-count">10</b>' in preview.text
        assert "2 + 8 vehicles" in preview.text
        made = await operator.post(f"{ROOT}/new", data={**FORM, "do": "submit"})
        assert (made.status_code, made.headers["location"]) == (303, f"{ROOT}/1")
        seen = (await operator.get(f"{ROOT}/1")).text
        check(seen)
        assert "approval of an admin" in seen
        assert actions_in(seen) == {"cancel"}
        assert (await act(operator, 1, "approve")).status_code == 403
        assert actions_in((await admin.get(f"{ROOT}/1")).text) == {"approve", "reject", "cancel", "withdraw"}
        for who, action in ((admin, "approve"), (operator, "start")):
            assert (await act(who, 1, action)).headers["location"] == f"{ROOT}/1"
        await fleet.ticks()
        await fleet.report(1, "running", count=1)
        running = (await operator.get(f"{ROOT}/1")).text
        check(running)
        assert actions_in(running) == {"pause", "next", "retry", "finish", "cancel", "roll_back"}
        assert 'data-phase="2"' in running
        assert "0 of 2 (0 %)" in running
        assert 'name="withdraw"' not in running
        await fleet.report(1, "succeeded")
        await fleet.ticks()
        assert "2 of 2 (100 %)" in (await operator.get(f"{ROOT}/1/progress")).text
        paused = await act(operator, 1, "pause", reason="look first")
        assert paused.status_code == 303
        assert "look first" in (await operator.get(f"{ROOT}/1/progress")).text
        again = await act(operator, 1, "pause")
        assert "it cannot pause now" in again.text
        check(again.text)
        for action in ("resume", "cancel"):
            assert (await act(operator, 1, action)).status_code == 303
        assert "cancelled" in (await operator.get(ROOT)).text
        back = await act(admin, 1, "roll_back", withdraw="yes", reason="bad brakes")
        assert back.status_code == 303
        assert actions_in((await admin.get(f"{ROOT}/1")).text) == set()


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
async def test_every_state_has_a_page_for_every_role(tmp_path: Path, role: str) -> None:
    async with campaigns_in(tmp_path) as (cloud, clock), browser(cloud, role) as client:
        fleet = await a_fleet(cloud, clock)
        empty = (await client.get(ROOT)).text
        assert "None yet" in empty
        assert ("New campaign" in empty) == (role != "viewer")
        admin = await cloud.logged_in("admin", "boss")
        made = await fleet.desk.create(read_plan(FORM), CLI)
        number = made.id
        walk: list[str] = ["", "submit", "approve", "start", "pause", "resume", "roll_back"]
        for action in walk:
            if action:
                done = await admin.post(f"/api/v1/campaigns/{number}/actions/{action}", json={})
                assert done.status_code == 200, done.text
            if action not in ("", "submit", "approve"):
                await fleet.ticks()
            if action == "resume":
                await fleet.report(number, "failed", count=1)
                await fleet.report(number, "succeeded", count=1)
                await fleet.ticks()
            for part in PARTS if role == "viewer" else ("",):  # the whole has all parts
                answer = await client.get(f"{ROOT}/{number}{part}")
                assert answer.status_code == 200, (action, part, answer.text)
                check(answer.text)
            if role == "viewer":
                text = (await client.get(f"{ROOT}/{number}")).text
                assert actions_in(text) == set()
        for query in ("state=succeeded", "phase=1", "search=car0001", "state=nonsense", "offset=99999", "phase=²"):
            assert (await client.get(f"{ROOT}/{number}?{query}")).status_code == 200, query
            assert (await client.get(f"{ROOT}/{number}/vehicles?{query}")).status_code == 200, query
        for path in (f"{ROOT}/table?state=running", f"{ROOT}?state=draft"):
            check((await client.get(path)).text)
        assert (await client.get(f"{ROOT}/77")).status_code == 404


async def test_viewers_make_and_move_nothing(tmp_path: Path) -> None:
    async with campaigns_in(tmp_path) as (cloud, clock), browser(cloud, "viewer") as client:
        fleet = await a_fleet(cloud, clock)
        await fleet.desk.create(read_plan(FORM), CLI)
        for path in (f"{ROOT}/new", f"{ROOT}/1/edit"):
            assert (await client.get(path)).status_code == 403
        for path in ("new", "preview", "1/edit", *(f"1/actions/{a.value}" for a in Action)):
            assert (await client.post(f"{ROOT}/{path}", data=FORM)).status_code == 403, path
        assert (await fleet.desk.get(1)).state == "draft"


async def test_what_cannot_be_meant_comes_back_with_the_form(tmp_path: Path) -> None:
    async with campaigns_in(tmp_path) as (cloud, clock), browser(cloud, "operator") as client:
        await a_fleet(cloud, clock)
        wrong: list[tuple[dict[str, str], str]] = [
            ({"name": ""}, "at name"),
            ({"release": ""}, "at release"),
            ({"release": "99"}, "no release 99"),
            ({"everyone": ""}, "whole fleet"),
            ({"p2_to": "90"}, "share 1"),
            ({"window_start": "22:00"}, "a start and an end"),
            ({"fault": "X"}, "filter.fault"),
            ({"retries": "x"}, "at retries"),
            ({"strategy": "ludicrous"}, "at strategy"),
        ]
        for change, words in wrong:
            answer = await client.post(f"{ROOT}/new", data={**FORM, **change})
            assert 'role="alert"' in answer.text, change
            assert words in answer.text, change
            assert (
                "look after" in (await client.post(f"{ROOT}/new", data={**FORM, **change, "notes": "look after"})).text
            )
            check(answer.text)
            if "name" not in change:
                assert words in (await client.post(f"{ROOT}/preview", data={**FORM, **change})).text
        assert "None yet" in (await client.get(ROOT)).text
        draft = await client.post(f"{ROOT}/new", data=FORM)
        assert draft.headers["location"] == f"{ROOT}/1"
        assert 'value="winter"' in (await client.get(f"{ROOT}/1/edit")).text
        assert (await client.post(f"{ROOT}/1/edit", data={**FORM, "name": "spring"})).status_code == 303
        assert "spring" in (await client.get(ROOT)).text
        copied = (await client.get(f"{ROOT}/new?copy_of=1")).text
        assert 'value="spring"' in copied


async def test_hostile_names_are_text_on_the_pages_of_campaigns(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    async with campaigns_in(tmp_path) as (cloud, clock), browser(cloud, "admin") as client:
        fleet = await a_fleet(cloud, clock)
        await fleet.sql("UPDATE releases SET name = :name WHERE id = 2", name=name)
        await fleet.sql("UPDATE vehicles SET model = :name, region = '\"><i>x'", name=name)
        await fleet.desk.create(read_plan({**FORM, "name": "to be renamed"}), CLI)
        assert (await client.post(f"{ROOT}/1/edit", data={**FORM, "name": name, "notes": name})).status_code == 303
        await act(client, 1, "submit")
        await act(client, 1, "approve", reason=name)
        await act(client, 1, "start")
        await fleet.ticks()
        await fleet.report(1, "failed", count=1)
        await fleet.sql("UPDATE assignments SET detail = :name, attack = :name", name=name)
        assert (await act(client, 1, "pause", reason=name)).status_code == 303
        for path in (ROOT, *(f"{ROOT}/1{part}" for part in PARTS), f"{ROOT}/new?copy_of=1"):
            text = (await client.get(path)).text
            assert name not in text, path
            assert '"><i>x' not in text
            check(text)
        assert html.escape(name) in (await client.get(f"{ROOT}/1/vehicles")).text
        preview = (await client.post(f"{ROOT}/preview", data=FORM)).text
        assert name not in preview
