"""A delta file that is applied segment by segment, in bounded memory whatever the size of the images.

``DeltaFile`` makes segments and proves each by its SHA-256; it writes nothing and keeps no state between segments, so
the caller may begin with any of them, in any order, again after a power cut. Before it writes the first one it calls
``check_base``. All of this blocks: run it in a worker thread.

The file itself has been verified as a target before it comes here. It is read as if it had not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Protocol

from gateway.delta.errors import DamagedDelta, WrongBase
from gateway.wire.delta import (
    FIXED_BYTES,
    DeltaFormatError,
    DeltaHeader,
    SegmentRecord,
    header_length,
    output,
    plan_segment,
)

#: Bytes from an offset, fewer at the end: ``BlockFile.read_at``.
ReadAt = Callable[[int, int], bytes]
#: Told now and then: bytes done, bytes in all.
Progress = Callable[[int, int], None]

CHUNK_BYTES = 1024 * 1024


class Base(Protocol):
    """Where the base image is: a slot or a file that may be longer than the image. A ``BlockFile`` is one."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``; fewer at the end. Raises ``OSError``."""


def _nothing(done: int, total: int) -> None:
    """No one wants to know."""


class DeltaFile:
    """A delta whose header has been checked. ``header`` tells base, target and segments."""

    def __init__(self, read_at: ReadAt, header: DeltaHeader) -> None:
        self._read_at = read_at
        self.header = header

    @classmethod
    def open(cls, read_at: ReadAt, length: int) -> DeltaFile:
        """Read and check the header.

        Args:
            read_at: reads the delta file; kept and used by ``segment``.
            length: of the delta file, bytes.

        Raises:
            DamagedDelta: no delta, truncated, of a newer format, or beyond the limits.
            OSError: from ``read_at``.
        """
        try:
            size = header_length(read_at(0, min(FIXED_BYTES, length)))
            if size > length:
                raise DeltaFormatError("delta ends within its header")
            return cls(read_at, DeltaHeader(read_at(0, size), length))
        except DeltaFormatError as error:
            raise DamagedDelta(str(error)) from error

    def __len__(self) -> int:
        """How many segments there are."""
        return len(self.header)

    def record(self, index: int) -> SegmentRecord:
        """Where a segment goes to, and what it must be. Raises ``IndexError``."""
        return self.header.segment(index)

    def check_base(self, base: Base, progress: Progress = _nothing) -> None:
        """Read the whole base and compare it with what the delta was made from. To be done before the first write.

        Raises:
            WrongBase: it is another one, or shorter.
            OSError: it cannot be read.
        """
        total = self.header.base_length
        state, done = hashlib.sha256(), 0
        while done < total:
            piece = base.read_at(done, min(CHUNK_BYTES, total - done))
            if not piece:
                raise WrongBase(f"the base has {done} bytes, the delta was made from {total}")
            state.update(piece)
            done += len(piece)
            progress(done, total)
        if state.digest() != self.header.base_sha256:
            raise WrongBase(f"SHA-256 of the base is {state.hexdigest()}, not {self.header.base_sha256.hex()}")

    def segment(self, index: int, base: Base) -> bytes:
        """Make one segment of the target.

        Raises:
            DamagedDelta: the delta or the base is damaged; nothing of it may be used.
            IndexError: there is no such segment.
            OSError: the delta or the base cannot be read.
        """
        record = self.header.segment(index)
        try:
            payload = self._read_at(record.payload_offset, record.payload_bytes) if record.payload_bytes else b""
            plan = plan_segment(record, payload, self.header.base_length)
            reference = bytearray()
            for window in plan.windows:
                reference += base.read_at(window.offset, window.length)
            return output(plan, reference)
        except DeltaFormatError as error:
            raise DamagedDelta(f"segment {index}: {error}") from error

    def segments(self, base: Base, *, start: int = 0, progress: Progress = _nothing) -> Iterator[tuple[int, bytes]]:
        """(offset in the target, content) of each segment from number ``start`` on. Raises as ``segment``."""
        for index in range(start, len(self)):
            record = self.header.segment(index)
            yield record.output_offset, self.segment(index, base)
            progress(record.output_offset + record.output_bytes, self.header.target_length)
