"""Reading recorded traffic: candump, Vector ASC and BLF, GVRET CSV, MF4; plain or compressed (xz, gzip, bzip2, zstd).

    with open_log(Path("drive.log.xz")) as log:
        for batch in log:  # FrameBatch of at most 2,000 frames
            ...
    print(log.report.skipped_count, log.report.damage)

candump and GVRET are read by parsers of our own, many lines at a time; the others through python-can.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from dbc.frames import FrameBatch
from dbc.logs.candump import candump_batches
from dbc.logs.gvret import gvret_batches
from dbc.logs.library import library_batches, reader_class
from dbc.logs.lines import line_blocks
from dbc.logs.model import MAX_BATCH_FRAMES, BusNames, LogError, LogReader, LogReport, MissingPackageError, SkippedLine
from dbc.logs.source import LogSource, format_of
from dbc.logs.write import CandumpWriter, format_candump

__all__ = [
    "MAX_BATCH_FRAMES",
    "CandumpWriter",
    "LogError",
    "LogReader",
    "LogReport",
    "MissingPackageError",
    "SkippedLine",
    "format_candump",
    "open_log",
]

_SPOOLED_BYTES = 16 * 1024 * 1024


def open_log(path: Path | str, buses: Mapping[str, int] | None = None) -> LogReader:
    """Open a log of any known format, told by its content first and its suffix second.

    Args:
        path: the file.
        buses: number of each bus name in the log; frames of other buses are left out and counted. When None, buses
            are numbered as they appear. Bus names are interface names in candump and the channel number in the others.

    Raises:
        LogError: no such file, not a known format, or a format that needs a package that is not installed.
        ValueError: a bus number is not 0 to 255.
    """
    path = Path(path)
    source = LogSource(path)
    try:
        name = format_of(path, source.head)
        if name is None:
            raise LogError(f"{path}: not a log of a known format (candump, ASC, BLF, GVRET CSV, MF4)")
        reader = None if name in ("candump", "gvret") else reader_class(name)
    except LogError:
        source.close()
        raise

    def batches(report: LogReport, names: BusNames) -> Iterator[FrameBatch]:
        try:
            if reader is not None:
                with _seekable(source, text=name == "asc") as file:
                    yield from library_batches(lambda: reader(file), report, names)
            elif name == "candump":
                yield from candump_batches(line_blocks(source, report), report, names)
            else:
                yield from gvret_batches(line_blocks(source, report), report, names)
            source.note_damage(report)
        finally:
            source.close()

    return LogReader(name, batches, buses, source.close)


@contextlib.contextmanager
def _seekable(source: LogSource, *, text: bool) -> Iterator[IO[str] | IO[bytes]]:
    """The whole log as a file that python-can can seek in; large ones go through a temporary file."""
    with tempfile.SpooledTemporaryFile(max_size=_SPOOLED_BYTES) as spool:
        while chunk := source.read(1 << 20):
            spool.write(chunk)
        spool.seek(0)
        yield io.TextIOWrapper(spool, "utf-8", errors="replace") if text else spool
