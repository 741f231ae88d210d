"""What the poller knew of the ECUs' DTCs, kept over restarts in one small JSON file."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread
import msgspec

from gateway.files import replace_file

log = logging.getLogger(__name__)


class Known(msgspec.Struct):
    """What is known of one ECU. ``status``: code to status byte; None: never read."""

    status: dict[int, int] | None = None


class KnownDtcs(msgspec.Struct):
    """The file's content. Unknown keys are ignored, so that an older version reads it, too."""

    ecus: dict[str, Known] = {}
    version: int = 1


class KnownStore(Protocol):
    """Where it is kept."""

    async def load(self) -> KnownDtcs:
        """What was saved last; nothing where there is none or it cannot be read. Never raises."""

    async def save(self, known: KnownDtcs) -> None:
        """Keep it; a disk that refuses is logged, not raised: the next save holds everything."""


class KnownFile:
    """A file, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, anyio.Lock()

    async def load(self) -> KnownDtcs:
        """See ``KnownStore``."""
        return await anyio.to_thread.run_sync(self._read)

    def _read(self) -> KnownDtcs:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=KnownDtcs)
        except FileNotFoundError:
            return KnownDtcs()
        except (OSError, msgspec.DecodeError) as error:  # nothing is known, then: all is told again as present
            log.warning("known_dtcs_unreadable", extra={"file": str(self._path), "error": str(error)})
            return KnownDtcs()

    async def save(self, known: KnownDtcs) -> None:
        """See ``KnownStore``."""
        content = msgspec.json.encode(known)
        async with self._lock:
            try:
                with anyio.CancelScope(shield=True):  # a thread cannot be cancelled; not two of them on one file
                    await anyio.to_thread.run_sync(partial(replace_file, self._path, content))
            except OSError as error:
                log.error("known_dtcs_not_kept", extra={"file": str(self._path), "error": str(error)})
