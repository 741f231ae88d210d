"""What has come and was not fetched: bounded, the oldest goes and is counted."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from gateway.uds.channel import ChannelClosedError

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue of at most ``capacity`` items to any number of receivers."""

    def __init__(self, capacity: int) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._changed = asyncio.Event()
        self._error: ChannelClosedError | None = None
        self.dropped = 0

    def put(self, item: T) -> None:
        """Add one, at the cost of the oldest when it is full."""
        if len(self._items) >= self._capacity:
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)
        self._changed.set()

    async def get(self) -> T:
        """The oldest, waiting for one; cancelling the wait loses none.

        Raises:
            ChannelClosedError: closed, and empty.
        """
        while not self._items:
            self.check()
            self._changed.clear()
            await self._changed.wait()
        return self._items.popleft()

    def drain(self) -> int:
        """Throw everything away; returns how much it was."""
        count = len(self._items)
        self._items.clear()
        return count

    def check(self) -> None:
        """Raises ``ChannelClosedError`` when it was closed."""
        if self._error is not None:
            raise ChannelClosedError(str(self._error)) from self._error

    def close(self, error: ChannelClosedError) -> None:
        """Nothing more will come; idempotent."""
        self._error = self._error or error
        self._changed.set()
