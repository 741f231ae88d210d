"""A tester's side of DoIP: one connection, channels to the ECUs behind it. ``discovery`` finds nodes.

A request is sent when the node has acknowledged it. Alive checks are answered, and an idle connection says from time
to time that it lives. What an ECU says goes to every channel open to it; functional channels hear what answers their
last request. What nobody fetches is bounded: the oldest goes, counted.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import cast

import anyio
import msgspec

from gateway.doip.errors import ActivationRefusedError, DiagnosticNackError, HeaderNackError, NoAcknowledgementError
from gateway.doip.inbox import Inbox
from gateway.doip.messages import (
    FATAL,
    V2012,
    ActivationCode,
    ActivationRequest,
    ActivationResponse,
    ActivationType,
    AliveCheckRequest,
    AliveCheckResponse,
    Diagnostic,
    DiagnosticAck,
    DiagnosticNack,
    HeaderNack,
    HeaderNackCode,
    Message,
    encode,
)
from gateway.doip.stream import Header, Refused, StreamParser
from gateway.errors import TransportError
from gateway.uds.channel import ChannelClosedError


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times and bounds of a tester."""

    activation_type: int = ActivationType.DEFAULT
    oem: bytes | None = None  # 4 bytes for the activation request
    version: int = V2012
    connect_timeout_s: float = 5.0
    activation_timeout_s: float = 2.0  # A_DoIP_Ctrl
    confirmation_timeout_s: float = 0.0  # how long somebody in the vehicle has to agree (code 0x11)
    ack_timeout_s: float = 2.0  # A_DoIP_Diagnostic_Message
    keep_alive_s: float = 120.0  # below the node's general inactivity time; 0: never
    max_pdu_bytes: int = 4096  # the node's ``max_data_bytes`` (see ``discovery.entity_status``)
    max_answer_bytes: int = 1 << 20
    queued_answers: int = 256  # of one channel


DEFAULTS = ClientSettings()
UNACKNOWLEDGED = 64  # requests to one target whose acknowledgement never came: the node is broken


