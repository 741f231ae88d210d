"""``outrider gateway run | check-config | status``: what is told, and the exit status, whatever is wrong."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.spool import Spool
from outrider.cli import main
from tests.gateway.manifests import MANIFEST
from tests.support import ROOT

CONFIG = """
vehicle = "BENCH-1"
[[buses]]
name = "can0"
interface = "replay"
channel = "drive.log"
[collect]
manifest = "vehicle.manifest"
schemes = ["everything.toml"]
[replay]
speed = 0
[runtime]
exit_when_replayed = true
"""
SCHEME = 'id = "everything"\nversion = 1\n[[signals]]\nname = "*"\n'


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Path]:
    """A folder with a sound configuration and all it names: 20 frames of one message."""
    (tmp_path / "vehicle.manifest").write_bytes(MANIFEST.to_bytes())
    (tmp_path / "everything.toml").write_text(SCHEME)
    (tmp_path / "drive.log").write_text("".join(f"(17000000{i:02}.000000) can0 100#{i:02X}002A\n" for i in range(20)))
    (tmp_path / "gateway.toml").write_text(CONFIG)
    yield tmp_path
    assert sorted(p.name for p in tmp_path.glob("*.part")) == []


def change(bench: Path, old: str, new: str) -> None:
    text = (bench / "gateway.toml").read_text()
    assert old in text
    (bench / "gateway.toml").write_text(text.replace(old, new))


def command(verb: str, bench: Path, *more: str) -> int:
    return main(["gateway", verb, "--config", str(bench / "gateway.toml"), *more])


def run_apart(bench: Path) -> subprocess.CompletedProcess[str]:
    """``gateway run`` as its own process, since it sets up logging and signals."""
    words = [sys.executable, "-m", "outrider", "gateway", "run", "--config", str(bench / "gateway.toml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment, check=False)


# check-config


def test_sound_configuration_is_told(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("check-config", bench) == 0
    out = capsys.readouterr().out
    assert "gateway.toml: sound" in out
    assert "everything version 1" in out


def test_effective_configuration_as_json(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("check-config", bench, "--json") == 0
    effective = json.loads(capsys.readouterr().out)
    assert effective["buses"][0]["channel"] == "drive.log"
    assert effective["telemetry"]["normal_period_s"] == 60


WRONG = [
    ('name = "can0"', 'name = "can7"', "$.buses[0].name", "can0, can1"),
    ("vehicle.manifest", "other.manifest", "$.collect.manifest", "other.manifest: No such file"),
    ("vehicle.manifest", "drive.log", "$.collect.manifest", "not an Outrider manifest"),
    ("drive.log", "other.log", "$.buses[0].channel", "other.log: No such file"),
    ("drive.log", "vehicle.manifest", "$.buses[0].channel", "not a log"),
    ('"replay"', '"replya"', "$.buses[0].interface", "did you mean 'replay'"),
    ('"replay"', '"pcna"', "$.buses[0].interface", "did you mean 'pcan'"),
    ('"replay"\nchannel = "drive.log"', '"udp_multicast"\nchannel = "239.0.0.1:zz"', "$.buses", "port 'zz'"),
    ('"replay"\nchannel = "drive.log"', '"udp_multicast"\nchannel = "10.0.0.1"', "$.buses", "10.0.0.1"),
    ("[runtime]", f'[runtime]\nstatus_socket = "{"s" * 120}"', "$.runtime.status_socket", "107 bytes"),
]


@pytest.mark.parametrize(("old", "new", "key", "part"), WRONG)
def test_check_config_names_file_key_and_reason(
    bench: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, key: str, part: str
) -> None:
    change(bench, old, new)
    assert command("check-config", bench) == os.EX_CONFIG
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"outrider gateway: {bench / 'gateway.toml'}: ")
    assert key in err
    assert part in err


def test_each_wrong_scheme_is_told(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bench / "b.toml").write_text(SCHEME.replace("everything", "b").replace('"*"', '"Enigne.speed"'))
    change(bench, '["everything.toml"]', '["everything.toml", "b.toml", "c.toml"]')
    assert command("check-config", bench) == os.EX_CONFIG
    err = capsys.readouterr().err
    assert "b.toml" in err
    assert "Enigne.speed" in err
    assert "c.toml" in err


def test_not_enrolled_is_told_before_starting(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(bench, "[runtime]", '[link]\nidentity_directory = "identity"\n[runtime]')
    assert command("check-config", bench) == os.EX_CONFIG
    assert "outrider gateway enrol" in capsys.readouterr().err


def test_missing_configuration_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("check-config", tmp_path) == os.EX_CONFIG
    assert "gateway.toml: No such file" in capsys.readouterr().err


# status


def test_status_without_a_gateway(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("status", bench) == os.EX_UNAVAILABLE
    assert "no gateway is running" in capsys.readouterr().err


def test_status_of_something_else(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever listens there and says nothing sensible is not a gateway."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(bench / "gateway.sock"))
        server.listen()
        server.settimeout(30)
        reader = subprocess.Popen(
            [sys.executable, "-m", "outrider", "gateway", "status", "--socket", str(bench / "gateway.sock")],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        peer, _ = server.accept()
        peer.sendall(b"hello")
        peer.close()
        _, err = reader.communicate(timeout=30)
    assert reader.returncode == os.EX_PROTOCOL
    assert "not understood" in err


# run


def test_run_stores_what_the_log_has_and_ends(bench: Path) -> None:
    done = run_apart(bench)
    assert done.returncode == 0, done.stderr
    with closing(Spool.open(bench / "spool")) as spool:
        assert sum(total.stored for total in spool.totals().values()) >= 40  # two signals a frame, and events


def test_run_refuses_what_check_config_refuses(bench: Path) -> None:
    change(bench, 'name = "can0"', 'name = "can7"')
    done = run_apart(bench)
    assert done.returncode == os.EX_CONFIG
    assert "$.buses[0].name" in done.stderr
    assert "Traceback" not in done.stderr


def test_spool_that_cannot_be_made(bench: Path) -> None:
    change(bench, "[replay]", '[spool]\ndirectory = "drive.log"\n[replay]')
    done = run_apart(bench)
    assert done.returncode == os.EX_IOERR
    assert "drive.log: File exists" in done.stderr
    assert "Traceback" not in done.stderr


def test_spool_in_use(bench: Path) -> None:
    with closing(Spool.open(bench / "spool")):
        done = run_apart(bench)
    assert done.returncode == os.EX_UNAVAILABLE
    assert "in use by another process" in done.stderr
    assert "Traceback" not in done.stderr


def test_file_in_the_sockets_place_is_left_alone(bench: Path) -> None:
    (bench / "gateway.sock").write_text("precious")
    done = run_apart(bench)
    assert done.returncode == 0, done.stderr  # status is optional
    assert re.search(r"component_failed component='status' error='status socket .* is there'", done.stderr)
    assert "Traceback" not in done.stderr
    assert (bench / "gateway.sock").read_text() == "precious"


def test_socket_in_use_is_left_alone(bench: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(bench / "gateway.sock"))
        server.listen()
        done = run_apart(bench)
    assert done.returncode == 0, done.stderr
    assert "another process serves there" in done.stderr
    assert (bench / "gateway.sock").is_socket()


def test_socket_of_a_killed_gateway_is_replaced(bench: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(bench / "gateway.sock"))
    done = run_apart(bench)
    assert done.returncode == 0, done.stderr
    assert "component_failed" not in done.stderr
    assert not (bench / "gateway.sock").exists()


def test_running_gateway_tells_and_stops_in_order(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first status has a frame rate already; SIGTERM ends it with everything accounted for."""
    (bench / "drive.log").write_text("".join(f"({1700000000 + i / 100:.6f}) can0 100#00002A\n" for i in range(6000)))
    change(bench, "speed = 0", "speed = 1")
    words = [sys.executable, "-m", "outrider", "gateway", "run", "--config", str(bench / "gateway.toml")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stderr
        try:
            assert any("bus_event kind='bus_up'" in line for line in running.stderr)
            assert any("gateway_ready" in line for line in running.stderr)
            for _ in range(1000):
                assert command("status", bench, "--json") == 0
                report = json.loads(capsys.readouterr().out)["report"]
                if report["ledger"]["buses"][0]["received"]:
                    break
            assert report["buses"][0]["frames_per_s"] > 0
            assert command("status", bench) == 0
            assert "every frame and item is accounted for" in capsys.readouterr().out
        finally:
            running.terminate()
        running.stderr.read()
    assert running.returncode == 0
    assert not (bench / "gateway.sock").exists()
    with closing(Spool.open(bench / "spool")) as spool:
        assert sum(total.stored for total in spool.totals().values()) > 0


# enrol


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        (["--cloud", "cloud.example"], os.EX_CONFIG, "https://"),
        (["--cloud", "http://cloud.example:8080"], os.EX_CONFIG, "https://"),
        (["--cloud", "http://127.0.0.1.evil.example"], os.EX_CONFIG, "https://"),
        (["--cloud", "http://localhost@evil.example"], os.EX_CONFIG, "https://"),
        (["--cloud", "http://localhost:x@evil.example"], os.EX_CONFIG, "https://"),
        (["--ca", "no-such-file"], os.EX_CONFIG, "no-such-file"),
        (["--token", "@no-such-file"], os.EX_CONFIG, "no-such-file"),
        (["--vehicle", "a b"], os.EX_CONFIG, "vehicle id"),
    ],
)
def test_enrol_refuses_before_it_asks_anyone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, part: str
) -> None:
    sound = ["--cloud", "https://127.0.0.1:1", "--vehicle", "A", "--token", "t", "--directory", str(tmp_path / "id")]
    assert main(["gateway", "enrol", *sound, *words]) == status
    assert part in capsys.readouterr().err
    assert not (tmp_path / "id").exists()


@pytest.mark.parametrize("seconds", ["nan", "-1", "0", "inf", "x"])
def test_enrol_refuses_a_timeout_that_is_none(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["gateway", "enrol", "--timeout", seconds])
    assert ended.value.code == 2
    assert "--timeout" in capsys.readouterr().err


def test_starting_loads_nothing_that_only_other_commands_need() -> None:
    code = (
        "import argparse, sys; from gateway.cli import add_commands; parser = argparse.ArgumentParser();"
        " add_commands(parser); parser.parse_args(['run']); import gateway.app;"
        " print(any(n.startswith(('gateway.firewall.cli', 'gateway.isotp', 'gateway.uds')) for n in sys.modules));"
        " print(parser.parse_args(['audit', 'verify']).audit_command)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "verify"]
