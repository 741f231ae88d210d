"""What the buses say that updates ask for: the values conditions name, and whether a bus is alive at all."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from dbc.decode.layout import problem_of
from dbc.frames import FrameBatch
from dbc.manifest import Manifest
from gateway.can.model import IdFilter
from gateway.can.observer import Wanted
from gateway.collect.names import NameError_, Names
from gateway.dtc.latest import NEVER, LatestSignals
from gateway.errors import ConfigError
from gateway.runtime import Clock
from gateway.update.conditions import SignalReading

#: Lets every frame of a bus pass the kernel's filter.
EVERYTHING = (IdFilter(0, False, 0), IdFilter(0, True, 0))


class WatchedSignals:
    """A ``FrameObserver``, and the ``SignalValues`` of conditions."""

    def __init__(self, manifest: Manifest, signals: Sequence[str], buses: Sequence[str], clock: Clock) -> None:
        """Watch.

        Args:
            manifest: what decodes.
            signals: names as schemes write them.
            buses: whose silence is asked for; all their frames pass the kernel's filter while ``is_on_trial``.
            clock: ages are by its monotonic time.

        Raises:
            ConfigError: a signal that the manifest does not have or that cannot be decoded, an unknown bus.
        """
        names = Names(manifest)
        self._number = {text: _find(names, text, i) for i, text in enumerate(signals)}
        wanted = tuple(dict.fromkeys(self._number.values()))
        self._place = {text: wanted.index(number) for text, number in self._number.items()}
        owner = manifest.signal_message
        self._bus_of = {text: manifest.messages[owner[number]].bus for text, number in self._number.items()}
        for i, bus in enumerate(buses):
            if bus not in manifest.buses:
                known = ", ".join(manifest.buses)
                raise ConfigError(f"bus {bus!r} is not in the manifest ({known})", where=f"$.update.health.buses[{i}]")
        self._latest = LatestSignals(manifest, wanted)
        self._buses, self._clock = manifest.buses, clock
        self._watched = tuple(buses)
        self._began_ns = clock.monotonic_ns()
        self._seen_ns: dict[int, int] = {}
        self.is_on_trial = False

    def wanted(self) -> dict[str, Collection[Wanted]]:
        """See ``FrameObserver``."""
        found: dict[str, Collection[Wanted]] = dict(self._latest.wanted())
        if self.is_on_trial:
            found |= dict.fromkeys(self._watched, EVERYTHING)
        return found

    def observe(self, frames: FrameBatch, now_ns: int) -> None:
        """See ``FrameObserver``."""
        if not len(frames):
            return
        monotonic_ns = self._clock.monotonic_ns()
        for bus in np.unique(frames.bus).tolist():
            self._seen_ns[bus] = monotonic_ns
        if self._number:
            slots = self._latest.slots(frames)
            rows = np.flatnonzero(slots >= 0)
            if len(rows):
                self._latest.put(frames.take(rows), slots[rows], monotonic_ns)

    def latest(self, signal: str) -> SignalReading:
        """See ``SignalValues``."""
        self._latest.refresh()
        place = self._place[signal]
        seen_ns, value = int(self._latest.time_ns[place]), float(self._latest.value[place])
        silent_s = self._age_s(self._seen_ns.get(self._bus_of[signal]))
        if seen_ns == NEVER:
            return SignalReading(None, self._age_s(None), silent_s)
        return SignalReading(None if value != value else value, self._age_s(seen_ns), silent_s)

    def silent_s(self, bus: str) -> float | None:
        """Seconds since the last frame of a bus; None: there was none yet."""
        seen_ns = self._seen_ns.get(self._buses.index(bus))
        return None if seen_ns is None else self._age_s(seen_ns)

    def _age_s(self, seen_ns: int | None) -> float:
        return (self._clock.monotonic_ns() - (self._began_ns if seen_ns is None else seen_ns)) / 1e9


def _find(names: Names, text: str, number: int) -> int:
    where = f"$.update.conditions[{number}].signal"
    try:
        found = names.signal(text)
    except NameError_ as error:
        raise ConfigError(str(error), where=where) from error
    if problem := problem_of(names.manifest.signals[found]):
        raise ConfigError(f"{text} cannot be decoded: {problem}", where=where)
    return found
