"""Logging in, users, and the audit trail over REST."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.datastructures import Cookie
from litestar.params import FromQuery, JSONBody, PathParameter
from sqlalchemy import func, select

from cloud.auth.audit import Actor
from cloud.auth.middleware import COOKIE, actor_of, role
from cloud.auth.model import AuditRow, Operator, Role
from cloud.auth.users import UserView
from cloud.errors import NotAuthenticated
from cloud.web.inject import Injected
from cloud.web.pages import Limit, Offset, Page

AnyRequest = Request[Any, Any, Any]
UserName = Annotated[str, PathParameter(description="user name", max_length=64)]


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a login form sends."""

    name: str
    password: str


class BearerToken(msgspec.Struct, frozen=True):
    """A token for the ``Authorization`` header."""

    token: str
    expires_ns: int
    role: str
    token_type: str = "Bearer"


class Me(msgspec.Struct, frozen=True):
    """Who is logged in."""

    name: str
    role: str


class NewUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user to create."""

    name: str
    password: str
    role: str


class UserChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change; None leaves it."""

    password: str | None = None
    role: str | None = None
    disabled: bool | None = None


class PasswordChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Change of one's own password."""

    old: str
    new: str


class AuditView(msgspec.Struct, frozen=True):
    """One entry of the audit trail."""

    id: int
    at_ns: int
    actor: str
    action: str
    target: str
    detail: str
    address: str
    request_id: str


def _operator(request: AnyRequest) -> Operator:
    if not isinstance(request.user, Operator):
        raise NotAuthenticated("log in first")
    return request.user


def _login_actor(request: AnyRequest, name: str) -> Actor:
    actor = actor_of(request)
    return Actor(f"user:{name[:64]}", actor.address, actor.request_id)


def session_cookie(value: str, life_s: float, *, secure: bool) -> Cookie:
    """The cookie of a browser session."""
    return Cookie(
        key=COOKIE, value=value, max_age=int(life_s), path="/", httponly=True, samesite="strict", secure=secure
    )


@post("/login", opt=role(Role.PUBLIC), status_code=200, tags=["operators"], summary="Get a bearer token")
async def login(request: AnyRequest, services: Injected, data: JSONBody[Credentials]) -> BearerToken:
    """Trade name and password for a bearer token."""
    operator = await services.users.login(data.name, data.password, _login_actor(request, data.name))
    token, expires_ns = await services.users.make_token(operator.name)
    return BearerToken(token, expires_ns, operator.role.label)


@post("/session", opt=role(Role.PUBLIC), status_code=200, tags=["operators"], summary="Log a browser in")
async def start_session(request: AnyRequest, services: Injected, data: JSONBody[Credentials]) -> Response[Me]:
    """Trade name and password for a session cookie."""
    operator = await services.users.login(data.name, data.password, _login_actor(request, data.name))
    value, life_s = await services.users.start_session(operator.name)
    cookie = session_cookie(value, life_s, secure=services.is_operator_tls)
    return Response(Me(operator.name, operator.role.label), cookies=[cookie])


@delete("/session", opt=role(Role.PUBLIC), status_code=204, tags=["operators"], summary="Log a browser out")
async def end_session(request: AnyRequest, services: Injected) -> Response[None]:
    """Forget the session of the cookie."""
    await services.users.end_session(request.cookies.get(COOKIE, ""))
    expired = Cookie(key=COOKIE, value="", max_age=0, path="/", httponly=True, samesite="strict")
    return Response(None, status_code=204, cookies=[expired])


@get("/me", opt=role(Role.VIEWER), tags=["operators"], summary="Who am I")
async def me(request: AnyRequest) -> Me:
    """The caller's name and role."""
    operator = _operator(request)
    return Me(operator.name, operator.role.label)


@post("/me/password", opt=role(Role.VIEWER), status_code=204, tags=["operators"], summary="Change my password")
async def change_my_password(request: AnyRequest, services: Injected, data: JSONBody[PasswordChange]) -> None:
    """Ends all other sessions and tokens too."""
    await services.users.change_own_password(_operator(request).name, data.old, data.new, actor_of(request))


@get("/users", opt=role(Role.ADMIN), tags=["operators"], summary="All users")
async def list_users(services: Injected) -> list[UserView]:
    """Users by name, without secrets."""
    return await services.users.list()


@post("/users", opt=role(Role.ADMIN), tags=["operators"], summary="Create a user")
async def add_user(request: AnyRequest, services: Injected, data: JSONBody[NewUser]) -> UserView:
    """The role is viewer, operator or admin."""
    return await services.users.add(data.name, data.password, data.role, actor_of(request))


@patch("/users/{name:str}", opt=role(Role.ADMIN), tags=["operators"], summary="Change a user")
async def change_user(request: AnyRequest, services: Injected, name: UserName, data: JSONBody[UserChange]) -> UserView:
    """Ends all sessions and tokens of the user. The last admin must stay one."""
    return await services.users.change(
        name, actor_of(request), password=data.password, role=data.role, disabled=data.disabled
    )


@delete("/users/{name:str}", opt=role(Role.ADMIN), status_code=204, tags=["operators"], summary="Remove a user")
async def remove_user(request: AnyRequest, services: Injected, name: UserName) -> None:
    """The last admin must stay."""
    await services.users.remove(name, actor_of(request))


@get("/audit", opt=role(Role.ADMIN), tags=["operators"], summary="Who changed what")
async def list_audit(
    services: Injected, limit: Limit = 100, offset: Offset = 0, target: FromQuery[str] = "", action: FromQuery[str] = ""
) -> Page[AuditView]:
    """Newest first; ``target`` is a vehicle or user, ``action`` e.g. ``vehicle.revoke``."""
    query, count = select(AuditRow), select(func.count()).select_from(AuditRow)
    if target:
        query, count = query.where(AuditRow.target == target), count.where(AuditRow.target == target)
    if action:
        query, count = query.where(AuditRow.action == action), count.where(AuditRow.action == action)
    async with services.db.read() as session:
        rows = await session.scalars(query.order_by(AuditRow.id.desc()).limit(limit).offset(offset))
        items = [AuditView(r.id, r.at_ns, r.actor, r.action, r.target, r.detail, r.address, r.request_id) for r in rows]
        return Page(items, (await session.scalar(count)) or 0, limit, offset)


AUTH_ROUTES = [
    login,
    start_session,
    end_session,
    me,
    change_my_password,
    list_users,
    add_user,
    change_user,
    remove_user,
    list_audit,
]
