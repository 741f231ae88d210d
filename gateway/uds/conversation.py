"""Requests and answers over one channel, one at a time: the async shell around ``Exchange``.

A cancelled request is remembered: its answer is still owed, and the next request waits until that has come or can come
no more, so that no answer is ever taken for another's. What the ECU sends by itself (0x2A, 0x86) is kept aside for
``unsolicited``, once somebody asked for such messages.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar

import anyio
import msgspec
from anyio.abc import TaskGroup

from gateway.errors import TransportError
from gateway.uds.channel import ChannelClosedError, DiagnosticChannel
from gateway.uds.codec.query import Query
from gateway.uds.exchange import Exchange, Verdict, positive_prefix
from gateway.uds.names import NEGATIVE, SUPPRESS_BIT, WITH_SUBFUNCTION, Session, Sid
from gateway.uds.timing import MS_NS, Timing

log = logging.getLogger(__name__)

T = TypeVar("T")
#: Told of every PDU: "request", "answer", "stale" (nobody waits for it) or "unsolicited", the PDU, monotonic ns.
Observer = Callable[[str, bytes, int], None]

MAX_UNSOLICITED = 1024
#: A long answer may take this long per look at the channel (N_Cr); looked at again until it ends.
RECEPTION_MS = 1000
#: Services that answer the same question differently each time, and only the last answer counts: seeds, challenges.
_NEVER_TWICE = frozenset({Sid.SECURITY_ACCESS, Sid.AUTHENTICATION})
_KEEP_ALIVE = bytes([Sid.TESTER_PRESENT, SUPPRESS_BIT])


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the conversation began."""

    requests: int
    keep_alives: int
    pending: int  # answers 0x78
    repeated: int  # after 0x21
    stale: int  # answers nobody waited for any more
    unsolicited_lost: int  # messages the ECU sent by itself and nobody fetched in time


class _Owed:
    """A request given up whose answer may still come, until a time."""

    __slots__ = ("exchange", "is_late", "until_ns")

    def __init__(self, exchange: Exchange, until_ns: int, *, is_late: bool) -> None:
        self.exchange, self.until_ns, self.is_late = exchange, until_ns, is_late

    def blocks(self, following: Exchange) -> bool:
        """Whether another request must wait for it.

        A request within its time must be over first: the ECU is at it. One past its time only matters if its answer
        could be taken for the other's.
        """
        if not self.is_late:
            return True
        if following.request == self.exchange.request and following.sid not in _NEVER_TWICE:
            return False  # the same question: either answer will do
        return any(a.startswith(b) or b.startswith(a) for a in self.exchange.prefixes for b in following.prefixes)


def _now_ns() -> int:
    return int(anyio.current_time() * 1_000_000_000)


