"""A board made of processes boots by the same rule as a real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bootctl.file import FileStore
from bootctl.files import RealFiles
from bootctl.play import REBOOT
from bootctl.store import StoredBootControl
from tests.support import ROOT

BOARD = """
import sys
from pathlib import Path
from bootctl.file import FileStore
from bootctl.files import RealFiles
from bootctl.play import Board
store = FileStore(Path(sys.argv[1]), ("A", "B"), "", RealFiles())
slot = [sys.executable, "-c", sys.argv[2], sys.argv[1]]
sys.exit(Board(store, {"A": slot, "B": slot}, max_boots=8).run())
"""
#: A notes its boots; the first time it activates B. B ends as ``{b}`` says.
SLOT = """
import os, sys
from pathlib import Path
from bootctl.file import FileStore
from bootctl.files import RealFiles
from bootctl.store import StoredBootControl
control = StoredBootControl(FileStore(Path(sys.argv[1]), ("A", "B"), "", RealFiles()))
slot, log = os.environ["OUTRIDER_SLOT"], Path(sys.argv[1] + ".log")
assert control.read().current == slot
log.write_text((log.read_text() if log.exists() else "") + slot)
if slot == "A":
    if len(log.read_text()) > 1:
        sys.exit(0)
    control.activate("B")
    sys.exit(75)
{b}
"""


def play(tmp_path: Path, b: str) -> tuple[str, str, FileStore]:
    state = tmp_path / "boot.json"
    command = [sys.executable, "-c", BOARD, str(state), SLOT.replace("{b}", b)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return Path(f"{state}.log").read_text(), done.stderr, FileStore(state, ("A", "B"), "", RealFiles())


def test_a_slot_that_crashes_falls_back_after_its_tries(tmp_path: Path) -> None:
    booted, said, store = play(tmp_path, "sys.exit(1)")
    assert booted == "ABBBA"
    assert "booting slot B on trial, 0 tries left" in said
    assert not store.load().slot("B").is_bootable


def test_a_slot_that_is_marked_good_stays(tmp_path: Path) -> None:
    booted, said, store = play(tmp_path, "control.mark_good(); sys.exit(0 if len(log.read_text()) > 4 else 75)")
    assert booted == "ABBBB"
    assert said.count("on trial") == 1
    assert StoredBootControl(store).read().order[0].name == "B"


def test_a_file_asks_for_a_reboot_of_a_command_that_ends_in_order(tmp_path: Path) -> None:
    ask = "control.mark_good(); Path(os.environ['OUTRIDER_REBOOT']).touch() if len(log.read_text()) < 4 else 0"
    booted, _, _ = play(tmp_path, ask)
    assert booted == "ABBB"


def test_the_status_of_a_reboot_is_the_documented_one() -> None:
    assert REBOOT == 75
    assert "sys.exit(75)" in SLOT
