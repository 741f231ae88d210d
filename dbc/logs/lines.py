"""Blocks of whole lines out of a byte stream that may be damaged or no text at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from dbc.logs.model import LogReport

BLOCK_BYTES = 96 * 1024
MAX_LINE_BYTES = 16 * 1024


class ByteSource(Protocol):
    """A stream that ends early rather than raising; see ``dbc.logs.source``."""

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, b"" at the end."""
        ...


class LineBlock(NamedTuple):
    """Whole lines, each with its newline."""

    text: bytes
    first_line: int  # number of the first one, from 1


def line_blocks(source: ByteSource, report: LogReport) -> Iterator[LineBlock]:
    """All lines of a text, in blocks of about ``BLOCK_BYTES``. Lines too long to be any are skipped and counted."""
    rest = b""
    line = 1
    overlong = False
    while chunk := source.read(BLOCK_BYTES):
        if overlong:
            _, newline, chunk = chunk.partition(b"\n")
            if not newline:
                continue
            overlong = False
            line += 1
        rest += chunk
        cut = rest.rfind(b"\n") + 1
        if cut:
            yield LineBlock(rest[:cut], line)
            line += rest.count(b"\n", 0, cut)
            rest = rest[cut:]
        if len(rest) > MAX_LINE_BYTES:
            report.skip(line, f"line of more than {MAX_LINE_BYTES} bytes")
            rest, overlong = b"", True
    if rest:
        yield LineBlock(rest + b"\n", line)
