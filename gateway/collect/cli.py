"""``outrider scheme``: check collection schemes, tell in words what they do, and what they cost on a recorded log."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from dbc.frames import FrameBatch
from dbc.logs import LogError, MissingPackageError, open_log
from dbc.manifest import Manifest, ManifestError, load_manifest
from gateway.collect.cost import CostMeter, CostReport
from gateway.collect.explain import find_signal, story, words
from gateway.collect.filters import needed_messages
from gateway.collect.names import NameError_, Names
from gateway.collect.resolve import Scheme, load_schemes

_NO_BUS = 255


class _Reading:
    """How the reading of a log went; known once it was read."""

    status = os.EX_OK


class _Failure(Exception):
    """Ends a command with a message and an exit status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The verbs of ``outrider scheme``."""
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    check = verbs.add_parser("check", help="are these schemes sound for this vehicle?")
    check.add_argument("schemes", nargs="+", type=Path, metavar="SCHEME")
    _add_common(check)
    check.set_defaults(run=lambda args: _guarded(_check, args))

    cost = verbs.add_parser("cost", help="what would these schemes cost on this log?")
    cost.add_argument("log", type=Path, metavar="LOG")
    cost.add_argument("--scheme", dest="schemes", action="append", required=True, type=Path, metavar="SCHEME")
    _add_common(cost)
    _add_bus(cost)
    cost.add_argument("--hours-per-day", type=float, default=24.0, help="how long the vehicle runs a day (default 24)")
    cost.add_argument("--budget-bytes-per-day", type=int, default=0, help="compare with this budget")
    cost.add_argument("--top", type=int, default=10, help="signals to list (default 10)")
    cost.set_defaults(run=lambda args: _guarded(_cost, args))

    explain = verbs.add_parser("explain", help="what does this scheme do, and why (not) on this log?")
    explain.add_argument("schemes", nargs=1, type=Path, metavar="SCHEME")
    _add_common(explain)
    _add_bus(explain)
    explain.add_argument("--log", type=Path, help="tell what it selects of this log")
    explain.add_argument("--signal", help="why was this signal sent or not sent? (needs --log)")
    explain.set_defaults(run=lambda args: _guarded(_explain, args))


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest", required=True, type=Path, help="of the vehicle; 'outrider dbc compile' makes it from DBC files"
    )
    parser.add_argument("--json", action="store_true", help="for machines")


def _add_bus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bus",
        action="append",
        default=[],
        metavar="LOGBUS=BUS",
        help="the log's bus LOGBUS is BUS of the manifest; needed where the names differ",
    )


def _guarded(command: object, args: argparse.Namespace) -> int:
    assert callable(command)
    try:
        return int(command(args))
    except _Failure as failure:
        print(f"outrider scheme: {failure}", file=sys.stderr)
        return failure.status


def _check(args: argparse.Namespace) -> int:
    manifest = _manifest(args.manifest)
    loaded = load_schemes(args.schemes, manifest)
    if args.json:
        report = {
            "schemes": [_summary(s, manifest) for s in loaded.schemes],
            "errors": [{"file": e.path, "where": e.where, "message": str(e)} for e in loaded.errors],
        }
        print(msgspec.json.encode(report).decode())
    else:
        for scheme in loaded.schemes:
            facts = _summary(scheme, manifest)
            text = ", ".join(f"{value} {key}" for key, value in facts.items() if key not in ("id", "version"))
            print(f"{scheme.id} {scheme.version}: ok; {text}")
        for error in loaded.errors:
            print(error, file=sys.stderr)
    return os.EX_DATAERR if loaded.errors else os.EX_OK


def _summary(scheme: Scheme, manifest: Manifest) -> dict[str, str | int]:
    return {
        "id": scheme.id,
        "version": scheme.version,
        "priority": scheme.priority.name.lower(),
        "signals": len(scheme.rules),
        "messages": len(needed_messages(scheme, manifest)),
        "raw frame ranges": len(scheme.raw_ranges),
        "trigger": 1 if scheme.trigger else 0,
    }


def _cost(args: argparse.Namespace) -> int:
    if not 0 < args.hours_per_day <= 24:
        raise _Failure(os.EX_USAGE, "--hours-per-day must be above 0 and at most 24")
    if args.budget_bytes_per_day < 0:
        raise _Failure(os.EX_USAGE, "--budget-bytes-per-day must not be negative; 0 is no budget")
    manifest = _manifest(args.manifest)
    meter = CostMeter(manifest, _schemes(args.schemes, manifest), top=max(0, args.top))
    reading = _Reading()
    meter.run(_frames(args.log, manifest, args.bus, reading))
    report = meter.report(args.hours_per_day)
    if not report.frames:
        raise _Failure(os.EX_DATAERR, f"{args.log}: no frames")
    if args.json:
        extra = {"budget_bytes_per_day": args.budget_bytes_per_day}
        print(msgspec.json.encode(msgspec.to_builtins(report) | extra).decode())
    else:
        _print_cost(report, args.budget_bytes_per_day)
    return reading.status


def _print_cost(report: CostReport, budget: int) -> None:
    outcomes = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in report.outcomes.items() if number)
    print(f"log        {report.seconds:.1f} s, {report.frames} frames: {outcomes}")
    per = f", {report.total_bytes / report.samples:.3f} B per sample" if report.samples else ""
    print(f"selected   {report.samples} samples in {report.batches} batches, {report.total_bytes} B{per}")
    print(f"per hour   {_size(report.bytes_per_hour)}")
    print(f"per day    {_size(report.bytes_per_day)} at {report.hours_per_day:g} h a day")
    if budget:
        share = report.bytes_per_day / budget
        print(f"budget     {_size(budget)} a day: {share:.0%}" + ("" if share <= 1 else ", EXCEEDED"))
        if share > 1:
            print(f"           spent after {budget / report.bytes_per_hour:.1f} h, then the vehicle degrades")
    print(f"\n{'scheme':32} {'samples':>9} {'frames':>8} {'triggers':>8} {'per hour alone':>15}")
    for scheme in report.schemes:
        rate = _size(scheme.bytes_per_hour)
        print(f"{scheme.id:32} {scheme.samples:>9} {scheme.frames:>8} {scheme.triggers:>8} {rate:>15}")
    if report.signals:
        print(f"\n{'dearest signals':50} {'samples':>9} {'bytes alone':>12}")
        for signal in report.signals:
            print(f"{signal.name:50} {signal.samples:>9} {signal.alone_bytes:>12}")


def _explain(args: argparse.Namespace) -> int:
    if args.signal and not args.log:
        raise _Failure(os.EX_USAGE, "--signal needs --log")
    manifest = _manifest(args.manifest)
    scheme = _schemes(args.schemes, manifest)[0]
    lines = words(scheme, manifest)
    stories = []
    reading = _Reading()
    if args.log:
        signals = [rule.signal for rule in scheme.rules]
        if args.signal:
            try:
                signals = [find_signal(Names(manifest), args.signal)]
            except NameError_ as error:
                raise _Failure(os.EX_DATAERR, str(error)) from error
        elif len(signals) > 20:
            print(f"telling of the first 20 of {len(signals)} signals; choose one with --signal", file=sys.stderr)
        frames = list(_frames(args.log, manifest, args.bus, reading))
        stories = [story(scheme, signal, manifest, frames) for signal in signals[:20]]
    if args.json:
        print(msgspec.json.encode({"words": lines, "signals": stories}).decode())
        return reading.status
    print("\n".join(lines))
    for told in stories:
        print(f"\n{told.name}: {told.verdict}")
        print(f"  {told.message_frames} frames of its message, {told.samples} samples, {told.triggers} triggers")
        for reason, number in sorted(told.reasons.items(), key=lambda item: -item[1]):
            print(f"  {number:>8} not sent: {reason}")
    return reading.status


def _manifest(path: Path) -> Manifest:
    hint = "; make one with 'outrider dbc compile --dbc BUS=FILE … --out vehicle.manifest'"
    try:
        return load_manifest(path)
    except OSError as error:
        raise _Failure(os.EX_NOINPUT, f"{path}: {error.strerror}{hint}") from error
    except ManifestError as error:
        raise _Failure(os.EX_DATAERR, f"{error}{hint}") from error


def _schemes(paths: list[Path], manifest: Manifest) -> tuple[Scheme, ...]:
    loaded = load_schemes(paths, manifest)
    if loaded.errors:
        status = os.EX_DATAERR if all(os.path.exists(path) for path in paths) else os.EX_NOINPUT
        raise _Failure(status, "\n".join(str(e) for e in loaded.errors))
    return loaded.schemes


def _frames(path: Path, manifest: Manifest, pairs: list[str], reading: _Reading) -> Iterator[FrameBatch]:
    """The log's frames with the manifest's bus numbers; what could not be read is told on stderr and in ``reading``."""
    named: dict[str, int] = {}
    for pair in pairs:
        log_bus, equals, bus = pair.partition("=")
        if not equals or bus not in manifest.buses:
            raise _Failure(os.EX_USAGE, f"--bus {pair}: write LOGBUS=BUS; the manifest has {', '.join(manifest.buses)}")
        named[log_bus] = manifest.buses.index(bus)
    try:
        with open_log(path) as log:
            for batch in log:
                table = np.full(256, _NO_BUS, np.uint8)
                for number, name in enumerate(log.buses):
                    table[number] = _bus_number(name, number, manifest, named)
                yield FrameBatch(
                    batch.timestamp_ns, table[batch.bus], batch.can_id, batch.flags, batch.length, batch.data
                )
            strangers = [n for i, n in enumerate(log.buses) if _bus_number(n, i, manifest, named) == _NO_BUS]
            if strangers:
                print(f"{path}: buses {', '.join(strangers)} are not in the manifest; use --bus", file=sys.stderr)
            if missing := [name for name in named if name not in log.buses]:
                print(f"{path}: the log has no bus {', '.join(missing)}", file=sys.stderr)
            if log.report.damage:
                reading.status = os.EX_DATAERR
            if log.report.skipped_count or log.report.damage:
                damage = f", damaged: {log.report.damage}" if log.report.damage else ""
                print(f"{path}: {log.report.skipped_count} lines skipped{damage}", file=sys.stderr)
    except MissingPackageError as error:
        raise _Failure(os.EX_UNAVAILABLE, str(error)) from error
    except LogError as error:
        raise _Failure(os.EX_DATAERR if os.path.isfile(path) else os.EX_NOINPUT, str(error)) from error


def _bus_number(name: str, number: int, manifest: Manifest, named: dict[str, int]) -> int:
    """By ``--bus``, by name, or, when the manifest has one bus, the log's first one."""
    if name in named:
        return named[name]
    if name in manifest.buses:
        return manifest.buses.index(name)
    return 0 if len(manifest.buses) == 1 and number == 0 and not named else _NO_BUS


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.1f} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1000
    return f"{size:.1f} GB"
