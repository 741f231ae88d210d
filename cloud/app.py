"""Composition root of the cloud: the only place that builds and connects its parts."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib.metadata import version

from litestar import Litestar, Router
from litestar.config.app import AppConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.types import ASGIApp, ControllerRouterHandler

from cloud.accounting.routes import ACCOUNTING_ROUTES
from cloud.accounting.service import AccountingDesk
from cloud.auth.middleware import OperatorMiddleware, require_role, role
from cloud.auth.model import Role
from cloud.auth.routes import AUTH_ROUTES
from cloud.auth.users import Users
from cloud.campaigns.routes import CAMPAIGN_ROUTES
from cloud.campaigns.running import FleetCampaigns, campaigns_lifespan
from cloud.clock import Clock, SystemClock
from cloud.config import CloudConfig
from cloud.console import console_router
from cloud.db import Database, connect
from cloud.diagnostics.fault_routes import FAULT_ROUTES
from cloud.diagnostics.job_routes import JOB_ROUTES
from cloud.diagnostics.running import diagnostics_lifespan
from cloud.diagnostics.service import FleetDiagnostics
from cloud.history.routes import history_router
from cloud.history.telemetry import lake_lifespan
from cloud.housekeeping import keep_tidy
from cloud.identity.enrolment import Enrolment
from cloud.identity.peer import CertificateRegister
from cloud.ingest.checkins import CheckIns
from cloud.ingest.downlink import DownlinkHub
from cloud.ingest.limits import Buckets
from cloud.ingest.listeners import BatchListeners
from cloud.ingest.routes import VEHICLE_ROUTES
from cloud.ingest.uploads import Uploads
from cloud.ingest.writer import IngestWriter
from cloud.live.routes import live_router
from cloud.manifests import ManifestStore
from cloud.registry.routes import REGISTRY_ROUTES, enrol
from cloud.registry.vehicles import Vehicles
from cloud.services import BatchListener, Services
from cloud.spool import SqliteBatchSpool
from cloud.spool.deadletters import DeadLetters
from cloud.spool.routes import SPOOL_ROUTES
from cloud.updates.routes import UPDATE_ROUTES
from cloud.updates.running import updates_lifespan
from cloud.updates.service import FleetUpdates
from cloud.updates.vehicle_routes import UPTANE_ROUTES
from cloud.web.health import HEALTH_ROUTES
from cloud.web.metrics import Metrics
from cloud.web.problems import EXCEPTION_HANDLERS
from cloud.web.tracing import Tracing

API = "/api/v1"


def build_services(config: CloudConfig, clock: Clock | None = None) -> Services:
    """All parts, connected, nothing started and no file touched."""
    clock = clock or SystemClock()
    limits = config.ingest
    db = Database(config.path(config.storage.database), busy_timeout_ms=config.storage.busy_timeout_ms)
    dead_letters = DeadLetters(
        max_count=limits.max_dead_letters_per_vehicle, max_bytes=limits.max_dead_letter_bytes_per_vehicle
    )
    batch_listeners: list[BatchListener] = []
    listeners = BatchListeners(batch_listeners, limits.listener_queue_max)
    writer = IngestWriter(db, limits, clock)
    vehicles = Vehicles(db, clock)
    downlinks = DownlinkHub(limits.downlinks_max)
    enrolment = Enrolment(db, clock, config.authority)
    diagnostics = FleetDiagnostics.build(db, clock, config, enrolment)
    check_ins = CheckIns(db, clock, limits, config.fleet)
    check_ins.order_source = diagnostics.delivery.orders_for
    updates = FleetUpdates.build(db, clock, config)
    check_ins.update_mark = updates.director.mark
    return Services(
        config=config,
        clock=clock,
        db=db,
        spool=SqliteBatchSpool(db, dead_letters),
        dead_letters=dead_letters,
        manifests=ManifestStore(db),
        vehicles=vehicles,
        users=Users(db, clock, config.sessions),
        enrolment=enrolment,
        register=CertificateRegister(),
        writer=writer,
        uploads=Uploads(
            db=db,
            clock=clock,
            limits=limits,
            storage=config.storage,
            writer=writer,
            dead_letters=dead_letters,
            listeners=listeners,
        ),
        check_ins=check_ins,
        downlinks=downlinks,
        listeners=listeners,
        accounting=AccountingDesk(
            db=db, clock=clock, config=config, vehicles=vehicles, downlinks=downlinks, statistics=writer.statistics
        ),
        small_requests=Buckets(limits.small_requests_per_s, limits.small_requests_burst),
        enrol_attempts=Buckets(limits.enrol_attempts / limits.enrol_window_s, limits.enrol_attempts),
        diagnostics=diagnostics,
        updates=updates,
        campaigns=FleetCampaigns.build(db, clock, config),
        batch_listeners=batch_listeners,
        is_operator_tls=bool(config.operator.certificate) or config.operator.public_url.startswith("https://"),
        vehicle_url=config.vehicle.public_url or f"https://{config.vehicle.host}:{config.vehicle.port}",
    )


@asynccontextmanager
async def running(services: Services, *, background: bool = True) -> AsyncIterator[None]:
    """Open the database and run the background tasks while the block lasts; stop them in order after it.

    Args:
        background: False for commands that only need the database, perhaps beside a running service.

    Raises:
        ConfigError, StorageError: it cannot start.
    """
    services.load_secrets()
    services.ensure_order_key()
    services.updates.keys.ensure()
    config = services.config
    services.db.path.parent.mkdir(parents=True, exist_ok=True)
    await services.db.open()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(services.db.close)
        services.register.open(connect(services.db.path, busy_timeout_ms=config.storage.busy_timeout_ms))
        stack.callback(services.register.close)
        if not background:
            yield
            return
        for lifespan in _lifespans():
            await stack.enter_async_context(lifespan(services))
        for work in (
            keep_tidy(services),
            services.accounting.rates.run(),
            services.listeners.run(),
            services.writer.run(),
        ):
            await stack.enter_async_context(_background(asyncio.ensure_future(work)))
        services.is_running = True
        try:
            yield
        finally:
            services.stop()


@asynccontextmanager
async def _background(task: asyncio.Future[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _lifespans() -> list[Callable[[Services], AbstractAsyncContextManager[None]]]:
    """Parts that bring their own background work; each fills ``batch_listeners`` and ``erasers`` before it yields."""
    return [lake_lifespan, diagnostics_lifespan, updates_lifespan, campaigns_lifespan]


def build_operator_app(services: Services, extra: Sequence[ControllerRouterHandler] = ()) -> tuple[ASGIApp, Metrics]:
    """REST, console, enrolment, health and metrics. Each route declares a role, or is refused."""
    app = operator_litestar(services, extra)
    metrics: Metrics = app.state.metrics
    return Tracing(
        app, port="operator", observe=metrics.observer("operator"), log_requests=True, is_tls=services.is_operator_tls
    ), metrics


def operator_litestar(services: Services, extra: Sequence[ControllerRouterHandler] = ()) -> Litestar:
    """The same without the outer layer; for tests that look at routes."""
    api = Router(
        API,
        route_handlers=[
            *AUTH_ROUTES,
            *REGISTRY_ROUTES,
            *ACCOUNTING_ROUTES,
            *SPOOL_ROUTES,
            *FAULT_ROUTES,
            *JOB_ROUTES,
            *UPDATE_ROUTES,
            *CAMPAIGN_ROUTES,
        ],
    )
    return Litestar(
        route_handlers=[api, enrol, *HEALTH_ROUTES, history_router, live_router, console_router, *extra],
        dependencies={"services": Provide(lambda: services, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
        middleware=[OperatorMiddleware],
        guards=[require_role],
        state=State({"services": services, "metrics": Metrics(services)}),
        request_max_body_size=1024 * 1024,
        openapi_config=OpenAPIConfig(
            title="Outrider fleet cloud",
            version=version("outrider"),
            openapi_router=Router("/schema", route_handlers=[], opt=role(Role.VIEWER)),
            render_plugins=[JsonRenderPlugin(), YamlRenderPlugin()],
        ),
        on_app_init=[_no_logging],
    )


def build_vehicle_app(
    services: Services, metrics: Metrics | None = None, extra: Sequence[ControllerRouterHandler] = ()
) -> ASGIApp:
    """What vehicles reach: nothing but the contract of ``gateway.wire.api``."""
    app = Litestar(
        route_handlers=[*VEHICLE_ROUTES, *UPTANE_ROUTES, *extra],
        dependencies={"services": Provide(lambda: services, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
        state=State({"services": services}),
        openapi_config=None,
        on_app_init=[_no_logging],
    )
    metrics = metrics or Metrics(services)
    return Tracing(app, port="vehicle", observe=metrics.observer("vehicle"), log_requests=False)


def _no_logging(config: AppConfig) -> AppConfig:
    """Litestar shall not configure logging; ``cloud.log`` does."""
    config.logging_config = None
    return config


def new_secret() -> bytes:
    """A key for signing bearer tokens."""
    return secrets.token_hex(32).encode("ascii")
