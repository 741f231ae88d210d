"""One verifier per directory, also between processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from gateway.errors import NotNowError, TransportError


class DirectoryLock:
    """An advisory lock that goes with the process, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take it; having it already is fine.

        Raises:
            NotNowError: another verifier has it.
            TransportError: the disk does not answer.
        """
        if self._handle is not None:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TransportError(f"{self._path}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise NotNowError(f"{self._path}: another process verifies updates in this directory") from error
        self._handle = handle

    def release(self) -> None:
        """Give it back; not having it is fine."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.close(self._handle)
            self._handle = None
