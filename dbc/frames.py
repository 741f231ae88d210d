"""Frames in batches: a structure of arrays, never an object per frame.

``FrameBatch`` is what sources produce, decoders read and logs hold. It knows nothing of sockets, files or DBCs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Bits of ``FrameBatch.flags``.
EXTENDED, REMOTE, ERROR, FD, BRS, ESI = 1, 2, 4, 8, 16, 32

MAX_LENGTH = 64
CLASSIC_LENGTH = 8


@dataclass(frozen=True, slots=True, eq=False)
class FrameBatch:
    """``n`` frames as equally long arrays, in order of reception.

    Attributes:
        timestamp_ns: int64[n], UTC nanoseconds since the epoch, as the source stamped them.
        bus: uint8[n], index of the bus in the reader's list of bus names.
        can_id: uint32[n], the 11- or 29-bit identifier without flag bits; of an error frame its error class bits.
        flags: uint8[n], ``EXTENDED | REMOTE | ERROR | FD | BRS | ESI``.
        length: uint8[n], payload bytes 0..64 (not the DLC code); of a remote frame the length asked for.
        data: uint8[n, 64], payload, zero past ``length``.
    """

    timestamp_ns: NDArray[np.int64]
    bus: NDArray[np.uint8]
    can_id: NDArray[np.uint32]
    flags: NDArray[np.uint8]
    length: NDArray[np.uint8]
    data: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.timestamp_ns)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> FrameBatch:
        """The frames chosen by an index array, a mask or a slice (a slice shares memory)."""
        return FrameBatch(
            self.timestamp_ns[index],
            self.bus[index],
            self.can_id[index],
            self.flags[index],
            self.length[index],
            self.data[index],
        )

    @staticmethod
    def empty(count: int = 0) -> FrameBatch:
        """``count`` zeroed frames, for a writer to fill."""
        return FrameBatch(
            np.zeros(count, np.int64),
            np.zeros(count, np.uint8),
            np.zeros(count, np.uint32),
            np.zeros(count, np.uint8),
            np.zeros(count, np.uint8),
            np.zeros((count, MAX_LENGTH), np.uint8),
        )

    @staticmethod
    def concatenate(batches: Sequence[FrameBatch]) -> FrameBatch:
        """All frames of ``batches`` in the order given."""
        if not batches:
            return FrameBatch.empty()
        return FrameBatch(
            np.concatenate([b.timestamp_ns for b in batches]),
            np.concatenate([b.bus for b in batches]),
            np.concatenate([b.can_id for b in batches]),
            np.concatenate([b.flags for b in batches]),
            np.concatenate([b.length for b in batches]),
            np.concatenate([b.data for b in batches]),
        )

    @staticmethod
    def from_rows(rows: Sequence[tuple[int, int, int, int, bytes]]) -> FrameBatch:
        """From ``(timestamp_ns, bus, can_id, flags, payload)`` rows; for tests and slow sources.

        Raises:
            ValueError: a payload is longer than 64 bytes.
        """
        batch = FrameBatch.empty(len(rows))
        for i, (timestamp_ns, bus, can_id, flags, payload) in enumerate(rows):
            if len(payload) > MAX_LENGTH:
                raise ValueError(f"payload of {len(payload)} bytes, at most {MAX_LENGTH}")
            batch.timestamp_ns[i] = timestamp_ns
            batch.bus[i] = bus
            batch.can_id[i] = can_id
            batch.flags[i] = flags
            batch.length[i] = len(payload)
            batch.data[i, : len(payload)] = np.frombuffer(payload, np.uint8)
        return batch
