"""Non-volatile memory of one ECU: named values and large blobs, in RAM or in a directory. Survives kill -9."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from dbc.files import write_atomically


class StorageError(ValueError):
    """Stored state that cannot be read; the message names the file."""


class NvStore:
    """Values by name: numbers, text, bytes, lists and dicts of them. Changes reach the disk with ``save``.

    ``get`` hands out the stored object itself: after changing it in place, call ``set`` with it.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        """``folder`` None: kept in RAM only, still non-volatile over resets and power cycles within the process.

        Raises:
            StorageError: a file is there but is not one of ours.
            OSError: the folder cannot be made or read.
        """
        self._folder, self._name = folder, name
        self._values: dict[str, Any] = {}
        self._blobs: dict[str, bytearray] = {}
        self._dirty = False
        self._dirty_blobs: set[str] = set()
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.nv"
        if path.exists():
            try:
                self._values = msgspec.msgpack.decode(path.read_bytes(), type=dict[str, Any])
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                raise StorageError(f"{path}: {error}") from error

    def get(self, key: str, default: Any = None) -> Any:  # what was stored
        """The value stored under ``key``."""
        return self._values.get(key, default)

    def set(self, key: str, value: Any) -> None:  # anything msgpack can hold
        """Store; on disk with the next ``save``."""
        self._values[key] = value
        self._dirty = True

    def delete(self, key: str) -> None:
        """Forget a value, if there is one."""
        if self._values.pop(key, None) is not None:
            self._dirty = True

    def keys(self) -> list[str]:
        """All names."""
        return sorted(self._values)

    def blob(self, key: str, size: int, fill: int = 0xFF) -> bytearray:
        """A memory of ``size`` bytes; change it in place and tell ``touch``. Raises ``StorageError``, ``OSError``."""
        if key not in self._blobs:
            data = bytearray([fill]) * size
            path = self._blob_path(key)
            if path is not None and path.exists():
                stored = path.read_bytes()
                if len(stored) != size:
                    raise StorageError(f"{path}: {len(stored)} bytes where the description says {size}")
                data[:] = stored
            self._blobs[key] = data
        return self._blobs[key]

    def touch(self, key: str) -> None:
        """A blob was changed."""
        self._dirty_blobs.add(key)

    def save(self) -> None:
        """Write what changed, each file atomically; raises ``OSError`` (disk full)."""
        if self._folder is not None:
            if self._dirty:
                write_atomically(self._folder / f"{self._name}.nv", msgspec.msgpack.encode(self._values))
            for key in sorted(self._dirty_blobs):
                path = self._blob_path(key)
                assert path is not None
                write_atomically(path, bytes(self._blobs[key]))
        self._dirty = False
        self._dirty_blobs.clear()

    @property
    def is_dirty(self) -> bool:
        """Whether ``save`` has something to write."""
        return self._dirty or bool(self._dirty_blobs)

    def _blob_path(self, key: str) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"{self._name}.{re.sub(r'[^A-Za-z0-9_-]', '_', key)}.bin"
