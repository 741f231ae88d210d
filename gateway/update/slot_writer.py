"""Writing one slot in the order that no power cut can break; blocking, to be called off the event loop.

The order, each step durable before the next: no head (so that half an image never looks like a file system); the
segments, each on the disk before the record says so; the head; and everything is read back from the disk, not from
memory, and compared with every hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import TracebackType

from bootctl.files import BlockFile
from gateway.update.model import InstallError
from gateway.update.slot_state import HEAD_BYTES, SlotProgress, SlotState

READ_BYTES = 1024 * 1024
#: What an image may be hashed with; at least one of them that is not broken must be listed.
ALGORITHMS = ("sha256", "sha512")


def check_hashes(hashes: dict[str, str], name: str) -> None:
    """Whether every listed hash can be checked, as the standard wants it (V4). Raises ``InstallError``."""
    unknown = sorted(set(hashes) - set(ALGORITHMS))
    if unknown or "sha256" not in hashes:
        raise InstallError(f"{name}: cannot be checked ({', '.join(unknown) or 'no sha256'})")


def hash_device(device: BlockFile, length: int, algorithms: list[str], told: Callable[[int], None]) -> dict[str, str]:
    """Hashes of the first ``length`` bytes, read in pieces. Raises ``OSError``: cannot be read, or is shorter."""
    sums = {name: hashlib.new(name) for name in algorithms}
    done = 0
    while done < length:
        piece = device.read_at(done, min(READ_BYTES, length - done))
        if not piece:
            raise OSError(None, f"ends after {done} of {length} bytes")
        for one in sums.values():
            one.update(piece)
        done += len(piece)
        told(done)
    return {name: one.hexdigest() for name, one in sums.items()}


class SlotWriter:
    """An inactive slot, open for one image.

    Args:
        device: open and nobody else's.
        progress: where to go on; of this slot and image.
    """

    def __init__(self, device: BlockFile, state: SlotState, progress: SlotProgress, where: str) -> None:
        self._device, self._state, self._where = device, state, where
        self.progress = progress
        self._stream: dict[str, hashlib._Hash] | None = None
        self._hashed_bytes = 0

    def __enter__(self) -> SlotWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._device.close()

    def start(self) -> int:
        """Make ready to write; the byte to go on from. Raises ``InstallError``."""
        try:
            if self.progress.done_bytes and self._state.head(self.progress.length) is None:
                self._set(0)
            if self.progress.done_bytes == 0:
                self._device.write_at(0, bytes(min(HEAD_BYTES, self._device.size())))
                self._device.sync()
                self._set(0)
                self._stream, self._hashed_bytes = {name: hashlib.new(name) for name in ALGORITHMS}, 0
        except OSError as error:
            raise self._failed("cannot be made ready", error) from error
        return self.progress.done_bytes

    def write(self, place: int, piece: bytes) -> None:
        """One segment, durably, and noted. It begins at or before what is done. Raises ``InstallError``."""
        done, end = self.progress.done_bytes, place + len(piece)
        if place > done or end > self.progress.length:
            raise InstallError(f"{self._where}: a segment at {place} after {done} bytes")
        if end <= done:
            return
        try:
            if place < HEAD_BYTES:
                self._write_first(place, piece)
            else:
                self._device.write_at(place, piece)
            self._device.sync()
        except OSError as error:
            raise self._failed(f"cannot be written at {place}", error) from error
        if self._stream is not None and self._hashed_bytes == done:
            for one in self._stream.values():
                one.update(piece[done - place :])
            self._hashed_bytes = end
        self._set(end)

    def _write_first(self, place: int, piece: bytes) -> None:
        """The segment with the head in it, which stays beside until the rest is there."""
        wanted = min(HEAD_BYTES, self.progress.length)
        if place != 0 or len(piece) < wanted:
            raise InstallError(f"{self._where}: the first segment is shorter than {wanted} bytes")
        self._state.keep_head(piece[:HEAD_BYTES])
        self._device.write_at(HEAD_BYTES, piece[HEAD_BYTES:])

    def finish(self) -> None:
        """Everything is there: the head, and it stays. Raises ``InstallError``."""
        try:
            head = self._state.head(self.progress.length)
            if head is None or self.progress.done_bytes != self.progress.length:
                raise InstallError(
                    f"{self._where}: {self.progress.done_bytes} of {self.progress.length} bytes are there"
                )
            self._device.write_at(0, head)
            self._device.sync()
        except OSError as error:
            raise self._failed("cannot be finished", error) from error

    def read_back(self, hashes: dict[str, str], told: Callable[[int], None]) -> bool:
        """Whether the disk holds exactly what ``hashes`` say. Raises ``InstallError``: it cannot be read."""
        return read_back(self._device, self.progress.length, hashes, self._where, told)

    def came_as(self) -> dict[str, str] | None:
        """Hashes of what was given to ``write``; None when a part was written by an earlier run."""
        if self._stream is None or self._hashed_bytes != self.progress.length:
            return None
        return {name: one.hexdigest() for name, one in self._stream.items()}

    def begin_again(self) -> None:
        """What is there is worth nothing. Raises ``InstallError``."""
        self._set(0)

    def _set(self, done_bytes: int) -> None:
        progress = self.progress
        self.progress = SlotProgress(
            slot=progress.slot,
            sha256=progress.sha256,
            length=progress.length,
            done_bytes=done_bytes,
            is_delta_spoilt=progress.is_delta_spoilt,
        )
        self._state.set_progress(self.progress)

    def spoil_delta(self) -> None:
        """From now on only the full image, also after a power cut. Raises ``InstallError``."""
        progress = self.progress
        self.progress = SlotProgress(
            slot=progress.slot,
            sha256=progress.sha256,
            length=progress.length,
            done_bytes=progress.done_bytes,
            is_delta_spoilt=True,
        )
        self._state.set_progress(self.progress)

    def _failed(self, what: str, error: OSError) -> InstallError:
        return InstallError(f"{self._where} {what}: {error.strerror or error}")


def read_back(device: BlockFile, length: int, hashes: dict[str, str], where: str, told: Callable[[int], None]) -> bool:
    """Whether a device begins with exactly what ``hashes`` say. Raises ``InstallError``: it cannot be read."""
    try:
        device.drop_cache()
        found = hash_device(device, length, sorted(hashes), told)
    except OSError as error:
        raise InstallError(f"{where} cannot be read back: {error.strerror or error}") from error
    return found == hashes
