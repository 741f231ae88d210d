"""Sends stored batches, several at once, the urgent first; forgets one only when the cloud holds it durably.

Theory of operation. ``window`` senders share one queue and one link, so the failure of one pauses all, and failures of
requests that were under way together count as one. A batch leaves the spool's pending ones for one reason: an
acknowledgement that names it. Everything else the cloud may answer leads to another try:

- the link or the cloud is down, or the cloud asks to wait: the batch is the next again, after a pause for all;
- the cloud does not take this batch (too large, or an answer nobody understands): the batch is parked and others pass;
- the identity is refused: a long pause, cut short when the identity on disk is replaced.

The manifests that batches name are offered beside them and never hold them up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import anyio
from anyio.abc import TaskStatus

from gateway.errors import GatewayError, PeerError, TransportError
from gateway.link.backoff import Backoff
from gateway.link.client import CloudClient, Refusal, RefusedError
from gateway.link.manifests import ManifestShelf
from gateway.link.queue import UploadQueue
from gateway.link.requests import Requests
from gateway.runtime import Clock, ComponentHealth, HealthBoard
from gateway.telemetry.desk import SpoolDesk
from gateway.telemetry.ledger import LedgerKeeper
from gateway.wire.api import BatchAck, SequenceRange
from gateway.wire.batch import STREAMS, BatchHeader
from gateway.wire.codec import CodecError, read_header

log = logging.getLogger(__name__)

IDLE_S = 5.0
FINISHING_S = 0.1  # the event stays set once the spool is finished; senders then look at each other this often
IDENTITY_PAUSE_S = 60.0
TOO_LARGE_RETRY_NS = 3600 * 1_000_000_000
MISUNDERSTOOD_RETRY_NS = 60 * 1_000_000_000


def _header(content: bytes) -> BatchHeader | None:
    try:
        return read_header(content)
    except CodecError:
        return None


def _is_urgent(stream: str) -> bool:
    return stream.startswith("critical")


class Uplink:
    """Runs the senders; ``request`` and ``want_manifest`` say what the cloud asked for."""

    name, optional = "uplink", False

    def __init__(
        self,
        *,
        client: CloudClient,
        desk: SpoolDesk,
        queue: UploadQueue,
        keeper: LedgerKeeper,
        backoff: Backoff,
        manifest_backoff: Backoff,
        health: HealthBoard,
        clock: Clock,
        is_allowed: Callable[[str], bool],
        shelf: ManifestShelf,
        window: int,
        drain_s: float,
        identity_pause_s: float = IDENTITY_PAUSE_S,
    ) -> None:
        self._client, self._desk, self._queue, self._keeper = client, desk, queue, keeper
        self._backoff, self._health, self._clock, self._is_allowed = backoff, health, clock, is_allowed
        self._shelf, self._manifest_backoff = shelf, manifest_backoff
        self._window, self.drain_s, self._identity_pause_s = window, drain_s, identity_pause_s
        self._requests = Requests(desk.spool_id, STREAMS)
        self._resume_at_ns = 0
        self._failures = 0  # pauses so far: what began before the newest one tells nothing new
        self._is_identity_refused = False
        self._refusal = ""
        self._manifests: dict[str, None] = dict.fromkeys(shelf.undelivered())
        self._is_offering = False
        self._offer_at_ns = 0
        self._manifest_trouble = ""

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Send until cancelled; once nothing more will be stored, end when all was sent."""
        self._health.register(self.name, self._clock.monotonic_ns(), limit_s=None)
        self._health.report(self.name, ComponentHealth.OK)
        task_status.started()
        async with anyio.create_task_group() as tg:
            for _ in range(self._window):
                tg.start_soon(self._sender)

    def request(self, ranges: Sequence[SequenceRange]) -> None:
        """Send these again, as the cloud asked. What is gone is reported by ``not_found``."""
        if ranges:
            self._requests.add(ranges, self._clock.monotonic_ns())
            self._desk.wake()

    def want_manifest(self, manifest_hash: str | None = None) -> None:
        """The cloud lacks a manifest, ours if none is named."""
        wanted = manifest_hash or self._shelf.current
        if wanted not in self._manifests:
            self._manifests[wanted] = None
            self._desk.wake()

    def not_found(self) -> tuple[SequenceRange, ...]:
        """Requested batches that are no longer here."""
        return self._requests.not_found()

    def reported_not_found(self, ranges: Sequence[SequenceRange]) -> None:
        """The cloud has heard of these."""
        self._requests.reported(ranges)

    async def _sender(self) -> None:
        while True:
            pause_s = (self._resume_at_ns - self._clock.monotonic_ns()) / 1e9
            if pause_s > 0:
                await self._sit_out(pause_s)
                continue
            if self._may_offer():
                await self._offer()
                continue
            stored, failures = self._desk.stored, self._failures
            try:
                is_done = await self._send_one()
            except TransportError as error:  # the disk
                self._pause(failures, 0.0, str(error))
                continue
            if not is_done:
                if self._desk.is_finished and self._is_finished():
                    return
                with anyio.move_on_after(IDLE_S if not self._desk.is_finished else FINISHING_S):
                    await (anyio.sleep_forever() if self._desk.is_finished else stored.wait())

    def _is_finished(self) -> bool:
        waits_for_manifest = self._is_offering or (self._manifests and not self._manifest_trouble)
        return not (self._queue.under_way or self._requests.has_any(self._is_allowed) or waits_for_manifest)

    async def _sit_out(self, pause_s: float) -> None:
        """Wait, and look now and then whether somebody has replaced a refused identity."""
        await anyio.sleep(min(pause_s, IDLE_S))
        if self._is_identity_refused:
            try:
                if await self._client.refresh():
                    self._is_identity_refused, self._resume_at_ns = False, 0
            except RefusedError as error:
                self._trouble(str(error))

    async def _send_one(self) -> bool:
        """Send what is most urgent now; False when there is nothing. Re-requests come after what is critical.

        Raises:
            SpoolError: the disk refused.
        """
        request = self._requests.take(self._is_allowed)
        allowed = self._is_allowed if request is None else lambda name: _is_urgent(name) and self._is_allowed(name)
        now_ns = self._clock.monotonic_ns()
        picked = await self._desk.pick(lambda: self._queue.pick(allowed, now_ns), self._queue.failed)
        if picked is not None:
            if request is not None:
                self._requests.put_back(*request)
            await self._deliver(*picked)
        elif request is not None:
            await self._resend(*request)
        return picked is not None or request is not None

    async def _deliver(self, stream: str, sequence: int, content: bytes | None) -> None:
        if content is None:
            self._queue.gone(stream, sequence)
            return
        failures = self._failures
        try:
            answer = await self._send(stream, sequence, content)
        except GatewayError as error:
            retry_ns = self._leave_alone_ns(error)
            if retry_ns:
                self._queue.park(stream, sequence, self._clock.monotonic_ns() + retry_ns)
            else:
                self._queue.failed(stream, sequence)
            self._failed(failures, error)
        except BaseException:
            self._queue.failed(stream, sequence)
            raise
        else:
            self._keeper.uploaded(len(content))
            header = _header(content)
            if answer.dead_letter and header is not None:
                self._keeper.dead_lettered(stream, header.items)
            await self._desk.acknowledge(stream, lambda mark: self._queue.succeeded(stream, sequence, mark))
            self._well()

    async def _resend(self, stream: str, sequence: int) -> None:
        try:
            content = await self._desk.read(stream, sequence)
            mark = await self._desk.acknowledged(stream)
        except TransportError:
            self._requests.put_back(stream, sequence)
            raise
        if content is None:
            self._requests.not_here(stream, sequence)
            return
        if self._queue.is_waiting(stream, sequence, mark):
            return
        failures = self._failures
        try:
            await self._send(stream, sequence, content)
        except GatewayError as error:
            retry_ns = self._leave_alone_ns(error)
            if retry_ns:
                self._requests.defer(stream, sequence, self._clock.monotonic_ns() + retry_ns)
            else:
                self._requests.put_back(stream, sequence)
            self._failed(failures, error)
        else:
            self._keeper.uploaded(len(content))
            self._well()

    async def _send(self, stream: str, sequence: int, content: bytes) -> BatchAck:
        """One upload; the acknowledgement must name what was sent."""
        name, header = f"{self._desk.spool_id}/{stream}", _header(content)
        items = header.items if header is not None else 0
        answer = await self._client.send_batch(content, stream=name, sequence=sequence, items=items)
        if (answer.stream, answer.sequence) != (name, sequence):
            raise PeerError(f"the cloud acknowledged {answer.stream} {answer.sequence}, which is not what was sent")
        if answer.needs_manifest and header is not None:
            self.want_manifest(header.manifest_hash.hex())
        return answer

    # Manifests

    def _may_offer(self) -> bool:
        return bool(self._manifests) and not self._is_offering and self._clock.monotonic_ns() >= self._offer_at_ns

    async def _offer(self) -> None:
        """Give the cloud one manifest it lacks. What fails is tried again, at growing intervals."""
        wanted = next(iter(self._manifests))
        self._is_offering = True
        try:
            content = self._shelf.content(wanted)
            if content is None:
                log.error("manifest_missing", extra={"manifest": wanted})
                self._manifest_trouble = f"manifest {wanted[:16]} is gone; the cloud cannot read its batches"
            else:
                await self._client.send_manifest(wanted, content)
                self._shelf.delivered(wanted)
                self._manifest_backoff.succeeded()
                self._manifest_trouble = ""
            del self._manifests[wanted]
        except GatewayError as error:
            self._manifests[wanted] = self._manifests.pop(wanted)  # the others first
            at_least_s = error.retry_after_s if isinstance(error, RefusedError) else 0.0
            self._offer_at_ns = self._clock.monotonic_ns() + int(self._manifest_backoff.failed(at_least_s) * 1e9)
            self._manifest_trouble = f"manifest {wanted[:16]} not delivered: {error}"
            self._trouble(self._manifest_trouble)
        finally:
            self._is_offering = False

    # What to make of failures

    @staticmethod
    def _leave_alone_ns(error: GatewayError) -> int:
        """How long to leave alone the batch that got this answer; 0 when its turn is next."""
        if isinstance(error, RefusedError) and error.refusal is Refusal.TOO_LARGE:
            return TOO_LARGE_RETRY_NS
        is_strange = isinstance(error, PeerError) or (
            isinstance(error, RefusedError) and error.refusal is Refusal.OTHER
        )
        return MISUNDERSTOOD_RETRY_NS if is_strange else 0

    def _failed(self, failures: int, error: GatewayError) -> None:
        if isinstance(error, RefusedError):
            if error.refusal is Refusal.TOO_LARGE:
                self._refusal = str(error)
                self._trouble(self._parked_text())
                return
            self._is_identity_refused = error.refusal is Refusal.IDENTITY
            at_least_s = self._identity_pause_s if self._is_identity_refused else 0.0
            self._pause(failures, max(at_least_s, error.retry_after_s), str(error))
        else:
            self._pause(failures, 0.0, str(error))
        if self._leave_alone_ns(error):
            self._refusal = str(error)

    def _parked_text(self) -> str:
        return f"{self._queue.parked} batches wait that the cloud did not take; the last: {self._refusal}"

    def _pause(self, failures: int, at_least_s: float, why: str) -> None:
        """All wait. ``failures`` is what the count was when the request began: the senders fail together when the
        link fails, and that is one failure, not four."""
        seconds = at_least_s
        if failures == self._failures:
            self._failures += 1
            seconds = self._backoff.failed(at_least_s)
        resume_at_ns = self._clock.monotonic_ns() + int(seconds * 1e9)
        self._resume_at_ns = max(self._resume_at_ns, resume_at_ns)
        self._trouble(why)

    def _trouble(self, why: str) -> None:
        if self._health.report(self.name, ComponentHealth.DEGRADED, why):
            pause_s = max(0.0, (self._resume_at_ns - self._clock.monotonic_ns()) / 1e9)
            log.warning("uplink_degraded", extra={"error": why, "pause_s": round(pause_s, 1)})

    def _well(self) -> None:
        self._backoff.succeeded()
        if self._queue.parked:
            self._trouble(self._parked_text())
        elif self._manifest_trouble:
            self._trouble(self._manifest_trouble)
        elif self._health.report(self.name, ComponentHealth.OK):
            log.info("uplink_works")
