"""Pages out of templates, with the headers every page has. No script or style is ever inline, nothing is loaded from
elsewhere: the content security policy says so to the browser."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from litestar import Request, Response
from litestar.response import Redirect
from markupsafe import Markup

from cloud.auth.model import Operator, Role
from cloud.errors import NotAuthenticated
from cloud.web.problems import describe, handle

AnyRequest = Request[Any, Any, Any]
FOLDER = Path(__file__).parent
HOME = "/console"
LOGIN = "/console/login"
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


def _time(time_ns: int | None, *, age: bool = False) -> Markup:
    """A moment, shown in the reader's zone by console.js; UTC without scripts."""
    if not time_ns:
        return Markup('<span class="soft">never</span>')
    try:
        moment = datetime.fromtimestamp(time_ns / 1e9, UTC)
    except (ValueError, OverflowError, OSError):
        return Markup('<span class="soft">unknown</span>')
    text = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    iso = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    mark = " data-age" if age else ""
    return Markup('<time datetime="{}" data-ms="{}"{}>{}</time>').format(iso, time_ns // 1_000_000, Markup(mark), text)


def _day(time_ns: int) -> str:
    """The UTC date."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d")


def _age(time_ns: int | None) -> Markup:
    return _time(time_ns, age=True)


def _bytes(count: float | None) -> str:
    """A number of bytes in a unit people read."""
    size = float(count or 0)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def _count(number: float | None) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{int(number or 0):,}".replace(",", "\u202f")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cloud.console"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(time=_time, age=_age, day=_day, bytes=_bytes, count=_count)
    return environment


_ENVIRONMENT = _environment()


def operator_of(request: AnyRequest) -> Operator:
    """Who is looking. The guard has checked that someone is."""
    if not isinstance(request.user, Operator):
        raise NotAuthenticated("log in first")
    return request.user


def page(request: AnyRequest, template: str, *, status_code: int = 200, **context: Any) -> Response[str]:
    """A rendered page."""
    user = request.scope.get("user")
    operator = user if isinstance(user, Operator) else None
    text = _ENVIRONMENT.get_template(template).render(
        operator=operator,
        may_operate=operator is not None and operator.role >= Role.OPERATOR,
        may_administer=operator is not None and operator.role >= Role.ADMIN,
        path=request.url.path,
        **context,
    )
    return Response(text, status_code=status_code, media_type="text/html; charset=utf-8", headers=HEADERS)


def go(path: str) -> Redirect:
    """See another page: the answer to a form that changed something."""
    return Redirect(path, status_code=303)


def page_error(request: AnyRequest, error: Exception) -> Response[Any]:
    """Errors as pages; who is not logged in comes to the login page."""
    if isinstance(error, NotAuthenticated) and request.url.path != LOGIN:
        if request.headers.get("hx-request"):
            return Response("", status_code=401, headers={**HEADERS, "hx-redirect": LOGIN})
        return go(LOGIN)
    answer = handle(request, error)  # logs what nobody expected, as for REST
    problem, headers = describe(error)
    response = page(request, "error.html", status_code=answer.status_code or 500, problem=problem)
    response.headers.update({name: value for name, value in headers.items() if name == "retry-after"})
    return response
