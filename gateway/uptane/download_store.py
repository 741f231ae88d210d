"""A folder of verified files, each under its hash: deltas, firmware, payloads, waiting to be installed.

Promises:

* A file stands under its name only when it is whole: every listed hash and the length were right (V4), and it was read
  back from the disk. After a restart it is read once more before it is used.
* A download goes on where it was broken, also by a power cut. The record of how far it came is written after the data
  it speaks of is on the disk; what is there is hashed again.
* Room is asked for before the first byte, and watched: ``keep_free_bytes`` belong to the rest of the vehicle. A
  download for which there is no room gives back what it took.
* What ``keep`` named is never removed to make room. Until it was told what to keep, nothing is.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterable
from contextlib import aclosing, closing, suppress
from functools import partial
from pathlib import Path

import anyio
import msgspec

from bootctl.files import BlockFile, Files, RealFiles, replace_content
from gateway.errors import TransportError
from gateway.update.blocking import Offload, in_thread
from gateway.update.model import AttackError, InstallError
from gateway.update.ports import Fetcher, Progress
from gateway.uptane.download import Hashes, hash_range, is_whole, pieces
from gateway.uptane.fetch import ContentChangedError, check_file, strongest_known
from gateway.wire.uptane import FileFacts

log = logging.getLogger(__name__)

WHOLE, PART, RECORD = ".image", ".part", ".progress"
KEPT_FILE = "kept.json"
_OURS = re.compile(r"\.?([0-9a-f]{64}|[0-9a-f]{128})(\.image|\.part|\.progress(\.new)?)")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
MAX_RESTARTS = 2


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a download came: everything before ``offset`` is on the disk."""

    length: int
    offset: int


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    names: list[str]


