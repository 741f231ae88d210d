"""Where image files are kept. The port is small enough for an object store: parts by offset, then one final name.

An object store's adapter would map an upload to a multipart upload, ``finish`` to its completion after a streamed hash,
and ``read`` to a ranged GET; ``local`` to a cached download for those who need a file (delta builder, bundles).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Protocol

import msgspec

from cloud.errors import Conflict, DamagedFile, NotFound, Unavailable

CHUNK_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StoredFile(msgspec.Struct, frozen=True):
    """What was stored."""

    length: int
    sha256: str
    sha512: str


class ImageStore(Protocol):
    """Files by their SHA-256, and uploads on their way there. All calls block; run them in a thread."""

    def received(self, upload: int) -> int:
        """Bytes that an upload has so far; 0 for one that has not begun."""

    def write(self, upload: int, offset: int, data: bytes) -> int:
        """Put bytes into an upload, at most at its end; the bytes it has now.

        Raises:
            Conflict: ``offset`` is beyond what was received.
            Unavailable: the disk is full.
        """

    def finish(self, upload: int) -> StoredFile:
        """Hash the upload and keep it under its hash, durably; idempotent for equal content.

        Raises:
            NotFound: nothing was uploaded.
            Unavailable: the disk is full.
        """

    def adopt(self, path: Path) -> StoredFile:
        """Take over a file of this machine (it is moved). Raises as ``finish``."""

    def abandon(self, upload: int) -> None:
        """Forget an upload."""

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        """Bytes of a stored file; fewer at its end. Raises ``DamagedFile``: it is not there."""

    def local(self, sha256: str) -> Path:
        """A file on this machine with the content; not to be changed. Raises ``DamagedFile``."""

    def remove(self, sha256: str) -> None:
        """Forget a stored file."""

    def check_room(self, length: int) -> None:
        """Raises ``Unavailable``: there is no room for so many bytes more."""


class DiskImageStore:
    """A directory: ``ab/<sha256>`` and ``partial/<upload>``."""

    def __init__(self, directory: Path, *, min_free_bytes: int = 0) -> None:
        self._directory, self._min_free_bytes = directory, min_free_bytes

    def received(self, upload: int) -> int:
        """See ``ImageStore``."""
        try:
            return self._partial(upload).stat().st_size
        except FileNotFoundError:
            return 0

    def write(self, upload: int, offset: int, data: bytes) -> int:
        """See ``ImageStore``. What was half written when the disk filled up is cut off again."""
        path = self._partial(upload)
        have = self.received(upload)
        if offset > have:
            raise Conflict(f"{have} bytes were received; the next must begin at or before {have}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0) as file:
                try:
                    file.seek(offset)
                    rest = memoryview(data)
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError:
                    file.truncate(max(have, offset))
                    raise
        except OSError as error:
            raise _translated(error) from error
        return max(have, offset + len(data))

    def finish(self, upload: int) -> StoredFile:
        """See ``ImageStore``."""
        path = self._partial(upload)
        if not path.exists():
            raise NotFound("nothing was uploaded")
        return self.adopt(path)

    def adopt(self, path: Path) -> StoredFile:
        """See ``ImageStore``."""
        try:
            with path.open("rb") as file:
                first, second, length = hashlib.sha256(), hashlib.sha512(), 0
                while chunk := file.read(CHUNK_BYTES):
                    first.update(chunk)
                    second.update(chunk)
                    length += len(chunk)
                os.fsync(file.fileno())
            stored = StoredFile(length, first.hexdigest(), second.hexdigest())
            final = self._final(stored.sha256)
            final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _move(path, final)
            for folder in (final.parent, self._directory):
                _sync_folder(folder)
        except OSError as error:
            raise _translated(error) from error
        return stored

    def abandon(self, upload: int) -> None:
        """See ``ImageStore``."""
        self._partial(upload).unlink(missing_ok=True)

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        """See ``ImageStore``."""
        try:
            handle = os.open(self._final(sha256), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(handle, length, offset)
            finally:
                os.close(handle)
        except OSError as error:
            raise DamagedFile(f"image {sha256[:12]}: {error.strerror}") from error

    def local(self, sha256: str) -> Path:
        """See ``ImageStore``."""
        path = self._final(sha256)
        if not path.is_file():
            raise DamagedFile(f"image {sha256[:12]} is not in {self._directory}")
        return path

    def remove(self, sha256: str) -> None:
        """See ``ImageStore``."""
        self._final(sha256).unlink(missing_ok=True)

    def check_room(self, length: int) -> None:
        """See ``ImageStore``."""
        place = next(path for path in (self._directory, *self._directory.parents) if path.is_dir())
        free = shutil.disk_usage(place).free
        if free - self._min_free_bytes < length:
            text = f"{length} bytes do not fit: {free} are free, of which {self._min_free_bytes} are kept free"
            raise Unavailable(text, retry_after_s=600)

    def _partial(self, upload: int) -> Path:
        return self._directory / "partial" / str(int(upload))

    def _final(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise ValueError("not a SHA-256")
        return self._directory / sha256[:2] / sha256


def _move(path: Path, final: Path) -> None:
    """Rename, or copy where the file is on another file system."""
    try:
        os.replace(path, final)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = final.with_name(f".{final.name}")
        shutil.copyfile(path, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, final)
        path.unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _translated(error: OSError) -> Unavailable:
    if error.errno in _NO_ROOM:
        return Unavailable("the disk is full", retry_after_s=600)
    return Unavailable(f"the image store cannot be written: {error.strerror}", retry_after_s=60)
