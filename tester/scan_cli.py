"""``outrider uds scan services|sessions|dids|routines``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tester import scan
from tester.access import add_access, prepare, wanted_of
from tester.connect import Bench
from tester.ecus_cli import parse_range
from tester.errors import RefusedError
from tester.options import add_connection
from tester.output import note, say, say_json, table
from tester.running import chosen, on_bench
from tester.vehicle import Ecu

DID_RANGES = ("0100-04FF", "F100-F2FF")
ROUTINE_RANGES = ("0200-02FF", "E200-E20F", "FF00-FF0F")


def add_scan_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds scan``."""
    parser = subparsers.add_parser(
        "scan", help="find out what an ECU has, without doing anything",
        description="Find services, sessions, identifiers and routines of an ECU. Never sends clear, reset, write, "
        "control, transfer or a key, unless --unsafe and --write both say so.",
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, words, has_range in (
        ("services", "which services answer", False),
        ("sessions", "which sessions exist, without entering them", False),
        ("dids", "which identifiers exist", True),
        ("routines", "which routines exist, by asking for results (31 03)", True),
    ):
        one = verbs.add_parser(verb, help=words, description=words[0].upper() + words[1:] + ".")
        if has_range:
            usual = " ".join(DID_RANGES if verb == "dids" else ROUTINE_RANGES)
            one.add_argument("--range", action="append", metavar="FIRST-LAST", help=f"default {usual}")
        else:
            one.add_argument("--unsafe", action="store_true",
                             help="also try services that may act on a sloppy ECU" if verb == "services" else
                             "really enter each session, programming too")  # fmt: skip
        one.add_argument("--write", action="store_true", help="needed with --unsafe and with --unlock")
        add_connection(one, ecu="one")
        add_access(one)
        one.set_defaults(run=on_bench(_scan))


def _progress(args: argparse.Namespace) -> scan.Progress:
    if args.json or not sys.stderr.isatty():
        return scan.quiet

    def show(done: int, total: int) -> None:
        if done % 16 == 0:
            print(f"\r{100 * done // max(1, total):3d} %", end="\r", file=sys.stderr, flush=True)

    return show


def _numbers(ranges: Sequence[str]) -> list[int]:
    return sorted({number for text in ranges for number in parse_range(text, 0xFFFF)})


async def _scan(args: argparse.Namespace, bench: Bench) -> int:
    [ecu] = await chosen(args, bench)
    unsafe = bool(getattr(args, "unsafe", False))
    if (unsafe or args.unlock) and not args.write:
        raise RefusedError(f"{'--unsafe' if unsafe else '--unlock'} may change the ECU; add --write to do it")
    client = await bench.client(ecu)
    await prepare(ecu, client, None, wanted_of(args, ecu))
    progress, untried = _progress(args), list[int]()
    if args.verb == "services":
        found, untried = await scan.services(client, unsafe=unsafe, progress=progress)
        described: set[int] | None = set(ecu.services) or None
    elif args.verb == "sessions":
        found = await scan.sessions(ecu, client, enter=unsafe, progress=progress)
        described = set(ecu.sessions) or None
    elif args.verb == "dids":
        found = await scan.dids(ecu, client, _numbers(args.range or DID_RANGES), progress)
        described = set(ecu.dids) or None
    else:
        found = await scan.routines(ecu, client, _numbers(args.range or ROUTINE_RANGES), progress)
        described = set(ecu.routines) or None
    _show(args, ecu, found, untried, described)
    return 0


def _show(
    args: argparse.Namespace, ecu: Ecu, found: Sequence[scan.Item], untried: Sequence[int], described: set[int] | None
) -> None:
    width = 4 if args.verb in ("dids", "routines") else 2
    if args.json:
        say_json({
            "ecu": ecu.name, "scan": args.verb,
            "found": [{"number": f"{i.number:0{width}X}", "name": i.name, "answer": i.answer,
                       "nrc": None if i.nrc is None else f"{i.nrc:02X}",
                       "described": None if described is None else i.number in described} for i in found],
            "not_tried": [f"{sid:02X}" for sid in untried],
        })  # fmt: skip
        return
    rows = [
        (f"{i.number:0{width}X}", i.name or "-", i.answer,
         "" if described is None or i.number in described else "not in the vehicle file") for i in found
    ]  # fmt: skip
    say(table(rows) if rows else f"{ecu.name}: none found")
    if untried:
        note(f"not tried, because they may act: {' '.join(f'{sid:02X}' for sid in untried)}")
