"""Reading the ECUs' fault memories on a schedule, and telling what changed.

Each ECU is asked once per period for the DTCs that match the mask (0x19 02); the ECUs are spread over the period. Only
for those that are new or changed their snapshots and extended data are read (0x19 04 and 06), so that a healthy car
costs two frames per ECU and period. What was known is kept in a small file: after a restart the first list of each ECU
is told whole ("present"), with what changed meanwhile marked as such. Reports are told before the file is written: a
power cut between the two tells them twice, never not at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import anyio
import msgspec
from anyio.abc import TaskStatus

from gateway.diag.config import EcuConfig, PollSection
from gateway.diag.poll_details import DetailReader, EcuLayout
from gateway.diag.poll_store import Known, KnownDtcs, KnownStore
from gateway.errors import GatewayError, NotNowError
from gateway.runtime import ChannelClosed, Clock, ComponentHealth, HealthBoard
from gateway.uds.channel import ChannelClosedError, DiagnosticChannel
from gateway.uds.client import UdsClient
from gateway.uds.errors import MalformedAnswer, NegativeResponse
from gateway.uds.timing import Timing
from gateway.wire.batch import Priority
from gateway.wire.dtc import DtcReport, Status
from gateway.wire.samples import Event, EventKind

log = logging.getLogger(__name__)

#: Changes of these bits are told, besides those of the mask; the others change with every operation cycle.
TOLD = int(Status.TEST_FAILED | Status.PENDING | Status.CONFIRMED | Status.WARNING_INDICATOR)
MAX_REQUEST_MS = 15_000  # a poll does not wait for an ECU that stays pending
MAX_DETAILS = 16  # DTCs whose snapshots one poll reads; a storm of faults must not fill the bus
SILENT_AFTER = 3  # polls in a row


class Outlet(Protocol):
    """What the poller needs of ``gateway.telemetry.outlet.EventOutlet``."""

    async def emit(self, priority: Priority, *events: Event) -> None:
        """Put events on their way."""


class PollListener(Protocol):
    """Told after every poll whether the ECU was silent; ``gateway.dtc``'s ``MonitorEngine.tell_ecu`` is one."""

    def __call__(self, name: str, /, *, is_silent: bool) -> None:
        """One poll of one ECU is over."""


class DtcChange(msgspec.Struct, frozen=True):
    """One difference between two lists. ``kind`` as in ``DtcReport.change``."""

    code: int
    status: int
    previous: int | None
    kind: str

    @property
    def needs_details(self) -> bool:
        """Whether its snapshots are worth reading."""
        return self.kind in ("new", "changed") or (self.kind == "present" and self.previous is None)


class PollStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start. ``frames`` is what all of it cost the buses; ``last_frames`` the last poll of each."""

    polls: int
    failed: int
    reports: int
    without_details: int  # more faults at once than ``MAX_DETAILS``
    requests: int
    frames: int
    last_frames: dict[str, int]
    silent: tuple[str, ...]


def compare(
    before: Mapping[int, int] | None, listed: Mapping[int, int], mask: int, *, tell_all: bool
) -> list[DtcChange]:
    """What two lists of one ECU differ in.

    Args:
        before: code to status, None when nothing is known.
        listed: the same, now.
        mask: that the ECU was asked with; a DTC no longer listed has none of its bits.
        tell_all: unchanged ones, too, as "present".
    """
    known = before or {}
    changes = []
    for code, status in listed.items():
        previous = known.get(code)
        if previous is None:
            kind = "present" if before is None else "new"
        elif (previous ^ status) & (TOLD | mask):
            kind = "changed"
        elif tell_all:
            kind = "present"
        else:
            continue
        changes.append(DtcChange(code, status, previous, kind))
    gone = [DtcChange(code, known[code] & ~mask & 0xFF, known[code], "gone") for code in known if code not in listed]
    return changes + gone


def frames_of(pdu_bytes: int, ecu: EcuConfig) -> int:
    """CAN frames that a PDU costs, flow control included (ISO 15765-2)."""
    payload = ecu.tx_dl - 1 - (ecu.addressing in ("extended", "mixed"))
    if pdu_bytes <= payload - (ecu.tx_dl > 8):
        return 1
    consecutive = -(-(pdu_bytes - (payload - 1)) // payload)
    flow_control = 1 + (max(0, consecutive - 1) // ecu.block_size if ecu.block_size else 0)
    return 1 + consecutive + flow_control


class _Watched:
    """One ECU under watch."""

    def __init__(self, ecu: EcuConfig, known: Known) -> None:
        self.ecu, self.known = ecu, known
        self.channel: DiagnosticChannel | None = None
        self.client: UdsClient | None = None
        self.is_told = False  # its whole list since the start
        self.failures = 0
        self.cleared_by = ""  # who cleared it since the last list
        self.frames = self.last_frames = 0
        self.soon = anyio.Event()

    def count(self, kind: str, pdu: bytes, _at_ns: int) -> None:
        """The conversation's observer."""
        self.last_frames += frames_of(len(pdu), self.ecu)


