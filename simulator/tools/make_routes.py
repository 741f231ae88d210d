"""Makes ``simulator/data/routes/*.json``: invented closed roads, the same on each run.

Run as ``python -m simulator.tools.make_routes``. The city is a rectilinear loop with rounded corners and stop lines;
the motorway is a smooth closed curve (a Fourier series), so that its curvature has no steps.
"""

from __future__ import annotations

import json
import math

import numpy as np

from simulator.buses import DATA
from simulator.model.route import EARTH_M_PER_DEG

ORIGIN = (50.02, 8.02)


def to_degrees(x_m: float, y_m: float) -> tuple[float, float]:
    """Latitude and longitude of a place ``x_m`` east and ``y_m`` north of the origin."""
    latitude = ORIGIN[0] + y_m / EARTH_M_PER_DEG
    return latitude, ORIGIN[1] + x_m / EARTH_M_PER_DEG / math.cos(math.radians(ORIGIN[0]))


def city() -> dict[str, object]:
    """Nine blocks and back, about 7 km: 50 km/h, a 30 zone, one 70 km/h ring road."""
    corners = [(0, 0), (900, 0), (900, 500), (1500, 500), (1500, 1400), (700, 1400), (700, 900), (0, 900)]
    radius = 14.0
    outline: list[tuple[float, float]] = []
    for i, corner in enumerate(corners):
        x, y = float(corner[0]), float(corner[1])
        before, after = corners[i - 1], corners[(i + 1) % len(corners)]
        into = np.array([x - before[0], y - before[1]], float)
        out = np.array([after[0] - x, after[1] - y], float)
        into, out = into / np.hypot(*into), out / np.hypot(*out)
        start, end = np.array([x, y]) - radius * into, np.array([x, y]) + radius * out
        for t in np.linspace(0, 1, 7):
            p = (1 - t) ** 2 * start + 2 * t * (1 - t) * np.array([x, y]) + t**2 * end
            outline.append((float(p[0]), float(p[1])))
    points: list[list[float]] = []
    stops: list[float] = []
    along = 0.0
    for i, place in enumerate(outline):
        x, y = place
        nx, ny = outline[(i + 1) % len(outline)]
        length = math.hypot(nx - x, ny - y)
        steps = max(1, int(length // 25))
        limit = 70 if y > 1300 else 30 if x < 10 else 50
        for k in range(steps):
            px, py = x + (nx - x) * k / steps, y + (ny - y) * k / steps
            altitude = 118 + 9 * math.sin(px / 420) + 6 * math.cos(py / 350)
            latitude, longitude = to_degrees(px, py)
            points.append([round(latitude, 7), round(longitude, 7), round(altitude, 2), limit])
        if length > 300:
            stops.append(round(along + length - 18, 1))
        if length > 700:
            stops.append(round(along + length / 2, 1))
        along += length
    return {"name": "city", "comment": "Invented town streets.", "stops_m": sorted(stops), "points": points}


def motorway() -> dict[str, object]:
    """About 45 km of gentle curves and hills: 130 km/h with two stretches of 100."""
    rng = np.random.default_rng(7)
    theta = np.linspace(0, 2 * math.pi, 900, endpoint=False)
    radius = 6500 + sum(
        float(rng.uniform(-1, 1)) * 1300 / k**1.3 * np.cos(k * theta + rng.uniform(0, 6.28)) for k in range(2, 7)
    )
    x, y = radius * np.cos(theta) * 1.15, radius * np.sin(theta)
    altitude = 150 + 45 * np.sin(3 * theta + 1) + 22 * np.sin(7 * theta) + 6 * np.sin(19 * theta)
    points = []
    for i in range(len(theta)):
        latitude, longitude = to_degrees(float(x[i]), float(y[i]))
        limit = 100 if 100 < i < 160 or 620 < i < 700 else 130
        points.append([round(latitude, 7), round(longitude, 7), round(float(altitude[i]), 2), limit])
    return {"name": "motorway", "comment": "Invented motorway.", "stops_m": [], "points": points}


def main() -> None:
    """Write both files."""
    folder = DATA / "routes"
    folder.mkdir(exist_ok=True)
    for route in (city(), motorway()):
        rows = ",\n".join(json.dumps(point) for point in route.pop("points"))  # type: ignore[attr-defined]  # a list
        head = json.dumps(route, indent=1)[:-2]
        (folder / f"{route['name']}.json").write_text(f'{head},\n "points": [\n{rows}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
