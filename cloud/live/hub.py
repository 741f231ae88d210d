"""Who watches what: one bounded mailbox per open event stream.

A slow reader holds nobody up. A value that is replaced before it was sent is dropped and counted, as is the oldest
entry of a mailbox that is full; the reader is told the count with the next message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from cloud.errors import TooMany

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
RETRY_S = 30.0


class Mailbox(Generic[K, V]):
    """What one reader has not seen yet, at most one value per key."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: dict[K, V] = {}
        self._dropped = 0
        self._wake = asyncio.Event()
        self.closed = False

    def put(self, entries: Iterable[tuple[K, V]]) -> None:
        """Add entries; never waits."""
        for key, value in entries:
            if self._entries.pop(key, None) is not None:
                self._dropped += 1
            self._entries[key] = value
            if len(self._entries) > self._max_entries:
                del self._entries[next(iter(self._entries))]
                self._dropped += 1
        if self._entries:
            self._wake.set()

    def close(self) -> None:
        """Nothing more will come; a waiting reader wakes up."""
        self.closed = True
        self._wake.set()

    async def take(self, timeout_s: float) -> tuple[list[V], int]:
        """All entries, oldest first, and how many were dropped; an empty list after ``timeout_s`` or when closed."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        if not self.closed:
            self._wake.clear()
        entries, dropped = list(self._entries.values()), self._dropped
        self._entries.clear()
        self._dropped = 0
        return entries, dropped


class Hub(Generic[K, V]):
    """Mailboxes by topic (a vehicle id, or the fleet)."""

    def __init__(self, *, clients_max: int, entries_max: int) -> None:
        self._clients_max = clients_max
        self._entries_max = entries_max
        self._topics: dict[str, set[Mailbox[K, V]]] = {}
        self._closed = False

    @property
    def clients(self) -> int:
        """Open mailboxes."""
        return sum(len(boxes) for boxes in self._topics.values())

    def watched(self, topic: str) -> bool:
        """Whether anyone listens."""
        return topic in self._topics

    def check_room(self) -> None:
        """Raises ``TooMany`` when no other reader fits."""
        if self.clients >= self._clients_max:
            raise TooMany(f"{self._clients_max} event streams are open, no more allowed", retry_after_s=RETRY_S)

    @contextmanager
    def subscribe(self, topic: str) -> Iterator[Mailbox[K, V]]:
        """A mailbox for the time of the block.

        Raises:
            TooMany: no room for another reader.
        """
        self.check_room()
        box: Mailbox[K, V] = Mailbox(self._entries_max)
        if self._closed:
            box.close()
        self._topics.setdefault(topic, set()).add(box)
        try:
            yield box
        finally:
            boxes = self._topics[topic]
            boxes.discard(box)
            if not boxes:
                del self._topics[topic]

    def publish(self, topic: str, entries: Iterable[tuple[K, V]]) -> None:
        """Put entries into the mailboxes of a topic; never waits."""
        kept = list(entries)
        for box in self._topics.get(topic, ()):
            box.put(kept)

    def close(self) -> None:
        """End all streams: the servers can only stop once their connections have."""
        self._closed = True
        for boxes in self._topics.values():
            for box in boxes:
                box.close()
