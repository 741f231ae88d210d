"""Every error answer is problem details (RFC 9457). The one place where errors of the cloud become HTTP."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap, Scope, Send

from cloud.errors import (
    CloudError,
    Conflict,
    DamagedFile,
    InvalidInput,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Refused,
    TooLarge,
    TooMany,
    Unavailable,
)
from cloud.log import get_logger

MEDIA_TYPE = "application/problem+json"
URN = "urn:outrider:problem:"
log = get_logger("cloud.web")

#: error → (status, last part of the problem's type)
STATUS: dict[type[CloudError], tuple[int, str]] = {
    InvalidInput: (400, "invalid-input"),
    NotAuthenticated: (401, "not-authenticated"),
    NotAllowed: (403, "not-allowed"),
    NotFound: (404, "not-found"),
    Conflict: (409, "conflict"),
    Refused: (422, "refused"),
    TooLarge: (413, "too-large"),
    TooMany: (429, "too-many"),
    Unavailable: (503, "unavailable"),
    DamagedFile: (500, "damaged-file"),
}


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an error answer."""

    type: str
    title: str
    status: int
    detail: str = ""
    instance: str = ""
    request_id: str = ""
    errors: list[dict[str, str]] = []


def describe(error: Exception) -> tuple[Problem, dict[str, str]]:
    """The problem and extra headers of an error; anything unexpected is a 500 without details."""
    headers: dict[str, str] = {}
    if isinstance(error, RecursionError):  # from the JSON decoder; nothing of ours recurses
        error = InvalidInput("nested too deeply")
    if isinstance(error, CloudError):
        status, name = STATUS.get(type(error), (500, "internal"))
        if isinstance(error, TooMany | Unavailable):
            headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        if isinstance(error, NotAuthenticated):
            headers["www-authenticate"] = "Bearer"
        return Problem(
            URN + name, HTTPStatus(status).phrase, status, str(error) if status < 500 or name != "internal" else ""
        ), headers
    if isinstance(error, HTTPException):
        headers.update({k.lower(): v for k, v in (error.headers or {}).items()})
        phrase = HTTPStatus(error.status_code).phrase
        detail = error.detail if error.status_code < 500 else ""
        errors: list[dict[str, str]] = []
        if isinstance(error, ValidationException) and isinstance(error.extra, list):
            errors = [{k: str(v) for k, v in item.items()} for item in error.extra if isinstance(item, dict)]
        name = URN + phrase.lower().replace(" ", "-")
        return Problem(name, phrase, error.status_code, detail, errors=errors), headers
    return Problem(
        URN + "internal", "Internal Server Error", 500, "an error of this service; it has been logged"
    ), headers


def _finish(problem: Problem, scope: Scope, error: Exception) -> Problem:
    request_id = scope.get("state", {}).get("request_id", "")
    if problem.status >= 500 and not isinstance(error, Unavailable):
        log.error("request_failed", path=scope.get("path", ""), exc_info=error)
    return msgspec.structs.replace(problem, instance=scope.get("path", ""), request_id=request_id)


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's exception handler."""
    problem, headers = describe(error)
    body = msgspec.json.encode(_finish(problem, request.scope, error))
    return Response(body, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


#: What both applications use.
EXCEPTION_HANDLERS: ExceptionHandlersMap = {CloudError: handle, HTTPException: handle, Exception: handle}


async def send_problem(scope: Scope, send: Send, error: Exception, *, close: bool = False) -> None:
    """The same answer from a bare ASGI route. ``close`` ends the connection, for a body that was not read."""
    problem, headers = describe(error)
    body = msgspec.json.encode(_finish(problem, scope, error))
    raw = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    raw += [(k.encode(), v.encode()) for k, v in headers.items()]
    if close:
        raw.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})
