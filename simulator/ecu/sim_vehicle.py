"""The simulated vehicle as its ECUs see it."""

from __future__ import annotations

from collections.abc import Iterable

from simulator.generator import Simulation


class SimulatedVehicle:
    """``VehiclePort`` on a simulation. Sensor faults are seen by ECUs as they are on the bus."""

    def __init__(self, simulation: Simulation, network_messages: Iterable[str] = ()) -> None:
        """``network_messages``: those of all ECUs that count as network management, ``bus.Message``."""
        self._simulation = simulation
        manifest = simulation.manifest
        self._messages = {f"{manifest.buses[m.bus]}.{m.name}": i for i, m in enumerate(manifest.messages)}
        self._signals = {
            f"{name}.{signal.name}": manifest.first_signal[i] + at
            for name, i in self._messages.items()
            for at, signal in enumerate(manifest.messages[i].signals)
        }
        self._by_node: dict[str, set[int]] = {}
        for i, message in enumerate(manifest.messages):
            self._by_node.setdefault(message.sender, set()).add(i)
        self._network = {self._messages[name] for name in network_messages if name in self._messages}
        self._silent: dict[str, set[int]] = {}

    def has(self, signal: str) -> bool:
        """See ``VehiclePort``."""
        return signal in self._simulation.columns

    def value(self, signal: str) -> float:
        """See ``VehiclePort``."""
        simulation = self._simulation
        value = float(simulation.latest[simulation.columns[signal]])
        number = self._signals.get(signal)
        for f in simulation.faults.active(simulation.now_ns, simulation.now_ns + 1, ("stuck", "offset")):
            if f.signal == number:
                if f.fault.kind == "offset":
                    value += f.fault.value or 0.0
                elif f.fault.value is not None or f.held is not None:
                    value = f.fault.value if f.fault.value is not None else float(f.held or 0.0)
        return value

    def override(self, signal: str, value: float | None) -> None:
        """See ``VehiclePort``."""
        column = self._simulation.columns[signal]
        if value is None:
            self._simulation.overrides.pop(column, None)
        else:
            self._simulation.overrides[column] = value
            self._simulation.latest[column] = value

    def age_s(self, message: str) -> float:
        """See ``VehiclePort``."""
        sent_ns = self._simulation.last_sent_ns[self._messages[message]]
        return max(0.0, (self._simulation.now_ns - int(sent_ns)) / 1e9)

    def bus_off(self, bus: str) -> bool:
        """See ``VehiclePort``."""
        simulation = self._simulation
        number = simulation.manifest.buses.index(bus)
        active = simulation.faults.active(simulation.now_ns, simulation.now_ns + 1, ("bus_off", "silent"))
        return any(f.bus == number for f in active)

    def is_corrupt(self, message: str) -> bool:
        """See ``VehiclePort``."""
        simulation, number = self._simulation, self._messages[message]
        kinds = ("bad_checksum", "counter_frozen", "wrong_length")
        active = simulation.faults.active(simulation.now_ns, simulation.now_ns + 1, kinds)
        return any(f.message == number for f in active)

    def silence(self, node: str, *, normal: bool, network: bool) -> None:
        """See ``VehiclePort``."""
        mine = self._by_node.get(node, set())
        silent = (mine - self._network if normal else set()) | (mine & self._network if network else set())
        self._silent[node] = silent
        self._simulation.silent_messages = set().union(*self._silent.values())

    def time_s(self) -> float:
        """See ``VehiclePort``."""
        return self._simulation.now_ns / 1e9

    def utc_s(self) -> float:
        """See ``VehiclePort``."""
        return (self._simulation.epoch_ns + self._simulation.now_ns) / 1e9
