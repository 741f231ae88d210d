"""Images for the flash memory of simulated ECUs: a signed header, then the payload.

Layout, big endian, 256 bytes of header::

      0  4  magic "ORIM"          72  4  address the image is written to
      4  2  header version (1)    76  4  payload bytes
      6  2  header bytes (256)    80  4  CRC-32 of the payload
      8 16  ECU name              84 32  SHA-256 of the payload
     24 16  hardware identifier  116  2  compatibility number
     40 16  part number          118 74  zero
     56 16  software version     192 64  Ed25519 signature of bytes 0-191

All of it, header and payload, is downloaded to the address. Names are ASCII, padded with zero bytes.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from simulator.ecu.description import ecu_names, load_description

MAGIC = b"ORIM"
HEADER_VERSION = 1
HEADER_BYTES, SIGNED_BYTES = 256, 192
DEFAULT_ADDRESS = 0x00400000
SOFTWARE_NUMBER = 0xF188
_HEADER = struct.Struct(">4sHH16s16s16s16sIII32sH")
#: Signs images of the shipped ECUs. A test key: anyone can make it, so it protects nothing but the bench.
TEST_KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"outrider simulated ecus, test key").digest())


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes an ECU is given to check what ``key`` signed."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


class ImageError(ValueError):
    """Bytes that are no image, or fields that do not fit into one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What an image says of itself."""

    ecu: str
    hardware_id: str
    part: str
    version: str
    address: int
    payload_bytes: int
    crc32: int
    sha256: bytes
    compatibility: int

    @property
    def image_bytes(self) -> int:
        """Header and payload."""
        return HEADER_BYTES + self.payload_bytes


def default_hardware_id(ecu: str) -> str:
    """Of an ECU whose description names none."""
    return f"{ecu.upper()[:10]}-HW-1"


class _Shipped(NamedTuple):
    hardware_id: str
    part: str
    address: int


@cache
def _shipped(ecu: str) -> _Shipped:
    """What images for an ECU that ships say where nothing else is asked for; made up for any other name."""
    made_up = _Shipped(default_hardware_id(ecu), f"{ecu.upper()[:13]}-SW", DEFAULT_ADDRESS)
    if ecu not in ecu_names():
        return made_up
    description = load_description(ecu)
    flash = description.flash or {}
    application = next(iter(flash.get("regions", ())), "application")
    starts = [region.start for region in description.memory.regions if region.name == application]
    number = description.did(SOFTWARE_NUMBER)
    return _Shipped(
        hardware_id=flash.get("hardware_id") or made_up.hardware_id,
        part=made_up.part if number is None else str(number.fields[0].value),
        address=starts[0] if starts else DEFAULT_ADDRESS,
    )


def make_image(
    ecu: str,
    version: str,
    payload: bytes,
    key: Ed25519PrivateKey = TEST_KEY,
    *,
    address: int | None = None,
    hardware_id: str | None = None,
    part: str | None = None,
    compatibility: int = 1,
) -> bytes:
    """A signed image for one kind of ECU.

    Hardware identifier, part number and address are those of the shipped ECU unless given.

    Raises:
        ImageError: a text that is not ASCII or longer than 16 bytes, a number that does not fit, no payload.
    """
    hardware_id = _shipped(ecu).hardware_id if hardware_id is None else hardware_id
    address = _shipped(ecu).address if address is None else address
    part = _shipped(ecu).part if part is None else part
    if not payload:
        raise ImageError("an image needs a payload")
    texts = [_text(text) for text in (ecu, hardware_id, part, version)]
    digest = hashlib.sha256(payload).digest()
    try:
        head = _HEADER.pack(
            MAGIC,
            HEADER_VERSION,
            HEADER_BYTES,
            *texts,
            address,
            len(payload),
            zlib.crc32(payload),
            digest,
            compatibility,
        )
    except struct.error as error:
        raise ImageError(f"image of {ecu}: {error}") from error
    signed = head.ljust(SIGNED_BYTES, b"\x00")
    return signed + key.sign(signed) + payload


def _text(text: str) -> bytes:
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError as error:
        raise ImageError(f"{text!r} is not ASCII") from error
    if not 0 < len(raw) <= 16 or not text.isprintable():
        raise ImageError(f"{text!r}: 1 to 16 printable characters")
    return raw


def parse_header(image: bytes) -> ImageHeader:
    """The header at the start of ``image``; nothing is believed yet.

    Raises:
        ImageError: not an image, or of a version that is not known.
    """
    if len(image) < HEADER_BYTES or image[:4] != MAGIC:
        raise ImageError("no image header")
    _, version, length, ecu, hardware, part, software, address, size, crc, digest, compatibility = _HEADER.unpack_from(
        image
    )
    if (version, length) != (HEADER_VERSION, HEADER_BYTES):
        raise ImageError(f"image header version {version} with {length} bytes is not known")
    try:
        texts = [raw.rstrip(b"\x00").decode("ascii") for raw in (ecu, hardware, part, software)]
    except UnicodeDecodeError as error:
        raise ImageError("text that is not ASCII in the header") from error
    return ImageHeader(
        ecu=texts[0], hardware_id=texts[1], part=texts[2], version=texts[3], address=address, payload_bytes=size,
        crc32=crc, sha256=digest, compatibility=compatibility,
    )  # fmt: skip


def is_signed(image: bytes, public_key: bytes) -> bool:
    """Whether the header was signed by the owner of ``public_key``; says nothing of the payload."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(image[SIGNED_BYTES:HEADER_BYTES], image[:SIGNED_BYTES])
    except InvalidSignature:
        return False
    return True
