"""``outrider gateway audit`` and ``firewall``: what they print and how they end."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest

from gateway.firewall.audit import Record
from gateway.firewall.audit_store import AuditStore, file_names, key_of
from gateway.firewall.cli import add_audit_commands, add_firewall_commands

CONFIG = """
vehicle = "A"
[[buses]]
name = "powertrain"
interface = "virtual"
channel = "x"
[collect]
manifest = "m"
schemes = ["s"]
[link]
identity_directory = "identity"
[[diagnostics.ecus]]
name = "motor"
bus = "powertrain"
logical_address = 0x1010
request_id = 0x7E0
response_id = 0x7E8
"""


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    groups = parser.add_subparsers()
    add_audit_commands(groups.add_parser("audit"))
    add_firewall_commands(groups.add_parser("firewall"))
    arguments = parser.parse_args(words)
    status = arguments.run(arguments)
    assert isinstance(status, int)
    return status


@pytest.fixture
def vehicle(tmp_path: Path) -> Path:
    """A configured vehicle with a short log."""
    (tmp_path / "gateway.toml").write_text(CONFIG)
    (tmp_path / "identity").mkdir()
    store = AuditStore(tmp_path / "audit", max_bytes=1 << 20, key=key_of(tmp_path / "identity"), now_ns=1)
    for nrc in (0x22, 0x33):
        refusal = Record(
            number=0, at_ns=1_700_000_000_000_000_000, kind="refuse", port="doip", tester=0xE80, target=0x1010,
            request="2ef19041", rule="no writing", nrc=nrc,
        )  # fmt: skip
        store.append([refusal])
    store.close()
    return tmp_path


def test_a_sound_log_is_said_to_be_sound(vehicle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("audit", "verify", "--config", str(vehicle / "gateway.toml")) == os.EX_OK
    assert "sound, records 1 to 3, signed with the audit key" in capsys.readouterr().out
    assert call("audit", "verify", "--config", str(vehicle / "gateway.toml"), "--json") == os.EX_OK
    assert json.loads(capsys.readouterr().out)["sound"] is True


def test_a_changed_log_is_told_with_file_and_line(vehicle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = vehicle / "audit" / file_names(vehicle / "audit")[0]
    path.write_bytes(path.read_bytes().replace(b'"nrc":34', b'"nrc":35'))
    assert call("audit", "verify", "--config", str(vehicle / "gateway.toml")) == os.EX_DATAERR
    out = capsys.readouterr().out
    assert "audit-00000001.jsonl:2: record 2 was changed" in out
    assert "NOT SOUND" in out


def test_a_copied_log_is_checked_with_its_key(vehicle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory, key = str(vehicle / "audit"), str(vehicle / "identity" / "audit.key")
    assert call("audit", "verify", "--directory", directory, "--key", key) == os.EX_OK
    assert call("audit", "verify", "--directory", directory) == os.EX_DATAERR
    assert "not signed: no audit key" in capsys.readouterr().out


def test_records_are_shown_for_people_and_for_machines(vehicle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(vehicle / "gateway.toml")
    assert call("audit", "show", "--config", config, "--kind", "refuse", "--last", "1") == os.EX_OK
    [line] = capsys.readouterr().out.splitlines()
    assert line.split() == [
        "3", "2023-11-14", "22:13:20", "refuse", "doip", "0x0E80", "->", "0x1010", "0x2E", "write", "data", "2ef19041",
        "NRC", "0x33", "no", "writing",
    ]  # fmt: skip
    assert call("audit", "show", "--config", config, "--json") == os.EX_OK
    assert [json.loads(text)["kind"] for text in capsys.readouterr().out.splitlines()] == ["file", "refuse", "refuse"]


def test_no_log_and_no_configuration_are_clear_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("audit", "show", "--directory", str(tmp_path)) == os.EX_CONFIG
    assert "no audit log is there" in capsys.readouterr().err
    assert call("audit", "verify", "--config", str(tmp_path / "none.toml")) == os.EX_CONFIG
    assert call("firewall", "check", str(tmp_path / "none.toml")) == os.EX_CONFIG


def test_the_built_in_policy_can_be_copied_and_checked(vehicle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("firewall", "show") == os.EX_OK
    policy = vehicle / "policy.toml"
    policy.write_text(capsys.readouterr().out)
    assert call("firewall", "check", str(policy)) == os.EX_OK
    assert "sound" in capsys.readouterr().out


def test_a_policy_is_checked_with_the_names_of_the_ecus(vehicle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy, config = vehicle / "policy.toml", str(vehicle / "gateway.toml")
    policy.write_text(
        'version = 1\n[[rules]]\nname = "a"\ntargets = ["motor"]\nvehicle = "any"\naction = "allow"\n'
        '[[rules]]\nname = "b"\ntargets = ["motor"]\naction = "drop"\n'
    )
    assert call("firewall", "check", str(policy)) == os.EX_CONFIG
    assert "no target is called 'motor'" in capsys.readouterr().err
    assert call("firewall", "check", str(policy), "--config", config) == os.EX_CONFIG
    error = capsys.readouterr().err
    assert "rule 'b' never applies: covered by 'a'" in error
    assert "rule 'a' allows writing while the vehicle moves" in error
    assert call("firewall", "check", str(policy), "--config", config, "--json") == os.EX_CONFIG
    assert json.loads(capsys.readouterr().out)["writing_while_moving"] == ["a"]
