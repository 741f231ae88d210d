"""Which batch travels next, and up to where a stream is done. A core: it never sends.

Several batches are under way at once, so acknowledgements come in any order; the spool takes them in sequence only.
Urgent streams go first at every pick, so that a backlog of bulk data delays a critical batch by one request at most.

Picks and acknowledgements run in the spool's worker thread, the rest in the event loop; hence the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.wire.batch import STREAMS, Priority

#: All streams, the most urgent first, whichever link they may use.
BY_URGENCY = tuple(sorted(STREAMS, key=lambda name: Priority[name.removesuffix("-wifi").upper()]))
#: Finds the first pending sequence of a stream after the given one.
NextPending = Callable[[str, int], int | None]


@dataclass(slots=True)
class _Stream:
    cursor: int = 0  # highest sequence ever picked
    under_way: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    again: set[int] = field(default_factory=set)  # failed, to be sent once more
    parked: dict[int, int] = field(default_factory=dict)  # refused by this cloud -> when to try again (monotonic ns)


class UploadQueue:
    """Picks ``(stream, sequence)`` pairs in order of the streams given, the most urgent first."""

    def __init__(self, streams: Sequence[str], next_pending: NextPending) -> None:
        self._next_pending = next_pending
        self._streams = {name: _Stream() for name in streams}
        self._lock = threading.Lock()

    def pick(self, allowed: Callable[[str], bool], now_ns: int = 0) -> tuple[str, int] | None:
        """The next batch to send, marked as under way; None when nothing is waiting."""
        with self._lock:
            for name, stream in self._streams.items():
                if not allowed(name):
                    continue
                for sequence in [s for s, until_ns in stream.parked.items() if until_ns <= now_ns]:
                    del stream.parked[sequence]
                    stream.again.add(sequence)
                if stream.again:
                    sequence = min(stream.again)
                    stream.again.remove(sequence)
                else:
                    found = self._next_pending(name, stream.cursor)
                    if found is None:
                        continue
                    sequence = stream.cursor = found
                stream.under_way.add(sequence)
                return name, sequence
            return None

    def failed(self, stream: str, sequence: int) -> None:
        """It did not get through; it will be picked again."""
        with self._lock:
            state = self._streams[stream]
            state.under_way.discard(sequence)
            state.again.add(sequence)

    def park(self, stream: str, sequence: int, until_ns: int) -> None:
        """The cloud does not take it: leave it in the spool until then (monotonic) and go on with the others."""
        with self._lock:
            state = self._streams[stream]
            state.under_way.discard(sequence)
            state.parked[sequence] = until_ns

    def gone(self, stream: str, sequence: int) -> None:
        """It was evicted before it could be sent."""
        with self._lock:
            self._streams[stream].under_way.discard(sequence)

    def succeeded(self, stream: str, sequence: int, acknowledged: int) -> int:
        """The cloud holds it. Returns the sequence up to which the spool may acknowledge.

        Args:
            stream: its stream.
            sequence: its sequence.
            acknowledged: up to where the spool is acknowledged now.
        """
        with self._lock:
            state = self._streams[stream]
            state.under_way.discard(sequence)
            state.done.add(sequence)
            upto = acknowledged
            following = self._next_pending(stream, upto)
            while following is not None and following in state.done:
                state.done.remove(following)
                upto = following
                following = self._next_pending(stream, upto)
            state.done = {s for s in state.done if s > upto}
            return upto

    def is_waiting(self, stream: str, sequence: int, acknowledged: int) -> bool:
        """Whether it will be sent, or is being sent, without anybody asking for it.

        Args:
            stream: its stream.
            sequence: a sequence the spool holds.
            acknowledged: up to where the spool is acknowledged now.
        """
        with self._lock:
            return sequence > acknowledged and sequence not in self._streams[stream].done

    @property
    def under_way(self) -> int:
        """Batches picked and neither failed nor done."""
        with self._lock:
            return sum(len(s.under_way) for s in self._streams.values())

    @property
    def parked(self) -> int:
        """Batches the cloud refused, to be tried again later."""
        with self._lock:
            return sum(len(s.parked) for s in self._streams.values())

    def retry_parked(self) -> None:
        """Offer the parked batches again now."""
        with self._lock:
            for state in self._streams.values():
                state.again.update(state.parked)
                state.parked.clear()
