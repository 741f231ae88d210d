"""One ECU behind the router: its queue, the one conversation, and to whom answers go.

Requests are judged when their turn has come, because locks and vehicle may have changed while they waited. Behind the
request of another tester one waits ``busy_after_ms``, then it is answered with 0x21 in the ECU's place (tester present
with 7E). 3E 80 is swallowed meanwhile. An ECU that stays silent gets no answer invented, its conversation is only
freed. A late answer goes to who asked, as far as service and identifiers tell; what nobody asked for goes to the tester
that set up periodic data or events there, or to the last one that asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

import anyio
import msgspec

from gateway.diag.ports import TargetBusyError, Tester, TooLongError, UnreachableError
from gateway.diag.router_model import (
    BUSY,
    FUNCTIONALLY_SILENT,
    MS_NS,
    Asker,
    Conversation,
    RouterLimits,
    TargetStatistics,
    Timing,
    is_answer_to,
    is_keep_alive,
    negative,
)
from gateway.errors import PeerError, TransportError
from gateway.firewall.ports import Decision, DiagnosticFirewall, Verdict
from gateway.isotp import IsoTpError
from gateway.runtime import Clock
from gateway.uds.channel import ChannelClosedError, DiagnosticChannel

log = logging.getLogger(__name__)

_SESSION_DEFAULT = b"\x10\x01"
LOOK_AGAIN_MS = 20  # while an answer is arriving


class Queued:
    """A request that waits for its turn. ``accepted`` is done once it was sent or answered in the ECU's place."""

    __slots__ = ("accepted", "asker", "decision", "is_functional", "pdu", "timer")

    def __init__(
        self, asker: Asker, pdu: bytes, *, is_functional: bool = False, decision: Decision | None = None
    ) -> None:
        self.asker, self.pdu, self.is_functional, self.decision = asker, pdu, is_functional, decision
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None

    def settle(self, error: Exception | None = None) -> None:
        """It was accepted, or will never be."""
        if self.timer is not None:
            self.timer.cancel()
        if self.accepted.done():
            return
        if error is None:
            self.accepted.set_result(None)
        else:
            self.accepted.set_exception(error)
            self.accepted.exception()  # nobody may be waiting any more; that is no mistake


class Target:
    """What the ECU's and the gateway's own target have in common: queue, judging, answering in the ECU's place."""

    def __init__(
        self, name: str, address: int, *, firewall: DiagnosticFirewall, clock: Clock, limits: RouterLimits
    ) -> None:
        self.name, self.address = name, address
        self.firewall, self.clock, self.limits = firewall, clock, limits
        self.queue: deque[Queued] = deque()
        self.closing: Tester | None = None  # whose session is to be closed
        self.count = dict.fromkeys(msgspec.structs.asdict(TargetStatistics(name="", is_reachable=True)), 0)
        self._wake = anyio.Event()

    async def run(self) -> None:
        """Serve until cancelled."""
        raise NotImplementedError

    @property
    def is_reachable(self) -> bool:
        """Whether requests can be sent at all."""
        return True

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""
        return False

    def statistics(self) -> TargetStatistics:
        """The numbers at this moment."""
        counts = {key: value for key, value in self.count.items() if key not in ("name", "is_reachable")}
        return TargetStatistics(name=self.name, is_reachable=self.is_reachable, **counts)

    def submit(self, request: Queued) -> None:
        """Put a request into the queue.

        Raises:
            TargetBusyError, UnreachableError: it was not accepted.
        """
        if not self.is_reachable:
            raise UnreachableError(f"{self.name} cannot be reached")
        if sum(r.asker is request.asker for r in self.queue) >= self.limits.max_queued:
            raise TargetBusyError(f"{self.limits.max_queued} requests wait for {self.name} already")
        self.queue.append(request)
        self.wake()

    def close_session_of(self, tester: Tester) -> None:
        """Send the ECU back to its default session before anything else."""
        self.closing = tester
        self.wake()

    def forget(self, asker: Asker) -> None:
        """Requests of a tester that left are not sent any more."""
        for request in [r for r in self.queue if r.asker is asker]:
            self.queue.remove(request)
            request.settle(ChannelClosedError("the session was closed"))

    def wake(self) -> None:
        self._wake.set()
        self._wake = anyio.Event()

    async def wait_for_work(self) -> None:
        """Return when there is something to send."""
        while not self.queue and self.closing is None:
            await self._wake.wait()

    def judge(self, request: Queued) -> bool:
        """Whether a request may go on; what is refused is answered here."""
        decision = request.decision or self.firewall.judge(
            request.asker.tester,
            self.address,
            request.pdu,
            is_functional=request.is_functional,
            now_ns=self.clock.monotonic_ns(),
        )
        if decision.verdict is Verdict.ALLOW:
            return True
        request.settle()
        self.answer_refused(request.asker, request.pdu, decision, is_functional=request.is_functional)
        return False

    def answer_refused(self, asker: Asker, pdu: bytes, decision: Decision, *, is_functional: bool) -> None:
        """What the tester gets of a refusal: a negative answer as if the ECU had given it, or nothing."""
        self.count["refused"] += 1
        if decision.verdict is not Verdict.REFUSE or (is_functional and decision.nrc in FUNCTIONALLY_SILENT):
            return
        asker.deliver(self.address, negative(pdu[0], decision.nrc))


