"""Scheme files: what is wrong is told with file and key; what is right is resolved to numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.collect import Limits, Scheme, load_schemes, parse_scheme, resolve
from gateway.errors import ConfigError
from tests.gateway.collect.vehicle import COUNTER, DOOR, GEAR, MANIFEST, MS, NAMES, SPEED, scheme

HEAD = 'id = "s"\nversion = 1\n'


@pytest.mark.parametrize(
    ("body", "where", "message"),
    [
        (
            '[[signals]]\nname = "*"\nmin_period_ms = "5"\n',
            "$.signals[0].min_period_ms",
            "Expected int | null, got str",
        ),
        ('[[signals]]\nname = "*"\nmin_period = 5\n', "$.signals[0]", "unknown field min_period"),
        ("colour = 1\n", "$", "unknown field colour"),
        ('priority = "high"\n', "$.priority", "Invalid enum value 'high'"),
        ("not_before = 2026-01-01T00:00:00\n", "$.not_before", "timezone"),
        ('[[signals]]\nname = "*.Sped"\n', "$.signals[0].name", "no signal matches '*.Sped'"),
        ('[[signals]]\nname = ["drive.Motion.Sped"]\n', "$.signals[0].name[0]", "did you mean drive.Motion.Speed"),
        ('[[signals]]\nname = "*"\nexclude = ["x"]\n', "$.signals[0].exclude[0]", "no signal 'x'"),
        ("", "$", "collects nothing"),
        ('[trigger]\ncondition = "Speed >"\n', "$.trigger.condition", "ends too early"),
        ('[trigger]\ncondition = "Speed > 1"\npre_trigger_ms = 999999\n', "$.trigger.pre_trigger_ms", "at most"),
        ('[[raw_frames]]\nbuses = ["engine"]\n', "$.raw_frames[0].buses[0]", "the manifest has drive, body"),
        ('[[raw_frames]]\nids = ["0x200-0x100"]\n', "$.raw_frames[0].ids[0]", "no identifier"),
        ('[[raw_frames]]\nids = ["Motoin"]\n', "$.raw_frames[0].ids[0]", "did you mean"),
        ('[[raw_frames]]\n[[integrity]]\nmessage = "Motion"\n', "$.integrity[0]", "give a checksum or a counter"),
        (
            '[[raw_frames]]\n[[integrity]]\nmessage = "Motion"\nchecksum = "md5"\n',
            "$.integrity[0].checksum",
            "there are crc16-ccitt",
        ),
        (
            '[[raw_frames]]\n[[integrity]]\nmessage = "Motion"\ncounter = "Cnt"\n',
            "$.integrity[0].counter",
            "it has Speed, Gear, Counter",
        ),
        (
            "not_before = 2026-01-02T00:00:00Z\nnot_after = 2026-01-01T00:00:00Z\n[[raw_frames]]\n",
            "$.not_after",
            "not later",
        ),
    ],
)
def test_an_error_names_file_and_key(body: str, where: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(parse_scheme(HEAD + body, "fleet.toml"), NAMES, path="fleet.toml")
    assert caught.value.where == where
    assert message in str(caught.value)
    assert str(caught.value).startswith("fleet.toml: ")


def test_broken_toml_is_told() -> None:
    with pytest.raises(ConfigError, match=r"f\.toml: not a TOML file: Invalid value"):
        parse_scheme("id = ", "f.toml")


def test_the_last_entry_that_names_a_signal_wins() -> None:
    rules = scheme(
        '[[signals]]\nname = "*"\nexclude = ["*.Counter"]\nmin_period_ms = 100\n'
        '[[signals]]\nname = ["Speed", "body.Doors"]\ndead_band = 1.5\n'
    ).rules
    by_signal = {rule.signal: rule for rule in rules}
    assert COUNTER not in by_signal
    assert by_signal[GEAR].period_ns == 100 * MS
    assert not by_signal[GEAR].on_change
    assert by_signal[SPEED].period_ns == 0
    assert by_signal[SPEED].on_change
    assert by_signal[DOOR].dead_band == 1.5


def test_defaults_apply_where_an_entry_is_silent() -> None:
    rules = scheme(
        "[defaults]\nmin_period_ms = 50\nheartbeat_ms = 1000\non_change = true\n"
        '[[signals]]\nname = "Speed"\nmin_period_ms = 0\n[[signals]]\nname = "Gear"\non_change = false\n'
    ).rules
    assert [(r.period_ns, r.on_change, r.heartbeat_ns) for r in rules] == [
        (0, True, 1000 * MS),
        (50 * MS, False, 0),
    ]


def test_a_bad_scheme_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text(HEAD + '[[signals]]\nname = "*"\n')
    (tmp_path / "bad.toml").write_text(HEAD + "x = 1\n")
    (tmp_path / "again.toml").write_text(HEAD + '[[signals]]\nname = "*"\n')
    paths = [tmp_path / n for n in ("bad.toml", "good.toml", "again.toml", "missing.toml")]
    loaded = load_schemes(paths, MANIFEST)
    assert [s.id for s in loaded.schemes] == ["s"]
    assert [(s.id, s.state) for s in loaded.rejected] == [
        ("bad", "rejected"),
        ("s", "rejected"),
        ("missing", "rejected"),
    ]
    assert "already loaded" in loaded.rejected[1].detail


def test_the_number_of_schemes_is_bounded(tmp_path: Path) -> None:
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.toml")
        paths[-1].write_text(f'id = "s{i}"\nversion = 1\n[[raw_frames]]\n')
    assert len(load_schemes(paths, MANIFEST, Limits(max_schemes=2)).schemes) == 2


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=80), st.binary(max_size=80)))
def test_any_text_is_a_scheme_or_a_config_error(text: str | bytes) -> None:
    assert isinstance(scheme_or_error(text), ConfigError)  # nothing so short is a whole scheme


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_mutated_scheme_is_a_scheme_or_a_config_error(data: st.DataObject) -> None:
    whole = (
        'id="s"\nversion=1\npriority="bulk"\n[defaults]\nheartbeat_ms=5\n[[signals]]\nname=["*.Speed","Gear"]\n'
        "dead_band=0.5\n[trigger]\ncondition=\"mean(Speed, 100) > 3 and Door == 'open'\"\npre_trigger_ms=5\n"
        '[[raw_frames]]\nids=["0x1-0x20"]\n[[integrity]]\nmessage="Motion"\ncounter="Counter"\n'
    )
    at = data.draw(st.integers(0, len(whole) - 1))
    length = data.draw(st.integers(0, 6))
    text = whole[:at] + data.draw(st.text(max_size=4)) + whole[at + length :]
    result = scheme_or_error(text)
    assert str(result) if isinstance(result, ConfigError) else result.version >= 1


def scheme_or_error(text: str | bytes) -> Scheme | ConfigError:
    """What parsing and resolving gives or raises."""
    try:
        return resolve(parse_scheme(text), NAMES)
    except ConfigError as error:
        return error
