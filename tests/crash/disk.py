"""A disk that can lose power: ``CrashFiles`` implements ``bootctl.files.Files`` in memory and knows what is durable.

Use: do some work on a ``CrashFiles``, then walk ``crash_states(files)``. It yields the disk as a power cut could have
left it, for every prefix of the calls made and for reorderings of what was not yet synced; each is a fresh
``CrashFiles`` to boot from::

    disk = CrashFiles()
    disk.add_device(Path("/dev/slot-b"), 65536)
    start = disk.snapshot()
    work(disk)
    for state in crash_states(start, disk.log):
        recover(state.files)

What the model allows, since POSIX does: until a file is synced each single write since its last sync may be lost,
whole, torn between any two sectors, or there in length but not in content (zeros); in any combination. Until a folder
is synced each change of its names may be lost, in any combination; a rename is atomic.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512


class PowerCut(BaseException):
    """The power went; no handler of ours may keep the work going."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that changes the disk. ``file`` numbers files, which outlive their names."""

    kind: str  # "write", "truncate", "sync", "make", "rename", "remove", "sync_directory"
    path: Path
    file: int = -1
    offset: int = 0
    data: bytes = b""
    length: int = 0
    target: Path | None = None

    def __str__(self) -> str:
        detail = {"write": f" {self.offset}+{len(self.data)}", "truncate": f" to {self.length}"}.get(self.kind, "")
        return f"{self.kind} {self.path}{detail}" + (f" -> {self.target}" if self.target else "")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is durable: names and contents."""

    names: Mapping[Path, int]
    contents: Mapping[int, bytes]
    devices: frozenset[int]
    directories: frozenset[Path]


@dataclass(slots=True)
class _File:
    number: int
    content: bytearray
    is_device: bool = False


@dataclass(slots=True)
class CrashFiles:
    """See the module. Not for several threads at once, but each call is whole."""

    capacity_bytes: int = 1 << 40
    names: dict[Path, _File] = field(default_factory=dict)
    directories: set[Path] = field(default_factory=lambda: {Path("/")})
    log: list[Call] = field(default_factory=list)
    in_use: set[Path] = field(default_factory=set)  # devices that ``exclusive`` is refused for
    #: Called before each change with the call and its number; may raise ``PowerCut`` or ``OSError``.
    before: Callable[[int, Call], None] | None = None
    #: Paths whose reads give this error (a broken device).
    broken: dict[Path, int] = field(default_factory=dict)
    _next: int = 0

    def add_device(self, path: Path, size: int, content: bytes = b"") -> None:
        """A block device of fixed size, durable from the start."""
        self.directories.update(path.parents)
        self.names[path] = _File(self._number(), bytearray(content.ljust(size, b"\0")), is_device=True)

    def add_file(self, path: Path, content: bytes) -> None:
        """A file that is durable from the start."""
        self.directories.update(path.parents)
        self.names[path] = _File(self._number(), bytearray(content))

    def snapshot(self) -> Snapshot:
        """Everything as it is, taken as durable."""
        return Snapshot(
            {path: file.number for path, file in self.names.items()},
            {file.number: bytes(file.content) for file in self.names.values()},
            frozenset(file.number for file in self.names.values() if file.is_device),
            frozenset(self.directories),
        )

    @classmethod
    def of(cls, snapshot: Snapshot) -> CrashFiles:
        """A disk with that on it."""
        made = cls(directories=set(snapshot.directories))
        files = {n: _File(n, bytearray(c), n in snapshot.devices) for n, c in snapshot.contents.items()}
        made.names = {path: files[number] for path, number in snapshot.names.items()}
        made._next = max(files, default=-1) + 1
        return made

    def _number(self) -> int:
        self._next += 1
        return self._next - 1

    def _note(self, call: Call) -> None:
        if self.before is not None:
            self.before(len(self.log), call)
        self.log.append(call)

    def _file(self, path: Path) -> _File:
        if path in self.broken:
            raise OSError(self.broken[path], "broken", str(path))
        try:
            return self.names[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path)) from None

    def _make(self, path: Path) -> _File:
        if path.parent not in self.directories:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        file = _File(self._number(), bytearray())
        self._note(Call("make", path, file.number))
        self.names[path] = file
        return file

    def _write(self, path: Path, file: _File, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if end > len(file.content):
            room = 0 if file.is_device else self.free_bytes(path)
            if end - len(file.content) > room:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        self._note(Call("write", path, file.number, offset, data))
        if end > len(file.content):
            file.content.extend(bytes(end - len(file.content)))
        file.content[offset:end] = data

    # the port

    def open(self, path: Path, *, create: bool = False, exclusive: bool = False) -> _Open:
        """See ``Files``."""
        if exclusive and path in self.in_use:
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        if create and path not in self.names:
            self._make(path)
        return _Open(self, path, self._file(path))

    def read(self, path: Path) -> bytes:
        """See ``Files``."""
        return bytes(self._file(path).content)

    def write(self, path: Path, content: bytes) -> None:
        """See ``Files``."""
        self.remove(path)
        file = self._make(path)
        if content:
            self._write(path, file, 0, content)

    def sync_file(self, path: Path) -> None:
        """See ``Files``."""
        self._note(Call("sync", path, self._file(path).number))

    def replace(self, old: Path, new: Path) -> None:
        """See ``Files``."""
        file = self._file(old)
        if new.parent not in self.directories:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(new))
        self._note(Call("rename", old, file.number, target=new))
        self.names[new] = self.names.pop(old)

    def remove(self, path: Path) -> None:
        """See ``Files``."""
        if path in self.names:
            self._note(Call("remove", path))
            del self.names[path]

    def make_directory(self, path: Path) -> None:
        """See ``Files``; durable, as the port says."""
        self.directories.update((path, *path.parents))

    def sync_directory(self, path: Path) -> None:
        """See ``Files``."""
        if path not in self.directories:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        self._note(Call("sync_directory", path))

    def list(self, path: Path) -> list[str]:
        """See ``Files``."""
        found = {p.name for p in self.names if p.parent == path} | {
            p.name for p in self.directories if p.parent == path
        }
        return sorted(found - {""})

    def exists(self, path: Path) -> bool:
        """See ``Files``."""
        return path in self.names or path in self.directories

    def size(self, path: Path) -> int:
        """See ``Files``."""
        return len(self._file(path).content)

    def free_bytes(self, path: Path) -> int:
        """See ``Files``: devices are elsewhere, all files share one file system."""
        return self.capacity_bytes - sum(len(f.content) for f in self.names.values() if not f.is_device)


@dataclass(slots=True)
class _Open:
    """See ``BlockFile``."""

    disk: CrashFiles
    path: Path
    file: _File

    def read_at(self, offset: int, length: int) -> bytes:
        """See ``BlockFile``."""
        if self.path in self.disk.broken:
            raise OSError(self.disk.broken[self.path], "broken", str(self.path))
        return bytes(self.file.content[offset : offset + length])

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """See ``BlockFile``."""
        if len(data):
            self.disk._write(self.path, self.file, offset, bytes(data))

    def sync(self) -> None:
        """See ``BlockFile``."""
        self.disk._note(Call("sync", self.path, self.file.number))

    def drop_cache(self) -> None:
        """See ``BlockFile``."""

    def truncate(self, length: int) -> None:
        """See ``BlockFile``."""
        self.disk._note(Call("truncate", self.path, self.file.number, length=length))
        del self.file.content[length:]
        self.file.content.extend(bytes(length - len(self.file.content)))

    def size(self) -> int:
        """See ``BlockFile``."""
        return len(self.file.content)

    def close(self) -> None:
        """See ``BlockFile``."""


@dataclass(frozen=True, slots=True)
class CrashState:
    """A disk after a cut. ``calls`` were made before it; ``what`` says what was lost of them."""

    calls: int
    what: str
    files: CrashFiles


class _Durable:
    """What is certain after some calls, and what hangs in the balance."""

    def __init__(self, start: Snapshot) -> None:
        self.names, self.contents = dict(start.names), dict(start.contents)
        self.devices, self.directories = start.devices, set(start.directories)
        self.pending: list[Call] = []

    def apply(self, call: Call) -> None:
        self.directories.update((call.path.parent, *call.path.parent.parents))
        if call.kind == "sync":
            self._settle(lambda c: c.kind in ("write", "truncate") and c.file == call.file)
        elif call.kind == "sync_directory":
            self._settle(lambda c: c.kind in ("make", "rename", "remove") and (c.target or c.path).parent == call.path)
        else:
            self.pending.append(call)
            if call.kind == "make":
                self.contents[call.file] = b""

    def _settle(self, is_certain: Callable[[Call], bool]) -> None:
        for call in self.pending:
            if is_certain(call):
                _carry_out(self.names, self.contents, call, "whole", None)
        self.pending = [call for call in self.pending if not is_certain(call)]

    def with_fates(self, fates: list[str], rng: random.Random) -> CrashFiles:
        names, contents = dict(self.names), dict(self.contents)
        for call, fate in zip(self.pending, fates, strict=True):
            if fate != "lost":
                _carry_out(names, contents, call, fate, rng)
        used = set(names.values())
        kept = {number: content for number, content in contents.items() if number in used}
        return CrashFiles.of(Snapshot(names, kept, self.devices, frozenset(self.directories)))


def _carry_out(
    names: dict[Path, int], contents: dict[int, bytes], call: Call, fate: str, rng: random.Random | None
) -> None:
    if call.kind == "make":
        names[call.path] = call.file
    elif call.kind == "remove":
        names.pop(call.path, None)
    elif call.kind == "rename":
        assert call.target is not None
        if names.get(call.path) == call.file:
            del names[call.path]
        names[call.target] = call.file
    elif call.kind == "truncate":
        contents[call.file] = contents[call.file][: call.length].ljust(call.length, b"\0")
    else:
        contents[call.file] = _written(contents[call.file], call, fate, rng)


def _written(content: bytes, call: Call, fate: str, rng: random.Random | None) -> bytes:
    """The file after a write that came through whole, torn, or in length alone."""
    end = call.offset + len(call.data)
    made = bytearray(content.ljust(end, b"\0"))
    if fate == "whole":
        made[call.offset : end] = call.data
    elif fate == "torn":
        assert rng is not None
        first = call.offset // SECTOR_BYTES
        sectors = range(first, (end - 1) // SECTOR_BYTES + 1)
        for sector in sectors:
            if len(sectors) > 1 and rng.random() < 0.5:
                low, high = max(call.offset, sector * SECTOR_BYTES), min(end, (sector + 1) * SECTOR_BYTES)
                made[low:high] = call.data[low - call.offset : high - call.offset]
    return bytes(made)


def crash_states(
    start: Snapshot, log: list[Call], *, seed: int = 0, random_per_cut: int = 3, every: int = 1
) -> Iterator[CrashState]:
    """Disks that a cut after each prefix of ``log`` could leave, without doubles.

    Args:
        start: the disk before the first call.
        log: what was done.
        seed: of the random reorderings.
        random_per_cut: how many of them at each cut, besides the systematic ones.
        every: 1 to cut after each call, n to cut after each n-th.
    """
    rng = random.Random(seed)
    durable = _Durable(start)
    seen: set[int] = set()
    for calls in range(len(log) + 1):
        if calls:
            durable.apply(log[calls - 1])
        if calls % every and calls != len(log):
            continue
        for what, fates in _choices(durable.pending, rng, random_per_cut):
            files = durable.with_fates(fates, rng)
            mark = hash((frozenset((p, bytes(f.content)) for p, f in files.names.items()), calls == len(log)))
            if mark not in seen:
                seen.add(mark)
                yield CrashState(calls, what, files)


def _choices(pending: list[Call], rng: random.Random, random_per_cut: int) -> Iterator[tuple[str, list[str]]]:
    count = len(pending)
    yield "nothing unsynced is there", ["lost"] * count
    if not count:
        return
    yield "all is there", ["whole"] * count
    yield "the last is torn", ["whole"] * (count - 1) + ["torn"]
    if count > 1:
        yield "only the last is there", ["lost"] * (count - 1) + ["whole"]
        yield "only the last is lost", ["whole"] * (count - 1) + ["lost"]
        yield "only the first is lost", ["lost"] + ["whole"] * (count - 1)
        yield "names without contents", ["whole" if c.kind in ("make", "rename", "remove") else "lost" for c in pending]
        yield "lengths without contents", ["length" if c.kind == "write" else "whole" for c in pending]
    for number in range(random_per_cut):
        yield f"random {number}", [rng.choice(("lost", "whole", "torn", "length")) for _ in pending]
