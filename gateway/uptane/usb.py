"""``Fetcher`` over a directory, such as a USB stick, for vehicles without a link (PURE-2's idea).

The directory holds what the cloud would serve, as plain files::

    director/N.root.json, timestamp.json, N.snapshot.json, N.targets.json   made by the Director for this vehicle
    image/   N.root.json, timestamp.json, N.snapshot.json, N.targets.json, N.ROLE.json …
    targets/ folder/SHA256.name                                             images and deltas

A stick that serves several vehicles has ``director/VEHICLE/`` with the same files; where there is one for this vehicle,
nothing else of ``director/`` is looked at. Role names in file names are percent-encoded as TUF does it
(``3.supplier%2Fbrakes.json``).

Nothing on a stick is trusted: everything goes through the same verification as what comes from the cloud. Here it is
only read, within the same limits. Links are not followed, devices and pipes are not opened, and a stick that is pulled
is a ``TransportError``, never a missing file: "there is no newer root" must not be what a pulled stick says.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from gateway.errors import TransportError
from gateway.runtime.clock import Clock, SystemClock
from gateway.update.model import AttackError
from gateway.uptane.fetch import FetchLimits, SpeedWatch, check_metadata_name, endless, size_rule, slow, wire_name
from gateway.wire.uptane import FileFacts

PIECE_BYTES = 256 * 1024
_FOLDERS = ("director", "image")
T = TypeVar("T")


class DirectoryFetcher:
    """Reads a directory that may vanish at any moment. No file is held open between two reads."""

    def __init__(
        self, directory: Path, vehicle: str, limits: FetchLimits | None = None, *, clock: Clock | None = None
    ) -> None:
        """Make a fetcher; nothing is read yet.

        Args:
            directory: where the stick appears.
            vehicle: whose Director metadata to look for.
            limits: of patience; a stick that hangs is given up, too.
            clock: measures waiting.

        Raises:
            ValueError: the vehicle's id cannot be a folder's name.
        """
        if vehicle in ("", ".", "..") or "/" in vehicle:
            raise ValueError(f"{vehicle!r} is no vehicle's id")
        self._directory, self._vehicle = directory, vehicle
        self._limits, self._clock = limits or FetchLimits(), clock or SystemClock()

    async def metadata(self, repository: str, name: str, max_bytes: int) -> bytes | None:
        """See ``Fetcher``."""
        check_metadata_name(repository, name)
        watch, content = SpeedWatch(self._limits), bytearray()
        folder = await self._in_thread(partial(self._folder, repository), repository)
        parts = (*folder, name)
        what = "/".join(parts)
        while True:
            piece = await self._read(parts, len(content), max_bytes + 1 - len(content), watch)
            if piece is None and not content:
                return None
            size, data = piece or (-1, b"")
            content += data
            if max(size, len(content)) > max_bytes:
                raise endless(f"{what}: {size} bytes, at most {max_bytes} are taken", size_rule(name))
            if len(content) == size:
                return bytes(content)
            if not data or len(content) > size:
                raise TransportError(f"{what}: it changed while it was read")

    async def target(self, file: FileFacts, offset: int) -> AsyncGenerator[bytes, None]:
        """See ``Fetcher``."""
        parts, place, watch = ("targets", *wire_name(file).split("/")), offset, SpeedWatch(self._limits)
        what = "/".join(parts)
        while place < file.length:
            piece = await self._read(parts, place, min(PIECE_BYTES, file.length - place), watch)
            if piece is None:
                raise TransportError(f"{what}: there is no such file at {self._directory}")
            size, data = piece
            if size > file.length:
                raise endless(f"{what}: {size} bytes instead of {file.length}", "V4")
            if size < file.length:
                raise AttackError("arbitrary software", "V4", f"{what}: {size} bytes instead of {file.length}")
            if not data:
                raise TransportError(f"{what}: it ended after {place} of {size} bytes")
            place += len(data)
            yield data

    def is_there(self) -> bool:
        """Whether something that looks like a bundle is there. Blocking, and never raises."""
        try:
            return self._read_now((*self._folder("director"), "timestamp.json"), 0, 1) is not None
        except (TransportError, AttackError):
            return False

    def _folder(self, repository: str) -> tuple[str, ...]:
        """Where a repository's metadata is. Raises ``TransportError``: the stick is gone."""
        if repository == "director" and os.path.lexists(self._directory / repository / self._vehicle):
            return repository, self._vehicle
        self._check_there()
        return (repository,)

    async def _in_thread(self, work: Callable[[], T], what: str) -> T:
        """Do something with the stick, which may hang."""
        with anyio.move_on_after(self._limits.slow_s):
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        raise slow(f"{what}: nothing came for {self._limits.slow_s:.0f} s")

    async def _read(
        self, parts: Sequence[str], offset: int, length: int, watch: SpeedWatch
    ) -> tuple[int, bytes] | None:
        begun_ns, what = self._clock.monotonic_ns(), "/".join(parts)
        result = await self._in_thread(partial(self._read_now, parts, offset, min(length, PIECE_BYTES)), what)
        watch.heard(len(result[1]) if result else 0, self._clock.monotonic_ns() - begun_ns, what)
        return result

    def _read_now(self, parts: Sequence[str], offset: int, length: int) -> tuple[int, bytes] | None:
        """Size of the file and some of its bytes; None: it is not there, though the stick is.

        Raises:
            TransportError: the stick is gone or cannot be read.
            AttackError: it is no plain file below the directory.
        """
        what = "/".join(parts)
        try:
            handle = self._open(parts)
        except FileNotFoundError:
            self._check_there()
            return None
        except OSError as error:
            raise _unreadable(what, error) from error
        try:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                raise AttackError("arbitrary software", "R4", f"{what}: it is no plain file")
            return facts.st_size, os.pread(handle, length, offset)
        except OSError as error:
            raise _unreadable(what, error) from error
        finally:
            os.close(handle)

    def _open(self, parts: Sequence[str]) -> int:
        """Open step by step, so that no link on the way leads elsewhere."""
        place = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part, is_last in ((part, i == len(parts) - 1) for i, part in enumerate(parts)):
            kind = os.O_NONBLOCK if is_last else os.O_DIRECTORY
            try:
                inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=place)
            finally:
                os.close(place)
            place = inner
        return place

    def _check_there(self) -> None:
        """The stick is in, and has a bundle on it. Raises ``TransportError``."""
        for folder in _FOLDERS:
            try:
                mode = os.lstat(self._directory / folder).st_mode
            except OSError as error:
                raise TransportError(f"there is no bundle at {self._directory}: {folder}: {error.strerror}") from error
            if not stat.S_ISDIR(mode):
                raise TransportError(f"there is no bundle at {self._directory}: {folder} is no folder")


def _unreadable(what: str, error: OSError) -> TransportError | AttackError:
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
        return AttackError("arbitrary software", "R4", f"{what}: it is a link, or no file below the directory")
    return TransportError(f"{what}: {error.strerror or error}")
