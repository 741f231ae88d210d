"""What handlers and background tasks share: one value, built by ``cloud.app`` and handed to all who need it.

Handlers get it by dependency injection under the name ``services``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cloud.clock import Clock
from cloud.config import CloudConfig
from cloud.db import Database
from cloud.manifests import ManifestStore
from cloud.spool import BatchSpool, StoredBatch
from cloud.spool.deadletters import DeadLetters

#: Told of each batch after its commit. Runs behind a bounded queue and never delays the acknowledgement; when the
#: queue is full, batches are skipped for listeners and counted (they are durable and reach the lake all the same).
BatchListener = Callable[[StoredBatch], Awaitable[None]]
#: Removes all it keeps of a vehicle; must be idempotent.
Eraser = Callable[[str], Awaitable[None]]


@dataclass(kw_only=True)
class Services:
    """The composition of the cloud. Lists are filled before the servers start."""

    config: CloudConfig
    clock: Clock
    db: Database
    spool: BatchSpool
    dead_letters: DeadLetters
    manifests: ManifestStore
    batch_listeners: list[BatchListener] = field(default_factory=list)
    erasers: list[Eraser] = field(default_factory=list)
