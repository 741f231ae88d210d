"""SocketCAN: all buses of the vehicle read by one task, many frames per system call.

Each bus is one raw socket. A bus whose interface is absent, down or removed is a bus that is down; it is bound again as
soon as rtnetlink tells of its return, and tried with growing pauses in case it does not. Drops are counted exactly: the
counter that comes with a frame tells what was lost before it, and asking the socket after each read tells the rest.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import struct
import time
from collections.abc import Collection, Sequence

import numpy as np

from dbc.frames import ERROR, FrameBatch
from gateway.can import messages
from gateway.can.config import BusConfig
from gateway.can.interface import ReceiveCounter
from gateway.can.layout import FD_BYTES, parse_frames
from gateway.can.merge import merge_by_time
from gateway.can.messages import DropCounter, MessageBuffers
from gateway.can.model import BusCounters, Filters, IdFilter, LinkState
from gateway.can.monitor import PERIOD_NS, BusMonitor
from gateway.can.netlink import Link, LinkWatch, restart
from gateway.can.ports import Poller
from gateway.wire.samples import Event

log = logging.getLogger(__name__)

CAN_RAW_ERR_FILTER = 2  # the socket module has it only on some platforms
MAX_FILTERS = 512  # CAN_RAW_FILTER_MAX
RETRY_FIRST_NS, RETRY_MAX_NS = 250_000_000, 10_000_000_000
RESTART_MAX_NS = 60_000_000_000
PER_CALL = 512

_EFF, _RTR = 0x80000000, 0x40000000
_ALL_ERRORS = 0x1FFFFFFF
_OPEN_FILTER = struct.pack("=II", 0, 0)


def pack_filters(wanted: Collection[IdFilter] | None) -> bytes:
    """The value of CAN_RAW_FILTER: open for None or for more filters than the kernel takes, closed for an empty set.

    Remote frames do not match: masks with all identifier bits and the RTR bit take the kernel's fastest path.
    """
    if wanted is None or len(wanted) > MAX_FILTERS:
        return _OPEN_FILTER
    packed = []
    for can_id, extended, mask in sorted(set(wanted)):
        bits = 0x1FFFFFFF if extended else 0x7FF
        packed.append(struct.pack("=II", can_id & bits | (_EFF if extended else 0), mask & bits | _EFF | _RTR))
    return b"".join(packed)


class _Bus:
    """One bus: its socket while there is one, its counters always."""

    def __init__(self, config: BusConfig) -> None:
        self.config = config
        self.monitor = BusMonitor(config.name)
        self.socket: socket.socket | None = None
        self.index = 0  # of the interface the socket is bound to
        self.drops = DropCounter()
        self.interface = ReceiveCounter(config.channel)
        self.filter = _OPEN_FILTER
        self.granted_bytes: int | None = None
        self.read = self.last_frame_ns = 0
        self.drained = True
        self.retry_ns = 0
        self.retry_pause_ns = RETRY_FIRST_NS
        self.restart_ns: int | None = None
        self.restart_pause_ns = 0

    def open(self) -> socket.socket:
        """A bound socket.

        Raises:
            OSError: no such interface, not a CAN interface, or no SocketCAN in this kernel.
        """
        sock = socket.socket(socket.PF_CAN, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.CAN_RAW)
        try:
            self.granted_bytes = messages.prepare(sock, self.config.receive_buffer_bytes)
            if self.config.fd:
                sock.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FD_FRAMES, 1)
            sock.setsockopt(socket.SOL_CAN_RAW, CAN_RAW_ERR_FILTER, _ALL_ERRORS)
            sock.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, self.filter)
            sock.bind((self.config.channel,))
        except OSError:
            sock.close()
            raise
        return sock

    def ask_drops(self) -> int:
        """Bring the drop counter up to this moment; returns how many were added.

        A socket drops only while its buffer is full, so after each read of a frame is often enough to miss none.
        """
        counter = None if self.socket is None else messages.current_drops(self.socket)
        return 0 if counter is None else self.drops.update(counter)


class SocketCanPort:
    """Raw sockets on any number of interfaces, as one port."""

    def __init__(self, configs: Sequence[BusConfig], *, max_batch: int = 2000) -> None:
        self._buses = [_Bus(config) for config in configs]
        self._buffers = MessageBuffers(max_batch, FD_BYTES)
        self._poller: Poller | None = None
        self._watch: LinkWatch | None = None
        self._first = 0
        self._more = False
        self._retell_ns: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Bus names in the order of the configuration."""
        return tuple(bus.config.name for bus in self._buses)

    @property
    def has_more(self) -> bool:
        """The last ``collect`` stopped at its limit."""
        return self._more

    @property
    def ended(self) -> bool:
        """Never: an interface may always come back."""
        return False

    def open(self, poller: Poller) -> None:
        """Watch the interfaces and bind to those that are there.

        Raises:
            OSError: the kernel has no rtnetlink, or no more sockets for us.
        """
        self._poller = poller
        self._watch = LinkWatch()
        poller.add(self._watch.fileno())

    def collect(self, limit: int, monotonic_ns: int, utc_ns: int) -> FrameBatch:
        """Read what is queued, a bus at a time in turn, and follow the interfaces."""
        if self._watch is not None:
            self._watch.update()
        batch = self._read(min(limit, self._buffers.rows), utc_ns)
        if self._watch is not None:
            for bus in self._buses:
                self._follow(bus, self._watch.links.get(bus.config.channel), monotonic_ns, utc_ns)
        for bus in self._buses:
            bus.monitor.flush(utc_ns)
        self._retell_ns = monotonic_ns + PERIOD_NS if any(bus.monitor.pending for bus in self._buses) else None
        return batch

    def next_due_ns(self) -> int | None:
        """When a lost interface is tried again, a controller restarted, or something counted is told."""
        due = [bus.retry_ns for bus in self._buses if bus.socket is None]
        due += [bus.restart_ns for bus in self._buses if bus.restart_ns is not None]
        if self._retell_ns is not None:
            due.append(self._retell_ns)
        return min(due, default=None)

    def take_events(self) -> list[Event]:
        """Events of all buses since the last call."""
        return [event for bus in self._buses for event in bus.monitor.take_events()]

    def statistics(self) -> list[BusCounters]:
        """Counters, with the drops of this very moment."""
        return [self._counters(bus) for bus in self._buses]

    def set_filters(self, filters: Filters | None) -> None:
        """Swap the kernel's filters; the kernel does so without losing a frame of the ones in both."""
        for bus in self._buses:
            wanted = None if filters is None or bus.config.filters == "off" else filters.get(bus.config.name)
            bus.filter = pack_filters(wanted)
            if wanted is not None and len(wanted) > MAX_FILTERS:
                log.info("filters_opened", extra={"bus": bus.config.name, "wanted": len(wanted), "limit": MAX_FILTERS})
            if bus.socket is not None:
                with contextlib.suppress(OSError):  # the interface has just gone; the next socket gets the filter
                    bus.socket.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, bus.filter)

    def close(self) -> None:
        """Close all sockets; idempotent. The counters and events stay readable."""
        now_ns = time.time_ns()
        for bus in self._buses:
            self._release(bus, now_ns)
            bus.monitor.flush_all(now_ns)
            bus.monitor.end(now_ns, LinkState.STOPPED, "closed")
            bus.interface.close()
        if self._watch is not None and self._poller is not None:
            self._poller.remove(self._watch.fileno())
            self._watch.close()
            self._watch = None

    # --- frames ---

    def _read(self, limit: int, utc_ns: int) -> FrameBatch:
        """Up to ``limit`` frames from all sockets; sets ``_more``."""
        buffers = self._buffers
        buffers.clear()
        count = len(self._buses)
        turn = [(self._first + i) % count for i in range(count)]
        self._first = (self._first + 1) % count
        waiting = [i for i in turn if self._buses[i].socket is not None]
        owners: list[int] = []
        amounts: list[int] = []
        while waiting and buffers.used < limit:
            full = []
            for i in waiting:
                ask = min(PER_CALL, limit - buffers.used)
                got = self._read_bus(self._buses[i], ask, utc_ns)
                if got:
                    owners.append(i)
                    amounts.append(got)
                if got == ask:  # also when there was no room to ask for any
                    full.append(i)
            waiting = full
        self._more = bool(waiting)
        for i in range(count):
            self._buses[i].drained = i not in waiting
        if not buffers.used:
            return FrameBatch.empty()
        used = buffers.used
        bus = np.repeat(np.array(owners, np.uint8), amounts)
        drops = buffers.drops()
        batch, malformed = parse_frames(
            buffers.payload[:used], buffers.lengths[:used], buffers.timestamps_ns(utc_ns), bus
        )
        if malformed:
            log.warning("malformed_frames", extra={"count": malformed})
        for i in set(owners):
            self._account(i, batch, int(drops[np.flatnonzero(bus == i)[-1]]), utc_ns)
        return merge_by_time(batch)

    def _read_bus(self, bus: _Bus, ask: int, utc_ns: int) -> int:
        """One call, and another after each error the socket had pending; frames queued before it are still there."""
        if bus.socket is None:
            return 0
        for _ in range(3):
            try:
                return self._buffers.receive(bus.socket.fileno(), ask)
            except OSError as error:
                if error.errno in (errno.ENETDOWN, errno.ENODEV, errno.ENXIO):
                    bus.monitor.link_down(utc_ns, f"interface {bus.config.channel} went down")
                else:
                    bus.monitor.trouble(utc_ns, f"receive: {error.strerror}")
        return 0

    def _account(self, index: int, batch: FrameBatch, drops: int, utc_ns: int) -> None:
        """Count one bus's frames of a batch and show its error frames to the monitor."""
        bus = self._buses[index]
        rows = np.flatnonzero(batch.bus == index)
        if not len(rows):
            return
        bus.read += len(rows)
        bus.last_frame_ns = int(batch.timestamp_ns[rows[-1]])
        errors = rows[(batch.flags[rows] & ERROR) != 0]
        if len(errors):
            bus.monitor.error_frames_seen(batch.can_id[errors], batch.data[errors], batch.timestamp_ns[errors])
        if not len(errors) or errors[-1] != rows[-1]:
            bus.monitor.frames_seen(bus.last_frame_ns)
        lost = (bus.drops.update(drops) if drops else 0) + bus.ask_drops()
        if lost:
            bus.monitor.frames_lost(lost, utc_ns)

    def _counters(self, bus: _Bus) -> BusCounters:
        lost = bus.ask_drops()
        if lost:
            bus.monitor.frames_lost(lost, time.time_ns())
        return BusCounters(
            bus=bus.config.name,
            received=bus.read + bus.drops.total,
            read=bus.read,
            kernel_dropped=bus.drops.total,
            error_frames=bus.monitor.error_frames,
            state=bus.monitor.state,
            detail=bus.monitor.detail,
            last_frame_ns=bus.last_frame_ns,
            interface_rx=bus.interface.read(),  # last: it must not count less than we have read
            receive_buffer_bytes=bus.granted_bytes,
        )

    # --- interfaces ---

    def _follow(self, bus: _Bus, link: Link | None, monotonic_ns: int, utc_ns: int) -> None:
        """Bring the bus's socket and state in line with its interface."""
        if bus.socket is not None and (link is None or link.index != bus.index):
            bus.monitor.link_down(utc_ns, f"interface {bus.config.channel} was removed")
            if not bus.drained:
                return  # what it received before is still in its socket
            self._release(bus, utc_ns)
        if link is None:
            bus.monitor.link_down(utc_ns, f"no interface {bus.config.channel}")
            bus.retry_ns = monotonic_ns + RETRY_MAX_NS  # rtnetlink tells when it appears
            return
        if bus.socket is None:
            if link.index == bus.index and monotonic_ns < bus.retry_ns:
                return
            self._bind(bus, link, monotonic_ns, utc_ns)
            if bus.socket is None:
                return
        if not link.up:
            bus.monitor.link_down(utc_ns, f"interface {link.name} is down")
            return
        bus.monitor.link_up(utc_ns, link.name)
        self._follow_controller(bus, link, monotonic_ns, utc_ns)

    def _bind(self, bus: _Bus, link: Link, monotonic_ns: int, utc_ns: int) -> None:
        bus.index = link.index
        try:
            bus.socket = bus.open()
        except OSError as error:
            bus.monitor.link_down(utc_ns, f"cannot open {bus.config.channel}: {error.strerror or error}")
            bus.retry_ns = monotonic_ns + bus.retry_pause_ns
            bus.retry_pause_ns = min(bus.retry_pause_ns * 2, RETRY_MAX_NS)
            return
        bus.retry_pause_ns = RETRY_FIRST_NS
        bus.drops.new_socket()
        if self._poller is not None:
            self._poller.add(bus.socket.fileno())

    def _follow_controller(self, bus: _Bus, link: Link, monotonic_ns: int, utc_ns: int) -> None:
        """Take the state from the driver where it tells one, and restart a controller that is off the bus."""
        if link.can_state == "bus-off":
            bus.monitor.bus_off(utc_ns)
        if bus.monitor.state is not LinkState.BUS_OFF:
            bus.restart_ns, bus.restart_pause_ns = None, 0
            return
        if bus.config.restart_after_ms == 0 or link.restart_ms:
            return  # nobody wants it, or the driver does it
        if bus.restart_ns is None:
            bus.restart_pause_ns = bus.config.restart_after_ms * 1_000_000
            bus.restart_ns = monotonic_ns + bus.restart_pause_ns
        elif monotonic_ns >= bus.restart_ns:
            bus.restart_pause_ns = min(bus.restart_pause_ns * 2, RESTART_MAX_NS)
            bus.restart_ns = monotonic_ns + bus.restart_pause_ns
            try:
                restart(link.index)
            except OSError as error:
                bus.monitor.trouble(utc_ns, f"restart after bus-off refused ({error.strerror}); set restart-ms")

    def _release(self, bus: _Bus, utc_ns: int) -> None:
        if bus.socket is None:
            return
        lost = bus.ask_drops()
        if lost:
            bus.monitor.frames_lost(lost, utc_ns)
        if self._poller is not None:
            self._poller.remove(bus.socket.fileno())
        bus.socket.close()
        bus.socket = None
        bus.index = 0
