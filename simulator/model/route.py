"""A closed road: where the car is, which way it points, how steep and curved the road is, what speed it allows.

The shipped routes are invented by ``simulator/tools/make_routes.py``; nobody drove them.
"""

from __future__ import annotations

import bisect
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulator.buses import DATA

Floats = NDArray[np.float64]
EARTH_M_PER_DEG = 111_320.0
STEP_M = 4.0


@dataclass(frozen=True, slots=True)
class Place:
    """The road at one distance."""

    latitude: float
    longitude: float
    altitude_m: float
    heading_rad: float  # 0 is north, clockwise
    grade: float  # rise over run
    curvature: float  # 1/m, positive turns left
    limit_m_s: float
    advised_m_s: float  # limit and curves ahead, for a comfortable driver


class Route:
    """A loop resampled every ``STEP_M`` metres."""

    def __init__(self, name: str, points: Floats, stops_m: list[float]) -> None:
        """``points`` are rows of latitude, longitude, altitude in metres and speed limit in km/h, first != last.

        Raises:
            ValueError: fewer than 8 points or a loop shorter than 400 m.
        """
        if points.ndim != 2 or points.shape[0] < 8 or points.shape[1] != 4 or not np.isfinite(points).all():
            raise ValueError(f"route {name}: needs at least 8 points of 4 finite numbers")
        self.name = name
        closed = np.vstack([points, points[:1]])
        east = (closed[:, 1] - closed[0, 1]) * EARTH_M_PER_DEG * math.cos(math.radians(closed[0, 0]))
        north = (closed[:, 0] - closed[0, 0]) * EARTH_M_PER_DEG
        along: Floats = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(east), np.diff(north)))])
        if along[-1] < 400:
            raise ValueError(f"route {name}: {along[-1]:.0f} m long, at least 400 m")
        count = round(float(along[-1]) / STEP_M)
        self.length_m: float = count * STEP_M
        grid = np.linspace(0, along[-1], count, endpoint=False)
        x = _smooth(np.interp(grid, along, east), 3)
        y = _smooth(np.interp(grid, along, north), 3)
        heading = np.unwrap(np.arctan2(_slope(x), _slope(y)))
        turn = np.diff(np.concatenate([heading, [heading[0] + 2 * math.pi * round((heading[-1] - heading[0]) / 6.28)]]))
        self._curvature: list[float] = _smooth(-turn / STEP_M, 5).tolist()
        self._heading = heading.tolist()
        self._latitude = (closed[0, 0] + y / EARTH_M_PER_DEG).tolist()
        cos = math.cos(math.radians(closed[0, 0]))
        self._longitude = (closed[0, 1] + x / EARTH_M_PER_DEG / cos).tolist()
        altitude = _smooth(np.interp(grid, along, closed[:, 2]), 15)
        self._altitude = altitude.tolist()
        self._grade = (_slope(altitude) / (2 * STEP_M)).tolist()
        limit = closed[np.searchsorted(along, grid, side="right") - 1, 3] / 3.6
        self._limit = limit.tolist()
        self._advised = _advised(limit, np.asarray(self._curvature)).tolist()
        self.stops_m = sorted(s for s in stops_m if 0 <= s < self.length_m)

    def at(self, distance_m: float) -> Place:
        """The road ``distance_m`` after the start, laps included."""
        position = (distance_m % self.length_m) / STEP_M
        i = int(position)
        f = position - i
        j = i + 1 if i + 1 < len(self._limit) else 0
        i = i if i < len(self._limit) else 0
        turn = (self._heading[j] - self._heading[i] + math.pi) % (2 * math.pi) - math.pi
        return Place(
            self._latitude[i] + f * (self._latitude[j] - self._latitude[i]),
            self._longitude[i] + f * (self._longitude[j] - self._longitude[i]),
            self._altitude[i] + f * (self._altitude[j] - self._altitude[i]),
            (self._heading[i] + f * turn) % (2 * math.pi),
            self._grade[i] + f * (self._grade[j] - self._grade[i]),
            self._curvature[i] + f * (self._curvature[j] - self._curvature[i]),
            self._limit[i],
            self._advised[i] + f * (self._advised[j] - self._advised[i]),
        )

    def next_stop_m(self, distance_m: float) -> float:
        """Distance from here to the next stop line (infinite without any)."""
        if not self.stops_m:
            return math.inf
        here = distance_m % self.length_m
        i = bisect.bisect_right(self.stops_m, here)
        return self.stops_m[i] - here if i < len(self.stops_m) else self.stops_m[0] + self.length_m - here


def _slope(values: Floats) -> Floats:
    return np.roll(values, -1) - np.roll(values, 1)


def _smooth(values: Floats, width: int) -> Floats:
    kernel = np.ones(width) / width
    padded = np.concatenate([values[-width:], values, values[:width]])
    return np.convolve(padded, kernel, mode="same")[width:-width]


def _advised(limit: Floats, curvature: Floats, lateral: float = 2.2, braking: float = 1.3) -> Floats:
    """Speed a comfortable driver keeps: the limit, slower in curves, and braking in time for what follows."""
    speed = np.minimum(limit, np.sqrt(lateral / np.maximum(np.abs(curvature), 1e-5)))
    out = speed.tolist()
    for _ in range(2):  # the second lap carries the braking across the start
        for i in range(len(out) - 1, -1, -1):
            after = out[i + 1] if i + 1 < len(out) else out[0]
            out[i] = min(out[i], math.sqrt(after * after + 2 * braking * STEP_M))
    return np.asarray(out)


def load_route(name: str) -> Route:
    """A shipped route (``city``, ``motorway``) or one from a JSON file.

    Raises:
        ValueError: no such route or not a route file; the message names it.
    """
    path = Path(name) if name.endswith(".json") else DATA / "routes" / f"{name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        points = np.asarray(content["points"], np.float64)
        stops = [float(s) for s in content.get("stops_m", [])]
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in (DATA / "routes").glob("*.json")))
        raise ValueError(f"no route {name!r}; there are {known}") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"route {path}: {error}") from error
    return Route(name, points, stops)
