"""The background work of updates: online metadata never expires while the cloud runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloud.log import get_logger
from cloud.services import Services

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

    await updates.look()
    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
