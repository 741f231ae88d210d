"""Any other CAN hardware through python-can: one reader thread per bus, owned by the adapter.

python-can's own notifier dies silently when a listener raises. Here an exception in the thread is an event and a bus
that is down, and the bus is opened again with growing pauses. Frames wait in a bounded queue; what does not fit is
counted as dropped. python-can is imported when a bus is opened, never before.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections import deque
from typing import Any

import numpy as np

from dbc.frames import BRS, ERROR, ESI, EXTENDED, FD, REMOTE, FrameBatch
from gateway.can.config import BusConfig
from gateway.can.model import BusCounters, Filters, LinkState, SourceError
from gateway.can.monitor import PERIOD_NS, BusMonitor
from gateway.can.ports import Poller
from gateway.wire.samples import Event

MAX_QUEUE_FRAMES = 50_000
RETRY_FIRST_S, RETRY_MAX_S = 0.5, 30.0
#: Adapters that count time from their own start are moved to UTC; a clock that merely differs a little is not touched.
FOREIGN_CLOCK_S = 3600.0

Row = tuple[int, int, int, int, bytes]  # time, identifier, flags, length, payload

#: Adapters that have no CAN FD and choke on being asked.
NO_FD_ARGUMENT = frozenset(
    {"slcan", "serial", "gs_usb", "robotell", "seeedstudio", "usb2can", "nican", "iscan", "virtual"}
)


def row_of(message: Any, offset_ns: int) -> Row | None:
    """A python-can message as a row of a batch; None when it cannot be a frame."""
    payload = bytes(message.data or b"")
    fd = bool(message.is_fd)
    if len(payload) > (64 if fd else 8) or not 0 <= message.arbitration_id <= 0x1FFFFFFF:
        return None
    flags = EXTENDED if message.is_extended_id and not message.is_error_frame else 0
    length = len(payload)
    if message.is_error_frame:
        flags |= ERROR
    elif message.is_remote_frame:
        flags |= REMOTE
        length, payload = min(int(message.dlc), 8), b""
    if fd:
        flags |= FD | (BRS if message.bitrate_switch else 0) | (ESI if message.error_state_indicator else 0)
    return round(message.timestamp * 1e9) + offset_ns, int(message.arbitration_id), flags, length, payload


def interface_names() -> list[str]:
    """The interfaces this machine's python-can knows, plug-ins included; none without python-can."""
    try:
        return sorted(importlib.import_module("can.interfaces").VALID_INTERFACES)
    except ModuleNotFoundError:
        return []


