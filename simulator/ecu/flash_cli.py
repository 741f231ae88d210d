"""``outrider sim image``: build a signed image for a simulated ECU."""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from simulator.ecu.description import ecu_names, load_description
from simulator.ecu.flash_image import TEST_KEY, ImageError, ImageHeader, make_image, parse_header

MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
_SIZE = re.compile(r"(\d+)([kKmM]?)")


def parse_size(text: str) -> int:
    """Bytes from ``4096``, ``256k`` or ``1M``.

    Raises:
        ValueError: not of that form, zero, or more than 64 MiB.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r}: expected a number of bytes such as 4096, 256k or 1M")
    size = int(match[1]) * {"": 1, "k": 1024, "m": 1024**2}[match[2].lower()]
    if not 0 < size <= MAX_PAYLOAD_BYTES:
        raise ValueError(f"{text}: 1 byte to 64M")
    return size


def add_image_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to those of ``outrider sim``."""
    parser = subparsers.add_parser("image", help="build a signed image to program a simulated ECU with")
    parser.add_argument("--ecu", required=True, metavar="NAME", help=f"one of {', '.join(ecu_names())}, or any name")
    parser.add_argument("--version", required=True, metavar="TEXT", help="software version, at most 16 characters")
    content = parser.add_mutually_exclusive_group()
    content.add_argument("--size", default="64k", metavar="BYTES", help="of a made-up payload; default 64k")
    content.add_argument("--payload", type=Path, metavar="FILE", help="the payload")
    parser.add_argument("--key", type=Path, metavar="FILE", help="Ed25519 private key, PEM; default: the test key")
    parser.add_argument("--hardware", metavar="TEXT", help="hardware identifier; default: the ECU's own")
    parser.add_argument("--part", metavar="TEXT", help="part number")
    parser.add_argument("--compatibility", type=int, default=1, metavar="N", help="must equal that of the data set")
    parser.add_argument("--address", type=lambda text: int(text, 0), metavar="N", help="default: the application's")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.set_defaults(run=image_command)


def image_command(args: argparse.Namespace) -> int:
    """``outrider sim image``."""
    try:
        key = TEST_KEY if args.key is None else _load_key(args.key)
        if args.payload is not None:
            payload = args.payload.read_bytes()
        else:
            payload = made_up_payload(f"{args.ecu} {args.version}", parse_size(args.size))
        image = make_image(
            args.ecu, args.version, payload, key, hardware_id=args.hardware, part=args.part,
            compatibility=args.compatibility, address=args.address,
        )  # fmt: skip
        header = parse_header(image)
        _check_size(header)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}", os.EX_NOINPUT)
    except (ImageError, ValueError) as error:
        return _fail(error, os.EX_DATAERR)
    try:
        args.out.write_bytes(image)
    except OSError as error:
        return _fail(f"{args.out}: {error.strerror}", os.EX_CANTCREAT)
    print(
        f"{args.out}  {header.ecu} {header.version} for {header.hardware_id}, {len(image)} bytes at {header.address:#x}"
    )
    return os.EX_OK


def _check_size(header: ImageHeader) -> None:
    """Raises ``ImageError`` when a shipped ECU's memory is too small for the image."""
    if header.ecu not in ecu_names():
        return
    for region in load_description(header.ecu).memory.regions:
        if region.start == header.address and header.image_bytes > region.bytes:
            raise ImageError(f"{header.image_bytes} bytes do not fit into {region.name}, {region.bytes} bytes")


def made_up_payload(seed: str, size: int) -> bytes:
    """The same bytes for the same seed; half of them compress well, as those of real software do."""
    draw = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        out += draw.randbytes(512) + bytes([draw.randrange(256)]) * 512
    return bytes(out[:size])


def _load_key(path: Path) -> Ed25519PrivateKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path}: not an Ed25519 private key")
    return key


def _fail(error: object, status: int) -> int:
    print(f"outrider sim image: {error}", file=sys.stderr)
    return status
