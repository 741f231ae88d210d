"""Scenario files: what is shipped runs, what is wrong is refused with the key that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.scenario import ScenarioError, list_scenarios, load_scenario, parse_scenario
from tests.simulator.conftest import MakeSimulation

MINIMAL = """
name = "x"
[[phases]]
activity = "drive"
duration_s = 10
"""


def test_the_least_scenario_has_defaults() -> None:
    scenario = parse_scenario(MINIMAL, "x")
    assert scenario.duration_s == 10
    assert scenario.phases[0].route == "city"
    assert scenario.start.battery_c == scenario.start.ambient_c + 2
    assert scenario.epoch_ns % 10**9 == 0


def test_shipped_scenarios_cover_what_is_promised() -> None:
    names = {scenario.name for scenario in list_scenarios()}
    assert names >= {"city", "motorway", "charging", "parked", "fault", "day"}
    assert len(load_scenario("day").phases) >= 3


@pytest.mark.parametrize("name", [scenario.name for scenario in list_scenarios()])
def test_shipped_scenario_starts_with_its_faults_resolved(name: str, simulate: MakeSimulation) -> None:
    assert len(simulate(name).advance(500_000_000)) > 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nam = 3", r"unknown field `nam`"),
        ("seed = -1", r"seed: "),
        ('seed = "a"', r"seed: Expected `int`, got `str`"),
        ("start_utc = 2026-01-05T07:00:00", r"start_utc: needs a time zone"),
        ("phases = 3", r"phases: expected \[\[phases\]\]"),
        ("[start]\nsoc = 1.5", r"start\.soc: "),
        ("[start]\nsocc = 0.5", r"start: .*unknown field `socc`"),
        ("[[phases]]\nactivity = 'fly'\nduration_s = 1", r"phases\[1\]\.activity: Invalid enum value 'fly'"),
        ("[[phases]]\nactivity = 'park'", r"phases\[1\]: .*missing required field `duration_s`"),
        ("[[phases]]\nactivity = 'park'\nduration_s = 0", r"phases\[1\]\.duration_s: "),
        ("[[phases]]\nactivity = 'park'\nduration_s = nan", r"phases\[1\]\.duration_s: "),
        ("[[phases]]\nactivity = 'drive'\nduration_s = 1\nroute = 'moon'", r"phases\[1\]\.route: no route 'moon'"),
        ("[[phases]]\nactivity = 'park'\nduration_s = 1\non_the_road = true", r"phases\[1\]\.on_the_road: "),
        ("[[phases]]\nactivity = 'park'\nduration_s = 1\nsilent_buses = ['a']", r"silent_buses: no bus 'a'"),
        ("[[faults]]\nkind = 'gremlin'", r"faults\[0\]\.kind: no fault 'gremlin'"),
        ("[[faults]]\nkind = 'missing'\nat_s = -1", r"faults\[0\]\.at_s: "),
    ],
)
def test_a_wrong_key_is_named(change: str, message: str) -> None:
    head = "" if change.startswith("[") else change + "\n"
    text = head + (MINIMAL if change != "phases = 3" else 'name = "x"\n') + ("" if head else change)
    with pytest.raises(ScenarioError, match=message):
        parse_scenario(text, "file.toml")


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"no scenario 'cty'; did you mean city\?"):
        load_scenario("cty")
    path = tmp_path / "broken.toml"
    path.write_text("name = ", encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"broken\.toml: "):
        load_scenario(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match=r"broken\.toml: "):
        load_scenario(str(path))
    with pytest.raises(ScenarioError, match="phases: at least one"):
        parse_scenario('name = "x"', "x")


@given(st.text(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_text_is_a_scenario_or_an_error(text: str) -> None:
    said = ""
    try:
        parse_scenario(text, "x")
    except ScenarioError as error:
        said = str(error)
    assert not said or said.startswith("x: ")


def test_a_day_drives_parks_and_charges(simulate: MakeSimulation) -> None:
    text = """
name = "short day"
[start]
soc = 0.5
[[phases]]
activity = "drive"
route = "city"
duration_s = 12
[[phases]]
activity = "charge"
charge = "dc"
charge_kw = 100
duration_s = 60
"""
    simulation = simulate(text)
    simulation.advance(12_000_000_000)
    assert simulation.vehicle.drive.speed_m_s > 1
    simulation.advance(5_000_000_000)
    assert simulation.phase_name == "charge"
    simulation.advance(24_000_000_000)
    assert simulation.vehicle.plugged == "dc"
    assert simulation.vehicle.battery.current_a < -50
