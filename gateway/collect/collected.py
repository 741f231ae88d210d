"""What the selector hands on, and the per-bus outcome of every frame it was fed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dbc.decode import Decoded
from dbc.frames import FrameBatch
from gateway.wire.batch import Priority, UploadRule
from gateway.wire.samples import Event, SampleBlock

#: Columns of ``Collected.counts``.
NOT_SELECTED, UNDECODABLE, ERRORS, SELECTED, HELD = range(5)
OUTCOMES = ("not_selected", "undecodable", "errors", "selected", "held")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedBlock:
    """What one scheme selected in one call. ``scheme`` is -1 for events of the vehicle itself."""

    scheme: int  # index in Selector.schemes
    priority: Priority
    upload: UploadRule
    resolution_ns: int
    samples: SampleBlock = field(default_factory=SampleBlock.empty)
    frames: FrameBatch = field(default_factory=FrameBatch.empty)
    events: tuple[Event, ...] = ()

    @property
    def items(self) -> int:
        """Samples, raw frames and events."""
        return len(self.samples) + len(self.frames) + len(self.events)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The result of one call.

    Attributes:
        blocks: in scheme order; none is empty.
        counts: int64[buses, 5], how many frames of each bus moved into (or, for ``HELD``, out of) each outcome. Summed
            over all calls, each row adds up to the frames of that bus fed so far.
        over_budget_items: items that would have been selected had the budget not been short.
    """

    blocks: tuple[SelectedBlock, ...]
    counts: NDArray[np.int64]
    over_budget_items: int = 0

    @property
    def items(self) -> int:
        """Of all blocks."""
        return sum(block.items for block in self.blocks)


def block_of(
    decoded: Decoded, time_ns: NDArray[np.int64], sample: NDArray[np.intp], quality: NDArray[np.uint8] | None
) -> SampleBlock:
    """The samples at ``sample`` (ascending) as a block; ``quality`` belongs to them, None for all good."""
    frame = decoded.frame.take(sample)
    new = np.empty(len(frame), np.bool_)
    new[:1] = False
    np.not_equal(frame[1:], frame[:-1], out=new[1:])
    row = np.cumsum(new, dtype=np.int32)
    new[:1] = True
    rows = frame.compress(new)
    return SampleBlock(
        time_ns.take(rows),
        decoded.message.take(rows),
        row,
        decoded.signal.take(sample),
        decoded.raw.take(sample),
        np.zeros(len(sample), np.uint8) if quality is None else quality,
    )
