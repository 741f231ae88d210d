"""Taking an image from a ``Fetcher``: cut into pieces at known places, every listed hash made on the way (V4).

Who writes it, to a file or a slot, is not decided here: ``pieces`` is for both.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator

import anyio

from bootctl.files import BlockFile
from gateway.errors import TransportError
from gateway.update.model import AttackError
from gateway.update.ports import Fetcher
from gateway.uptane.fetch import check_file, endless
from gateway.wire.uptane import FileFacts

PIECE_BYTES = 1024 * 1024


class Hashes:
    """All hashes of one file, made while it passes by."""

    def __init__(self, file: FileFacts) -> None:
        """Begin. Raises ``AttackError``: there is none, or one that cannot be checked."""
        check_file(file)
        self._file, self.length = file, 0
        self._makers = {name: hashlib.new(name) for name in file.hashes}

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes. Long ones let other threads run."""
        self.length += len(data)
        for maker in self._makers.values():
            maker.update(data)

    def mismatch(self) -> str:
        """ "" when length and all hashes are right, else what is wrong."""
        if self.length != self._file.length:
            return f"{self._file.filename}: {self.length} bytes instead of {self._file.length}"
        wrong = [name for name, maker in self._makers.items() if maker.hexdigest() != self._file.hashes[name]]
        return f"{self._file.filename}: another content, its {' and '.join(wrong)} differs" if wrong else ""

    def check(self) -> None:
        """Make sure that it is the file. Raises ``AttackError``: arbitrary software."""
        if wrong := self.mismatch():
            raise AttackError("arbitrary software", "V4", wrong)


def hash_range(file: BlockFile, hashes: Hashes, end: int) -> bool:
    """Take what is on disk before ``end`` into account. Blocking.

    Returns:
        Whether the file was that long.

    Raises:
        OSError: it cannot be read.
    """
    while hashes.length < end:
        data = file.read_at(hashes.length, min(PIECE_BYTES, end - hashes.length))
        if not data:
            return False
        hashes.update(data)
    return True


def is_whole(file: BlockFile, facts: FileFacts) -> bool:
    """Whether a file is what its facts say: length and every hash. Blocking. Raises ``OSError``."""
    hashes = Hashes(facts)
    return file.size() == facts.length and hash_range(file, hashes, facts.length) and not hashes.mismatch()


async def pieces(
    fetcher: Fetcher, file: FileFacts, offset: int, size: int = PIECE_BYTES
) -> AsyncGenerator[tuple[int, bytes], None]:
    """The image from ``offset`` on as (place, bytes): ``size`` bytes each, the last one less.

    Close it (``contextlib.aclosing``) when it is not read to its end, so that the connection goes at once.

    Raises:
        AttackError, TransportError: as ``Fetcher.target``; also when a fetcher gives more or less than the length.
    """
    place, piece = offset, bytearray()
    chunks = fetcher.target(file, offset)
    try:
        async for chunk in chunks:
            piece += chunk
            if place + len(piece) > file.length:
                raise endless(f"{file.filename}: more than its {file.length} bytes", "V4")
            while len(piece) >= size:
                whole = bytes(piece[:size])
                del piece[:size]
                yield place, whole
                place += size
        if place + len(piece) < file.length:
            raise TransportError(f"{file.filename}: ended after {place + len(piece)} of {file.length} bytes")
        if piece:
            yield place, bytes(piece)
    finally:
        if isinstance(chunks, AsyncGenerator):
            with anyio.CancelScope(shield=True):
                await chunks.aclose()
