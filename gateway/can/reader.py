"""One task that reads every bus: waits on all adapters at once, gathers for a tick, hands on one batch.

Waiting happens in one place, on one epoll descriptor; collecting never waits. So a cancelled ``receive`` loses nothing,
and an adapter is plain code without a loop of its own.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Sequence
from dataclasses import replace

import anyio
import anyio.lowlevel
import numpy as np

from dbc.frames import FrameBatch
from gateway.can.config import ReadConfig
from gateway.can.merge import merge_by_time
from gateway.can.model import BusCounters, Filters, SourceEnded
from gateway.can.ports import BusPort
from gateway.runtime.clock import Clock, SystemClock
from gateway.wire.samples import Event


async def _wait_readable(poller: EpollPoller) -> None:
    if hasattr(anyio, "wait_readable"):
        await anyio.wait_readable(poller)
    else:  # before anyio 4.7; the vehicle's floor is 4.3
        await anyio.wait_socket_readable(poller)  # type: ignore[arg-type]  # asyncio takes anything with fileno()


class EpollPoller:
    """Registers the ports' descriptors; itself readable when one of them is."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def add(self, fileno: int) -> None:
        """Wake when this is readable or has an error."""
        self._epoll.register(fileno, select.EPOLLIN)

    def remove(self, fileno: int) -> None:
        """Forget it; call before closing it."""
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(fileno)

    def ready(self) -> bool:
        """Something is readable now."""
        return bool(self._epoll.poll(0, 1))

    def fileno(self) -> int:
        """The one descriptor to wait for."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Idempotent."""
        self._epoll.close()


class BusReader:
    """A ``FrameSource`` over any mix of ports. Create it inside the running event loop and ``aclose`` it there."""

    def __init__(
        self,
        ports: Sequence[BusPort],
        config: ReadConfig | None = None,
        clock: Clock | None = None,
        *,
        names: Sequence[str] | None = None,
    ) -> None:
        """Open all ports. ``names`` is the order of the buses, that of the ports by default.

        Raises:
            ValueError: two buses have the same name, or ``names`` are not those of the ports.
            GatewayError, OSError: a port could not start at all; those opened before it are closed again.
        """
        config = config or ReadConfig()
        self._ports = tuple(ports)
        self._clock = clock or SystemClock()
        self._tick_ns = int(config.tick_ms * 1e6)
        self._max_wait_ns = int(config.max_wait_ms * 1e6)
        self._max_batch = config.max_batch
        offered = [name for port in ports for name in port.names]
        self._names = tuple(offered if names is None else names)
        if len(set(self._names)) != len(self._names) or sorted(self._names) != sorted(offered):
            raise ValueError(f"bus names must be unique and those of the ports: {', '.join(self._names)}")
        #: For each port, from its numbering of buses to ours.
        self._numbers = [np.array([self._names.index(n) for n in port.names], np.uint8) for port in self._ports]
        self._poller = EpollPoller()
        self._collected_ns = self._clock.monotonic_ns() - self._tick_ns
        self._turn = 0
        self._closed = False
        self._events: list[Event] = []
        for number, port in enumerate(self._ports):
            try:
                port.open(self._poller)
            except BaseException:
                for opened in self._ports[: number + 1]:
                    opened.close()
                self._poller.close()
                raise

    @property
    def names(self) -> tuple[str, ...]:
        """Bus names; ``FrameBatch.bus`` points into them."""
        return self._names

    async def receive(self) -> FrameBatch:
        """See ``FrameSource.receive``: one tick's frames, or an empty batch after ``max_wait_ms`` or for events alone.

        Raises:
            SourceEnded: all ports have ended and everything they had was handed out; or the source was closed.
        """
        deadline_ns = self._clock.monotonic_ns() + self._max_wait_ns
        while True:
            if self._closed:
                raise SourceEnded("the source is closed")
            if any(port.has_more for port in self._ports):
                await anyio.lowlevel.checkpoint()
            elif self._ports and all(port.ended for port in self._ports):
                raise SourceEnded("all buses have ended")
            else:
                await self._wait(deadline_ns)
                await self._finish_tick()
            batch = self._collect()
            if len(batch) or self._events or self._clock.monotonic_ns() >= deadline_ns:
                return batch

    def take_events(self) -> tuple[Event, ...]:
        """Events since the last call, of all ports, in order of time."""
        for port in self._ports:
            self._events += port.take_events()
        events, self._events = self._events, []
        return tuple(sorted(events, key=lambda event: event.timestamp_ns))

    def statistics(self) -> tuple[BusCounters, ...]:
        """The counters of all buses at this moment."""
        counters = {c.bus: c for port in self._ports for c in port.statistics()}
        return tuple(counters[name] for name in self._names)

    def set_filters(self, filters: Filters | None) -> None:
        """Pass the filters to every port; each takes its buses' part."""
        for port in self._ports:
            port.set_filters(filters)

    async def aclose(self) -> None:
        """Close all ports; idempotent. ``statistics`` and ``take_events`` still answer."""
        if self._closed:
            return
        self._closed = True
        for port in self._ports:
            port.close()
        self._poller.close()
        await anyio.lowlevel.checkpoint()

    # --- inside ---

    async def _wait(self, deadline_ns: int) -> None:
        """Until a descriptor is readable, a port is due, or the deadline."""
        due = [at for at in (port.next_due_ns() for port in self._ports) if at is not None]
        left_ns = min([deadline_ns, *due]) - self._clock.monotonic_ns()
        if left_ns <= 0 or self._poller.ready():
            await anyio.lowlevel.checkpoint()
            return
        with anyio.move_on_after(left_ns / 1e9):
            await _wait_readable(self._poller)

    async def _finish_tick(self) -> None:
        """Let frames gather: batches follow each other at least a tick apart, but the first one at once."""
        left_ns = self._collected_ns + self._tick_ns - self._clock.monotonic_ns()
        if left_ns > 0:
            await anyio.sleep(left_ns / 1e9)

    def _collect(self) -> FrameBatch:
        """One batch from all ports; no waiting in here, so nothing can be lost to a cancellation."""
        if self._closed:  # while we waited; the next round of ``receive`` tells
            return FrameBatch.empty()
        now_ns, utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
        self._collected_ns = now_ns
        batches = []
        room, count = self._max_batch, len(self._ports)
        self._turn += 1
        for number in range(self._turn, self._turn + count):
            port, numbers = self._ports[number % count], self._numbers[number % count]
            batch = port.collect(room, now_ns, utc_ns)
            self._events += port.take_events()
            room -= len(batch)
            if len(batch):
                batches.append(replace(batch, bus=numbers[batch.bus]))
        if len(batches) == 1:
            return batches[0]
        return merge_by_time(FrameBatch.concatenate(batches))