class Conversation:
    """Asks one ECU, keeps its session alive, follows its timing. For one event loop; the channel stays its owner's."""

    def __init__(
        self, channel: DiagnosticChannel, *, timing: Timing | None = None, observer: Observer | None = None
    ) -> None:
        self._channel, self._timing, self._observer = channel, timing or Timing(), observer
        self._configured = self._timing
        self._lock = anyio.Lock()
        self._waiting = 0
        self._listening: anyio.CancelScope | None = None
        self._owed: list[_Owed] = []
        self._unsolicited: deque[bytes] = deque()
        self._keeps_unsolicited = False
        self._session = int(Session.DEFAULT)
        self._session_changed = anyio.Event()
        self._idle_since_ns = 0
        self._tasks: TaskGroup | None = None
        self._knows_reception = hasattr(channel, "is_receiving")
        self._requests = self._keep_alives = self._pending = self._repeated = self._stale = self._lost = 0

    @property
    def name(self) -> str:
        """Of the channel."""
        return self._channel.name

    @property
    def max_pdu_bytes(self) -> int:
        """The longest request the channel takes."""
        return self._channel.max_pdu_bytes

    @property
    def timing(self) -> Timing:
        """In force now: what was configured, or what the ECU told when its session changed."""
        return self._timing

    @property
    def current_session(self) -> int:
        """The session the ECU is in as far as we know."""
        return self._session

    def statistics(self) -> Statistics:
        """Counts so far."""
        return Statistics(
            requests=self._requests, keep_alives=self._keep_alives, pending=self._pending, repeated=self._repeated,
            stale=self._stale, unsolicited_lost=self._lost,
        )  # fmt: skip

    # The session's keep-alive lives as long as the context.

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._keep_alive)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        tasks, self._tasks = self._tasks, None
        if tasks is None:
            return None
        tasks.cancel_scope.cancel()
        if isinstance(error, Exception):
            await tasks.__aexit__(None, None, None)  # errors of the body reach the caller as they are, in no group
            return None
        return await tasks.__aexit__(kind, error, trace)

    async def _keep_alive(self) -> None:
        while True:
            if self._session == Session.DEFAULT:
                await self._session_changed.wait()
                continue
            due_ns = self._idle_since_ns + self._timing.s3_ms * MS_NS // 2
            if _now_ns() < due_ns:
                await anyio.sleep((due_ns - _now_ns()) / 1e9)
                continue
            async with self._turn():
                if (
                    self._session == Session.DEFAULT
                    or _now_ns() < self._idle_since_ns + self._timing.s3_ms * MS_NS // 2
                ):
                    continue
                try:
                    await self._channel.send(_KEEP_ALIVE)
                    self._tell("request", _KEEP_ALIVE)
                    self._keep_alives += 1
                except ChannelClosedError:
                    return
                except TransportError as error:  # the next request will say so to its caller; this one has none
                    log.debug("keep_alive_failed", extra={"channel": self.name, "error": str(error)})
                self._idle_since_ns = _now_ns()

    # Requests.

    async def ask(self, query: Query[T]) -> T:
        """Send a query and read its answer.

        Raises:
            NegativeResponse, NoAnswer, PendingTooLong, UnexpectedAnswer, MalformedAnswer: no sound positive answer.
            TransportError: not sent, or the answer was lost on its way.
            ValueError: the query suppresses its answer (use ``tell``), or is longer than the channel takes.
        """
        answer = await self.request(query.request, query.prefixes)
        if answer is None:
            raise ValueError("a query whose positive answer is suppressed has nothing to read")
        return query.decode(answer)

    async def tell(self, query: Query[None]) -> None:
        """Send a query with its positive answer suppressed; returns when no refusal came within P2.

        Raises:
            As ``ask``, but silence is success.
        """
        request = bytearray(query.request)
        if request[0] not in WITH_SUBFUNCTION:
            raise ValueError("a service without sub-function cannot suppress its answer")
        request[1] |= SUPPRESS_BIT
        await self.request(bytes(request), query.prefixes)

    async def request(self, pdu: bytes, prefixes: tuple[bytes, ...] | None = None) -> bytes | None:
        """Send one request; returns its positive answer, or None when that was suppressed and nothing came.

        Cancellation is safe at any time: a late answer is swallowed. ``prefixes`` are what a positive answer may begin
        with; by default the SID, with the sub-function where the service has one.

        Raises:
            As ``ask``.
        """
        if len(pdu) > self._channel.max_pdu_bytes:
            raise ValueError(f"a request of {len(pdu)} bytes; the channel takes {self._channel.max_pdu_bytes}")
        if prefixes is None:
            prefixes = (positive_prefix(pdu, int(len(pdu) > 1 and pdu[0] in WITH_SUBFUNCTION)),) if pdu else ()
        extra_ms = 0 if self._knows_reception else self._timing.transfer_ms
        exchange = Exchange(pdu, prefixes, self._timing, extra_ms=extra_ms)
        async with self._turn():
            await self._settle(exchange)
            if not self._keeps_unsolicited:
                self._stale += self._channel.drain()
            self._requests += 1
            try:
                answer = await self._run(exchange)
            except anyio.get_cancelled_exc_class():
                if not exchange.has_begun:  # cancelled while sending: it may just have got through
                    exchange.sent(_now_ns())
                self._owed.append(_Owed(exchange, exchange.deadline_ns, is_late=False))
                raise
            finally:
                self._idle_since_ns = _now_ns()
                self._pending += exchange.pending
                self._repeated += exchange.repeated
            self._follow(pdu, answer)
            return answer

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Alone with the channel; a listener steps aside."""
        self._waiting += 1
        if self._listening is not None:
            self._listening.cancel()
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._lock.release()

    async def _run(self, exchange: Exchange) -> bytes | None:
        await self._send(exchange)
        while True:
            pdu = await self._receive_until(exchange.deadline_ns)
            now_ns = _now_ns()
            if pdu is None:
                if getattr(self._channel, "is_receiving", False) and not exchange.is_overdue(now_ns):
                    exchange.waits_on(now_ns, RECEPTION_MS)
                    continue
                error = exchange.give_up(now_ns)
                if error is None:
                    return None
                self._owe_late(exchange, now_ns)
                raise error
            verdict = exchange.receive(pdu, now_ns)
            if verdict is Verdict.FOREIGN:
                self._sort(pdu)
                continue
            self._tell("answer", pdu)
            if verdict is Verdict.DONE:
                return pdu
            if verdict is Verdict.REFUSED:
                raise exchange.refusal(pdu)
            if verdict is Verdict.TOO_LONG:
                self._owe_late(exchange, now_ns)
                raise exchange.too_long(now_ns)
            if verdict is Verdict.AGAIN:
                assert exchange.resend_at_ns is not None  # goes with the verdict
                await anyio.sleep((exchange.resend_at_ns - now_ns) / 1e9)
                await self._send(exchange)

    async def _send(self, exchange: Exchange) -> None:
        self._tell("request", exchange.request)
        await self._channel.send(exchange.request)
        exchange.sent(_now_ns())

    async def _receive_until(self, deadline_ns: int) -> bytes | None:
        with anyio.move_on_after(max(0.0, (deadline_ns - _now_ns()) / 1e9)):
            return await self._channel.receive()
        return None

    def _owe_late(self, exchange: Exchange, now_ns: int) -> None:
        self._owed.append(_Owed(exchange, now_ns + self._timing.p2_star_ms * MS_NS, is_late=True))

    async def _settle(self, following: Exchange) -> None:
        """Before a request: let the answers to those given up come in, where they could still be mistaken."""
        if not self._owed:
            return
        while (pdu := await self._receive_until(_now_ns() + MS_NS)) is not None:
            self._sort(pdu)  # what came meanwhile
        limit_ns = _now_ns() + self._timing.settle_ms * MS_NS
        for owed in tuple(self._owed):
            while owed in self._owed and owed.blocks(following):
                if (until_ns := min(owed.until_ns, limit_ns)) > _now_ns():
                    pdu = await self._receive_until(until_ns)
                    if pdu is not None:
                        self._sort(pdu)
                    elif getattr(self._channel, "is_receiving", False):
                        owed.until_ns = _now_ns() + RECEPTION_MS * MS_NS
                elif owed.is_late or until_ns == limit_ns:
                    self._owed.remove(owed)
                else:  # an ECU that is late may still answer
                    owed.is_late = True
                    owed.until_ns += self._timing.p2_star_ms * MS_NS
        self._owed = [owed for owed in self._owed if owed.until_ns > _now_ns()]

    def _sort(self, pdu: bytes) -> None:
        """A PDU that is not the answer waited for: one that is owed, or none at all."""
        for owed in self._owed:
            verdict = owed.exchange.receive(pdu, _now_ns())
            if verdict is Verdict.FOREIGN:
                continue
            self._stale += 1
            self._tell("stale", pdu)
            if verdict is Verdict.PENDING:
                owed.until_ns = owed.exchange.deadline_ns
            else:
                self._owed.remove(owed)
            return
        self._put_aside(pdu)

    def _put_aside(self, pdu: bytes) -> None:
        is_refusal = len(pdu) >= 2 and pdu[0] == NEGATIVE  # of a keep-alive, or of a request long given up
        if is_refusal or not self._keeps_unsolicited:
            self._stale += 1
            self._tell("stale", pdu)
            return
        self._tell("unsolicited", pdu)
        if len(self._unsolicited) >= MAX_UNSOLICITED:
            self._unsolicited.popleft()
            self._lost += 1
        self._unsolicited.append(pdu)

    def _tell(self, kind: str, pdu: bytes) -> None:
        if self._observer is not None:
            self._observer(kind, pdu, _now_ns())

    def _follow(self, request: bytes, answer: bytes | None) -> None:
        """What a successful request changes for those to come."""
        if request[0] == Sid.SESSION and len(request) > 1:
            self._enter(request[1] & ~SUPPRESS_BIT)
            if answer is not None and len(answer) >= 6 and self._configured.adopt_server_timing:
                p2_ms, p2_star_ms = int.from_bytes(answer[2:4], "big"), int.from_bytes(answer[4:6], "big") * 10
                self._timing = msgspec.structs.replace(
                    self._configured,
                    p2_ms=p2_ms or self._configured.p2_ms,
                    p2_star_ms=p2_star_ms or self._configured.p2_star_ms,
                )
        elif request[0] == Sid.RESET and len(request) > 1 and request[1] & ~SUPPRESS_BIT <= 3:
            self._timing = self._configured
            self._enter(Session.DEFAULT)

    def _enter(self, session: int) -> None:
        self._session = session
        self._session_changed.set()
        self._session_changed = anyio.Event()

    # Messages the ECU sends by itself.

    def expect_unsolicited(self) -> None:
        """From now on keep what belongs to no request, for ``next_unsolicited``."""
        self._keeps_unsolicited = True

    async def next_unsolicited(self) -> bytes:
        """The next message the ECU sent by itself; requests made meanwhile go first.

        Raises:
            TransportError: as ``DiagnosticChannel.receive``.
        """
        self._keeps_unsolicited = True
        while not self._unsolicited:
            async with self._lock:
                if self._waiting or self._unsolicited:
                    continue
                with anyio.CancelScope() as scope:
                    self._listening = scope
                    try:
                        pdu = await self._channel.receive()
                    finally:
                        self._listening = None
                if scope.cancelled_caught:
                    continue
                self._sort(pdu)
        return self._unsolicited.popleft()

    async def unsolicited(self) -> AsyncIterator[bytes]:
        """All of them, without end."""
        while True:
            yield await self.next_unsolicited()
