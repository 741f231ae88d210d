"""Who is there: on each CAN bus by probing, behind a DoIP node by asking it and every address."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import anyio
import msgspec

from gateway.diag.config import EcuConfig
from gateway.doip import discovery
from gateway.doip.errors import DiagnosticNackError, NoAcknowledgementError
from gateway.errors import GatewayError, TransportError
from gateway.uds.client import UdsClient
from gateway.uds.errors import NegativeResponse
from tester.connect import Bench
from tester.errors import NotThereError, UsageError
from tester.output import note
from tester.probe import Hit, Prober
from tester.vehicle import Ecu
from tester.via import CanVia, DoipVia


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """An ECU that answers. ``is_known``: the vehicle has it; else its name is its address."""

    ecu: Ecu
    via: str
    is_known: bool


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """What a DoIP node says of itself."""

    host: str
    vin: str
    eid: str
    logical_address: int
    sockets: str = ""
    power_mode: str = ""


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """Which addresses are tried besides the known ones."""

    eleven: Sequence[int] = range(0x700, 0x800)
    fixed: Sequence[int] = range(0x100)
    extended: Sequence[int] = range(0x100)
    doip: Sequence[int] = range(0x1000, 0x1100)


NO_SWEEP = Sweep(eleven=(), fixed=(), extended=(), doip=())


async def is_present(client: UdsClient) -> bool:
    """Whether an ECU answers "tester present", if only by refusing it."""
    try:
        await client.tester_present()
    except NegativeResponse:
        return True
    except GatewayError:
        return False
    return True


async def present(bench: Bench) -> list[Ecu]:
    """The vehicle's ECUs that answer.

    Raises:
        NotThereError: none does.
        TransportError: a connection cannot be opened.
    """
    from tester.running import for_each

    async def ask(_ecu: Ecu, client: UdsClient) -> bool:
        return await is_present(client)

    outcomes = await for_each(bench, bench.reachable(), ask)
    found = [outcome.ecu for outcome in outcomes if outcome.value]
    if not found:
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        raise NotThereError("no ECU answers; is the ignition on and the connection right?")
    return found


async def on_can(bench: Bench, via: CanVia, sweep: Sweep) -> list[Found]:
    """Known ECUs of a bus, those that hear functional requests, and those of the sweep.

    Raises:
        TransportError: the bus cannot be opened.
    """
    prober = Prober(await bench.link(via))
    await prober.listen()
    hits = await prober.functional()
    known = [ecu for ecu in bench.vehicle.ecus if _is_on(bench, ecu, via)]
    responses = {ecu.link.response_id for ecu in known} | set(range(0x7E8, 0x7F0))
    if sweep.eleven:
        hits += await prober.eleven_bit(list(sweep.eleven), skip=responses)
    if sweep.fixed:
        hits += await prober.fixed(sweep.fixed)
    if sweep.extended:
        hits += await prober.extended(sweep.extended)
    found = {hit.response_id: _of_hit(bench, known, hit, via) for hit in hits}
    seen = {one.ecu.name for one in found.values()}
    rest = [ecu for ecu in known if ecu.name not in seen]
    return [*found.values(), *await _of_known(bench, rest, via)]


def _is_on(bench: Bench, ecu: Ecu, via: CanVia) -> bool:
    try:
        return bench.via_of(ecu) == via
    except UsageError:
        return False


async def _of_known(bench: Bench, ecus: Sequence[Ecu], via: CanVia) -> list[Found]:
    found: list[Found] = []

    async def ask(ecu: Ecu) -> None:
        try:
            if await is_present(await bench.client(ecu)):
                found.append(Found(ecu=ecu, via=via.name, is_known=not bench.vehicle.is_generic))
        except GatewayError as error:
            note(f"{ecu.name}: {error}")

    async with anyio.create_task_group() as tasks:
        for ecu in ecus:
            tasks.start_soon(ask, ecu)
    return found


def _of_hit(bench: Bench, known: Sequence[Ecu], hit: Hit, via: CanVia) -> Found:
    for ecu in known:
        link = ecu.link
        is_fixed = link.addressing == "normal_fixed"
        same = (
            hit.extended_id and hit.request_id >> 8 & 0xFF == link.target_address
            if is_fixed
            else hit.response_id == link.response_id and hit.request_id == link.request_id
        )
        if same:
            return Found(ecu=ecu, via=via.name, is_known=not bench.vehicle.is_generic)
    return Found(ecu=_bare(hit, via.bus), via=via.name, is_known=False)


def _bare(hit: Hit, bus: str) -> Ecu:
    if hit.extended_id:
        link = EcuConfig(name=f"{hit.request_id:08X}", bus=bus, logical_address=0xDA00 | hit.request_id >> 8 & 0xFF,
                         addressing="normal_fixed", target_address=hit.request_id >> 8 & 0xFF,
                         source_address=hit.request_id & 0xFF)  # fmt: skip
    elif hit.target is not None:
        link = EcuConfig(name=f"{hit.request_id:X}:{hit.target:02X}", bus=bus, logical_address=0x6F00 | hit.target,
                         addressing="extended", request_id=hit.request_id, response_id=hit.response_id,
                         target_address=hit.target, source_address=hit.request_id & 0xFF)  # fmt: skip
    else:
        link = EcuConfig(name=f"{hit.request_id:X}/{hit.response_id:X}", bus=bus, logical_address=hit.request_id,
                         request_id=hit.request_id, response_id=hit.response_id)  # fmt: skip
    return Ecu(link=link)


async def node_of(via: DoipVia) -> Node | None:
    """What the node says by UDP; None: nothing."""
    host = await _address(via.host)
    try:
        vehicles = await discovery.discover(host, port=via.port, timeout_s=1.0, most=1)
    except TransportError:
        return None
    if not vehicles:
        return None
    identity = vehicles[0].identity
    sockets = mode = ""
    try:
        status = await discovery.entity_status(host, port=via.port, timeout_s=1.0)
        sockets = f"{status.open_sockets} of {status.max_sockets}"
        mode = {0: "not ready", 1: "ready"}.get(
            await discovery.power_mode(host, port=via.port, timeout_s=1.0), "unknown"
        )
    except GatewayError:
        pass
    vin = identity.vin.decode("ascii", "replace")
    return Node(
        host=f"{via.host}:{via.port}", vin=vin.rstrip("\0"), eid=identity.eid.hex(":").upper(),
        logical_address=identity.logical_address, sockets=sockets, power_mode=mode,
    )  # fmt: skip


async def _address(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        found = await anyio.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise NotThereError(f"{host}: {error.strerror or error}") from error
    return str(found[0][4][0])


async def on_doip(bench: Bench, via: DoipVia, sweep: Sweep) -> list[Found]:
    """Addresses behind a node that it routes to and that answer.

    Raises:
        TransportError, PeerError: no connection.
    """
    connection = await bench.doip(via)
    known = {ecu.link.logical_address: ecu for ecu in bench.vehicle.ecus if not bench.vehicle.is_generic}
    targets = dict.fromkeys([connection.entity, *known, *sweep.doip])
    found: list[Found] = []
    for address in targets:
        ecu = known.get(address) or Ecu(link=EcuConfig(name=f"0x{address:04X}", bus="", logical_address=address))
        client = await bench.client(ecu)
        try:
            await client.tester_present()
        except NegativeResponse:
            pass
        except (DiagnosticNackError, NoAcknowledgementError):
            continue
        except GatewayError as error:
            note(f"{ecu.name}: {error}")
            continue
        found.append(Found(ecu=ecu, via=via.name, is_known=address in known))
    return found
