"""The boot state in the U-Boot environment, in RAUC's variables and one more.

=====================  ============================================================================================
``BOOT_ORDER``         slots to try, the first first; a slot that must not boot is not in it
``BOOT_<slot>_LEFT``   tries left, hexadecimal; missing: 3, as the boot script does
``BOOT_<slot>_GOOD``   ours: 1 once the slot was marked good; the boot script does not count then (``LEFT`` is not 0)
``BOOT_RESETS``        ours: last resorts taken, hexadecimal
=====================  ============================================================================================

A change goes into the older of two copies: first the data under the flag of an older copy, synced, then the flag that
makes it the newer one, which is one byte. A cut leaves the state before or the state after, whichever sectors landed.
With a single copy there is no such promise, and ``notes`` says so.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bootctl import core, uboot_env
from bootctl.errors import SetupError, StateError
from bootctl.files import Files, RealFiles
from bootctl.model import DEFAULT_TRIES, BootState, Slot
from bootctl.store import failed, lock
from bootctl.uboot_config import Place, parse
from bootctl.uboot_env import Copy

ORDER, RESETS = "BOOT_ORDER", "BOOT_RESETS"
#: The lock U-Boot's own tools take.
TOOLS_LOCK = Path("/var/lock/fw_printenv.lock")

#: Writes bytes at a place of a copy.
_Writer = Callable[[int, bytes], None]


def state_from(variables: Mapping[str, str], slots: Sequence[str], current: str) -> BootState:
    """What the boot script makes of the variables. Without an order it tries all ``slots`` as they stand."""
    names = variables.get(ORDER, "").split() or list(slots)
    order = list(dict.fromkeys(name for name in names if name in slots))
    found = []
    for name in slots:
        left = _hex(variables.get(f"BOOT_{name}_LEFT", str(DEFAULT_TRIES)))
        is_good = variables.get(f"BOOT_{name}_GOOD") == "1" and left > 0 and name in order
        found.append(Slot(name, 0, left, is_good))
    return BootState(core.ordered(found, order), current, _hex(variables.get(RESETS, "0")))


def variables_of(state: BootState, before: Mapping[str, str]) -> dict[str, str | None]:
    """What to set (None: remove) so that ``state_from`` gives ``state``. Slots of others stay in the order, at its end.

    Raises:
        StateError: no slot would be left in the order, which U-Boot cannot store: it would try all.
    """
    ours = [slot.name for slot in sorted(state.slots, key=lambda s: -s.priority) if slot.priority > 0]
    if not ours:
        raise StateError("the order of booting would be empty, which means all slots to the boot script")
    known = {slot.name for slot in state.slots}
    foreign = [name for name in before.get(ORDER, "").split() if name not in known]
    made: dict[str, str | None] = {ORDER: " ".join([*ours, *foreign])}
    for slot in state.slots:
        made[f"BOOT_{slot.name}_LEFT"] = f"{slot.tries:x}"
        made[f"BOOT_{slot.name}_GOOD"] = "1" if slot.successful else None
    made[RESETS] = f"{state.resets:x}" if state.resets else None
    return {name: value for name, value in made.items() if before.get(name) != value}


class UbootStore:
    """See ``Store``."""

    name = "uboot"
    max_tries = core.MAX_TRIES

    def __init__(
        self, places: Sequence[Place], slots: Sequence[str], current: str, files: Files, *, lock_path: Path = TOOLS_LOCK
    ) -> None:
        self._places, self._slots, self._current, self._files = tuple(places), tuple(slots), current, files
        self._lock_path = lock_path if lock_path.parent.is_dir() else places[0].path.parent

    def load(self) -> BootState:
        """See ``Store``."""
        return state_from(self.variables(), self._slots, self._current)

    def save(self, state: BootState) -> None:
        """See ``Store``."""
        copies = self._copies()
        active = self._active(copies)
        changes = variables_of(state, uboot_env.variables(copies[active].data))  # type: ignore[union-attr]  # active is valid
        if changes:
            self._write(copies, active, changes)

    def variables(self) -> dict[str, str]:
        """All variables of the copy that counts. Raises ``BootControlError``."""
        copies = self._copies()
        return uboot_env.variables(copies[self._active(copies)].data)  # type: ignore[union-attr]  # active is valid

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """See ``Store``."""
        return lock(self._files, self._lock_path)

    def notes(self) -> tuple[str, ...]:
        """See ``Store``."""
        if not self._is_redundant:
            return ("there is a single copy of the environment: a power cut while it is written can lose it",)
        valid = [copy is not None for copy in self._copies()]
        if not all(valid) and any(valid):
            return (f"copy {valid.index(False) + 1} of the environment is damaged; the next change repairs it",)
        return ()

    @property
    def _is_redundant(self) -> bool:
        return len(self._places) == 2

    def _copies(self) -> list[Copy | None]:
        found = []
        for place in self._places:
            with self._opened(place) as (content, _):
                found.append(uboot_env.decode(content, is_redundant=self._is_redundant))
        return found

    def _active(self, copies: Sequence[Copy | None]) -> int:
        active = uboot_env.newer(copies[0], copies[1] if self._is_redundant else None)
        if active is None:
            where = " and ".join(str(place.path) for place in self._places)
            raise StateError(f"no valid U-Boot environment in {where} (bad CRC); U-Boot makes a new one when it saves")
        return active

    def _write(self, copies: Sequence[Copy | None], active: int, changes: Mapping[str, str | None]) -> None:
        valid = copies[active]
        assert valid is not None
        data = uboot_env.changed(valid.data, changes)
        if not self._is_redundant:
            self._put(self._places[0], 0, uboot_env.encode(Copy(data, 0), is_redundant=False))
            return
        place = self._places[1 - active]
        older = Copy(data, (valid.flag - 1) % 256)
        self._put(place, 0, uboot_env.encode(older, is_redundant=True))
        self._put(place, 4, bytes(((valid.flag + 1) % 256,)))

    def _put(self, place: Place, start: int, content: bytes) -> None:
        with self._opened(place, is_write=True) as (_, write):
            write(start, content)

    @contextlib.contextmanager
    def _opened(self, place: Place, *, is_write: bool = False) -> Iterator[tuple[bytes, _Writer]]:
        """A copy's bytes and a way to write into it, synced at the end."""
        try:
            self._check_kind(place.path)
            block = self._files.open(place.path)
            try:
                offset = place.offset if place.offset >= 0 else block.size() + place.offset
                content = block.read_at(offset, place.size_bytes) if offset >= 0 and not is_write else b""
                if offset < 0 or (not is_write and len(content) != place.size_bytes):
                    raise SetupError(f"{place.path}: too short for an environment at {place.offset:#x}")
                yield content, lambda start, data: block.write_at(offset + start, data)
                if is_write:
                    block.sync()
            finally:
                block.close()
        except OSError as error:
            raise failed(place.path, error) from error

    def _check_kind(self, path: Path) -> None:
        """Raw flash must be erased before it is written, which only U-Boot's own tools do."""
        if isinstance(self._files, RealFiles) and stat.S_ISCHR(os.stat(path).st_mode):
            raise SetupError(f"{path} is raw flash (MTD); use UBI volumes' block devices, MMC, or U-Boot's own tools")


def open_store(config: Path, slots: Sequence[str], current: str, files: Files) -> UbootStore:
    """The store that ``fw_env.config`` describes; relative paths in it start from its folder.

    Raises:
        BootControlError: it cannot be read or is wrong.
    """
    try:
        text = files.read(config).decode("utf-8", "replace")
    except OSError as error:
        raise failed(config, error) from error
    try:
        places = parse(text, directory=config.absolute().parent)
    except SetupError as error:
        raise SetupError(f"{config}: {error}") from error
    return UbootStore(places, slots, current, files)


def _hex(text: str) -> int:
    """As the boot script's tests read it: what is no number is 0."""
    try:
        return max(0, int(text.strip(), 16))
    except ValueError:
        return 0
