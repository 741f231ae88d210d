"""Logging in and out, the fleet list, adding a vehicle, one's own account."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, post
from litestar.params import FromQuery

from cloud.auth.audit import Actor
from cloud.auth.middleware import COOKIE, actor_of, is_same_origin, role
from cloud.auth.model import Role
from cloud.auth.routes import session_cookie
from cloud.console.facts import row_state
from cloud.console.forms import number, read_form, vehicle_path
from cloud.console.render import HOME, LOGIN, AnyRequest, go, operator_of, page
from cloud.errors import CloudError, NotAllowed
from cloud.registry.model import VehicleState
from cloud.registry.routes import vehicle_filter
from cloud.services import Services
from cloud.web.inject import Injected

PAGE_ROWS = 50


@get("/login", opt=role(Role.PUBLIC))
async def login_page(request: AnyRequest) -> Response[str]:
    """The form."""
    return page(request, "login.html", problem="", name="")


@post("/login", opt=role(Role.PUBLIC))
async def login(request: AnyRequest, services: Injected) -> Response[Any]:
    """Start a session; wrong credentials show the form again."""
    headers = request.headers
    ours = services.config.operator.public_url
    if not is_same_origin(headers.get("sec-fetch-site"), headers.get("origin"), headers.get("host", ""), ours):
        raise NotAllowed("log in from the console's own page")
    form = await read_form(request)
    name = form.get("name", "")[:64]
    actor = actor_of(request)
    try:
        operator = await services.users.login(
            name, form.get("password", ""), Actor(f"user:{name}", actor.address, actor.request_id)
        )
    except CloudError as error:
        return page(request, "login.html", status_code=200, problem=str(error), name=name)
    value, life_s = await services.users.start_session(operator.name)
    answer = go(HOME)
    answer.set_cookie(session_cookie(value, life_s, secure=services.is_operator_tls))
    return answer


@post("/logout", opt=role(Role.PUBLIC))
async def logout(request: AnyRequest, services: Injected) -> Response[Any]:
    """End the session."""
    await services.users.end_session(request.cookies.get(COOKIE, ""))
    answer = go(LOGIN)
    answer.set_cookie(session_cookie("", 0, secure=services.is_operator_tls))
    return answer


async def _fleet(services: Services, search: str, status: str, offset: int) -> dict[str, Any]:
    silent = status == "silent"
    wanted = vehicle_filter(services, search.strip()[:200], status if status in set(VehicleState) else "", "", silent)
    rows, total = await services.accounting.fleet_rows(wanted, PAGE_ROWS, offset)
    return {
        "search": wanted.search,
        "status": status,
        "rows": [(row, row_state(row)) for row in rows],
        "total": total,
        "overview": await services.accounting.fleet(),
        "offset": offset,
        "limit": PAGE_ROWS,
    }


@get("/")
async def fleet(
    request: AnyRequest,
    services: Injected,
    search: FromQuery[str] = "",
    status: FromQuery[str] = "",
    offset: FromQuery[str] = "0",
) -> Response[str]:
    """All vehicles."""
    return page(request, "fleet.html", **await _fleet(services, search, status, number(offset)))


@get("/fleet")
async def fleet_table(
    request: AnyRequest,
    services: Injected,
    search: FromQuery[str] = "",
    status: FromQuery[str] = "",
    offset: FromQuery[str] = "0",
) -> Response[str]:
    """The list alone, for refreshing it."""
    return page(request, "fleet_table.html", **await _fleet(services, search, status, number(offset)))


@get("/vehicles/new", opt=role(Role.OPERATOR))
async def new_vehicle_page(request: AnyRequest) -> Response[str]:
    """The form."""
    return page(request, "vehicle_new.html", problem="", id="", display_name="")


@post("/vehicles/new", opt=role(Role.OPERATOR))
async def new_vehicle(request: AnyRequest, services: Injected) -> Response[Any]:
    """Register a vehicle and show where its token is made."""
    form = await read_form(request)
    vehicle_id, name = form.get("id", "").strip(), form.get("display_name", "").strip()
    try:
        await services.vehicles.add(vehicle_id, actor_of(request), display_name=name)
    except CloudError as error:
        return page(request, "vehicle_new.html", problem=str(error), id=vehicle_id, display_name=name)
    return go(vehicle_path(vehicle_id, "/access"))


@get("/account")
async def account_page(request: AnyRequest) -> Response[str]:
    """The form for a new password."""
    return page(request, "account.html", problem="")


@post("/account")
async def account(request: AnyRequest, services: Injected) -> Response[Any]:
    """Change one's own password."""
    form = await read_form(request)
    try:
        await services.users.change_own_password(
            operator_of(request).name, form.get("old", ""), form.get("new", ""), actor_of(request)
        )
    except CloudError as error:
        return page(request, "account.html", problem=str(error))
    return go(LOGIN)


FLEET_PAGES = [
    login_page,
    login,
    logout,
    fleet,
    fleet_table,
    new_vehicle_page,
    new_vehicle,
    account_page,
    account,
]
