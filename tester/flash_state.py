"""How far a flash came, on disk, so that it can go on after whatever ended it.

A small JSON file per ECU and image in ``$XDG_STATE_HOME/outrider/flash`` (or where the caller says), replaced whole. It
is advice, not truth: an ECU that does not accept to go on there is erased and begun again.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

SAVE_EVERY_BYTES = 32 * 1024


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Parts before ``part`` are there, of that one the first ``offset`` bytes. ``serial``: of which ECU."""

    ecu: str
    sha256: str
    serial: str = ""
    part: int = 0
    offset: int = 0
    block_bytes: int = 0
    data_format: int = 0
    saved_utc_s: float = 0.0


def default_folder() -> Path:
    """Where the states are."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "outrider" / "flash"


class StateFile:
    """The progress of one image into one ECU. Failing to save is not worth ending a flash for."""

    def __init__(self, folder: Path, ecu: str, sha256: str) -> None:
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in ecu)
        self.path = folder / f"{safe}-{sha256[:16]}.json"
        self._ecu, self._sha256 = ecu, sha256
        self._saved: Progress | None = None

    def load(self, serial: str) -> Progress | None:
        """What was saved, if it is of this image and this ECU (or one of the two told no serial number)."""
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=Progress)
        except (OSError, msgspec.DecodeError):
            return None
        if (found.ecu, found.sha256) != (self._ecu, self._sha256) or found.part < 0 or found.offset < 0:
            return None
        return found if not serial or not found.serial or found.serial == serial else None

    def save(self, progress: Progress, *, now: bool = False) -> None:
        """Keep it; small steps are left out unless ``now``."""
        before = self._saved
        is_small = (
            before is not None
            and before.part == progress.part
            and 0 <= progress.offset - before.offset < SAVE_EVERY_BYTES
        )
        if is_small and not now:
            return
        self._saved = progress
        temporary = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(msgspec.structs.replace(progress, saved_utc_s=time.time())))
            temporary.replace(self.path)
        except OSError:
            temporary.unlink(missing_ok=True)

    def forget(self) -> None:
        """The flash is done."""
        self.path.unlink(missing_ok=True)
