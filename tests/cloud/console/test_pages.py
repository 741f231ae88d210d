"""The console's pages over HTTP: who sees what, and that each page tells what there is, or what to check when there is
nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from cloud.auth.audit import CLI
from gateway.wire.api import BusState, SchemeState
from gateway.wire.ledger import BusLedger, Ledger, StreamLedger
from tests.cloud.support import PASSWORD, Cloud, cloud_in, make_batch, make_check_in, make_manifest

pytestmark = pytest.mark.anyio
PAGES = [
    "/console",
    "/console/fleet",
    "/console/account",
    "/console/dead-letters",
    "/console/vehicles/VIN1",
    "/console/vehicles/VIN1/health",
    "/console/vehicles/VIN1/charts",
    "/console/vehicles/VIN1/accounting",
    "/console/vehicles/VIN1/events",
    "/console/vehicles/VIN1/schemes",
    "/console/vehicles/VIN1/access",
]
ADMIN_PAGES = ["/console/users", "/console/audit"]


class Checker(HTMLParser):
    """Collects what a content security policy or a reader without eyes would stumble over."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.labelled = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for name, value in attrs:
            if name == "style" or name.startswith("on"):
                self.faults.append(f"inline {name} on <{tag}>")
            if name in {"src", "href", "action", "hx-get", "sse-connect"} and re.match(r"(?i)[a-z]+:|//", value or ""):
                self.faults.append(f"outside address {value}")
        if tag == "style" or (tag == "script" and "src" not in values and values.get("type") != "application/json"):
            self.faults.append(f"inline <{tag}>")
        if tag == "img" and "alt" not in values:
            self.faults.append("image without alt")
        if tag == "label":
            self.labelled += 1
        if tag == "label" and "for" in values:
            self.faults.append("labels wrap their fields here")

    def handle_endtag(self, tag: str) -> None:
        if tag == "label":
            self.labelled -= 1


def check(text: str) -> None:
    checker = Checker()
    checker.feed(text)
    assert checker.faults == []


