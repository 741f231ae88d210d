"""Writing candump logs, plain or compressed with xz."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from dbc.frames import BRS, ERROR, ESI, EXTENDED, FD, REMOTE, FrameBatch

_ERROR_BIT = 0x20000000


def format_candump(frames: FrameBatch, buses: Sequence[str]) -> str:
    """The lines of ``candump -L`` for these frames, times to the microsecond (truncated)."""
    lines = []
    hexed = frames.data.tobytes().hex().upper()
    columns = (frames.timestamp_ns, frames.bus, frames.can_id, frames.flags, frames.length)
    for i, (time_ns, bus, can_id, flags, length) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        if flags & ERROR:
            identifier = f"{can_id | _ERROR_BIT:08X}"
        else:
            identifier = f"{can_id:08X}" if flags & EXTENDED else f"{can_id:03X}"
        if flags & REMOTE:
            payload = f"#R{length or ''}"
        else:
            payload = hexed[128 * i : 128 * i + 2 * length]
            marks = (1 if flags & BRS else 0) | (2 if flags & ESI else 0)
            payload = f"##{marks}{payload}" if flags & FD else f"#{payload}"
        time_us = time_ns // 1000
        lines.append(f"({time_us // 1_000_000:010d}.{time_us % 1_000_000:06d}) {buses[bus]} {identifier}{payload}\n")
    return "".join(lines)


class CandumpWriter:
    """Appends batches to a candump file; ``.xz`` at the end of its name compresses it.

    Args:
        path: created or replaced.
        buses: interface names by bus number; no spaces in them.
        preset: xz compression, 0 to 9.

    Raises:
        ValueError: a bus name has a space or is empty.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path | str, buses: Sequence[str], *, preset: int = 3) -> None:
        if bad := [name for name in buses if not name or any(c.isspace() for c in name)]:
            raise ValueError(f"{bad[0]!r} cannot be an interface name")
        path = Path(path)
        self.frames = 0
        self._buses = tuple(buses)
        packed = path.suffix == ".xz"
        self._file: IO[bytes] = lzma.LZMAFile(path, "wb", preset=preset) if packed else path.open("wb")  # noqa: SIM115

    def write(self, frames: FrameBatch) -> None:
        """Append frames in their order."""
        self._file.write(format_candump(frames, self._buses).encode())
        self.frames += len(frames)

    def close(self) -> None:
        """Finish the file. Closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
