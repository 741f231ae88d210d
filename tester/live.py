"""Values that change, with their extremes and trend: the model of the live table. No I/O but its CSV.

Sources call ``Board.put``; the table, the CSV recording and the JSON lines read it.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tester.errors import FileError

TREND_VALUES = 24
_BARS = "▁▂▃▄▅▆▇█"
MAX_SERIES = 5000


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One value as it is shown."""

    source: str  # ECU or bus
    name: str
    value: float | int | str
    unit: str
    minimum: float | None
    maximum: float | None
    trend: str
    count: int
    problem: str = ""

    @property
    def text(self) -> str:
        """The value for people; a problem stands in its place."""
        return self.problem or (self.value if isinstance(self.value, str) else f"{self.value:.7g}")


class _Series:
    __slots__ = ("count", "history", "maximum", "minimum", "name", "problem", "source", "unit", "value")

    def __init__(self, source: str, name: str, unit: str) -> None:
        self.source, self.name, self.unit = source, name, unit
        self.value: float | int | str = ""
        self.problem = ""
        self.count = 0
        self.reset()

    def reset(self) -> None:
        self.minimum: float | None = None
        self.maximum: float | None = None
        self.history: deque[float] = deque(maxlen=TREND_VALUES)

    def put(self, value: float | int | str) -> None:
        self.value, self.problem = value, ""
        self.count += 1
        if isinstance(value, str):
            return
        self.minimum = value if self.minimum is None else min(self.minimum, value)
        self.maximum = value if self.maximum is None else max(self.maximum, value)
        self.history.append(value)


class Board:
    """All values, in the order in which they first came."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], _Series] = {}
        self.paused = False
        self.dropped = 0  # values of more than ``MAX_SERIES`` names

    def put(self, source: str, name: str, value: float | int | str, unit: str = "") -> None:
        """A new value; while paused the board stands still."""
        series = None if self.paused else self._find(source, name, unit)
        if series is not None:
            series.put(value)

    def fail(self, source: str, name: str, problem: str) -> None:
        """Why there is no value now."""
        series = None if self.paused else self._find(source, name, "")
        if series is not None:
            series.problem = problem

    def reset(self) -> None:
        """Extremes and trends begin again."""
        for series in self._series.values():
            series.reset()

    def _find(self, source: str, name: str, unit: str) -> _Series | None:
        series = self._series.get((source, name))
        if series is None:
            if len(self._series) >= MAX_SERIES:
                self.dropped += 1
                return None
            series = self._series[source, name] = _Series(source, name, unit)
        if unit:
            series.unit = unit
        return series

    def rows(self) -> Iterator[Row]:
        """What to show."""
        for s in self._series.values():
            yield Row(
                source=s.source, name=s.name, value=s.value, unit=s.unit, minimum=s.minimum, maximum=s.maximum,
                trend=sparkline(s.history), count=s.count, problem=s.problem,
            )  # fmt: skip


def sparkline(values: deque[float]) -> str:
    """Bars between the lowest and the highest."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = high - low
    return "".join(_BARS[0 if not span else min(7, int((value - low) / span * 8))] for value in values)


class CsvRecording:
    """A line for each value of each round: time, source, name, value, unit."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            FileError: it cannot be written.
        """
        try:
            self._file = path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            failure = FileError(path, error.strerror or str(error))
            failure.status = 73
            raise failure from error
        self._writer = csv.writer(self._file)
        self._writer.writerow(("time_utc", "source", "name", "value", "unit"))
        self.lines = 0

    def write(self, board: Board, at_s: float) -> None:
        """What the board shows now."""
        at = f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        for row in board.rows():
            if not row.problem:
                self._writer.writerow((at, row.source, row.name, row.value, row.unit))
                self.lines += 1
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
