"""Pages of releases and of a vehicle's software: what each role sees and may do, and what a vehicle told."""

from __future__ import annotations

import html
from pathlib import Path

import httpx
import pytest

from cloud.console import update_facts as facts
from cloud.errors import InvalidInput
from cloud.updates.releases import RuleFacts
from cloud.updates.repository import RoleView
from gateway.wire.uptane import EcuProgress
from tests.cloud.console.support import browser
from tests.cloud.console.test_pages import check
from tests.cloud.updates.support import BRAKES, Car, Ecu, Rig, make_car, rig_in

pytestmark = pytest.mark.anyio
ROOT = "/console/releases"
SOFTWARE = "/console/vehicles/VIN1/software"
HOSTILE = "<img src=x onerror=alert(1)>"
DAY_NS = 86_400_000_000_000


def test_rules_are_read_as_people_write_them() -> None:
    rules = facts.read_rules("requires brakes-b2 >= 7\n\nconflicts with radio = 1.0 beta\nrequires x", "rules-1")
    assert rules == [
        RuleFacts("requires", "brakes-b2", min_counter=7),
        RuleFacts("conflicts", "radio", version="1.0 beta"),
        RuleFacts("requires", "x"),
    ]
    assert facts.read_rules("\n".join(map(facts.rule_text, rules)), "") == rules


@pytest.mark.parametrize("text", ["needs brakes", "requires", "requires a >= b", "requires a >= -1", "requires a < 3"])
def test_a_rule_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        facts.read_rules(f"requires ok\n{text}", "rules-4")
    assert caught.value.where == "rules-4"
    assert text in str(caught.value)


def test_rules_that_were_not_shown_stay_as_they_are() -> None:
    (kept,) = facts.read_items({"use-3": "yes", "rules-3": ""})
    (dropped,) = facts.read_items({"use-3": "yes", "rules-3": " ", "ruled-3": "yes"})
    assert (kept.rules, dropped.rules) == (None, [])
    both = facts.read_items({"use-3": "yes", "ecu-3": "front, rear", "set-3": "2", "use-4": "", "use-x": "yes"})
    assert [(i.image_id, i.ecu, i.set_number) for i in both] == [(3, "front", 2), (3, "rear", 2)]


def test_what_expires_comes_first_and_people_are_told_in_time() -> None:
    def one(role: str, days: float, *, is_online: bool) -> RoleView:
        return RoleView("image", role, 1, int(days * DAY_NS), ["k"], 1, is_online)

    roles = [
        one("snapshot", 1, is_online=True),
        one("root", 300, is_online=False),
        one("targets", 10, is_online=False),
        one("timestamp", -1, is_online=True),
    ]
    lines = facts.role_lines(roles, 0, 30.0)
    assert [(line.role.role, line.kind) for line in lines] == [
        ("timestamp", "bad"),
        ("targets", "warn"),
        ("root", "good"),
        ("snapshot", "good"),
    ]


async def post(client: httpx.AsyncClient, path: str, **form: str) -> httpx.Response:
    return await client.post(path, data=form)


