"""One TCP connection of a tester: bytes to the node, requests to the router, answers back in the right order.

An answer never overtakes the acknowledgement of its request: while a request to an ECU is being routed, what that ECU
says is held. A tester that does not read is neither read nor answered, and is cut after a while, so that what it has
not fetched stays bounded here, and behind us in the router's session.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol, cast

import anyio
from anyio.abc import TaskGroup

from gateway.diag.ports import (
    RouterSession,
    TargetBusyError,
    TooLongError,
    UnknownNetworkError,
    UnknownTargetError,
    UnreachableError,
)
from gateway.doip.messages import DiagnosticNackCode
from gateway.doip.model import NodeLimits
from gateway.errors import GatewayError, NotNowError, PeerError
from gateway.uds.channel import ChannelClosedError

log = logging.getLogger(__name__)

READ_BYTES = 2048  # at a time: a flood of the shortest messages must not keep the others waiting


class Owner(Protocol):
    """What a link needs of its node."""

    limits: NodeLimits
    answers: int
    answers_dropped: int

    def connected(self, link: Link) -> None:
        """It is there, after any TLS handshake."""

    def received(self, link: Link, data: bytes) -> None:
        """Bytes came."""

    def lost(self, link: Link, reason: str) -> None:
        """It is gone."""

    def acknowledgement(self, link: Link, target: int) -> bytes:
        """A request was routed."""

    def refusal(self, link: Link, target: int, code: DiagnosticNackCode) -> bytes:
        """It was not."""

    def answer(self, link: Link, source: int, pdu: bytes) -> bytes:
        """An ECU spoke."""

    def wrote(self, link: Link) -> None:
        """Something was written."""


def nack_code(error: GatewayError) -> DiagnosticNackCode:
    """Which nack tells a tester about an error of the router."""
    table: tuple[tuple[type[GatewayError], DiagnosticNackCode], ...] = (
        (UnknownTargetError, DiagnosticNackCode.UNKNOWN_TARGET),
        (TooLongError, DiagnosticNackCode.TOO_LARGE),
        (TargetBusyError, DiagnosticNackCode.OUT_OF_MEMORY),
        (UnknownNetworkError, DiagnosticNackCode.UNKNOWN_NETWORK),
        (UnreachableError, DiagnosticNackCode.UNREACHABLE),
        (NotNowError, DiagnosticNackCode.OUT_OF_MEMORY),
        (PeerError, DiagnosticNackCode.TRANSPORT_ERROR),
    )
    return next((code for kind, code in table if isinstance(error, kind)), DiagnosticNackCode.TRANSPORT_ERROR)


class Link(asyncio.BufferedProtocol):
    """See the module. Made before there is a transport, so that a handshake can be cut too."""

    def __init__(self, owner: Owner, key: int, peer: str) -> None:
        self.key, self.peer = key, peer
        self.handshake = anyio.CancelScope()
        self.transport: asyncio.Transport | None = None
        self._owner = owner
        self._buffer = bytearray(READ_BYTES)
        self._gone = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._stall: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._requests: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()  # bounded by ``_in_flight``
        self._in_flight = 0
        self._lanes: dict[int, asyncio.Lock] = {}
        self._routing: Counter[int] = Counter()  # targets of requests on their way to the router
        self._held: dict[int, deque[bytes]] = {}
        self._is_functional: Callable[[int], bool] = lambda target: False

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=self._owner.limits.write_buffer_bytes)
        self._owner.connected(self)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if not self._gone.is_set():
            self._owner.received(self, bytes(memoryview(self._buffer)[:nbytes]))

    def eof_received(self) -> bool:
        return False  # a tester that can only listen is of no use: close

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.lost(self, "by the tester" if exc is None else "connection lost")
        self.ended()

    def pause_writing(self) -> None:
        self._writable.clear()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
        loop = asyncio.get_running_loop()
        self._stall = self._stall or loop.call_later(self._owner.limits.write_stall_ms / 1000, self._stalled)

    def resume_writing(self) -> None:
        self._writable.set()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def _stalled(self) -> None:
        self._stall = None
        self._owner.lost(self, "does not read")
        self.close(at_once=True)

    # the node's side

    def write(self, data: bytes) -> None:
        """Send these bytes, if there still is somebody. Bounded by pausing reader and answers, not here."""
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)
            self._owner.wrote(self)

    def close(self, *, at_once: bool = False) -> None:
        """End it; what was written leaves first, unless ``at_once``, within the linger time."""
        self.ended()
        self.handshake.cancel()
        if self.transport is None:
            return
        if at_once:
            self.transport.abort()
        elif not self.transport.is_closing():
            self.transport.close()
            wait_s = self._owner.limits.linger_ms / 1000
            self._linger = asyncio.get_running_loop().call_later(wait_s, self.transport.abort)

    def ended(self) -> None:
        """Stop serving; the transport may still be emptying its buffer."""
        self._gone.set()
        self._writable.set()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def finished(self) -> None:
        """The transport is gone: nothing is left to cut."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    async def serve(self, open_session: Callable[[], RouterSession], is_functional: Callable[[int], bool]) -> None:
        """Carry requests and answers until the connection ends; then forget the tester."""
        try:
            session = open_session()
        except GatewayError as error:
            log.warning("doip_session_refused", extra={"peer": self.peer, "error": str(error)})
            self._session_closed()
            return
        self._is_functional = is_functional
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._answer, session)
                tasks.start_soon(self._take, session, tasks)
                await self._gone.wait()
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await session.aclose()

    def request(self, target: int, pdu: bytes) -> None:
        """Route one request; too many of them at once are refused."""
        if self._in_flight >= self._owner.limits.requests_in_flight:
            self.write(self._owner.refusal(self, target, DiagnosticNackCode.OUT_OF_MEMORY))
            return
        self._in_flight += 1
        self._requests.put_nowait((target, pdu))

    # tasks

    async def _take(self, session: RouterSession, tasks: TaskGroup) -> None:
        """Start each request in the order it came; those to different targets do not wait for each other."""
        while True:
            target, pdu = await self._requests.get()
            tasks.start_soon(self._route, session, target, pdu)

    async def _route(self, session: RouterSession, target: int, pdu: bytes) -> None:
        lane = self._lanes.setdefault(target, asyncio.Lock())  # targets are known ones: as many as there are ECUs
        async with lane:
            self._routing[target] += 1
            try:
                await session.send(target, pdu)
            except ChannelClosedError:
                self._session_closed()
            except GatewayError as error:
                self.write(self._owner.refusal(self, target, nack_code(error)))
            else:
                self.write(self._owner.acknowledgement(self, target))
            finally:
                self._in_flight -= 1
                self._routing[target] -= 1
                self._routing += Counter()  # drops zeros
            self._release_held()

    async def _answer(self, session: RouterSession) -> None:
        while True:
            await self._writable.wait()
            if self._gone.is_set():
                return
            try:
                source, pdu = await session.receive()
            except ChannelClosedError:
                self._session_closed()
                return
            if self._is_held(source):
                held = self._held.setdefault(source, deque())
                held.append(pdu)
                if len(held) > self._owner.limits.held_answers:
                    held.popleft()
                    self._owner.answers_dropped += 1
            else:
                self._write_answer(source, pdu)

    def _is_held(self, source: int) -> bool:
        return source in self._routing or any(self._is_functional(target) for target in self._routing)

    def _release_held(self) -> None:
        for source in [s for s in self._held if not self._is_held(s)]:
            for pdu in self._held.pop(source):
                self._write_answer(source, pdu)

    def _write_answer(self, source: int, pdu: bytes) -> None:
        self._owner.answers += 1
        self.write(self._owner.answer(self, source, pdu))

    def _session_closed(self) -> None:
        """The router gave the session up: so does the connection."""
        self._owner.lost(self, "router")
        self.close()
