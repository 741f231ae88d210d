"""Logging in, staying in, and being kept out."""

from __future__ import annotations

from pathlib import Path

import httpx
import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.auth.audit import CLI
from cloud.auth.middleware import COOKIE, is_same_origin
from cloud.clock import ManualClock
from tests.cloud.support import PASSWORD, Cloud, cloud_in

pytestmark = pytest.mark.anyio


async def add(cloud: Cloud, name: str = "alice", role: str = "operator") -> None:
    await cloud.services.users.add(name, PASSWORD, role, CLI)


async def login(cloud: Cloud, name: str = "alice", password: str = PASSWORD) -> httpx.Response:
    return await cloud.operator.post("/api/v1/login", json={"name": name, "password": password})


async def browser(cloud: Cloud) -> httpx.AsyncClient:
    client = cloud.anonymous()
    answer = await client.post("/api/v1/session", json={"name": "alice", "password": PASSWORD})
    assert answer.status_code == 200
    return client


async def test_bearer_token_says_who_and_which_role(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await add(cloud)
        token = (await login(cloud)).json()["token"]
        answer = await cloud.operator.get("/api/v1/me", headers={"authorization": f"Bearer {token}"})
        assert answer.json() == {"name": "alice", "role": "operator"}


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong password"), ("nobody", PASSWORD), ("", "")])
async def test_wrong_logins_are_told_apart_by_nobody(tmp_path: Path, name: str, password: str) -> None:
    async with cloud_in(tmp_path) as cloud:
        await add(cloud)
        answer = await login(cloud, name, password)
        assert (answer.status_code, answer.json()["detail"]) == (401, "name or password is wrong")


async def test_token_expires(tmp_path: Path) -> None:
    clock = ManualClock()
    async with cloud_in(tmp_path, clock, sessions={"token_minutes": 10.0}) as cloud:
        client = await cloud.logged_in("viewer")
        assert (await client.get("/api/v1/me")).status_code == 200
        clock.advance_s(601)
        assert (await client.get("/api/v1/me")).status_code == 401


@pytest.mark.parametrize("change", [{"password": "another password"}, {"disabled": True}, {"role": "viewer"}])
async def test_changing_a_user_ends_its_tokens_and_sessions(tmp_path: Path, change: dict[str, object]) -> None:
    async with cloud_in(tmp_path) as cloud:
        await add(cloud)
        token = (await login(cloud)).json()["token"]
        client = await browser(cloud)
        admin = await cloud.logged_in("admin")
        assert (await admin.patch("/api/v1/users/alice", json=change)).status_code == 200
        assert (await client.get("/api/v1/me")).status_code == 401
        answer = await cloud.operator.get("/api/v1/me", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 401


async def test_token_signed_with_another_key_or_none_is_worthless(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await add(cloud)
        claims = {"sub": "alice", "iss": "outrider", "iat": 0, "exp": 1 << 40, "ver": 1}
        forged = [
            jwt.encode(claims, "x" * 64, algorithm="HS256"),
            jwt.encode(claims, "", algorithm="none"),
            "nonsense",
            "a.b.c",
        ]
        for token in forged:
            answer = await cloud.operator.get("/api/v1/me", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == 401


async def test_session_cookie_cannot_be_read_by_scripts_nor_sent_across_sites(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await add(cloud)
        client = cloud.anonymous()
        answer = await client.post("/api/v1/session", json={"name": "alice", "password": PASSWORD})
        cookie = answer.headers["set-cookie"].lower()
        assert COOKIE in cookie
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert (await client.get("/api/v1/me")).json()["name"] == "alice"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, 201),
        ({"origin": "http://operator-port"}, 201),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://operator-port"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({}, 403),
    ],
)
async def test_change_with_a_cookie_must_come_from_our_own_pages(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async with cloud_in(tmp_path) as cloud:
        await add(cloud)
        client = await browser(cloud)
        answer = await client.post("/api/v1/vehicles", json={"id": "VIN1"}, headers=headers)
        assert answer.status_code == status


@given(st.text(max_size=30), st.text(max_size=30))
def test_an_origin_of_another_host_is_never_ours(origin: str, host: str) -> None:
    if is_same_origin(None, f"http://{origin}", host, ""):
        assert origin.lower().startswith(host.lower())
        assert host != ""


async def test_logging_out_ends_the_session(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        await add(cloud)
        client = await browser(cloud)
        cookie = client.cookies[COOKIE]
        ended = await client.delete("/api/v1/session", headers={"sec-fetch-site": "same-origin"})
        assert ended.status_code == 204
        answer = await cloud.anonymous().get("/api/v1/me", headers={"cookie": f"{COOKIE}={cookie}"})
        assert answer.status_code == 401


async def test_session_expires_and_their_number_is_bounded(tmp_path: Path) -> None:
    clock = ManualClock()
    async with cloud_in(tmp_path, clock, sessions={"max_sessions_per_user": 2, "cookie_hours": 1.0}) as cloud:
        await add(cloud)
        clients = []
        for _ in range(3):
            clients.append(await browser(cloud))
            clock.advance_s(1)
        assert [(await c.get("/api/v1/me")).status_code for c in clients] == [401, 200, 200]
        clock.advance_s(3600)
        assert (await clients[2].get("/api/v1/me")).status_code == 401


async def test_logins_are_limited_by_name_and_by_address(tmp_path: Path) -> None:
    clock = ManualClock()
    async with cloud_in(tmp_path, clock, sessions={"login_attempts": 3, "login_window_s": 30.0}) as cloud:
        await add(cloud)
        answers = [(await login(cloud, password="wrong password")).status_code for _ in range(5)]
        assert answers == [401, 401, 401, 429, 429]
        assert (await login(cloud)).status_code == 429  # the right password does not help either
        clock.advance_s(30)
        assert (await login(cloud)).status_code == 200


async def test_the_last_admin_stays(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        admin = await cloud.logged_in("admin")
        name = "/api/v1/users/the-admin"
        assert (await admin.delete(name)).status_code == 409
        assert (await admin.patch(name, json={"role": "viewer"})).status_code == 409
        assert (await admin.patch(name, json={"disabled": True})).status_code == 409
        assert (await admin.get("/api/v1/me")).status_code == 200


async def test_passwords_and_hashes_are_never_shown(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        admin = await cloud.logged_in("admin")
        made = await admin.post("/api/v1/users", json={"name": "bob", "password": PASSWORD, "role": "viewer"})
        listed = await admin.get("/api/v1/users")
        for text in (made.text, listed.text):
            assert "argon2" not in text
            assert PASSWORD not in text


async def test_own_password_needs_the_old_one(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        viewer = await cloud.logged_in("viewer")
        change = {"old": "not the old one", "new": "a new long password"}
        assert (await viewer.post("/api/v1/me/password", json=change)).status_code == 403
        change["old"] = PASSWORD
        assert (await viewer.post("/api/v1/me/password", json=change)).status_code == 204
        assert (await login(cloud, "the-viewer", "a new long password")).status_code == 200


async def test_changes_are_in_the_audit_trail_with_who_and_what(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        operator, admin = await cloud.logged_in("operator"), await cloud.logged_in("admin")
        request_id = "request-0001"
        headers = {"x-request-id": request_id}
        await operator.post("/api/v1/vehicles", json={"id": "VIN1"}, headers=headers)
        await operator.post("/api/v1/vehicles/VIN1/revoke", json={"reason": "sold"}, headers=headers)
        entries = (await admin.get("/api/v1/audit", params={"target": "VIN1"})).json()["items"]
        assert [(e["actor"], e["action"], e["request_id"]) for e in entries] == [
            ("user:the-operator", "vehicle.revoke", request_id),
            ("user:the-operator", "vehicle.add", request_id),
        ]
        assert entries[0]["detail"] == "sold"


async def test_errors_are_problem_details_with_a_request_id(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        viewer = await cloud.logged_in("viewer")
        answers = [
            await viewer.get("/api/v1/vehicles/nobody"),
            await viewer.get("/api/v1/vehicles", params={"limit": "many"}),
            await viewer.get("/no/such/page/at/all.json"),
            await cloud.anonymous().get("/api/v1/vehicles"),
            await cloud.operator.post("/api/v1/login", content=b"{"),
        ]
        assert [a.status_code for a in answers] == [404, 400, 404, 401, 400]
        for answer in answers:
            assert answer.headers["content-type"].startswith("application/problem+json")
            problem = answer.json()
            assert problem["status"] == answer.status_code
            assert problem["type"].startswith("urn:outrider:problem:")
            assert problem["request_id"] == answer.headers["x-request-id"]
