"""What the simulator's tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dbc.manifest import Manifest
from simulator.cli_common import vehicle_manifest
from simulator.generator import Simulation
from simulator.scenario import Scenario, load_scenario, parse_scenario

MakeSimulation = Callable[..., Simulation]


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """The simulated vehicle's manifest."""
    return vehicle_manifest()


@pytest.fixture
def simulate(manifest: Manifest) -> MakeSimulation:
    """Makes simulations: of a shipped scenario by name, or of TOML text."""

    def make(scenario: str = "city", *, seed: int | None = None) -> Simulation:
        chosen: Scenario = parse_scenario(scenario, "test") if "\n" in scenario else load_scenario(scenario)
        use = chosen.seed if seed is None else seed
        return Simulation(manifest, chosen, seed=use, epoch_ns=chosen.epoch_ns)

    return make