@asynccontextmanager
async def browser(cloud: Cloud, role: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a session cookie, as a browser has after logging in."""
    async with cloud.anonymous() as client:
        client.headers["sec-fetch-site"] = "same-origin"
        await cloud.services.users.add(f"the-{role}", PASSWORD, role, CLI)
        answer = await client.post("/console/login", data={"name": f"the-{role}", "password": PASSWORD})
        assert (answer.status_code, answer.headers["location"]) == (303, "/console")
        yield client


async def with_data(cloud: Cloud) -> None:
    """A vehicle that has sent two batches and one check-in."""
    vehicle = await cloud.enrolled("VIN1")
    await vehicle.send_manifest(make_manifest())
    for sequence in (1, 2):
        await vehicle.upload(make_batch(sequence))
    now_ns = cloud.services.clock.now_ns()
    stream = StreamLedger("normal", 24, 24, last_sequence=2, acknowledged_sequence=2)
    ledger = Ledger(now_ns, (BusLedger("can0", 10, selected=6, not_selected=4),), (stream,), selected_items=24)
    await vehicle.check_in(
        make_check_in(
            at_ns=now_ns,
            ledger=ledger,
            buses=(BusState("can0", "up", 100.0),),
            schemes=(SchemeState("base", 3, "active", selected_items=24),),
            health={"spool": "ok"},
        )
    )


async def test_pages_show_data_and_respect_the_content_security_policy(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await with_data(cloud)
        async with browser(cloud, "admin") as client:
            for path in [*PAGES, *ADMIN_PAGES]:
                answer = await client.get(path)
                assert answer.status_code == 200, (path, answer.text)
                check(answer.text)
                policy = answer.headers["content-security-policy"]
                assert "script-src 'self'" in policy
                assert "unsafe" not in policy
            assert "all accounted for" in (await client.get("/console")).text
            assert "All accounted for" in (await client.get("/console/vehicles/VIN1/accounting")).text
            assert "can0.message.signal_0" in (await client.get("/console/vehicles/VIN1/charts")).text
            assert ">base<" in (await client.get("/console/vehicles/VIN1/schemes")).text


async def test_pages_of_an_empty_cloud_say_what_to_do(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud, browser(cloud, "admin") as client:
        assert "No vehicles yet" in (await client.get("/console")).text
        await cloud.services.vehicles.add("VIN1", CLI)
        for path in [*PAGES, *ADMIN_PAGES]:
            answer = await client.get(path)
            assert answer.status_code == 200, (path, answer.text)
            check(answer.text)
        assert "No history yet" in (await client.get("/console/vehicles/VIN1/charts")).text
        assert "never enrolled" in (await client.get("/console/vehicles/VIN1")).text
        assert "No vehicle matches" in (await client.get("/console?search=nobody")).text


async def test_nobody_sees_anything_before_logging_in(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await cloud.services.vehicles.add("VIN1", CLI)
        async with cloud.anonymous() as client:
            for path in [*PAGES, *ADMIN_PAGES]:
                answer = await client.get(path)
                assert (answer.status_code, answer.headers["location"]) == (303, "/console/login"), path
            partial = await client.get("/console/fleet", headers={"hx-request": "true"})
            assert (partial.status_code, partial.headers["hx-redirect"]) == (401, "/console/login")
            login = await client.get("/console/login")
            assert login.status_code == 200
            check(login.text)
            wrong = await client.post(
                "/console/login", data={"name": "x", "password": "y"}, headers={"sec-fetch-site": "same-origin"}
            )
            assert "name or password is wrong" in wrong.text
            assert "set-cookie" not in wrong.headers


async def test_a_login_form_on_another_site_is_refused(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud, cloud.anonymous() as client:
        answer = await client.post("/console/login", data={"name": "a"}, headers={"sec-fetch-site": "cross-site"})
        assert answer.status_code == 403


async def test_viewers_get_no_forms_and_their_posts_are_refused(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await with_data(cloud)
        async with browser(cloud, "viewer") as client:
            access = await client.get("/console/vehicles/VIN1/access")
            assert "Make a token" not in access.text
            assert "Revoke" not in access.text
            for path in ("tokens", "revoke", "change", "erase"):
                answer = await client.post(f"/console/vehicles/VIN1/{path}", data={})
                assert answer.status_code == 403, path
                check(answer.text)
            for path in ADMIN_PAGES:
                assert (await client.get(path)).status_code == 403


async def test_an_operator_adds_a_vehicle_and_sees_its_token_once(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud, browser(cloud, "operator") as client:
        made = await client.post("/console/vehicles/new", data={"id": "CAR-7", "display_name": "Test car"})
        assert made.headers["location"] == "/console/vehicles/CAR-7/access"
        again = await client.post("/console/vehicles/new", data={"id": "CAR-7"})
        assert "CAR-7" in again.text
        assert "already" in again.text
        page = await client.post("/console/vehicles/CAR-7/tokens", data={})
        token = re.search(r'id="token">([^<]+)<', page.text)
        assert token is not None
        check(page.text)
        later = await client.get("/console/vehicles/CAR-7/access")
        assert token[1] not in later.text
        assert (await client.post("/console/vehicles/CAR-7/revoke", data={"reason": "sold"})).status_code == 303
        assert "revoked" in (await client.get("/console/vehicles/CAR-7")).text


async def test_an_admin_erases_a_vehicle_only_after_typing_its_id(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await with_data(cloud)
        async with browser(cloud, "admin") as client:
            assert (await client.post("/console/vehicles/VIN1/erase", data={"confirm": "VIN2"})).status_code == 400
            gone = await client.post("/console/vehicles/VIN1/erase", data={"confirm": "VIN1"})
            assert gone.headers["location"] == "/console"
            assert (await client.get("/console/vehicles/VIN1")).status_code == 404


async def test_names_from_outside_are_text_never_markup(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        name = "<script>alert(1)</script>"
        vehicle = await cloud.enrolled("VIN1")
        await cloud.services.vehicles.change("VIN1", CLI, display_name=name, tags=["<b>x</b>"])
        await vehicle.check_in(make_check_in(software=name, health={name: name}, schemes=(SchemeState(name, 1, name),)))
        async with browser(cloud, "admin") as client:
            for path in PAGES:
                text = (await client.get(path)).text
                assert name not in text, path
                check(text)


async def test_dead_letters_are_listed_and_can_be_deleted(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled("VIN1")
        assert (await vehicle.upload(b"no batch")).dead_letter
        async with browser(cloud, "operator") as client:
            page = (await client.get("/console/dead-letters")).text
            assert "VIN1" in page
            number = re.search(r"/console/dead-letters/(\d+)/delete", page)
            assert number is not None
            replayed = await client.post(f"/console/dead-letters/{number[1]}/replay", data={})
            assert 'role="alert"' in replayed.text
            deleted = await client.post(f"/console/dead-letters/{number[1]}/delete", data={})
            assert "was deleted" in deleted.text
            assert "Every batch so far could be read" in (await client.get("/console/dead-letters")).text


async def test_users_are_added_changed_and_removed_by_admins(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud, browser(cloud, "admin") as client:
        weak = await client.post("/console/users", data={"name": "eve", "password": "short", "role": "viewer"})
        assert "10" in weak.text
        made = await client.post("/console/users", data={"name": "eve", "password": PASSWORD, "role": "viewer"})
        assert made.status_code == 303
        assert (await client.post("/console/users/eve/role", data={"role": "operator"})).status_code == 303
        assert (await client.post("/console/users/eve/disable", data={})).status_code == 303
        assert "disabled" in (await client.get("/console/users")).text
        assert (await client.post("/console/users/eve/remove", data={})).status_code == 303
        last = await client.post("/console/users/the-admin/remove", data={})
        assert 'role="alert"' in last.text
        assert "user.add" in (await client.get("/console/audit?target=eve")).text


async def test_an_unknown_page_or_vehicle_is_a_page_too(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud, browser(cloud, "viewer") as client:
        for path in ("/console/no-such-page", "/console/vehicles/NOBODY", "/console/vehicles/NOBODY/charts"):
            answer = await client.get(path)
            assert answer.status_code == 404
            assert "<h1>Not Found</h1>" in answer.text
            check(answer.text)


async def test_front_door_static_files_and_logout(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud, browser(cloud, "viewer") as client:
        assert (await client.get("/")).headers["location"] == "/console"
        for name in ("console.css", "live.js", "vendor/htmx.min.js", "vendor/uPlot-LICENSE.txt"):
            assert (await client.get(f"/console/static/{name}")).status_code == 200, name
        assert (await client.get("/console/static/../render.py")).status_code == 404
        out = await client.post("/console/logout", data={})
        assert out.headers["location"] == "/console/login"
        assert (await client.get("/console")).headers["location"] == "/console/login"


async def test_odd_numbers_in_addresses_do_no_harm(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud, browser(cloud, "admin") as client:
        for query in ("offset=-1", "offset=x", "offset=99999999999999999999", "status=nothing", "search=%00%25'\""):
            assert (await client.get(f"/console?{query}")).status_code == 200, query
        assert (await client.get("/console/audit?offset=²")).status_code == 200
