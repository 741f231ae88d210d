"""Real boots: U-Boot on an emulated arm64 board with our script, two slots, and nobody's help.

Reads what ``scenario.act`` saw, in the order in which it happened.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bootctl import uboot_env
from bootctl.uboot import state_from
from tests.boot import disk, scenario
from tests.boot.scenario import Seen, words
from tests.boot.writelog import Write, cuts, within

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Life = tuple[Seen, list[Write]]
STATE_BYTES = 2 * disk.COPY_BYTES
#: Steps between which only U-Boot or its tools wrote the boot state.
STRETCHES = (
    ("B is activated", "B first"),
    ("B first", "back on A"),
    ("back on A", "D and B are activated"),
    ("D and B are activated", "B after D"),
    ("A by command", "both are used up"),
    ("both are used up", "last resort"),
)


def lines(seen: Seen) -> list[str]:
    """What the boot script said, from power-up to the end."""
    told = (line.removeprefix("Outrider: ") for line in seen.console.splitlines() if line.startswith("Outrider: "))
    return [line for line in told if line != "watchdog armed"]


def test_the_slots_that_came_up_are_the_ones_the_rule_gives(life: Life) -> None:
    assert life[0].booted == ["A", "B", "A", "B", "B", "A"]


def test_the_loader_says_what_it_chose_and_why(life: Life) -> None:
    assert lines(life[0]) == [
        "no boot state; a new one is made",
        "booting slot A (trial, 2 tries left)",
        "booting slot B (trial, 2 tries left)",
        "booting slot B (trial, 1 tries left)",
        "booting slot B (trial, 0 tries left)",
        "booting slot A (good)",
        "booting slot D (trial, 2 tries left)",
        "slot D did not start",
        "booting slot B (trial, 2 tries left)",
        "booting slot B (good)",
        "booting slot A (good)",
        "no slot boots; all tries are given back",
        "booting slot A (trial, 2 tries left)",
    ]


def test_what_bootctl_writes_is_what_the_tools_in_the_vehicle_and_the_loader_read(life: Life) -> None:
    seen = life[0]
    assert seen.variables["B is activated"]["BOOT_ORDER"] == "B A"
    for step, variables in seen.variables.items():
        assert words(state_from(variables, scenario.SLOTS, "")) == seen.states[step], step


def test_a_slot_that_panics_and_hangs_falls_back_by_itself_after_three_boots(life: Life) -> None:
    seen = life[0]
    assert seen.states["B is activated"] == {"A": "1 good 3", "B": "2 trial 3", "D": "0 no 3"}
    assert seen.states["B first"]["B"] == "2 trial 2"
    assert seen.states["back on A"] == {"A": "1 good 3", "B": "2 no 0", "D": "0 no 3"}


def test_a_kernel_panic_takes_a_try(life: Life) -> None:
    console = life[0].console
    panic = console.index("Kernel panic - not syncing: sysrq triggered crash")
    assert console.index("booting slot B (trial, 1 tries left)") > panic


def test_a_hang_before_the_system_is_up_takes_a_try_since_the_loader_armed_the_watchdog(life: Life) -> None:
    """The kernel that was started does nothing at all: only the watchdog can have ended it."""
    console = life[0].console
    start = console.index("booting slot B (trial, 1 tries left)")
    hang = console[start : console.index("booting slot B (trial, 0 tries left)")]
    assert f"0x{disk.WATCHDOG_ADDRESS:016x}" in hang
    assert hang.index("watchdog armed") < hang.index("Starting kernel") < hang.index("U-Boot 20")
    assert "GUEST" not in hang
    assert "i6300esb_timer_expired" in hang


def test_a_slot_that_cannot_be_loaded_costs_no_reset(life: Life) -> None:
    """The next slot starts in the same run of the loader."""
    console = life[0].console
    between = console[console.index("slot D did not start") : console.index("booting slot B (trial, 2 tries left)")]
    assert "U-Boot 20" not in between
    assert life[0].states["B after D"]["D"] == "3 trial 2"


def test_a_good_slot_boots_without_a_write_to_the_state(life: Life) -> None:
    """So ordinary power cycles take no tries and wear nothing."""
    seen, log = life
    for before, after in (("B is good", "B again"), ("rolled back", "A by command")):
        assert seen.state_bytes[before] == seen.state_bytes[after]
        written = log[seen.log_lengths[before] : seen.log_lengths[after]]
        assert within(written, disk.STATE[0], STATE_BYTES) == []


def test_a_rollback_boots_the_older_slot_without_a_trial(life: Life) -> None:
    assert life[0].states["rolled back"] == {"A": "2 good 3", "B": "1 good 3", "D": "0 no 0"}


def test_with_nothing_bootable_all_tries_are_given_back_and_that_is_counted(life: Life) -> None:
    seen = life[0]
    assert seen.states["both are used up"] == {"A": "2 no 0", "B": "1 no 0", "D": "0 no 0"}
    assert seen.states["last resort"] == {"A": "2 trial 2", "B": "1 trial 3", "D": "0 no 0"}
    assert state_of(bytes.fromhex(seen.state_bytes["last resort"])).get("BOOT_RESETS") == "1"


def state_of(both: bytes) -> dict[str, str]:
    """The variables of two copies; fails when neither is valid."""
    copies = [uboot_env.decode(both[n : n + disk.COPY_BYTES], is_redundant=True) for n in (0, disk.COPY_BYTES)]
    active = uboot_env.newer(copies[0], copies[1])
    assert active is not None, "no valid copy"
    chosen = copies[active]
    assert chosen is not None
    return uboot_env.variables(chosen.data)


def check_cuts(start: bytes, writes: list[Write], config: Path) -> int:
    """Every cut leaves what was before the write or what it was to be; U-Boot's tool agrees on a part of them."""
    whole = [state_of(content) for _, what, content in cuts(start, writes) if what in ("nothing", "all")]
    count = 0
    for number, what, content in cuts(start, writes):
        found = state_of(content)
        assert found in whole[number : number + 2], f"write {number}: {what}"
        if count % 97 == 0:
            assert found == printed(config, content)
        count += 1
    return count


