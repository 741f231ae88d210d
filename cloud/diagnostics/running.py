"""The background work of fleet diagnostics: reading batches as they come, catching up, expiry, retention."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from cloud.history.telemetry import telemetry_of
from cloud.lake.reader import BatchReader, ManifestMissing, UnreadableBatch
from cloud.log import get_logger
from cloud.services import BatchListener, Services
from cloud.spool.model import StoredBatch
from gateway.wire.codec import CodecError, read_header

EXPIRE_S = 5.0
RETAIN_S = 3600.0
log = get_logger("cloud.diagnostics")


def fault_listener(services: Services, reader: BatchReader) -> BatchListener:
    """A batch listener that folds reports in; only batches with events are decoded."""
    diagnostics = services.diagnostics

    async def on_batch(batch: StoredBatch) -> None:
        try:
            if not read_header(batch.content).events:
                return
            decoded = await reader.read(batch)
        except (CodecError, UnreadableBatch, ManifestMissing):
            return  # the compactor deals with it, and then ``catch_up`` does
        if await diagnostics.keeper.take(batch.vehicle_id, decoded.events):
            diagnostics.tell_faults(batch.vehicle_id)

    return on_batch


@asynccontextmanager
async def diagnostics_lifespan(services: Services) -> AsyncIterator[None]:
    """Open texts, enter listener, eraser and metrics, and keep fault memory and jobs up to date."""
    diagnostics = services.diagnostics
    await diagnostics.texts.open()
    services.batch_listeners.append(fault_listener(services, telemetry_of(services).reader))
    services.erasers.append(diagnostics.erase)
    services.metric_sources.append(diagnostics.metrics)

    async def catch_up() -> None:
        for vehicle_id in await diagnostics.keeper.catch_up():
            diagnostics.tell_faults(vehicle_id)

    async def expire() -> None:
        if await diagnostics.jobs.expire():
            diagnostics.tell_job(0)

    async def retain() -> None:
        await diagnostics.keeper.retain()
        await diagnostics.jobs.retain()

    async def end_streams() -> None:
        await services.stopping.wait()
        diagnostics.hub.close()

    tasks = [
        asyncio.create_task(_every(services.config.diagnostics.catch_up_s, catch_up, "catch_up")),
        asyncio.create_task(_every(EXPIRE_S, expire, "expire")),
        asyncio.create_task(_every(RETAIN_S, retain, "retain")),
        asyncio.create_task(end_streams()),
    ]
    try:
        yield
    finally:
        diagnostics.hub.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _every(period_s: float, work: Callable[[], Awaitable[None]], what: str) -> None:
    """Again and again until cancelled. A failure is logged and tried again."""
    while True:
        try:
            await work()
        except Exception as error:  # a background step must not end the service
            log.error("diagnostics_step_failed", step=what, exc_info=error)
        await asyncio.sleep(period_s)
