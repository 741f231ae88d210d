"""Files with software for an ECU, as what is written where: signed images, Intel HEX, S-records, raw bytes.

The content tells the format. Everything a file can check of itself is checked here (record checksums, the image's
CRC-32 and SHA-256, overlaps); whether an image was signed by the right one only the ECU can tell.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib

import msgspec

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_SEGMENTS = 4096
IMAGE_MAGIC = b"ORIM"
_HEADER = struct.Struct(">4sHH16s16s16s16sIII32sH")
_HEADER_VERSION, _HEADER_BYTES = 1, 256
_ADDRESS_LIMIT = 1 << 32


class ImageFileError(ValueError):
    """The file is not what it should be; the message says where."""


class Segment(msgspec.Struct, frozen=True):
    """Bytes for consecutive addresses."""

    address: int
    content: bytes

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.address + len(self.content)


class ImageHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a signed image says of itself. ``problems``: what in it does not fit together."""

    ecu: str
    hardware: str
    part: str
    version: str
    address: int
    payload_bytes: int
    compatibility: int
    problems: tuple[str, ...] = ()


class Firmware(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was understood. ``kind``: ``image``, ``hex``, ``srec`` or ``raw``."""

    kind: str
    segments: tuple[Segment, ...]
    header: ImageHeader | None = None
    sha256: str = ""  # of the file

    @property
    def total_bytes(self) -> int:
        """What is transferred."""
        return sum(len(segment.content) for segment in self.segments)


def read_firmware(content: bytes, *, address: int | None = None, name: str = "") -> Firmware:
    """Understand a file.

    Args:
        content: all of it.
        address: where raw bytes go; other formats know it themselves.
        name: its name; only the ending is used, to tell a broken HEX or S-record file from raw bytes.

    Raises:
        ImageFileError: it is broken, empty, too large, or raw without ``address``.
    """
    if not content:
        raise ImageFileError("the file is empty")
    if len(content) > MAX_FILE_BYTES:
        raise ImageFileError(f"{len(content)} bytes; at most {MAX_FILE_BYTES} are read")
    digest = hashlib.sha256(content).hexdigest()
    if content.startswith(IMAGE_MAGIC):
        header = read_header(content)
        if address is not None and address != header.address:
            raise ImageFileError(f"the image is made for {header.address:#010x}, not for {address:#x}")
        return Firmware(kind="image", segments=(Segment(header.address, content),), header=header, sha256=digest)
    kind = _text_kind(content, name)
    if kind and address is not None:
        raise ImageFileError("--address is for raw files; this one has addresses of its own")
    if kind:
        pieces = _hex_pieces(content) if kind == "hex" else _srec_pieces(content)
        segments = _joined(pieces)
    elif address is None:
        raise ImageFileError("neither an image nor Intel HEX nor S-records: raw bytes need --address")
    elif not 0 <= address <= _ADDRESS_LIMIT - len(content):
        raise ImageFileError(f"{len(content)} bytes at {address:#x} do not fit into 32-bit addresses")
    else:
        kind, segments = "raw", (Segment(address, content),)
    return Firmware(kind=kind, segments=segments, header=_header_inside(segments[0]), sha256=digest)


def _header_inside(first: Segment) -> ImageHeader | None:
    """Of an image that comes as HEX, S-records or raw bytes; None where it is none."""
    if not first.content.startswith(IMAGE_MAGIC):
        return None
    try:
        header = read_header(first.content)
    except ImageFileError:
        return None
    if header.address != first.address:
        problem = f"the image is made for {header.address:#010x}, the file puts it at {first.address:#010x}"
        return msgspec.structs.replace(header, problems=(*header.problems, problem))
    return header


def read_header(image: bytes) -> ImageHeader:
    """The header of a signed image, judged against what follows it.

    Raises:
        ImageFileError: shorter than a header, or of a version not known here.
    """
    if len(image) < _HEADER_BYTES:
        raise ImageFileError(f"an image of {len(image)} bytes has no whole header")
    fields = _HEADER.unpack_from(image)
    version, length, texts = fields[1], fields[2], fields[3:7]
    address, size, crc, digest, compatibility = fields[7:12]
    if (version, length) != (_HEADER_VERSION, _HEADER_BYTES):
        raise ImageFileError(f"image header version {version} of {length} bytes is not known")
    ecu, hardware, part, software = (raw.rstrip(b"\0").decode("ascii", "replace") for raw in texts)
    payload = image[_HEADER_BYTES:]
    problems = []
    if len(payload) != size:
        problems.append(f"the header announces {size} bytes, {len(payload)} follow")
    elif zlib.crc32(payload) != crc:
        problems.append("the CRC-32 of the content is wrong")
    elif hashlib.sha256(payload).digest() != digest:
        problems.append("the SHA-256 of the content is wrong")
    return ImageHeader(
        ecu=ecu, hardware=hardware, part=part, version=software, address=address, payload_bytes=size,
        compatibility=compatibility, problems=tuple(problems),
    )  # fmt: skip


def _text_kind(content: bytes, name: str) -> str:
    """``hex``, ``srec`` or nothing, by the first line that is not blank; by the name where that is unclear."""
    first = content.lstrip()[:12]
    if re.match(rb":[0-9A-Fa-f]{8}", first):
        return "hex"
    if re.match(rb"S[0-9][0-9A-Fa-f]{4}", first):
        return "srec"
    ending = name.lower().rpartition(".")[2]
    return {"hex": "hex", "ihex": "hex", "ihx": "hex", "s19": "srec", "s28": "srec", "s37": "srec", "srec": "srec",
            "mot": "srec"}.get(ending, "")  # fmt: skip


def _lines(content: bytes) -> list[tuple[int, str]]:
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        raise ImageFileError(f"byte {error.start} is not text") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _record(number: int, digits: str) -> bytes:
    try:
        if re.fullmatch(r"[0-9A-Fa-f]+", digits) is None:
            raise ValueError
        return bytes.fromhex(digits)
    except ValueError as error:
        raise ImageFileError(f"line {number}: not pairs of hexadecimal digits") from error


def _hex_pieces(content: bytes) -> list[tuple[int, bytes]]:
    pieces: list[tuple[int, bytes]] = []
    base, ended = 0, False
    for number, line in _lines(content):
        if ended:
            raise ImageFileError(f"line {number}: something follows the end record")
        if not line.startswith(":"):
            raise ImageFileError(f"line {number}: does not begin with ':'")
        record = _record(number, line[1:])
        if len(record) < 5 or len(record) != record[0] + 5:
            raise ImageFileError(f"line {number}: the length does not fit")
        if sum(record) & 0xFF:
            raise ImageFileError(f"line {number}: wrong checksum")
        offset, kind, data = int.from_bytes(record[1:3], "big"), record[3], record[4:-1]
        if kind == 0x00:
            pieces.append((base + offset, data))
        elif kind == 0x01:
            ended = True
        elif kind in (0x02, 0x04) and len(data) == 2:
            base = int.from_bytes(data, "big") << (4 if kind == 0x02 else 16)
        elif kind not in (0x03, 0x05):  # where to start: not ours
            raise ImageFileError(f"line {number}: record type {kind:02X} is not known")
    if not ended:
        raise ImageFileError("the end record is missing: the file is cut off")
    return pieces


def _srec_pieces(content: bytes) -> list[tuple[int, bytes]]:
    widths = {"1": 2, "2": 3, "3": 4}
    pieces: list[tuple[int, bytes]] = []
    ended = False
    for number, line in _lines(content):
        if ended:
            raise ImageFileError(f"line {number}: something follows the end record")
        if re.fullmatch(r"S[0-9].*", line) is None:
            raise ImageFileError(f"line {number}: does not begin with S and a digit")
        record = _record(number, line[2:])
        if len(record) < 3 or len(record) != record[0] + 1:
            raise ImageFileError(f"line {number}: the length does not fit")
        if sum(record) & 0xFF != 0xFF:
            raise ImageFileError(f"line {number}: wrong checksum")
        kind, body = line[1], record[1:-1]
        if kind in widths:
            if len(body) < widths[kind]:
                raise ImageFileError(f"line {number}: no room for the address")
            pieces.append((int.from_bytes(body[: widths[kind]], "big"), body[widths[kind] :]))
        elif kind in "56" and int.from_bytes(body, "big") != len(pieces):
            raise ImageFileError(f"line {number}: {int.from_bytes(body, 'big')} records announced, {len(pieces)} came")
        elif kind in "789":
            ended = True
        elif kind == "4":
            raise ImageFileError(f"line {number}: S4 records are reserved")
    if not ended:
        raise ImageFileError("the end record is missing: the file is cut off")
    return pieces


def _joined(pieces: list[tuple[int, bytes]]) -> tuple[Segment, ...]:
    """In order of addresses, what touches in one."""
    joined: list[tuple[int, bytearray]] = []
    for address, data in sorted((piece for piece in pieces if piece[1]), key=lambda piece: piece[0]):
        if address + len(data) > _ADDRESS_LIMIT:
            raise ImageFileError(f"data at {address:#010x} goes past 32-bit addresses")
        end = joined[-1][0] + len(joined[-1][1]) if joined else -1
        if address < end:
            raise ImageFileError(f"two records for address {address:#010x}")
        if address == end:
            joined[-1][1].extend(data)
        else:
            joined.append((address, bytearray(data)))
    if not joined:
        raise ImageFileError("no data in it")
    if len(joined) > MAX_SEGMENTS:
        raise ImageFileError(f"{len(joined)} separate pieces; at most {MAX_SEGMENTS}")
    return tuple(Segment(address, bytes(data)) for address, data in joined)
