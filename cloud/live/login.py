"""Event streams end when the login of their reader does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Request

from cloud.auth.middleware import identify
from cloud.services import Services

AnyRequest = Request[Any, Any, Any]
HasEnded = Callable[[], Awaitable[bool]]


def login_of(request: AnyRequest) -> HasEnded:
    """The check for the reader of a stream."""
    services: Services = request.app.state.services
    return _Login(request, services.config.live.heartbeat_s).has_ended


class _Login:
    """Asks again, once in a while, whether the reader of a stream may still read."""

    def __init__(self, request: AnyRequest, period_s: float) -> None:
        self._request, self._period_s = request, period_s
        self._asked_s = asyncio.get_running_loop().time()

    async def has_ended(self) -> bool:
        """True once the session or token has ended, or its user has."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._asked_s < self._period_s:
            return False
        self._asked_s = now_s
        return await identify(self._request) is None
