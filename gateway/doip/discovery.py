"""Asking DoIP nodes by UDP: who is there, how full it is, whether the vehicle is ready."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import cast

import anyio
import msgspec

from gateway.doip.errors import HeaderNackError
from gateway.doip.messages import (
    HEADER_BYTES,
    V2012,
    V_ANY,
    EntityStatus,
    EntityStatusRequest,
    HeaderNack,
    IdentificationRequest,
    MalformedError,
    Message,
    PowerMode,
    PowerModeRequest,
    VehicleIdentity,
    decode,
    encode,
)
from gateway.doip.stream import Refused, parse_header
from gateway.errors import TransportError

UDP_PORT = 13400
ATTEMPTS = 3  # datagrams get lost


class FoundVehicle(msgspec.Struct, frozen=True, kw_only=True):
    """A node that answered."""

    host: str
    port: int
    identity: VehicleIdentity


async def discover(
    address: str,
    *,
    port: int = UDP_PORT,
    timeout_s: float = 2.0,
    eid: bytes | None = None,
    vin: bytes | None = None,
    most: int | None = None,
) -> list[FoundVehicle]:
    """Ask an address, or a broadcast address, who is there; all that answer within the time, or the first ``most``.

    Raises:
        TransportError: it cannot be asked.
        ValueError: no address, EID (6 bytes) or VIN (17 bytes).
    """
    found: dict[tuple[str, int], FoundVehicle] = {}
    async with _Asker.open(address) as asker:
        asker.send(encode(IdentificationRequest(eid=eid, vin=vin), V_ANY), port)
        with anyio.move_on_after(timeout_s):
            while most is None or len(found) < most:
                message, peer = await asker.receive()
                if isinstance(message, VehicleIdentity):
                    found[peer] = FoundVehicle(host=peer[0], port=peer[1], identity=message)
    return list(found.values())


async def entity_status(host: str, *, port: int = UDP_PORT, timeout_s: float = 2.0) -> EntityStatus:
    """How many connections a node has and takes, and how long a request may be.

    Raises:
        TransportError: no answer.
    """
    message = await _ask(host, port, EntityStatusRequest(), lambda m: isinstance(m, EntityStatus), timeout_s)
    return cast(EntityStatus, message)


async def power_mode(host: str, *, port: int = UDP_PORT, timeout_s: float = 2.0) -> int:
    """Whether the vehicle is ready for diagnostics (``PowerModeCode``).

    Raises:
        TransportError: no answer.
    """
    message = await _ask(host, port, PowerModeRequest(), lambda m: isinstance(m, PowerMode), timeout_s)
    return cast(PowerMode, message).mode


async def _ask(
    host: str, port: int, request: Message, is_answer: Callable[[Message], bool], timeout_s: float
) -> Message:
    async with _Asker.open(host) as asker:
        for _ in range(ATTEMPTS):
            asker.send(encode(request, V2012), port)
            with anyio.move_on_after(timeout_s / ATTEMPTS):
                while True:
                    message, _peer = await asker.receive()
                    if is_answer(message):
                        return message
                    if isinstance(message, HeaderNack):
                        raise HeaderNackError(message.code)
    raise TransportError(f"{host}:{port} does not answer")


class _Asker(asyncio.DatagramProtocol):
    """One UDP socket of a tester."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._answers: asyncio.Queue[tuple[Message, tuple[str, int]]] = asyncio.Queue(1024)
        self._transport: asyncio.DatagramTransport | None = None
        self._error: Exception | None = None

    @classmethod
    def open(cls, address: str) -> _Asker:
        return cls(address)

    async def __aenter__(self) -> _Asker:
        family = socket.AF_INET6 if ipaddress.ip_address(self._address).version == 6 else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setblocking(False)
        sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 0))
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=sock)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._transport is not None:
            self._transport.abort()

    def send(self, data: bytes, port: int) -> None:
        if self._transport is not None:
            self._transport.sendto(data, (self._address, port))
        if self._error is not None:
            raise TransportError(f"{self._address}:{port} cannot be asked: {self._error}") from self._error

    async def receive(self) -> tuple[Message, tuple[str, int]]:
        return await self._answers.get()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        if len(data) < HEADER_BYTES or self._answers.full():
            return
        header = parse_header(data)
        if isinstance(header, Refused) or header.length != len(data) - HEADER_BYTES:
            return
        try:
            message = decode(header.payload_type, data[HEADER_BYTES:])
        except MalformedError:
            return
        self._answers.put_nowait((message, (address[0], address[1])))

    def error_received(self, exc: Exception) -> None:
        self._error = exc
