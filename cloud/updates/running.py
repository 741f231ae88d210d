"""The background work of updates: online metadata never expires while the cloud runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloud.log import get_logger
from cloud.services import Services

DELTAS_S = 3600.0
log = get_logger("cloud.updates")


@asynccontextmanager
async def updates_lifespan(services: Services) -> AsyncIterator[None]:
    """Keep online metadata alive while the block lasts."""
    updates = services.updates
    services.erasers.append(updates.intake.erase)
    services.metric_sources.append(updates.metrics)

    async def keep() -> None:
        while True:
            await asyncio.sleep(updates.config.updates.refresh_s)
            try:
                await updates.look()
            except Exception as error:  # a background step must not end the service
                log.error("metadata_refresh_failed", exc_info=error)

    async def want() -> None:
        while True:
            try:
                await updates.want_recent_deltas()
            except Exception as error:  # as above
                log.error("deltas_not_asked_for", exc_info=error)
            await asyncio.sleep(DELTAS_S)

    await updates.look()
    tasks = [asyncio.create_task(work) for work in (keep(), want(), updates.deltas.run())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
