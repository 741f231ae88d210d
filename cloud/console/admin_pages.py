"""Dead letters, users, audit."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery
from sqlalchemy import func, select

from cloud.auth.middleware import actor_of, role
from cloud.auth.model import AuditRow, Role
from cloud.console.forms import number, read_form
from cloud.console.render import HOME, AnyRequest, go, page
from cloud.errors import CloudError
from cloud.services import Services
from cloud.spool.routes import delete_dead_letter, list_dead_letters, replay_dead_letter
from cloud.web.inject import Injected

ROWS = 50
USERS = f"{HOME}/users"


async def _letters(
    request: AnyRequest, services: Services, offset: int = 0, *, done: str = "", problem: str = ""
) -> Response[str]:
    found = await list_dead_letters.fn(services, limit=ROWS, offset=offset)
    return page(request, "dead_letters.html", letters=found, offset=offset, limit=ROWS, done=done, problem=problem)


@get("/dead-letters")
async def dead_letters(request: AnyRequest, services: Injected, offset: FromQuery[str] = "0") -> Response[str]:
    """Batches that could not be read."""
    return await _letters(request, services, number(offset))


@post("/dead-letters/{letter_id:int}/replay", opt=role(Role.OPERATOR))
async def replay(request: AnyRequest, services: Injected, letter_id: FromPath[int]) -> Response[str]:
    """Take one again, for after a fix."""
    try:
        outcome = await replay_dead_letter.fn(request, services, letter_id)
    except CloudError as error:
        return await _letters(request, services, problem=str(error))
    words = "was here already" if outcome.outcome == "duplicate" else "was taken again"
    return await _letters(
        request, services, done=f"Dead letter {letter_id} {words}: {outcome.stream} {outcome.sequence}."
    )


@post("/dead-letters/{letter_id:int}/delete", opt=role(Role.OPERATOR))
async def discard(request: AnyRequest, services: Injected, letter_id: FromPath[int]) -> Response[str]:
    """Delete one for good."""
    try:
        await delete_dead_letter.fn(request, services, letter_id)
    except CloudError as error:
        return await _letters(request, services, problem=str(error))
    return await _letters(request, services, done=f"Dead letter {letter_id} was deleted.")


async def _users(request: AnyRequest, services: Services, problem: str = "") -> Response[str]:
    return page(request, "users.html", users=await services.users.list(), problem=problem)


@get("/users", opt=role(Role.ADMIN))
async def users(request: AnyRequest, services: Injected) -> Response[str]:
    """All users."""
    return await _users(request, services)


@post("/users", opt=role(Role.ADMIN))
async def add_user(request: AnyRequest, services: Injected) -> Response[Any]:
    """Create one."""
    form = await read_form(request)
    try:
        await services.users.add(
            form.get("name", ""), form.get("password", ""), form.get("role", ""), actor_of(request)
        )
    except CloudError as error:
        return await _users(request, services, str(error))
    return go(USERS)


@post("/users/{name:str}/role", opt=role(Role.ADMIN))
async def set_role(request: AnyRequest, services: Injected, name: FromPath[str]) -> Response[Any]:
    """Change what a user may do."""
    wanted = (await read_form(request)).get("role", "")
    try:
        await services.users.change(name, actor_of(request), role=wanted)
    except CloudError as error:
        return await _users(request, services, str(error))
    return go(USERS)


@post("/users/{name:str}/disable", opt=role(Role.ADMIN))
async def disable_user(request: AnyRequest, services: Injected, name: FromPath[str]) -> Response[Any]:
    """Keep a user out."""
    return await _switch(request, services, name, disabled=True)


@post("/users/{name:str}/enable", opt=role(Role.ADMIN))
async def enable_user(request: AnyRequest, services: Injected, name: FromPath[str]) -> Response[Any]:
    """Let a user in again."""
    return await _switch(request, services, name, disabled=False)


async def _switch(request: AnyRequest, services: Services, name: str, *, disabled: bool) -> Response[Any]:
    try:
        await services.users.change(name, actor_of(request), disabled=disabled)
    except CloudError as error:
        return await _users(request, services, str(error))
    return go(USERS)


@post("/users/{name:str}/remove", opt=role(Role.ADMIN))
async def remove_user(request: AnyRequest, services: Injected, name: FromPath[str]) -> Response[Any]:
    """Remove a user; the last admin stays."""
    try:
        await services.users.remove(name, actor_of(request))
    except CloudError as error:
        return await _users(request, services, str(error))
    return go(USERS)


@get("/audit", opt=role(Role.ADMIN))
async def audit(
    request: AnyRequest, services: Injected, target: FromQuery[str] = "", offset: FromQuery[str] = "0"
) -> Response[str]:
    """Who changed what."""
    start = number(offset)
    query, count = select(AuditRow), select(func.count()).select_from(AuditRow)
    if target.strip():
        query, count = query.where(AuditRow.target == target.strip()), count.where(AuditRow.target == target.strip())
    async with services.db.read() as session:
        rows = await session.scalars(query.order_by(AuditRow.id.desc()).limit(ROWS).offset(start))
        entries, total = list(rows), await session.scalar(count)
    return page(request, "audit.html", entries=entries, total=total or 0, target=target[:200], offset=start, limit=ROWS)


ADMIN_PAGES = [dead_letters, replay, discard, users, add_user, set_role, disable_user, enable_user, remove_user, audit]
