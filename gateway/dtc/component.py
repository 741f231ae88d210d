"""The async shell of the fault memory: loads it, stores what changed, and reports it.

A change is stored before it is told. At every start all that is stored is told again ("present"), so that a report lost
in a power cut is made good. A disk that fails leaves the memory working, unsaved and said so.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import TaskStatus

from gateway.dtc.memory import MemoryImage
from gateway.dtc.model import Change
from gateway.dtc.monitors import MonitorEngine
from gateway.dtc.reports import events, present_reports, report_change
from gateway.dtc.store import Loaded, MemoryStore
from gateway.errors import NotNowError, TransportError
from gateway.runtime import ChannelClosed, Clock, ComponentHealth, HealthBoard
from gateway.spool.adapters import PosixDisk
from gateway.spool.errors import SpoolBusy
from gateway.wire.batch import Priority
from gateway.wire.dtc import DtcReport, format_dtc
from gateway.wire.samples import Event

log = logging.getLogger(__name__)

#: How long the last flush may wait for disk and outlet.
LAST_FLUSH_S = 5.0


class Outlet(Protocol):
    """What the component needs of ``gateway.telemetry.outlet.EventOutlet``."""

    async def emit(self, priority: Priority, *events: Event) -> None:
        """Put events on their way."""


class DtcStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counted since the start."""

    entries: int
    overflows: int
    cycles: int
    saves: int
    save_failures: int
    reports: int
    merged: int  # changes told together with a later one
    damaged_bytes: int
    lost_definitions: int


def open_store(directory: Path) -> MemoryStore:
    """The store in a directory, created if missing.

    Raises:
        TransportError: it cannot be opened, or another process has it.
    """
    try:
        return MemoryStore(PosixDisk(directory))
    except (OSError, SpoolBusy) as error:
        raise TransportError(f"fault memory {directory}: {error}") from error