class DtcPoller:
    """The component. Like all users of the outlet it is started after the collector and stops before it."""

    name, drain_s, optional = "dtc_poller", 0.0, True

    def __init__(
        self,
        *,
        ecus: Sequence[EcuConfig],
        section: PollSection,
        open_channel: Callable[[EcuConfig], DiagnosticChannel],
        outlet: Outlet,
        clock: Clock,
        health: HealthBoard,
        store: KnownStore | None,
        layouts: Mapping[str, EcuLayout] | None = None,
        on_poll: PollListener | None = None,
        silent_after: int = SILENT_AFTER,
    ) -> None:
        """Nothing is opened yet.

        Args:
            ecus: those with ``poll`` unset are left alone.
            section: ``[diagnostics.poll]``.
            open_channel: the way to one ECU; called again when the channel it gave was closed.
            outlet: takes the events.
            clock: UTC of the events.
            health: told of ECUs that are silent.
            store: keeps what was known; None: nothing outlives the process.
            layouts: by ECU, names and scaling of what snapshots and extended data hold.
            on_poll: told after every poll.
            silent_after: polls without an answer in a row that make an event.
        """
        self._ecus = [ecu for ecu in ecus if ecu.poll]
        self._section, self._open_channel = section, open_channel
        self._outlet, self._clock, self._health = outlet, clock, health
        self._store, self._layouts = store, dict(layouts or {})
        self._on_poll, self._silent_after = on_poll, silent_after
        self._watched: dict[str, _Watched] = {}
        self._polls = self._failed = self._reports = self._requests = self._frames = self._without_details = 0

    def statistics(self) -> PollStatistics:
        """Counts so far."""
        return PollStatistics(
            polls=self._polls, failed=self._failed, reports=self._reports, without_details=self._without_details,
            requests=self._requests, frames=self._frames,
            last_frames={name: w.last_frames for name, w in self._watched.items()}, silent=self._silent(),
        )  # fmt: skip

    def _silent(self) -> tuple[str, ...]:
        return tuple(name for name, w in self._watched.items() if w.failures >= self._silent_after)

    def poll_soon(self, name: str) -> None:
        """Poll one ECU without waiting for its turn (a tester has just cleared its DTCs). Unknown names do nothing."""
        if name in self._watched:
            self._watched[name].soon.set()

    def tell_cleared(self, name: str, by: str) -> None:
        """Somebody cleared the ECU's DTCs: what is missing next time is cleared by them, and that time is now."""
        if name in self._watched:
            self._watched[name].cleared_by = by
            self._watched[name].soon.set()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Poll until cancelled, or until the outlet is closed."""
        self._health.register(self.name, self._clock.monotonic_ns(), limit_s=None)
        self._health.report(self.name, ComponentHealth.OK)
        known = KnownDtcs() if self._store is None else await self._store.load()
        self._watched = {ecu.name: _Watched(ecu, known.ecus.get(ecu.name, Known())) for ecu in self._ecus}
        task_status.started()
        if not self._section.period_s:
            return
        try:
            async with anyio.create_task_group() as tasks:
                for index, watched in enumerate(self._watched.values()):
                    first_s = self._section.first_s + index * self._section.period_s / len(self._watched)
                    tasks.start_soon(self._watch, watched, first_s)
        finally:
            with anyio.CancelScope(shield=True):
                for watched in self._watched.values():
                    if watched.channel is not None:
                        await watched.channel.aclose()

    async def _watch(self, watched: _Watched, first_s: float) -> None:
        due = anyio.current_time() + first_s
        while True:
            with anyio.move_on_after(max(0.0, due - anyio.current_time())):
                await watched.soon.wait()
            watched.soon = anyio.Event()
            while due <= anyio.current_time():
                due += self._section.period_s
            try:
                await self._poll(watched)
            except ChannelClosed:  # nobody takes reports any more; not saved, they are told at the next start
                log.info("dtc_polling_ended", extra={"ecu": watched.ecu.name})
                return

    async def _poll(self, watched: _Watched) -> None:
        """One poll, whatever comes of it."""
        self._polls += 1
        watched.last_frames = 0
        ecu, by = watched.ecu, watched.cleared_by
        try:
            changes = await self._read(watched)
        except (NegativeResponse, MalformedAnswer) as error:  # it lives; busy, or 0x19 is not for it now
            self._failed += 1
            log.debug("dtc_poll_refused", extra={"ecu": ecu.name, "error": str(error)})
            await self._answered(watched)
        except NotNowError as error:  # the way to it is busy: says nothing about the ECU
            self._failed += 1
            log.debug("dtc_poll_postponed", extra={"ecu": ecu.name, "error": str(error)})
            return
        except GatewayError as error:
            self._failed += 1
            await self._unanswered(watched, error)
        else:
            await self._answered(watched)
            if changes:
                await self._tell(watched, changes, by)
            if watched.cleared_by == by:
                watched.cleared_by = ""
        finally:
            self._frames += watched.last_frames
        if self._on_poll is not None:
            self._on_poll(ecu.name, is_silent=watched.failures > 0)

    def _client_of(self, watched: _Watched) -> UdsClient:
        if watched.client is None:
            ecu = watched.ecu
            timing = Timing(
                p2_ms=ecu.p2_ms, p2_star_ms=ecu.p2_star_ms, max_pending=ecu.max_pending, max_total_ms=MAX_REQUEST_MS,
                busy_retries=3,
            )  # fmt: skip
            watched.channel = self._open_channel(ecu)
            watched.client = UdsClient(watched.channel, timing=timing, observer=watched.count)
        return watched.client

    async def _read(self, watched: _Watched) -> list[DtcChange]:
        mask = self._section.status_mask
        client = self._client_of(watched)
        self._requests += 1
        answer = await client.read_dtcs(mask)
        listed = {dtc.code: dtc.status for dtc in answer.dtcs if dtc.status & mask}
        changes = compare(watched.known.status, listed, mask, tell_all=not watched.is_told)
        if watched.known.status is None and not changes:
            watched.known.status = {}  # an empty list is knowledge, too: what comes later is new
        watched.is_told = True
        return changes

    async def _tell(self, watched: _Watched, changes: Sequence[DtcChange], by: str) -> None:
        """Read what belongs to the changes, send them up, remember them. ``by``: who cleared the ECU meanwhile."""
        reports = await self._with_details(watched, changes)
        if by:
            reports = [
                msgspec.structs.replace(r, change="cleared", by=by) if r.change == "gone" else r for r in reports
            ]
        now_ns = self._clock.utc_ns()
        events = [
            Event(now_ns, EventKind.DTC, watched.ecu.name, msgspec.json.encode(report).decode()) for report in reports
        ]
        await self._outlet.emit(Priority.CRITICAL, *events)
        self._reports += len(events)
        status = {} if watched.known.status is None else watched.known.status
        for change in changes:
            if change.kind == "gone":
                status.pop(change.code, None)
            else:
                status[change.code] = change.status
        watched.known.status = status
        if any(change.kind != "present" or change.previous is None for change in changes):
            log.info("dtcs_changed", extra={"ecu": watched.ecu.name, "changes": len(changes)})
        if self._store is not None:
            await self._store.save(KnownDtcs({name: w.known for name, w in self._watched.items()}))

    async def _with_details(self, watched: _Watched, changes: Sequence[DtcChange]) -> list[DtcReport]:
        client = self._client_of(watched)
        layout = self._layouts.get(watched.ecu.name, EcuLayout())
        reader = DetailReader(client, layout)
        reports, left = [], MAX_DETAILS
        for change in changes:
            report = DtcReport(
                ecu=watched.ecu.name, code=change.code, status=change.status, previous=change.previous,
                change=change.kind, text=layout.texts.get(change.code, ""),
            )  # fmt: skip
            if self._section.snapshots and change.needs_details:
                if left and not reader.has_failed:
                    left -= 1
                    report = await reader.complete(report)
                else:
                    self._without_details += 1
            reports.append(report)
        self._requests += reader.requests
        return reports

    async def _answered(self, watched: _Watched) -> None:
        was_silent = watched.failures >= self._silent_after
        watched.failures = 0
        if was_silent:
            log.info("ecu_answers_again", extra={"ecu": watched.ecu.name})
            await self._tell_silence(watched, EventKind.RECOVERED, "answers again")

    async def _unanswered(self, watched: _Watched, error: GatewayError) -> None:
        watched.failures += 1
        log.debug("dtc_poll_failed", extra={"ecu": watched.ecu.name, "error": str(error)})
        if isinstance(error, ChannelClosedError):
            watched.channel = watched.client = None
        if watched.failures == self._silent_after:
            log.warning("ecu_silent", extra={"ecu": watched.ecu.name, "error": str(error)})
            await self._tell_silence(watched, EventKind.TIMEOUT, f"{watched.failures} polls failed: {error}")

    async def _tell_silence(self, watched: _Watched, kind: EventKind, detail: str) -> None:
        source = f"{watched.ecu.bus}.{watched.ecu.name}"
        await self._outlet.emit(Priority.CRITICAL, Event(self._clock.utc_ns(), kind, source, detail))
        silent = self._silent()
        state = ComponentHealth.DEGRADED if silent else ComponentHealth.OK
        self._health.report(self.name, state, f"no answer from {', '.join(silent)}" if silent else "")