class DoipConnection(asyncio.Protocol):
    """One activated connection; make it with ``open``."""

    def __init__(self, source: int, settings: ClientSettings, name: str) -> None:
        self.source, self.settings, self.name = source, settings, name
        self.entity = 0  # the node's own logical address
        self._parser = StreamParser(self._judge)
        self._transport: asyncio.Transport | None = None
        self._activation: Inbox[ActivationResponse | HeaderNackError] = Inbox(8)
        self._pending: dict[int, deque[asyncio.Future[None]]] = {}
        self._newest: asyncio.Future[None] | None = None
        self._channels: dict[int, list[DoipChannel]] = {}
        self._functional: list[DoipFunctionalChannel] = []
        self._writable = asyncio.Event()
        self._writable.set()
        self._error: ChannelClosedError | None = None
        self._is_lost = asyncio.Event()
        self._keep_alive: asyncio.TimerHandle | None = None

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        source: int,
        *,
        tls: ssl.SSLContext | None = None,
        settings: ClientSettings = DEFAULTS,
    ) -> DoipConnection:
        """Connect and activate routing for ``source``.

        Raises:
            ActivationRefusedError: the node refused.
            TransportError: no connection, or no answer in time.
        """
        connection = cls(source, settings, f"{host}:{port}")
        try:
            with anyio.fail_after(settings.connect_timeout_s):
                await asyncio.get_running_loop().create_connection(lambda: connection, host, port, ssl=tls)
        except (OSError, ssl.SSLError) as error:  # TimeoutError is an OSError
            raise TransportError(f"no DoIP connection to {host}:{port}: {error or 'timeout'}") from error
        try:
            await connection._activate()
        except BaseException:
            await connection.aclose()
            raise
        return connection

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._error is None

    def channel(self, target: int, name: str = "") -> DoipChannel:
        """A channel to one ECU.

        Raises:
            ChannelClosedError: the connection has ended.
        """
        self._check()
        channel = DoipChannel(self, target, name or f"0x{target:04X}")
        self._channels.setdefault(target, []).append(channel)
        return channel

    def functional(self, address: int, names: dict[int, str] | None = None) -> DoipFunctionalChannel:
        """A channel to all ECUs of a functional address; ``names`` say who has which logical address.

        Raises:
            ChannelClosedError: the connection has ended.
        """
        self._check()
        channel = DoipFunctionalChannel(self, address, names or {})
        self._functional.append(channel)
        return channel

    async def aclose(self) -> None:
        """End the connection and all its channels; idempotent."""
        self._end("closed")
        if self._transport is None:
            return
        self._transport.close()
        with anyio.move_on_after(1.0, shield=True):
            await self._is_lost.wait()
        self._transport.abort()

    # requests

    async def _activate(self) -> None:
        settings = self.settings
        self._write(ActivationRequest(self.source, settings.activation_type, settings.oem))
        code = await self._activation_code(settings.activation_timeout_s)
        if code is None:
            raise TransportError(f"{self.name} does not answer the routing activation")
        if code == ActivationCode.CONFIRMATION_REQUIRED and settings.confirmation_timeout_s:
            later = await self._activation_code(settings.confirmation_timeout_s)
            code = code if later is None else later
        if code != ActivationCode.ACTIVATED:
            raise ActivationRefusedError(code)
        self._wind()

    async def _activation_code(self, timeout_s: float) -> int | None:
        with anyio.move_on_after(timeout_s):
            response = await self._activation.get()
            if isinstance(response, HeaderNackError):
                raise response
            self.entity = response.entity
            return response.code
        return None

    async def request(self, target: int, pdu: bytes) -> None:
        """Send one PDU; returns when the node has acknowledged it.

        Raises:
            DiagnosticNackError, HeaderNackError, NoAcknowledgementError: refused, or nothing was said about it.
            ChannelClosedError: the connection has ended.
            ValueError: empty, or longer than the node takes.
        """
        if not 0 < len(pdu) <= self.settings.max_pdu_bytes:
            raise ValueError(f"a PDU of 1 to {self.settings.max_pdu_bytes} bytes, not {len(pdu)}")
        await self._writable.wait()
        self._check()
        waiting = self._pending.setdefault(target, deque())
        if len(waiting) >= UNACKNOWLEDGED:
            self._end("the node acknowledges nothing")
            self._check()
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(acknowledged)  # stays when we give up: its acknowledgement must not be taken for the next one's
        self._newest = acknowledged
        self._write(Diagnostic(self.source, target, pdu))
        try:
            with anyio.fail_after(self.settings.ack_timeout_s):
                await acknowledged
        except TimeoutError as error:
            raise NoAcknowledgementError(f"{self.name} said nothing about a request to 0x{target:04X}") from error

    def _check(self) -> None:
        if self._error is not None:
            raise ChannelClosedError(str(self._error)) from self._error

    def _write(self, message: Message) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(message, self.settings.version))
        self._wind()

    def _wind(self) -> None:
        """Say we live when nothing was said for a while."""
        if self._keep_alive is not None:
            self._keep_alive.cancel()
        self._keep_alive = None
        if self.settings.keep_alive_s and self._error is None and self.entity:
            alive = AliveCheckResponse(self.source)
            self._keep_alive = asyncio.get_running_loop().call_later(self.settings.keep_alive_s, self._write, alive)

    # what comes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        for event in self._parser.feed(data):
            if isinstance(event, Refused):
                if event.is_fatal:
                    self._end("the node does not speak DoIP")
                    if self._transport is not None:
                        self._transport.abort()
                    return
                continue  # too long for us, or of a type we have no name for: skipped
            self._take(event.message)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        self._end(f"connection lost: {exc}" if exc else "the node closed the connection")
        self._is_lost.set()

    def pause_writing(self) -> None:
        """asyncio's."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """asyncio's."""
        self._writable.set()

    def _judge(self, header: Header) -> HeaderNackCode | None:
        return HeaderNackCode.TOO_LARGE if header.length > self.settings.max_answer_bytes else None

    def _take(self, message: Message) -> None:
        match message:
            case Diagnostic(source, target, pdu) if target == self.source:
                for channel in self._channels.get(source, ()):
                    channel.inbox.put(pdu)
                for group in self._functional:
                    group.offer(source, pdu)
            case DiagnosticAck(source, target) if target == self.source:
                self._acknowledged(source, None)
            case DiagnosticNack(source, target, code) if target == self.source:
                self._acknowledged(source, DiagnosticNackError(source, code))
            case AliveCheckRequest():
                self._write(AliveCheckResponse(self.source))
            case ActivationResponse(tester) if tester == self.source:
                self._activation.put(message)
            case HeaderNack(code):
                self._header_nack(code)
            case _:
                pass

    def _acknowledged(self, target: int, error: DiagnosticNackError | None) -> None:
        waiting = self._pending.get(target)
        if not waiting:
            return
        future = waiting.popleft()
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def _header_nack(self, code: int) -> None:
        """The node took a message for none; the last one, if it still waits. After some it closes by itself."""
        error = HeaderNackError(code)
        if not self.entity:
            self._activation.put(error)
        elif self._newest is not None and code not in FATAL:
            for waiting in self._pending.values():
                if self._newest in waiting:
                    waiting.remove(self._newest)
            if not self._newest.done():
                self._newest.set_exception(error)

    def _end(self, why: str) -> None:
        if self._error is not None:
            return
        self._error = ChannelClosedError(f"{self.name}: {why}")
        self._writable.set()
        if self._keep_alive is not None:
            self._keep_alive.cancel()
        self._activation.close(self._error)
        for future in [f for waiting in self._pending.values() for f in waiting]:
            if not future.done():
                future.set_exception(ChannelClosedError(str(self._error)))
                future.exception()  # someone may have given up on it already
        self._pending.clear()
        for channel in [c for channels in self._channels.values() for c in channels]:
            channel.inbox.close(self._error)
        for group in self._functional:
            group.inbox.close(self._error)

    def release(self, channel: DoipChannel | DoipFunctionalChannel) -> None:
        """A channel is closed."""
        if isinstance(channel, DoipFunctionalChannel):
            self._functional = [c for c in self._functional if c is not channel]
            return
        rest = [c for c in self._channels.get(channel.target, ()) if c is not channel]
        if rest:
            self._channels[channel.target] = rest
        else:
            self._channels.pop(channel.target, None)


