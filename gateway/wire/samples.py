"""What a batch holds once decoded: samples as arrays, raw frames, and events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

#: Bits of ``SampleBlock.quality``; 0 is a good value.
BAD_CHECKSUM, BAD_COUNTER, STALE, OUT_OF_RANGE = 1, 2, 4, 8


@dataclass(frozen=True, slots=True, eq=False)
class SampleBlock:
    """``r`` rows (one per frame that gave a sample) and ``k`` samples pointing into them.

    Attributes:
        row_timestamp_ns: int64[r], UTC ns.
        row_message: int32[r], message numbers of the manifest.
        row: int32[k], the row each sample belongs to.
        signal: int32[k], signal numbers of the manifest.
        raw: int64[k], raw integers; unsigned 64-bit and float signals as their bit pattern.
        quality: uint8[k], 0 or a combination of the bits above.

    Rows are in order of reception; samples are ordered by row, then by signal number.
    """

    row_timestamp_ns: NDArray[np.int64]
    row_message: NDArray[np.int32]
    row: NDArray[np.int32]
    signal: NDArray[np.int32]
    raw: NDArray[np.int64]
    quality: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.signal)

    @staticmethod
    def empty() -> SampleBlock:
        """No rows, no samples."""
        return SampleBlock(
            np.zeros(0, np.int64),
            np.zeros(0, np.int32),
            np.zeros(0, np.int32),
            np.zeros(0, np.int32),
            np.zeros(0, np.int64),
            np.zeros(0, np.uint8),
        )

    @staticmethod
    def concatenate(blocks: Sequence[SampleBlock]) -> SampleBlock:
        """One block with the rows and samples of all, in the order given."""
        if not blocks:
            return SampleBlock.empty()
        firsts = np.cumsum([0, *(len(b.row_timestamp_ns) for b in blocks[:-1])])
        return SampleBlock(
            np.concatenate([b.row_timestamp_ns for b in blocks]),
            np.concatenate([b.row_message for b in blocks]),
            np.concatenate([b.row + np.int32(first) for b, first in zip(blocks, firsts, strict=True)]),
            np.concatenate([b.signal for b in blocks]),
            np.concatenate([b.raw for b in blocks]),
            np.concatenate([b.quality for b in blocks]),
        )


class EventKind(StrEnum):
    """What happened besides a value."""

    TRIGGER = "trigger"  # a scheme's condition fired; source is the scheme
    TIMEOUT = "timeout"  # a message that should come did not; source is bus.message
    RECOVERED = "recovered"  # it came again
    BUS_OFF = "bus_off"  # source is the bus
    BUS_UP = "bus_up"
    BUS_DOWN = "bus_down"
    BUS_ERROR = "bus_error"  # error frames seen; detail holds class and count
    CLOCK_JUMP = "clock_jump"  # detail holds the step in ns
    FRAMES_LOST = "frames_lost"  # kernel drops; detail holds the count
    BUDGET = "budget"  # the degradation level changed; detail holds the new one
    DTC = "dtc"  # source is the ECU, detail the JSON of ``gateway.wire.dtc.DtcReport``
    AUDIT = "audit"  # a decision about diagnostics; detail is JSON of a record of the audit log
    INTRUSION = "intrusion"  # the CAN firewall refused frames; source is the bus, detail tells rule and counts


class Event(msgspec.Struct, frozen=True, array_like=True):
    """One event; ``detail`` is short text for people, or JSON where the kind says so."""

    timestamp_ns: int
    kind: EventKind
    source: str
    detail: str = ""
