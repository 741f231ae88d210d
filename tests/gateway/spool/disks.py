"""A disk in memory that behaves like a real one at its worst: it fills up, fails, and forgets what was not synced."""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field


@dataclass
class Inode:
    """A file's content, and what of it a power cut would leave."""

    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    operations: list[tuple[int, bytes | None]] = field(default_factory=list)  # since the last sync; None truncates

    def apply(self, content: bytearray, operation: tuple[int, bytes | None]) -> None:
        at, data = operation
        if data is None:
            del content[at:]
            content.extend(bytes(at - len(content)))
        else:
            content.extend(bytes(max(0, at + len(data) - len(content))))
            content[at : at + len(data)] = data


class MemoryFile:
    """The ``File`` port."""

    def __init__(self, disk: MemoryDisk, inode: Inode) -> None:
        self._disk, self._inode = disk, inode

    def _do(self, operation: tuple[int, bytes | None]) -> None:
        self._inode.apply(self._inode.content, operation)
        self._inode.operations.append(operation)

    def write_at(self, offset: int, content: bytes) -> None:
        self._disk.may_fail("write")
        grows = max(0, offset + len(content) - len(self._inode.content))
        free = self._disk.free_bytes()
        if grows > free:
            fits = max(0, len(content) - (grows - free))
            if fits:
                self._do((offset, content[:fits]))
            raise OSError(errno.ENOSPC, "disk full")
        self._do((offset, bytes(content)))

    def truncate(self, size: int) -> None:
        self._disk.may_fail("truncate")
        self._do((size, None))

    def sync(self) -> None:
        self._disk.may_fail("sync")
        self._inode.durable, self._inode.operations = bytes(self._inode.content), []

    def close(self) -> None:
        pass


class MemoryDisk:
    """The ``Disk`` port. ``capacity_bytes`` bounds all files together; ``failures`` maps an operation to the number of
    calls until it fails, and an errno."""

    def __init__(self, capacity_bytes: int = 1 << 40) -> None:
        self.capacity_bytes = capacity_bytes
        self.files: dict[str, Inode] = {}
        self._durable_names: dict[str, Inode] = {}
        self.failures: dict[str, tuple[int, int]] = {}
        self.is_open = True

    def may_fail(self, operation: str) -> None:
        if operation in self.failures:
            left, number = self.failures[operation]
            if left == 0:
                del self.failures[operation]
                raise OSError(number, f"{operation} fails")
            self.failures[operation] = (left - 1, number)

    def free_bytes(self) -> int:
        return self.capacity_bytes - sum(len(inode.content) for inode in self.files.values())

    def names(self) -> list[str]:
        return sorted(self.files)

    def size(self, name: str) -> int:
        return len(self.files[name].content)

    def read(self, name: str, offset: int, size: int) -> bytes:
        self.may_fail("read")
        return bytes(self.files[name].content[offset : offset + size])

    def open(self, name: str) -> MemoryFile:
        self.may_fail("open")
        return MemoryFile(self, self.files.setdefault(name, Inode()))

    def remove(self, name: str) -> None:
        self.may_fail("remove")
        self.files.pop(name, None)

    def sync(self) -> None:
        self.may_fail("sync")
        self._durable_names = dict(self.files)

    def close(self) -> None:
        self.is_open = False

    def after_kill(self) -> MemoryDisk:
        """What the next process finds after kill -9: everything written."""
        other = MemoryDisk(self.capacity_bytes)
        other.files, other._durable_names = self.files, self._durable_names
        return other

    def after_power_cut(self, chance: random.Random) -> MemoryDisk:
        """What the next boot finds: what was synced, and of the rest any part, in any order, the last one torn."""
        names = dict(self._durable_names)
        for name in sorted(set(self.files) | set(names)):
            if self.files.get(name) is not names.get(name) and chance.random() < 0.5:
                if name in self.files:
                    names[name] = self.files[name]
                else:
                    del names[name]
        other = MemoryDisk(self.capacity_bytes)
        for name, inode in names.items():
            content = bytearray(inode.durable)
            mode = chance.choice(("nothing", "prefix", "any"))
            kept = [] if mode == "nothing" else inode.operations
            if mode == "prefix":
                kept = kept[: chance.randint(0, len(kept))]
            elif mode == "any":
                kept = [o for o in kept if chance.random() < 0.7]
            for i, (at, data) in enumerate(kept):
                torn = data is not None and i == len(kept) - 1 and chance.random() < 0.5
                part = data[: chance.randint(0, len(data))] if torn and data is not None else data
                inode.apply(content, (at, part))
            other.files[name] = Inode(content, bytes(content))
        other._durable_names = dict(other.files)
        return other
