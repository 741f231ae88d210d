"""What the gateway needs from a bus. ``FrameSource`` is for its users, ``BusPort`` for those who write an adapter."""

from __future__ import annotations

from typing import Protocol

from dbc.frames import FrameBatch
from gateway.can.model import BusCounters, Filters
from gateway.wire.samples import Event


class FrameSource(Protocol):
    """Frames of one or more buses in batches, and what happened to the buses.

    One task uses it. ``receive`` may be cancelled at any time without losing a frame.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Bus names; ``FrameBatch.bus`` points into them."""

    async def receive(self) -> FrameBatch:
        """The next frames, in order of reception per bus. Empty when there are only events, or nothing for a while.

        Raises:
            SourceEnded: nothing will ever come again.
        """

    def take_events(self) -> tuple[Event, ...]:
        """Events since the last call; ask after each ``receive``. Their source is the bus name."""

    def statistics(self) -> tuple[BusCounters, ...]:
        """The counters, in the order of ``names``."""

    def set_filters(self, filters: Filters | None) -> None:
        """Let only these identifiers through, where the adapter can; None opens all buses.

        Frames held back are in no counter of ours, only in ``interface_rx``. Error frames always come.
        """

    async def aclose(self) -> None:
        """Release everything; idempotent."""


class Poller(Protocol):
    """Where a port registers what it waits for."""

    def add(self, fileno: int) -> None:
        """Wake when this is readable or has an error."""

    def remove(self, fileno: int) -> None:
        """Forget it; call before closing it."""


class BusPort(Protocol):
    """An adapter: one or more buses, read without blocking whenever the reader says so."""

    @property
    def names(self) -> tuple[str, ...]:
        """Bus names; the batches' ``bus`` is an index into them."""

    def open(self, poller: Poller) -> None:
        """Start. An interface that is not there yet is no error but a bus that is down."""

    def collect(self, limit: int, monotonic_ns: int, utc_ns: int) -> FrameBatch:
        """Up to ``limit`` frames that are here now."""

    @property
    def has_more(self) -> bool:
        """The last ``collect`` stopped at the limit."""

    @property
    def ended(self) -> bool:
        """Nothing will ever come again."""

    def next_due_ns(self) -> int | None:
        """Monotonic time at which to collect though nothing is readable; None for never."""

    def take_events(self) -> list[Event]:
        """Events since the last call."""

    def statistics(self) -> list[BusCounters]:
        """The counters, in the order of ``names``."""

    def set_filters(self, filters: Filters | None) -> None:
        """See ``FrameSource.set_filters``."""

    def close(self) -> None:
        """Release everything; idempotent."""
