"""One bus as conversations need it: send a frame now, hear chosen identifiers at once.

The frame path (``ports``) moves batches and may lag by a tick; diagnostics answer single frames within milliseconds and
therefore have sockets of their own. A link belongs to one asyncio event loop and is used from nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol, runtime_checkable

from gateway.errors import TransportError

#: An identifier and whether it is a 29-bit one.
CanId = tuple[int, bool]


class CanFrame(NamedTuple):
    """A data frame. ``fd`` frames carry 0-8, 12, 16, 20, 24, 32, 48 or 64 bytes, others up to 8."""

    can_id: int
    data: bytes
    extended: bool = False
    fd: bool = False
    brs: bool = False
    timestamp_ns: int = 0  # UTC, of reception (the kernel's where it has one); 0 for frames of ours
    is_own: bool = False  # sent by this machine's own link; only links opened with ``own`` hear such frames


class LinkBusyError(TransportError):
    """The interface's queue is full; the frame was not sent and may be offered again in about a millisecond."""


#: Called in the event loop for every frame heard; must not raise.
Handler = Callable[[CanFrame], None]


class CanLink(Protocol):
    """A bus, open for sending and hearing."""

    @property
    def name(self) -> str:
        """For people: the interface or channel."""

    @property
    def fd(self) -> bool:
        """Whether FD frames can be sent."""

    def send(self, frame: CanFrame) -> None:
        """Hand one frame to the bus.

        Raises:
            LinkBusyError: not now.
            TransportError: the interface is down, gone or in bus-off.
            ValueError: no such frame can be (a length or an identifier that does not exist).
        """

    def hear(self, ids: Collection[CanId] | None, handler: Callable[[CanFrame], None]) -> Callable[[], None]:
        """Call ``handler`` for each frame with one of ``ids`` (None: all). Returns what ends it; idempotent.

        Several may hear the same identifier. Kernel filters follow the union of what is heard.
        """

    async def aclose(self) -> None:
        """Release the bus; handlers are called no more. Idempotent."""


#: Gets the payloads of several frames of one identifier and length that waited together: joined, and the bytes of each.
ManyHandler = Callable[[bytes, int], None]


@runtime_checkable
class QuickSending(Protocol):
    """What a link may also offer: sending without building a ``CanFrame`` each time."""

    def prepare(self, can_id: int, *, extended: bool, fd: bool, brs: bool) -> Callable[[bytes], None]:
        """What sends frames of this identifier and kind with a given payload, whose length is known to be right.

        Raises as ``CanLink.send``.
        """

    def prepare_many(self, can_id: int, *, extended: bool, fd: bool, brs: bool) -> Callable[[bytes, int], int]:
        """As ``prepare`` for several payloads of one length: joined, and the bytes of each.

        Returns how many were sent, at least one; else it raises as ``CanLink.send``.
        """


@runtime_checkable
class RunHearing(Protocol):
    """What a link may also offer: handing over at once what waits together."""

    def hear_runs(self, ids: Collection[CanId], handler: Handler, many: ManyHandler) -> Callable[[], None]:
        """As ``CanLink.hear``; several frames of one identifier and length in a row may go to ``many`` instead."""


@runtime_checkable
class WakeTime(Protocol):
    """What a link may also offer: a clock that is read once for all frames found waiting together."""

    def wake_time_ns(self) -> int:
        """The event loop's time in nanoseconds; within a handler that of the wake which found the frame."""
