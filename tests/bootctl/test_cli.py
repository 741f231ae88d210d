"""``outrider boot``: what it prints, what it changes, and its exit statuses."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from outrider.cli import main
from tests.support import ROOT


def boot(folder: Path, *words: str, current: str = "A") -> int:
    verb, *rest = words
    given = ["--backend", "file", "--config", str(folder / "boot.json"), "--current", current]
    return main(["boot", verb, *given, *rest])


def state(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert boot(folder, "status", "--json") == os.EX_OK
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_status_tells_slots_and_what_boots_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert boot(tmp_path, "activate", "B", "--tries", "2") == os.EX_OK
    capsys.readouterr()
    assert boot(tmp_path, "status") == os.EX_OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["back end  file", "running   A", "next      B"]
    assert lines[5].split() == ["A", "good", "1", "-"]
    assert lines[6].split() == ["B", "trial", "2", "2"]
    assert state(tmp_path, capsys)["slots"] == [
        {"name": "A", "state": "good", "priority": 1, "tries": 3, "successful": True, "bootable": True},
        {"name": "B", "state": "trial", "priority": 2, "tries": 2, "successful": False, "bootable": True},
    ]


def test_a_change_is_printed_before_it_is_made_and_twice_is_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert boot(tmp_path, "activate", "B") == os.EX_OK
    assert capsys.readouterr().out == "slot B: bad -> trial, 3 tries\norder of booting: A -> B A\n"
    before = (tmp_path / "boot.json").stat()
    assert boot(tmp_path, "activate", "B") == os.EX_OK
    assert capsys.readouterr().out == "nothing to change\n"
    assert (tmp_path / "boot.json").stat() == before


def test_a_dry_run_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert boot(tmp_path, "activate", "B", "--dry-run", "--json") == os.EX_OK
    told = json.loads(capsys.readouterr().out)
    assert told["changed"] is False
    assert (told["before"]["next"], told["after"]["next"]) == ("A", "B")
    assert not (tmp_path / "boot.json").exists()


def test_a_whole_update_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, current in (
        (("activate", "B"), "A"),
        (("mark-good",), "B"),
        (("rollback",), "B"),
        (("switch", "B"), "A"),
    ):
        assert boot(tmp_path, *words, current=current) == os.EX_OK
    assert state(tmp_path, capsys)["next"] == "B"
    assert boot(tmp_path, "mark-bad", "A", current="B", *["--json"]) == os.EX_OK  # noqa: B026  # reads as it is typed
    assert json.loads(capsys.readouterr().out)["changed"] is True


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (["mark-bad", "A"], os.EX_NOPERM, "runs"),
        (["activate", "A"], os.EX_NOPERM, "runs"),
        (["activate", "B", "--tries", "9"], os.EX_NOPERM, "tries must be 1 to 7"),
        (["switch", "B"], os.EX_NOPERM, "never marked good"),
        (["rollback"], os.EX_NOPERM, "nothing to go back to"),
        (["switch", "C"], os.EX_USAGE, "no slot 'C'"),
        (["status", "--slots", "A,B C"], os.EX_CONFIG, "'B C'"),
        (["status", "--current", "Z"], os.EX_CONFIG, "'Z'"),
        (["status", "--config", ""], os.EX_CONFIG, "needs the path"),
        (["status", "--backend", "uboot", "--config", "/nothing"], os.EX_NOINPUT, "/nothing"),
        (["status", "--backend", "grub", "--config", "/nothing"], os.EX_NOINPUT, "/nothing"),
        (["status", "--backend", "grub", "--config", "/dev/null"], os.EX_DATAERR, "not a GRUB"),
        (["status", "--backend", "uboot", "--config", "/dev/null"], os.EX_CONFIG, "0 environments"),
        (["status", "--backend", "file", "--config", "/"], os.EX_IOERR, "directory"),
        (["rauc-handler", "set-state", "B", "great"], os.EX_NOPERM, "good or bad"),
        (["rauc-handler", "set-state", "B"], os.EX_NOPERM, "wants 2 values"),
    ],
)
def test_what_cannot_be_done_has_a_reason_and_a_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, why: str
) -> None:
    assert boot(tmp_path, *words) == status
    told = capsys.readouterr()
    assert why in told.err
    assert told.err.startswith(f"outrider boot {words[0]}: ")
    assert told.out == ""


def test_the_gateways_configuration_names_the_slots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(
        '[update.slots]\nbackend = "file"\nconfig = "state/boot.json"\ncurrent = "red"\ntries = 1\n'
        f'devices = {{ red = "{tmp_path}/red", blue = "{tmp_path}/blue" }}\n'
    )
    assert main(["boot", "activate", "blue", "--gateway-config", str(config)]) == os.EX_OK
    assert "slot blue: bad -> trial, 1 tries" in capsys.readouterr().out
    assert (tmp_path / "state" / "boot.json").exists()
    assert main(["boot", "status", "--gateway-config", str(config), "--current", "blue", "--json"]) == os.EX_OK
    assert json.loads(capsys.readouterr().out)["current"] == "blue"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no [update.slots]"),
        ("update = 1", "has no [update.slots]"),
        ("[update.slots", "Expected"),
        ("[update.slots]\nbackend = 1", "backend: 1 is no text"),
        ('[update.slots]\ntries = "3"', "tries"),
        ("[update.slots]\ndevices = { A = 1 }", "devices"),
        ('[update.slots]\nconfig = "x"\nbackend = "lilo"', "'lilo'"),
    ],
)
def test_a_wrong_configuration_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, why: str) -> None:
    (tmp_path / "gateway.toml").write_text(text)
    assert main(["boot", "status", "--gateway-config", str(tmp_path / "gateway.toml")]) == os.EX_CONFIG
    assert why in capsys.readouterr().err
    assert main(["boot", "status", "--gateway-config", str(tmp_path / "none.toml")]) == os.EX_NOINPUT


def test_which_boot_loader_must_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boot", "status"]) == os.EX_CONFIG
    assert "--backend" in capsys.readouterr().err


def test_a_person_at_a_terminal_is_asked(tmp_path: Path) -> None:
    for answer, status, changed in (("n", 1, False), ("y", 0, True)):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "outrider", "boot", "activate", "B", "--backend", "file", "--current", "A"]
        process = subprocess.Popen(
            [*command, "--config", str(tmp_path / "boot.json")], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT
        )
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        assert process.wait(30) == status
        assert b"go on? [y/N]" in os.read(ours, 4096)
        os.close(ours)
        assert (tmp_path / "boot.json").exists() is changed


def test_rauc_can_install_through_the_handler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The calls RAUC makes for an installation, a trial and a rollback, with their answers on standard output."""

    def handler(*words: str, current: str = "A") -> str:
        assert boot(tmp_path, "rauc-handler", *words, current=current) == os.EX_OK
        return capsys.readouterr().out

    assert handler("get-current") == "A\n"
    assert handler("set-state", "B", "bad") == ""
    assert handler("get-state", "B") == "bad\n"
    assert handler("set-primary", "B") == ""
    assert handler("get-primary") == "B\n"
    assert handler("get-state", "B", current="B") == "good\n"
    assert handler("set-state", "B", "good", current="B") == ""
    assert handler("set-primary", "A", current="B") == ""
    assert [(s["state"], s["priority"]) for s in state(tmp_path, capsys)["slots"]] == [("good", 2), ("good", 1)]  # type: ignore[attr-defined]  # a list
    assert boot(tmp_path, "rauc-handler", "set-state", "B", "good") == os.EX_NOPERM
