"""What an ECU image says is to be written where: signed images of ours, Intel HEX, S-records, raw bytes.

The content tells the format. Raw bytes and our images are read piece by piece; the two text formats are small and are
read whole. Nothing here says that an image is the right one: that was verified before, and the ECU checks again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

import msgspec

from gateway.update.model import InstallError

IMAGE_MAGIC = b"ORIM"
IMAGE_HEADER_BYTES = 256
_ADDRESS_AT = 72  # of the header; a big-endian word
MAX_TEXT_BYTES = 32 * 1024 * 1024
MAX_PARTS = 256
ADDRESS_LIMIT = 1 << 32


class Content(Protocol):
    """An image on disk; ``bootctl.files.BlockFile`` is one."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``; fewer at the end. Raises ``OSError``."""

    def size(self) -> int:
        """Bytes in all. Raises ``OSError``."""


class Bytes:
    """``Content`` in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read_at(self, offset: int, length: int) -> bytes:
        """See ``Content``."""
        return self._content[offset : offset + length]

    def size(self) -> int:
        """See ``Content``."""
        return len(self._content)


class Part(msgspec.Struct, frozen=True):
    """Bytes for consecutive addresses, ``start`` bytes into their content."""

    address: int
    length: int
    content: Content
    start: int = 0

    def read(self, offset: int, length: int) -> bytes:
        """All of ``length`` bytes from ``offset``, fewer only at the end of the part.

        Raises:
            InstallError: the disk gives less than it held when the image was verified.
        """
        wanted = min(length, self.length - offset)
        try:
            found = self.content.read_at(self.start + offset, wanted)
        except OSError as error:
            raise InstallError(f"the image cannot be read: {error}") from error
        if len(found) != wanted:
            raise InstallError(f"the image has only {len(found)} of {wanted} bytes at {offset}")
        return found


def read_image(content: Content, load_address: int | None) -> tuple[Part, ...]:
    """What goes where, in order of addresses.

    Args:
        content: the verified image.
        load_address: where raw bytes go; the other formats know it themselves.

    Raises:
        InstallError: empty, broken, or raw without an address.
    """
    try:
        size, head = content.size(), content.read_at(0, IMAGE_HEADER_BYTES)
    except OSError as error:
        raise InstallError(f"the image cannot be read: {error}") from error
    if not size:
        raise InstallError("the image is empty")
    if head.startswith(IMAGE_MAGIC):
        if size <= IMAGE_HEADER_BYTES:
            raise InstallError("the image ends within its header")
        return (_whole(content, size, int.from_bytes(head[_ADDRESS_AT : _ADDRESS_AT + 4], "big")),)
    if load_address is not None:
        return (_whole(content, size, load_address),)
    text = _text(content, size)
    if text.lstrip().startswith(":"):
        return _joined(list(_hex_pieces(text)))
    if re.match(r"\s*S[0-9]", text):
        return _joined(list(_srec_pieces(text)))
    raise InstallError("raw bytes, and the ECU has no load_address in the configuration")


def _whole(content: Content, size: int, address: int) -> Part:
    if address + size > ADDRESS_LIMIT:
        raise InstallError(f"{size} bytes at {address:#010x} go past 32-bit addresses")
    return Part(address, size, content)


def _text(content: Content, size: int) -> str:
    if size > MAX_TEXT_BYTES:
        raise InstallError(f"an image of {size} bytes as text; at most {MAX_TEXT_BYTES} are read")
    try:
        return content.read_at(0, size).decode("ascii")
    except UnicodeDecodeError:
        raise InstallError("raw bytes, and the ECU has no load_address in the configuration") from None
    except OSError as error:
        raise InstallError(f"the image cannot be read: {error}") from error


def _records(text: str, lead: int) -> Iterator[tuple[int, str, bytes]]:
    """Line number, its first ``lead`` characters, the bytes after them."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line:
            continue
        try:
            yield number, line[:lead], bytes.fromhex(line[lead:])
        except ValueError:
            raise InstallError(f"line {number} of the image is not hexadecimal") from None


def _hex_pieces(text: str) -> Iterator[tuple[int, bytes]]:
    base, ended = 0, False
    for number, lead, record in _records(text, 1):
        if ended or lead != ":" or len(record) < 5 or len(record) != record[0] + 5 or sum(record) & 0xFF:
            raise InstallError(f"line {number} of the image is no sound Intel HEX record")
        kind, data = record[3], record[4:-1]
        if kind == 0:
            yield base + int.from_bytes(record[1:3], "big"), data
        elif kind == 1:
            ended = True
        elif kind in (2, 4) and len(data) == 2:
            base = int.from_bytes(data, "big") << (4 if kind == 2 else 16)
        elif kind not in (3, 5):
            raise InstallError(f"line {number} of the image: Intel HEX record type {kind:02X} is not known")
    if not ended:
        raise InstallError("the end record of the image is missing")


def _srec_pieces(text: str) -> Iterator[tuple[int, bytes]]:
    widths = {"S1": 2, "S2": 3, "S3": 4}
    ended = False
    for number, kind, record in _records(text, 2):
        if ended or kind[0] != "S" or len(record) < 3 or len(record) != record[0] + 1 or sum(record) & 0xFF != 0xFF:
            raise InstallError(f"line {number} of the image is no sound S-record")
        width, body = widths.get(kind), record[1:-1]
        if width is not None:
            if len(body) < width:
                raise InstallError(f"line {number} of the image has no room for its address")
            yield int.from_bytes(body[:width], "big"), body[width:]
        elif kind in ("S7", "S8", "S9"):
            ended = True
        elif kind not in ("S0", "S5", "S6"):
            raise InstallError(f"line {number} of the image: {kind} records are not known")
    if not ended:
        raise InstallError("the end record of the image is missing")


def _joined(pieces: list[tuple[int, bytes]]) -> tuple[Part, ...]:
    """What touches becomes one part."""
    joined: list[tuple[int, bytearray]] = []
    for address, data in sorted((piece for piece in pieces if piece[1]), key=lambda piece: piece[0]):
        end = joined[-1][0] + len(joined[-1][1]) if joined else -1
        if address < end:
            raise InstallError(f"two records of the image are for address {address:#010x}")
        if address + len(data) > ADDRESS_LIMIT:
            raise InstallError(f"data at {address:#010x} go past 32-bit addresses")
        if address == end:
            joined[-1][1].extend(data)
        else:
            joined.append((address, bytearray(data)))
    if not 0 < len(joined) <= MAX_PARTS:
        raise InstallError(f"the image has {len(joined)} separate parts; 1 to {MAX_PARTS} can be written")
    return tuple(Part(address, len(data), Bytes(bytes(data))) for address, data in joined)
