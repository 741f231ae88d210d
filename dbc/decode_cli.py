"""``outrider dbc decode``: a recorded log as rows of physical values, on a workstation."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from dbc.decode import Decoded, Decoder, FrameStatus
from dbc.files import is_same_file, is_special
from dbc.frames import FrameBatch
from dbc.load import LoadedDatabase, compile_databases, load_file
from dbc.load.report import counts
from dbc.logs import LogError, LogReader, MissingPackageError, open_log
from dbc.manifest import Manifest, ManifestError, load_manifest
from dbc.rows import TEXT_WRITERS, ParquetWriter, RowWriter, TableWriter, id_text

FORMATS = ("table", "csv", "json", "parquet")
_FORM_OF_SUFFIX = {".csv": "csv", ".parquet": "parquet", ".json": "json", ".jsonl": "json", ".txt": "table"}
ANY_BUS = "any"  # the manifest's name of a bus that stands for every bus of the log
_NO_BUS = 255
_MAX_UNKNOWN_IDS = 4096
_SHOWN = 5


class UsageError(ValueError):
    """The arguments do not fit together or name what does not exist."""


def add_decode_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``decode`` to the commands of the group."""
    text = (
        "Decode a candump, ASC, BLF or GVRET log (plain, xz, gzip, bzip2 or zstd) to rows timestamp, bus, id, message, "
        "signal, raw, value, unit, label. A summary goes to stderr. Exit status 65 when the log is damaged."
    )
    decode = commands.add_parser("decode", help="decode a recorded log to rows of values", description=text)
    decode.add_argument("log", metavar="LOG", type=Path)
    help_text = "database of one bus of the log, or of every bus that has none of its own; repeat for more"
    decode.add_argument("--dbc", metavar="[BUS=]FILE", action="append", default=[], help=help_text)
    decode.add_argument("--manifest", metavar="FILE", type=Path, help="a compiled manifest instead of databases")
    help_text = "which bus of the manifest a bus of the log is, where the names differ; repeat for more"
    decode.add_argument("--bus", metavar="LOGBUS=BUS", action="append", default=[], help=help_text)
    help_text = "decode only these: a name, MESSAGE.SIGNAL or BUS.MESSAGE.SIGNAL with * and ?; repeat for more"
    decode.add_argument("--signal", metavar="GLOB", action="append", default=[], help=help_text)
    help_text = "form of the rows (default: as the name of --out ends, else table)"
    decode.add_argument("--format", choices=FORMATS, help=help_text)
    decode.add_argument("--json", dest="format", action="store_const", const="json", help="one JSON object a line")
    decode.add_argument("--out", metavar="FILE", type=Path, help="file to write (default: standard output)")
    decode.set_defaults(run=run_decode)


def run_decode(args: argparse.Namespace) -> int:
    """``outrider dbc decode``."""
    try:
        return _decode(args)
    except UsageError as error:
        return _fail(str(error), os.EX_USAGE)
    except ManifestError as error:
        return _fail(str(error), os.EX_DATAERR)
    except MissingPackageError as error:
        return _fail(str(error), os.EX_UNAVAILABLE)
    except LogError as error:
        return _fail(str(error), os.EX_DATAERR if os.path.isfile(args.log) else os.EX_NOINPUT)
    except ModuleNotFoundError as error:
        return _fail(f"--format parquet needs the Python package {error.name!r}, not installed", os.EX_UNAVAILABLE)


def _decode(args: argparse.Namespace) -> int:
    form = args.format or _form_of(args.out)
    if form == "parquet" and args.out is None:
        raise UsageError("--format parquet needs --out FILE")
    if args.out is not None:
        _keep_inputs(args)
    try:
        manifest = _manifest(args)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), os.EX_NOINPUT)
    signals = choose_signals(manifest, args.signal)
    buses = _BusMap(manifest, _pairs(args.bus, "--bus"), compiled=args.manifest is not None)
    decoder = Decoder(manifest, signals)
    for number, why in decoder.unsupported:
        print(f"{manifest.signal_names[number]}: not decoded: {why}", file=sys.stderr)
    totals = _Totals()
    with open_log(args.log) as log:
        try:
            with _writer(form, args.out, manifest, signals) as writer:
                for frames, decoded in _decoded(log, decoder, buses):
                    totals.add(frames, decoded)
                    writer.write(frames, decoded, log.buses)
        except BrokenPipeError:
            raise
        except OSError as error:
            return _fail(f"{args.out or 'standard output'}: {error.strerror}", os.EX_CANTCREAT)
        _print_summary(totals, log, buses)
        return os.EX_DATAERR if log.report.damage else os.EX_OK


