"""A cloud whose applications are built once, and people in front of its console."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from cloud.auth.audit import CLI
from cloud.clock import ManualClock
from tests.cloud.campaigns.test_routes import STILL
from tests.cloud.support import PASSWORD, Cloud
from tests.cloud.updates.support import rig_in


@asynccontextmanager
async def campaigns_in(directory: Path) -> AsyncIterator[tuple[Cloud, ManualClock]]:
    """A cloud whose campaigns are ticked by hand; it has no repositories."""
    async with rig_in(directory, begun=False, **STILL) as rig:
        yield rig.cloud, rig.clock


@asynccontextmanager
async def browser(cloud: Cloud, role: str, name: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A client with a session cookie, as a browser has after logging in."""
    name = name or f"a-{role}"
    async with cloud.anonymous() as client:
        client.headers["sec-fetch-site"] = "same-origin"
        await cloud.services.users.add(name, PASSWORD, role, CLI)
        answer = await client.post("/console/login", data={"name": name, "password": PASSWORD})
        assert (answer.status_code, answer.headers["location"]) == (303, "/console")
        yield client
