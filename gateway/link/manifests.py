"""The manifests that stored batches name, kept beside the spool.

A batch is unreadable without its manifest. After a change of the manifest the spool may still hold batches of the one
before, sent or not; so each manifest a gateway starts with is kept until newer ones have pushed it out. Blocking and
small; nothing here is on the frame path.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

FOLDER = "manifests"
SUFFIX, DELIVERED = ".manifest", ".delivered"
KEPT = 16  # manifests, the newest by use; more while batches wait
KEPT_MAX = 256


class ManifestShelf:
    """One file per manifest, named by its hash (lower-case hex); an empty one beside it once the cloud has it."""

    def __init__(self, spool_directory: Path, current: str, content: bytes) -> None:
        self._folder, self.current, self._content = spool_directory / FOLDER, current, content

    def keep(self, *, is_drained: bool) -> None:
        """Put the present manifest on the shelf, durably, and clear out old ones.

        A disk that refuses is logged and not raised: the present manifest is in memory, and needed from the disk only
        after it has changed.

        Args:
            is_drained: no batch waits in the spool, so that old manifests are needed for requests only.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._path(self.current)
            if not path.exists() or path.read_bytes() != self._content:
                self._write(path)
            os.utime(path)
            self._clear(KEPT if is_drained else KEPT_MAX)
        except OSError as error:
            log.error("manifest_not_kept", extra={"manifest": self.current[:16], "error": str(error)})

    def _path(self, manifest_hash: str) -> Path:
        return self._folder / (manifest_hash + SUFFIX)

    def _write(self, path: Path) -> None:
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix="new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self._content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        for folder in (self._folder, self._folder.parent):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _clear(self, kept: int) -> None:
        for half_written in self._folder.glob("new-*"):
            half_written.unlink(missing_ok=True)
        by_use = sorted(self._folder.glob("*" + SUFFIX), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in by_use[kept:]:
            path.with_suffix(DELIVERED).unlink(missing_ok=True)
            path.unlink()

    def content(self, manifest_hash: str) -> bytes | None:
        """A manifest file, None when it is not here."""
        if manifest_hash == self.current:
            return self._content
        try:
            return self._path(manifest_hash).read_bytes()
        except OSError:
            return None

    def delivered(self, manifest_hash: str) -> None:
        """The cloud has it."""
        try:
            if self._path(manifest_hash).exists():
                self._path(manifest_hash).with_suffix(DELIVERED).touch()
        except OSError as error:
            log.warning("manifest_mark_failed", extra={"error": str(error)})

    def undelivered(self) -> list[str]:
        """Former manifests the cloud may not have: batches that name them may wait there, and nobody will ask."""
        try:
            names = {path.stem for path in self._folder.glob("*" + SUFFIX)}
            told = {path.stem for path in self._folder.glob("*" + DELIVERED)}
        except OSError:
            return []
        return sorted(names - told - {self.current})
