"""The newest value of each signal of a vehicle, by the sample's own time and not by its arrival. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cloud.lake.columns import Columns


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest sample of a series."""

    series: int
    time_ns: int
    definition: int
    raw: int
    quality: int


class LatestValues:
    """Newest samples of one vehicle; folding the same samples in again, in any order, changes nothing."""

    def __init__(self, known: Iterable[Latest] = ()) -> None:
        self._by_series = {latest.series: latest for latest in known}

    def __len__(self) -> int:
        return len(self._by_series)

    def all(self) -> list[Latest]:
        """One entry per series, by series number."""
        return [self._by_series[series] for series in sorted(self._by_series)]

    def fold(self, columns: Columns) -> list[Latest]:
        """Take over what is newer in ``columns`` (sorted by series and time); returns what changed."""
        if not len(columns):
            return []
        last = np.flatnonzero(np.append(columns.series[1:] != columns.series[:-1], True))
        changed: list[Latest] = []
        for series, time_ns, definition, raw, quality in zip(
            columns.series[last].tolist(),
            columns.time_ns[last].tolist(),
            columns.definition[last].tolist(),
            columns.raw[last].tolist(),
            columns.quality[last].tolist(),
            strict=True,
        ):
            known = self._by_series.get(series)
            if known is None or time_ns > known.time_ns:
                self._by_series[series] = latest = Latest(series, time_ns, definition, raw, quality)
                changed.append(latest)
        return changed