class EcuTarget(Target):
    """An ECU behind a channel."""

    def __init__(
        self,
        name: str,
        address: int,
        *,
        open_channel: Callable[[], Awaitable[DiagnosticChannel]],
        timing: Timing,
        max_pending: int,
        firewall: DiagnosticFirewall,
        clock: Clock,
        limits: RouterLimits,
    ) -> None:
        super().__init__(name, address, firewall=firewall, clock=clock, limits=limits)
        self._open_channel, self._timing, self._max_pending = open_channel, timing, max_pending
        self._channel: DiagnosticChannel | None = None
        self._current: Conversation | None = None
        self._ended = anyio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._functional: list[Conversation] = []
        self._late: Conversation | None = None
        self._last: Asker | None = None
        self._subscriber: Asker | None = None
        self._is_orphaned = False  # the subscriber left: what still comes is nobody's

    @property
    def is_reachable(self) -> bool:
        return self._channel is not None

    @property
    def is_busy(self) -> bool:
        return self._current is not None

    @property
    def max_pdu_bytes(self) -> int:
        """The longest request; 0 while there is no channel."""
        return self._channel.max_pdu_bytes if self._channel else 0

    # requests

    def submit(self, request: Queued) -> None:
        """See ``Target.submit``; 3E 80 beside a conversation ends here."""
        if self._current is not None:
            if is_keep_alive(request.pdu):
                self.count["swallowed"] += 1
                request.settle()
                return
            if self._current.asker is request.asker and self._current.may_be_overtaken:
                self._end(self._current)
        super().submit(request)
        if self._current is not None or len(self.queue) > 1:
            self._watch(request)

    def _watch(self, request: Queued) -> None:
        loop = asyncio.get_running_loop()
        request.timer = loop.call_later(self.limits.busy_after_ms / 1000, self._waited, request)

    def _waited(self, request: Queued) -> None:
        """Behind a tester's own requests one waits; behind those of others the tester is told to come again."""
        if request not in self.queue:
            return
        before = [r.asker for r in self.queue if r is not request][: self.queue.index(request)]
        if self._current is not None:
            before += [self._current.asker] if self._current.asker is not None else []
        if all(asker is request.asker for asker in before):
            self._watch(request)
            return
        self.queue.remove(request)
        request.settle()
        self.count["busy"] += 1
        if is_keep_alive(request.pdu):
            return
        is_present = request.pdu == b"\x3e\x00"
        if not request.is_functional or is_present:
            answer = b"\x7e\x00" if is_present else negative(request.pdu[0], BUSY)
            request.asker.deliver(self.address, answer)

    def expect_functional(self, asker: Asker, pdu: bytes) -> Conversation:
        """A functional request is about to be sent: answers to it are the asker's. Of too many the oldest goes."""
        now_ns = self.clock.monotonic_ns()
        self._functional = [c for c in self._functional if not c.is_done and now_ns < c.deadline_ns]
        del self._functional[: len(self._functional) + 1 - self.limits.max_functional]
        deadline_ns = now_ns + (self._timing.p2_ms + self.limits.functional_ms) * MS_NS
        conversation = Conversation(asker, pdu, deadline_ns)
        self._functional.append(conversation)
        return conversation

    def is_receiving_for(self, asker: Asker) -> bool:
        """Whether a long answer to this asker's request has begun to arrive."""
        return self._current is not None and self._current.asker is asker and self._is_receiving

    @property
    def _is_receiving(self) -> bool:
        return bool(getattr(self._channel, "is_receiving", False))  # ``ReceptionAware``, where the channel is

    # the two tasks

    async def run(self) -> None:
        """Keep a channel open, send what is queued, hear what comes; until cancelled."""
        pause_ms = self.limits.reopen_first_ms
        told = ""
        while True:
            try:
                self._channel = await self._open_channel()
            except TransportError as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("ecu_unreachable", extra={"ecu": self.name, "error": told})
            else:
                pause_ms, told = self.limits.reopen_first_ms, ""
                await self._serve(self._channel)
            await anyio.sleep(pause_ms / 1000)
            pause_ms = min(pause_ms * 2, self.limits.reopen_max_ms)

    async def _serve(self, channel: DiagnosticChannel) -> None:
        try:
            async with anyio.create_task_group() as tg:
                tg.start_soon(self._send_all, channel)
                await self._hear_all(channel)
                tg.cancel_scope.cancel()
        finally:
            self._channel = None
            if self._current is not None:
                self._end(self._current)
            while self.queue:
                self.queue.popleft().settle(UnreachableError(f"{self.name} cannot be reached"))
            with anyio.CancelScope(shield=True):
                await channel.aclose()

    async def _hear_all(self, channel: DiagnosticChannel) -> None:
        while True:
            try:
                pdu = await channel.receive()
            except ChannelClosedError as error:
                log.warning("ecu_unreachable", extra={"ecu": self.name, "error": str(error)})
                return
            except TransportError as error:
                self.count["failed"] += 1
                log.debug("reception_failed", extra={"ecu": self.name, "error": str(error)})
            else:
                if pdu:
                    self._heard(pdu)

    async def _send_all(self, channel: DiagnosticChannel) -> None:
        while True:
            await self.wait_for_work()
            if self.closing is not None:
                await self._close(channel, self.closing)
            else:
                request = self.queue.popleft()
                if request.timer is not None:
                    request.timer.cancel()
                if self.judge(request):
                    await self._converse(channel, request)

    async def _converse(self, channel: DiagnosticChannel, request: Queued) -> None:
        conversation = Conversation(request.asker, request.pdu, 0, is_silent=request.is_functional)
        error = await self._transmit(channel, conversation)
        if error is not None:
            request.settle(error)
            return
        self.count["requests"] += 1
        if is_keep_alive(request.pdu):  # silence is the answer; nobody waits, and nobody becomes the owner
            self._end(conversation)
            request.settle()
            return
        self._last = request.asker
        request.settle()
        await self._wait_for_end(conversation)

    async def _close(self, channel: DiagnosticChannel, tester: Tester) -> None:
        """Back to the default session in place of a tester that is gone."""
        conversation = Conversation(None, _SESSION_DEFAULT, 0)
        if await self._transmit(channel, conversation) is None:
            await self._wait_for_end(conversation)
        log.info("session_closed", extra={"ecu": self.name, "tester": f"{tester.port} {tester.address:#06x}"})
        self.closing = None
        self.firewall.closed(self.address, is_certain=conversation.last[:1] == b"\x50")

    async def _transmit(self, channel: DiagnosticChannel, conversation: Conversation) -> Exception | None:
        """Send; from here on answers are looked for. What went wrong is returned for whoever asked."""
        self._current, self._ended = conversation, anyio.Event()
        try:
            await channel.send(conversation.request)
        except TransportError as error:
            self.count["failed"] += 1
            self._end(conversation)
            is_too_long = isinstance(error, IsoTpError) and error.reason == "buffer_ovflw"  # says the ECU
            return (TooLongError if is_too_long else UnreachableError)(f"{self.name}: {error}")
        except (PeerError, ValueError) as error:
            self._end(conversation)
            return TooLongError(f"{self.name}: {error}")
        if conversation is self._current and not conversation.is_done and not conversation.pendings:
            conversation.deadline_ns = self.clock.monotonic_ns() + self._timing.p2_ms * MS_NS
            self._arm(conversation)
        return None

    async def _wait_for_end(self, conversation: Conversation) -> None:
        while self._current is conversation:
            await self._ended.wait()

    def _arm(self, conversation: Conversation) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0, conversation.deadline_ns - self.clock.monotonic_ns()) / 1e9
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._timed_out, conversation)

    def _timed_out(self, conversation: Conversation) -> None:
        if self._current is not conversation:
            return
        now_ns = self.clock.monotonic_ns()
        if self._is_receiving:  # P2 ends with the first frame of the answer
            conversation.begun_ns = conversation.begun_ns or now_ns
            if now_ns - conversation.begun_ns < self.limits.reception_ms * MS_NS:
                conversation.deadline_ns = now_ns + LOOK_AGAIN_MS * MS_NS
                self._arm(conversation)
                return
        if not conversation.may_be_overtaken:
            self.count["unanswered"] += 1
        self._end(conversation)

    def _end(self, conversation: Conversation) -> None:
        """The conversation is over, the next may begin; a late answer still finds its way."""
        if self._current is not conversation:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._current = None
        if not conversation.is_done and not is_keep_alive(conversation.request):
            conversation.deadline_ns = self.clock.monotonic_ns() + self.limits.late_after_ms * MS_NS
            self._late = conversation
        self._ended.set()

    # answers

    def _heard(self, pdu: bytes) -> None:
        now_ns = self.clock.monotonic_ns()
        self.count["answers"] += 1
        if pdu[0] == 0x7F and len(pdu) > 2 and pdu[2] == 0x78:
            self.count["pending"] += 1
        if pdu[0] == 0x50:
            self._timing.told(pdu)
        found = self._whose(pdu, now_ns)
        told: list[Asker] = []
        for conversation in found:
            is_to_be_seen = conversation.take(pdu, now_ns, self._timing, self._max_pending)
            asker = conversation.asker
            if asker is not None and not any(asker is other for other in told):
                told.append(asker)
                self.firewall.answered(asker.tester, self.address, pdu, now_ns=now_ns)
                if is_to_be_seen:
                    self._deliver(asker, pdu)
            self._go_on(conversation)
        if pdu[0] in (0x6A, 0xC6) and told:
            self._subscriber, self._is_orphaned = told[0], False
        elif pdu[0] in (0x50, 0x51):  # ends what was set up
            self._subscriber, self._is_orphaned = None, False
        if not found:
            self._deliver(self._subscriber or (None if self._is_orphaned else self._last), pdu)

    def _go_on(self, conversation: Conversation) -> None:
        if conversation is self._late:
            self._late = None if conversation.is_done else conversation
        if conversation is self._current:
            if conversation.is_done:
                if conversation.pendings > self._max_pending:
                    self.count["unanswered"] += 1
                self._end(conversation)
            else:
                self._arm(conversation)

    def _whose(self, pdu: bytes, now_ns: int) -> list[Conversation]:
        """Who asked for this. Two testers that asked the same at the same time both get it, each for his oldest."""
        self._functional = [c for c in self._functional if not c.is_done and now_ns < c.deadline_ns]
        found: list[Conversation] = []
        for conversation in [*self._functional, *([self._current] if self._current is not None else [])]:
            is_first = not any(conversation.asker is other.asker for other in found)
            if is_first and is_answer_to(conversation.request, pdu):
                found.append(conversation)
        late = self._late
        if not found and late is not None and now_ns < late.deadline_ns and is_answer_to(late.request, pdu):
            found = [late]
        return found

    def _deliver(self, asker: Asker | None, pdu: bytes) -> None:
        if asker is None or not asker.deliver(self.address, pdu):
            self.count["undelivered"] += 1

    def forget(self, asker: Asker) -> None:
        """See ``Target.forget``; an answer under way will find nobody, but its conversation goes on."""
        super().forget(asker)
        if self._last is asker:
            self._last = None
        if self._subscriber is asker:
            self._subscriber, self._is_orphaned = None, True
