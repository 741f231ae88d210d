"""Who is calling on the operator port, and may they? Every route declares a role; one that does not is refused.

Browsers carry a session cookie (HttpOnly, SameSite=Strict); programs carry a bearer token. A cookie is sent by the
browser on its own, so requests that change something must besides prove that they come from our own pages: browsers
say so in ``Sec-Fetch-Site``, older ones in ``Origin``.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.middleware.authentication import AbstractAuthenticationMiddleware, AuthenticationResult

from cloud.auth.audit import Actor
from cloud.auth.model import Operator, Role
from cloud.errors import NotAllowed, NotAuthenticated
from cloud.services import Services

Connection = ASGIConnection[Any, Any, Any, Any]

COOKIE = "outrider_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
ROLE = "role"  # the key in a handler's ``opt``


def role(minimum: Role) -> dict[str, Any]:
    """``opt=role(Role.VIEWER)`` on a handler, controller or router."""
    return {ROLE: minimum}


class OperatorMiddleware(AbstractAuthenticationMiddleware):
    """Puts an ``Operator`` or None into ``request.user``."""

    async def authenticate_request(self, connection: Connection) -> AuthenticationResult:
        operator = await identify(connection)
        if operator is not None and operator.by_cookie:
            _refuse_forged(connection, connection.app.state.services)
        return AuthenticationResult(user=operator, auth=None)


async def identify(connection: Connection) -> Operator | None:
    """Who the request's bearer token or cookie belongs to now; long answers ask again. A token goes before a cookie."""
    services: Services = connection.app.state.services
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return await services.users.from_token(token.strip())
    cookie = connection.cookies.get(COOKIE, "")
    return await services.users.from_cookie(cookie) if cookie else None


def _refuse_forged(connection: Connection, services: Services) -> None:
    if connection.scope.get("method", "websocket") in SAFE_METHODS:
        return
    if not is_same_origin(
        connection.headers.get("sec-fetch-site"),
        connection.headers.get("origin"),
        connection.headers.get("host", ""),
        services.config.operator.public_url,
    ):
        raise NotAllowed("a change with a session cookie must come from the console's own pages")


def is_same_origin(fetch_site: str | None, origin: str | None, host: str, public_url: str) -> bool:
    """Whether a request with a cookie comes from a page of this service. No header at all means no."""
    if fetch_site is not None:
        return fetch_site in {"same-origin", "none"}
    if origin is None or origin == "null":
        return False
    try:
        theirs = urlsplit(origin).netloc.lower()
    except ValueError:
        return False
    return theirs in {host.lower(), urlsplit(public_url).netloc.lower()} and theirs != ""


def require_role(connection: Connection, handler: BaseRouteHandler) -> None:
    """The guard of the whole operator application.

    Raises:
        NotAuthenticated: nobody is logged in.
        NotAllowed: the role is too low, or the route declares none.
    """
    minimum = handler.opt.get(ROLE)
    if not isinstance(minimum, Role):
        raise NotAllowed("this route has no role")
    if minimum is Role.PUBLIC:
        return
    operator = connection.scope.get("user")
    if not isinstance(operator, Operator):
        raise NotAuthenticated("log in first")
    if operator.role < minimum:
        raise NotAllowed(f"this needs the role {minimum.label}")


def actor_of(connection: Connection) -> Actor:
    """Who makes this request, for the audit trail."""
    operator = connection.scope.get("user")
    name = f"user:{operator.name}" if isinstance(operator, Operator) else "anonymous"
    address = connection.client.host if connection.client else ""
    return Actor(name, address, connection.scope.get("state", {}).get("request_id", ""))
