"""A bus inside one process, for tests and for engines that meet in memory. Nothing of it reaches a kernel.

    bus = MemoryBus(fd=True)
    tester, ecu = bus.link("tester"), bus.link("ecu")

Frames reach all other links in the order they were sent, in a later turn of the event loop. ``bus.fault`` sees each
frame on its way and may drop, alter, multiply or (with ``bus.inject``) delay it; ``bus.is_down`` and
``bus.max_queued`` make sending fail as a real interface does.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import groupby

from gateway.can.link import CanFrame, CanId, Handler, LinkBusyError, ManyHandler
from gateway.can.link_table import EXTENDED_FLAG, ListenerTable, check_frame
from gateway.errors import TransportError

#: What becomes of a frame of the named link: None drops it, a frame or several are delivered in its place.
Fault = Callable[[str, CanFrame], CanFrame | Sequence[CanFrame] | None]


class MemoryLink:
    """One node's access to a ``MemoryBus``; a ``CanLink``."""

    def __init__(self, bus: MemoryBus, name: str, own: bool) -> None:
        self._bus, self._name, self.own = bus, name, own
        self.table = ListenerTable()
        self.closed = False

    @property
    def name(self) -> str:
        """See ``CanLink``."""
        return self._name

    @property
    def fd(self) -> bool:
        """See ``CanLink``."""
        return self._bus.fd

    def send(self, frame: CanFrame) -> None:
        """See ``CanLink``."""
        check_frame(frame, fd=self._bus.fd)
        if self.closed:
            raise TransportError(f"{self._name}: the link is closed")
        self._bus.accept(self, frame)

    def hear(self, ids: Collection[CanId] | None, handler: Callable[[CanFrame], None]) -> Callable[[], None]:
        """See ``CanLink``."""
        return self.table.add(ids, handler)

    def hear_runs(self, ids: Collection[CanId], handler: Handler, many: ManyHandler) -> Callable[[], None]:
        """See ``RunHearing``."""
        return self.table.add(ids, handler, many)

    async def aclose(self) -> None:
        """See ``CanLink``."""
        self.closed = True
        self.table.clear()
        self._bus.forget(self)


class MemoryBus:
    """The wire. Belongs to one event loop."""

    def __init__(self, *, fd: bool = True, fault: Fault | None = None, max_queued: int | None = None) -> None:
        self.fd = fd
        self.fault = fault
        self.max_queued = max_queued  # frames accepted before they are delivered; more are LinkBusyError
        self.is_down = False
        self.sent: list[tuple[str, CanFrame]] | None = None  # set to [] to record what links send, before faults
        self._links: list[MemoryLink] = []
        self._queue: deque[tuple[MemoryLink | None, CanFrame]] = deque()
        self._scheduled = False

    def link(self, name: str = "memory", *, own: bool = False) -> MemoryLink:
        """A further node."""
        made = MemoryLink(self, name, own)
        self._links.append(made)
        return made

    def accept(self, sender: MemoryLink, frame: CanFrame) -> None:
        """Take a frame of a link (``CanLink.send``)."""
        if self.is_down:
            raise TransportError(f"{sender.name}: the bus is down")
        if self.max_queued is not None and len(self._queue) >= self.max_queued:
            raise LinkBusyError(f"{sender.name}: the queue is full")
        if self.sent is not None:
            self.sent.append((sender.name, frame))
        if self.fault is None:
            self._put(sender, frame)
            return
        out = self.fault(sender.name, frame)
        for one in () if out is None else (out,) if isinstance(out, CanFrame) else out:
            self._put(sender, one)

    def inject(self, frame: CanFrame) -> None:
        """A frame of nobody in particular: every link hears it. Passes no ``fault``."""
        check_frame(frame, fd=self.fd)
        self._put(None, frame)

    def forget(self, link: MemoryLink) -> None:
        """The link was closed."""
        if link in self._links:
            self._links.remove(link)

    def _put(self, sender: MemoryLink | None, frame: CanFrame) -> None:
        self._queue.append((sender, frame))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        """What was sent until now; what handlers send meanwhile has its own turn."""
        self._scheduled = False
        queue, self._queue = self._queue, deque()
        now_ns = time.time_ns()
        for (sender, can_id, extended), run in groupby(queue, lambda item: (item[0], item[1].can_id, item[1].extended)):
            frames = [frame._replace(timestamp_ns=now_ns) for _, frame in run]
            word = can_id | EXTENDED_FLAG if extended else can_id
            size = len(frames[0].data)
            is_run = len(frames) > 1 and size > 0 and all(len(frame.data) == size for frame in frames)
            for link in tuple(self._links):
                if link is sender and not link.own:
                    continue
                if is_run and link.table.dispatch_run(word, b"".join(frame.data for frame in frames), size):
                    continue
                for frame in frames:
                    link.table.dispatch(frame._replace(is_own=True) if link is sender else frame)
