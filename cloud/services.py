"""What handlers and background tasks share: one value, built by ``cloud.app`` and handed to all who need it.

Handlers get it by dependency injection under the name ``services``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client.core import Metric
from sqlalchemy import select

from cloud.accounting.service import AccountingDesk
from cloud.auth.users import Users
from cloud.campaigns.running import FleetCampaigns
from cloud.clock import Clock
from cloud.config import CloudConfig
from cloud.db import Database
from cloud.diagnostics.service import FleetDiagnostics
from cloud.errors import ConfigError
from cloud.identity.authority import Authority
from cloud.identity.enrolment import Enrolment
from cloud.identity.peer import CertificateRegister
from cloud.identity.signing import OrderSigner, ensure_order_key
from cloud.ingest.checkins import CheckIns
from cloud.ingest.downlink import DownlinkHub
from cloud.ingest.limits import Buckets
from cloud.ingest.listeners import BatchListeners
from cloud.ingest.uploads import Uploads
from cloud.ingest.writer import IngestWriter
from cloud.manifests import ManifestStore
from cloud.registry.vehicles import Vehicles
from cloud.spool import BatchRow, BatchSpool, BatchState, StoredBatch
from cloud.spool.deadletters import DeadLetters
from cloud.updates.service import FleetUpdates

#: Told of each batch after its commit. Runs behind a bounded queue and never delays the acknowledgement; when the
#: queue is full, batches are skipped for listeners and counted (they are durable and reach the lake all the same).
BatchListener = Callable[[StoredBatch], Awaitable[None]]
#: Removes all it keeps of a vehicle; must be idempotent.
Eraser = Callable[[str], Awaitable[None]]
#: Metrics of a part that brings its own; asked at each scrape, must not wait for anything.
MetricSource = Callable[[], Iterable[Metric]]


@dataclass(kw_only=True)
class Services:
    """The composition of the cloud. Lists are filled before the servers start."""

    config: CloudConfig
    clock: Clock
    db: Database
    spool: BatchSpool
    dead_letters: DeadLetters
    manifests: ManifestStore
    vehicles: Vehicles
    users: Users
    enrolment: Enrolment
    register: CertificateRegister
    writer: IngestWriter
    uploads: Uploads
    check_ins: CheckIns
    downlinks: DownlinkHub
    listeners: BatchListeners
    accounting: AccountingDesk
    small_requests: Buckets
    enrol_attempts: Buckets
    diagnostics: FleetDiagnostics
    updates: FleetUpdates
    campaigns: FleetCampaigns
    batch_listeners: list[BatchListener] = field(default_factory=list)
    erasers: list[Eraser] = field(default_factory=list)
    metric_sources: list[MetricSource] = field(default_factory=list)
    vehicle_url: str = ""  # what enrolled vehicles are told
    is_operator_tls: bool = False
    is_running: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)  # set when long answers (SSE) must end

    def load_secrets(self) -> None:
        """Read the CA's key, the key that signs bearer tokens, and the one for orders where it exists.

        Raises:
            ConfigError: missing or damaged; says how to make them.
        """
        config = self.config
        certificate, key = config.path(config.authority.certificate), config.path(config.authority.key)
        try:
            self.enrolment.authority = Authority(certificate.read_bytes(), key.read_bytes())
            self.users.secret = config.path(config.sessions.secret).read_bytes()
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}; 'outrider cloud init' makes it") from error
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{certificate} and {key}: {error}") from error
        self._load_order_key()
        if len(self.users.secret) < 32:
            raise ConfigError(f"{config.path(config.sessions.secret)}: shorter than 32 bytes")

    def _load_order_key(self, *, make: bool = False) -> None:
        path = self.config.path(self.config.authority.order_key)
        if not make and not path.exists():
            return
        try:
            self.enrolment.signer = OrderSigner(ensure_order_key(path))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}: {error}") from error

    def ensure_order_key(self) -> None:
        """Make the key for orders, for a directory of before there were orders.

        Raises:
            ConfigError: it cannot be made or read.
        """
        self._load_order_key(make=True)

    def stop(self) -> None:
        """Say that the service ends: readiness turns, downlinks and live streams close."""
        self.is_running = False
        self.stopping.set()
        self.downlinks.stop()

    async def tell_released(self, manifest_hash: str) -> None:
        """Tell listeners of the newest batches that waited for a manifest which has come."""
        query = (
            select(BatchRow)
            .where(BatchRow.state == BatchState.STORED, BatchRow.manifest_hash == manifest_hash)
            .order_by(BatchRow.id.desc())
            .limit(self.config.ingest.listener_queue_max // 4)
        )
        async with self.db.read() as session:
            for row in reversed((await session.scalars(query)).all()):
                self.listeners.tell(StoredBatch.of(row))
