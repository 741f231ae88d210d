"""Collects selected blocks into batches, one open batch per stream and time resolution. A core: no clock, no disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dbc.frames import FrameBatch
from gateway.wire.batch import Priority, UploadRule, stream_name
from gateway.wire.samples import Event, SampleBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Something a scheme selected, on its way into a batch."""

    priority: Priority
    upload: UploadRule
    resolution_ns: int
    scheme: tuple[str, int]  # id, version
    samples: SampleBlock = field(default_factory=SampleBlock.empty)
    frames: FrameBatch = field(default_factory=FrameBatch.empty)
    events: tuple[Event, ...] = ()

    @property
    def items(self) -> int:
        """What the accounting counts."""
        return len(self.samples) + len(self.frames) + len(self.events)


@dataclass(slots=True)
class OpenBatch:
    """A batch being filled. ``opened_ns`` is monotonic."""

    priority: Priority
    stream: str
    resolution_ns: int
    opened_ns: int
    items: int = 0
    pieces: list[Piece] = field(default_factory=list)

    def content(self) -> tuple[SampleBlock, FrameBatch, tuple[Event, ...]]:
        """Everything in it, joined in the order it came."""
        return (
            SampleBlock.concatenate([p.samples for p in self.pieces if len(p.samples)]),
            FrameBatch.concatenate([p.frames for p in self.pieces if len(p.frames)]),
            tuple(event for p in self.pieces for event in p.events),
        )

    def schemes(self) -> tuple[tuple[str, int], ...]:
        """The schemes that put something in, each once."""
        return tuple(sorted({p.scheme for p in self.pieces}))


class Batcher:
    """Closes a batch when its stream's period has passed since it was opened, or when it holds ``max_items``."""

    def __init__(self, period_ns: dict[Priority, int], max_items: int) -> None:
        self._period_ns, self._max_items = period_ns, max_items
        self._open: dict[tuple[str, int], OpenBatch] = {}

    def add(self, pieces: Iterable[Piece], now_ns: int) -> list[OpenBatch]:
        """Take pieces in; returns the batches that became full.

        A piece is never torn, so a batch may exceed ``max_items`` by one piece; the writer splits what is too large.
        """
        full: list[OpenBatch] = []
        for piece in pieces:
            stream = stream_name(piece.priority, piece.upload)
            key = (stream, piece.resolution_ns)
            batch = self._open.get(key)
            if batch is None:
                batch = self._open[key] = OpenBatch(piece.priority, stream, piece.resolution_ns, now_ns)
            batch.pieces.append(piece)
            batch.items += piece.items
            if batch.items >= self._max_items:
                full.append(self._open.pop(key))
        return full

    def due(self, now_ns: int) -> list[OpenBatch]:
        """Take out the batches whose period is over, the most urgent first."""
        keys = [k for k, b in self._open.items() if now_ns - b.opened_ns >= self._period_ns[b.priority]]
        return sorted((self._open.pop(key) for key in keys), key=lambda b: b.priority)

    def flush(self) -> list[OpenBatch]:
        """Take out all batches, the most urgent first."""
        batches = sorted(self._open.values(), key=lambda b: b.priority)
        self._open.clear()
        return batches

    def next_deadline_ns(self) -> int | None:
        """When ``due`` will have something, None when nothing is open."""
        return min((b.opened_ns + self._period_ns[b.priority] for b in self._open.values()), default=None)