class DoipChannel:
    """A ``gateway.uds.channel.DiagnosticChannel`` to one ECU behind the node."""

    def __init__(self, connection: DoipConnection, target: int, name: str) -> None:
        self.target = target
        self.inbox: Inbox[bytes] = Inbox(connection.settings.queued_answers)
        self._connection, self._name = connection, name

    @property
    def name(self) -> str:
        """The ECU's name or address."""
        return self._name

    @property
    def max_pdu_bytes(self) -> int:
        """What the node takes."""
        return self._connection.settings.max_pdu_bytes

    @property
    def dropped(self) -> int:
        """Answers that nobody fetched in time."""
        return self.inbox.dropped

    async def send(self, pdu: bytes) -> None:
        """See ``DoipConnection.request``; a nack is a ``TransportError``."""
        self.inbox.check()
        await self._connection.request(self.target, pdu)

    async def receive(self) -> bytes:
        """The next PDU of the ECU; what came before the connection ended is still given.

        Raises:
            ChannelClosedError: this channel or the connection has ended.
        """
        return await self.inbox.get()

    def drain(self) -> int:
        """Throw away what has come."""
        return self.inbox.drain()

    async def aclose(self) -> None:
        """Release it; the connection stays."""
        self._connection.release(self)
        self.inbox.close(ChannelClosedError(f"{self._name}: channel closed"))


class DoipFunctionalChannel:
    """A ``gateway.uds.channel.FunctionalChannel``: one request to a group, answers from each."""

    def __init__(self, connection: DoipConnection, address: int, names: dict[int, str]) -> None:
        self.address = address
        self.inbox: Inbox[tuple[str, bytes]] = Inbox(connection.settings.queued_answers)
        self._connection, self._names = connection, names
        self._service: int | None = None

    async def send(self, pdu: bytes) -> None:
        """See ``DoipConnection.request``. From now on answers to this request are heard."""
        self.inbox.check()
        self._service = pdu[0] if pdu else None
        await self._connection.request(self.address, pdu)

    async def receive(self) -> tuple[str, bytes]:
        """The next answer as (name or address of who sent it, PDU).

        Raises:
            ChannelClosedError: this channel or the connection has ended.
        """
        return await self.inbox.get()

    async def aclose(self) -> None:
        """Release it; the connection stays."""
        self._connection.release(self)
        self.inbox.close(ChannelClosedError(f"0x{self.address:04X}: channel closed"))

    def offer(self, source: int, pdu: bytes) -> None:
        """Keep a PDU that answers our last request, positively or not; others are for physical channels."""
        if self._service is not None and (pdu[0] == self._service | 0x40 or pdu[:2] == bytes((0x7F, self._service))):
            self.inbox.put((self._names.get(source, f"0x{source:04X}"), pdu))
