"""What is in which slot, and how far the slot being written is: the installer's memory across power cuts."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bootctl.files import Files, replace_content
from gateway.update.model import InstallError, VerifiedTarget
from gateway.update.records import Record
from gateway.wire.uptane import InstalledImage

#: Written last: no file system, boot sector or partition table is recognised without it.
HEAD_BYTES = 4096


class SlotContent(msgspec.Struct, frozen=True, kw_only=True):
    """What one slot holds. ``is_whole`` only after everything was read back from the disk and compared."""

    is_whole: bool
    image: InstalledImage


class SlotTable(msgspec.Struct, frozen=True, kw_only=True):
    """The slot status file. A slot that is not in it was filled by somebody else."""

    slots: dict[str, SlotContent] = {}


class SlotProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How much of an image is on its slot for certain. Where the bytes came from does not matter: they are the same."""

    slot: str
    sha256: str
    length: int
    done_bytes: int = 0
    is_delta_spoilt: bool = False  # a delta did not work out: only the full image is tried any more


class BootedCache(msgspec.Struct, frozen=True, kw_only=True):
    """What was read back from the running slot, and the table's entry it was compared with."""

    slot: str
    content: SlotContent | None
    image: InstalledImage


def image_of(target: VerifiedTarget) -> InstalledImage:
    """The facts of a target as a report tells them once it is installed."""
    return InstalledImage(
        filename=target.image.filename,
        length=target.image.length,
        hashes=dict(target.image.hashes),
        release_counter=target.must_match.release_counter,
        version=target.must_match.version,
    )


class SlotState:
    """The files ``slots.json``, ``slot-progress.json``, ``slot-head.bin`` and ``booted.json`` of a directory."""

    def __init__(self, files: Files, directory: Path) -> None:
        self._files, self._head = files, directory / "slot-head.bin"
        self._table = Record(files, directory / "slots.json", SlotTable)
        self._progress = Record(files, directory / "slot-progress.json", SlotProgress)
        self._booted = Record(files, directory / "booted.json", BootedCache)

    def contents(self) -> dict[str, SlotContent]:
        """What is known of each slot. Raises ``InstallError``."""
        table = self._table.load()
        return dict(table.slots) if table is not None else {}

    def set_content(self, slot: str, content: SlotContent) -> None:
        """Note what a slot holds from now on. Raises ``InstallError``."""
        contents = self.contents()
        if contents.get(slot) != content:
            self._table.save(SlotTable(slots={**contents, slot: content}))

    def progress(self) -> SlotProgress | None:
        """The slot being written. Raises ``InstallError``."""
        return self._progress.load()

    def set_progress(self, progress: SlotProgress) -> None:
        """Only after the bytes it tells of are on the disk. Raises ``InstallError``."""
        self._progress.save(progress)

    def end_progress(self) -> None:
        """Nothing is being written any more. Raises ``InstallError``."""
        self._progress.remove()
        try:
            self._files.remove(self._head)  # not synced: a head without progress means nothing
        except OSError as error:
            raise InstallError(f"{self._head}: {error.strerror or error}") from error

    def keep_head(self, head: bytes) -> None:
        """Keep an image's first bytes until the rest of it is on the disk. Raises ``OSError``."""
        replace_content(self._files, self._head, head)

    def head(self, length: int) -> bytes | None:
        """The bytes kept; None when they are not all there. Raises ``OSError``."""
        if not self._files.exists(self._head):
            return None
        head = self._files.read(self._head)
        return head if len(head) == min(HEAD_BYTES, length) else None

    def booted(self) -> BootedCache | None:
        """What was read back last. Raises ``InstallError``."""
        return self._booted.load()

    def set_booted(self, cache: BootedCache) -> None:
        """Keep what was read back. Raises ``InstallError``."""
        self._booted.save(cache)
