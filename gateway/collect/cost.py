"""What schemes would cost: the real selector and the real codec over recorded frames, before anyone rolls them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from dbc.frames import FrameBatch
from dbc.manifest import Manifest
from gateway.collect.collected import OUTCOMES, Collected, SelectedBlock
from gateway.collect.model import Limits
from gateway.collect.resolve import Scheme
from gateway.collect.selector import Selector
from gateway.wire.batch import Priority, stream_name
from gateway.wire.codec import encode_batch
from gateway.wire.samples import Event, SampleBlock

_NS = 1_000_000_000
#: How long a batch gathers, as the vehicle does it.
BATCH_S = {Priority.CRITICAL: 5, Priority.NORMAL: 60, Priority.BULK: 60}


class SchemeCost(msgspec.Struct, frozen=True):
    """One scheme; ``alone_bytes`` is what it would cost without the others in its stream."""

    id: str
    samples: int
    frames: int
    events: int
    triggers: int
    alone_bytes: int
    bytes_per_hour: float


class SignalCost(msgspec.Struct, frozen=True):
    """One signal over all schemes; ``alone_bytes`` includes a time column of its own."""

    name: str
    samples: int
    alone_bytes: int


class CostReport(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of schemes on one log. Bytes are whole batches, headers included."""

    seconds: float
    frames: int
    outcomes: dict[str, int]
    batches: int
    samples: int
    total_bytes: int
    bytes_per_hour: float
    bytes_per_day: float  # of hours_per_day
    hours_per_day: float
    streams: dict[str, int]
    schemes: tuple[SchemeCost, ...]
    signals: tuple[SignalCost, ...]


class _Pile:
    """Blocks that wait to become a batch, as in the vehicle."""

    def __init__(self) -> None:
        self.blocks: list[SelectedBlock] = []
        self.since_ns = 0

    def take(self) -> list[SelectedBlock]:
        blocks, self.blocks = self.blocks, []
        return blocks


