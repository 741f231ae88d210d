"""Physical values of raw integers for many signals at once, and whether they are in range."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dbc.decode import Values
from dbc.manifest import Manifest


class Scaling:
    """Conversions for the signals of one manifest. Raw values stay the truth everywhere else."""

    def __init__(self, manifest: Manifest) -> None:
        signals = manifest.signals
        self._values = Values(manifest)
        ranged = [s.minimum is not None and s.maximum is not None and s.minimum < s.maximum for s in signals]
        self._ranged = np.array(ranged, np.bool_)
        self._minimum = np.array([s.minimum if r else 0.0 for s, r in zip(signals, ranged, strict=True)], np.float64)
        self._maximum = np.array([s.maximum if r else 0.0 for s, r in zip(signals, ranged, strict=True)], np.float64)

    def physical(self, signal: NDArray[np.integer], raw: NDArray[np.int64]) -> NDArray[np.float64]:
        """The physical value of each raw one; NaN and infinity stay. Integers above 2**53 are rounded."""
        with np.errstate(invalid="ignore", over="ignore"):
            return self._values.physical(signal, raw)

    def outside(self, signal: NDArray[np.integer], raw: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which values are outside the range the manifest declares, where it declares one; NaN is outside."""
        value = self.physical(signal, raw)
        inside = (value >= self._minimum[signal]) & (value <= self._maximum[signal])
        outside: NDArray[np.bool_] = self._ranged[signal] & ~inside
        return outside
