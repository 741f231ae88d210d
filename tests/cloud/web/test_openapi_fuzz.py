"""Requests made from our own OpenAPI description, sound and unsound, never bring an internal error."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from cloud.app import build_services
from cloud.auth.audit import CLI
from cloud.web.server import serving
from tests.cloud.support import PASSWORD, make_config, make_pki
from tests.support import LONG

pytestmark = pytest.mark.slow
#: Endless answers (event streams); their tests are elsewhere.
STREAMS = {"/api/v1/fleet/live", "/api/v1/faults/live", "/api/v1/vehicles/{vehicle_id}/live"}


@dataclass
class Server:
    url: str
    headers: dict[str, str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service in a thread of its own, with an admin's token."""
    directory = tmp_path_factory.mktemp("cloud")
    make_pki(directory)
    started, found = threading.Event(), list[Server]()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        services = build_services(make_config(directory))
        async with serving(services) as addresses:
            await services.users.add("admin", PASSWORD, "admin", CLI)
            await services.vehicles.add("0", CLI)
            token, _ = await services.users.make_token("admin")
            found.append(Server(addresses.operator_url, {"authorization": f"Bearer {token}"}))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(60)
    yield found[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()


def test_no_request_from_the_description_is_an_internal_error(server: Server) -> None:
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as http:
        description = http.get("/schema/openapi.json").json()
        schema: Any = schemathesis.openapi.from_dict(description)
        tried = 0
        for result in schema.get_all_operations():
            operation = result.ok()
            if operation.path.startswith(("/api/", "/v1/", "/health")) and operation.path not in STREAMS:
                for mode in schemathesis.GenerationMode:
                    _try_operation(http, operation, mode)
                tried += 1
    assert tried > 40


def _try_operation(http: httpx.Client, operation: Any, mode: Any) -> None:
    @settings(
        max_examples=60 if LONG else 2,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def attempt(case: Any) -> None:
        request = case.as_transport_kwargs(base_url=str(http.base_url))
        known = ("params", "headers", "json", "content", "data")
        parts = {name: request[name] for name in known if request.get(name) is not None}
        if isinstance(parts.get("data"), bytes | str):
            parts["content"] = parts.pop("data")
        parts["headers"] = {**dict(parts.get("headers", {})), **dict(http.headers)}
        answer = http.request(request["method"], request["url"], **parts)
        assert answer.status_code < 500, (request, answer.text)
        if answer.status_code >= 400:
            assert answer.headers["content-type"].startswith("application/problem+json")
            assert answer.json()["status"] == answer.status_code

    with contextlib.suppress(Unsatisfiable):  # a route that takes nothing cannot be asked wrongly
        attempt()
