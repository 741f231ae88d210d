"""A tester's access to the router, and the channel that the gateway's own clients use."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

from gateway.diag.ports import Tester
from gateway.diag.router_model import RouterLimits
from gateway.uds.channel import ChannelClosedError

if TYPE_CHECKING:
    from gateway.diag.router import Router


class Session:
    """Implements ``gateway.diag.ports.RouterSession``."""

    def __init__(self, router: Router, tester: Tester, limits: RouterLimits, left: Callable[[Session], None]) -> None:
        self._router, self._tester, self._limits, self._left = router, tester, limits, left
        self._inbox: deque[tuple[int, bytes]] = deque()
        self._inbox_bytes = 0
        self._arrived = anyio.Event()
        self.is_closed = False
        self.dropped = 0

    @property
    def tester(self) -> Tester:
        """See ``RouterSession``."""
        return self._tester

    def deliver(self, target: int, pdu: bytes) -> bool:
        """Put an answer into the inbox; False after ``aclose``. The oldest answers make room, and are counted."""
        if self.is_closed:
            return False
        self._inbox.append((target, pdu))
        self._inbox_bytes += len(pdu)
        while len(self._inbox) > self._limits.inbox_pdus or (
            self._inbox_bytes > self._limits.inbox_bytes and len(self._inbox) > 1
        ):
            self._inbox_bytes -= len(self._inbox.popleft()[1])
            self.dropped += 1
        self._wake()
        return True

    def _wake(self) -> None:
        self._arrived.set()
        self._arrived = anyio.Event()

    async def send(self, target: int, pdu: bytes) -> None:
        """See ``RouterSession``. Cancelled, the request may or may not have been sent."""
        if self.is_closed:
            raise ChannelClosedError("the session was closed")
        await self._router.route(self, target, bytes(pdu))

    async def send_functional(self, functional_id: int, pdu: bytes) -> None:
        """To the ECUs that hear this CAN identifier on their bus; not to the gateway itself.

        Raises:
            UnknownTargetError, UnreachableError, TooLongError, TargetBusyError: nobody got it.
        """
        if self.is_closed:
            raise ChannelClosedError("the session was closed")
        await self._router.route_functional(self, functional_id, bytes(pdu))

    async def receive(self) -> tuple[int, bytes]:
        """See ``RouterSession``. May be cancelled without losing an answer."""
        while not self._inbox:
            if self.is_closed:
                raise ChannelClosedError("the session was closed")
            await self._arrived.wait()
        target, pdu = self._inbox.popleft()
        self._inbox_bytes -= len(pdu)
        return target, pdu

    def is_receiving_from(self, target: int) -> bool:
        """Whether a long answer of that ECU to this session has begun to arrive."""
        return self._router.is_receiving_for(self, target)

    def drain(self) -> int:
        """Throw away what has come and was not fetched; returns how many PDUs."""
        count = len(self._inbox)
        self._inbox.clear()
        self._inbox_bytes = 0
        return count

    async def aclose(self) -> None:
        """See ``RouterSession``; idempotent."""
        self.close()

    def close(self) -> None:
        """``aclose`` for those who cannot wait."""
        if not self.is_closed:
            self.is_closed = True
            self._inbox.clear()
            self._left(self)
            self._wake()


class RouterChannel:
    """A ``DiagnosticChannel`` to one ECU through a session of its own: for the poller, remote jobs, updates."""

    def __init__(self, session: Session, target: int, name: str, max_pdu_bytes: int) -> None:
        self._session, self._target, self._name, self._max_pdu_bytes = session, target, name, max_pdu_bytes

    @property
    def name(self) -> str:
        """See ``DiagnosticChannel``."""
        return self._name

    @property
    def max_pdu_bytes(self) -> int:
        """See ``DiagnosticChannel``."""
        return self._max_pdu_bytes

    @property
    def is_receiving(self) -> bool:
        """See ``gateway.uds.channel.ReceptionAware``."""
        return self._session.is_receiving_from(self._target)

    async def send(self, pdu: bytes) -> None:
        """See ``DiagnosticChannel``. A refusal of the firewall comes as an answer.

        Raises:
            TransportError: the ECU cannot be reached (``UnreachableError``).
            TargetBusyError, TooLongError: not accepted.
        """
        await self._session.send(self._target, pdu)

    async def receive(self) -> bytes:
        """See ``DiagnosticChannel``."""
        return (await self._session.receive())[1]

    def drain(self) -> int:
        """See ``DiagnosticChannel``."""
        return self._session.drain()

    async def aclose(self) -> None:
        """See ``DiagnosticChannel``."""
        await self._session.aclose()


async def wait_accepted(accepted: asyncio.Future[None], within_ms: int) -> None:
    """Wait until a request was accepted, or is long enough on its way; raises what it failed with."""
    await asyncio.wait((accepted,), timeout=within_ms / 1000)
    if accepted.done():
        accepted.result()
