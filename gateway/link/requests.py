"""What the cloud asked for again, and what of it is gone. A core: it never sends.

Nothing a confused cloud asks for may grow without bound or stop the vehicle: unknown streams and impossible ranges are
ignored, and a batch that the cloud asks for and then refuses is left alone for a while.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable
from operator import itemgetter

from gateway.wire.api import SequenceRange

MAX_REQUESTED = 10_000
MAX_NOT_FOUND = 10_000
MAX_REPORTED = 1_000  # ranges in one check-in; the rest follows in the next


class Requests:
    """Sequences to send again, in the order asked, each once; and answers to requests that cannot be served."""

    def __init__(self, spool_id: str, streams: Collection[str]) -> None:
        self._spool_id, self._streams = spool_id, frozenset(streams)
        self._wanted: dict[tuple[str, int], None] = {}
        self._gone: set[tuple[str, int, int]] = set()  # stream's name on the wire, first, last
        self._deferred: dict[tuple[str, int], int] = {}  # until when (monotonic ns) a refused one is left alone

    def __len__(self) -> int:
        return len(self._wanted)

    def add(self, ranges: Iterable[SequenceRange], now_ns: int) -> None:
        """Take up what the cloud asks for; what does not fit into the list it will ask for again."""
        self._deferred = {key: until for key, until in self._deferred.items() if until > now_ns}
        for wanted in ranges:
            owner, _, stream = wanted.stream.partition("/")
            if not 1 <= wanted.first <= wanted.last:
                continue
            if owner != self._spool_id:
                self._add_gone(wanted.stream, wanted.first, wanted.last)
            elif stream in self._streams:
                for sequence in range(wanted.first, min(wanted.last, wanted.first + MAX_REQUESTED) + 1):
                    if len(self._wanted) >= MAX_REQUESTED:
                        return
                    if (stream, sequence) not in self._deferred:
                        self._wanted[stream, sequence] = None

    def take(self, allowed: Callable[[str], bool]) -> tuple[str, int] | None:
        """Remove and return the next one that may travel now."""
        for stream, sequence in self._wanted:
            if allowed(stream):
                del self._wanted[stream, sequence]
                return stream, sequence
        return None

    def has_any(self, allowed: Callable[[str], bool]) -> bool:
        """Whether ``take`` would give one."""
        return any(allowed(stream) for stream, _ in self._wanted)

    def put_back(self, stream: str, sequence: int) -> None:
        """It did not get through: it is the next again."""
        self._wanted = {(stream, sequence): None, **self._wanted}

    def defer(self, stream: str, sequence: int, until_ns: int) -> None:
        """The cloud does not take it: do not listen to requests for it until then (monotonic)."""
        if len(self._deferred) < MAX_REQUESTED:
            self._deferred[stream, sequence] = until_ns

    def not_here(self, stream: str, sequence: int) -> None:
        """It is gone; the cloud is to be told."""
        self._add_gone(f"{self._spool_id}/{stream}", sequence, sequence)

    def _add_gone(self, stream: str, first: int, last: int) -> None:
        if len(self._gone) < MAX_NOT_FOUND:
            self._gone.add((stream, first, last))

    def not_found(self) -> tuple[SequenceRange, ...]:
        """What the cloud has to hear, neighbours joined."""
        joined: list[SequenceRange] = []
        for stream, first, last in sorted(self._gone):
            before = joined[-1] if joined else None
            if before is not None and before.stream == stream and first <= before.last + 1:
                joined[-1] = SequenceRange(stream, before.first, max(before.last, last))
            else:
                joined.append(SequenceRange(stream, first, last))
        return tuple(joined[:MAX_REPORTED])

    def reported(self, ranges: Iterable[SequenceRange]) -> None:
        """The cloud has heard of these."""
        told: dict[str, list[tuple[int, int]]] = {}
        for each in ranges:
            told.setdefault(each.stream, []).append((each.first, each.last))
        for spans in told.values():
            spans.sort()

        def is_known(stream: str, first: int, last: int) -> bool:
            spans = told.get(stream, [])
            i = bisect_right(spans, first, key=itemgetter(0))
            return i > 0 and last <= spans[i - 1][1]

        self._gone = {gone for gone in self._gone if not is_known(*gone)}
