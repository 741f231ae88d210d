"""One value that is replaced whole: two files written in turn, the newer sound one counts.

A write that a power cut tears harms only the older of the two. The files keep their size once grown, so that on a full
disk replacing the value needs no new room.
"""

from __future__ import annotations

import struct
import zlib

from gateway.spool.ports import Disk

MAGIC = b"OSC\x01"
#: magic, checksum of all that follows, counter, value bytes.
_HEAD = struct.Struct("<4sIQI")
_CHECKED_FROM = 8
#: Written out at creation, so that values up to this size never need room; larger ones make the file grow.
RESERVED_BYTES = 32 * 1024
MAX_VALUE_BYTES = 16 * 1024 * 1024


class TwoSlots:
    """Files ``<name>.0`` and ``<name>.1`` on a disk."""

    def __init__(self, disk: Disk, name: str) -> None:
        self._disk = disk
        self._names = (f"{name}.0", f"{name}.1")
        self._files = [disk.open(n) for n in self._names]
        self._sizes = [disk.size(n) for n in self._names]
        for i, size in enumerate(self._sizes):
            if size < RESERVED_BYTES:
                self._files[i].write_at(size, bytes(RESERVED_BYTES - size))
                self._files[i].sync()
                self._sizes[i] = RESERVED_BYTES
                disk.sync()
        found = [self._read(i) for i in range(2)]
        counters = [f[0] if f else -1 for f in found]
        self._newest = 0 if counters[0] >= counters[1] else 1
        newest = found[self._newest]
        self.counter: int = newest[0] if newest else 0
        self.value: bytes | None = newest[1] if newest else None
        if newest is None:
            self._newest = 1

    def _read(self, slot: int) -> tuple[int, bytes] | None:
        raw = self._disk.read(self._names[slot], 0, min(self._sizes[slot], _HEAD.size + MAX_VALUE_BYTES))
        if len(raw) < _HEAD.size:
            return None
        magic, checksum, counter, size = _HEAD.unpack_from(raw)
        end = _HEAD.size + size
        if magic != MAGIC or end > len(raw) or zlib.crc32(raw[_CHECKED_FROM:end]) != checksum:
            return None
        return counter, raw[_HEAD.size : end]

    def replace(self, value: bytes) -> None:
        """Durable on return. ``OSError`` leaves the value before."""
        slot = 1 - self._newest
        counter = self.counter + 1
        checked = _HEAD.pack(MAGIC, 0, counter, len(value))[_CHECKED_FROM:] + value
        raw = MAGIC + zlib.crc32(checked).to_bytes(4, "little") + checked
        if len(raw) > self._sizes[slot]:
            grown = 2 * len(raw)
            raw_and_room = raw + bytes(grown - len(raw))
            self._files[slot].write_at(0, raw_and_room)
            self._sizes[slot] = grown
        else:
            self._files[slot].write_at(0, raw)
        self._files[slot].sync()
        self._newest, self.counter, self.value = slot, counter, value

    def close(self) -> None:
        """Close both files."""
        for file in self._files:
            file.close()
