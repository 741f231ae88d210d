"""A boot loader for benches: chooses the slot as the rule says, starts that slot's command, and again when it asks.

What a board does in hardware happens here between processes, so that trial boots, fallbacks and confirmations of a
gateway can be seen on a laptop. A slot's command that ends with status ``REBOOT`` is a reboot, one that ends otherwise
than with 0 is a crash (both boot again, as a watchdog would make them); status 0 switches the board off.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from bootctl.core import decide
from bootctl.model import BootControlError, BootState

REBOOT = 75
STOP_S = 20.0
RESTART_PAUSE_S = 0.5
"""Between a crash and the next boot, so that a command that never starts does not burn the machine."""


class Board:
    """One board: its boot state, and how each slot's software is started."""

    def __init__(
        self,
        read: Callable[[], BootState],
        write: Callable[[BootState], None],
        commands: dict[str, Sequence[str]],
        *,
        max_boots: int = 1000,
    ) -> None:
        """``read`` and ``write`` are the boot state as the loader sees it; ``commands`` are argv per slot."""
        self._read, self._write, self._commands, self._max_boots = read, write, commands, max_boots
        self._process: subprocess.Popen[bytes] | None = None
        self._is_off = False

    def run(self) -> int:
        """Boot until it is switched off. The last status: 0, or 1 when nothing bootable is left.

        Raises:
            BootControlError: the state cannot be read or written, or a slot has no command.
        """
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._switch_off)
        for _ in range(self._max_boots):
            if self._is_off:
                return 0
            slot = self._choose()
            if slot is None:
                self._say("no slot can boot")
                return 1
            status = self._boot(slot)
            if status == 0 or self._is_off:
                return 0
            self._say(f"slot {slot} " + ("reboots" if status == REBOOT else f"ended with status {status}"))
            if status != REBOOT:
                time.sleep(RESTART_PAUSE_S)
        self._say(f"switched off after {self._max_boots} boots")
        return 1

    def _choose(self) -> str | None:
        before = self._read()
        slot, after = decide(before)
        if after != before:
            self._write(after)  # counted down before anything of the slot runs
        if slot is None:
            return None
        left = after.slot(slot)
        self._say(f"booting slot {slot}" + ("" if left.successful else f" on trial, {left.tries} tries left"))
        return slot

    def _boot(self, slot: str) -> int:
        try:
            command = self._commands[slot]
        except KeyError:
            raise BootControlError(f"no command for slot {slot!r}") from None
        self._process = subprocess.Popen(command)
        if self._is_off:  # between the choice and now
            self._process.terminate()
        try:
            return self._process.wait()
        finally:
            self._process = None

    def _switch_off(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self._is_off = True
        if self._process is not None:
            self._process.terminate()

    @staticmethod
    def _say(text: str) -> None:
        print(f"board: {text}", file=sys.stderr, flush=True)
