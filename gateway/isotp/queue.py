"""Messages that have come and wait to be fetched: bounded, the oldest dropped and counted."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from gateway.errors import TransportError
from gateway.uds.channel import ChannelClosedError

#: Messages kept for a reader that does not fetch them.
LIMIT = 64

T = TypeVar("T")


class ReceiveQueue(Generic[T]):
    """Items, and errors in their place among them."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._items: deque[T | TransportError] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T | TransportError) -> None:
        """Append; when full the oldest goes."""
        if self._closed:
            return
        if len(self._items) >= self._limit:
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)
        self._wake()

    async def get(self) -> T:
        """The oldest item, waiting for it; cancellation loses none.

        Raises:
            TransportError: an error was next.
            ChannelClosedError: closed, and nothing is left.
        """
        while not self._items:
            if self._closed:
                raise ChannelClosedError("the channel is closed")
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                elif self._items:
                    self._wake()  # ours was spent in vain
                raise
        item = self._items.popleft()
        if isinstance(item, TransportError):
            raise item
        return item

    def drain(self) -> int:
        """Throw all away; returns how many."""
        count = len(self._items)
        self._items.clear()
        return count

    def close(self) -> None:
        """Nothing more comes; who waits is told."""
        self._closed = True
        while self._waiters:
            self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
