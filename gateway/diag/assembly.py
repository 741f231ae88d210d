"""Diagnostics put together: the only place that builds its parts and connects them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from dbc.manifest import Manifest
from gateway.can.link_open import open_link
from gateway.can.observer import FrameObserver
from gateway.command.ports import OrderHandler
from gateway.config import Config
from gateway.diag.buses import DiagnosticBuses, open_bus_link
from gateway.diag.config import DiagnosticsSection
from gateway.diag.descriptions import load_descriptions
from gateway.diag.obd_port import ObdPort
from gateway.diag.poll import DtcPoller
from gateway.diag.poll_details import EcuLayout
from gateway.diag.poll_store import KnownFile
from gateway.diag.ports import Tester
from gateway.diag.remote import RemoteDiagnostics
from gateway.diag.remote_watch import RefusalWatch
from gateway.diag.router import Router, names_of
from gateway.diag.server import GatewayServer
from gateway.diag.server_data import DataIdentifier, identification
from gateway.diag.vehicle_state import VehicleState
from gateway.doip.model import vehicle_facts
from gateway.doip.node import DoipNode
from gateway.doip.tls import server_context
from gateway.dtc.component import DtcComponent, open_store
from gateway.dtc.monitors import MonitorEngine
from gateway.dtc.rules import NO_RULES, Rules, load_rules
from gateway.errors import ConfigError
from gateway.firewall.audit_log import AuditLog
from gateway.firewall.can_origin import OriginWatch
from gateway.firewall.can_router import CanRouter
from gateway.firewall.can_rules import RoutingTable, load_routing
from gateway.firewall.core import Firewall
from gateway.firewall.ports import DiagnosticFirewall
from gateway.firewall.setup import open_firewall, read_policy
from gateway.firewall.state import VehicleFacts
from gateway.runtime import Clock, Component, HealthBoard
from gateway.telemetry.outlet import EventOutlet

POLLER = "dtc poller"
#: Interfaces an ECU can be talked to on.
NOT_SPEAKABLE = frozenset({"replay"})


class DiagnosticInputs(msgspec.Struct, frozen=True, kw_only=True):
    """The files that diagnostics and routing name, read and resolved."""

    rules: Rules
    layouts: dict[str, EcuLayout]
    routing: RoutingTable


def load_diagnostic_inputs(config: Config, base: Path, manifest: Manifest, clock: Clock) -> DiagnosticInputs:
    """Everything the two sections name; nothing is opened.

    Raises:
        ConfigError: a file is missing or wrong, a signal is not in the manifest, a bus cannot be spoken on.
    """
    section = config.diagnostics
    interfaces = {bus.name: bus.interface for bus in config.buses}
    for i, ecu in enumerate(section.ecus):
        if interfaces[ecu.bus] in NOT_SPEAKABLE:
            raise ConfigError(f"bus {ecu.bus} is a recording", where=f"$.diagnostics.ecus[{i}].bus")
    VehicleState(section.vehicle_state, manifest, clock)
    vehicle_facts(section.doip, config.vehicle)
    if section.doip.enabled:
        server_context(section.doip, base)
    read_policy(section.firewall, base, _names(section))
    rules = load_rules(base / section.monitors.rules, manifest) if section.monitors.rules else NO_RULES
    known = {ecu.name for ecu in section.ecus}
    for name in sorted(rules.ecus):
        if name not in known:
            raise ConfigError(
                f"a monitor watches ECU {name!r}, which is not configured", where="$.diagnostics.monitors"
            )
    layouts = dict(load_descriptions(base / section.descriptions)) if section.descriptions else {}
    routing = RoutingTable()
    if config.routing.rules:
        routing = load_routing(base / config.routing.rules, manifest, [bus.name for bus in config.buses])
        for route in routing.routes:
            for bus in (route.source, *route.to):
                if interfaces[bus] in NOT_SPEAKABLE:
                    raise ConfigError(f"route {route.name!r}: bus {bus} is a recording", where="$.routing.rules")
    return DiagnosticInputs(rules=rules, layouts=layouts, routing=routing)


def _names(section: DiagnosticsSection) -> dict[str, int]:
    return dict(names_of(section.ecus, section.doip.logical_address))


def who(tester: Tester) -> str:
    """A tester in a report: ``doip 0x0e80``, ``cloud 0x0ec0 user:admin``."""
    return f"{tester.port} {tester.address:#06x} {tester.name}".rstrip()


class Diagnostics:
    """Observers for the collector, and components to be started after it, in their order."""

    def __init__(
        self,
        config: Config,
        base: Path,
        inputs: DiagnosticInputs,
        *,
        manifest: Manifest,
        clock: Clock,
        health: HealthBoard,
        software: str,
        own_data: Sequence[DataIdentifier] = (),
    ) -> None:
        """Nothing is opened yet.

        Args:
            config: the gateway's.
            base: the configuration file's folder.
            inputs: from ``load_diagnostic_inputs``.
            manifest: of the vehicle.
            clock: the time.
            health: where components report.
            software: the gateway's version.
            own_data: further identifiers of the gateway's own server.
        """
        self._config, self._base, self._inputs = config, base, inputs
        self._section = config.diagnostics
        self._clock, self._health = clock, health
        self.state = VehicleState(self._section.vehicle_state, manifest, clock)
        self.engine = MonitorEngine(inputs.rules, manifest, self.state, max_entries=self._section.monitors.max_entries)
        self._identifiers = [
            *identification(vin=self._vin(), software=software, manifest_hash=manifest.hash),
            *own_data,
        ]
        self._origins = OriginWatch(inputs.routing, manifest.buses, [bus.name for bus in config.buses])
        #: Put around the firewall by whoever must keep testers out for a while.
        self.guard: Callable[[DiagnosticFirewall], DiagnosticFirewall] = lambda inner: inner
        self.firewall: Firewall | None = None
        self.audit: AuditLog | None = None
        self.buses: DiagnosticBuses | None = None
        self.router: Router | None = None
        self.can_router: CanRouter | None = None
        self.poller: DtcPoller | None = None
        self.node: DoipNode | None = None
        self.obd_port: ObdPort | None = None
        self.dtc: DtcComponent | None = None
        self.remote: RemoteDiagnostics | None = None

    @property
    def observers(self) -> tuple[FrameObserver, ...]:
        """In the order in which they must see a batch."""
        return self.state, self.engine, self._origins

    def _vin(self) -> str:
        return vehicle_facts(self._section.doip, self._config.vehicle).vin.decode("ascii", "replace")

    def _facts(self, now_ns: int) -> VehicleFacts:
        return VehicleFacts(
            is_standing=self.state.is_standstill,
            was_standing=self.state.was_standstill,
            speed_kmh=self.state.speed_kmh,
            voltage_v=self.state.voltage_v,
        )

    @property
    def handlers(self) -> dict[str, OrderHandler]:
        """What carries out the cloud's orders, by kind; known once ``components`` was called."""
        return {"diagnostics": self.remote} if self.remote is not None and self._section.remote else {}

    def components(self, outlet: EventOutlet, identity: Path | None) -> list[Component]:
        """Made inside the event loop; users of the outlet, so they start after the collector."""
        components: list[Component] = []
        if self._section.is_wanted:
            components += self._diagnostics(outlet, identity)
        if self._inputs.routing.routes or self._inputs.routing.origins:
            components.append(self._routing(outlet))
        return components

    def _diagnostics(self, outlet: EventOutlet, identity: Path | None) -> list[Component]:
        section = self._section
        directory = self._base / section.monitors.directory
        self.dtc = DtcComponent(
            engine=self.engine,
            store=open_store(directory / "own"),
            outlet=outlet,
            clock=self._clock,
            health=self._health,
        )
        server = GatewayServer(faults=self.dtc, engine=self.engine, identifiers=self._identifiers, clock=self._clock)
        self.dtc.on_tick(server.tick)
        firewall, audit = open_firewall(
            section.firewall,
            self._base,
            names=_names(section),
            identity=identity,
            vehicle=self._facts,
            clock=self._clock,
            emit=outlet.emit,
            health=self._health,
        )
        self.firewall, self.audit = firewall, audit
        buses = self.buses = DiagnosticBuses(self._config.buses, kernel=section.kernel_isotp)
        watch = RefusalWatch(self.guard(firewall))
        self.router = Router(
            section.ecus,
            open_channel=buses.open_channel,
            open_functional=buses.open_functional,
            firewall=watch,
            clock=self._clock,
            own=server,
            own_address=section.doip.logical_address,
            functional_address=section.doip.functional_address,
            health=self._health,
        )
        self.remote = RemoteDiagnostics(
            self.router, section.ecus, watch=watch, own_address=section.doip.logical_address
        )
        components: list[Component] = [self.dtc, audit, buses, self.router]
        if section.poll.period_s and any(ecu.poll for ecu in section.ecus):
            poller, names = (
                self._poller(self.router, outlet, directory),
                {e.logical_address: e.name for e in section.ecus},
            )
            watch.on_cleared = lambda tester, target: poller.tell_cleared(names.get(target, ""), who(tester))
            components.append(poller)
        if section.doip.enabled:
            facts = vehicle_facts(section.doip, self._config.vehicle)
            self.node = DoipNode(section.doip, self.router, facts, self._clock, self._health, base=self._base)
            components.append(self.node)
        if section.obd_port.enabled:
            port = section.obd_port
            self.obd_port = ObdPort(
                port,
                section.ecus,
                self.router,
                open_link=lambda: open_link(port.interface, port.channel),
                clock=self._clock,
                health=self._health,
            )
            components.append(self.obd_port)
        return components

    def _poller(self, router: Router, outlet: EventOutlet, directory: Path) -> DtcPoller:
        tester = Tester(port="gateway", address=self._section.doip.logical_address, name=POLLER)
        self.poller = DtcPoller(
            ecus=self._section.ecus,
            section=self._section.poll,
            open_channel=lambda ecu: router.open_channel(tester, ecu.logical_address),
            outlet=outlet,
            clock=self._clock,
            health=self._health,
            store=KnownFile(directory / "known.json"),
            layouts=self._inputs.layouts,
            on_poll=self.engine.tell_ecu,
        )
        return self.poller

    def _routing(self, outlet: EventOutlet) -> CanRouter:
        buses = {bus.name: bus for bus in self._config.buses}
        self.can_router = CanRouter(
            table=self._inputs.routing,
            config=self._config.routing,
            links=lambda name: open_bus_link(buses[name]),
            interfaces={bus.name: bus.channel for bus in self._config.buses if bus.interface == "socketcan"},
            emit=outlet.emit,
            health=self._health,
            clock=self._clock,
            origins=self._origins,
        )
        return self.can_router

    def statistics(self) -> dict[str, object]:
        """For people and tests: plain values by component."""
        parts: dict[str, object] = {}
        for name, component in (
            ("router", self.router), ("firewall", self.firewall), ("audit", self.audit), ("buses", self.buses),
            ("poller", self.poller), ("doip", self.node), ("obd_port", self.obd_port),
            ("dtc", self.dtc),
            ("can_firewall", self.can_router),
        ):  # fmt: skip
            if component is not None:
                parts[name] = msgspec.to_builtins(component.statistics(), str_keys=True)
        return parts
