"""Health, readiness and metrics."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request, Response, get
from sqlalchemy import text

from cloud.auth.middleware import role
from cloud.auth.model import Role
from cloud.ingest.uploads import free_bytes
from cloud.services import Services
from cloud.web.inject import Injected
from cloud.web.metrics import Metrics


class Health(msgspec.Struct, frozen=True):
    """Whether the service can do its work, by part: "ok" or what is wrong."""

    status: str
    parts: dict[str, str] = {}


@get("/health/live", opt=role(Role.PUBLIC), tags=["health"], summary="Is the process alive")
async def live() -> Health:
    """200 as long as the event loop turns."""
    return Health("ok")


@get("/health/ready", opt=role(Role.PUBLIC), tags=["health"], summary="Can it take batches")
async def ready(services: Injected) -> Response[Health]:
    """200 when database, writer and disk are fit to take batches; else 503 and the part that is not."""
    parts = {"database": await _database(services)}
    parts["writer"] = "ok" if services.is_running else "not running"
    has_room = free_bytes(services.db.path.parent) >= services.config.storage.min_free_bytes
    parts["disk"] = "ok" if has_room else "less free space than storage.min_free_bytes"
    good = all(value == "ok" for value in parts.values())
    return Response(Health("ok" if good else "not ready", parts), status_code=200 if good else 503)


async def _database(services: Services) -> str:
    try:
        async with asyncio.timeout(2.0), services.db.read() as session:
            await session.execute(text("SELECT 1"))
    except TimeoutError:
        return "does not answer"
    except Exception as error:  # whatever it is, the answer is "not ready", not 500
        return f"{type(error).__name__}"
    return "ok"


@get("/metrics", opt=role(Role.PUBLIC), tags=["health"], summary="Prometheus metrics", media_type="text/plain")
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Counters and histograms of this process. Nothing in it names a vehicle."""
    registry: Metrics = request.app.state.metrics
    return Response(registry.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


HEALTH_ROUTES = [live, ready, metrics]
