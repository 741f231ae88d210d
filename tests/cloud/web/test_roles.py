"""Each route of the operator port declares a role, and exactly those who have it get through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import get
from litestar.routes import HTTPRoute

from cloud.app import build_services, operator_litestar
from cloud.auth.middleware import ROLE
from cloud.auth.model import Role
from tests.cloud.support import Cloud, cloud_in, make_config

#: The only routes that anyone may call.
PUBLIC = {
    "POST /api/v1/login",
    "POST /api/v1/session",
    "DELETE /api/v1/session",
    "GET /api/v1/ca",
    "POST /v1/enrol",
    "GET /health/live",
    "GET /health/ready",
    "GET /metrics",
}
#: What only an admin may do; whoever adds a route that manages users or destroys data adds it here.
ADMIN = {
    "GET /api/v1/users",
    "POST /api/v1/users",
    "PATCH /api/v1/users/{name:str}",
    "DELETE /api/v1/users/{name:str}",
    "GET /api/v1/audit",
    "DELETE /api/v1/vehicles/{vehicle_id:str}",
    "PUT /api/v1/faults/texts",
    "DELETE /api/v1/faults/texts",
    "POST /api/v1/updates/online-keys",
    "POST /api/v1/releases/{release_id:int}/publish",
    "POST /api/v1/releases/{release_id:int}/withdraw",
}
#: Answers that do not end by themselves.
ENDLESS = {"/api/v1/fleet/live", "/api/v1/faults/live"}


def all_routes(directory: Path) -> list[tuple[str, str, Any]]:
    """(method, path, handler) of everything reachable."""
    app = operator_litestar(build_services(make_config(directory)))
    found: list[tuple[str, str, Any]] = []
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                found += [
                    (method, route.path, handler) for method in sorted(handler.http_methods) if method != "OPTIONS"
                ]
        else:
            found.append(("ANY", route.path, route.route_handler))
    return found


def is_console(path: str) -> bool:
    """Pages of the console, whose tests are elsewhere; they declare roles all the same."""
    return not path.startswith(("/api/", "/v1/", "/health", "/metrics", "/schema"))


def test_every_route_declares_a_role(tmp_path: Path) -> None:
    missing = [f"{m} {p}" for m, p, handler in all_routes(tmp_path) if not isinstance(handler.opt.get(ROLE), Role)]
    assert missing == []


def test_public_and_admin_routes_are_exactly_the_known_ones(tmp_path: Path) -> None:
    found = [(f"{m} {p}", h.opt[ROLE]) for m, p, h in all_routes(tmp_path) if not is_console(p) and m != "HEAD"]
    assert {name for name, role in found if role is Role.PUBLIC} == PUBLIC
    assert {name for name, role in found if role is Role.ADMIN} == ADMIN


def test_nothing_but_reading_is_open_to_viewers(tmp_path: Path) -> None:
    writing = {
        f"{m} {p}"
        for m, p, h in all_routes(tmp_path)
        if m not in {"GET", "HEAD", "ANY"} and h.opt[ROLE] is Role.VIEWER and not is_console(p)
    }
    assert writing == {"POST /api/v1/me/password"}


async def status(client: httpx.AsyncClient, method: str, path: str) -> int:
    for name in ("vehicle_id", "name", "serial", "manifest_hash", "code", "repository", "action"):
        path = path.replace(f"{{{name}:str}}", "nothing-of-that-name")
    for name in ("token_id", "letter_id", "job_id", "image_id", "release_id", "campaign_id"):
        path = path.replace(f"{{{name}:int}}", "77")
    if path.endswith("/live"):
        path = path.replace("nothing-of-that-name", "nobody")
    return (await client.request(method, path, json={} if method in {"POST", "PATCH"} else None)).status_code


@pytest.mark.anyio
async def test_each_role_gets_exactly_what_it_may(tmp_path: Path) -> None:
    """401 without login and 403 below the role, for every route; never for those who may."""
    async with cloud_in(tmp_path) as cloud:
        clients = await _clients(cloud)
        wrong: list[str] = []
        for method, path, handler in all_routes(tmp_path):
            if method in {"HEAD", "ANY"} or is_console(path) or path in ENDLESS:
                continue
            needed: Role = handler.opt[ROLE]
            for role, client in clients.items():
                got = await status(client, method, path)
                refused = 401 if role is Role.PUBLIC else 403
                if (got == refused) != (role < needed) or got >= 500:
                    wrong.append(f"{role.label} {method} {path}: {got}")
        assert wrong == []


async def _clients(cloud: Cloud) -> dict[Role, httpx.AsyncClient]:
    roles = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
    return {Role.PUBLIC: cloud.anonymous(), **{role: await cloud.logged_in(role.label) for role in roles}}


@pytest.mark.anyio
async def test_a_route_without_a_role_is_refused_to_everyone(tmp_path: Path) -> None:
    @get("/forgotten")
    async def forgotten() -> str:
        return "secret"

    async with cloud_in(tmp_path) as cloud:
        app = operator_litestar(cloud.services, [forgotten])
        token = (await cloud.logged_in("admin")).headers["authorization"]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:  # type: ignore[arg-type]  # same ASGI
            answer = await client.get("/forgotten", headers={"authorization": token})
        assert (answer.status_code, "secret" in answer.text) == (403, False)