def _decoded(log: LogReader, decoder: Decoder, buses: _BusMap) -> Iterator[tuple[FrameBatch, Decoded]]:
    for frames in log:
        numbers = buses.numbers(log.buses).take(frames.bus)
        on_ours = FrameBatch(frames.timestamp_ns, numbers, frames.can_id, frames.flags, frames.length, frames.data)
        yield frames, decoder.decode(on_ours)


def _fail(text: str, status: int) -> int:
    print(f"outrider dbc decode: {text}", file=sys.stderr)
    return status


def _form_of(out: Path | None) -> str:
    suffix = out.suffix.lower() if out else ""
    if out is not None and suffix not in _FORM_OF_SUFFIX and not is_special(out):
        endings = ", ".join(e for e in _FORM_OF_SUFFIX if e)
        raise UsageError(f"--out {out}: say which --format; only {endings} tell it by themselves")
    return _FORM_OF_SUFFIX.get(suffix, "table")


def _keep_inputs(args: argparse.Namespace) -> None:
    """Refuse to write over what is read."""
    databases = [Path(part) for argument in args.dbc for part in (argument, argument.partition("=")[2]) if part]
    for path in [args.log, *databases, *([args.manifest] if args.manifest else [])]:
        if is_same_file(path, args.out):
            raise UsageError(f"--out {args.out} would replace {path}, which is read")


def _manifest(args: argparse.Namespace) -> Manifest:
    """The manifest given, or what the databases compile to."""
    if bool(args.dbc) == (args.manifest is not None):
        raise UsageError("name the databases with --dbc, or a manifest with --manifest")
    if args.manifest is not None:
        return load_manifest(args.manifest)
    buses: dict[str, list[LoadedDatabase]] = {}
    for argument in args.dbc:
        bus, equals, path = argument.partition("=")
        named = bool(equals) and not Path(argument).exists()
        if named and not (bus and path):
            raise UsageError(f"--dbc {argument}: write FILE or BUS=FILE")
        buses.setdefault(bus if named else ANY_BUS, []).append(load_file(Path(path if named else argument)))
    try:
        manifest, reports = compile_databases(buses, "decode")
    except ValueError as error:
        raise UsageError(str(error)) from error
    for report in reports:
        if not report.sound:
            print(f"{report.path}: {counts(report)}; 'outrider dbc check' tells all", file=sys.stderr)
    if not manifest.messages:
        raise ManifestError(f"no message in {', '.join(args.dbc)}")
    return manifest


def _pairs(arguments: Sequence[str], option: str) -> dict[str, str]:
    pairs = {}
    for argument in arguments:
        left, equals, right = argument.partition("=")
        if not (left and equals and right):
            raise UsageError(f"{option} {argument}: write LOGBUS=BUS")
        pairs[left] = right
    return pairs


def choose_signals(manifest: Manifest, globs: Sequence[str]) -> list[int]:
    """Numbers of the signals that any of the globs names; all without globs. Case does not matter.

    Raises:
        UsageError: a glob that names none.
    """
    if not globs:
        return list(range(len(manifest.signals)))
    names = [name.casefold().split(".", 2) for name in manifest.signal_names]
    chosen: set[int] = set()
    for glob in globs:
        wanted = glob.casefold()
        found = {
            i for i, parts in enumerate(names) if any(fnmatchcase(".".join(parts[skip:]), wanted) for skip in range(3))
        }
        if not found:
            raise UsageError(f"--signal {glob}: no signal has such a name; 'outrider dbc show' lists them")
        chosen |= found
    return sorted(chosen)


class _BusMap:
    """Which bus of the manifest each bus of the log is.

    A database given without a bus stands for every bus that has none of its own; so does a compiled manifest of one
    bus, whose name is seldom that of the recording interface.
    """

    def __init__(self, manifest: Manifest, renamed: dict[str, str], *, compiled: bool) -> None:
        self._index = {name: i for i, name in enumerate(manifest.buses)}
        for log_bus, bus in renamed.items():
            if bus not in self._index:
                raise UsageError(f"--bus {log_bus}={bus}: the buses are {', '.join(manifest.buses)}")
        self._renamed = renamed
        only = compiled and len(manifest.buses) == 1 and not renamed
        self._rest = self._index.get(ANY_BUS, 0 if only else _NO_BUS)
        if only:
            self._index = {}
        self.manifest_buses = manifest.buses
        databases = () if compiled else (name for name in manifest.buses if name != ANY_BUS)
        self.named = [*renamed, *(name for name in databases if name not in renamed.values())]
        self.without: list[str] = []
        self._cached: tuple[tuple[str, ...], NDArray[np.uint8]] = ((), np.zeros(0, np.uint8))

    def numbers(self, log_buses: tuple[str, ...]) -> NDArray[np.uint8]:
        """Numbers in the manifest of the log's buses."""
        if self._cached[0] != log_buses:
            found = [self._index.get(self._renamed.get(name, name), self._rest) for name in log_buses]
            self.without = [n for n, f in zip(log_buses, found, strict=True) if f == _NO_BUS]
            self._cached = log_buses, np.array(found, np.uint8)
        return self._cached[1]


