"""The key ceremony at the command line: over files alone, into a cloud, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from outrider.cli import main
from tests.cloud.test_cli import init

SECRET = "correct horse battery"


def cloud(directory: Path) -> list[str]:
    """A cloud's directory and the option that names it."""
    assert init(directory) == os.EX_OK
    return ["--config", str(directory / "cloud.toml")]


def keys(*args: object) -> int:
    return main(["cloud", "keys", *map(str, args)])


def releases(*args: object) -> int:
    return main(["cloud", "releases", *map(str, args)])


def test_quick_start_sets_up_a_bench_and_is_idempotent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = cloud(tmp_path / "cloud")
    capsys.readouterr()
    assert keys("quick-start", tmp_path / "keys", *config, "--json") == os.EX_OK
    told = json.loads(capsys.readouterr().out)
    assert told["added"] == ["1.root.json", "1.root.json", "1.targets.json"]
    assert Path(told["image_root"]).exists()
    assert keys("quick-start", tmp_path / "keys", *config, "--json") == os.EX_OK
    assert json.loads(capsys.readouterr().out)["added"] == []
    assert keys("show", tmp_path / "keys") == os.EX_OK
    assert "FOR A BENCH ONLY" in capsys.readouterr().out


def test_a_ceremony_over_files_alone_carries_a_release_through_an_air_gap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export, sign with encrypted keys of a threshold, import: only files travel."""
    monkeypatch.setenv("OUTRIDER_PASSPHRASE", SECRET)
    config, table = cloud(tmp_path / "cloud"), tmp_path / "table"
    assert releases("online-keys", *config, "--out", tmp_path / "online.json") == os.EX_OK
    assert keys("init", table, "--online", tmp_path / "online.json", "--yes") == os.EX_OK
    assert all(b"ENCRYPTED" in path.read_bytes() for path in (table / "keys").glob("*.key"))
    assert keys("upload", table, *config) == os.EX_OK
    image = tmp_path / "rootfs.img"
    image.write_bytes(b"root file system" * 1000)
    add = ("add-image", image, "--name", "gateway/rootfs-2.img", "--kind", "rootfs", "--hardware-id", "gw")
    for _ in range(2):
        assert releases(*add, "--version", "2.0", *config) == os.EX_OK
    assert releases("sign-request", *config, "--out", tmp_path / "request.json") == os.EX_OK
    capsys.readouterr()
    sign = ("sign-release", table, "--request", tmp_path / "request.json", "--image", image)
    assert keys(*sign, "--dry-run") == os.EX_OK
    assert "equal to the local file" in capsys.readouterr().out
    assert not (table / "image" / "2.targets.json").exists()
    assert keys(*sign, "--yes") == os.EX_OK
    assert keys(*sign, "--yes") == os.EX_OK
    assert "nothing to change" in capsys.readouterr().out
    assert releases("create", "summer", "--image", "gateway/rootfs-2.img", "--publish", *config) == os.EX_DATAERR
    assert keys("upload", table, *config) == os.EX_OK
    assert releases("publish", "summer", *config) == os.EX_OK
    assert "published" in capsys.readouterr().out


def test_a_threshold_is_reached_by_people_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What too few have signed waits, and is not what the cloud gets."""
    monkeypatch.setenv("OUTRIDER_PASSPHRASE", SECRET)
    config, table = cloud(tmp_path / "cloud"), tmp_path / "table"
    assert keys("init", table, *config, "--yes") == os.EX_OK
    safe = tmp_path / "safe"
    safe.mkdir()
    for name in ("director-root-2", "director-root-3"):
        (table / "keys" / f"{name}.key").rename(safe / f"{name}.key")
    assert keys("renew", table, "director-root", "--yes") == os.EX_OK
    assert "waiting  director/2.root.json: 1 signatures" in capsys.readouterr().out
    assert not (table / "director" / "2.root.json").exists()
    assert keys("sign", table, "--key", safe / "director-root-3.key", "--yes") == os.EX_OK
    assert (table / "director" / "2.root.json").exists()
    assert not (table / "pending" / "director" / "2.root.json").exists()
    assert keys("upload", table, *config) == os.EX_OK


def test_the_wrong_passphrase_and_no_passphrase_are_clear_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, table = cloud(tmp_path / "cloud"), tmp_path / "table"
    monkeypatch.delenv("OUTRIDER_PASSPHRASE", raising=False)
    assert keys("init", table, *config, "--yes") == os.EX_DATAERR
    assert "passphrase" in capsys.readouterr().err
    monkeypatch.setenv("OUTRIDER_PASSPHRASE", SECRET)
    assert keys("init", table, *config, "--yes") == os.EX_OK
    monkeypatch.setenv("OUTRIDER_PASSPHRASE", "something else")
    assert keys("renew", table, "image-root", "--yes") == os.EX_DATAERR
    assert "director-root-1.key" in capsys.readouterr().err


def test_a_supplier_signs_for_its_own_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a directory and keys of its own; the manufacturer's keys are not needed."""
    config, table, theirs = cloud(tmp_path / "cloud"), tmp_path / "table", tmp_path / "supplier"
    assert keys("quick-start", table, *config) == os.EX_OK
    assert keys("new-key", theirs / "keys" / "acme", "--no-passphrase") == os.EX_OK
    grant = ("delegate", table, "acme", "--public", theirs / "keys" / "acme.pub", "--path", "brakes/*")
    assert keys(*grant, "--hardware-id", "brakes-b2", "--yes") == os.EX_OK
    assert keys("upload", table, *config) == os.EX_OK
    firmware = tmp_path / "fw.bin"
    firmware.write_bytes(b"brakes" * 50)
    for name in ("brakes/fw-2.bin", "gateway/fw-2.bin"):
        add = ("add-image", firmware, "--name", name, "--kind", "firmware", "--hardware-id", "brakes-b2")
        assert releases(*add, "--version", "2", "--role", "acme", *config) == os.EX_OK
    assert keys("fetch", theirs, *config) == os.EX_OK
    sign = ("sign-release", theirs, *config, "--role", "acme", "--yes")
    assert keys(*sign, "--only", "brakes/fw-2.bin") == os.EX_OK
    assert keys("upload", theirs, *config) == os.EX_OK
    assert keys(*sign, "--only", "gateway/fw-2.bin") == os.EX_OK
    capsys.readouterr()
    assert keys("upload", theirs, *config) == os.EX_DATAERR
    assert "may not speak for 'gateway/fw-2.bin'" in capsys.readouterr().err
