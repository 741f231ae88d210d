"""The spool's disk port on a POSIX file system."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from gateway.spool.errors import SpoolBusy

LOCK = "lock"


class PosixFile:
    """A file descriptor behind the ``File`` port."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def write_at(self, offset: int, content: bytes) -> None:
        view = memoryview(content)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)  # POSIX: with all metadata needed to read the content back, the size included

    def close(self) -> None:
        os.close(self._descriptor)


class PosixDisk:
    """A directory, created if missing, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Take the directory.

        Raises:
            SpoolBusy: another process holds it.
            OSError: it cannot be created or opened.
        """
        self._path = path
        self._reading: tuple[str, int] | None = None  # the file last read from: reads come in runs
        path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise SpoolBusy(f"{path} is in use by another process") from error
        self.sync()

    def names(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self._path) if entry.is_file() and entry.name != LOCK)

    def size(self, name: str) -> int:
        return (self._path / name).stat().st_size

    def read(self, name: str, offset: int, size: int) -> bytes:
        if self._reading is None or self._reading[0] != name:
            self._stop_reading()
            self._reading = name, os.open(self._path / name, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._reading[1], size, offset)

    def _stop_reading(self) -> None:
        if self._reading is not None:
            os.close(self._reading[1])
            self._reading = None

    def open(self, name: str) -> PosixFile:
        return PosixFile(self._path / name)

    def remove(self, name: str) -> None:
        self._stop_reading()  # the room of a file is free only once nobody has it open
        (self._path / name).unlink(missing_ok=True)

    def sync(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        self._stop_reading()
        os.close(self._lock)
