"""``outrider uds memory read|write``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gateway.uds.client import UdsClient
from gateway.uds.errors import NegativeResponse
from tester.access import add_access, plan, prepare, wanted_of
from tester.connect import Bench
from tester.errors import FileError, RefusedError, UsageError
from tester.options import add_connection, add_write, hex_number
from tester.output import note, say, say_json
from tester.running import chosen, need_write, on_bench
from tester.values import parse_hex
from tester.vehicle import Access, Ecu

PIECE_BYTES = 1024
MOST_BYTES = 16 * 1024 * 1024


def add_memory_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds memory``."""
    parser = subparsers.add_parser("memory", help="memory by address: read, write",
                                   description="Memory of an ECU by address (23, 3D).")  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    one = verbs.add_parser("read", help="read bytes", description="Read memory; a hexadecimal dump, or a file.")
    one.add_argument("address", type=hex_number(1 << 40), metavar="ADDRESS", help="hexadecimal")
    one.add_argument("size", type=byte_count, metavar="BYTES", help="how many (0x100 or 256)")
    one.add_argument("--out", metavar="FILE", help="write the bytes there")
    _add_common(one)
    one.add_argument("--write", action="store_true", help="needed with --unlock: a wrong key counts at the ECU")
    one.set_defaults(run=on_bench(_read))
    two = verbs.add_parser("write", help="write bytes",
                           description="Write a piece of memory, and read it back.")  # fmt: skip
    two.add_argument("address", type=hex_number(1 << 40), metavar="ADDRESS", help="hexadecimal")
    two.add_argument("content", nargs="*", metavar="HEX", help="the bytes")
    two.add_argument("--file", metavar="FILE", help="the bytes of this file")
    _add_common(two)
    add_write(two)
    two.set_defaults(run=on_bench(_write))


def byte_count(text: str) -> int:
    """For argparse: ``256`` or ``0x100``."""
    try:
        return int(text, 0)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes") from error


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address-bytes", type=int, choices=range(1, 6), default=4, help="width of addresses (4)")
    parser.add_argument("--size-bytes", type=int, choices=range(1, 5), default=2, help="width of sizes (2)")
    add_connection(parser, ecu="one")
    add_access(parser)


def region_access(ecu: Ecu, address: int, size: int, *, to_write: bool) -> Access | None:
    """What the vehicle file says of the region."""
    for region in ecu.memory:
        if region.start <= address and address + size <= region.start + region.bytes:
            return region.write if to_write else region.read
    return None


def hex_dump(address: int, content: bytes) -> str:
    """Sixteen bytes a line, with the printable ones."""
    lines = []
    for at in range(0, len(content), 16):
        row = content[at : at + 16]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{address + at:08X}  {row.hex(' ').upper():<47}  {shown}")
    return "\n".join(lines)


async def _pieces(args: argparse.Namespace, client: UdsClient, address: int, size: int) -> bytes:
    most = min(PIECE_BYTES, (1 << 8 * args.size_bytes) - 1)
    content = bytearray()
    while len(content) < size:
        count = min(most, size - len(content))
        content += await client.read_memory(address + len(content), count, args.address_bytes, args.size_bytes)
    return bytes(content)


async def _read(args: argparse.Namespace, bench: Bench) -> int:
    if not 1 <= args.size <= MOST_BYTES:
        raise UsageError(f"1 to {MOST_BYTES} bytes")
    [ecu] = await chosen(args, bench)
    wanted = wanted_of(args, ecu)
    access = region_access(ecu, args.address, args.size, to_write=False)
    level = wanted.level or (access.security if access else None)
    if level is not None and not args.write:
        raise RefusedError(f"needs security level {level:02X}, and a wrong key counts; add --write to open it")
    client = await bench.client(ecu)
    await prepare(ecu, client, access or Access(), wanted)
    content = await _pieces(args, client, args.address, args.size)
    if args.out:
        try:
            Path(args.out).write_bytes(content)
        except OSError as error:
            failure = FileError(args.out, error.strerror or str(error))
            failure.status = 73
            raise failure from error
        note(f"{len(content)} bytes in {args.out}")
    if args.json:
        say_json({"ecu": ecu.name, "address": f"{args.address:08X}", "bytes": len(content),
                  "content": content.hex().upper()})  # fmt: skip
    elif not args.out:
        say(hex_dump(args.address, content))
    return 0


async def _write(args: argparse.Namespace, bench: Bench) -> int:
    if bool(args.content) == bool(args.file):
        raise UsageError("give the bytes, or --file")
    try:
        content = Path(args.file).read_bytes() if args.file else parse_hex(" ".join(args.content))
    except OSError as error:
        raise FileError(args.file, error.strerror or str(error), is_missing=True) from error
    if not 1 <= len(content) <= PIECE_BYTES:
        raise UsageError(
            f"{len(content)} bytes: 1 to {PIECE_BYTES} at a time; larger pieces are for `outrider uds flash`"
        )
    [ecu] = await chosen(args, bench)
    wanted = wanted_of(args, ecu)
    access = region_access(ecu, args.address, len(content), to_write=True)
    steps = plan(ecu, access, wanted)
    what = f"write {len(content)} bytes at {args.address:08X} of {ecu.name}" + (f" ({steps})" if steps else "")
    if not need_write(args, what):
        return 0
    client = await bench.client(ecu)
    await prepare(ecu, client, access or Access(), wanted)
    await client.write_memory(args.address, content, args.address_bytes, args.size_bytes)
    try:
        found = await _pieces(args, client, args.address, len(content))
    except NegativeResponse:  # memory that may be written and not read
        found = None
    if args.json:
        verdict = None if found is None else found == content
        say_json({"ecu": ecu.name, "address": f"{args.address:08X}", "written": content.hex().upper(),
                  "verified": verdict})  # fmt: skip
    else:
        proof = "cannot be read back" if found is None else "read back" if found == content else "READS DIFFERENTLY"
        say(f"{ecu.name}: {len(content)} bytes written at {args.address:08X}, {proof}")
    return 0 if found in (None, content) else 1
