"""Composition root of the cloud: the only place that builds and connects its parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloud.clock import Clock, SystemClock
from cloud.config import CloudConfig
from cloud.db import Database
from cloud.manifests import ManifestStore
from cloud.services import Services
from cloud.spool import SqliteBatchSpool
from cloud.spool.deadletters import DeadLetters


def build_services(config: CloudConfig, clock: Clock | None = None) -> Services:
    """All parts, connected, nothing started and no file touched."""
    db = Database(config.path(config.storage.database), busy_timeout_ms=config.storage.busy_timeout_ms)
    dead_letters = DeadLetters(
        max_count=config.ingest.max_dead_letters_per_vehicle,
        max_bytes=config.ingest.max_dead_letter_bytes_per_vehicle,
    )
    return Services(
        config=config,
        clock=clock or SystemClock(),
        db=db,
        spool=SqliteBatchSpool(db, dead_letters),
        dead_letters=dead_letters,
        manifests=ManifestStore(db),
    )


@asynccontextmanager
async def running(services: Services) -> AsyncIterator[None]:
    """Open the database and run the background tasks while the block lasts."""
    services.config.path(services.config.storage.database).parent.mkdir(parents=True, exist_ok=True)
    await services.db.open()
    try:
        yield
    finally:
        await services.db.close()
