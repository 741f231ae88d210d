"""The fault memory on disk: survives kill -9 and power cuts, never keeps the gateway from starting.

One generation is one file, ``memory-<number>``: a head, a record with the whole memory, then records with what changed.
A record is written and synced before it is told to anybody. Loading takes the newest generation whose first record is
sound, applies what follows, steps over damage and counts it, and begins a new generation: nothing is ever appended to
a file that an earlier process left. The generation before is kept until then, for disks that lose a file.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from gateway.dtc.memory import MemoryImage
from gateway.dtc.model import DtcState
from gateway.spool.ports import Disk, File

MAGIC = b"ODT\x01"
#: magic, sequence, bytes of the body, checksum of sequence, length and body.
_HEAD = struct.Struct("<4sQII")
_NAME = re.compile(r"memory-(\d{16})")
MAX_BODY_BYTES = 16 * 1024 * 1024
KEPT_GENERATIONS = 2
#: A generation begins anew when its journal has grown to this.
COMPACT_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was found on disk. ``damaged_bytes`` could not be read, ``skipped_generations`` had no sound beginning."""

    image: MemoryImage | None
    damaged_bytes: int = 0
    skipped_generations: int = 0


def encode_record(sequence: int, image: MemoryImage) -> bytes:
    """One record.

    Raises:
        ValueError: larger than a reader accepts.
    """
    body = msgspec.msgpack.encode(image)
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"fault memory of {len(body)} bytes")
    checked = struct.pack("<QI", sequence, len(body)) + body
    return _HEAD.pack(MAGIC, sequence, len(body), zlib.crc32(checked)) + body


def decode_records(content: bytes) -> Iterator[tuple[int, int, MemoryImage]]:
    """The sound records of a file as (offset, end, image), in ascending sequence; what lies between is stepped over."""
    at, last = 0, -1
    while (at := content.find(MAGIC, at)) >= 0:
        record = _decode(content, at)
        if record is None or record[0] <= last:
            at += 1
            continue
        last, end, image = record
        yield at, end, image
        at = end


def _decode(content: bytes, at: int) -> tuple[int, int, MemoryImage] | None:
    if at + _HEAD.size > len(content):
        return None
    _, sequence, size, checksum = _HEAD.unpack_from(content, at)
    end = at + _HEAD.size + size
    if size > MAX_BODY_BYTES or end > len(content):
        return None
    body = content[at + _HEAD.size : end]
    if zlib.crc32(struct.pack("<QI", sequence, size) + body) != checksum:
        return None
    try:
        return sequence, end, msgspec.msgpack.decode(body, type=MemoryImage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # of another version, with a sound checksum
        return None


def merge(base: MemoryImage, newer: MemoryImage) -> MemoryImage:
    """The whole memory after a journal record."""
    states: dict[int, DtcState] = {s.code: s for s in base.states}
    states.update((s.code, s) for s in newer.states)
    return msgspec.structs.replace(newer, states=tuple(states[c] for c in sorted(states)))


class MemoryStore:
    """One fault memory in one directory. Not for several threads at once. ``OSError`` of the disk comes through."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._file: File | None = None
        self._offset = 0
        self._sequence = 0
        self._whole: MemoryImage | None = None
        self._generation = max(self._generations(), default=0)

    def load(self) -> Loaded:
        """What was stored last. Never raises for what files contain.

        Raises:
            OSError: the disk cannot be read.
        """
        skipped = 0
        for generation in sorted(self._generations(), reverse=True):
            name = _name(generation)
            content = self._disk.read(name, 0, self._disk.size(name))
            image, at, damaged = None, 0, 0
            for start, end, record in decode_records(content):
                if image is None and start != 0:
                    break  # the whole memory is missing; the generation before has it
                image = record if image is None else merge(image, record)
                damaged, at = damaged + start - at, end
            if image is not None:
                self._whole = image
                return Loaded(image=image, damaged_bytes=damaged + len(content) - at, skipped_generations=skipped)
            skipped += 1
        return Loaded(image=None, skipped_generations=skipped)

    def save(self, image: MemoryImage) -> None:
        """Store what changed, durably. The first call of a process must be given the whole memory.

        Raises:
            OSError: not stored; the next ``save`` begins a new file with all that was given so far.
        """
        self._whole = image if self._whole is None else merge(self._whole, image)
        if self._file is None or self._offset > COMPACT_BYTES:
            self._begin(self._whole)
            return
        self._sequence += 1
        record = encode_record(self._sequence, image)
        try:
            self._file.write_at(self._offset, record)
            self._file.sync()
        except OSError:
            self._abandon()
            raise
        self._offset += len(record)

    def replace(self, image: MemoryImage) -> None:
        """Store the whole memory; DTCs that are not in it are gone.

        Raises:
            OSError: not stored.
        """
        self._whole = image
        self._begin(image)

    def close(self) -> None:
        """Let others have the directory."""
        self._abandon()
        self._disk.close()

    def _begin(self, image: MemoryImage) -> None:
        """A new generation; the one before stays as long as it is not certain."""
        self._abandon()
        self._generation += 1
        name, record = _name(self._generation), encode_record(0, image)
        file = self._disk.open(name)
        try:
            file.truncate(0)
            file.write_at(0, record)
            file.sync()
            self._disk.sync()
        except OSError:
            file.close()
            with contextlib.suppress(OSError):
                self._disk.remove(name)  # retries on a full disk must not leave a file each
            raise
        self._file, self._offset, self._sequence = file, len(record), 0
        for old in sorted(self._generations())[:-KEPT_GENERATIONS]:
            self._disk.remove(_name(old))

    def _abandon(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _generations(self) -> list[int]:
        return [int(match[1]) for name in self._disk.names() if (match := _NAME.fullmatch(name))]


def _name(generation: int) -> str:
    return f"memory-{generation:016d}"
