"""One life of a board, acted once; tests look at what was seen.

Everything that changes the boot state is done by one of three hands: U-Boot (the script), U-Boot's own tools in the
guest, and ``bootctl`` on the disk's image while the guest waits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bootctl import core
from bootctl.files import RealFiles
from bootctl.model import BootState
from bootctl.store import StoredBootControl
from bootctl.uboot import UbootStore
from bootctl.uboot_config import Place
from tests.boot import disk
from tests.boot.machine import Machine
from tests.boot.parts import Parts
from tests.boot.writelog import read_log

SLOTS = ("A", "B", "D")  # there is no D
STRESS_WRITES = 5


@dataclass
class Seen:
    """What was seen; JSON can carry it."""

    console: str = ""
    booted: list[str] = field(default_factory=list)  # slots whose system came up, in order
    variables: dict[str, dict[str, str]] = field(default_factory=dict)  # step -> what fw_printenv read in the guest
    states: dict[str, dict[str, str]] = field(default_factory=dict)  # step -> what bootctl read from the disk
    state_bytes: dict[str, str] = field(default_factory=dict)  # step -> both copies, hexadecimal
    log_lengths: dict[str, int] = field(default_factory=dict)  # step -> writes so far

    def to_json(self) -> str:
        """See the class."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Seen:
        """The reverse."""
        return cls(**json.loads(text))


def control(image: Path, current: str) -> StoredBootControl:
    """Our boot control on the image of the board's disk."""
    places = [Place(image, offset, disk.COPY_BYTES) for offset in disk.STATE]
    return StoredBootControl(UbootStore(places, SLOTS, current, RealFiles(), lock_path=image.with_suffix(".lock")))


def words(state: BootState) -> dict[str, str]:
    """A state in short: "B" -> "2 trial 3"."""
    return {
        s.name: f"{s.priority} {'good' if s.successful else 'trial' if s.is_bootable else 'no'} {s.tries}"
        for s in state.slots
    }


class _Act:
    def __init__(self, image: Path, log: Path, machine: Machine) -> None:
        self.image, self.log, self.machine, self.seen = image, log, machine, Seen()

    def note(self, step: str) -> None:
        """Wait for a system; see what is stored now."""
        self.seen.booted.append(self.machine.wait_for_guest())
        self.seen.variables[step] = self.machine.variables()
        self.look(step)

    def look(self, step: str) -> None:
        """See what is on the disk."""
        self.seen.states[step] = words(control(self.image, "").read())
        both = b"".join(disk.read(self.image, offset, disk.COPY_BYTES) for offset in disk.STATE)
        self.seen.state_bytes[step] = both.hex()
        self.seen.log_lengths[step] = len(read_log(self.log))

    def by_bootctl(self, step: str, current: str, *changes: Callable[[BootState], BootState]) -> None:
        """Change the state as the running slot would."""
        for change in changes:
            control(self.image, current).change(change)
        self.seen.variables[step] = self.machine.variables()
        self.look(step)


def act(folder: Path, parts: Parts) -> Seen:
    """The whole life. Leaves ``writes.log`` in ``folder``."""
    image = disk.disk(folder, parts)
    flash = disk.flash(folder, disk.board_variables())
    log = folder / "writes.log"
    with open(log, "wb") as file:
        file.truncate(1 << 30)
    with Machine(flash, image, write_log=log) as machine:
        play = _Act(image, log, machine)
        for name, places in (("stress", disk.STRESS), ("single", disk.SINGLE)):
            play.seen.state_bytes[name] = disk.read(image, places[0], len(places) * disk.COPY_BYTES).hex()
        try:
            _update_that_fails(play)
            _update_that_is_good(play, {"Image": parts.kernel.read_bytes(), "initrd": (folder / "initrd").read_bytes()})
            _worn_out(play)
        finally:
            play.seen.console = machine.log
            (folder / "console").write_text(machine.log)
    return play.seen


def _update_that_fails(play: _Act) -> None:
    """B panics once, and then hangs before its system is up."""
    machine = play.machine
    play.note("new board")
    _write_much(machine)
    play.by_bootctl("A is good", "A", core.mark_good)
    play.by_bootctl("B is written", "A", lambda s: core.mark_bad(s, "B"))
    play.by_bootctl("B is activated", "A", lambda s: core.activate(s, "B"))
    machine.send("reboot -f")
    play.note("B first")
    disk.put_slot(play.image, "B", {"Image": disk.hanging_kernel(), "initrd": b"none"})
    machine.send("echo c > /proc/sysrq-trigger")
    machine.wait_for("Kernel panic")
    machine.wait_for(r"booting slot B \(trial, 1 tries left\)")
    machine.wait_for(r"booting slot B \(trial, 0 tries left\)")
    play.note("back on A")


def _update_that_is_good(play: _Act, linux: dict[str, bytes]) -> None:
    """D cannot be loaded at all, B is well."""
    machine = play.machine
    disk.put_slot(play.image, "B", linux)
    trial = {"BOOT_ORDER": "D B A", "BOOT_D_LEFT": "3", "BOOT_B_LEFT": "3", "BOOT_B_GOOD": ""}
    machine.set_variables(trial)
    play.look("D and B are activated")
    machine.send("reboot -f")
    play.note("B after D")
    play.by_bootctl("B is good", "B", core.mark_good, lambda s: core.mark_bad(s, "D"))
    machine.send("reboot -f")
    play.note("B again")
    play.by_bootctl("rolled back", "B", core.rollback)
    machine.send("echo b > /proc/sysrq-trigger")
    play.note("A by command")


def _worn_out(play: _Act) -> None:
    machine = play.machine
    machine.set_variables({"BOOT_A_LEFT": "0", "BOOT_B_LEFT": "0", "BOOT_A_GOOD": "", "BOOT_B_GOOD": ""})
    play.look("both are used up")
    machine.send("reboot -f")
    machine.wait_for("no slot boots; all tries are given back")
    machine.wait_for("Starting kernel")
    play.look("last resort")


def _write_much(machine: Machine) -> None:
    """Writes of U-Boot's tools to places of their own: with two copies, and with one."""
    for config in ("stress", "single"):
        for number in range(STRESS_WRITES):
            filling = "".join(chr(97 + (number * 7 + n) % 26) for n in range(40)) * (30 + number)
            machine.set_variables({"number": str(number), "filling": filling, "BOOT_ORDER": "A B"}, config)
