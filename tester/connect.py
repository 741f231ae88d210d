"""The bench: connections opened when an ECU is first asked, closed in order, ECUs left in their default session.

    async with Bench(vehicle, [parse_via("can:vcan0")]) as bench:
        client = await bench.client("motor")          # a gateway.uds.client.UdsClient, kept alive by itself
        voltage = await client.read_did(0x0100)

All clients belong to one bench and one event loop. Observers are told every PDU: that is how ``--trace`` records.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Literal, Protocol, Self, cast

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus

from gateway.can.link import CanLink
from gateway.diag.addresses import address_of, functional_address_of, settings_of
from gateway.diag.config import EcuConfig
from gateway.doip.client import ClientSettings, DoipConnection
from gateway.doip.tls import client_context
from gateway.errors import GatewayError
from gateway.isotp import Address, IsoTpBus, Settings
from gateway.uds.channel import DiagnosticChannel, FunctionalChannel
from gateway.uds.client import UdsClient
from gateway.uds.functional import FunctionalClient
from gateway.uds.names import Session
from gateway.uds.timing import Timing
from tester.errors import UsageError
from tester.vehicle import Ecu, Vehicle
from tester.via import CanVia, DoipVia, Via

FAREWELL_S = 2.0  # for all ECUs together, to get back to their default session


class Observer(Protocol):
    """Told of every PDU: whose ("*" functional), "request", "answer", "stale" or "unsolicited", when (monotonic ns)."""

    def __call__(self, ecu: str, kind: str, pdu: bytes, now_ns: int) -> None:
        """Must be quick and not raise."""


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the tool is. None: as the ECU says."""

    p2_ms: int | None = None  # until the first answer; then the ECU's own P2 is not followed
    timeout_s: float | None = None  # of one request with all its "response pending"
    latency_ms: int | None = None  # on top of the ECU's P2, for bus and routing


DEFAULT_WAITS = Waits()
CAN_LATENCY_MS, DOIP_LATENCY_MS = 250, 600


