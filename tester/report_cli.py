"""``outrider uds report``: an HTML file for the customer's folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from tester.compare import VehicleSnapshot, load_snapshot
from tester.compare_cli import take_snapshot
from tester.connect import Bench
from tester.errors import FileError
from tester.options import add_connection
from tester.output import note, say_json
from tester.report import render
from tester.running import on_bench
from tester.trace_cli import read_session


def add_report_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds report``."""
    parser = subparsers.add_parser(
        "report", help="an HTML report of the vehicle, to keep or print",
        description="Read all ECUs (or take a snapshot read before) and write one HTML file: vehicle, versions, faults "
        "with their circumstances, values, and on request the log of a session.",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the HTML file")
    parser.add_argument(
        "--from", type=Path, dest="source", metavar="SNAPSHOT", help="of `snapshot`, instead of reading"
    )
    parser.add_argument("--title", default="Diagnostic report", metavar="TEXT")
    parser.add_argument("--workshop", default="", metavar="TEXT", help="name and address of the workshop")
    parser.add_argument("--order", default="", metavar="TEXT", help="number of the order")
    parser.add_argument("--notes", default="", metavar="TEXT")
    parser.add_argument("--log", type=Path, metavar="FILE", help="a session that --trace recorded")
    add_connection(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.source is not None and not args.via:
        args.via = ["can:none"]  # nothing is opened
    return on_bench(_report)(args)


async def _report(args: argparse.Namespace, bench: Bench) -> int:
    snapshot: VehicleSnapshot
    if args.source is not None:
        snapshot, status = load_snapshot(args.source), 0
    else:
        snapshot, status = await take_snapshot(args, bench)
    log = read_session(args.log, bench.vehicle) if args.log else []
    page = render(snapshot, title=args.title, workshop=args.workshop, order=args.order, notes=args.notes, log=log)
    try:
        args.out.write_text(page, encoding="utf-8")
    except OSError as error:
        failure = FileError(args.out, error.strerror or str(error))
        failure.status = 73
        raise failure from error
    faults = sum(len(entry.dtcs) for entry in snapshot.ecus)
    if args.json:
        say_json({"report": str(args.out), "ecus": len(snapshot.ecus), "faults": faults})
    else:
        note(f"{args.out}: {len(snapshot.ecus)} ECUs, {faults} faults")
    return status
