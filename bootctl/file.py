"""The boot state in a JSON file: for benches, tests, and boot loaders that can read it.

``boot`` is the boot loader's part, for a bench that has none. A missing file is a new machine: the running slot (or the
first) is good, the others are not bootable.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bootctl import core
from bootctl.errors import StateError
from bootctl.files import Files, replace_content
from bootctl.model import DEFAULT_TRIES, MAX_PRIORITY, BootState, Slot
from bootctl.store import failed, lock

_VERSION = 1


class FileStore:
    """See ``Store``."""

    name = "file"
    max_tries = core.MAX_TRIES

    def __init__(self, path: Path, slots: Sequence[str], current: str, files: Files) -> None:
        self.path, self._slots, self._given, self._files = path, tuple(slots), current, files

    def load(self) -> BootState:
        """See ``Store``. The running slot is the given one, else what ``boot`` chose last, else the first."""
        try:
            content = self._files.read(self.path)
        except FileNotFoundError:
            return self._new()
        except OSError as error:
            raise failed(self.path, error) from error
        try:
            return self._parsed(json.loads(content))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(f"{self.path}: not a boot state: {error}") from error

    def save(self, state: BootState) -> None:
        """See ``Store``."""
        slots = {
            slot.name: {"priority": slot.priority, "tries": slot.tries, "successful": slot.successful}
            for slot in state.slots
        }
        content = {"version": _VERSION, "booted": state.current, "resets": state.resets, "slots": slots}
        try:
            replace_content(self._files, self.path, json.dumps(content, indent=1).encode() + b"\n")
        except OSError as error:
            raise failed(self.path, error) from error

    def boot(self) -> str | None:
        """Choose as a boot loader does, and store what that costs before anything starts."""
        chosen, after = core.decide(self.load())
        self.save(after)
        return chosen

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """See ``Store``."""
        return lock(self._files, self.path.parent) if self.path.parent.is_dir() else contextlib.nullcontext()

    def notes(self) -> tuple[str, ...]:
        """See ``Store``."""
        return ("the file back end is for benches: no boot loader of a vehicle reads it",)

    def _new(self) -> BootState:
        current = self._given or self._slots[0]
        fresh = tuple(Slot(name, 0, 0, False) for name in self._slots)
        state = BootState(fresh, current)
        good = replace(state.slot(current), priority=1, tries=DEFAULT_TRIES, successful=True)
        return state.with_slot(good)

    def _parsed(self, found: dict[str, object]) -> BootState:
        if found["version"] != _VERSION:
            raise ValueError(f"version {found['version']!r}")
        stored = found["slots"]
        if not isinstance(stored, dict) or not isinstance(found.get("resets", 0), int):
            raise ValueError("slots and resets")
        slots = tuple(_slot(name, stored.get(name, {})) for name in self._slots)
        booted = str(found.get("booted") or "")
        current = self._given or (booted if booted in self._slots else self._slots[0])
        order = [s.name for s in sorted(slots, key=lambda s: -s.priority) if s.priority > 0]
        return BootState(core.ordered(slots, order), current, int(str(found.get("resets", 0))))


def _slot(name: str, stored: dict[str, object]) -> Slot:
    priority, tries, successful = stored.get("priority", 0), stored.get("tries", 0), stored.get("successful", False)
    is_sound = type(priority) is int and type(tries) is int and type(successful) is bool
    if not is_sound or not 0 <= int(str(priority)) <= MAX_PRIORITY or not 0 <= int(str(tries)) <= core.MAX_TRIES:
        raise ValueError(f"slot {name}: {stored!r}")
    return Slot(name, int(str(priority)), int(str(tries)), bool(successful))
