"""A wrong rules file is refused with file and key; a right one becomes what it says."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from dbc.manifest import Manifest
from gateway.dtc import rulefile
from gateway.dtc.model import Debounce
from gateway.dtc.rulefile import parse_rules_file
from gateway.dtc.rules import MissingTest, RangeTest, load_rules, resolve_rules
from gateway.errors import ConfigError
from simulator.cli_common import vehicle_manifest
from tests.gateway.dtc.drive import EXAMPLE
from tests.support import ROOT


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return vehicle_manifest()


HEAD = '[[monitor]]\ndtc = "P0562-00"\n'
VOLTS = HEAD + 'kind = "voltage"\nsignal = "BatteryVoltage"\nlow = 11.5\n'


def test_defaults_are_filled_in(manifest: Manifest) -> None:
    text = '[defaults]\nenable = "PowerMode >= 2"\nconfirm_cycles = 1\nsnapshot = ["VehicleSpeed"]\n'
    text += VOLTS + 'snapshot = ["BatterySoc"]\nlamp = true\nseverity = "next_halt"\n'
    [monitor] = resolve_rules(parse_rules_file(text), manifest).monitors
    assert monitor.definition.code == 0x056200
    assert monitor.definition.confirm_cycles == 1
    assert monitor.definition.aging_cycles == 40
    assert monitor.definition.severity == 0x40
    assert monitor.enable is not None
    assert [manifest.signals[s].name for s in monitor.snapshot] == ["BatterySoc", "VehicleSpeed"]
    assert isinstance(monitor.test, RangeTest)
    assert (monitor.test.low, monitor.test.high, monitor.test.hysteresis) == (11.5, float("inf"), 0.3)


def test_missing_messages_get_ten_cycles_and_at_least_half_a_second(manifest: Manifest) -> None:
    text = HEAD + 'kind = "missing"\nmessage = ["PackStatus", "VehicleIdentification"]\n'
    [monitor] = resolve_rules(parse_rules_file(text), manifest).monitors
    assert isinstance(monitor.test, MissingTest)
    assert [timeout // 1_000_000 for _, timeout in monitor.test.messages] == [500, 10_000]


@pytest.mark.parametrize(
    ("text", "message", "where"),
    [
        ("monitor = 1", "Expected `array`", "$.monitor"),
        ("nonsense = 1", "unknown field `nonsense`", "$"),
        ("[[monitor", "not a TOML file", ""),
        (HEAD + 'kind = "sorcery"', "Invalid value 'sorcery'", "$.monitor[0].kind"),
        (HEAD, "missing required field `kind`", "$.monitor[0]"),
        (VOLTS + "limit = 3", "unknown field `limit`", "$.monitor[0]"),
        (VOLTS + "priority = 0", ">= 1", "$.monitor[0].priority"),
        (VOLTS + VOLTS, "DTC P0562-00 has a monitor already: monitor[0]", "$.monitor[1].dtc"),
        (VOLTS.replace("P0562-00", "Z0562"), "is no DTC", "$.monitor[0].dtc"),
        (VOLTS.replace("P0562-00", "FFFF33"), "stands for a group", "$.monitor[0].dtc"),
        (VOLTS.replace("BatteryVoltage", "BatteryVoltag"), "did you mean", "$.monitor[0].signal"),
        (VOLTS + 'snapshot = ["VehicleSpeed", "Checksum"]', "ambiguous", "$.monitor[0].snapshot[1]"),
        (VOLTS + "high = 11.0", "low is not below high", "$.monitor[0].low"),
        (VOLTS + "high = 12.0\nhysteresis = 1", "no value would be good again", "$.monitor[0].hysteresis"),
        (VOLTS.replace("low = 11.5\n", ""), "give low, high or both", "$.monitor[0]"),
        (VOLTS.replace("11.5", "nan"), "Expected float > 0.0", "$.monitor[0].low"),
        (VOLTS + 'enable = "PowerMode"', "the condition is a number", "$.monitor[0].enable"),
        (VOLTS + "emissions = true", "set lamp = true", "$.monitor[0].emissions"),
        (VOLTS + "debounce = { fail_after = 3, jump_up = 3 }", "must lie between", "$.monitor[0].debounce.jump_up"),
        ("[defaults.debounce]\njump_down = -9\n" + VOLTS, "must lie between", "$.defaults.debounce.jump_down"),
        ('[defaults]\nsnapshot = ["No"]\n', "no signal 'No'", "$.defaults.snapshot[0]"),
        ('[defaults]\nenable = "No > 1"\n' + VOLTS, "no signal 'No'", "$.defaults.enable"),
        (HEAD + 'kind = "plausibility"\ncondition = "mean(VehicleSpeed, 100) > 1"', "every sample", "condition"),
        (HEAD + 'kind = "plausibility"\ncondition = "VehicleSpeed >"', "ends too early", "$.monitor[0].condition"),
        (HEAD + 'kind = "missing"', "give either message or bus", "$.monitor[0]"),
        (HEAD + 'kind = "missing"\nbus = "body"\nmessage = "DoorStatus"', "give either", "$.monitor[0]"),
        (HEAD + 'kind = "missing"\nmessage = "LockCommand"', "no cycle time", "$.monitor[0].message"),
        (HEAD + 'kind = "missing"\nbus = "bodi"', "no bus 'bodi'", "$.monitor[0].bus"),
        (HEAD + 'kind = "integrity"\nmessage = "WheelSpeeds"', "no checksum and no counter", "$.monitor[0].message"),
        (HEAD + 'kind = "integrity"\nmessage = []', "at least one message", "$.monitor[0].message"),
        (HEAD + 'kind = "bus_off"\nbus = "x"', "no bus 'x'", "$.monitor[0].bus"),
        (HEAD + 'kind = "rate"\nsignal = "VehicleSpeed"', "max_rise_per_s", "$.monitor[0]"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(manifest: Manifest, text: str, message: str, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_rules(parse_rules_file(text, "rules.toml"), manifest, "rules.toml")
    assert message.replace("`", "") in str(caught.value)
    assert caught.value.path == "rules.toml"
    assert caught.value.where.endswith(where)


def test_a_missing_file_is_named(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml.*No such file"):
        load_rules(tmp_path / "none.toml", manifest)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_rules(tmp_path / "binary.toml", manifest)
    (tmp_path / "large.toml").write_bytes(b"#" * 1024 * 1024 + b"#")
    with pytest.raises(ConfigError, match="larger than"):
        load_rules(tmp_path / "large.toml", manifest)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200) | st.text("[]={}\"'\nmonitordtc.kP0 #", max_size=120))
def test_any_text_is_rules_or_a_config_error(text: str | bytes) -> None:
    try:
        file = parse_rules_file(text, "x")
    except ConfigError:
        return
    assert all(m.dtc for m in file.monitor)


def test_the_reference_names_every_key() -> None:
    text = (ROOT / "docs" / "reference" / "monitor-rules.md").read_text(encoding="utf-8")
    engine = (ROOT / "docs" / "reference" / "dtc-engine.md").read_text(encoding="utf-8")
    kinds = get_args(rulefile.Monitor)
    keys = {key for struct in (*kinds, rulefile.Defaults, rulefile.RulesFile) for key in struct.__struct_fields__}
    assert {key for key in keys - {"defaults", "monitor"} if f"`{key}`" not in text} == set()
    assert {kind.__struct_config__.tag for kind in kinds if f"`{kind.__struct_config__.tag}`" not in text} == set()
    assert {key for key in Debounce.__struct_fields__ if f"`{key}`" not in engine} == {"kind"}


def test_the_example_is_sound_and_large_enough_to_learn_from(manifest: Manifest) -> None:
    rules = load_rules(EXAMPLE, manifest)
    assert len(rules.monitors) >= 12
    assert len({type(m.test) for m in rules.monitors}) == 7, "it shows every kind"
    assert rules.ecus == {"body"}
    assert all(d.text.endswith(".") and d.name for d in rules.definitions)
