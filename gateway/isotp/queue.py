"""Messages that have come and wait to be fetched: bounded, the oldest dropped and counted.

Who waits is resumed within the callback that brought the message (``Wake``), not in the loop's next turn: an answer
then leaves one poll of all sockets earlier.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Generic, TypeVar

from gateway.errors import TransportError
from gateway.uds.channel import ChannelClosedError

#: Messages kept for a reader that does not fetch them.
LIMIT = 64

T = TypeVar("T")


class Wake:
    """A future without a value whose one waiter runs at once when it is set, or later if a task is running.

    Await it from a task, once.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_context", "_is_cancelled", "_is_done", "_loop", "_message")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callback: Callable[[Wake], object] | None = None
        self._context: Context | None = None
        self._is_done = self._is_cancelled = False
        self._message: object = None
        self._asyncio_future_blocking = False

    def __await__(self) -> Generator[Wake, None, None]:
        if not self._is_done:
            self._asyncio_future_blocking = True  # what tells a task from a bare yield
            yield self
        self.result()

    def set(self) -> None:
        """Resume the waiter; idempotent."""
        if self._is_done:
            return
        self._is_done = True
        callback, self._callback = self._callback, None
        if callback is None:
            return
        if self._context is None or asyncio.current_task(self._loop) is not None:
            self._loop.call_soon(callback, self, context=self._context)
        else:
            self._context.run(callback, self)

    # --- what a task asks of what it waits for ---

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop it belongs to."""
        return self._loop

    def add_done_callback(self, callback: Callable[[Wake], object], *, context: Context | None = None) -> None:
        """The task's."""
        self._callback, self._context = callback, context

    def cancel(self, msg: object = None) -> bool:
        """The task was cancelled."""
        if self._is_done:
            return False
        self._is_done = self._is_cancelled = True
        self._message = msg
        if self._callback is not None:
            self._loop.call_soon(self._callback, self, context=self._context)
        return True

    def done(self) -> bool:
        """It was set or cancelled."""
        return self._is_done

    def cancelled(self) -> bool:
        """It was cancelled."""
        return self._is_cancelled

    def result(self) -> None:
        """Raises when it was cancelled."""
        if self._is_cancelled:
            # The message tells anyio's cancel scopes whose cancellation it is.
            raise asyncio.CancelledError() if self._message is None else asyncio.CancelledError(self._message)


class ReceiveQueue(Generic[T]):
    """Items, and errors in their place among them."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._items: deque[T | TransportError] = deque()
        self._waiters: deque[Wake] = deque()
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
            waiter = Wake(asyncio.get_running_loop())
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
                waiter.set()
                return
