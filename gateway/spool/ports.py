"""What the spool needs of a disk. Tests put a disk behind it that fails, fills up or forgets what was not synced."""

from __future__ import annotations

from typing import Protocol


class File(Protocol):
    """An open file, written at offsets."""

    def write_at(self, offset: int, content: bytes) -> None:
        """Write all of ``content``. On ``OSError`` some of it may be there."""

    def truncate(self, size: int) -> None:
        """Cut or extend to ``size`` bytes."""

    def sync(self) -> None:
        """Content and size survive a power cut once this returns."""

    def close(self) -> None:
        """No more use."""


class Disk(Protocol):
    """One directory of files, none nested. Every method may raise ``OSError``."""

    def names(self) -> list[str]:
        """The files there are."""

    def size(self, name: str) -> int:
        """Bytes of a file."""

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; fewer at the end of the file."""

    def open(self, name: str) -> File:
        """Open for writing; created if missing. That the name is there survives a power cut only after ``sync``."""

    def remove(self, name: str) -> None:
        """Delete a file; certain only after ``sync``."""

    def sync(self) -> None:
        """Created and removed names survive a power cut once this returns."""

    def close(self) -> None:
        """Let others have the directory."""