@contextlib.contextmanager
def _writer(form: str, out: Path | None, manifest: Manifest, signals: Sequence[int]) -> Iterator[RowWriter]:
    """The writer; a file appears under its name only when it is complete. A device or pipe is written as it is."""
    if out is None:
        writer = _text_writer(form, sys.stdout, manifest, signals)
        yield writer
        writer.close()
        return
    part = out if is_special(out) else out.with_name(f".{out.name}.part")
    try:
        if form == "parquet":
            writer = ParquetWriter(part, manifest)
            yield writer
            writer.close()
        else:
            with part.open("w", encoding="utf-8", newline="\n") as file:
                writer = _text_writer(form, file, manifest, signals)
                yield writer
                writer.close()
        if part is not out:
            os.replace(part, out)
    finally:
        if part is not out:
            part.unlink(missing_ok=True)


def _text_writer(form: str, file: TextIO, manifest: Manifest, signals: Sequence[int]) -> RowWriter:
    return TableWriter(file, manifest, signals) if form == "table" else TEXT_WRITERS[form](file, manifest)


@dataclass
class _Totals:
    by_status: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(FrameStatus), np.int64))
    samples: int = 0
    unknown: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def add(self, frames: FrameBatch, decoded: Decoded) -> None:
        self.by_status += np.bincount(decoded.status, minlength=len(FrameStatus))
        self.samples += len(decoded)
        strange = decoded.status == FrameStatus.UNKNOWN_ID
        if strange.any():
            keys = frames.can_id[strange].astype(np.int64) << 8 | frames.flags[strange] & 1
            for key, count in zip(*(a.tolist() for a in np.unique(keys, return_counts=True)), strict=True):
                name = id_text(key >> 8, key & 1)
                if name in self.unknown or len(self.unknown) < _MAX_UNKNOWN_IDS:
                    self.unknown[name] = self.unknown.get(name, 0) + count


def _print_summary(totals: _Totals, log: LogReader, buses: _BusMap) -> None:
    """Counts on stderr; what is zero is left out, apart from frames and what was decoded."""
    report = log.report
    status = {s: int(totals.by_status[s]) for s in FrameStatus}
    decoded = status[FrameStatus.DECODED] + status[FrameStatus.PARTIAL]
    frequent = sorted(totals.unknown.items(), key=lambda item: -item[1])[:_SHOWN]
    more = "" if len(totals.unknown) <= _SHOWN else f" and {len(totals.unknown) - _SHOWN} more"
    ids = ", ".join(f"{name} ({count})" for name, count in frequent) + more
    rows: list[tuple[str, int, str]] = [
        ("frames", report.frames, f"{log.format}, buses {', '.join(log.buses) or 'none'}"),
        ("decoded", decoded, ""),
        ("partial", status[FrameStatus.PARTIAL], "of the decoded: shorter than some of their signals"),
        ("unknown id", status[FrameStatus.UNKNOWN_ID], ids),
        ("too short", status[FrameStatus.SHORT], "for any signal"),
        ("remote", status[FrameStatus.REMOTE], ""),
        ("error frames", status[FrameStatus.ERROR_FRAME], ""),
        ("samples", totals.samples, ""),
        ("skipped lines", report.skipped_count, "; ".join(f"{n}: {why}" for n, why in report.skipped[:_SHOWN])),
        ("time backwards", report.backward_timestamps, "frames stamped earlier than the one before"),
    ]
    for name, count, text in rows:
        if count or name in ("frames", "decoded"):
            print(f"{name:<14} {count:>10}  {text}".rstrip(), file=sys.stderr)
    if buses.without:
        ours = ", ".join(buses.manifest_buses)
        text = f"no database for {', '.join(buses.without)}; there is one for {ours} (--bus LOGBUS=BUS renames)"
        print(f"{'buses':<14} {'':>10}  {text}", file=sys.stderr)
    if missing := [name for name in buses.named if name not in log.buses]:
        print(f"{'buses':<14} {'':>10}  the log has no {', '.join(missing)}", file=sys.stderr)
    print(f"{'elapsed':<14} {time.monotonic() - totals.started:>10.2f}  s", file=sys.stderr)
    if report.damage:
        print(f"{'damaged':<14} {'':>10}  the log ends early: {report.damage}", file=sys.stderr)
