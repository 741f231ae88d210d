"""One request to all ECUs of a functional address, and the answers of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import anyio
import msgspec

from gateway.errors import GatewayError
from gateway.uds.channel import FunctionalChannel
from gateway.uds.codec.query import Query
from gateway.uds.conversation import Observer
from gateway.uds.errors import NegativeResponse
from gateway.uds.exchange import Exchange, Verdict
from gateway.uds.names import SUPPRESS_BIT, WITH_SUBFUNCTION, Nrc
from gateway.uds.timing import Timing

T = TypeVar("T")


class Outcome(msgspec.Struct, Generic[T], frozen=True):
    """What one ECU answered: ``value``, or ``error`` when it refused or stayed pending."""

    value: T | None
    error: GatewayError | None = None


class _Peer:
    """One ECU that has said something."""

    __slots__ = ("answer", "error", "exchange")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.answer: bytes | None = None
        self.error: GatewayError | None = None

    @property
    def is_open(self) -> bool:
        return self.answer is None and self.error is None


class FunctionalClient:
    """Asks all ECUs at once. One request at a time; an ECU that is silent is simply not in the result."""

    def __init__(
        self, channel: FunctionalChannel, *, timing: Timing | None = None, observer: Observer | None = None
    ) -> None:
        self._channel, self._timing, self._observer = channel, timing or Timing(), observer
        self._lock = anyio.Lock()

    async def ask(self, query: Query[T]) -> Mapping[str, Outcome[T]]:
        """Send and collect: until P2 has passed, and P2* for those who answered 0x78.

        Raises:
            TransportError: not sent.
            ValueError: too long for one frame.
        """
        outcomes: dict[str, Outcome[T]] = {}
        for name, peer in (await self._collect(query.request, query.prefixes)).items():
            if peer.answer is None:
                outcomes[name] = Outcome(None, peer.error)
                continue
            try:
                outcomes[name] = Outcome(query.decode(peer.answer))
            except GatewayError as error:
                outcomes[name] = Outcome(None, error)
        return outcomes

    async def tell(self, query: Query[None]) -> Mapping[str, GatewayError]:
        """Send with positive answers suppressed; who refused."""
        request = bytearray(query.request)
        if request[0] not in WITH_SUBFUNCTION:
            raise ValueError("a service without sub-function cannot suppress its answer")
        request[1] |= SUPPRESS_BIT
        peers = await self._collect(bytes(request), query.prefixes)
        return {name: peer.error for name, peer in peers.items() if peer.error is not None}

    async def send(self, pdu: bytes) -> None:
        """Send and wait for nothing (3E 80)."""
        async with self._lock:
            self._tell("request", pdu)
            await self._channel.send(pdu)

    async def _collect(self, request: bytes, prefixes: tuple[bytes, ...]) -> dict[str, _Peer]:
        async with self._lock:
            await self._discard_stale()
            self._tell("request", request)
            await self._channel.send(request)
            sent_ns = _now_ns()
            peers: dict[str, _Peer] = {}
            first = Exchange(request, prefixes, self._timing, extra_ms=self._timing.transfer_ms)
            first.sent(sent_ns)
            while (until_ns := self._deadline_ns(peers, first)) > _now_ns():
                received = await self._receive_until(until_ns)
                if received is None:
                    continue
                name, pdu = received
                if name not in peers:
                    exchange = Exchange(request, prefixes, self._timing, extra_ms=self._timing.transfer_ms)
                    exchange.sent(sent_ns)
                    peers[name] = _Peer(exchange)
                if peers[name].is_open:
                    self._judge(peers[name], pdu)
            return {name: self._concluded(peer) for name, peer in peers.items()}

    @staticmethod
    def _deadline_ns(peers: Mapping[str, _Peer], first: Exchange) -> int:
        return max([first.deadline_ns, *(p.exchange.deadline_ns for p in peers.values() if p.is_open)])

    def _judge(self, peer: _Peer, pdu: bytes) -> None:
        self._tell("answer", pdu)
        now_ns = _now_ns()
        verdict = peer.exchange.receive(pdu, now_ns)
        if verdict is Verdict.DONE:
            peer.answer = pdu
        elif verdict is Verdict.REFUSED:
            peer.error = peer.exchange.refusal(pdu)
        elif verdict is Verdict.AGAIN:  # to repeat would ask the others twice
            peer.error = NegativeResponse(peer.exchange.sid, Nrc.BUSY)
        elif verdict is Verdict.TOO_LONG:
            peer.error = peer.exchange.too_long(now_ns)

    @staticmethod
    def _concluded(peer: _Peer) -> _Peer:
        if peer.is_open:
            peer.error = peer.exchange.give_up(_now_ns())
        return peer

    async def _discard_stale(self) -> None:
        while await self._receive_until(_now_ns()) is not None:
            pass

    async def _receive_until(self, deadline_ns: int) -> tuple[str, bytes] | None:
        with anyio.move_on_after(max(0.0, (deadline_ns - _now_ns()) / 1e9)):
            return await self._channel.receive()
        return None

    def _tell(self, kind: str, pdu: bytes) -> None:
        if self._observer is not None:
            self._observer(kind, pdu, _now_ns())


def _now_ns() -> int:
    return int(anyio.current_time() * 1_000_000_000)
