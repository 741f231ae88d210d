"""The component behind the firewall's records: writes the audit log, sends copies up, keeps lockouts over restarts."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol

import anyio
import msgspec
from anyio import to_thread
from anyio.abc import TaskStatus

from gateway.errors import TransportError
from gateway.files import replace_file
from gateway.firewall.audit import Record
from gateway.firewall.audit_store import AuditStore
from gateway.firewall.condense import Condenser
from gateway.firewall.core import AuditEntry
from gateway.firewall.guard import Guard, SavedCount
from gateway.runtime import Clock, ComponentHealth, HealthBoard
from gateway.runtime.channel import ChannelClosed
from gateway.wire.batch import Priority
from gateway.wire.samples import Event, EventKind

log = logging.getLogger(__name__)

LOCKOUTS = "lockouts.json"
MAX_WAITING = 1024  # records not yet written, and not yet sent; of the former the newest are lost, counted
TICK_S = 1.0
RETRY_S = 5.0
LAST_COPIES_S = 2.0  # at the stop, for the way up


class Emit(Protocol):
    """``gateway.telemetry.outlet.EventOutlet.emit``."""

    def __call__(self, priority: Priority, *events: Event) -> Awaitable[None]:
        """Put events on their way."""


class AuditStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The log since the start."""

    written: int
    waiting: int  # for the disk
    lost: int  # came faster than they could be written; the log tells so
    unsent: int  # copies that never went up; the log has them
    repaired_bytes: int
    damage: str


