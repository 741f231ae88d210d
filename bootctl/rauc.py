"""RAUC's custom boot loader back end: the calls its ``bootloader-custom-backend`` program gets.

RAUC calls a program with ``get-primary``, ``set-primary SLOT``, ``get-state SLOT``, ``set-state SLOT good|bad`` and
``get-current``. So RAUC can install while the rules of ``core`` hold: trial, fall back, no tries lost to the ignition
key. What RAUC asks is answered in its words; what breaks a rule of ours is refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bootctl import core
from bootctl.errors import RefusedError
from bootctl.model import BootState
from bootctl.store import StoredBootControl

#: Request -> how many values follow.
REQUESTS = {"get-primary": 0, "set-primary": 1, "get-state": 1, "set-state": 2, "get-current": 0}


def add_rauc_handler(parser: argparse.ArgumentParser) -> None:
    """Add the arguments RAUC gives."""
    parser.add_argument("request", choices=tuple(REQUESTS))
    parser.add_argument("values", nargs="*", metavar="VALUE", help="slot, or slot and good|bad")


def handle(control: StoredBootControl, request: str, values: Sequence[str], tries: int) -> str:
    """Carry out one call; returns what goes to standard output.

    Raises:
        BootControlError: refused, or the state cannot be read or written.
    """
    if len(values) != REQUESTS[request]:
        raise RefusedError(f"{request} wants {REQUESTS[request]} values, not {len(values)}")
    if request == "get-primary":
        upcoming = control.read().next
        if upcoming is None:
            raise RefusedError("no slot is bootable")
        return upcoming.name
    if request == "get-current":
        return _current(control.read())
    if request == "get-state":
        return "good" if control.read().slot(values[0]).is_bootable else "bad"
    if request == "set-primary":
        control.change(lambda state: _primary(state, values[0], min(tries, control.store.max_tries)))
    else:
        _set_state(control, *values)
    return ""


def _current(state: BootState) -> str:
    if not state.current:
        raise RefusedError("which slot runs is not known")
    return state.current


def _primary(state: BootState, name: str, tries: int) -> BootState:
    """RAUC's only word for both: a slot just written goes on trial, one that was good is switched to."""
    slot = state.slot(name)
    return core.switch(state, name) if slot.is_bootable and slot.successful else core.activate(state, name, tries)


def _set_state(control: StoredBootControl, name: str, word: str) -> None:
    if word == "bad":
        control.mark_bad(name)
    elif word != "good":
        raise RefusedError(f"a state is good or bad, not {word!r}")
    elif name != _current(control.read()):
        raise RefusedError(f"slot {name} does not run; only the running slot can be marked good")
    else:
        control.mark_good()
