"""Opening a log: decompression by content, reading that ends early instead of raising, and the guess of the format."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from pathlib import Path
from typing import IO, Protocol

import zstandard

from dbc.logs.model import LogError, LogReport

SNIFF_BYTES = 8192

_DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError)
_COMPRESSIONS = {b"\xfd7zXZ\x00": "xz", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
_CONTENT: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("blf", re.compile(rb"LOGG")),
    ("mf4", re.compile(rb"MDF     ")),
    ("asc", re.compile(rb"(?:\s*//.*\n)*\s*(?:date\s+\w{3}\s|base\s+(?:hex|dec)\b)", re.IGNORECASE)),
    ("gvret", re.compile(rb"\s*Time ?Stamp,\s*ID,", re.IGNORECASE)),
    (
        "candump",
        re.compile(rb"(?:\s*[#;].*\n)*\s*\(\d+(?:\.\d+)?\)\s+\S+\s+(?:[RT]X\s|[0-9A-Fa-f]{1,8}[#\s])"),
    ),
)
_SUFFIXES = {".log": "candump", ".asc": "asc", ".blf": "blf", ".mf4": "mf4", ".csv": "gvret"}


class LogSource:
    """The decompressed bytes of a file. Damage ends the stream and is noted in the report.

    Raises:
        LogError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.damage = ""
        try:
            self._raw: IO[bytes] = path.open("rb")
            magic = self._raw.read(8)
            self._raw.seek(0)
        except OSError as error:
            raise LogError(f"{path}: {error.strerror or error}") from error
        compression = next((name for mark, name in _COMPRESSIONS.items() if magic.startswith(mark)), "")
        self._stream = _decompressed(self._raw, compression)
        self._head = b""
        self._head = self.read(SNIFF_BYTES)

    @property
    def head(self) -> bytes:
        """The first bytes, also handed out by ``read``."""
        return self._head

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, b"" at the end or where the file is damaged."""
        if self._head:
            chunk, self._head = self._head[:size], self._head[size:]
            return chunk
        if self.damage:
            return b""
        try:
            return self._stream.read(size)
        except _DAMAGE as error:
            self.damage = f"{type(error).__name__}: {error}"
            return b""

    def note_damage(self, report: LogReport) -> None:
        """Tell the report why the stream ended, if not by its end."""
        if self.damage and not report.damage:
            report.damage = self.damage

    def close(self) -> None:
        """Release the file."""
        self._stream.close()
        self._raw.close()


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


class _ZstdStream:
    """zstd frames one after another. Unlike the library's reader it notices that the last one is cut."""

    _FEED_BYTES = 256  # an evil block of four bytes unpacks to 128 KiB, so that this many are at most 8 MiB

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._started = False
        self._ready = b""

    def read(self, size: int, /) -> bytes:
        parts, held = [self._ready], len(self._ready)
        while held < size and (packed := self._raw.read(self._FEED_BYTES)):
            while packed:
                parts.append(self._frame.decompress(packed))
                held += len(parts[-1])
                self._started = not self._frame.eof
                packed = self._frame.unused_data if self._frame.eof else b""
                if self._frame.eof:
                    self._frame = zstandard.ZstdDecompressor().decompressobj()
        ready = b"".join(parts)
        if not ready and self._started:
            raise EOFError("the compressed file ends before its end mark")
        self._ready = ready[size:]
        return ready[:size]

    def close(self) -> None:
        self._ready = b""


def _decompressed(raw: IO[bytes], compression: str) -> _Stream:
    match compression:
        case "xz":
            return lzma.LZMAFile(raw)
        case "gzip":
            return gzip.GzipFile(fileobj=raw)
        case "bzip2":
            return bz2.BZ2File(raw)
        case "zstd":
            return _ZstdStream(raw)
        case _:
            return raw


def format_of(path: Path, head: bytes) -> str | None:
    """The format by content; by suffix where the content tells nothing (an empty file, junk before the first line)."""
    for name, pattern in _CONTENT:
        if pattern.match(head):
            return name
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in (".xz", ".gz", ".bz2", ".zst")]
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None
