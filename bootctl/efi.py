"""The boot state in EFI variables, through efivarfs: ``BootOrder``, ``BootNext`` and the entries ``Boot####``.

A slot is the entry whose description is the slot's name. Successful slots are in ``BootOrder``; a slot on trial is in
``BootNext``, which the firmware removes before it boots it. So there is one try, and going back needs no one's help; a
slot on trial behind a good one cannot be stored and counts as bad.
Each change that matters is one write of one variable, which the firmware does whole or not at all.

EFI variables are written whole with one ``write``, attributes first; nothing is renamed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from bootctl import core
from bootctl.errors import SetupError, StateError
from bootctl.files import Files
from bootctl.model import BootState, Slot
from bootctl.store import failed, lock

EFIVARFS = Path("/sys/firmware/efi/efivars")
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
#: Kept, seen by the boot loader, seen by the running system.
ATTRIBUTES = (0x1 | 0x2 | 0x4).to_bytes(4, "little")

_ENTRY = re.compile(rf"Boot([0-9A-F]{{4}})-{GLOBAL}")


class EfiStore:
    """See ``Store``."""

    name = "efi"
    max_tries = 1

    def __init__(self, directory: Path, slots: Sequence[str], current: str, files: Files) -> None:
        self._directory, self._slots, self._current, self._files = directory, tuple(slots), current, files

    def load(self) -> BootState:
        """See ``Store``. Slots are told in the order the firmware would try them."""
        numbers = self._numbers()
        order = [n for n in self._order() if n in numbers.values()]
        trial = self._trial()
        names = {number: name for name, number in numbers.items()}
        ranked = ([names[trial]] if trial in names else []) + [names[n] for n in order if n != trial]
        found = []
        for name in self._slots:
            is_good = numbers[name] in order and numbers[name] != trial
            found.append(Slot(name, 0, 1 if is_good or numbers[name] == trial else 0, is_good))
        return BootState(core.ordered(found, ranked), self._current)

    def save(self, state: BootState) -> None:
        """See ``Store``. A cut between the two writes leaves the slot on trial or a good one, never none."""
        numbers = self._numbers()
        ours = set(numbers.values())
        good = [numbers[s.name] for s in sorted(state.slots, key=lambda s: -s.priority) if s.successful and s.priority]
        upcoming = state.next
        on_trial = numbers[upcoming.name] if upcoming and not upcoming.successful else None
        before, trial = self._order(), self._trial()
        after = [*good, *(n for n in before if n not in ours)]
        if trial in ours and trial != on_trial:
            self._remove("BootNext")
        if after != before:
            if not good:
                raise StateError("no slot of ours would be left in BootOrder")
            self._write("BootOrder", b"".join(n.to_bytes(2, "little") for n in after))
        if on_trial is not None and trial != on_trial:
            self._write("BootNext", on_trial.to_bytes(2, "little"))

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """See ``Store``. Other tools take no lock."""
        return lock(self._files, self._directory)

    def notes(self) -> tuple[str, ...]:
        """See ``Store``."""
        return ("EFI firmware gives a slot on trial one try, and counts no last resorts",)

    def _numbers(self) -> dict[str, int]:
        """Slot -> number of its boot entry."""
        found: dict[str, int] = {}
        for file in self._files.list(self._directory):
            matched = _ENTRY.fullmatch(file)
            if matched and (label := _description(self._read(file[:8]) or b"")) in self._slots:
                found.setdefault(label, int(matched[1], 16))
        missing = [name for name in self._slots if name not in found]
        if missing:
            raise SetupError(f"{self._directory}: no boot entry is called {' or '.join(missing)} (efibootmgr --create)")
        return found

    def _order(self) -> list[int]:
        raw = self._read("BootOrder") or b""
        return [int.from_bytes(raw[i : i + 2], "little") for i in range(0, len(raw) - 1, 2)]

    def _trial(self) -> int | None:
        raw = self._read("BootNext")
        return int.from_bytes(raw[:2], "little") if raw and len(raw) >= 2 else None

    def _path(self, variable: str) -> Path:
        return self._directory / f"{variable}-{GLOBAL}"

    def _read(self, variable: str) -> bytes | None:
        """A variable's content without its attributes; None when there is none."""
        try:
            return self._files.read(self._path(variable))[4:]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise failed(self._path(variable), error) from error

    def _write(self, variable: str, content: bytes) -> None:
        path = self._path(variable)
        try:
            block = self._files.open(path, create=True)
            try:
                block.write_at(0, ATTRIBUTES + content)
                if block.size() > len(ATTRIBUTES + content):
                    block.truncate(len(ATTRIBUTES + content))  # a plain file; efivarfs has done it already
            finally:
                block.close()
        except OSError as error:
            raise failed(path, error) from error

    def _remove(self, variable: str) -> None:
        try:
            self._files.remove(self._path(variable))
        except OSError as error:
            raise failed(self._path(variable), error) from error


def _description(entry: bytes) -> str:
    """The description of an EFI_LOAD_OPTION: UTF-16 after attributes and a length."""
    raw = entry[6:]
    end = next((i for i in range(0, len(raw) - 1, 2) if raw[i : i + 2] == b"\0\0"), len(raw) & ~1)
    return raw[:end].decode("utf-16-le", "replace")
