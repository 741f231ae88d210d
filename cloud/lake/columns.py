"""Samples as the lake holds them: five equally long arrays, sorted by (series, time). No files, no database here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.wire.samples import SampleBlock

DAY_NS = 86_400_000_000_000


class UnknownSignal(ValueError):
    """A batch uses a signal number that its manifest does not have."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Samples of one vehicle.

    Attributes:
        time_ns: int64[n], UTC.
        series: int32[n], the signal's number in the lake, the same through all manifests.
        definition: int32[n], what the raw value meant (``cloud.lake.definitions``).
        raw: int64[n].
        quality: uint8[n], 0 is good; bits of ``gateway.wire.samples``.
    """

    time_ns: NDArray[np.int64]
    series: NDArray[np.int32]
    definition: NDArray[np.int32]
    raw: NDArray[np.int64]
    quality: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.time_ns)

    @staticmethod
    def empty() -> Columns:
        """No samples."""
        return Columns(
            np.zeros(0, np.int64),
            np.zeros(0, np.int32),
            np.zeros(0, np.int32),
            np.zeros(0, np.int64),
            np.zeros(0, np.uint8),
        )

    @staticmethod
    def concatenate(parts: Sequence[Columns]) -> Columns:
        """All samples of ``parts`` in the order given."""
        if not parts:
            return Columns.empty()
        if len(parts) == 1:
            return parts[0]
        return Columns(
            np.concatenate([p.time_ns for p in parts]),
            np.concatenate([p.series for p in parts]),
            np.concatenate([p.definition for p in parts]),
            np.concatenate([p.raw for p in parts]),
            np.concatenate([p.quality for p in parts]),
        )

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Columns:
        """The samples chosen by an index array, a mask or a slice."""
        return Columns(
            self.time_ns[index], self.series[index], self.definition[index], self.raw[index], self.quality[index]
        )

    def sorted(self) -> Columns:
        """By (series, time); samples equal in both keep their order."""
        if len(self) < 2:
            return self
        ascending = (self.series[1:] > self.series[:-1]) | (
            (self.series[1:] == self.series[:-1]) & (self.time_ns[1:] >= self.time_ns[:-1])
        )
        return self if bool(ascending.all()) else self.take(np.lexsort((self.time_ns, self.series)))

    def by_time(self) -> Columns:
        """By (time, series), for people who read downward."""
        return self.take(np.lexsort((self.series, self.time_ns)))

    def between(self, from_ns: int, to_ns: int) -> Columns:
        """Samples with ``from_ns <= time < to_ns``."""
        inside = (self.time_ns >= from_ns) & (self.time_ns < to_ns)
        return self if bool(inside.all()) else self.take(inside)

    def only(self, series: Iterable[int]) -> Columns:
        """Samples of the given series."""
        return self.take(np.isin(self.series, np.fromiter(series, np.int32)))

    def days(self) -> Iterator[tuple[int, Columns]]:
        """Each UTC day (counted since the epoch) with its samples."""
        day = self.time_ns // DAY_NS
        for one in np.unique(day):
            yield int(one), self.take(day == one)


def columns_of(block: SampleBlock, series: NDArray[np.int32], definition: NDArray[np.int32]) -> Columns:
    """A batch's samples with signal numbers translated by the manifest's tables ``series`` and ``definition``.

    Raises:
        UnknownSignal: a signal number is outside the tables.
    """
    if len(block) and (int(block.signal.max()) >= len(series) or int(block.signal.min()) < 0):
        raise UnknownSignal(f"signal {int(block.signal.max())}, the manifest has {len(series)}")
    return Columns(
        block.row_timestamp_ns[block.row],
        series[block.signal],
        definition[block.signal],
        np.ascontiguousarray(block.raw),
        block.quality,
    )
