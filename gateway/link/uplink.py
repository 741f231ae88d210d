"""Sends stored batches, several at once, the urgent first; forgets one only when the cloud holds it durably."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

import anyio
from anyio.abc import TaskStatus

from gateway.errors import PeerError, TransportError
from gateway.link.backoff import Backoff
from gateway.link.client import CloudClient, Refusal, RefusedError
from gateway.link.queue import UploadQueue
from gateway.runtime import Clock, ComponentHealth, HealthBoard
from gateway.telemetry.desk import SpoolDesk
from gateway.telemetry.ledger import LedgerKeeper
from gateway.wire.api import BatchAck, SequenceRange
from gateway.wire.codec import read_header

log = logging.getLogger(__name__)

IDLE_S = 5.0
FINISHING_S = 0.1  # the event stays set once the spool is finished; senders then look at each other this often
IDENTITY_PAUSE_S = 60.0
PARKED_RETRY_S = 3600.0
MAX_REQUESTED = 10_000


class Uplink:
    """Runs ``window`` senders over one queue; a failure of one pauses all, since they share the link."""

    name, optional = "uplink", False

    def __init__(
        self,
        *,
        client: CloudClient,
        desk: SpoolDesk,
        queue: UploadQueue,
        keeper: LedgerKeeper,
        backoff: Backoff,
        health: HealthBoard,
        clock: Clock,
        is_allowed: Callable[[str], bool],
        manifest: tuple[str, bytes],
        window: int,
        drain_s: float,
    ) -> None:
        self._client, self._desk, self._queue, self._keeper = client, desk, queue, keeper
        self._backoff, self._health, self._clock, self._is_allowed = backoff, health, clock, is_allowed
        self._manifest, self._window, self.drain_s = manifest, window, drain_s
        self._requested: deque[tuple[str, int]] = deque()
        self._not_found: set[tuple[str, int]] = set()
        self._resume_at_ns = 0
        self._parked_at_ns = 0
        self._manifest_sent = False

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Send until cancelled; once nothing more will be stored, end when all was sent."""
        self._health.register(self.name, self._clock.monotonic_ns(), limit_s=None)
        self._health.report(self.name, ComponentHealth.OK)
        task_status.started()
        async with anyio.create_task_group() as tg:
            for _ in range(self._window):
                tg.start_soon(self._sender)

    def request(self, ranges: Sequence[SequenceRange]) -> None:
        """Send these again, as the cloud asked. What is gone is reported by ``take_not_found``."""
        asked = set(self._requested)
        for wanted in ranges:
            owner, _, stream = wanted.stream.partition("/")
            if owner != self._desk.spool_id or wanted.last < wanted.first:
                self._not_found.add((wanted.stream, wanted.first))
                continue
            for sequence in range(wanted.first, min(wanted.last, wanted.first + MAX_REQUESTED) + 1):
                if (stream, sequence) not in asked and len(self._requested) < MAX_REQUESTED:
                    self._requested.append((stream, sequence))

    def not_found(self) -> tuple[SequenceRange, ...]:
        """Requested batches that are no longer here, one range each."""
        return tuple(SequenceRange(stream, sequence, sequence) for stream, sequence in sorted(self._not_found))

    def reported_not_found(self, ranges: Sequence[SequenceRange]) -> None:
        """The cloud has heard of these."""
        self._not_found -= {(r.stream, r.first) for r in ranges}

    async def is_drained(self) -> bool:
        """Whether nothing that may travel now is waiting or under way."""
        if self._queue.under_way or self._requested:
            return False
        totals = await self._desk.totals()
        return not any(t.pending and self._is_allowed(name) for name, t in totals.items())

    async def _sender(self) -> None:
        while True:
            pause_s = (self._resume_at_ns - self._clock.monotonic_ns()) / 1e9
            if pause_s > 0:
                await anyio.sleep(pause_s)
                continue
            if self._requested:
                await self._resend(*self._requested.popleft())
                continue
            self._retry_parked()
            stored = self._desk.stored
            picked = await self._desk.pick(lambda: self._queue.pick(self._is_allowed))
            if picked is None:
                if self._desk.is_finished and not self._queue.under_way and not self._requested:
                    return
                with anyio.move_on_after(IDLE_S if not self._desk.is_finished else FINISHING_S):
                    await (anyio.sleep_forever() if self._desk.is_finished else stored.wait())
                continue
            await self._deliver(*picked)

    async def _deliver(self, stream: str, sequence: int, content: bytes | None) -> None:
        if content is None:
            self._queue.gone(stream, sequence)
            return
        try:
            answer = await self._send(stream, sequence, content)
        except RefusedError as error:
            if error.refusal is Refusal.TOO_LARGE:
                self._queue.park(stream, sequence)
                self._parked_at_ns = self._clock.monotonic_ns()
                log.error("batch_too_large_for_cloud", extra={"stream": stream, "bytes": len(content)})
            else:
                self._queue.failed(stream, sequence)
            self._refused(error)
        except (TransportError, PeerError) as error:
            self._queue.failed(stream, sequence)
            self._pause(self._backoff.failed(), str(error))
        except BaseException:
            self._queue.failed(stream, sequence)
            raise
        else:
            self._keeper.uploaded(len(content))
            if answer.dead_letter and not answer.duplicate:
                self._keeper.dead_lettered(stream, read_header(content).items)
            await self._desk.acknowledge(stream, lambda mark: self._queue.succeeded(stream, sequence, mark))
            self._well()

    async def _resend(self, stream: str, sequence: int) -> None:
        content = await self._desk.read(stream, sequence)
        if content is None:
            self._not_found.add((f"{self._desk.spool_id}/{stream}", sequence))
            return
        try:
            await self._send(stream, sequence, content)
        except RefusedError as error:
            self._requested.append((stream, sequence))
            self._refused(error)
        except (TransportError, PeerError) as error:
            self._requested.append((stream, sequence))
            self._pause(self._backoff.failed(), str(error))
        else:
            self._keeper.uploaded(len(content))

    async def _send(self, stream: str, sequence: int, content: bytes) -> BatchAck:
        """One upload; the acknowledgement must name what was sent."""
        answer = await self._client.send_batch(content)
        if (answer.stream, answer.sequence) != (f"{self._desk.spool_id}/{stream}", sequence):
            raise PeerError(f"acknowledged {answer.stream} {answer.sequence}, which is not what was sent")
        if answer.needs_manifest:
            await self.offer_manifest()
        return answer

    async def offer_manifest(self) -> None:
        """Give the cloud our manifest; failing that, it will ask again.

        Raises:
            TransportError, RefusedError, PeerError: it did not arrive.
        """
        await self._client.send_manifest(*self._manifest)

    def _refused(self, error: RefusedError) -> None:
        if error.refusal is Refusal.TOO_LARGE:
            self._health.report(self.name, ComponentHealth.DEGRADED, f"{self._queue.parked} batches too large")
        elif error.refusal is Refusal.LATER:
            self._pause(self._backoff.failed(error.retry_after_s), str(error))
        else:
            self._pause(max(IDENTITY_PAUSE_S, self._backoff.failed(error.retry_after_s)), str(error))

    def _pause(self, seconds: float, why: str) -> None:
        self._resume_at_ns = self._clock.monotonic_ns() + int(seconds * 1e9)
        if self._health.report(self.name, ComponentHealth.DEGRADED, why):
            log.warning("uplink_paused", extra={"error": why, "seconds": round(seconds, 1)})

    def _well(self) -> None:
        self._backoff.succeeded()
        if not self._queue.parked and self._health.report(self.name, ComponentHealth.OK):
            log.info("uplink_works")

    def _retry_parked(self) -> None:
        now_ns = self._clock.monotonic_ns()
        if self._queue.parked and now_ns - self._parked_at_ns > PARKED_RETRY_S * 1e9:
            self._queue.retry_parked()
