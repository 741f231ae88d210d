"""Work that blocks (disks, hashes, loading) off the event loop, as a port: tests run it in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import anyio.to_thread

T = TypeVar("T")


class Offload(Protocol):
    """Runs a function that blocks and gives its answer; a cancelled caller still waits for its end."""

    async def __call__(self, function: Callable[[], T]) -> T:
        """The function's answer. Raises what it raises."""


async def in_thread(function: Callable[[], T]) -> T:
    """In a worker thread: the event loop goes on."""
    return await anyio.to_thread.run_sync(function)


async def in_place(function: Callable[[], T]) -> T:
    """At once, in the caller's thread: for tests, where the order of things shall be the same each time."""
    return function()
