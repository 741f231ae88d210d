"""Does the car move, and what are voltage, odometer and ignition: from the frames that pass, each with its age.

What is unknown counts as the dangerous case: without a fresh speed the car moves. Times are monotonic nanoseconds of
the clock given; a value is as old as the moment its frame was read.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import numpy as np

from dbc.decode.layout import problem_of
from dbc.frames import FrameBatch
from dbc.manifest import Manifest
from gateway.can.observer import Wanted
from gateway.collect.names import NameError_, Names
from gateway.diag.config import VehicleStateSection
from gateway.dtc.latest import NEVER, LatestSignals
from gateway.errors import ConfigError
from gateway.runtime import Clock

_KMH_PER = {"km/h": 1.0, "m/s": 3.6, "mph": 1.609344}
_KM_PER = {"km": 1.0, "m": 0.001, "mi": 1.609344, "mile": 1.609344}
_KEYS = ("speed", "second_speed", "voltage", "odometer", "ignition")
_SPEEDS = ("speed", "second_speed")


class Reading(msgspec.Struct, frozen=True):
    """A value and its age. ``value`` is None when it was never seen, or is no number."""

    value: float | None
    age_ms: float | None = None


class VehicleState:
    """A ``FrameObserver`` over at most five signals.

    Raises:
        ConfigError: a signal that the manifest does not have or that cannot be decoded.
    """

    def __init__(self, section: VehicleStateSection, manifest: Manifest, clock: Clock) -> None:
        self._section, self._clock = section, clock
        names = Names(manifest)
        self._number: dict[str, int] = {}
        for key in _KEYS:
            if text := getattr(section, f"{key}_signal"):
                self._number[key] = _find(names, text, f"$.diagnostics.vehicle_state.{key}_signal")
        signals = tuple(dict.fromkeys(self._number.values()))
        self._place = {key: signals.index(number) for key, number in self._number.items()}
        self._latest = LatestSignals(manifest, signals)
        odometer = self._number.get("odometer")
        unit = "km" if odometer is None else manifest.signals[odometer].unit.lower()
        self._km_per_unit = _KM_PER.get(unit, 1.0)
        self._kmh_per_unit = _KMH_PER[section.speed_unit]

    def wanted(self) -> dict[str, Collection[Wanted]]:
        """See ``FrameObserver``."""
        return dict(self._latest.wanted())

    def observe(self, frames: FrameBatch, now_ns: int) -> None:
        """See ``FrameObserver``; keeps the newest frames and decodes when asked."""
        if not len(frames) or not self._number:
            return
        slots = self._latest.slots(frames)
        rows = np.flatnonzero(slots >= 0)
        if len(rows):
            self._latest.put(frames.take(rows), slots[rows], self._clock.monotonic_ns())

    def reading(self, key: str) -> Reading:
        """``speed``, ``second_speed`` (km/h), ``voltage`` (V), ``odometer`` (km), ``ignition`` as seen last."""
        place = self._place.get(key)
        if place is None:
            return Reading(None)
        self._latest.refresh()
        seen_ns, value = int(self._latest.time_ns[place]), float(self._latest.value[place])
        if seen_ns == NEVER:
            return Reading(None)
        if key in _SPEEDS:
            value *= self._kmh_per_unit
        elif key == "odometer":
            value *= self._km_per_unit
        age_ms = max(0.0, (self._clock.monotonic_ns() - seen_ns) / 1e6)
        return Reading(None if value != value else value, age_ms)

    def _fresh(self, key: str) -> float | None:
        reading = self.reading(key)
        is_fresh = reading.age_ms is not None and reading.age_ms <= self._section.max_age_ms
        return reading.value if is_fresh else None

    @property
    def speed_kmh(self) -> float | None:
        """The higher of the speeds that are not older than ``max_age_ms``; None: there is none."""
        return max((v for key in _SPEEDS if (v := self._fresh(key)) is not None), key=abs, default=None)

    @property
    def is_standstill(self) -> bool:
        """True only when a fresh speed is below ``standstill_below``."""
        return self._is_slow(self.speed_kmh)

    @property
    def was_standstill(self) -> bool:
        """The last speeds seen were below ``standstill_below``, however old they are."""
        return all(self._is_slow(self.reading(key).value) for key in _SPEEDS if key in self._place) and bool(
            self._place.keys() & set(_SPEEDS)
        )

    def _is_slow(self, speed_kmh: float | None) -> bool:
        return speed_kmh is not None and abs(speed_kmh) < self._section.standstill_below * self._kmh_per_unit

    @property
    def voltage_v(self) -> float | None:
        """None: unknown or older than ``max_age_ms``."""
        return self._fresh("voltage")

    @property
    def odometer_km(self) -> float | None:
        """The last one seen, however old: it does not go back."""
        return self.reading("odometer").value

    @property
    def has_ignition(self) -> bool:
        """Whether the configuration names an ignition signal."""
        return "ignition" in self._place

    @property
    def is_ignition_on(self) -> bool | None:
        """None: unknown or older than ``max_age_ms``."""
        value = self._fresh("ignition")
        return None if value is None else value > 0


def _find(names: Names, text: str, where: str) -> int:
    try:
        number = names.signal(text)
    except NameError_ as error:
        raise ConfigError(str(error), where=where) from error
    if problem := problem_of(names.manifest.signals[number]):
        raise ConfigError(f"{text} cannot be decoded: {problem}", where=where)
    return number
