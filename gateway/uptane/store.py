"""Verified metadata on disk: what need not be fetched again, and the base that newer metadata is compared with.

A file that is damaged, or is not there, is fetched again; that this does not open a way back is the floor's promise
(``floor``). All writes go through ``Files`` and are durable when they return.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from bootctl.files import Files, replace_content
from gateway.errors import TransportError


class MetadataStore:
    """The files of one repository, in a folder of its own."""

    def __init__(self, files: Files, directory: Path) -> None:
        self._files, self._directory = files, directory

    def _path(self, role: str) -> Path:
        if role in ("timestamp", "snapshot", "targets"):
            return self._directory / f"{role}.json"
        return self._directory / "roles" / f"{quote(role, '')}.json"

    def _root_path(self, version: int) -> Path:
        return self._directory / "roots" / f"{version}.json"

    def _read(self, path: Path) -> bytes | None:
        try:
            return self._files.read(path) or None
        except OSError:
            return None

    def _write(self, path: Path, data: bytes) -> None:
        try:
            replace_content(self._files, path, data)
        except OSError as error:
            raise TransportError(f"{path}: {error.strerror or error}") from error

    def read(self, role: str) -> bytes | None:
        """The metadata of a role; None when there is none that can be read."""
        return self._read(self._path(role))

    def read_root(self, version: int) -> bytes | None:
        """One version of Root; all that were ever trusted are kept, to prove the chain from the one in the image."""
        return self._read(self._root_path(version))

    def write(self, role: str, data: bytes) -> None:
        """Keep the metadata of a role. Raises ``TransportError``: the disk refused."""
        self._write(self._path(role), data)

    def write_root(self, version: int, data: bytes) -> None:
        """Keep one version of Root. Raises ``TransportError``: the disk refused."""
        self._write(self._root_path(version), data)

    def remove(self, role: str) -> None:
        """Forget the metadata of a role. Raises ``TransportError``: the disk refused."""
        path = self._path(role)
        try:
            if self._files.exists(path):
                self._files.remove(path)
                self._files.sync_directory(path.parent)
        except OSError as error:
            raise TransportError(f"{path}: {error.strerror or error}") from error

    def keep_only(self, roles: set[str]) -> None:
        """Remove delegated roles other than ``roles``, and what an interrupted write left. Raises as ``write``."""
        folder = self._directory / "roles"
        wanted = {self._path(role).name for role in roles}
        try:
            for name in self._files.list(folder):
                if name not in wanted:
                    self._files.remove(folder / name)
        except OSError as error:
            raise TransportError(f"{folder}: {error.strerror or error}") from error

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever stored here."""
        return not self._files.list(self._directory)