async def test_a_release_is_made_published_and_withdrawn(tmp_path: Path) -> None:
    async with (
        rig_in(tmp_path) as rig,
        browser(rig.cloud, "operator") as operator,
        browser(rig.cloud, "admin") as admin,
    ):
        first = (await operator.get(ROOT)).text
        assert "No releases yet" in first
        check(first)
        upload = (await operator.get(f"{ROOT}/upload")).text
        check(upload)
        assert "sign-release" in upload
        number = await rig.upload("gateway/rootfs-2.img", b"new" * 500, version="2.0", release_counter=3)
        assert "1 image waits for a signature" in (await operator.get(ROOT)).text
        form = {"name": "summer", f"use-{number}": "yes", f"rules-{number}": "requires brakes >= 2", "notes": "hot"}
        wrong = await post(operator, f"{ROOT}/new", **{**form, f"rules-{number}": "requires"})
        assert 'role="alert"' in wrong.text
        assert "hot" in wrong.text
        made = await post(operator, f"{ROOT}/new", **form)
        assert (made.status_code, made.headers["location"]) == (303, f"{ROOT}/1")
        again = await post(operator, f"{ROOT}/new", **form)
        assert "there is a release" in again.text
        check(again.text)
        draft = (await operator.get(f"{ROOT}/1")).text
        assert "Not signed for yet" in draft
        assert "requires brakes &gt;= 2" in draft
        assert "An admin publishes it" in draft
        early = await post(admin, f"{ROOT}/1/publish")
        assert "not signed for yet" in early.text
        await rig.sign_all()
        edit = (await operator.get(f"{ROOT}/1/edit")).text
        check(edit)
        assert f'name="use-{number}" value="yes" checked' in edit
        changed = {k: v for k, v in form.items() if k != "name"} | {"notes": "hotter", f"ecu-{number}": "gateway"}
        assert (await post(operator, f"{ROOT}/1/edit", **changed)).status_code == 303
        for verb in ("publish", "withdraw"):
            assert (await post(operator, f"{ROOT}/1/{verb}")).status_code == 403
        assert (await post(admin, f"{ROOT}/1/publish")).status_code == 303
        shown = (await admin.get(f"{ROOT}/1")).text
        check(shown)
        assert "hotter" in shown
        assert "Start a campaign" in shown
        late = await post(operator, f"{ROOT}/1/edit", **changed)
        assert "never changed" in late.text
        assert (await post(admin, f"{ROOT}/1/withdraw")).status_code == 303
        for path in (ROOT, f"{ROOT}/table?state=withdrawn", f"{ROOT}/1", f"{ROOT}/1/progress"):
            answer = await admin.get(path)
            assert answer.status_code == 200
            check(answer.text)
        assert "withdrawn" in (await admin.get(ROOT)).text
        assert (await admin.get(f"{ROOT}/9")).status_code == 404


