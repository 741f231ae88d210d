"""The example schemes are sound for our simulated vehicle, and the documentation's examples for the test vehicle."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gateway.collect
from dbc.load import compile_manifest
from dbc.manifest import Manifest
from gateway.collect import Limits, Names, load_schemes, parse_scheme, resolve
from gateway.collect.bind import bind
from gateway.collect.explain import words
from simulator.buses import BUSES
from tests.gateway.collect.vehicle import MANIFEST, NAMES
from tests.support import ROOT

EXAMPLES = sorted((Path(gateway.collect.__file__).parent / "examples").glob("*.toml"))


def simulated_vehicle() -> Manifest:
    return compile_manifest({bus.name: [bus.dbc] for bus in BUSES}, name="outrider-one")[0]


def test_examples_are_sound_for_the_simulated_vehicle() -> None:
    manifest = simulated_vehicle()
    loaded = load_schemes(EXAMPLES, manifest)
    assert loaded.errors == ()
    assert len(loaded.schemes) == len(EXAMPLES) == 5
    for scheme in loaded.schemes:
        assert len(words(scheme, manifest)) > 3


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/integrator/write-a-scheme.md", Names(simulated_vehicle())),
        ("docs/reference/collection-schemes.md", NAMES),
    ],
    ids=["guide", "reference"],
)
def test_schemes_in_the_documentation_are_sound(page: str, names: Names) -> None:
    text = (ROOT / page).read_text()
    schemes = [block for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if block.startswith("id =")]
    assert schemes
    for block in schemes:
        assert resolve(parse_scheme(block), names).id


def test_conditions_in_the_documentation_are_sound() -> None:
    text = (ROOT / "docs/reference/collection-schemes.md").read_text()
    conditions = re.findall(r"^\| `([^`]+)` \| ", text.split("## Conditions")[1].split("## Raw")[0], re.MULTILINE)
    assert len(conditions) >= 8
    for condition in conditions:
        assert bind(condition, NAMES, Limits()).text == condition


def test_every_key_is_documented() -> None:
    text = (ROOT / "docs/reference/collection-schemes.md").read_text()
    structs = (
        gateway.collect.SchemeFile,
        *(getattr(gateway.collect.model, n) for n in ("SignalRule", "Trigger", "RawFrames", "Integrity", "Limits")),
    )
    missing = [f"{s.__name__}.{f}" for s in structs for f in s.__struct_fields__ if f"`{f}`" not in text]
    assert missing == []


def test_names_of_a_manifest_are_found_in_every_form() -> None:
    names = Names(MANIFEST)
    assert names.signal("Speed") == names.signal("Motion.Speed") == names.signal("drive.Motion.Speed")
