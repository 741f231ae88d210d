"""``outrider uds odx``: a vehicle file from ODX data."""

from __future__ import annotations

import argparse
from pathlib import Path

from tester.errors import FileError, UsageError
from tester.odx import Import, import_odx
from tester.output import note, say, say_json, table
from tester.running import guarded
from tester.vehicle_write import to_toml


def add_odx_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds odx``."""
    parser = subparsers.add_parser(
        "odx",
        help="a vehicle file from ODX or PDX",
        description="Use what a maker's ODX data says: names, scalings, units, texts.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    one = verbs.add_parser("import", help="make a vehicle file from ODX or PDX")
    one.add_argument("file", type=Path, metavar="FILE", help=".pdx or .odx-d")
    one.add_argument("--out", type=Path, required=True, metavar="FILE", help="the vehicle TOML for --vehicle")
    one.add_argument("--address", action="append", default=[], metavar="ECU=REQUEST/RESPONSE",
                     help="CAN identifiers of an ECU, hexadecimal, e.g. engine=7E0/7E8")  # fmt: skip
    one.add_argument("--json", action="store_true", help="counts for machines")
    one.set_defaults(run=lambda args: guarded(args, lambda: _import(args)))


def _addresses(words: list[str]) -> dict[str, tuple[int, int]]:
    found = {}
    for word in words:
        name, _, pair = word.partition("=")
        request, _, response = pair.partition("/")
        try:
            found[name] = int(request, 16), int(response, 16)
        except ValueError as error:
            raise UsageError(f"--address {word}: expected ECU=REQUEST/RESPONSE, e.g. engine=7E0/7E8") from error
    return found


def _import(args: argparse.Namespace) -> int:
    found = import_odx(args.file, _addresses(args.address))
    try:
        args.out.write_text(to_toml(found.vehicle), encoding="utf-8")
    except OSError as error:
        failure = FileError(args.out, error.strerror or str(error))
        failure.status = 73
        raise failure from error
    if args.json:
        say_json(
            {
                "out": str(args.out), "services": found.services, "taken": found.taken, "ecus": _counts(found),
                "left_out": found.left_out,
            }
        )  # fmt: skip
        return 0
    rows = [(c["ecu"], c["dids"], c["routines"], c["dtcs"]) for c in _counts(found)]
    say(table(rows, ("ECU", "DIDS", "ROUTINES", "DTC TEXTS")))
    note(f"{args.out}: {found.taken} of {found.services} services taken")
    for reason, count in sorted(found.left_out.items(), key=lambda item: -item[1]):
        note(f"  left out: {count} {reason}, e.g. {found.examples[reason]}")
    return 0


def _counts(found: Import) -> list[dict[str, object]]:
    return [
        {"ecu": e.name, "dids": len(e.dids), "routines": len(e.routines), "dtcs": len(e.dtc_texts)}
        for e in found.vehicle.ecus
    ]