async def test_viewers_look_at_releases_and_change_nothing(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig, browser(rig.cloud, "viewer") as viewer:
        await rig.release("summer", await rig.image("a.img", b"a" * 100))
        await make_car(rig)
        for path in (ROOT, f"{ROOT}/1", f"{ROOT}/1/progress", f"{ROOT}/metadata", SOFTWARE, f"{SOFTWARE}/table"):
            answer = await viewer.get(path)
            assert answer.status_code == 200, (path, answer.text)
            check(answer.text)
            assert 'method="post" action="/console/rel' not in answer.text
            assert "software/assign" not in answer.text
        for path in (f"{ROOT}/new", f"{ROOT}/upload", f"{ROOT}/1/edit"):
            assert (await viewer.get(path)).status_code == 403, path
        for path in (
            *(f"{ROOT}/{what}" for what in ("new", "1/edit", "1/publish", "1/withdraw")),
            *(f"{SOFTWARE}/{what}" for what in ("assign", "cancel", "inventory")),
        ):
            assert (await post(viewer, path, do="accept", release="1")).status_code == 403, path
        roles = (await viewer.get(f"{ROOT}/metadata")).text
        assert "director" in roles
        assert "renewed by the cloud" in roles


async def test_expiry_is_told_before_it_hurts(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig, browser(rig.cloud, "viewer") as viewer:
        assert "renew it soon" not in (await viewer.get(ROOT)).text
        first = min(r.expires_ns for r in await rig.cloud.services.updates.repositories.view() if not r.is_online)
        rig.clock.advance_s((first - rig.clock.now_ns()) / 1e9 - 86_400 * 5)
        await rig.cloud.services.updates.look()
        async with browser(rig.cloud, "operator") as later:
            assert "renew it soon" in (await later.get(ROOT)).text
            assert "keys renew" in (await later.get(f"{ROOT}/metadata")).text


async def a_release(rig: Rig, car: Car, name: str = "summer") -> int:
    image = await rig.image(f"{name}.img", name.encode() * 100, version="2.0", release_counter=2)
    return await rig.release(name, image)


async def test_a_vehicles_update_is_assigned_followed_and_cancelled(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig, browser(rig.cloud, "operator") as operator:
        car = await make_car(rig)
        empty = (await operator.get(SOFTWARE)).text
        check(empty)
        assert "No release is published" in empty
        assert "No release was ever assigned" in empty
        release = await a_release(rig, car)
        assert "choose a release" in (await post(operator, f"{SOFTWARE}/assign")).text
        assert (await post(operator, f"{SOFTWARE}/assign", release=str(release))).status_code == 303
        again = await post(operator, f"{SOFTWARE}/assign", release=str(release))
        assert "has an open assignment" in html.unescape(again.text)
        number = (await rig.state("VIN1"))["assignment"]["id"]
        await car.targets()
        progress = (EcuProgress(ecu="gateway", state="downloading", version="2.0", percent=40.0),)
        told = {"percent": 41.5, "bytes_done": 4_150_000, "bytes_total": 10_000_000, "bytes_per_s": 65_000.0}
        answer = await car.report(str(number), "downloading", eta_s=90.0, ecus=progress, can_roll_back=True, **told)
        assert answer.status_code < 300, answer.text
        text = (await operator.get(f"{SOFTWARE}/table")).text
        check(text)
        for words in ("42 %", "4.2 MB of 10.0 MB", "65.0 kB/s", "90 s", "<b>2.0</b>", "to the other slot", "pending"):
            assert words in text, words
        rig.clock.advance_s(60)
        answer = await car.report(str(number), "waiting", detail="missing: consent, ignition off", used_delta=True)
        assert answer.status_code < 300, answer.text
        waiting = (await operator.get(SOFTWARE)).text
        assert "has not agreed yet" in waiting
        assert "a delta" in waiting
        assert (await post(operator, f"{SOFTWARE}/cancel")).status_code == 303
        assert "cancelled" in (await operator.get(SOFTWARE)).text
        assert "no open assignment" in (await post(operator, f"{SOFTWARE}/cancel")).text
        assert (await operator.get("/console/vehicles/NOBODY/software")).status_code == 404


async def test_other_ecus_wait_for_an_operator(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig, browser(rig.cloud, "operator") as operator:
        car = await make_car(rig)
        car.ecus["brakes"] = Ecu("brakes", BRAKES)
        car.ecus["radio"] = Ecu("radio", "radio-1")
        assert (await car.register()).status_code < 500
        text = (await operator.get(SOFTWARE)).text
        check(text)
        assert "Other ECUs than are registered" in text
        assert "another key" in text
        assert ">radio</th><td>new</td>" in text
        assert ">gateway</th><td>another" not in text
        assert (await post(operator, f"{SOFTWARE}/inventory", do="what")).status_code == 400
        assert (await post(operator, f"{SOFTWARE}/inventory", do="refuse")).status_code == 303
        assert "Other ECUs" not in (await operator.get(SOFTWARE)).text
        refused = await post(operator, f"{SOFTWARE}/inventory", do="accept")
        assert 'role="alert"' in refused.text
        await car.register()
        assert (await post(operator, f"{SOFTWARE}/inventory", do="accept")).status_code == 303
        accepted = (await operator.get(SOFTWARE)).text
        assert "radio-1" in accepted
        assert "Other ECUs" not in accepted


async def test_a_refused_manifest_and_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig, browser(rig.cloud, "admin") as admin:
        car = await make_car(rig)
        image = await rig.image("x.img", b"x" * 100, version=HOSTILE, description=HOSTILE)
        release = await rig.release(HOSTILE, image, notes=HOSTILE)
        assert (await rig.assign("VIN1", release)).status_code < 300
        number = (await rig.state("VIN1"))["assignment"]["id"]
        answer = await car.report(str(number), "waiting", detail=HOSTILE)
        assert answer.status_code < 300, answer.text
        await car.tell(car.manifest(vehicle="VIN2"))
        text = (await admin.get(SOFTWARE)).text
        assert "Its last manifest was refused" in text
        for path in (SOFTWARE, ROOT, f"{ROOT}/{release}", f"{ROOT}/upload", f"{ROOT}/new", "/console/campaigns/new"):
            text = (await admin.get(path)).text
            assert HOSTILE not in text, path
            assert html.escape(HOSTILE) in text, path
            check(text)
