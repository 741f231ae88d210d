"""QEMU's log of every write to a disk (``blklogwrites``, the format of dm-log-writes), and the disks cuts leave."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_ENTRY = struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD = 1, 2, 4
SECTOR_BYTES = 512


@dataclass(frozen=True)
class Write:
    """One request as the disk got it. Those between two flushes may land in any order."""

    offset: int
    data: bytes
    is_flush: bool


def read_log(path: Path) -> list[Write]:
    """All requests so far; may be called while the machine runs."""
    found: list[Write] = []
    with open(path, "rb") as file:
        place = SECTOR_BYTES  # behind a head that QEMU writes at the first flush only
        while True:
            file.seek(place)
            head = file.read(_ENTRY.size)
            if len(head) < _ENTRY.size or head == bytes(_ENTRY.size):
                return found
            sector, sectors, flags, _ = _ENTRY.unpack(head)
            file.seek(place + SECTOR_BYTES)
            data = b"" if flags & _DISCARD else file.read(sectors * SECTOR_BYTES)
            found.append(Write(sector * SECTOR_BYTES, data, bool(flags & _FLUSH)))
            place += SECTOR_BYTES + len(data)


def within(writes: Sequence[Write], offset: int, length: int) -> list[Write]:
    """Those that touch a part of the disk, cut to it, with offsets in it."""
    found = []
    for write in writes:
        start, end = max(write.offset, offset), min(write.offset + len(write.data), offset + length)
        if start < end:
            found.append(Write(start - offset, write.data[start - write.offset : end - write.offset], write.is_flush))
    return found


def cuts(start: bytes, writes: Sequence[Write]) -> Iterator[tuple[int, str, bytes]]:
    """Contents of the part of a disk after a cut at each write: before it, after it, and torn in it.

    Torn: the first n sectors landed, only sector n landed, all but sector n landed.

    Yields:
        The write's number, what landed of it, the content.
    """
    content = bytearray(start)
    yield 0, "nothing", bytes(content)
    for number, write in enumerate(writes):
        sectors = range(0, len(write.data), SECTOR_BYTES)
        for n in sectors[1:]:
            yield number, f"the first {n // SECTOR_BYTES} sectors", _landed(content, write, range(0, n, SECTOR_BYTES))
        for n in sectors:
            yield number, f"only sector {n // SECTOR_BYTES}", _landed(content, write, (n,))
            others = [other for other in sectors if other != n]
            yield number, f"all but sector {n // SECTOR_BYTES}", _landed(content, write, others)
        content[write.offset : write.offset + len(write.data)] = write.data
        yield number, "all", bytes(content)


def _landed(content: bytearray, write: Write, sectors: Sequence[int]) -> bytes:
    made = bytearray(content)
    for n in sectors:
        piece = write.data[n : n + SECTOR_BYTES]
        made[write.offset + n : write.offset + n + len(piece)] = piece
    return bytes(made)