class CostMeter:
    """Feeds frames to a selector and adds up what its output would weigh.

    Args:
        top: how many signals to weigh one by one.
    """

    def __init__(
        self, manifest: Manifest, schemes: Sequence[Scheme], limits: Limits | None = None, top: int = 10
    ) -> None:
        self._manifest, self._schemes, self._top = manifest, tuple(schemes), top
        self._selector = Selector(manifest, schemes, limits)
        self._streams: dict[tuple[str, int], _Pile] = {}
        self._stream_bytes: Counter[str] = Counter()
        self._alone: dict[int, _Pile] = {i: _Pile() for i in range(len(schemes))}
        self._alone_bytes: Counter[int] = Counter()
        self._items: Counter[tuple[int, str]] = Counter()
        self._signals: Counter[int] = Counter()
        self._signal_bytes: Counter[int] = Counter()
        self._outcomes = np.zeros(len(OUTCOMES), np.int64)
        self._first_ns: int | None = None
        self._now_ns = self._frames = self._batches = self._elapsed_ns = 0

    def run(self, frames: Iterable[FrameBatch]) -> None:
        """Take in a whole log."""
        for batch in frames:
            if not len(batch):
                continue
            now = int(batch.timestamp_ns.max())
            step = now - (int(batch.timestamp_ns.min()) if self._first_ns is None else self._now_ns)
            self._elapsed_ns += max(0, step)
            self._first_ns = self._first_ns or int(batch.timestamp_ns.min())
            self._now_ns = now
            self._frames += len(batch)
            self._take(self._selector.feed(batch, now))
        self._take(self._selector.flush(self._now_ns))
        self._close(everything=True)

    def report(self, hours_per_day: float = 24.0) -> CostReport:
        """The sums so far."""
        seconds = self._elapsed_ns / _NS
        hours = seconds / 3600
        per_hour = 1 / hours if hours else 0.0
        total = sum(self._stream_bytes.values())
        states = self._selector.scheme_states(self._now_ns)
        schemes = tuple(
            SchemeCost(
                scheme.id,
                self._items[i, "samples"],
                self._items[i, "frames"],
                self._items[i, "events"],
                states[i].triggers,
                self._alone_bytes[i],
                self._alone_bytes[i] * per_hour,
            )
            for i, scheme in enumerate(self._schemes)
        )
        names = self._manifest.signal_names
        ranked = sorted(self._signal_bytes.items(), key=lambda item: -item[1])[: self._top]
        return CostReport(
            seconds=seconds,
            frames=self._frames,
            outcomes=dict(zip(OUTCOMES, self._outcomes.tolist(), strict=True)),
            batches=self._batches,
            samples=sum(self._signals.values()),
            total_bytes=total,
            bytes_per_hour=total * per_hour,
            bytes_per_day=total * per_hour * hours_per_day,
            hours_per_day=hours_per_day,
            streams=dict(self._stream_bytes),
            schemes=schemes,
            signals=tuple(SignalCost(names[s], self._signals[s], size) for s, size in ranked),
        )

    def _take(self, collected: Collected) -> None:
        self._outcomes += collected.counts.sum(axis=0)
        for block in collected.blocks:
            if block.scheme >= 0:
                _add(self._alone[block.scheme], block, self._now_ns)
                self._items[block.scheme, "samples"] += len(block.samples)
                self._items[block.scheme, "frames"] += len(block.frames)
                self._items[block.scheme, "events"] += len(block.events)
            key = (stream_name(block.priority, block.upload), block.resolution_ns)
            _add(self._streams.setdefault(key, _Pile()), block, self._now_ns)
        self._close(everything=False)

    def _close(self, *, everything: bool) -> None:
        for (stream, _), pile in self._streams.items():
            if self._is_full(pile, everything):
                blocks = pile.take()
                self._stream_bytes[stream] += self._weigh(blocks)
                self._batches += 1
                self._weigh_signals(blocks)
        for scheme, pile in self._alone.items():
            if self._is_full(pile, everything):
                self._alone_bytes[scheme] += self._weigh(pile.take())

    def _is_full(self, pile: _Pile, everything: bool) -> bool:
        if not pile.blocks:
            return False
        age = self._now_ns - pile.since_ns
        return everything or age < 0 or age >= BATCH_S[pile.blocks[0].priority] * _NS

    def _weigh(self, blocks: list[SelectedBlock]) -> int:
        return self._size(
            blocks[0],
            SampleBlock.concatenate([b.samples for b in blocks]),
            FrameBatch.concatenate([b.frames for b in blocks]),
            [event for b in blocks for event in b.events],
        )

    def _weigh_signals(self, blocks: list[SelectedBlock]) -> None:
        """Weigh the signals with most samples one by one; the others cannot be among the dearest."""
        samples = SampleBlock.concatenate([b.samples for b in blocks])
        numbers, counts = np.unique(samples.signal, return_counts=True)
        self._signals.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
        for signal in numbers[np.argsort(-counts, kind="stable")][: 3 * self._top].tolist():
            mine = samples.signal == signal
            rows, row = np.unique(samples.row[mine], return_inverse=True)
            one = SampleBlock(
                samples.row_timestamp_ns[rows],
                samples.row_message[rows],
                row.astype(np.int32),
                samples.signal[mine],
                samples.raw[mine],
                samples.quality[mine],
            )
            self._signal_bytes[signal] += self._size(blocks[0], one, None, ())

    def _size(
        self, like: SelectedBlock, samples: SampleBlock, frames: FrameBatch | None, events: Sequence[Event]
    ) -> int:
        schemes = [(self._schemes[like.scheme].id, self._schemes[like.scheme].version)] if like.scheme >= 0 else []
        return len(
            encode_batch(
                stream=f"{'0' * 16}/{stream_name(like.priority, like.upload)}",
                sequence=1,
                items_before=0,
                manifest_hash=self._manifest.hash,
                created_ns=self._now_ns,
                resolution_ns=like.resolution_ns,
                schemes=schemes,
                samples=samples,
                frames=frames,
                events=events,
            )
        )


def _add(pile: _Pile, block: SelectedBlock, now_ns: int) -> None:
    if not pile.blocks:
        pile.since_ns = now_ns
    pile.blocks.append(block)
