"""A boot loader for benches: chooses the slot as the rule says, starts that slot's command, and again when it ends.

What a board does in hardware happens here between processes, so that trial boots, fallbacks and confirmations of a
gateway can be seen on a laptop. A command that ends with status ``REBOOT``, or after the file that ``$OUTRIDER_REBOOT``
names was made, has asked for a reboot; status 0 switches the board off; anything else is a crash that boots again, as a
watchdog would make it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from types import FrameType

from bootctl.file import FileStore
from bootctl.model import BootControlError

REBOOT = 75
#: The running slot's name, for the command.
SLOT_VARIABLE = "OUTRIDER_SLOT"
#: Another one at each boot, as the kernel's is.
BOOT_ID_VARIABLE = "OUTRIDER_BOOT_ID"
#: Names the file by which a command, or somebody for it, asks for a reboot before it ends.
REBOOT_VARIABLE = "OUTRIDER_REBOOT"
CRASH_PAUSE_S = 0.5  # so that a command that never starts does not burn the machine


class Board:
    """One board: the state of its boot loader, and how each slot's software is started."""

    def __init__(self, store: FileStore, commands: Mapping[str, Sequence[str]], *, max_boots: int = 1000) -> None:
        """``commands`` are argv by slot; ``max_boots`` bounds a board that crashes for ever."""
        self._store, self._commands, self._max_boots = store, commands, max_boots
        self._process: subprocess.Popen[bytes] | None = None
        self._is_off = False
        self._reboot_file = store.path.with_name(f"{store.path.name}.reboot").absolute()

    def run(self) -> int:
        """Boot until it is switched off: by status 0, or SIGTERM, which the running command gets, too.

        Returns:
            0, or 1 when no slot can boot or it booted too often.

        Raises:
            BootControlError: the state cannot be read or written, or a slot has no command.
        """
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._switch_off)
        for _ in range(self._max_boots):
            slot = self._store.boot()
            if slot is None:
                _say("no slot can boot")
                return 1
            found = self._store.load().slot(slot)
            _say(f"booting slot {slot}" + ("" if found.successful else f" on trial, {found.tries} tries left"))
            self._reboot_file.unlink(missing_ok=True)
            status = self._start(slot)
            if self._reboot_file.exists():
                status = REBOOT
            if status == 0 or self._is_off:
                return 0
            _say(f"slot {slot} " + ("reboots" if status == REBOOT else f"ended with status {status}"))
            if status != REBOOT:
                time.sleep(CRASH_PAUSE_S)
        _say(f"switched off after {self._max_boots} boots")
        return 1

    def _start(self, slot: str) -> int:
        if slot not in self._commands:
            raise BootControlError(f"no command for slot {slot!r}")
        environment = {
            **os.environ,
            SLOT_VARIABLE: slot,
            BOOT_ID_VARIABLE: str(uuid.uuid4()),
            REBOOT_VARIABLE: str(self._reboot_file),
        }
        try:
            self._process = subprocess.Popen(self._commands[slot], env=environment)
        except OSError as error:
            raise BootControlError(f"slot {slot}: {error.strerror}: {self._commands[slot][0]}") from error
        if self._is_off:  # between the choice and now
            self._process.terminate()
        return self._process.wait()

    def _switch_off(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self._is_off = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()


def _say(text: str) -> None:
    print(f"board: {text}", file=sys.stderr, flush=True)
