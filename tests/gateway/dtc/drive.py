"""Drives the monitors with the simulated vehicle, at full speed."""

from __future__ import annotations

from pathlib import Path

import gateway.dtc
from dbc.frames import FrameBatch
from dbc.manifest import Manifest
from gateway.diag.config import VehicleStateSection
from gateway.diag.vehicle_state import VehicleState
from gateway.dtc.monitors import MonitorEngine
from gateway.dtc.rules import Rules, load_rules
from simulator.generator import Simulation
from simulator.scenario import Scenario

EXAMPLE = Path(gateway.dtc.__file__).parent / "examples" / "outrider_one.toml"
STATE = VehicleStateSection(
    speed_signal="powertrain.VehicleMotion.VehicleSpeed",
    voltage_signal="body.LowVoltage.BatteryVoltage",
    odometer_signal="powertrain.Odometer.TotalDistance",
)


class FakeClock:
    """A clock that stands still until told."""

    def __init__(self, utc_ns: int = 1_700_000_000_000_000_000) -> None:
        self.now_ns = 0
        self.start_ns = utc_ns

    def utc_ns(self) -> int:
        return self.start_ns + self.now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns


class Drive:
    """A simulated vehicle, its state and its monitors."""

    def __init__(
        self,
        manifest: Manifest,
        scenario: Scenario,
        rules: Rules | None = None,
        section: VehicleStateSection = STATE,
        max_entries: int = 64,
    ) -> None:
        self.clock = FakeClock(scenario.epoch_ns)
        self.simulation = Simulation(manifest, scenario, seed=scenario.seed, epoch_ns=scenario.epoch_ns)
        self.state = VehicleState(section, manifest, self.clock)
        self.engine = MonitorEngine(
            load_rules(EXAMPLE, manifest) if rules is None else rules, manifest, self.state, max_entries=max_entries
        )
        self.engine.begin()
        self.memory = self.engine.memory

    def feed(self, frames: FrameBatch) -> None:
        self.state.observe(frames, self.clock.utc_ns())
        self.engine.observe(frames, self.clock.utc_ns())

    def run(self, seconds: float, step_ms: int = 1000) -> None:
        left_ms = round(seconds * 1000)
        while left_ms > 0:
            frames = self.simulation.advance(min(step_ms, left_ms) * 1_000_000)
            self.clock.now_ns += min(step_ms, left_ms) * 1_000_000
            self.feed(frames)
            left_ms -= step_ms

    def failed(self) -> set[int]:
        """DTCs whose test failed since they were cleared."""
        return {code for code, state in self.memory.states.items() if state.status & 0x20}
