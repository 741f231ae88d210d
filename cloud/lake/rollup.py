"""Roll-ups as mergeable parts: minimum, maximum, sum, count and last value per (series, definition, bucket).

Every sample lies in exactly one raw file, and every raw file brings the parts of its own samples. A bucket's value is
the merge of its parts, whatever their number and order; so late data needs no recomputation, and parts can be folded
together at any time. Only good values count (quality 0 and a finite number); the others are counted as ``bad``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from cloud.lake.columns import Columns
from cloud.lake.definitions import Definition

MINUTE_NS = 60_000_000_000
HOUR_NS = 3_600_000_000_000
#: Roll-up tiers: name -> width of a bucket.
WIDTH_NS: dict[str, int] = {"1m": MINUTE_NS, "1h": HOUR_NS}
_NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True, eq=False)
class Rollup:
    """Parts, sorted by (series, definition, bucket) once merged.

    ``minimum``, ``maximum``, ``last`` are NaN and ``last_ns`` is the lowest int64 where ``count`` is 0. Of several
    last values with the same time the greatest counts, so that the result does not depend on the order of arrival.
    """

    series: NDArray[np.int32]
    definition: NDArray[np.int32]
    bucket_ns: NDArray[np.int64]  # start of the bucket, UTC
    count: NDArray[np.int64]  # good samples
    bad: NDArray[np.int64]  # samples that are not in the statistics
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    sum: NDArray[np.float64]
    last: NDArray[np.float64]
    last_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.series)

    @staticmethod
    def empty() -> Rollup:
        """No parts."""
        i4, i8, f8 = np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.float64)
        return Rollup(i4, i4, i8, i8, i8, f8, f8, f8, f8, i8)

    @staticmethod
    def concatenate(parts: Sequence[Rollup]) -> Rollup:
        """All parts, unmerged."""
        if not parts:
            return Rollup.empty()
        if len(parts) == 1:
            return parts[0]
        return Rollup(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Rollup)))

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Rollup:
        """The rows chosen by an index array or a mask."""
        return Rollup(*(getattr(self, f.name)[index] for f in fields(Rollup)))


def physical_values(columns: Columns, definitions: Mapping[int, Definition]) -> NDArray[np.float64]:
    """The physical value of each sample, each by its own definition."""
    values = np.empty(len(columns), np.float64)
    if not len(columns):
        return values
    order = np.argsort(columns.definition, kind="stable")
    numbers, firsts = np.unique(columns.definition[order], return_index=True)
    for number, index in zip(numbers, np.split(order, firsts[1:]), strict=True):
        values[index] = definitions[int(number)].physical(columns.raw[index])
    return values


def roll_up(columns: Columns, values: NDArray[np.float64], width_ns: int) -> Rollup:
    """The parts of ``columns`` whose physical values are ``values``, for buckets of ``width_ns``."""
    good = (columns.quality == 0) & np.isfinite(values)
    count = good.astype(np.int64)
    parts = Rollup(
        columns.series,
        columns.definition,
        columns.time_ns // width_ns * width_ns,
        count,
        1 - count,
        np.where(good, values, np.nan),
        np.where(good, values, np.nan),
        np.where(good, values, 0.0),
        np.where(good, values, np.nan),
        np.where(good, columns.time_ns, _NEVER),
    )
    return merge_rollups([parts])


def merge_rollups(parts: Sequence[Rollup]) -> Rollup:
    """One row per (series, definition, bucket)."""
    rows = Rollup.concatenate(parts)
    if not len(rows):
        return rows
    last_value = np.where(np.isnan(rows.last), -np.inf, rows.last)
    rows = rows.take(np.lexsort((last_value, rows.last_ns, rows.bucket_ns, rows.definition, rows.series)))
    changes = (
        (np.diff(rows.series) != 0) | (np.diff(rows.definition) != 0) | (rows.bucket_ns[1:] != rows.bucket_ns[:-1])
    )
    first = np.concatenate(([0], np.flatnonzero(changes) + 1))
    end = np.concatenate((first[1:], [len(rows)])) - 1
    return Rollup(
        rows.series[first],
        rows.definition[first],
        rows.bucket_ns[first],
        np.add.reduceat(rows.count, first),
        np.add.reduceat(rows.bad, first),
        np.fmin.reduceat(rows.minimum, first),
        np.fmax.reduceat(rows.maximum, first),
        np.add.reduceat(rows.sum, first),
        rows.last[end],
        rows.last_ns[end],
    )
