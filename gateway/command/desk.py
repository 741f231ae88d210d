"""Takes orders from the link, has them carried out one after the other, and sees that results reach the cloud.

The order of steps for one order: judged → remembered on disk → "accepted" in the outbox → carried out → result in the
outbox → marked as done. kill -9 between any two leaves an order that is either not taken (the cloud offers it again) or
taken and, after the next start, answered with "interrupted". None is carried out twice.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence

import anyio
from anyio import to_thread
from anyio.abc import TaskStatus

from gateway.command.orders import Memory, OrderGate, OrderRefusedError, OrderRules, Refusal, digest_of
from gateway.command.ports import OrderHandler, ResultSender
from gateway.command.store import OrderStore
from gateway.errors import GatewayError, PeerError, TransportError
from gateway.link.backoff import Backoff
from gateway.link.client import Refusal as CloudRefusal
from gateway.link.client import RefusedError
from gateway.runtime import Clock, ComponentHealth, HealthBoard
from gateway.wire.diagnostics import DiagnosticResult, StepResult
from gateway.wire.orders import MAX_ID_CHARS, Order, SignedOrder

log = logging.getLogger(__name__)

MAX_OFFERED = 64  # orders that wait to be judged; more are dropped, the cloud offers them again
MAX_QUEUED = 64  # accepted, not yet carried out; beyond it nothing is judged
TOLD_MAX = 256  # refusals that were told once
MAX_ORDER_S = 1800.0  # one order may take so long
KEEP_FLOOR_NS = 600_000_000_000  # the cloud's time is written down when it is so much newer
INTERRUPTED = "the gateway stopped while it was carried out; it is not tried again"


class OrderDesk:
    """A component. The link calls ``offer``; results leave through ``sender``."""

    name, drain_s, optional = "orders", 0.0, True

    def __init__(
        self,
        *,
        vehicle: str,
        key: Callable[[], bytes],
        store: OrderStore,
        handlers: Mapping[str, OrderHandler],
        sender: ResultSender,
        backoff: Backoff,
        clock: Clock,
        health: HealthBoard,
        rules: OrderRules | None = None,
    ) -> None:
        """``key`` gives the raw public key as of now (empty: none); it may change with a renewal."""
        self._vehicle, self._key, self._store, self._handlers = vehicle, key, store, handlers
        self._sender, self._backoff, self._clock, self._health = sender, backoff, clock, health
        self._rules = rules
        self._gate: OrderGate | None = None
        self._kept = Memory()
        self._offered: deque[tuple[SignedOrder, int]] = deque()
        self._queue: deque[Order] = deque()
        self._told: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._has_offer, self._has_order, self._has_result = anyio.Event(), anyio.Event(), anyio.Event()
        self._putting = anyio.Lock()
        self.accepted = self.refused = self.replayed = self.dropped = 0

    def offer(self, orders: Sequence[SignedOrder], cloud_ns: int) -> None:
        """Orders of a reply, and the cloud's time in it. Never waits."""
        if self._gate is not None:
            self._gate.heard(cloud_ns, self._clock.monotonic_ns())
        for signed in orders:
            if len(self._offered) >= MAX_OFFERED:
                self.dropped += 1
                continue
            self._offered.append((signed, cloud_ns))
        self._has_offer.set()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Work until cancelled; an order that is being carried out then is answered as interrupted next time."""
        self._health.register(self.name, self._clock.monotonic_ns(), limit_s=None)
        self._queue.clear()  # of a run that failed: they are answered as interrupted
        self._kept = await to_thread.run_sync(self._store.load)
        try:
            self._gate = OrderGate(self._vehicle, self._key(), self._kept, self._handlers, self._rules)
        except ValueError as error:
            raise PeerError(f"the cloud's key for orders is unusable: {error}") from error
        await self._answer_interrupted(self._gate)
        self._health.report(self.name, ComponentHealth.OK)
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._judge_all, self._gate)
            tg.start_soon(self._execute_all, self._gate)
            tg.start_soon(self._post_all)
            task_status.started()

    async def _answer_interrupted(self, gate: OrderGate) -> None:
        for order_id in gate.unfinished:
            if not await to_thread.run_sync(self._store.has_final, order_id):
                await self._tell(order_id, "done", INTERRUPTED)
            gate.finished(order_id)
        await self._keep(gate)

    # judging

    async def _judge_all(self, gate: OrderGate) -> None:
        while True:
            await self._has_offer.wait()
            self._has_offer = anyio.Event()
            self._take_key(gate)
            while self._offered:
                signed, cloud_ns = self._offered.popleft()
                gate.heard(cloud_ns, self._clock.monotonic_ns())
                if len(self._queue) >= MAX_QUEUED:
                    self.dropped += 1  # it comes again
                    continue
                try:
                    await self._judge(gate, signed)
                except TransportError as error:  # the disk: neither taken nor answered, so it comes again
                    if self._health.report(self.name, ComponentHealth.DEGRADED, str(error)):
                        log.error("order_not_kept", extra={"error": str(error)})
            if gate.memory.floor_ns > self._kept.floor_ns + KEEP_FLOOR_NS:
                await self._keep_quietly(gate)

    def _take_key(self, gate: OrderGate) -> None:
        """The key of now: a renewal may have brought another."""
        try:
            gate.set_key(self._key())
        except (GatewayError, ValueError) as error:
            log.error("order_key_unusable", extra={"error": str(error)})

    async def _judge(self, gate: OrderGate, signed: SignedOrder) -> None:
        try:
            order = gate.judge(signed, self._clock.utc_ns(), self._clock.monotonic_ns())
            self._handlers[order.kind].check(order)
        except OrderRefusedError as error:
            await self._refuse(gate, signed, error.refusal, str(error))
            return
        except PeerError as error:
            await self._refuse(gate, signed, Refusal.MALFORMED, str(error))
            return
        gate.remember(order)
        try:
            await self._keep(gate)
        except TransportError:
            gate.forget(order.id)
            raise
        self.accepted += 1
        log.info("order_accepted", extra={"order": order.id, "kind": order.kind})
        await self._tell_quietly(order.id, "accepted")
        self._queue.append(order)
        self._has_order.set()

    async def _refuse(self, gate: OrderGate, signed: SignedOrder, refusal: Refusal, detail: str) -> None:
        """Tell the cloud once. If it still asks for an order taken before, it was restored from a backup."""
        mark = signed.id[:MAX_ID_CHARS], digest_of(signed)
        if refusal is Refusal.REPLAYED and gate.is_known(signed.id):
            self.replayed += 1
            if signed.id in gate.unfinished or await to_thread.run_sync(self._store.has_final, signed.id):
                return  # its result is on the way
        if mark in self._told:
            return
        await self._tell(mark[0], "refused", f"{refusal.value}: {detail}")
        self._told[mark] = None
        while len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)
        self.refused += 1
        log.warning("order_refused", extra={"order": mark[0], "why": refusal.value, "detail": detail})

    async def _keep(self, gate: OrderGate) -> None:
        memory = gate.memory
        if memory != self._kept:
            await to_thread.run_sync(self._store.save, memory)
            self._kept = memory

    async def _keep_quietly(self, gate: OrderGate) -> None:
        try:
            await self._keep(gate)
        except TransportError as error:
            log.warning("order_memory_not_kept", extra={"error": str(error)})

    # carrying out

    async def _execute_all(self, gate: OrderGate) -> None:
        while True:
            await self._has_order.wait()
            self._has_order = anyio.Event()
            while self._queue:
                await self._execute(gate, self._queue.popleft())

    async def _execute(self, gate: OrderGate, order: Order) -> None:
        now_ns = gate.now_ns(self._clock.utc_ns(), self._clock.monotonic_ns())
        results: tuple[StepResult, ...] = ()
        detail = ""
        if now_ns >= order.expires_ns:
            detail = "expired before its turn came"
        else:
            await self._tell_quietly(order.id, "running")
            try:
                with anyio.fail_after(MAX_ORDER_S):
                    results = await self._handlers[order.kind].execute(order)
            except TimeoutError:
                detail = f"took longer than {MAX_ORDER_S:.0f} s"
            except Exception as error:  # one order's mistake must not keep the next from being carried out
                log.exception("order_failed", extra={"order": order.id})
                detail = f"failed: {error}"[:300]
        await self._tell_quietly(order.id, "done", detail, results)
        gate.finished(order.id)
        await self._keep_quietly(gate)

    # results

    async def _tell(self, order_id: str, state: str, detail: str = "", results: tuple[StepResult, ...] = ()) -> None:
        result = DiagnosticResult(
            order=order_id, state=state, at_ns=self._clock.utc_ns(), detail=detail, results=results
        )
        async with self._putting:
            has_room = await to_thread.run_sync(self._store.put, result)
        if not has_room:
            log.error("order_result_dropped", extra={"why": "too many results wait for the cloud"})
        self._has_result.set()

    async def _tell_quietly(
        self, order_id: str, state: str, detail: str = "", results: tuple[StepResult, ...] = ()
    ) -> None:
        try:
            await self._tell(order_id, state, detail, results)
        except TransportError as error:
            self._health.report(self.name, ComponentHealth.DEGRADED, str(error))
            log.error("order_result_not_kept", extra={"order": order_id, "state": state, "error": str(error)})

    async def _post_all(self) -> None:
        while True:
            has_result = self._has_result = anyio.Event()
            for path in await to_thread.run_sync(self._store.waiting):
                result = await to_thread.run_sync(self._store.read, path)
                if result is None:
                    continue
                if not await self._post(result):
                    break
                await to_thread.run_sync(self._store.remove, path)
            else:
                if not has_result.is_set():
                    await has_result.wait()

    async def _post(self, result: DiagnosticResult) -> bool:
        """True when the result need not be sent again; otherwise after a pause."""
        at_least_s = 0.0
        try:
            await self._sender.send_result(result)
        except RefusedError as error:
            if error.refusal in (CloudRefusal.OTHER, CloudRefusal.TOO_LARGE) and 400 <= error.status < 500:
                log.warning("order_result_refused", extra={"order": result.order, "error": str(error)})
                return True
            at_least_s, why = error.retry_after_s, str(error)
        except GatewayError as error:
            why = str(error)
        else:
            self._backoff.succeeded()
            self._health.report(self.name, ComponentHealth.OK)
            return True
        if self._health.report(self.name, ComponentHealth.DEGRADED, f"results wait: {why}"):
            log.info("order_results_wait", extra={"error": why})
        await anyio.sleep(self._backoff.failed(at_least_s))
        return False