class Bench:
    """One vehicle by one or several ways in."""

    def __init__(
        self, vehicle: Vehicle, vias: Sequence[Via], *, waits: Waits = DEFAULT_WAITS, observers: Sequence[Observer] = ()
    ) -> None:
        """Nothing is opened yet.

        Raises:
            UsageError: no way in, or several to the same bus.
        """
        if not vias:
            raise UsageError("no connection: give --via, e.g. --via can:can0 or --via doip:HOST (or set OUTRIDER_UDS)")
        buses = [via.bus for via in vias if isinstance(via, CanVia)]
        if len(set(buses)) != len(buses):
            raise UsageError("two --via for the same bus: name the buses, e.g. --via body=can:can1")
        if sum(isinstance(via, DoipVia) for via in vias) > 1:
            raise UsageError("more than one DoIP node")
        self.vehicle, self.vias, self.waits = vehicle, tuple(vias), waits
        self.observers: list[Observer] = list(observers)
        #: Run before the ECUs are sent to their default session, latest first: what gives control back.
        self.farewells: list[Callable[[], Awaitable[object]]] = []
        self._stack = AsyncExitStack()
        self._buses: dict[CanVia, IsoTpBus] = {}
        self._doip: DoipConnection | None = None
        self._clients: dict[str, UdsClient] = {}
        self._opening = anyio.Lock()
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        tasks, self._tasks = self._tasks, None
        with anyio.CancelScope(shield=True):
            await self._say_farewell()
        if tasks is None:
            return None
        tasks.cancel_scope.cancel()
        try:
            if error is None or isinstance(error, Exception):
                await tasks.__aexit__(None, None, None)  # errors of the body reach the caller as they are, in no group
                return None
            return await tasks.__aexit__(kind, error, trace)
        finally:
            with anyio.CancelScope(shield=True):
                await self._stack.aclose()

    async def _keep(self, client: UdsClient, *, task_status: TaskStatus[None]) -> None:
        """Own a client's keep-alive, in a task of its own: whoever asked for it first may be gone before it ends."""
        async with client:
            task_status.started()
            await anyio.sleep_forever()

    async def _say_farewell(self) -> None:
        while self.farewells:
            with anyio.move_on_after(FAREWELL_S), contextlib.suppress(GatewayError):
                await self.farewells.pop()()

        async def leave(client: UdsClient) -> None:
            with contextlib.suppress(GatewayError):
                await client.session(Session.DEFAULT)

        with anyio.move_on_after(FAREWELL_S):
            async with anyio.create_task_group() as tasks:
                for client in self._clients.values():
                    if client.current_session != Session.DEFAULT:
                        tasks.start_soon(leave, client)

    # Ways in.

    def via_of(self, ecu: Ecu) -> Via:
        """The way to an ECU: the bus of its name, else DoIP, else the bus without a name.

        Raises:
            UsageError: there is none.
        """
        for via in self.vias:
            if isinstance(via, CanVia) and via.bus and via.bus == ecu.link.bus:
                return via
        is_on_can = ecu.link.request_id or ecu.link.addressing == "normal_fixed"
        only = len(self.vias) == 1 and not ecu.link.bus  # an address without a bus: there is no other
        for via in self.vias:
            if isinstance(via, DoipVia) and ecu.link.logical_address:
                return via
            if isinstance(via, CanVia) and (only or not via.bus) and is_on_can:
                return via
        raise UsageError(f"no --via leads to {ecu.name} (bus {ecu.link.bus or 'unnamed'})")

    def reachable(self) -> list[Ecu]:
        """The vehicle's ECUs that some way leads to."""
        found = []
        for ecu in self.vehicle.ecus:
            with contextlib.suppress(UsageError):
                self.via_of(ecu)
                found.append(ecu)
        return found

    async def bus(self, via: CanVia) -> IsoTpBus:
        """The open bus.

        Raises:
            TransportError: it cannot be opened.
        """
        async with self._opening:
            if via not in self._buses:
                kernel = cast(Literal["auto", "never", "always"], via.kernel)
                bus = IsoTpBus(
                    via.interface, via.channel, kernel=kernel, fd=via.fd, bitrate_bps=via.bitrate_bps,
                    data_bitrate_bps=via.data_bitrate_bps, options=dict(via.options),
                )  # fmt: skip
                self._stack.push_async_callback(bus.aclose)
                self._buses[via] = bus
            return self._buses[via]

    async def link(self, via: CanVia) -> CanLink:
        """The open bus, frame by frame."""
        return (await self.bus(via)).link

    async def doip(self, via: DoipVia) -> DoipConnection:
        """The activated connection; opened again when the node has closed it.

        Raises:
            ActivationRefusedError, TransportError, ConfigError: no connection.
        """
        async with self._opening:
            if self._doip is None or not self._doip.is_open:
                tls = client_context(via.ca or None, via.certificate, via.key) if via.tls else None
                settings = ClientSettings(activation_type=via.activation, version=via.version)
                self._doip = await DoipConnection.open(via.host, via.port, via.source, tls=tls, settings=settings)
                self._stack.push_async_callback(self._doip.aclose)
            return self._doip

    # Conversations.

    def timing_of(self, ecu: Ecu | None, via: Via) -> Timing:
        """P2 and the rest, as the user, the vehicle file or the standard says."""
        waits = self.waits
        usual = DOIP_LATENCY_MS if isinstance(via, DoipVia) else CAN_LATENCY_MS
        return Timing(
            p2_ms=waits.p2_ms or (ecu.link.p2_ms if ecu else 50),
            p2_star_ms=ecu.link.p2_star_ms if ecu else 5000,
            latency_ms=usual if waits.latency_ms is None else waits.latency_ms,
            max_pending=ecu.link.max_pending if ecu else 120,
            max_total_ms=600_000 if waits.timeout_s is None else max(1, int(waits.timeout_s * 1000)),
            adopt_server_timing=waits.p2_ms is None,
        )

    async def channel(self, ecu: Ecu) -> DiagnosticChannel:
        """A channel of one's own to an ECU; the caller closes it.

        Raises:
            UsageError, TransportError, ConfigError: there is no way.
        """
        via = self.via_of(ecu)
        if isinstance(via, DoipVia):
            return (await self.doip(via)).channel(ecu.link.logical_address, ecu.name)
        bus = await self.bus(via)
        return bus.open_channel(address_of(ecu.link), settings_of(ecu.link), name=ecu.name)

    async def client(self, name: str | Ecu) -> UdsClient:
        """The client of an ECU, the same each time.

        Raises:
            As ``channel``.
        """
        ecu = self.ecu(name) if isinstance(name, str) else name
        if ecu.name in self._clients:
            return self._clients[ecu.name]
        channel = await self.channel(ecu)
        if ecu.name in self._clients:  # somebody was faster
            await channel.aclose()
            return self._clients[ecu.name]
        client = UdsClient(channel, timing=self.timing_of(ecu, self.via_of(ecu)), observer=self._observer_of(ecu.name))
        self._clients[ecu.name] = client
        self._stack.push_async_callback(channel.aclose)
        if self._tasks is None:
            raise RuntimeError("the bench is not open")
        await self._tasks.start(self._keep, client)
        return client

    async def functional(self, via: Via | None = None, ecus: Sequence[Ecu] | None = None) -> FunctionalClient:
        """All ECUs of one way in at once; ``ecus``: whose answers are heard (default: all known).

        Raises:
            UsageError: nobody there hears functional requests.
            TransportError, ConfigError: no connection.
        """
        via = via or self.vias[0]
        chosen = [e for e in (ecus if ecus is not None else self.reachable()) if self.via_of(e) == via]
        channel = await self._functional_channel(via, chosen)
        self._stack.push_async_callback(channel.aclose)
        return FunctionalClient(channel, timing=self.timing_of(None, via), observer=self._observer_of("*"))

    async def _functional_channel(self, via: Via, ecus: Sequence[Ecu]) -> FunctionalChannel:
        if isinstance(via, DoipVia):
            names = {ecu.link.logical_address: ecu.name for ecu in ecus}
            return (await self.doip(via)).functional(self.vehicle.functional_address, names)
        requests: dict[tuple[int, bool], Address] = {}
        listeners: dict[str, tuple[Address, Settings]] = {}
        for ecu in ecus:
            where = functional_address_of(ecu.link)
            if where is not None:
                requests[where.tx_id, where.extended_id] = where
                listeners[ecu.name] = (address_of(ecu.link), settings_of(ecu.link))
        if not requests:
            raise UsageError("no ECU here hears functional requests")
        return (await self.bus(via)).open_functional(list(requests.values()), listeners)

    def ecu(self, name: str) -> Ecu:
        """An ECU of the vehicle, or one that is only an address: ``7E0``, ``7E0/7E8``, ``18DA50F1``, ``0x1010`` (DoIP).

        Raises:
            UsageError: neither.
        """
        try:
            return self.vehicle.ecu(name)
        except UsageError:
            found = bare_ecu(name, is_doip=all(isinstance(via, DoipVia) for via in self.vias))
            if found is None:
                raise
            return found

    def _observer_of(self, name: str) -> Callable[[str, bytes, int], None]:
        def observe(kind: str, pdu: bytes, now_ns: int) -> None:
            for observer in self.observers:
                observer(name, kind, pdu, now_ns)

        return observe


