"""Slots, their tries, and which one boots: the vocabulary of the Android boot control HAL on every boot loader.

The rule of booting: of the slots in order of priority, the first that is successful or has tries left. A slot's tries
are counted down by the boot loader, before the kernel starts, and only while it is on trial: booting a successful slot
costs nothing, however often the driver turns the key. A slot that is not bootable has priority 0.

Nothing here does I/O; back ends turn a ``BootState`` into what their boot loader reads, with one atomic write a change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

DEFAULT_TRIES = 3
MAX_PRIORITY = 15


class BootControlError(Exception):
    """The boot state cannot be read or written, or the change asked for makes no sense; the text says which."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot as the boot loader sees it."""

    name: str  # "A", "B"
    priority: int  # 0: unbootable
    tries: int  # left; counts only while not successful
    successful: bool

    @property
    def is_bootable(self) -> bool:
        """Whether the boot loader may take it."""
        return self.priority > 0 and (self.successful or self.tries > 0)

    @property
    def is_on_trial(self) -> bool:
        """Whether it may boot but has yet to prove itself."""
        return self.is_bootable and not self.successful


@dataclass(frozen=True, slots=True)
class BootState:
    """All slots, and the one that runs; ``current`` is "" where that is not known (a host looking at a disk)."""

    slots: tuple[Slot, ...]
    current: str
    resets: int = 0  # how often nothing was bootable and the boot loader gave all tries back

    def slot(self, name: str) -> Slot:
        """The slot of that name. Raises ``BootControlError``."""
        for slot in self.slots:
            if slot.name == name:
                return slot
        known = ", ".join(slot.name for slot in self.slots)
        raise BootControlError(f"there is no slot {name!r} ({known})")

    @property
    def order(self) -> tuple[Slot, ...]:
        """Bootable slots, the one to boot next first."""
        return tuple(sorted((s for s in self.slots if s.is_bootable), key=lambda s: -s.priority))

    @property
    def next(self) -> Slot | None:
        """What boots next; None: the boot loader's last resort."""
        return self.order[0] if self.order else None

    @property
    def inactive(self) -> Slot:
        """The slot an update may write: not the running one. With several, that of the lowest priority.

        Raises:
            BootControlError: there is only one slot, or nobody knows which one runs.
        """
        if not self.current:
            raise BootControlError("which slot runs is not known")
        others = [slot for slot in self.slots if slot.name != self.current]
        if not others:
            raise BootControlError("there is only one slot")
        return min(others, key=lambda s: s.priority)

    def with_slot(self, slot: Slot) -> BootState:
        """The same with one slot changed."""
        return replace(self, slots=tuple(slot if s.name == slot.name else s for s in self.slots))


class BootControl(Protocol):
    """A boot loader's state. Every change is one atomic, durable write; all are idempotent."""

    name: str  # of the back end: "uboot", "grub", "efi", "file"

    def read(self) -> BootState:
        """The state now. Raises ``BootControlError``."""

    def mark_bad(self, slot: str) -> None:
        """Never boot it: before it is written. Refused for the running slot and for the last bootable one.

        Raises:
            BootControlError: refused, or not written.
        """

    def activate(self, slot: str, tries: int = DEFAULT_TRIES) -> None:
        """Boot it next, on trial, before all others, which keep what they are. Raises ``BootControlError``."""

    def mark_good(self) -> None:
        """The running slot has proved itself: tries no longer count. Raises ``BootControlError``."""

    def switch(self, slot: str) -> None:
        """Boot a slot next that is successful already: the way back. Raises ``BootControlError``: it is not."""
