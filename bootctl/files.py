"""What an update does to storage, as a port: so that a test can cut the power between any two of these calls.

Everything that must survive a power cut (slot images, progress, trusted versions, boot state) goes through a ``Files``.
``RealFiles`` is the machine's; ``tests.crash`` has one that knows what a disk may lose.

The rules of the model, which are POSIX's: what was written is on the disk for certain only after ``sync`` of that file;
until then any part of it may be there, in any order, down to single sectors. A name that was made, replaced or removed
is certain only after ``sync_directory`` of its folder. ``replace`` is atomic: the old file or the new one, never none.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Protocol


class BlockFile(Protocol):
    """An open file or block device of fixed place; writes never append by themselves."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``; fewer at the end of the file. Raises ``OSError``."""

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data``. Durable only after ``sync``. Raises ``OSError`` (``ENOSPC`` when there is no room)."""

    def sync(self) -> None:
        """Everything written so far is on the disk when this returns. Raises ``OSError``."""

    def drop_cache(self) -> None:
        """The next read comes from the disk, not from memory. Does nothing where that cannot be had."""

    def truncate(self, length: int) -> None:
        """Cut or extend a regular file with zeros; not for block devices. Raises ``OSError``."""

    def size(self) -> int:
        """Bytes: the length of a file, the capacity of a device. Raises ``OSError``."""

    def close(self) -> None:
        """Close; does not sync."""


class Files(Protocol):
    """Files and folders."""

    def open(self, path: Path, *, create: bool = False, exclusive: bool = False) -> BlockFile:
        """Open for reading and writing; what may only be read opens for reading, unless ``create`` or ``exclusive``.

        Args:
            path: of a regular file or block device.
            create: make an empty file where there is none.
            exclusive: nobody else may use the block device (``O_EXCL``): refused while it is mounted.

        Raises:
            OSError: not there, not allowed, in use.
        """

    def read(self, path: Path) -> bytes:
        """A small file whole. Raises ``OSError``."""

    def write(self, path: Path, content: bytes) -> None:
        """Make or overwrite a file whose content nobody needs after a cut (no sync). Raises ``OSError``."""

    def sync_file(self, path: Path) -> None:
        """Make a file's content durable. Raises ``OSError``."""

    def replace(self, old: Path, new: Path) -> None:
        """Rename ``old`` over ``new``. Raises ``OSError``."""

    def remove(self, path: Path) -> None:
        """Remove a file; one that is not there is fine. Raises ``OSError``."""

    def make_directory(self, path: Path) -> None:
        """Make a folder (0700) and its parents, durably. Raises ``OSError``."""

    def sync_directory(self, path: Path) -> None:
        """Make the names in a folder durable. Raises ``OSError``."""

    def list(self, path: Path) -> list[str]:
        """Names in a folder, sorted; none when there is no such folder. Raises ``OSError``."""

    def exists(self, path: Path) -> bool:
        """Whether there is something of that name."""

    def size(self, path: Path) -> int:
        """Bytes of a file. Raises ``OSError``."""

    def free_bytes(self, path: Path) -> int:
        """Room left on the file system that ``path`` is on. Raises ``OSError``."""


def replace_content(files: Files, path: Path, content: bytes) -> None:
    """The safe way to change a small file: the old content or the new after a cut, and the new once this returns.

    Raises:
        OSError: it could not be written; the old one is untouched.
    """
    files.make_directory(path.parent)
    temporary = path.with_name(f".{path.name}.new")
    try:
        files.write(temporary, content)
        files.sync_file(temporary)
        files.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove(temporary)
        raise
    files.sync_directory(path.parent)


class RealBlockFile:
    """A file descriptor."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def read_at(self, offset: int, length: int) -> bytes:
        """See ``BlockFile``."""
        pieces = []
        while length > 0 and (piece := os.pread(self._handle, length, offset)):
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """See ``BlockFile``."""
        rest = memoryview(data)
        while rest:
            done = os.pwrite(self._handle, rest, offset)
            offset, rest = offset + done, rest[done:]

    def sync(self) -> None:
        """See ``BlockFile``."""
        os.fsync(self._handle)

    def drop_cache(self) -> None:
        """See ``BlockFile``. Only clean pages go, so ``sync`` first."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def truncate(self, length: int) -> None:
        """See ``BlockFile``."""
        os.ftruncate(self._handle, length)

    def size(self) -> int:
        """See ``BlockFile``."""
        return os.lseek(self._handle, 0, os.SEEK_END)

    def close(self) -> None:
        """See ``BlockFile``."""
        os.close(self._handle)


class RealFiles:
    """The machine's own."""

    def open(self, path: Path, *, create: bool = False, exclusive: bool = False) -> RealBlockFile:
        """See ``Files``."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        if exclusive and path.is_block_device():
            flags |= os.O_EXCL
        try:
            return RealBlockFile(os.open(path, flags, 0o600))
        except OSError as error:
            if create or exclusive or error.errno not in (errno.EROFS, errno.EACCES):
                raise
        return RealBlockFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))  # a running slot under dm-verity

    def read(self, path: Path) -> bytes:
        """See ``Files``."""
        return path.read_bytes()

    def write(self, path: Path, content: bytes) -> None:
        """See ``Files``. A fresh file each time, readable by the owner only."""
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)

    def sync_file(self, path: Path) -> None:
        """See ``Files``."""
        self._sync(path, os.O_RDONLY)

    def replace(self, old: Path, new: Path) -> None:
        """See ``Files``."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        """See ``Files``."""
        path.unlink(missing_ok=True)

    def make_directory(self, path: Path) -> None:
        """See ``Files``."""
        missing = [place for place in (path, *path.parents) if not place.is_dir()]
        for place in reversed(missing):
            place.mkdir(mode=0o700, exist_ok=True)
            self.sync_directory(place.parent)

    def sync_directory(self, path: Path) -> None:
        """See ``Files``."""
        self._sync(path, os.O_RDONLY | os.O_DIRECTORY)

    def list(self, path: Path) -> list[str]:
        """See ``Files``."""
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def exists(self, path: Path) -> bool:
        """See ``Files``."""
        return path.exists()

    def size(self, path: Path) -> int:
        """See ``Files``."""
        return path.stat().st_size

    def free_bytes(self, path: Path) -> int:
        """See ``Files``."""
        numbers = os.statvfs(path)
        return numbers.f_bavail * numbers.f_frsize

    @staticmethod
    def _sync(path: Path, flags: int) -> None:
        handle = os.open(path, flags | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