def bare_ecu(text: str, *, is_doip: bool) -> Ecu | None:
    """An ECU known by its address only; None: the text is no address."""
    request, slash, response = text.partition("/")
    try:
        tx, rx = int(request, 16), int(response, 16) if slash else None
    except ValueError:
        return None
    if is_doip:
        if rx is not None or not 1 <= tx <= 0xFFFF:
            return None
        return Ecu(link=EcuConfig(name=f"0x{tx:04X}", bus="", logical_address=tx))
    if rx is None and tx >> 16 == 0x18DA:
        return Ecu(
            link=EcuConfig(
                name=f"{tx:08X}", bus="", logical_address=0xDA00 | tx >> 8 & 0xFF, addressing="normal_fixed",
                target_address=tx >> 8 & 0xFF, source_address=tx & 0xFF, functional_id=0x18DB33F1,
            )
        )  # fmt: skip
    if rx is None and not 0x700 <= tx <= 0x7F7:
        return None
    rx = tx + 8 if rx is None else rx
    if max(tx, rx) > 0x1FFFFFFF or min(tx, rx) <= 0:
        return None
    return Ecu(
        link=EcuConfig(
            name=text, bus="", logical_address=tx & 0xFFFF or 1, request_id=tx, response_id=rx,
            extended_id=max(tx, rx) > 0x7FF,
        )
    )  # fmt: skip