class DownloadStore:
    """See the module. The ``TargetStore`` of the installers; one instance per folder."""

    def __init__(
        self,
        directory: Path,
        files: Files | None = None,
        *,
        keep_free_bytes: int = 64 * 1024 * 1024,
        max_file_bytes: int = 8 * 1024**3,
        checkpoint_bytes: int = 4 * 1024 * 1024,
        piece_bytes: int = 1024 * 1024,
        offload: Offload = in_thread,
    ) -> None:
        """Make a store; nothing is read or written yet.

        Args:
            directory: its own.
            files: the disk.
            keep_free_bytes: room that stays free on the file system.
            max_file_bytes: larger files are refused.
            checkpoint_bytes: how much a power cut may cost of a download.
            piece_bytes: written at once, and held in memory.
            offload: where disk and hashes are waited for.
        """
        self._directory, self._files, self._offload = directory, files or RealFiles(), offload
        self._keep_free_bytes, self._max_file_bytes = keep_free_bytes, max_file_bytes
        self._checkpoint_bytes, self._piece_bytes = checkpoint_bytes, piece_bytes
        self._lock = anyio.Lock()
        self._checked: set[tuple[str, int, frozenset[tuple[str, str]]]] = set()

    async def fetch(self, file: FileFacts, fetcher: Fetcher, progress: Progress) -> None:
        """See ``TargetStore``. Files come one after the other, in the order asked."""
        check_file(file)
        if file.length > self._max_file_bytes:
            raise InstallError(f"{file.filename}: {file.length} bytes, at most {self._max_file_bytes} are taken")
        async with self._lock:
            try:
                if not await self._offload(lambda: self._is_here(file)):
                    await self._download(file, fetcher, progress)
            except OSError as error:
                raise TransportError(f"{file.filename}: {self._directory}: {error.strerror or error}") from error
        progress(file.length, file.length)

    def open(self, file: FileFacts) -> BlockFile:
        """See ``TargetStore``."""
        if _key(file) not in self._checked:
            raise InstallError(f"{file.filename}: it was not fetched")
        try:
            return self._files.open(self._path(file, WHOLE))
        except OSError as error:
            raise InstallError(f"{file.filename}: {error.strerror or error}") from error

    def keep(self, files: Iterable[FileFacts]) -> None:
        """From now on, and after restarts: what may not be removed. Everything an open update or a way back needs.

        Raises:
            TransportError: not written; what was kept before is.
        """
        content = msgspec.json.encode(_Kept(sorted({strongest_known(file) for file in files})))
        path = self._directory / KEPT_FILE
        try:
            if not self._files.exists(path) or self._files.read(path) != content:
                replace_content(self._files, path, content)
        except OSError as error:
            raise TransportError(f"{path}: {error.strerror or error}") from error

    def clean(self) -> int:
        """Remove everything that is not kept; bytes freed. Raises ``TransportError``."""
        try:
            return self._evict(None)
        except OSError as error:
            raise TransportError(f"{self._directory}: {error.strerror or error}") from error

    def forget(self, file: FileFacts) -> None:
        """Remove one file, and what a broken download left of it. Raises ``TransportError``."""
        self._checked.discard(_key(file))
        try:
            for kind in (WHOLE, PART, RECORD):
                self._files.remove(self._path(file, kind))
        except OSError as error:
            raise TransportError(f"{file.filename}: {error.strerror or error}") from error

    # whole files

    def _path(self, file: FileFacts, kind: str) -> Path:
        return self._directory / (strongest_known(file) + kind)

    def _is_here(self, file: FileFacts) -> bool:
        """Whether it is whole; read once by each process that uses it."""
        path = self._path(file, WHOLE)
        if not self._files.exists(path):
            self._checked.discard(_key(file))
            return False
        if _key(file) in self._checked:
            return True
        with closing(self._files.open(path)) as content:
            if is_whole(content, file):
                for name in _leftovers(self._path(file, RECORD)):
                    self._files.remove(name)
                self._checked.add(_key(file))
                return True
        log.error("stored_file_damaged", extra={"file": file.filename, "path": str(path)})
        self._files.remove(path)
        return False

    # room

    def _make_room(self, file: FileFacts, missing: int) -> None:
        """Have room for so many bytes more. Raises ``InstallError``."""
        needed = missing + self._keep_free_bytes
        if self._files.free_bytes(self._directory) < needed:
            self._evict(needed, spare=strongest_known(file))
        free = self._files.free_bytes(self._directory)
        if free < needed:
            raise InstallError(self._no_room(file, missing, free))

    def _no_room(self, file: FileFacts, missing: int, free: int) -> str:
        return (
            f"{file.filename}: no room: {missing} bytes are needed and {self._keep_free_bytes} must stay free, "
            f"but {free} are free at {self._directory}"
        )

    def _evict(self, needed: int | None, spare: str = "") -> int:
        """Remove what nobody needs, broken downloads first, until so much is free; all of it for None."""
        kept = self._kept()
        if kept is None:
            return 0
        freed = 0
        found = [
            (match[2] == WHOLE, name) for name in self._files.list(self._directory) if (match := _OURS.fullmatch(name))
        ]
        for _, name in sorted(found):
            if needed is not None and self._files.free_bytes(self._directory) >= needed:
                break
            match = _OURS.fullmatch(name)
            if match is not None and match[1] not in kept and match[1] != spare:
                freed += self._files.size(self._directory / name)
                self._files.remove(self._directory / name)
                log.info("stored_file_removed", extra={"name": name})
        if freed:
            self._files.sync_directory(self._directory)
        return freed

    def _kept(self) -> set[str] | None:
        """Names by hash; None: not known, so all of them."""
        try:
            return set(msgspec.json.decode(self._files.read(self._directory / KEPT_FILE), type=_Kept).names)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("kept_files_damaged", extra={"directory": str(self._directory), "error": str(error)})
            return None

    # downloads

    async def _download(self, file: FileFacts, fetcher: Fetcher, progress: Progress) -> None:
        for attempt in range(MAX_RESTARTS + 1):
            work = await self._offload(lambda: _Work(self._files, self._directory, file))
            try:
                resumed = work.hashes.length > 0
                await self._offload(partial(self._make_room, file, file.length - work.hashes.length))
                await self._fill(work, file, fetcher, progress)
                if wrong := work.hashes.mismatch():
                    await self._offload(work.drop)
                    if not resumed:
                        raise AttackError("arbitrary software", "V4", wrong)
                    log.warning("download_begun_again", extra={"file": file.filename, "reason": wrong})
                    continue
                await self._offload(work.finish)
                self._checked.add(_key(file))
                return
            except ContentChangedError as error:
                await self._offload(work.drop)
                if attempt == MAX_RESTARTS:
                    raise
                log.warning("download_begun_again", extra={"file": file.filename, "reason": str(error)})
            except InstallError:
                await self._offload(work.drop)
                raise
            finally:
                work.close()
        raise TransportError(f"{file.filename}: it changed again and again while it was fetched")

    async def _fill(self, work: _Work, file: FileFacts, fetcher: Fetcher, progress: Progress) -> None:
        """Write what is missing; whatever ends it early, what came is kept for the next time."""
        begun = work.hashes.length
        progress(begun, file.length)
        try:
            async with aclosing(pieces(fetcher, file, begun, self._piece_bytes)) as incoming:
                async for place, piece in incoming:
                    await self._offload(partial(self._put, work, place, piece))
                    progress(work.hashes.length, file.length)
        except (ContentChangedError, InstallError):
            raise
        except (Exception, anyio.get_cancelled_exc_class()):
            with anyio.CancelScope(shield=True), suppress(OSError):
                await self._offload(work.checkpoint)
            raise

    def _put(self, work: _Work, place: int, piece: bytes) -> None:
        """Write a piece, and watch the room. Raises ``InstallError``: there is no more."""
        try:
            work.put(place, piece)
            if work.unsaved_bytes >= self._checkpoint_bytes:
                work.checkpoint()
                self._make_room(work.file, 0)
        except OSError as error:
            if error.errno in _NO_ROOM:
                missing, free = work.file.length - work.hashes.length, self._files.free_bytes(self._directory)
                raise InstallError(self._no_room(work.file, missing, free)) from error
            raise


