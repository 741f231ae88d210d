"""The composition root: the only place that builds the gateway's components and connects them."""

from __future__ import annotations

import logging
import os
import random
import secrets
import signal
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
from anyio.abc import TaskStatus

from dbc.logs import LogError, open_log
from dbc.manifest import Manifest, ManifestError, load_manifest
from gateway.can.config import OUR_INTERFACES, BusConfig
from gateway.can.model import SourceError
from gateway.can.opening import make_ports, open_source
from gateway.can.ports import FrameSource
from gateway.can.pythoncan import interface_names
from gateway.collect import LoadedSchemes, Selector, load_schemes
from gateway.collect.budget import BudgetKeeper
from gateway.config import Config, load_config, status_socket_path
from gateway.errors import ConfigError
from gateway.link.backoff import Backoff
from gateway.link.checkin import CertificateKeeper, CheckInSender, Downlink, Wishes
from gateway.link.client import CloudClient
from gateway.link.identity import Identity
from gateway.link.kind import LinkKind
from gateway.link.manifests import ManifestShelf
from gateway.link.queue import BY_URGENCY, UploadQueue
from gateway.link.uplink import Uplink
from gateway.reporter import Reporter
from gateway.runtime import Channel, Clock, Component, HealthBoard, OnFull, SystemClock, run_all
from gateway.runtime.notify import ServiceManager, Watchdog
from gateway.spool import Spool, SpoolLimits
from gateway.status import StatusServer
from gateway.telemetry.batcher import Batcher, Piece
from gateway.telemetry.collector import Collector
from gateway.telemetry.desk import SpoolDesk
from gateway.telemetry.ledger import LedgerKeeper
from gateway.telemetry.outlet import EventOutlet
from gateway.telemetry.writer import Writer
from gateway.wire.batch import Priority

if TYPE_CHECKING:
    from gateway.diag.assembly import Diagnostics
    from gateway.update.assembly import Updates

log = logging.getLogger(__name__)

MANIFEST_BACKOFF_MAX_S = 3600.0
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


def software_version() -> str:
    """The installed version of this distribution."""
    try:
        return version("outrider")
    except PackageNotFoundError:
        return "0+unknown"


