"""``outrider uds snapshot`` and ``outrider uds compare``: before and after."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from gateway.uds.client import UdsClient
from tester.compare import EcuEntry, VehicleSnapshot, differences, load_snapshot, read_ecu, snapshot_of
from tester.connect import Bench
from tester.errors import FileError
from tester.options import add_connection
from tester.output import error_json, note, say, say_json, table
from tester.running import chosen, conclude, for_each, guarded, on_bench
from tester.vehicle import Ecu

DIFFERENT = 1


def add_snapshot_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds snapshot``."""
    parser = subparsers.add_parser(
        "snapshot", help="keep what all ECUs tell, to compare later",
        description="Read identification, identifiers and faults of all ECUs into a file, by reading only.",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="write here (JSON); else to standard output")
    add_connection(parser)
    parser.set_defaults(run=on_bench(_snapshot))


def add_compare_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds compare``."""
    parser = subparsers.add_parser(
        "compare", help="what differs between two snapshots",
        description="Show what differs between two snapshots: ECUs, versions and other identification, faults. "
        "Exit status 0: the same, 1: not.",
    )  # fmt: skip
    parser.add_argument("before", type=Path, metavar="BEFORE")
    parser.add_argument("after", type=Path, metavar="AFTER")
    parser.add_argument("--values", action="store_true", help="also measured values")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=lambda args: guarded(args, lambda: _compare(args)))


async def take_snapshot(args: argparse.Namespace, bench: Bench) -> tuple[VehicleSnapshot, int]:
    """Of the chosen ECUs, and the exit status: that of the first that could not be read."""

    async def read(ecu: Ecu, client: UdsClient) -> EcuEntry:
        return await read_ecu(bench.vehicle, ecu, client)

    outcomes = await for_each(bench, await chosen(args, bench), read)
    entries = [
        o.value or EcuEntry(ecu=o.ecu.name, title=o.ecu.title, error=str(error_json(o.error or ValueError())["text"]))
        for o in outcomes
    ]
    return snapshot_of(bench.vehicle, entries), conclude(outcomes)


async def _snapshot(args: argparse.Namespace, bench: Bench) -> int:
    snapshot, status = await take_snapshot(args, bench)
    if args.out is None:
        say_json(msgspec.to_builtins(snapshot))
        return status
    try:
        args.out.write_bytes(msgspec.json.format(msgspec.json.encode(snapshot), indent=1) + b"\n")
    except OSError as error:
        failure = FileError(args.out, error.strerror or str(error))
        failure.status = 73
        raise failure from error
    note(f"{args.out}: {len(snapshot.ecus)} ECUs, {sum(len(e.dids) for e in snapshot.ecus)} identifiers, "
         f"{sum(len(e.dtcs) for e in snapshot.ecus)} faults")  # fmt: skip
    return status


def _compare(args: argparse.Namespace) -> int:
    before, after = load_snapshot(args.before), load_snapshot(args.after)
    found = differences(before, after, values=args.values)
    if args.json:
        say_json(
            {
                "before": {"taken_utc": before.taken_utc, "vin": before.vin},
                "after": {"taken_utc": after.taken_utc, "vin": after.vin},
                "differences": [msgspec.to_builtins(d) for d in found],
            }
        )
    elif found:
        if before.vin != after.vin:
            note(f"two vehicles: {before.vin or 'unknown'} and {after.vin or 'unknown'}")
        rows = [(d.ecu, d.item, d.name, d.before or "-", d.after or "-") for d in found]
        say(table(rows, ("ECU", "ITEM", "NAME", "BEFORE", "AFTER")))
    else:
        say("no difference")
    return DIFFERENT if found else 0
