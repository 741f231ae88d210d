"""Bounded channels between components, with a stated answer to "full" and numbers anyone may look at."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

import anyio

T = TypeVar("T")


class OnFull(Enum):
    """What a sender gets when the receiver lags."""

    WAIT = "wait"  # the sender is held up; what comes before it must be able to wait or count
    DROP_OLDEST = "drop_oldest"  # the oldest item goes, counted


class ChannelClosed(Exception):
    """The other end was closed; for a receiver, after everything was taken out."""


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """Depth now, the deepest ever, items sent and items dropped."""

    depth: int
    peak: int
    sent: int
    dropped: int


class Channel(Generic[T]):
    """A queue of at most ``capacity`` items from any number of senders to one receiver."""

    def __init__(self, name: str, capacity: int, on_full: OnFull) -> None:
        if capacity < 1:
            raise ValueError("a channel holds at least one item")
        self.name, self.capacity, self.on_full = name, capacity, on_full
        self._items: deque[T] = deque()
        self._changed = anyio.Event()
        self._closed = False
        self._peak = self._sent = self._dropped = 0

    def statistics(self) -> ChannelStatistics:
        """The numbers at this moment."""
        return ChannelStatistics(len(self._items), self._peak, self._sent, self._dropped)

    def close(self) -> None:
        """No more items: senders are refused, the receiver gets what is left and then ``ChannelClosed``."""
        self._closed = True
        self._wake()

    def send_nowait(self, item: T) -> bool:
        """Put one item in; False when it is full and the channel is one that waits.

        Raises:
            ChannelClosed: the channel was closed.
        """
        if self._closed:
            raise ChannelClosed(self.name)
        if len(self._items) >= self.capacity:
            if self.on_full is OnFull.WAIT:
                return False
            self._items.popleft()
            self._dropped += 1
        self._items.append(item)
        self._sent += 1
        self._peak = max(self._peak, len(self._items))
        self._wake()
        return True

    async def send(self, item: T) -> None:
        """Put one item in, waiting for room where that is the channel's answer.

        Cancellation while waiting leaves the item out.

        Raises:
            ChannelClosed: the channel was closed.
        """
        while not self.send_nowait(item):
            await self._changed.wait()

    async def receive(self) -> T:
        """Take the oldest item, waiting for one.

        Raises:
            ChannelClosed: closed and empty.
        """
        while not self._items:
            if self._closed:
                raise ChannelClosed(self.name)
            await self._changed.wait()
        item = self._items.popleft()
        self._wake()
        return item

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
