"""The parts that turn accepted batches into something to look at, connected: lake, live state and history."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias
from weakref import WeakKeyDictionary

from litestar.di import NamedDependency

from cloud.db import Database
from cloud.history.metrics import lake_metrics
from cloud.history.query import History
from cloud.lake.catalog import Catalog
from cloud.lake.compactor import Compactor
from cloud.lake.config import LakeConfig
from cloud.lake.reader import BatchReader
from cloud.lake.retention import apply_retention, erase_vehicle
from cloud.lake.store import Lake
from cloud.live.state import LiveState
from cloud.services import Services
from cloud.web.inject import Injected
from gateway.wire.batch import Batch
from gateway.wire.codec import Limits, decode_batch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """The composition; built once by ``build_telemetry``."""

    lake: Lake
    reader: BatchReader
    compactor: Compactor
    live: LiveState
    history: History
    default_points: int
    max_points: int
    max_signals: int


def build_telemetry(services: Services, config: LakeConfig | None = None) -> Telemetry:
    """Connect the parts and enter them in the service's lists of listeners and erasers. Touches no file."""
    limits = Limits(
        max_bytes=services.config.ingest.max_batch_bytes, max_unpacked_bytes=services.config.ingest.max_unpacked_bytes
    )

    def decode(content: bytes) -> Batch:
        return decode_batch(content, limits)

    lake_config = config or LakeConfig.of(services.config)
    catalog = Catalog(services.db, services.manifests)
    reader = BatchReader(catalog, decode, lake_config)
    root = services.config.path(services.config.storage.lake)
    lake = Lake(services.db, root, catalog, services.clock, lake_config)
    live = LiveState(services.db, reader, services.clock, services.config.live)
    telemetry = Telemetry(
        lake=lake,
        reader=reader,
        compactor=Compactor(lake, services.spool, reader, on_compacted=live.fold),
        live=live,
        history=History(
            lake,
            reader,
            queries_at_once=services.config.history.concurrent_queries,
            timeout_s=services.config.history.timeout_s,
        ),
        default_points=services.config.history.default_points,
        max_points=services.config.history.max_points,
        max_signals=services.config.history.max_signals,
    )

    async def erase(vehicle_id: str) -> None:
        await erase_vehicle(lake, vehicle_id)
        await live.erase(vehicle_id)

    services.metric_sources.append(lambda: lake_metrics(telemetry.compactor.statistics, live))
    services.batch_listeners.append(live.on_batch)
    services.erasers.append(erase)
    return telemetry


#: The telemetry of each database: one, whoever asks first. Handlers and background tasks must share it.
_BUILT: WeakKeyDictionary[Database, Telemetry] = WeakKeyDictionary()


def telemetry_of(services: Injected) -> Telemetry:
    """The service's telemetry, built on first use; a Litestar dependency."""
    if services.db not in _BUILT:
        _BUILT[services.db] = build_telemetry(services)
    return _BUILT[services.db]


#: The annotation of a handler's ``telemetry`` argument.
Shared: TypeAlias = NamedDependency[Telemetry]


@asynccontextmanager
async def lake_lifespan(services: Services) -> AsyncIterator[None]:
    """Open the lake (the database must be open) and keep it: compaction, merging, retention in the background.

    Event streams end when ``services.stopping`` is set. At the end the running step is finished or undone, never left
    half done; waiting batches stay in the spool.
    """
    telemetry = telemetry_of(services)
    config = telemetry.lake.config
    await telemetry.lake.open()
    stop = asyncio.Event()

    async def sweep_and_retain() -> None:
        await apply_retention(telemetry.lake)
        await telemetry.lake.sweep()

    async def end_streams() -> None:
        await services.stopping.wait()
        telemetry.live.close()

    loops = [
        asyncio.create_task(_every(config.compact_interval_s, telemetry.compactor.compact, "compaction", stop)),
        asyncio.create_task(_every(config.merge_interval_s, telemetry.compactor.merge, "merging", stop)),
        asyncio.create_task(_every(config.retention_interval_s, sweep_and_retain, "retention", stop)),
    ]
    ending = asyncio.create_task(end_streams())
    try:
        yield
    finally:
        telemetry.live.close()
        stop.set()
        ending.cancel()
        await asyncio.wait([ending])
        await asyncio.gather(*loops)


async def _every(period_s: float, work: Callable[[], Awaitable[object]], what: str, stop: asyncio.Event) -> None:
    """Run ``work`` again and again. A failure is logged and tried again."""
    while not stop.is_set():
        try:
            await work()
        except Exception:
            log.exception("lake_step_failed", extra={"step": what})
        try:
            async with asyncio.timeout(period_s):
                await stop.wait()
        except TimeoutError:
            continue
