"""What each signal of the Outrider One's DBCs is in the physical model: one file per bus.

Each function returns ``Message.Signal`` to physical value, always the same keys in the same order. A message whose
frames carry different content in turn has keys ``Message.Signal@variant``. Counters and checksums are not here: the
encoder fills them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from simulator.model.vehicle import Vehicle
from simulator.signals.auxiliary import auxiliary, auxiliary_slow
from simulator.signals.battery import battery, battery_cells, battery_slow
from simulator.signals.body import body, body_slow
from simulator.signals.chassis import chassis, chassis_slow
from simulator.signals.powertrain import powertrain, powertrain_slow

Reader = Callable[[Vehicle, float], dict[str, float]]

#: What the selectors of a multiplexed message are, frame by frame, and how often other messages' content rotates.
VARIANTS: dict[str, tuple[dict[str, int], ...]] = {
    "powertrain.VehicleIdentification": ({"Part": 0}, {"Part": 1}, {"Part": 2}),
    "battery.CellVoltages": ({"Group": 0}, {"Group": 1}, {"Group": 2}, {"Group": 3}),
    "battery.Lifetime": (
        {"Page": 0, "LifetimeItem": 0},
        {"Page": 0, "LifetimeItem": 1},
        {"Page": 1, "HistogramKind": 0},
        {"Page": 1, "HistogramKind": 1},
        {"Page": 2},
    ),
    "auxiliary.TIRE": ({}, {}, {}, {}),
}

#: Identifiers sent in place of those in the DBC: messages that it writes for any source address.
SENT_ID: dict[str, int] = {"auxiliary.TIRE": 0x18FEF433}

#: Bus, model steps between two evaluations (what changes slowly is not read at each step), and the reader.
GROUPS: tuple[tuple[str, int, Reader], ...] = (
    ("powertrain", 1, powertrain),
    ("powertrain", 5, powertrain_slow),
    ("chassis", 1, chassis),
    ("chassis", 5, chassis_slow),
    ("battery", 1, battery),
    ("battery", 10, battery_slow),
    ("body", 2, body),
    ("body", 10, body_slow),
    ("auxiliary", 1, auxiliary),
    ("auxiliary", 10, auxiliary_slow),
)


class Readings:
    """Reads all signals of a vehicle into one row of numbers."""

    def __init__(self, vehicle: Vehicle, epoch_ns: int) -> None:
        """``epoch_ns`` is what UTC was when the simulation began."""
        self._vehicle = vehicle
        self._epoch_ns = epoch_ns
        self._cached: list[list[float]] = []
        columns: list[str] = []
        for bus, _, read in GROUPS:
            values = read(vehicle, self.now_s)
            columns += [f"{bus}.{name}" for name in values]
            self._cached.append(list(values.values()))
        self._scalars = len(columns)
        columns += battery_cells(vehicle)
        #: ``bus.Message.Signal[@variant]`` to its place in a row.
        self.columns: dict[str, int] = {name: i for i, name in enumerate(columns)}

    @property
    def now_s(self) -> float:
        """UTC in the simulation, seconds since 1970."""
        return self._epoch_ns / 1e9 + self._vehicle.time_s

    def fill(self, row: NDArray[np.float64]) -> None:
        """Write the present values into ``row``, as long as ``columns``."""
        values: list[float] = []
        steps, now_s = self._vehicle.steps, self.now_s
        for i, (_, every, read) in enumerate(GROUPS):
            if steps % every == 0:
                self._cached[i] = list(read(self._vehicle, now_s).values())
            values += self._cached[i]
        row[: self._scalars] = values
        battery_state = self._vehicle.battery
        cells = len(battery_state.cell_v)
        row[self._scalars : self._scalars + cells] = battery_state.cell_v
        row[self._scalars + cells :] = battery_state.sensor_c
