"""``outrider scheme`` as integrators meet it."""

from __future__ import annotations

import json
import lzma
import os
from pathlib import Path

import pytest

from dbc.logs import CandumpWriter
from outrider.cli import main
from tests.gateway.collect.vehicle import MANIFEST, batch, doors, motion, unknown


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with a manifest, two schemes and a log of 10 s whose buses are called can0 and can1."""
    (tmp_path / "v.manifest").write_bytes(MANIFEST.to_bytes())
    (tmp_path / "all.toml").write_text('id = "all"\nversion = 1\n[[signals]]\nname = "*"\n')
    (tmp_path / "door.toml").write_text(
        'id = "door"\nversion = 2\npriority = "critical"\n[[signals]]\nname = "Speed"\nmin_period_ms = 100\n'
        '[[raw_frames]]\nids = ["0x7FF"]\n[trigger]\ncondition = "Door == \'open\'"\n'
        "pre_trigger_ms = 1000\npost_trigger_ms = 1000\n"
    )
    (tmp_path / "bad.toml").write_text('id = "bad"\nversion = 1\n[[signals]]\nname = "Sped"\n')
    rows = []
    for i in range(1000):
        rows.append(motion(10 * i, i % 50, counter=i % 16))
        if i % 100 == 99:
            rows += [doors(10 * i + 1, int(i == 499)), unknown(10 * i + 2)]
    with CandumpWriter(tmp_path / "drive.log", ("can0", "can1")) as writer:
        writer.write(batch(*rows))
    return tmp_path


BUSES = ["--bus", "can0=drive", "--bus", "can1=body"]


def run(desk: Path, *words: str) -> int:
    """Run in the folder."""
    return main(["scheme", *(str(desk / w) if "." in w and (desk / w).exists() else w for w in words)])


def test_check_tells_good_and_bad(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(desk, "check", "all.toml", "door.toml", "--manifest", "v.manifest") == os.EX_OK
    assert "all 1: ok; normal priority, 6 signals, 3 messages" in capsys.readouterr().out
    assert run(desk, "check", "all.toml", "bad.toml", "--manifest", "v.manifest", "--json") == os.EX_DATAERR
    report = json.loads(capsys.readouterr().out)
    assert [s["id"] for s in report["schemes"]] == ["all"]
    assert report["errors"][0]["where"] == "$.signals[0].name"
    assert "did you mean" in report["errors"][0]["message"]


def test_a_missing_manifest_tells_how_to_make_one(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(desk, "check", "all.toml", "--manifest", "none") == os.EX_NOINPUT
    assert "outrider dbc compile" in capsys.readouterr().err
    assert run(desk, "check", "all.toml", "--manifest", "all.toml") == os.EX_DATAERR
    assert "not an Outrider manifest" in capsys.readouterr().err


def test_cost_adds_up(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cost", "drive.log", "--manifest", "v.manifest", "--scheme", "all.toml", "--scheme", "door.toml", *BUSES]
    assert run(desk, *words, "--json", "--hours-per-day", "2") == os.EX_OK
    report = json.loads(capsys.readouterr().out)
    assert report["frames"] == 1020
    assert report["outcomes"] == {"not_selected": 0, "undecodable": 8, "errors": 0, "selected": 1012, "held": 0}
    assert report["total_bytes"] == sum(report["streams"].values()) > 0
    assert report["bytes_per_day"] == pytest.approx(2 * report["bytes_per_hour"])
    everything, door = report["schemes"]
    assert everything["samples"] == 3010
    assert (door["samples"], door["frames"], door["triggers"]) == (20, 2, 1)
    assert report["signals"][0]["name"] == "drive.Motion.Speed"


def test_cost_warns_of_a_budget_that_is_too_small(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cost", "drive.log", "--manifest", "v.manifest", "--scheme", "all.toml", *BUSES]
    assert run(desk, *words, "--budget-bytes-per-day", "1000") == os.EX_OK
    assert "EXCEEDED" in capsys.readouterr().out


def test_unmapped_buses_are_told(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(desk, "cost", "drive.log", "--manifest", "v.manifest", "--scheme", "all.toml") == os.EX_OK
    captured = capsys.readouterr()
    assert "buses can0, can1 are not in the manifest; use --bus" in captured.err
    assert "1020 undecodable" in captured.out


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--bus", "can0=engine"], os.EX_USAGE, "the manifest has drive, body"),
        (["--hours-per-day", "0"], os.EX_USAGE, "--hours-per-day"),
    ],
)
def test_wrong_options_are_told(
    desk: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, text: str
) -> None:
    base = ["cost", "drive.log", "--manifest", "v.manifest", "--scheme", "all.toml"]
    assert run(desk, *base, *words) == status
    assert text in capsys.readouterr().err


def test_a_log_that_is_none_is_told(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(desk, "cost", "v.manifest", "--manifest", "v.manifest", "--scheme", "all.toml") == os.EX_DATAERR
    assert "outrider scheme:" in capsys.readouterr().err


def test_explain_tells_in_words(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(desk, "explain", "door.toml", "--manifest", "v.manifest") == os.EX_OK
    out = capsys.readouterr().out
    assert "triggers when \"Door == 'open'\" becomes true, at most every 1000 ms" in out
    assert "1 signal at most every 100 ms: drive.Motion.Speed" in out
    assert "raw frames: drive 0x7ff (11-bit), body 0x7ff (11-bit)" in out


def test_explain_tells_why_a_signal_was_not_sent(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", "door.toml", "--manifest", "v.manifest", "--log", "drive.log", *BUSES]
    assert run(desk, *words, "--signal", "Speed", "--json") == os.EX_OK
    told = json.loads(capsys.readouterr().out)["signals"][0]
    assert (told["samples"], told["sent"], told["triggers"]) == (1000, 20, 1)
    assert told["reasons"] == {"no window was open": 800, "sooner than min_period_ms": 180}
    assert run(desk, *words, "--signal", "Level") == os.EX_OK
    assert "not a signal of this scheme" in capsys.readouterr().out
    assert run(desk, *words, "--signal", "Sped") == os.EX_DATAERR
    assert run(desk, *words[:-6], "--signal", "Speed") == os.EX_USAGE


def test_what_is_missing_or_damaged_has_its_own_exit_status(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--manifest", "v.manifest", *BUSES]
    assert run(desk, "cost", "none.log", "--scheme", "all.toml", *common) == os.EX_NOINPUT
    assert run(desk, "cost", "drive.log", "--scheme", "none.toml", *common) == os.EX_NOINPUT
    packed = lzma.compress((desk / "drive.log").read_bytes())
    (desk / "cut.log.xz").write_bytes(packed[: len(packed) // 2])
    capsys.readouterr()
    assert run(desk, "cost", "cut.log.xz", "--scheme", "all.toml", *common) == os.EX_DATAERR
    out, err = capsys.readouterr()
    assert "selected" in out
    assert "damaged" in err


def test_a_bus_the_log_does_not_have_is_told(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cost", "drive.log", "--scheme", "all.toml", "--manifest", "v.manifest", *BUSES, "--bus", "can7=drive"]
    assert run(desk, *words) == os.EX_OK
    assert "the log has no bus can7" in capsys.readouterr().err


def test_a_negative_budget_is_refused(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cost", "drive.log", "--scheme", "all.toml", "--manifest", "v.manifest", *BUSES]
    assert run(desk, *words, "--budget-bytes-per-day", "-1") == os.EX_USAGE
    assert "--budget-bytes-per-day" in capsys.readouterr().err
