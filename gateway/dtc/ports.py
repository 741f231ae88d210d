"""What the monitors need to know of the vehicle besides signals; ``gateway.diag.vehicle_state`` tells it."""

from __future__ import annotations

from typing import Protocol


class Vehicle(Protocol):
    """The vehicle at this moment."""

    @property
    def odometer_km(self) -> float | None:
        """The last one seen; None if never."""

    @property
    def has_ignition(self) -> bool:
        """Whether an ignition signal is known; without one the operation cycle is the life of the process."""

    @property
    def is_ignition_on(self) -> bool | None:
        """None: unknown or too old."""
