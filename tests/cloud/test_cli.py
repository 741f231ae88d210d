"""The command line: what it makes, what it prints, and how it fails."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.config import CloudConfig, load_config
from cloud.errors import ConfigError
from outrider.cli import main


def init(directory: Path, *more: str) -> int:
    password = directory.parent / "password"
    password.write_text("a long password\n")
    ports = ("--operator-port", "0", "--vehicle-port", "0", "--password-file", str(password))
    return main(["cloud", "init", "--dir", str(directory), *ports, *more])


def test_init_is_idempotent_and_keeps_what_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "cloud"
    assert init(directory) == os.EX_OK
    before = {p: p.read_bytes() for p in [*(directory / "pki").rglob("*.*"), directory / "cloud.toml"]}
    capsys.readouterr()
    assert init(directory) == os.EX_OK
    assert {p: p.read_bytes() for p in before} == before
    assert "made" not in capsys.readouterr().out


def test_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "cloud"
    init(directory)
    secret = [*directory.rglob("*.key"), directory / "cloud.toml", directory / "state" / "cloud.db"]
    assert [stat.S_IMODE(p.stat().st_mode) for p in secret] == [0o600] * len(secret)


def test_a_made_up_password_is_shown_once_and_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "cloud"
    assert main(["cloud", "init", "--dir", str(directory), "--json"]) == os.EX_OK
    first = json.loads(capsys.readouterr().out)
    assert len(first["password"]) >= 16
    main(["cloud", "init", "--dir", str(directory), "--json"])
    assert json.loads(capsys.readouterr().out)["password"] is None


def test_users_tokens_and_vehicles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "cloud"
    init(directory)
    config, password = ["--config", str(directory / "cloud.toml")], str(tmp_path / "password")
    assert main(["cloud", "user", "add", *config, "bob", "--role", "operator", "--password-file", password]) == 0
    assert main(["cloud", "user", "add", *config, "bob", "--password-file", password]) == os.EX_DATAERR
    assert main(["cloud", "user", "passwd", *config, "bob", "--password-file", password]) == 0
    assert main(["cloud", "user", "passwd", *config, "nobody", "--password-file", password]) == os.EX_DATAERR
    capsys.readouterr()
    assert main(["cloud", "user", "list", *config]) == 0
    assert capsys.readouterr().out.split() == [
        "NAME",
        "ROLE",
        "STATE",
        "admin",
        "admin",
        "active",
        "bob",
        "operator",
        "active",
    ]
    assert main(["cloud", "token", "create", *config, "VIN1"]) == 0
    assert capsys.readouterr().out.startswith("ort_")
    assert main(["cloud", "token", "create", *config, "not/an/id"]) == os.EX_DATAERR
    assert main(["cloud", "vehicle", "revoke", *config, "VIN1", "--reason", "sold"]) == 0
    assert main(["cloud", "vehicle", "revoke", *config, "VIN2"]) == os.EX_DATAERR
    capsys.readouterr()
    assert main(["cloud", "vehicle", "list", *config, "--json"]) == 0
    assert [(v["id"], v["state"]) for v in json.loads(capsys.readouterr().out)] == [("VIN1", "revoked")]


def test_check_config_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "cloud"
    init(directory)
    config = directory / "cloud.toml"
    assert main(["cloud", "check-config", "--config", str(config)]) == os.EX_OK
    (directory / "pki" / "ca.key").unlink()
    assert main(["cloud", "check-config", "--config", str(config)]) == os.EX_CONFIG
    assert "ca.key" in capsys.readouterr().err
    assert main(["cloud", "run", "--config", str(tmp_path / "nothing.toml")]) == os.EX_CONFIG


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[operator]\nprot = 1", "Object contains unknown field `prot` - at `$.operator`"),
        ("[operator]\nport = 'x'", "Expected `int`, got `str` - at `$.operator.port`"),
        ("[operator]\nport = 70000", "70000 is no port - at $.operator.port"),
        ("[ingest]\nbatches_per_s = 0.0", "must be more than 0 - at $.ingest.batches_per_s"),
        ("[operator]\ncertificate = 'x.pem'", "go together"),
        ("base_dir = '/'", "unknown field `base_dir`"),
        ("log_format = 'xml'", "neither 'text' nor 'json'"),
        ("[operator", "Expected ']'"),
    ],
)
def test_a_config_with_a_mistake_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cloud.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    assert str(path) in str(refused.value)
    assert message in str(refused.value)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_config_or_a_config_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "cloud.toml"
        path.write_bytes(content)
        with contextlib.suppress(ConfigError):
            assert isinstance(load_config(path), CloudConfig)
