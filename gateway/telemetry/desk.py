"""The spool for asynchronous callers: one blocking call at a time, in a worker thread.

The spool has a single writer and knows no threads; this desk is where writer, uplink and status queue up for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import anyio
from anyio import to_thread

from gateway.spool import Spool, SpoolError
from gateway.wire.api import SequenceRange
from gateway.wire.ledger import StreamLedger

T = TypeVar("T")


class SpoolDesk:
    """Serialises access to a ``Spool``."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._lock = anyio.Lock()
        self.stored = anyio.Event()  # replaced at each store; wait on the present one
        self.is_finished = False

    @property
    def spool_id(self) -> str:
        """The spool's identity, in the name of every stream on the wire."""
        return self._spool.spool_id

    async def _do(self, function: Callable[..., T], *arguments: object) -> T:
        async with self._lock:
            return await to_thread.run_sync(function, *arguments)

    async def store(self, work: Callable[[Spool], T]) -> T:
        """Run ``work`` with the spool to itself and wake the uplink."""
        result = await self._do(work, self._spool)
        self.wake()
        return result

    def wake(self) -> None:
        """Make those who wait for something to send look again."""
        if not self.is_finished:
            self.stored.set()
            self.stored = anyio.Event()

    def finish(self) -> None:
        """Nothing more will be stored: whoever empties the spool may end once it is empty."""
        self.is_finished = True
        self.stored.set()

    async def checkpoint(self, state: bytes) -> None:
        """Persist the ledger's state between stores; durable on return."""
        await self._do(self._spool.checkpoint, state)

    async def sync(self) -> None:
        """Make everything appended so far durable."""
        await self._do(self._spool.sync)

    async def read(self, stream: str, sequence: int) -> bytes | None:
        """A stored batch, None when it is gone."""
        return await self._do(self._spool.read, stream, sequence)

    async def pick(
        self, pick: Callable[[], tuple[str, int] | None], give_back: Callable[[str, int], None]
    ) -> tuple[str, int, bytes | None] | None:
        """Run a queue's pick and read what it picked, in one visit; the content is None when it is gone.

        Raises:
            SpoolError: the disk refused; what was picked was given back.
        """

        def visit() -> tuple[str, int, bytes | None] | None:
            found = pick()
            if found is None:
                return None
            try:
                return *found, self._spool.read(*found)
            except SpoolError:
                give_back(*found)
                raise

        return await self._do(visit)

    async def acknowledged(self, stream: str) -> int:
        """Up to where a stream is acknowledged."""
        return await self._do(self._spool.acknowledged, stream)

    def next_pending(self, stream: str, after: int) -> int | None:
        """For a queue's pick, which runs inside a visit: the first pending sequence after one."""
        return self._spool.next_pending(stream, after)

    async def acknowledge(self, stream: str, advance: Callable[[int], int]) -> None:
        """Acknowledge up to what ``advance`` makes of the present mark."""

        def visit() -> None:
            before = self._spool.acknowledged(stream)
            upto = advance(before)
            if upto > before:
                self._spool.acknowledge(stream, upto)

        await self._do(visit)

    async def totals(self) -> dict[str, StreamLedger]:
        """Per stream, the accounting of its items."""
        return await self._do(self._spool.totals)

    async def evicted(self) -> tuple[SequenceRange, ...]:
        """Ranges the cloud has not confirmed yet, under the streams' names on the wire."""
        return await self._do(self._evicted)

    def _evicted(self) -> tuple[SequenceRange, ...]:
        return tuple(
            SequenceRange(f"{self.spool_id}/{stream}", first, last)
            for stream in self._spool.streams()
            for first, last in self._spool.evicted(stream)
        )

    async def confirm_evicted(self, ranges: Sequence[SequenceRange]) -> None:
        """The cloud knows of these."""
        mine = [(r.stream.partition("/")[2], r.first, r.last) for r in ranges if r.stream.startswith(self.spool_id)]
        if mine:
            await self._do(self._spool.confirm_evicted, mine)

    async def close(self) -> None:
        """Sync and close; the desk is not used after."""
        await self._do(self._spool.close)
