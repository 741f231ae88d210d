"""How far the present update is: one durable record, changed with each transition, and all that a restart needs."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gateway.update.model import VerifiedTarget, VerifiedUpdate
from gateway.update.plan import ROOTFS, Step, set_count, set_targets, steps_of


class Stage(StrEnum):
    """Where an update is; docs/reference/update-states.md draws them."""

    IDLE = "idle"
    DOWNLOAD = "download"  # of everything that must be here before anything changes
    READY = "ready"  # waiting for conditions, window and consent
    INSTALL = "install"  # the steps of one set
    SWITCH = "switch"  # the new software is to be started: slot activated, reboot asked for
    TRIAL = "trial"  # it runs, and has to prove itself
    CONFIRM = "confirm"  # it is good: counters go up
    FALLBACK = "fallback"  # it is not: back to the old slot
    RESTORE = "restore"  # what was changed besides the slot is put back
    ENDED = "ended"


#: Nothing that runs was changed for good: the Director may change its mind.
CANCELLABLE = (Stage.DOWNLOAD, Stage.READY, Stage.INSTALL)


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What was started on trial, and since when."""

    old_slot: str = ""  # "": no slot is switched, only payloads
    new_slot: str = ""
    asked_in_boot: str = ""  # the kernel's boot id when the start was asked for
    asked_in_run: str = ""  # the same for the gateway's process
    asks: int = 0  # how often
    boot: str = ""  # the boot id in which it was first seen running
    began_ns: int = 0  # monotonic, in that boot


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """The record. ``update`` has only what is to be changed; ``key`` is that of the whole."""

    key: str = ""
    update: VerifiedUpdate = VerifiedUpdate()
    stage: Stage = Stage.IDLE
    set_index: int = 0
    since_ns: int = 0  # UTC: when this stage began
    done: tuple[str, ...] = ()  # steps of this set, or in DOWNLOAD of all sets, that are finished
    touched: tuple[str, ...] = ()  # steps of this set that were begun and have to be put back
    failures: int = 0  # of this set
    resumes: int = 0  # restarts in a row in which nothing moved
    moved_bytes: int = 0  # how far the slot was written at the last of them
    restore_failures: int = 0  # of the step that is being put back
    trial: Trial = Trial()
    end: str = ""  # after RESTORE, or now in ENDED: one of the last four ``UPDATE_STATES``; "": try again
    detail: str = ""
    attack: str = ""
    failed_ecu: str = ""
    restart_due: bool = False  # the process uses payloads that were put back
    is_told: bool = True  # a vehicle manifest was accepted since the last change worth one (N9)
    used_delta: bool | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is something under way."""
        return self.stage not in (Stage.IDLE, Stage.ENDED)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the present set."""
        return steps_of(self.update, self.set_index) if self.set_index < self.set_count else ()

    @property
    def all_steps(self) -> tuple[Step, ...]:
        """The steps of all sets."""
        return tuple(step for index in range(self.set_count) for step in steps_of(self.update, index))

    @property
    def set_count(self) -> int:
        """How many sets the update has."""
        return set_count(self.update)

    @property
    def targets(self) -> tuple[VerifiedTarget, ...]:
        """The targets of the present set."""
        return set_targets(self.update, self.set_index) if self.set_index < self.set_count else ()

    @property
    def rootfs(self) -> VerifiedTarget | None:
        """The present set's root file system."""
        return next((t for t in self.targets if t.must_match.kind == ROOTFS), None)
