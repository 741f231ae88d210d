"""GRUB's script, run by bash with GRUB's commands played: it decides as ``core.decide`` does.

Its language is near enough to the shell's: only ``set`` and device names differ. The environment block is kept by
``grub-editenv``, as GRUB keeps it. Its syntax is checked by GRUB's own tool.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings

from bootctl import core
from bootctl.files import RealFiles
from bootctl.grub import GrubStore
from bootctl.model import BootState
from tests.bootctl.strategies import states
from tests.support import ROOT

pytestmark = pytest.mark.skipif(shutil.which("grub-editenv") is None, reason="no grub-common (make apt-test)")

SCRIPT = ROOT / "bootctl" / "data" / "grub.cfg"
PLAYED = """
set() { declare -g "$1"; }
load_env() { while IFS= read -r line; do declare -g "$line"; done < <(grub-editenv "$BLOCK" list); }
save_env() { [ -z "$WORN" ] && for name; do grub-editenv "$BLOCK" set "$name=${!name}"; done; }
linux() { [ "$slot" != "$BROKEN" ]; }
initrd() { true; }
boot() { echo "started $slot"; exit 0; }
reboot() { echo "reboot"; exit 0; }
"""


def block(folder: Path) -> Path:
    path = folder / "grubenv"
    subprocess.run(["grub-editenv", str(path), "create"], check=True)
    return path


def power_up(path: Path, *, broken: str = "", worn: str = "") -> list[str]:
    """What the script said; ``broken`` cannot be loaded, with ``worn`` nothing can be stored."""
    script = PLAYED + SCRIPT.read_text(encoding="utf-8").replace("(hd0,msdos$part)", "disk$part")
    given_env = {"BLOCK": str(path), "BROKEN": broken, "WORN": worn, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", script], env=given_env, capture_output=True, text=True, timeout=20, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def stored(path: Path, current: str = "A") -> BootState:
    return GrubStore(path, ["A", "B"], current, RealFiles()).load()


def test_its_syntax_is_grubs() -> None:
    subprocess.run(["grub-script-check", str(SCRIPT)], check=True)


def test_it_decides_by_the_rule(tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=30, deadline=None)
    @given(states(resets=False))
    def check(state: BootState) -> None:
        assume(len(state.slots) == 2)
        path = block(tmp_path_factory.mktemp("grub"))
        GrubStore(path, ["A", "B"], "A", RealFiles()).save(state)
        chosen, after = core.decide(state)
        said = power_up(path)
        if state.next is not None:
            assert said[-1] == f"started {chosen}"
            assert stored(path, "") == replace(after, current="")
            return
        assert said[-1] == "reboot"
        assert stored(path).resets == 1

    check()


def test_a_new_board_starts_its_first_slot_and_the_second_when_that_fails(tmp_path: Path) -> None:
    path = block(tmp_path)
    assert power_up(path)[-1] == "started A"
    assert power_up(path)[-1] == "started B"


def test_three_boots_then_back_to_the_good_one_for_ever(tmp_path: Path) -> None:
    path = block(tmp_path)
    store = GrubStore(path, ["A", "B"], "A", RealFiles())
    store.save(core.activate(core.mark_good(store.load()), "B"))
    assert [power_up(path)[-1] for _ in range(5)] == ["started B"] * 3 + ["started A"] * 2


def test_used_up_slots_get_their_tries_back(tmp_path: Path) -> None:
    path = block(tmp_path)
    store = GrubStore(path, ["A", "B"], "A", RealFiles())
    store.save(core.activate(replace(store.load(), current="A"), "B", 2))
    said = [power_up(path)[-1] for _ in range(6)]
    assert said == ["started B", "started B", "started A", "reboot", "started B", "started B"]
    assert store.load().resets == 1


def test_a_slot_that_cannot_be_loaded_is_passed_over(tmp_path: Path) -> None:
    path = block(tmp_path)
    store = GrubStore(path, ["A", "B"], "A", RealFiles())
    store.save(core.activate(core.mark_good(store.load()), "B"))
    assert power_up(path, broken="B")[-2:] == ["Outrider: booting slot A (good)", "started A"]


def test_a_try_that_cannot_be_stored_starts_nothing(tmp_path: Path) -> None:
    path = block(tmp_path)
    store = GrubStore(path, ["A", "B"], "A", RealFiles())
    store.save(core.activate(core.mark_good(store.load()), "B"))
    assert power_up(path, worn="1") == [
        "Outrider: the try cannot be stored",
        "Outrider: booting slot A (good)",
        "started A",
    ]
