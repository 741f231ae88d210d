"""``outrider dbc``: check, compile and show database files; decode logs with them."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from dbc.decode_cli import add_decode_command
from dbc.files import is_same_file, write_atomically
from dbc.load import LoadedDatabase, Severity, compile_databases, load_file
from dbc.load.report import as_json, counts, lines, summary
from dbc.load.show import message_json, message_layout, message_table, select
from dbc.manifest import MAGIC, Manifest, ManifestError, load_manifest


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The commands of the group."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_check(commands)
    _add_compile(commands)
    _add_show(commands)
    add_decode_command(commands)


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Say what is wrong with database files, by line, message and signal. Exit status 65 when something is lost."
    check = commands.add_parser("check", help="report the defects of DBC, KCD, SYM and ARXML files", description=text)
    check.add_argument("files", metavar="FILE", nargs="+", type=Path)
    levels = [severity.value for severity in Severity]
    check.add_argument("--level", choices=levels, default="note", help="the mildest defects to list (default: note)")
    check.add_argument("--json", action="store_true", help="the report as one JSON object")
    check.set_defaults(run=run_check)


def _add_compile(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Compile the databases of a vehicle's buses to the manifest that gateways and cloud work with."
    compile_ = commands.add_parser("compile", help="compile database files to a manifest", description=text)
    help_text = "a database of a bus; repeat for further files and buses"
    compile_.add_argument("--dbc", metavar="BUS=FILE", action="append", default=[], help=help_text)
    help_text = "a database of a bus that is called like the file"
    compile_.add_argument("files", metavar="FILE", nargs="*", help=help_text)
    compile_.add_argument("--out", metavar="MANIFEST", required=True, type=Path, help="the file to write")
    compile_.add_argument("--name", help="name of the manifest (default: that of the file written)")
    compile_.add_argument("--strict", action="store_true", help="write nothing when a file has errors; exit status 65")
    compile_.add_argument("--json", action="store_true", help="hash, counts and reports as one JSON object")
    compile_.set_defaults(run=run_compile)


def _add_show(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "List the messages of a database file or manifest, or lay out some of them with all their signals."
    show = commands.add_parser("show", help="show messages and signals of a database or manifest", description=text)
    show.add_argument("file", metavar="FILE|MANIFEST", type=Path)
    help_text = "lay out this message: a name, BUS.NAME or 0xID; * and ? in names; repeat for more"
    show.add_argument("--message", metavar="NAME", action="append", default=[], help=help_text)
    show.add_argument("--json", action="store_true", help="messages and signals as one JSON object")
    show.set_defaults(run=run_show)


def run_check(args: argparse.Namespace) -> int:
    """``outrider dbc check``."""
    status, reports = os.EX_OK, []
    for path in args.files:
        try:
            database = load_file(path)
        except OSError as error:
            print(_reason(error), file=sys.stderr)
            status = os.EX_NOINPUT
            continue
        if not database.sound and status == os.EX_OK:
            status = os.EX_DATAERR
        reports.append(as_json(database))
        if not args.json:
            print(summary(database))
            for line in lines(database, Severity(args.level)):
                print(line)
    if args.json:
        print(json.dumps({"files": reports}, indent=2))
    return status


def run_compile(args: argparse.Namespace) -> int:
    """``outrider dbc compile``."""
    try:
        buses = load_buses(args.dbc, args.files)
        manifest, reports = compile_databases(buses, args.name or args.out.stem)
    except OSError as error:
        print(_reason(error), file=sys.stderr)
        return os.EX_NOINPUT
    except ValueError as error:
        print(f"outrider dbc compile: {error}", file=sys.stderr)
        return os.EX_USAGE
    for report in reports:
        if is_same_file(Path(report.path), args.out):
            print(f"outrider dbc compile: --out {args.out} would replace {report.path}, which is read", file=sys.stderr)
            return os.EX_USAGE
    for report in reports:
        if not report.sound:
            print(f"{report.path}: {counts(report)}; 'outrider dbc check' tells all", file=sys.stderr)
            for line in lines(report, Severity.ERROR):
                print(line, file=sys.stderr)
    if not manifest.messages or (args.strict and not all(report.sound for report in reports)):
        reason = "there are errors" if manifest.messages else "there is no message to compile"
        print(f"outrider dbc compile: {reason}; {args.out} is not written", file=sys.stderr)
        return os.EX_DATAERR
    content = manifest.to_bytes()
    try:
        write_atomically(args.out, content)
    except OSError as error:
        print(_reason(error), file=sys.stderr)
        return os.EX_CANTCREAT
    _print_compiled(args, manifest, reports, len(content))
    return os.EX_OK


def _print_compiled(
    args: argparse.Namespace, manifest: Manifest, reports: Sequence[LoadedDatabase], size_bytes: int
) -> None:
    facts = {
        "manifest": str(args.out),
        "name": manifest.name,
        "hash": manifest.hash.hex(),
        "bytes": size_bytes,
        "buses": list(manifest.buses),
        "messages": len(manifest.messages),
        "signals": len(manifest.signals),
    }
    if args.json:
        print(json.dumps({**facts, "files": [as_json(report) for report in reports]}, indent=2))
        return
    for key, value in facts.items():
        print(f"{key:<9} {', '.join(value) if isinstance(value, list) else value}")


def run_show(args: argparse.Namespace) -> int:
    """``outrider dbc show``."""
    try:
        manifest = read_any(args.file)
    except OSError as error:
        print(_reason(error), file=sys.stderr)
        return os.EX_NOINPUT
    except ManifestError as error:
        print(error, file=sys.stderr)
        return os.EX_DATAERR
    messages = list(manifest.messages)
    if args.message:
        chosen = {id(message) for wanted in args.message for message in select(manifest, wanted)}
        messages = [message for message in messages if id(message) in chosen]
    if not messages:
        what = ", ".join(args.message) or "any message"
        print(f"{args.file}: does not have {what}", file=sys.stderr)
        return os.EX_DATAERR
    if args.json:
        content = {
            "name": manifest.name,
            "hash": manifest.hash.hex(),
            "buses": list(manifest.buses),
            "messages": [message_json(manifest, message) for message in messages],
        }
        print(json.dumps(content, indent=2))
    elif args.message:
        for number, message in enumerate(messages):
            print("\n" * bool(number) + "\n".join(message_layout(manifest, message)))
    else:
        print("\n".join(message_table(manifest)))
    return os.EX_OK


def load_buses(named: Sequence[str], files: Sequence[str | Path]) -> dict[str, list[LoadedDatabase]]:
    """Load databases given as ``BUS=FILE`` or as a bare file, by bus in the order given.

    A bare file is on the bus that is called like it, or on the buses it names itself (KCD, ARXML).

    Raises:
        OSError: a file cannot be read.
        ValueError: an argument is not ``BUS=FILE``, or there is none at all.
    """
    buses: dict[str, list[LoadedDatabase]] = {}
    for argument in named:
        bus, equals, path = argument.partition("=")
        if not (bus and equals and path):
            raise ValueError(f"--dbc {argument}: write BUS=FILE")
        buses.setdefault(bus, []).append(load_file(path))
    for file in files:
        database = load_file(file)
        names = database.buses if len(database.buses) > 1 else (bus_name(Path(file).stem),)
        for name in names:
            buses.setdefault(name, []).append(database)
    if not buses:
        raise ValueError("name at least one database")
    return buses


def bus_name(text: str) -> str:
    """A bus name made from a file name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text) or "bus"


def read_any(path: Path) -> Manifest:
    """A manifest file, or what a database file compiles to, with a word on stderr if it has errors.

    Raises:
        OSError: the file cannot be read.
        ManifestError: a damaged manifest.
    """
    with path.open("rb") as file:
        is_manifest = file.read(len(MAGIC) - 1) == MAGIC[:-1]
    if is_manifest:
        return load_manifest(path)
    manifest, reports = compile_databases(load_buses([], [path]), path.stem)
    for report in reports:
        if not report.sound:
            print(f"{report.path}: {counts(report)}; 'outrider dbc check' tells all", file=sys.stderr)
    return manifest


def _reason(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
