"""The outermost ASGI layer of both ports: request ids, security headers, one log line per request, counting."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from typing import Any

from litestar.types import ASGIApp, Message, Receive, Send

from cloud.errors import NotFound
from cloud.log import bind_contextvars, clear_contextvars, get_logger
from cloud.web.problems import send_problem

log = get_logger("cloud.access")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
#: Of REST answers that do not say otherwise: nothing may run or frame them, and no cache keeps what a login allowed.
DEFAULTS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
#: Told of each finished request: method, status, seconds.
Observer = Callable[[str, int, float], None]


class Tracing:
    """Wraps an application."""

    def __init__(self, app: ASGIApp, *, port: str, observe: Observer, log_requests: bool, is_tls: bool = False) -> None:
        """``is_tls`` tells browsers to come by HTTPS only from now on."""
        self._app, self._port, self._observe, self._log_requests = app, port, observe, log_requests
        self._headers = (*SECURITY_HEADERS, STRICT_TRANSPORT) if is_tls else SECURITY_HEADERS

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        clear_contextvars()
        bind_contextvars(request_id=request_id)
        started = time.perf_counter()
        status = 0

        async def traced(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode("ascii")),
                    *self._headers,
                ]
                if scope["path"].startswith("/api/"):
                    _set_default(headers)
                message["headers"] = headers
            await send(message)

        try:
            if "\x00" in scope["path"]:  # no address has one, and file systems refuse to look
                await send_problem(scope, traced, NotFound("there is no such address"))
            else:
                await self._app(scope, receive, traced)
        finally:
            seconds = time.perf_counter() - started
            self._observe(scope["method"], status, seconds)
            if self._log_requests:
                log.info(
                    "request",
                    port=self._port,
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    ms=round(seconds * 1e3, 1),
                )


def _set_default(headers: list[tuple[bytes, bytes]]) -> None:
    present = {name.lower() for name, _ in headers}
    headers += [(name, value) for name, value in DEFAULTS if name not in present]


def _request_id(scope: Any) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return secrets.token_hex(8)