def load_inputs(config: Config, base: Path) -> tuple[Manifest, LoadedSchemes]:
    """Everything the configuration names, read and resolved against each other.

    Raises:
        ConfigError: the manifest is missing or wrong, or a bus is not in it, a bus's interface or log or the identity
            is not there. What is wrong with a scheme is in the answer, since the others can still run.
    """
    path = base / config.collect.manifest
    try:
        manifest = load_manifest(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", where="$.collect.manifest") from error
    except ManifestError as error:
        raise ConfigError(str(error), where="$.collect.manifest") from error
    for i, bus in enumerate(config.buses):
        if bus.name not in manifest.buses:
            known = ", ".join(manifest.buses)
            raise ConfigError(f"bus {bus.name!r} is not in the manifest ({known})", where=f"$.buses[{i}].name")
        _check_bus(bus, i, base)
    try:
        make_ports(config.buses, config.read, config.replay)  # opens nothing
    except SourceError as error:
        raise ConfigError(str(error), where="$.buses") from error
    status_socket_path(config, base)
    open_identity(config, base)
    return manifest, load_schemes([base / name for name in config.collect.schemes], manifest, config.limits)


def _check_bus(bus: BusConfig, number: int, base: Path) -> None:
    """Whether there can be such a bus: python-can knows the interface, the log is a log."""
    if bus.interface == "replay":
        try:
            open_log(base / bus.channel).close()
        except (LogError, ValueError) as error:
            raise ConfigError(str(error), where=f"$.buses[{number}].channel") from error
    elif bus.interface not in OUR_INTERFACES and (known := interface_names()) and bus.interface not in known:
        close = get_close_matches(bus.interface, [*OUR_INTERFACES, *known], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f" ({', '.join([*OUR_INTERFACES, *known])})"
        raise ConfigError(f"no interface is called {bus.interface!r}{hint}", where=f"$.buses[{number}].interface")


def load_started(path: Path) -> Config:
    """The configuration of a gateway that starts now: counts the start for whatever of it is on trial.

    Raises:
        GatewayError: the configuration is wrong, or the disk does not answer.
    """
    if path.with_name(f"{path.name}.trial").exists():  # the configuration itself, which may be unreadable
        from gateway.update.payload_trial import before_start

        if why := before_start(path):
            log.error("configuration_put_back", extra={"why": why})
    config = load_config(path)
    if config.update.payloads:
        from gateway.update.assembly import begin_payload_trials

        begin_payload_trials(config, path.resolve().parent, apart_from=path.resolve())
    return config


def open_identity(config: Config, base: Path) -> Identity | None:
    """The identity the configuration names; None when the gateway only stores.

    Raises:
        ConfigError: the vehicle is not enrolled there, or as another one.
    """
    if config.link.identity_directory is None:
        return None
    identity = Identity(base / config.link.identity_directory)
    facts = identity.facts()
    if facts.vehicle != config.vehicle:
        raise ConfigError(f"the identity is {facts.vehicle!r}'s, not this vehicle's", where="$.vehicle")
    return identity


def open_spool(config: Config, base: Path) -> Spool:
    """Open or make the spool; damage in it is repaired and counted, not raised."""
    limits = SpoolLimits(max_bytes=config.spool.max_bytes, segment_bytes=config.spool.segment_bytes)
    return Spool.open(base / config.spool.directory, limits)


def _kernel_boot() -> str:
    try:
        return BOOT_ID_FILE.read_text().strip()
    except OSError:
        return ""


class Gateway:
    """One configured gateway, ready to run. All wiring is in ``_run`` and ``_link``."""

    def __init__(self, config: Config, base: Path, *, clock: Clock | None = None) -> None:
        self.config, self.base, self.clock = config, base, clock or SystemClock()
        self.health = HealthBoard()
        self.manifest, self.loaded = load_inputs(config, base)
        self.diagnostics = self._diagnostics() if config.diagnostics.is_wanted or config.routing.rules else None
        self.updates = self._updates() if config.update.is_wanted else None
        for error in self.loaded.errors:
            log.error("scheme_rejected", extra={"error": str(error)})
        if not self.loaded.schemes:
            raise self.loaded.errors[0]
        self._client: CloudClient | None = None
        self.stop = anyio.Event()

    async def run(self) -> None:
        """Run until ``stop`` is set; returns with everything durable and the last state marked clean.

        Raises:
            ExceptionGroup: a required component failed.
            GatewayError: it could not start.
        """
        spool = open_spool(self.config, self.base)
        desk = SpoolDesk(spool)
        try:
            keeper = LedgerKeeper(
                [bus.name for bus in self.config.buses],
                spool.last_state(),
                sum(t.stored for t in spool.totals().values()),
                kernel_boot=_kernel_boot(),
            )
            if keeper.crashed:
                log.warning("was_not_stopped_cleanly")
            shelf = self._keep_manifest(spool)
            source = self._open_source()
            await self._run(desk, keeper, source, shelf)
            await desk.checkpoint(keeper.persisted(is_clean=True))
        finally:
            await desk.close()

    def _open_source(self) -> FrameSource:
        """The buses; a replayed log's path is relative to the configuration, like every other."""
        buses = [
            msgspec.structs.replace(bus, channel=str(self.base / bus.channel)) if bus.interface == "replay" else bus
            for bus in self.config.buses
        ]
        return open_source(buses, read=self.config.read, replay=self.config.replay, clock=self.clock)

    def _keep_manifest(self, spool: Spool) -> ManifestShelf:
        """Batches stored from now on name our manifest: keep it for as long as they may need it."""
        directory = self.base / self.config.spool.directory
        shelf = ManifestShelf(directory, self.manifest.hash.hex(), self.manifest.to_bytes())
        shelf.keep(is_drained=not any(t.pending for t in spool.totals().values()))
        return shelf

    async def _run(self, desk: SpoolDesk, keeper: LedgerKeeper, source: FrameSource, shelf: ManifestShelf) -> None:
        telemetry = self.config.telemetry
        channel: Channel[list[Piece]] = Channel("pieces", telemetry.channel_depth, OnFull.WAIT)
        selector = Selector(self.manifest, self.loaded.schemes, self.config.limits)
        budget = BudgetKeeper(self.config.budget, keeper.budget)
        collector = self._collector(source, selector, keeper, budget, channel)
        writer = self._writer(desk, keeper, budget, channel)
        reporter = Reporter(
            vehicle=self.config.vehicle,
            software=software_version(),
            boot_id=secrets.token_hex(8),
            manifest_hash=self.manifest.hash.hex(),
            desk=desk,
            keeper=keeper,
            source=source,
            selector=selector,
            budget=budget,
            rejected=self.loaded.rejected,
            channel=channel,
            health=self.health,
            clock=self.clock,
        )
        manager = ServiceManager()
        components: list[Component] = []
        if socket := status_socket_path(self.config, self.base):
            components.append(StatusServer(socket, reporter.status))
        components += self._link(desk, keeper, reporter, shelf)
        components += [writer, collector]
        if self.diagnostics is not None:
            directory = self.config.link.identity_directory
            components += self.diagnostics.components(
                EventOutlet(channel, keeper), self.base / directory if directory is not None else None
            )
            components += self._orders(reporter, self.diagnostics)
            reporter.diagnostics = self.diagnostics.statistics
        if self.updates is not None:
            components += self._update_components(self.updates, reporter)
        components.append(Watchdog(manager, self.health, self.clock))
        if self.config.runtime.exit_when_replayed:
            components.append(_StopWhenEnded(collector, self.stop))
        components.append(_Ready(manager, len(self.config.buses)))
        await run_all(components, self.stop)
        manager.notify("STOPPING=1")

    def _collector(
        self,
        source: FrameSource,
        selector: Selector,
        keeper: LedgerKeeper,
        budget: BudgetKeeper,
        channel: Channel[list[Piece]],
    ) -> Collector:
        return Collector(
            source=source,
            selector=selector,
            keeper=keeper,
            budget=budget,
            outlet=channel,
            health=self.health,
            clock=self.clock,
            filtered_buses=frozenset(bus.name for bus in self.config.buses if bus.filters == "auto"),
            observers=(
                *(self.diagnostics.observers if self.diagnostics is not None else ()),
                *(self.updates.observers if self.updates is not None else ()),
            ),
        )

    def _writer(
        self, desk: SpoolDesk, keeper: LedgerKeeper, budget: BudgetKeeper, channel: Channel[list[Piece]]
    ) -> Writer:
        telemetry = self.config.telemetry
        periods_s = {
            Priority.CRITICAL: telemetry.critical_period_s,
            Priority.NORMAL: telemetry.normal_period_s,
            Priority.BULK: telemetry.bulk_period_s,
        }
        return Writer(
            inlet=channel,
            batcher=Batcher({p: int(s * 1e9) for p, s in periods_s.items()}, telemetry.max_batch_items),
            desk=desk,
            keeper=keeper,
            budget=budget,
            manifest_hash=self.manifest.hash,
            health=self.health,
            clock=self.clock,
            max_batch_bytes=telemetry.max_batch_bytes,
            checkpoint_s=telemetry.checkpoint_s,
            drain_s=telemetry.drain_s,
        )

    def _diagnostics(self) -> Diagnostics:
        """Loaded only where it is configured: it is half of the code and a third of a start."""
        from gateway.diag.assembly import Diagnostics, load_diagnostic_inputs

        inputs = load_diagnostic_inputs(self.config, self.base, self.manifest, self.clock)
        return Diagnostics(
            self.config,
            self.base,
            inputs,
            manifest=self.manifest,
            clock=self.clock,
            health=self.health,
            software=software_version(),
        )

    def _updates(self) -> Updates:
        """Loaded only where it is configured."""
        from gateway.update.assembly import Updates, ecu_reservation

        updates = Updates(self.config, self.base, manifest=self.manifest, clock=self.clock, health=self.health)
        if self.diagnostics is not None and self.config.update.ecus:
            self.diagnostics.guard = lambda inner: ecu_reservation(updates, inner)
        return updates

    def _update_components(self, updates: Updates, reporter: Reporter) -> list[Component]:
        kind = reporter.link_kind
        components = updates.components(
            self._client,
            self.diagnostics.router if self.diagnostics is not None else None,
            link_kind=kind.kind if kind is not None else lambda: "unknown",
            stop=self.stop.set,
        )
        reporter.updates = updates.statistics
        if reporter.wishes is not None and updates.service is not None:
            reporter.wishes.updates = updates.service
        return components

    def _orders(self, reporter: Reporter, diagnostics: Diagnostics) -> list[Component]:
        """What obeys the cloud; its orders come by check-ins and the WebSocket."""
        from gateway.command.desk import OrderDesk
        from gateway.command.store import OrderStore

        handlers = diagnostics.handlers
        identity = open_identity(self.config, self.base)
        if identity is None or reporter.wishes is None or self._client is None or not handlers:
            return []
        link = self.config.link
        orders = OrderDesk(
            vehicle=self.config.vehicle,
            key=identity.order_key,
            store=OrderStore(identity.directory / "orders"),  # lost only together with the key
            handlers=handlers,
            sender=self._client,
            backoff=Backoff(link.backoff_first_s, link.backoff_max_s, random.SystemRandom().random),
            clock=self.clock,
            health=self.health,
        )
        reporter.wishes.orders = orders
        return [orders]

    def _link(self, desk: SpoolDesk, keeper: LedgerKeeper, reporter: Reporter, shelf: ManifestShelf) -> list[Component]:
        link = self.config.link
        identity = open_identity(self.config, self.base)
        if identity is None:
            log.info("no_identity_configured_storing_only")
            return []
        url = link.url or identity.facts().cloud_url
        client = self._client = CloudClient(identity, url, link.timeout_s, self.config.vehicle)
        kind = LinkKind(self.base / link.kind_file if link.kind_file else None, self.clock)
        reporter.link_kind = kind

        def backoff() -> Backoff:
            return Backoff(link.backoff_first_s, link.backoff_max_s, random.SystemRandom().random)

        uplink = Uplink(
            client=client,
            desk=desk,
            queue=UploadQueue(BY_URGENCY, desk.next_pending),
            keeper=keeper,
            backoff=backoff(),
            manifest_backoff=Backoff(link.backoff_first_s, MANIFEST_BACKOFF_MAX_S, random.SystemRandom().random),
            health=self.health,
            clock=self.clock,
            is_allowed=kind.allows,
            shelf=shelf,
            window=link.window,
            drain_s=link.drain_s,
        )
        reporter.uplink = uplink
        wishes = reporter.wishes = Wishes(uplink, desk, self.clock)
        check_in = CheckInSender(
            client=client,
            report=reporter.check_in,
            wishes=wishes,
            uplink=uplink,
            backoff=backoff(),
            health=self.health,
            clock=self.clock,
            period_s=link.check_in_s,
        )
        components: list[Component] = [_Closing(client), check_in, uplink]
        if link.downlink:
            components.append(
                Downlink(client=client, wishes=wishes, backoff=backoff(), health=self.health, clock=self.clock)
            )
        components.append(
            CertificateKeeper(
                client=client,
                identity=identity,
                vehicle=self.config.vehicle,
                health=self.health,
                clock=self.clock,
                period_s=link.renewal_check_s,
            )
        )
        return components


class _Closing:
    """Closes the client after everyone who uses it has stopped."""

    name, drain_s, optional = "connections", 0.0, False

    def __init__(self, client: CloudClient) -> None:
        self._client = client

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await self._client.aclose()


class _Ready:
    """Tells the service manager that everyone before it has started."""

    name, drain_s, optional = "ready", 0.0, False

    def __init__(self, manager: ServiceManager, buses: int) -> None:
        self._manager, self._buses = manager, buses

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        self._manager.notify("READY=1", f"STATUS=reading {self._buses} buses")
        log.info("gateway_ready", extra={"buses": self._buses})
        task_status.started()


class _StopWhenEnded:
    """Stops the gateway when every replayed log has ended."""

    name, drain_s, optional = "stop-when-replayed", 0.0, False

    def __init__(self, collector: Collector, stop: anyio.Event) -> None:
        self._collector, self._stop = collector, stop

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        await self._collector.has_ended.wait()
        self._stop.set()


async def run_until_signalled(gateway: Gateway) -> None:
    """Run a gateway; SIGTERM and SIGINT stop it in order, a second one ends the process at once."""

    async def watch(*, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for signum in signals:
                if gateway.stop.is_set():
                    log.error("stopped_at_once", extra={"signal": signum})
                    os._exit(os.EX_SOFTWARE)
                log.info("stopping", extra={"signal": signal.Signals(signum).name})
                gateway.stop.set()

    async with anyio.create_task_group() as tg:
        await tg.start(watch)
        try:
            await gateway.run()
        finally:
            tg.cancel_scope.cancel()