class PythonCanPort:
    """One bus of python-can."""

    def __init__(self, config: BusConfig) -> None:
        self._config = config
        self._monitor = BusMonitor(config.name)
        self._queue: deque[Row] = deque()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._poller: Poller | None = None
        self._lock = threading.Lock()  # guards what the thread tells besides frames
        self._states: list[tuple[int, bool, str]] = []  # time, works, detail
        self._overflowed = self._overflow_told = 0
        self._malformed = 0
        self._read = 0
        self._last_frame_ns = 0
        self._more = False
        self._retell_ns: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The one bus."""
        return (self._config.name,)

    @property
    def has_more(self) -> bool:
        """The last ``collect`` stopped at its limit."""
        return self._more

    @property
    def ended(self) -> bool:
        """Never: the adapter is tried again."""
        return False

    def open(self, poller: Poller) -> None:
        """Start the thread; the adapter itself is opened there.

        Raises:
            SourceError: python-can is not installed.
        """
        try:
            importlib.import_module("can")
        except ImportError as error:
            raise SourceError(self._config.name, "needs the Python package python-can") from error
        self._poller = poller
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        poller.add(self._wake)
        self._thread = threading.Thread(target=self._run, name=f"can-{self._config.name}", daemon=True)
        self._thread.start()

    def collect(self, limit: int, monotonic_ns: int, utc_ns: int) -> FrameBatch:
        """The frames the thread has queued."""
        self._clear_wake()
        self._tell_states()
        rows: list[Row] = []
        while len(rows) < limit and self._queue:
            rows.append(self._queue.popleft())
        self._more = bool(self._queue)
        batch = _batch(rows)
        self._account(batch)
        lost = self._overflowed - self._overflow_told
        if lost:
            self._overflow_told += lost
            self._monitor.frames_lost(lost, utc_ns)
        self._monitor.flush(utc_ns)
        self._retell_ns = monotonic_ns + PERIOD_NS if self._monitor.pending else None
        return batch

    def next_due_ns(self) -> int | None:
        """When something counted is to be told."""
        return self._retell_ns

    def take_events(self) -> list[Event]:
        """Events since the last call."""
        return self._monitor.take_events()

    def statistics(self) -> list[BusCounters]:
        """Counters; frames in the queue are in none until they are handed out."""
        dropped = self._overflowed
        return [
            BusCounters(
                bus=self._config.name,
                received=self._read + dropped,
                read=self._read,
                kernel_dropped=dropped,
                error_frames=self._monitor.error_frames,
                malformed=self._malformed,
                state=self._monitor.state,
                detail=self._monitor.detail,
                last_frame_ns=self._last_frame_ns,
            )
        ]

    def set_filters(self, filters: Filters | None) -> None:
        """Nothing: python-can's filters may not be changed while its bus is read in another thread."""

    def close(self) -> None:
        """Stop the thread and wait for it (adapters return from a read within half a second); idempotent."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join(5.0)
        self._thread = None
        if self._poller is not None:
            self._poller.remove(self._wake)
        with self._lock:  # a thread that did not stop in time finds no descriptor to write to
            os.close(self._wake)
            self._wake = -1
        self._tell_states()
        self._monitor.flush_all(time.time_ns())
        self._monitor.end(time.time_ns(), LinkState.STOPPED, "closed")

    # --- in the task ---

    def _clear_wake(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return

    def _tell_states(self) -> None:
        with self._lock:
            states, self._states = self._states, []
        for at_ns, works, detail in states:
            if works:
                self._monitor.link_up(at_ns, detail)
            else:
                self._monitor.link_down(at_ns, detail)

    def _account(self, batch: FrameBatch) -> None:
        if not len(batch):
            return
        self._read += len(batch)
        self._last_frame_ns = int(batch.timestamp_ns[-1])
        errors = np.flatnonzero(batch.flags & ERROR)
        if len(errors):
            self._monitor.error_frames_seen(batch.can_id[errors], batch.data[errors], batch.timestamp_ns[errors])
        if not len(errors) or errors[-1] != len(batch) - 1:
            self._monitor.frames_seen(self._last_frame_ns)

    # --- in the thread ---

    def _run(self) -> None:
        pause_s = RETRY_FIRST_S
        while not self._stop.is_set():
            opened = time.monotonic()
            try:
                self._read_bus()
            except BaseException as error:  # whatever an adapter throws, the bus is down and said to be
                self._note(False, f"{self._config.interface}: {type(error).__name__}: {error}")
            if time.monotonic() - opened > RETRY_MAX_S:
                pause_s = RETRY_FIRST_S
            if self._stop.wait(pause_s):
                return
            pause_s = min(pause_s * 2, RETRY_MAX_S)

    def _read_bus(self) -> None:
        """Open the adapter and queue what it receives, until told to stop or until it raises."""
        bus = open_bus(self._config)
        try:
            self._note(True, f"{self._config.interface} {self._config.channel}")
            offset_ns: int | None = None
            while not self._stop.is_set():
                message = bus.recv(0.25)
                if message is None:
                    continue
                if offset_ns is None:
                    offset_s = time.time() - message.timestamp
                    offset_ns = int(offset_s * 1e9) if abs(offset_s) > FOREIGN_CLOCK_S else 0
                self._put(row_of(message, offset_ns))
        finally:
            bus.shutdown()

    def _put(self, row: Row | None) -> None:
        if row is None:
            self._malformed += 1
        elif len(self._queue) >= MAX_QUEUE_FRAMES:
            self._overflowed += 1
        else:
            self._queue.append(row)
        self._wake_task()

    def _note(self, works: bool, detail: str) -> None:
        with self._lock:
            self._states.append((time.time_ns(), works, detail))
        self._wake_task()

    def _wake_task(self) -> None:
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)


def _batch(rows: list[Row]) -> FrameBatch:
    batch = FrameBatch.from_rows([(at_ns, 0, can_id, flags, payload) for at_ns, can_id, flags, _, payload in rows])
    for i, row in enumerate(rows):
        if row[2] & REMOTE:
            batch.length[i] = row[3]
    return batch


def open_bus(config: BusConfig) -> Any:
    """python-can's bus for a configuration; whatever it raises comes through."""
    can = importlib.import_module("can")
    arguments: dict[str, Any] = dict(config.options)
    if config.bitrate_bps is not None:
        arguments["bitrate"] = config.bitrate_bps
    if config.data_bitrate_bps is not None:
        arguments["data_bitrate"] = config.data_bitrate_bps
    if config.interface == "udp_multicast":
        arguments["hop_limit"] = 0
    return can.Bus(interface=config.interface, channel=config.channel or None, **arguments)