class _Work:
    """A download under way: the partial file and its record. Blocking."""

    def __init__(self, files: Files, directory: Path, file: FileFacts) -> None:
        """Take up what is there, hashing it again. Raises ``OSError``."""
        self._files, self.file = files, file
        name = strongest_known(file)
        self._part, self._record, self._whole = (directory / (name + kind) for kind in (PART, RECORD, WHOLE))
        files.make_directory(directory)
        offset = self._durable()
        self.hashes = Hashes(file)
        if not offset:
            self.drop()
        self._out = files.open(self._part, create=True)
        if not hash_range(self._out, self.hashes, offset):  # the disk lost what it had promised
            self.close()
            self.drop()
            self._out, self.hashes = files.open(self._part, create=True), Hashes(file)
        self._saved = self.hashes.length

    def _durable(self) -> int:
        """How much of the partial file can be relied upon."""
        try:
            record = msgspec.json.decode(self._files.read(self._record), type=_Record)
        except FileNotFoundError:
            return 0
        except (msgspec.DecodeError, UnicodeDecodeError):
            return 0
        fits = record.length == self.file.length and 0 <= record.offset <= record.length
        return record.offset if fits and self._files.exists(self._part) else 0

    @property
    def unsaved_bytes(self) -> int:
        """Written since the last checkpoint."""
        return self.hashes.length - self._saved

    def put(self, place: int, piece: bytes) -> None:
        """The next piece."""
        assert place == self.hashes.length  # pieces come without gaps
        self._out.write_at(place, piece)
        self.hashes.update(piece)

    def checkpoint(self) -> None:
        """A cut from here on costs nothing of what came before."""
        if self.unsaved_bytes:
            self._out.sync()
            length = self.hashes.length
            replace_content(self._files, self._record, msgspec.json.encode(_Record(self.file.length, length)))
            self._saved = length

    def finish(self) -> None:
        """It is whole: give it its name, once the disk gives it back as it was written."""
        self._out.sync()
        self._out.drop_cache()
        if not is_whole(self._out, self.file):
            self.drop()
            raise OSError(errno.EIO, "the disk does not give back what was written")
        self._files.replace(self._part, self._whole)
        self._files.sync_directory(self._whole.parent)
        for name in _leftovers(self._record):
            self._files.remove(name)

    def drop(self) -> None:
        """Give back the room."""
        if self._files.exists(self._record) or self._files.exists(self._part):
            self._files.remove(self._record)
            self._files.remove(self._part)
            self._files.sync_directory(self._part.parent)

    def close(self) -> None:
        """Close the file; it stays."""
        self._out.close()


def _leftovers(record: Path) -> tuple[Path, Path]:
    """What a whole file needs no longer: its record, and one that a cut kept from becoming it."""
    return record, record.with_name(f".{record.name}.new")


def _key(file: FileFacts) -> tuple[str, int, frozenset[tuple[str, str]]]:
    return strongest_known(file), file.length, frozenset(file.hashes.items())