def printed(config: Path, content: bytes) -> dict[str, str]:
    image = config.with_suffix(".img")
    image.write_bytes(content)
    places = range(0, len(content), disk.COPY_BYTES)
    config.write_text("".join(f"{image} {place:#x} {disk.COPY_BYTES:#x}\n" for place in places))
    return dict(line.split("=", 1) for line in disk.run("fw_printenv", "-c", config).splitlines())


def test_a_cut_at_any_write_of_the_loader_or_its_tools_leaves_a_valid_state(life: Life, tmp_path: Path) -> None:
    seen, log = life
    total = 0
    for before, after in STRETCHES:
        written = log[seen.log_lengths[before] : seen.log_lengths[after]]
        writes = within(written, disk.STATE[0], STATE_BYTES)
        start = bytes.fromhex(seen.state_bytes[before])
        assert writes
        assert list(cuts(start, writes))[-1][2].hex() == seen.state_bytes[after]
        total += check_cuts(start, writes, tmp_path / "fw_env.config")
    assert total > 300


def test_a_cut_at_any_of_many_changes_leaves_a_valid_state(life: Life, tmp_path: Path) -> None:
    seen, log = life
    start = bytes.fromhex(seen.state_bytes["stress"])
    writes = within(log, disk.STRESS[0], STATE_BYTES)
    assert check_cuts(start, writes, tmp_path / "fw_env.config") > 300


def test_a_single_copy_tears_which_is_why_there_are_two(life: Life, tmp_path: Path) -> None:
    seen, log = life
    writes = within(log, disk.SINGLE[0], disk.COPY_BYTES)
    config = tmp_path / "fw_env.config"
    torn = [
        content
        for _, _, content in cuts(bytes.fromhex(seen.state_bytes["single"]), writes)
        if uboot_env.decode(content, is_redundant=False) is None
    ]
    assert len(torn) > 10
    with pytest.raises(AssertionError, match="fw_printenv"):
        printed(config, torn[0])
    assert subprocess.run(["fw_printenv", "-c", str(config)], capture_output=True, check=False).returncode != 0
