"""The CAN firewall at work: routes between buses in the kernel where it can, in user space where it cannot.

User space: one link per bus hears only identifiers that some route takes from it (kernel filters), so that a flood of
anything else costs nothing here. An identifier that floods in spite of its limit is not heard for ``mute_s``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping

import anyio
from anyio.abc import TaskStatus

from gateway.can.link import CanFrame, CanId, CanLink, LinkBusyError
from gateway.can.link_socketcan import CANFD_MTU, interface_mtu
from gateway.errors import ConfigError, TransportError
from gateway.firewall.can_core import CanFirewall, Reason, RouteCounts
from gateway.firewall.can_gw import Job, KernelGateway, compile_jobs
from gateway.firewall.can_origin import OriginWatch
from gateway.firewall.can_rules import Route, RoutingSection, RoutingTable
from gateway.runtime import Clock, ComponentHealth, HealthBoard
from gateway.wire.batch import Priority
from gateway.wire.samples import Event, EventKind

log = logging.getLogger(__name__)

MAX_HEARD = 512  # identifiers a link is asked for one by one; above that all, judged in user space
MAX_WAITING = 256  # frames kept for a bus whose queue is full
RETRY_S = 0.001

Emit = Callable[[Priority, Event], Awaitable[None]]


class _Exit:
    """Frames on their way to one bus, with a short queue for a bus that is busy."""

    def __init__(self, link: CanLink) -> None:
        self.link = link
        self._waiting: deque[CanFrame] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def send(self, frame: CanFrame) -> bool:
        """Hand a frame over, now or soon; False when it is lost."""
        if self._waiting:
            if len(self._waiting) >= MAX_WAITING:
                return False
            self._waiting.append(frame)
            return True
        try:
            self.link.send(frame)
        except LinkBusyError:
            self._waiting.append(frame)
            self._timer = asyncio.get_running_loop().call_later(RETRY_S, self._retry)
        except (TransportError, ValueError):  # the bus is down, or cannot carry FD
            return False
        return True

    def _retry(self) -> None:
        self._timer = None
        try:
            while self._waiting:
                self.link.send(self._waiting[0])
                self._waiting.popleft()
        except LinkBusyError:
            self._timer = asyncio.get_running_loop().call_later(RETRY_S, self._retry)
        except (TransportError, ValueError):
            self._waiting.clear()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class CanRouter:
    """The component. Without a route it only watches origins."""

    name, drain_s, optional = "can-firewall", 0.0, False

    def __init__(
        self,
        *,
        table: RoutingTable,
        config: RoutingSection,
        links: Callable[[str], CanLink],
        interfaces: Mapping[str, str],
        emit: Emit,
        health: HealthBoard,
        clock: Clock,
        origins: OriginWatch | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            table: the routes.
            config: ``[routing]``.
            links: opens the link of a bus, called inside the event loop.
            interfaces: bus name -> SocketCAN interface, for the kernel; other buses are left out.
            emit: where events go.
            health: told when a bus cannot be opened.
            clock: the time.
            origins: whose findings are reported along with ours.
        """
        self.core = CanFirewall(table)
        self._config, self._open, self._interfaces, self._emit = config, links, interfaces, emit
        self._health, self._clock, self._origins = health, clock, origins
        self._exits: dict[str, _Exit] = {}
        self._ends: dict[str, Callable[[], None]] = {}
        self._muted: dict[tuple[str, CanId], int] = {}
        self._kernel: KernelGateway | None = None
        self._jobs: dict[Job, str] = {}  # what the kernel does for us -> route
        self._report_at_ns = 0

    def statistics(self) -> dict[str, RouteCounts]:
        """Counts per route; the kernel's as of now."""
        if self._kernel is not None:
            try:
                states = self._kernel.jobs()
            except OSError:
                states = []
            for name in set(self._jobs.values()):
                self.core.counts[name].kernel_handled = self.core.counts[name].kernel_dropped = 0
            for state in states:
                if (name := self._jobs.get(state.job, "")) in self.core.counts:
                    self.core.counts[name].kernel_handled += state.handled
                    self.core.counts[name].kernel_dropped += state.dropped
        return self.core.counts

    def in_kernel(self) -> frozenset[str]:
        """Names of the routes that the kernel carries."""
        return frozenset(self._jobs.values())

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Route until cancelled. Kernel jobs are removed at an orderly stop and survive any other.

        Raises:
            ConfigError: ``kernel = "always"`` and a route that the kernel cannot carry.
            TransportError: a bus cannot be opened.
        """
        self._health.register(self.name, self._clock.monotonic_ns(), limit_s=None)
        try:
            ours = self._give_to_kernel()
            self._hear(ours)
            self._health.report(self.name, ComponentHealth.OK)
            task_status.started()
            while True:
                await anyio.sleep(min(self._config.report_s, 0.2))
                await self._tend()
        finally:
            with anyio.CancelScope(shield=True):
                await self._close()

    # --- the kernel's part ---

    def _give_to_kernel(self) -> list[Route]:
        """Hand routes to can-gw; returns those left to us."""
        routes = list(self.core.table.routes)
        kernel = self._usable_kernel() if routes else None
        if kernel is None:
            if self._config.kernel == "always" and routes:
                raise ConfigError("this kernel offers no can-gw", where="$.routing.kernel")
            return routes
        indices = {bus: socket.if_nametoindex(name) for bus, name in self._interfaces.items()}
        fd_buses = [bus for bus, name in self._interfaces.items() if interface_mtu(name) >= CANFD_MTU]
        ours = set(indices.values())
        for state in kernel.jobs():  # left by a gateway that was killed: perhaps of another table
            if state.job.source in ours and state.job.destination in ours:
                kernel.delete(state.job)
        left = []
        for route in routes:
            # The kernel lets a frame take one hop only: what another route brought here goes on in user space.
            is_second = any(a.overlaps(b) for r in routes if route.source in r.to for a in r.ids for b in route.ids)
            jobs = None if is_second else compile_jobs(route, indices, fd_buses)
            if jobs is None or not self._add(kernel, jobs, route.name):
                left.append(route)
        if left and self._config.kernel == "always":
            raise ConfigError(f"the kernel cannot carry route {left[0].name!r}", where="$.routing.kernel")
        log.info("can_routes_compiled", extra={"kernel": len(routes) - len(left), "user_space": len(left)})
        return left

    def _usable_kernel(self) -> KernelGateway | None:
        if self._config.kernel == "never" or not self._interfaces:
            return None
        try:
            kernel = KernelGateway()
        except OSError:
            return None
        if not kernel.is_usable():
            kernel.close()
            return None
        self._kernel = kernel
        return kernel

    def _add(self, kernel: KernelGateway, jobs: Collection[Job], route: str) -> bool:
        """All jobs of a route or none."""
        done: list[Job] = []
        for job in jobs:
            try:
                kernel.add(job)
            except OSError as error:
                log.info("can_gw_refused", extra={"route": route, "error": str(error)})
                for made in done:
                    kernel.delete(made)
                return False
            done.append(job)
        self._jobs.update(dict.fromkeys(done, route))
        return True

    # --- our part ---

    def _hear(self, routes: Collection[Route]) -> None:
        self.core.activate(routes)
        buses = {bus for r in routes for bus in (r.source, *r.to)}
        for bus in sorted(buses):
            self._exits[bus] = _Exit(self._open(bus))
        for bus in {r.source for r in routes}:
            self._listen(bus)

    def _listen(self, bus: str) -> None:
        """(Re)register what is heard of a bus; a muted identifier is left out."""
        ids: list[CanId] | None = []
        for route in self.core.active:
            for part in route.ids if route.source == bus else ():
                if ids is None or len(ids) + len(part) > MAX_HEARD:
                    ids = None
                    break
                ids += [(can_id, part.extended) for can_id in range(part.first, part.last + 1)]
        if ids is not None:
            ids = [can_id for can_id in ids if (bus, can_id) not in self._muted]
        end = self._ends.pop(bus, None)

        def take(frame: CanFrame, bus: str = bus) -> None:
            self._take(bus, frame)

        self._ends[bus] = self._exits[bus].link.hear(ids, take)
        if end is not None:
            end()

    def _take(self, bus: str, frame: CanFrame) -> None:
        for route in self.core.judge(bus, frame, self._clock.monotonic_ns()):
            for to in route.to:
                if not self._exits[to].send(frame._replace(timestamp_ns=0)):
                    self.core.counts[route.name].congested += 1
                    self.core.refuse(to, Reason.CONGESTED, route.name, (frame.can_id, frame.extended))

    async def _tend(self) -> None:
        """Mute and unmute, report what was refused."""
        now_ns = self._clock.monotonic_ns()
        changed = {bus for (bus, _), until in self._muted.items() if until <= now_ns}
        self._muted = {key: until for key, until in self._muted.items() if until > now_ns}
        for bus, can_id in self.core.take_flooding() if self._config.mute_s else ():
            self._muted[bus, can_id] = now_ns + int(self._config.mute_s * 1e9)
            changed.add(bus)
            for route in self.core.active:
                if route.source == bus and any(can_id in ids for ids in route.ids):
                    self.core.counts[route.name].muted += 1
        for bus in changed:
            self._listen(bus)
        if now_ns >= self._report_at_ns:
            self._report_at_ns = now_ns + int(self._config.report_s * 1e9)
            await self._report()

    async def _report(self) -> None:
        refused = self.core.take_refused() + (self._origins.take() if self._origins is not None else [])
        for bus in sorted({r.bus for r in refused}):
            mine = [r for r in refused if r.bus == bus]
            detail = "; ".join(r.as_text() for r in mine[:8])
            if len(mine) > 8:
                detail += f"; {len(mine) - 8} more kinds, {sum(r.count for r in mine[8:])} frames"
            log.warning("can_frames_refused", extra={"bus": bus, "detail": detail})
            await self._emit(Priority.NORMAL, Event(self._clock.utc_ns(), EventKind.INTRUSION, bus, detail))

    async def _close(self) -> None:
        for end in self._ends.values():
            end()
        for way in self._exits.values():
            way.close()
            await way.link.aclose()
        if self._kernel is not None:
            for job in self._jobs:
                try:
                    self._kernel.delete(job)
                except OSError as error:
                    log.warning("can_gw_job_stays", extra={"error": str(error)})
            self._kernel.close()
