"""Where the bytes of an image come from while a slot is written: the network, or a delta and the running slot."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from bootctl.files import BlockFile
from gateway.errors import GatewayError
from gateway.update.blocking import Offload
from gateway.update.model import AttackError, InstallError
from gateway.update.ports import Fetcher
from gateway.wire.uptane import DeltaOffer, FileFacts


class ImageSource(Protocol):
    """Gives an image in order, from a byte on."""

    def from_byte(self, offset: int) -> AsyncGenerator[tuple[int, bytes], None]:
        """Pieces (place, bytes), one after the other without a gap; the first may begin before ``offset``.

        Raises:
            AttackError, InstallError, TransportError: as an ``Installer``.
        """


class OpenDelta(Protocol):
    """A delta container over a base, ready to make segments."""

    segment_bytes: int
    target_sha256: str
    target_length: int

    def check_base(self) -> None:
        """The base is what the delta was made for. Blocks for long. Raises ``GatewayError``."""

    def segment(self, index: int) -> bytes:
        """Segment ``index`` of the target, its hash checked. Raises ``GatewayError``."""


#: Opens a delta: the container's file, the base device, what the Director offered.
DeltaOpener = Callable[[BlockFile, BlockFile, DeltaOffer], OpenDelta]


class FullImage:
    """The whole image from a ``Fetcher``, cut into segments."""

    def __init__(self, fetcher: Fetcher, image: FileFacts, segment_bytes: int) -> None:
        self._fetcher, self._image, self._segment_bytes = fetcher, image, segment_bytes

    async def from_byte(self, offset: int) -> AsyncGenerator[tuple[int, bytes], None]:
        """See ``ImageSource``. Holds one segment in memory."""
        place, segment = offset, bytearray()
        async for chunk in self._fetcher.target(self._image, offset):
            segment += chunk
            if place + len(segment) > self._image.length:
                raise AttackError("endless data", "N6", f"{self._image.filename}: more than {self._image.length} bytes")
            while len(segment) >= self._segment_bytes:
                piece = bytes(segment[: self._segment_bytes])
                del segment[: self._segment_bytes]
                yield place, piece
                place += len(piece)
        if segment:
            yield place, bytes(segment)
            place += len(segment)
        if place != self._image.length:
            message = f"{self._image.filename}: ended after {place} of {self._image.length} bytes"
            raise AttackError("arbitrary software", "N6", message)


class DeltaImage:
    """The image out of a verified delta file and the base on the running slot."""

    def __init__(self, delta: OpenDelta, image: FileFacts, offload: Offload) -> None:
        self._delta, self._image, self._offload = delta, image, offload

    async def check(self) -> None:
        """Before the first write: the delta makes this image, and the base is the right one.

        Raises:
            InstallError: it cannot be used; the full image can.
        """
        made = (self._delta.target_sha256, self._delta.target_length)
        if made != (self._image.hashes.get("sha256"), self._image.length) or self._delta.segment_bytes < 1:
            raise InstallError("the delta makes another image")
        try:
            await self._offload(self._delta.check_base)
        except (GatewayError, OSError) as error:
            raise InstallError(f"the delta's base: {error}") from error

    async def from_byte(self, offset: int) -> AsyncGenerator[tuple[int, bytes], None]:
        """See ``ImageSource``. Begins at the segment that ``offset`` is in."""
        size = self._delta.segment_bytes
        index = offset // size
        while (place := index * size) < self._image.length:
            number = index
            try:
                piece = await self._offload(lambda: self._delta.segment(number))  # noqa: B023  # awaited at once
            except (GatewayError, OSError, ValueError, MemoryError) as error:
                raise InstallError(f"the delta's segment {index}: {error}") from error
            if len(piece) != min(size, self._image.length - place):
                raise InstallError(f"the delta's segment {index} has {len(piece)} bytes")
            yield place, piece
            index += 1