class DtcComponent:
    """Runs beside the collector, is started after it and stops before it, like all users of the outlet.

    Args:
        store: None keeps the memory in RAM only.
        flush_s: how often changes are stored; what changes within is stored together.
        repeat_s: a DTC that flaps is reported at most this often; what happened between is merged and counted.
    """

    name, drain_s, optional = "dtc", 0.0, False  # a source: asked to stop, it stores and tells what it has

    def __init__(
        self,
        *,
        engine: MonitorEngine,
        store: MemoryStore | None,
        outlet: Outlet,
        clock: Clock,
        health: HealthBoard,
        flush_s: float = 1.0,
        repeat_s: float = 10.0,
    ) -> None:
        self.engine, self.memory = engine, engine.memory
        self._store, self._outlet, self._clock, self._health = store, outlet, clock, health
        self._flush_s, self._repeat_ns = flush_s, int(repeat_s * 1e9)
        self._lock = anyio.Lock()
        self._unsaved = False  # the disk refused: the next save must hold everything
        self._held: dict[int, Change] = {}
        self._told_ns: dict[int, int] = {}
        self._unsent: list[Event] = []
        self._is_outlet_closed = False
        self._ticks: list[Callable[[int], None]] = []
        self._saves = self._save_failures = self._reports = self._merged = 0
        self._damaged_bytes = self._lost_definitions = 0
        self._loaded = False

    def on_tick(self, tick: Callable[[int], None]) -> None:
        """Call ``tick`` with monotonic nanoseconds at every flush (sessions that expire)."""
        self._ticks.append(tick)

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Load, begin, then store and report until cancelled; end the cycle and store once more."""
        self._health.register(self.name, self._clock.monotonic_ns(), limit_s=60.0)
        self._health.report(self.name, ComponentHealth.OK)
        await self._load()
        self._loaded = True
        self.engine.begin()
        task_status.started()
        try:
            await self._emit(present_reports(self.memory))
            while True:
                self._health.beat(self.name, self._clock.monotonic_ns())
                for tick in self._ticks:
                    tick(self._clock.monotonic_ns())
                await self.flush()
                await anyio.sleep(self._flush_s)
        finally:
            self.engine.end()
            with anyio.move_on_after(LAST_FLUSH_S, shield=True):
                await self.flush(everything=True)
            if self._store is not None:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._store.close)

    async def flush(self, *, everything: bool = False) -> None:
        """Store what changed, then report it. ``everything``: reports held back because of flapping too."""
        with contextlib.suppress(TransportError):  # health tells; reports go out all the same
            await self.persist()
        await self._emit(self._due(everything))

    async def persist(self) -> None:
        """Store what changed; returns when it is durable.

        Raises:
            TransportError: the disk refused; it is tried again at the next call.
            NotNowError: the memory was not loaded yet.
        """
        if not self._loaded:
            raise NotNowError("the fault memory is not loaded yet")
        async with self._lock:
            changed, save = self.memory.take_dirty(), None if self._store is None else self._store.save
            if self._unsaved and self._store is not None:
                changed, save = self.memory.image(), self._store.replace
            if changed is None or save is None:
                return
            try:
                await self._save(save, changed)
            except OSError as error:
                self._unsaved = True
                self._save_failures += 1
                detail = f"fault memory not saved: {error.strerror or error}"
                if self._health.report(self.name, ComponentHealth.DEGRADED, detail):
                    log.error("dtc_save_failed", extra={"error": str(error)})
                raise TransportError(detail) from error
            self._saves += 1
            if self._unsaved:
                self._unsaved = False
                self._health.report(self.name, ComponentHealth.OK)

    async def _save(self, save: Callable[[MemoryImage], None], image: MemoryImage) -> None:
        """Not left half done by a cancellation: the thread would go on while the next save begins."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(partial(save, image))

    async def _load(self) -> None:
        if self._store is None:
            return
        try:
            loaded = await anyio.to_thread.run_sync(self._store.load)
        except OSError as error:
            self._health.report(self.name, ComponentHealth.DEGRADED, f"fault memory not read: {error}")
            log.error("dtc_load_failed", extra={"error": str(error)})
            loaded = Loaded(image=None)
        self._damaged_bytes = loaded.damaged_bytes
        if loaded.image is not None:
            self._lost_definitions = self.memory.restore(loaded.image)
        if loaded.damaged_bytes or loaded.skipped_generations or self._lost_definitions:
            log.warning(
                "dtc_memory_recovered",
                extra={
                    "damaged_bytes": loaded.damaged_bytes,
                    "skipped_generations": loaded.skipped_generations,
                    "without_definition": self._lost_definitions,
                },
            )
        self._unsaved = True  # the first save begins a new file with everything
        await self._first_save()

    async def _first_save(self) -> None:
        self._loaded = True
        with contextlib.suppress(TransportError):  # health tells
            await self.persist()

    def _due(self, everything: bool) -> list[DtcReport]:
        """Reports of changes, at most one for each DTC in ``repeat_s``."""
        now_ns = self._clock.monotonic_ns()
        for change in self.memory.take_changes():
            if (earlier := self._held.get(change.code)) is not None:
                self._merged += 1
                kind, by = (change.kind, change.by) if change.kind == "cleared" else (earlier.kind, earlier.by)
                change = msgspec.structs.replace(change, previous=earlier.previous, kind=kind, by=by)
            self._held[change.code] = change
        reports: list[DtcReport] = []
        if self._is_outlet_closed:
            return reports
        for code, change in list(self._held.items()):
            told_ns = self._told_ns.get(code)
            is_due = told_ns is None or now_ns - told_ns >= self._repeat_ns
            if everything or is_due or change.kind == "cleared":
                del self._held[code]
                if (report := report_change(self.memory, change)) is not None:
                    self._told_ns[code] = now_ns
                    reports.append(report)
        return reports

    async def _emit(self, reports: list[DtcReport]) -> None:
        """Hand reports on; those that a cancellation left behind go first."""
        for report in reports:
            log.info("dtc_" + report.change, extra={"dtc": format_dtc(report.code), "status": f"{report.status:02X}"})
        self._unsent.extend(events(reports, self._clock.utc_ns()))
        if not self._unsent or self._is_outlet_closed:
            return
        try:
            await self._outlet.emit(Priority.CRITICAL, *self._unsent)
        except ChannelClosed:  # every replay has ended; the next start tells all that is stored
            self._is_outlet_closed = True
        else:
            self._reports += len(self._unsent)
        self._unsent.clear()

    def statistics(self) -> DtcStatistics:
        """Counts and gauges."""
        return DtcStatistics(
            entries=self.memory.entries,
            overflows=self.memory.overflows,
            cycles=self.memory.cycles,
            saves=self._saves,
            save_failures=self._save_failures,
            reports=self._reports,
            merged=self._merged,
            damaged_bytes=self._damaged_bytes,
            lost_definitions=self._lost_definitions,
        )
