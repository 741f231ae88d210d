"""The driver: keeps the advised speed, stops at some stop lines, and brings the car to rest when told to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from simulator.model.route import Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How someone drives."""

    speed_share: float = 0.97  # of the advised speed
    acceleration_m_s2: float = 1.7
    braking_m_s2: float = 1.6
    stop_chance: float = 0.5  # that a stop line asks for a stop
    stop_s: tuple[float, float] = (6.0, 25.0)


STYLES = {
    "calm": Style(speed_share=0.92, acceleration_m_s2=1.1, braking_m_s2=1.2),
    "normal": Style(),
    "sporty": Style(speed_share=1.08, acceleration_m_s2=3.4, braking_m_s2=2.8),
}


class Driver:
    """Turns the road ahead into a wanted acceleration; state is what is left of a stop and the drift of attention."""

    def __init__(self, style: Style, rng: np.random.Generator) -> None:
        self.style = style
        self._rng = rng
        self._wait_s = 0.0
        self._decided_m = -math.inf  # distance of the stop line already decided on
        self._stop_at_m: float | None = None
        self._mood = 0.0
        self._demand = 0.0

    def demand_m_s2(
        self, dt_s: float, distance_m: float, speed_m_s: float, route: Route, advised_m_s: float, *, drive: bool
    ) -> float:
        """The acceleration wanted now; about zero while waiting, negative to slow down."""
        style = self.style
        if self._wait_s > 0:
            self._wait_s -= dt_s
            self._demand = -1.0
            return self._demand
        self._mood += (-self._mood * 0.05 + float(self._rng.normal()) * 0.03) * dt_s
        target = advised_m_s * (style.speed_share + min(0.05, max(-0.05, self._mood)))
        if not drive:
            target = 0.0
        wanted = (target - speed_m_s) / 1.3
        if target < 0.3:
            wanted = -style.braking_m_s2
        wanted = min(wanted, self._for_stop(distance_m, speed_m_s, route))
        wanted = min(style.acceleration_m_s2, max(-2.2 * style.braking_m_s2, wanted))
        jerk = 3.5 * dt_s if wanted > self._demand else 6.0 * dt_s
        self._demand += min(jerk, max(-jerk, wanted - self._demand))
        return self._demand

    def _for_stop(self, distance_m: float, speed_m_s: float, route: Route) -> float:
        """The highest acceleration that still allows to stop at the line, if the driver stops there."""
        style = self.style
        ahead = route.next_stop_m(distance_m)
        line = distance_m + ahead
        if ahead < 70 and abs(line - self._decided_m) > 2:
            self._decided_m = line
            self._stop_at_m = line if float(self._rng.random()) < style.stop_chance else None
        if self._stop_at_m is None:
            return math.inf
        left = self._stop_at_m - distance_m
        if left < -2:  # overrun: too late to stop
            self._stop_at_m = None
            return math.inf
        if left < 6.0 and speed_m_s < 1.2:
            self._stop_at_m = None
            self._wait_s = float(self._rng.uniform(*style.stop_s))
            return -1.0
        needed = speed_m_s**2 / (2 * max(left - 1.5, 0.2))
        if needed > 0.75 * style.braking_m_s2:
            return -1.05 * needed
        creeping = left < 12 and 1.5 < speed_m_s < 2.5
        return 0.0 if creeping else math.inf
