"""The boot state in GRUB's environment block, in RAUC's variables and two more.

===================  ==============================================================================================
``ORDER``            slots to try, the first first
``<slot>_OK``        1: it may boot; else it must not
``<slot>_TRY``       boots since it was put on trial; GRUB counts it up before it starts the kernel
``<slot>_TRIES``     ours: how many of these it has; missing: 1, which is all that RAUC's script can count
``<slot>_GOOD``      ours: 1 once the slot was marked good; then GRUB does not count
``RESETS``           ours: last resorts taken
===================  ==============================================================================================

The block has no checksum and GRUB writes it in place, so it must never tear: our variables come first in it, and a
change that touches one sector is written in place, which a disk does whole or not at all. Other changes replace the
file. GRUB demands that its size stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from bootctl import core
from bootctl.errors import StateError
from bootctl.files import Files, replace_content
from bootctl.model import BootState, Slot
from bootctl.store import failed, lock

SIGNATURE = b"# GRUB Environment Block\n"
BLOCK_BYTES = 1024
SECTOR_BYTES = 512
_MAX_BLOCK_BYTES = 64 * 1024


def parse_block(content: bytes) -> dict[str, str]:
    """Names and values of an environment block; lines of ``#`` are comments and padding.

    Raises:
        StateError: it is none.
    """
    if not content.startswith(SIGNATURE) or not SECTOR_BYTES <= len(content) <= _MAX_BLOCK_BYTES:
        raise StateError("not a GRUB environment block")
    found = {}
    for line in _lines(content[len(SIGNATURE) :]):
        name, sign, value = line.partition(b"=")
        if sign and not line.startswith(b"#"):
            found[name.decode("utf-8", "surrogateescape")] = _unescaped(value).decode("utf-8", "surrogateescape")
    return found


def changed_block(content: bytes, changes: Mapping[str, str | None], first: Sequence[str]) -> bytes:
    """The block with variables set, or removed (None), of the same size; those of ``first`` come first.

    Raises:
        StateError: it is no block, or there is no room.
    """
    before = parse_block(content)
    after = {name: value for name, value in (before | dict(changes)).items() if value is not None}
    names = [name for name in first if name in after] + [name for name in after if name not in first]
    made = SIGNATURE + b"".join(_entry(name, after[name]) for name in names)
    if len(made) > len(content):
        raise StateError(f"the environment block is full: {len(made)} bytes do not fit into {len(content)}")
    return made.ljust(len(content), b"#")


def state_from(variables: Mapping[str, str], slots: Sequence[str], current: str) -> BootState:
    """What the boot script makes of the variables. Without an order it tries all ``slots`` as they stand."""
    names = variables.get("ORDER", "").split() or list(slots)
    unset = "0" if variables.get("ORDER") else "1"
    order = [n for n in dict.fromkeys(names) if n in slots and variables.get(f"{n}_OK", unset) == "1"]
    found = []
    for name in slots:
        is_ok = name in order
        allowed = _number(variables.get(f"{name}_TRIES", "1"))
        left = max(0, allowed - _number(variables.get(f"{name}_TRY", "0"))) if is_ok else 0
        is_good = is_ok and variables.get(f"{name}_GOOD") == "1"
        found.append(Slot(name, 0, left, is_good))
    return BootState(core.ordered(found, order), current, _number(variables.get("RESETS", "0")))


def variables_of(state: BootState, before: Mapping[str, str]) -> dict[str, str | None]:
    """What to set (None: remove) so that ``state_from`` gives ``state``. Slots of others stay at the order's end."""
    ours = [slot.name for slot in sorted(state.slots, key=lambda s: -s.priority)]
    foreign = [name for name in before.get("ORDER", "").split() if name not in ours]
    made: dict[str, str | None] = {"ORDER": " ".join([*ours, *foreign])}
    was = state_from(before, ours, "")
    for slot in state.slots:
        made |= _variables_of_slot(slot, was.slot(slot.name), before)
    made["RESETS"] = str(state.resets) if state.resets else None
    return {name: value for name, value in made.items() if before.get(name) != value}


def _variables_of_slot(slot: Slot, was: Slot, before: Mapping[str, str]) -> dict[str, str | None]:
    name = slot.name
    made: dict[str, str | None] = {f"{name}_OK": "1" if slot.priority else "0", f"{name}_TRY": "0"}
    made[f"{name}_GOOD"] = "1" if slot.successful else None
    made[f"{name}_TRIES"] = str(slot.tries) if slot.priority else None
    if slot.priority and slot.tries == was.tries and was.priority:
        made[f"{name}_TRY"], made[f"{name}_TRIES"] = before.get(f"{name}_TRY", "0"), before.get(f"{name}_TRIES")
    return made


class GrubStore:
    """See ``Store``."""

    name = "grub"
    max_tries = core.MAX_TRIES

    def __init__(self, path: Path, slots: Sequence[str], current: str, files: Files) -> None:
        self._path, self._slots, self._current, self._files = path, tuple(slots), current, files

    def load(self) -> BootState:
        """See ``Store``."""
        return state_from(parse_block(self._read()), self._slots, self._current)

    def save(self, state: BootState) -> None:
        """See ``Store``."""
        content = self._read()
        new = changed_block(content, variables_of(state, parse_block(content)), self._first())
        if new == content:
            return
        touched = [
            n
            for n in range(0, len(content), SECTOR_BYTES)
            if content[n : n + SECTOR_BYTES] != new[n : n + SECTOR_BYTES]
        ]
        try:
            if len(touched) == 1:
                self._overwrite(touched[0], new[touched[0] : touched[0] + SECTOR_BYTES])
            else:
                replace_content(self._files, self._path, new)
        except OSError as error:
            raise failed(self._path, error) from error

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """See ``Store``. GRUB's own tool takes no lock."""
        return lock(self._files, self._path.parent)

    def notes(self) -> tuple[str, ...]:
        """See ``Store``."""
        return ()

    def _first(self) -> list[str]:
        ours = ("OK", "TRY", "TRIES", "GOOD")
        return ["ORDER", *(f"{slot}_{word}" for slot in self._slots for word in ours), "RESETS"]

    def _overwrite(self, offset: int, content: bytes) -> None:
        block = self._files.open(self._path)
        try:
            block.write_at(offset, content)
            block.sync()
        finally:
            block.close()

    def _read(self) -> bytes:
        try:
            return self._files.read(self._path)
        except OSError as error:
            raise failed(self._path, error) from error


def _lines(body: bytes) -> list[bytes]:
    """Lines; an escaped line feed does not end one."""
    lines, line, place = [], bytearray(), 0
    while place < len(body):
        byte = body[place]
        if byte == 0x5C and place + 1 < len(body):
            line += body[place : place + 2]
            place += 2
            continue
        if byte == 0x0A:
            lines.append(bytes(line))
            line.clear()
        else:
            line.append(byte)
        place += 1
    return lines  # what no line feed ends is padding


def _entry(name: str, value: str) -> bytes:
    raw = value.encode("utf-8", "surrogateescape").replace(b"\\", b"\\\\").replace(b"\n", b"\\\n")
    return name.encode("utf-8", "surrogateescape") + b"=" + raw + b"\n"


def _unescaped(raw: bytes) -> bytes:
    made, place = bytearray(), 0
    while place < len(raw):
        if raw[place] == 0x5C and place + 1 < len(raw):
            place += 1
        made.append(raw[place])
        place += 1
    return bytes(made)


def _number(text: str) -> int:
    try:
        return max(0, int(text))
    except ValueError:
        return 0