class AuditLog:
    """Takes entries at any time from the event loop (``record``); a component writes them."""

    name, optional, drain_s = "audit", False, 0.0

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        key: bytes,
        clock: Clock,
        emit: Emit | None = None,
        health: HealthBoard | None = None,
    ) -> None:
        self._directory, self._max_bytes, self._key = directory, max_bytes, key
        self._clock, self._emit, self._health = clock, emit, health
        self._condenser = Condenser()
        self._guard: Guard | None = None
        self._store: AuditStore | None = None
        self._waiting: deque[Record] = deque()
        self._outgoing: deque[Event] = deque()
        self._wake, self._wake_uplink = anyio.Event(), anyio.Event()
        self._written = self._lost = self._lost_told = self._unsent = self._repaired = 0
        self._damage = ""

    def statistics(self) -> AuditStatistics:
        """The numbers at this moment."""
        return AuditStatistics(
            written=self._written,
            waiting=len(self._waiting),
            lost=self._lost,
            unsent=self._unsent,
            repaired_bytes=self._repaired,
            damage=self._damage,
        )

    def record(self, entry: AuditEntry) -> None:
        """The firewall's sink: quick, never raises."""
        self._queue(self._condenser.add(entry, self._clock.utc_ns()))

    def keep(self, guard: Guard) -> None:
        """Restore the guard's counts now and save them whenever ``changed`` is called."""
        self._guard = guard
        path = self._directory / LOCKOUTS
        try:
            saved = msgspec.json.decode(path.read_bytes(), type=tuple[SavedCount, ...])
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self._damage = f"{LOCKOUTS}: {error}"
            log.error("lockouts_unreadable", extra={"path": str(path), "error": str(error)})
            return
        guard.restore(saved, self._clock.monotonic_ns())

    def changed(self) -> None:
        """The guard's counts changed: save them."""
        self._wake.set()

    def _queue(self, records: list[Record]) -> None:
        for record in records:
            if len(self._waiting) >= MAX_WAITING:
                self._lost += record.count
            else:
                self._waiting.append(record)
        if records:
            self._wake.set()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Write until cancelled, and what is left then. A disk that refuses is tried again, records wait meanwhile."""
        if self._health is not None:
            self._health.register(self.name, self._clock.monotonic_ns(), limit_s=None)
        try:
            await to_thread.run_sync(self._open)
        except TransportError as error:
            self._tell(ComponentHealth.DEGRADED, str(error))
        else:
            self._tell(ComponentHealth.OK, "")
        try:
            async with anyio.create_task_group() as tg:
                tg.start_soon(self._send_up)
                task_status.started()
                await self._write_all()
        finally:
            with anyio.CancelScope(shield=True):
                self._queue(self._condenser.flush())
                await self._write_once(is_last=True)
                with anyio.move_on_after(LAST_COPIES_S):
                    await self._send_waiting()
                if self._store is not None:
                    await to_thread.run_sync(self._store.close)

    def _open(self) -> None:
        self._store = AuditStore(self._directory, max_bytes=self._max_bytes, key=self._key, now_ns=self._clock.utc_ns())
        self._repaired += self._store.repaired_bytes
        if self._store.damage:
            self._damage = self._store.damage
            log.error("audit_log_damaged", extra={"damage": self._damage})

    async def _write_all(self) -> None:
        while True:
            self._wake = anyio.Event()
            self._queue(self._condenser.due(self._clock.utc_ns()))
            is_done = await self._write_once()
            with anyio.move_on_after(TICK_S if is_done else RETRY_S):
                await self._wake.wait()

    async def _write_once(self, *, is_last: bool = False) -> bool:
        """Write what waits; False when the disk refused and it must be tried again."""
        saved = self._guard.saved(self._clock.monotonic_ns()) if self._guard and self._guard.has_changed else None
        if self._guard is not None and is_last:  # the time that is left of lockouts
            saved = self._guard.saved(self._clock.monotonic_ns())
        records = list(self._waiting)
        if lost := self._lost - self._lost_told:
            records.append(Record(number=0, at_ns=self._clock.utc_ns(), kind="lost", count=lost))
        if not records and saved is None:
            return True
        try:
            written = await to_thread.run_sync(self._write, records, saved)
        except TransportError as error:
            if self._guard is not None and saved is not None:
                self._guard.has_changed = True
            self._tell(ComponentHealth.DEGRADED, str(error))
            return False
        for _ in range(len(records) - bool(lost)):
            self._waiting.popleft()
        self._lost_told += lost
        self._written += len(written)
        self._offer(written)
        self._tell(ComponentHealth.DEGRADED if self._damage else ComponentHealth.OK, self._damage)
        return True

    def _write(self, records: list[Record], saved: tuple[SavedCount, ...] | None) -> list[Record]:
        """In a worker thread. A store that failed is opened anew, which sorts out what was half written."""
        try:
            if saved is not None:
                replace_file(self._directory / LOCKOUTS, msgspec.json.encode(saved))
            if not records:
                return []
            if self._store is None:
                self._open()
            assert self._store is not None  # just opened
            return self._store.append(records)
        except (TransportError, OSError) as error:
            if self._store is not None:
                self._store.close()
                self._store = None
            raise TransportError(str(error)) from error

    def _tell(self, state: ComponentHealth, detail: str) -> None:
        if self._health is not None and self._health.report(self.name, state, detail) and detail:
            log.warning("audit_degraded", extra={"detail": detail})

    # copies for the cloud

    def _offer(self, written: list[Record]) -> None:
        if self._emit is None:
            return
        for record in written:
            if len(self._outgoing) >= MAX_WAITING:
                self._outgoing.popleft()
                self._unsent += 1
            detail = msgspec.json.encode(record).decode()
            self._outgoing.append(
                Event(timestamp_ns=record.at_ns, kind=EventKind.AUDIT, source="firewall", detail=detail)
            )
        self._wake_uplink.set()

    async def _send_up(self) -> None:
        """All that waits goes up together; while the way is blocked, it waits."""
        if self._emit is None:
            return
        while True:
            self._wake_uplink = anyio.Event()
            if not self._outgoing:
                await self._wake_uplink.wait()
            elif not await self._send_waiting():
                return

    async def _send_waiting(self) -> bool:
        """Send what waits now; False when nothing goes up any more."""
        events = list(self._outgoing)
        if self._emit is None or not events:
            return True
        dropped_before = self._unsent
        try:
            await self._emit(Priority.NORMAL, *events)
        except ChannelClosed:
            return False
        for _ in range(len(events) - (self._unsent - dropped_before)):
            self._outgoing.popleft()
        return True
