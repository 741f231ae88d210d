"""The vehicle as its ECUs see it: values, overrides, who is silent. One port, a real adapter and an in-memory one."""

from __future__ import annotations

from typing import Protocol


class VehiclePort(Protocol):
    """What ECUs read of the vehicle and do to it."""

    def has(self, signal: str) -> bool:
        """Whether ``bus.Message.Signal`` exists."""

    def value(self, signal: str) -> float:
        """Its present physical value, with overrides and sensor faults.

        Raises:
            KeyError: no such signal.
        """

    def override(self, signal: str, value: float | None) -> None:
        """Hold a signal at ``value`` in the model and on the bus; None lets go. Raises ``KeyError``."""

    def age_s(self, message: str) -> float:
        """Vehicle's seconds since ``bus.Message`` was last sent; since the start if never."""

    def bus_off(self, bus: str) -> bool:
        """Whether the bus is in bus-off or silenced by a fault."""

    def is_corrupt(self, message: str) -> bool:
        """Whether ``bus.Message`` comes with a wrong checksum, a counter that stands still or another length."""

    def silence(self, node: str, *, normal: bool, network: bool) -> None:
        """Keep a node's messages off the bus: normal ones, those of network management. False lets them pass."""

    def time_s(self) -> float:
        """The vehicle's time: runs at the simulation's speed and stops with it."""

    def utc_s(self) -> float:
        """UTC in the simulation, seconds since 1970."""


class FakeVehicle:
    """A vehicle of constants, for tests and for ECUs without a simulation."""

    def __init__(self, **values: float) -> None:
        """Values by ``bus.Message.Signal`` in ``values`` (set the attribute for names with dots)."""
        self.values: dict[str, float] = dict(values)
        self.ages: dict[str, float] = {}
        self.overrides: dict[str, float] = {}
        self.silent: dict[str, tuple[bool, bool]] = {}
        self.off: set[str] = set()
        self.corrupt: set[str] = set()
        self.now_s = 0.0

    def has(self, signal: str) -> bool:
        """See ``VehiclePort``; every signal exists."""
        return signal.count(".") == 2

    def value(self, signal: str) -> float:
        """See ``VehiclePort``; 0 where nothing was set."""
        return self.overrides.get(signal, self.values.get(signal, 0.0))

    def override(self, signal: str, value: float | None) -> None:
        """See ``VehiclePort``."""
        if value is None:
            self.overrides.pop(signal, None)
        else:
            self.overrides[signal] = value

    def age_s(self, message: str) -> float:
        """See ``VehiclePort``."""
        return self.ages.get(message, 0.0)

    def bus_off(self, bus: str) -> bool:
        """See ``VehiclePort``."""
        return bus in self.off

    def is_corrupt(self, message: str) -> bool:
        """See ``VehiclePort``."""
        return message in self.corrupt

    def silence(self, node: str, *, normal: bool, network: bool) -> None:
        """See ``VehiclePort``."""
        self.silent[node] = (normal, network)

    def time_s(self) -> float:
        """See ``VehiclePort``."""
        return self.now_s

    def utc_s(self) -> float:
        """See ``VehiclePort``."""
        return 1_767_600_000.0 + self.now_s
