"""What every log reader offers, and what it reports besides frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from dbc.frames import FrameBatch

MAX_BATCH_FRAMES = 2000
MAX_REPORTED_LINES = 100
MAX_BUSES = 255


class LogError(Exception):
    """The log cannot be read at all: no such file, no known format, a format that needs a package not installed."""


class MissingPackageError(LogError):
    """The log may be sound, but its format needs a package that is not installed."""


class SkippedLine(NamedTuple):
    """A line (or, in binary logs, an object; numbered from 1) that gave no frame."""

    number: int
    reason: str


@dataclass(slots=True)
class LogReport:
    """What happened while reading; complete once the iteration has ended.

    Attributes:
        frames: frames handed out.
        skipped: the first ``MAX_REPORTED_LINES`` lines that gave no frame though they should have.
        skipped_count: how many there were in all.
        unmapped: frames left out because their bus is not in the mapping given, by bus name.
        backward_timestamps: how often a frame was stamped earlier than the one before it.
        damage: why the log ended early (truncated or corrupt file), "" when it did not.
    """

    frames: int = 0
    skipped: list[SkippedLine] = field(default_factory=list)
    skipped_count: int = 0
    unmapped: dict[str, int] = field(default_factory=dict)
    backward_timestamps: int = 0
    damage: str = ""

    def skip(self, number: int, reason: str) -> None:
        """Count a line that gave no frame."""
        self.skipped_count += 1
        if len(self.skipped) < MAX_REPORTED_LINES:
            self.skipped.append(SkippedLine(number, reason))


class BusNames:
    """Numbers buses by name: as a mapping says, or in order of appearance."""

    def __init__(self, mapping: Mapping[str, int] | None) -> None:
        self._fixed = mapping is not None
        self._numbers: dict[str, int] = dict(mapping or {})
        if any(not 0 <= number <= MAX_BUSES for number in self._numbers.values()):
            raise ValueError(f"bus numbers must be 0 to {MAX_BUSES}")

    def number(self, name: str) -> int | None:
        """The bus's number; None when it is not to be read."""
        found = self._numbers.get(name)
        if found is None and not self._fixed and len(self._numbers) <= MAX_BUSES:
            found = self._numbers[name] = len(self._numbers)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of their numbers; "" for numbers no name has."""
        by_number = {number: name for name, number in reversed(self._numbers.items())}
        return tuple(by_number.get(i, "") for i in range(max(by_number, default=-1) + 1))


class LogReader:
    """Iterates over the frames of one log, in batches of at most ``MAX_BATCH_FRAMES``; once.

    Iterating never raises for what the file contains: lines that are no frames are skipped and reported, a file that
    is cut or corrupt ends early and ``report.damage`` says why.
    """

    def __init__(
        self,
        format_name: str,
        batches: Callable[[LogReport, BusNames], Iterator[FrameBatch]],
        buses: Mapping[str, int] | None,
        close: Callable[[], None],
    ) -> None:
        self.format = format_name
        self.report = LogReport()
        self._names = BusNames(buses)
        self._batches = batches(self.report, self._names)
        self._close = close

    @property
    def buses(self) -> tuple[str, ...]:
        """Bus names by number. Without a mapping, buses appear here as their first frames are read."""
        return self._names.names

    def __iter__(self) -> Iterator[FrameBatch]:
        last_ns: int | None = None
        report = self.report
        for batch in self._batches:
            for at in range(0, len(batch), MAX_BATCH_FRAMES):
                part = batch.take(slice(at, at + MAX_BATCH_FRAMES)) if len(batch) > MAX_BATCH_FRAMES else batch
                times = part.timestamp_ns
                report.frames += len(part)
                report.backward_timestamps += int(np.count_nonzero(times[1:] < times[:-1]))
                report.backward_timestamps += last_ns is not None and int(times[0]) < last_ns
                last_ns = int(times[-1])
                yield part

    def close(self) -> None:
        """Release the file. Closing twice is harmless."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
