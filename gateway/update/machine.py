"""What to do next: the update as a state machine without I/O.

Theory of operation. ``decide`` looks at the journal and at the world (``View``) and names one action. The engine does
it and tells how it went by one of ``transitions``, each of which gives the next journal, which is made durable
before anything else happens. Every action may be repeated: after a power cut the journal is the one before the action,
``decide`` names it again, and whoever carries it out goes on or finds that it is done. So there is no recovery code
beside the normal one.

    IDLE ─ begin ▶ DOWNLOAD ▶ READY ▶ INSTALL ─▶ SWITCH ▶ TRIAL ─▶ CONFIRM ─▶ READY (next set) or ENDED succeeded
                      │        │        │  └ only ECUs ────────────▲
                      │        │        ▼                  │ not well
                      ▼        ▼     RESTORE ◀─ FALLBACK ◀─┘
                  ENDED cancelled, failed   └▶ READY (again), ENDED cancelled, failed, rolled_back

What is never undone: once a set is confirmed it stays. What is never left half: a set, since RESTORE comes before every
end that is reached in the middle of one. What never happens for ever: failures, restarts without progress, reboots and
waiting are each counted or timed, durably.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from bootctl.model import BootControlError, BootState, Slot
from gateway.update.journal import CANCELLABLE, Journal, Stage, Trial
from gateway.update.model import VerifiedTarget, VerifiedUpdate
from gateway.update.plan import FIRMWARE, ROOTFS, Step, update_key
from gateway.update.transitions import Limits as Limits  # a part of this interface


class Health(msgspec.Struct, frozen=True):
    """The verdict on what runs on trial. ``is_over`` without ``missing``: it is well."""

    is_over: bool
    missing: str = ""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The world at one moment, as far as decisions need it."""

    now_ns: int  # UTC
    boot_id: str  # of the kernel
    run_id: str  # of this process
    wanted: VerifiedUpdate | None  # what was verified last; None: nothing since the start
    boot: BootState | None  # None: no slots here
    holding: str | None = None  # the other slot that holds the present set's image
    link_missing: str = ""  # why big files must not be fetched now
    policy_missing: str = ""  # window, consent, not before
    conditions_missing: str = ""  # the vehicle's own
    is_late: bool = False  # after the deadline
    lost_payload: str = ""  # a payload on trial that was put back before the gateway started
    health: Health = Health(False)
    is_cancelled: bool = False  # by a person, here


@dataclass(frozen=True, slots=True)
class Rest:
    """There is nothing to do."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Something is missing; ``detail`` says what."""

    detail: str


@dataclass(frozen=True, slots=True)
class Begin:
    """A new update."""

    update: VerifiedUpdate


@dataclass(frozen=True, slots=True)
class Adopt:
    """The running slot is on trial and no update of ours explains it: it has to prove itself all the same."""


@dataclass(frozen=True, slots=True)
class Advance:
    """Nothing is left to do in this stage."""

    to: Stage


@dataclass(frozen=True, slots=True)
class Prepare:
    """Fetch what a step needs."""

    step: Step


@dataclass(frozen=True, slots=True)
class Install:
    """Carry a step out."""

    step: Step


@dataclass(frozen=True, slots=True)
class Activate:
    """Boot the new slot next."""

    target: VerifiedTarget


@dataclass(frozen=True, slots=True)
class Start:
    """Reboot, or restart the gateway where only payloads changed, so that something else runs."""

    is_reboot: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Seen:
    """The new software runs for the first time: the trial begins."""


@dataclass(frozen=True, slots=True)
class MarkGood:
    """It has proved itself."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It has not."""

    reason: str


@dataclass(frozen=True, slots=True)
class RaiseCounters:
    """No way back below these any more."""

    targets: tuple[VerifiedTarget, ...]


@dataclass(frozen=True, slots=True)
class GoBack:
    """Boot the old slot next."""

    slot: str


@dataclass(frozen=True, slots=True)
class Bury:
    """The old slot runs again: the new one is never to boot."""

    slot: str
    reason: str


@dataclass(frozen=True, slots=True)
class Restore:
    """Put a step back."""

    step: Step


@dataclass(frozen=True, slots=True)
class Stop:
    """End it before its time: what was changed is put back first."""

    end: str
    detail: str


Action = (
    Rest | Wait | Begin | Adopt | Advance | Prepare | Install | Activate | Start | Seen | MarkGood | GiveUp
    | RaiseCounters | GoBack | Bury | Restore | Stop
)  # fmt: skip


def decide(journal: Journal, view: View, limits: Limits) -> Action:
    """The one thing to do now."""
    if not journal.is_open:
        return _when_idle(journal, view)
    if journal.stage in CANCELLABLE and (why := _why_cancelled(journal, view)):
        return Stop("cancelled", why)
    return _DECISIONS[journal.stage](journal, view, limits)


def _when_idle(journal: Journal, view: View) -> Action:
    if journal.restart_due:
        return _start(view, Start(False, "payloads were put back"))
    if view.boot is not None and (slot := _running(view.boot)) is not None and slot.is_on_trial:
        return Adopt()
    wanted = view.wanted
    if wanted is None or not wanted.targets or update_key(wanted) == journal.key:
        return Rest()
    return Begin(wanted)


def _why_cancelled(journal: Journal, view: View) -> str:
    if view.is_cancelled:
        return "cancelled in the vehicle"
    if view.wanted is not None and update_key(view.wanted) != journal.key:
        return "withdrawn by the cloud" if not view.wanted.targets else "the cloud wants something else"
    return ""


def _download(journal: Journal, view: View, limits: Limits) -> Action:
    missing = [step for step in journal.all_steps if step.name not in journal.done]
    if not missing:
        return Advance(Stage.READY)
    if _has_waited(journal, view, limits):
        return Stop("failed", "it could not be downloaded in time")
    return Wait(view.link_missing) if view.link_missing else Prepare(missing[0])


def _ready(journal: Journal, view: View, limits: Limits) -> Action:
    if view.wanted is None:
        return Wait("the metadata has to be verified again")
    if view.is_late:
        return Stop("failed", "the time to begin is over")
    missing = view.policy_missing or view.conditions_missing
    if missing and _has_waited(journal, view, limits):
        return Stop("failed", f"waited too long: {missing}")
    return Wait(missing) if missing else Advance(Stage.INSTALL)


def _install(journal: Journal, view: View, limits: Limits) -> Action:
    left = [step for step in journal.steps if step.name not in journal.done]
    if view.wanted is None:
        return Wait("the metadata has to be verified again")
    if _has_waited(journal, view, limits):
        return Stop("failed", "it could not be installed in time")
    if journal.resumes > limits.resumes:
        return Stop("failed", f"{limits.resumes} restarts without progress")
    if not left and all(step.kind == FIRMWARE for step in journal.steps):
        return Advance(Stage.CONFIRM)
    if view.conditions_missing:
        return Wait(view.conditions_missing)
    return Install(left[0]) if left else Advance(Stage.SWITCH)


def _switch(journal: Journal, view: View, limits: Limits) -> Action:
    trial = journal.trial
    if journal.rootfs is None:
        return _switch_payloads(trial, view, limits)
    boot, target = view.boot, journal.rootfs
    if boot is None:
        return Stop("failed", "there are no slots")
    new = _slot(boot, trial.new_slot)
    if new is None:
        return Activate(target) if view.holding else Stop("failed", "the written slot is gone")
    if boot.current == new.name:
        return Seen()
    if trial.asks and _is_spent(new):
        return Bury(new.name, f"slot {new.name} did not come up in its tries")
    if trial.asks > limits.starts:
        return Bury(new.name, f"slot {new.name} was not booted when asked {limits.starts} times")
    if boot.next is not None and boot.next.name == new.name:
        return _start(view, Start(True, f"slot {new.name} on trial"))
    if trial.asks and trial.asked_in_boot != view.boot_id:
        return Bury(new.name, f"slot {new.name} was given up by the boot loader")
    return Activate(target) if view.holding else Stop("failed", "the written slot is gone")


def _switch_payloads(trial: Trial, view: View, limits: Limits) -> Action:
    """Only payloads changed: the gateway is to start again with them."""
    if view.lost_payload:
        return GiveUp(view.lost_payload)
    if trial.asks and trial.asked_in_run != view.run_id:
        return Seen()
    if trial.asks > limits.starts:
        return GiveUp("the gateway could not be restarted")
    return _start(view, Start(False, "new payloads"))


def _trial(journal: Journal, view: View, limits: Limits) -> Action:
    new = journal.trial.new_slot
    if new and view.boot is not None:
        if view.boot.current != new:
            return Bury(new, f"slot {new} did not stay up on trial")
        running = _running(view.boot)
        if running is not None and running.successful:
            return Advance(Stage.CONFIRM)
    if journal.trial.boot != view.boot_id:
        return Seen()
    if view.lost_payload:
        return GiveUp(view.lost_payload)
    if not view.health.is_over:
        return Wait(view.health.missing)
    if not view.health.missing:
        return MarkGood()
    if new and view.boot is not None and not _way_back(view.boot, new):
        return Wait(f"not well, and there is no slot to go back to: {view.health.missing}")
    return GiveUp(view.health.missing)


def _confirm(journal: Journal, view: View, limits: Limits) -> Action:
    return RaiseCounters(journal.targets)


def _fallback(journal: Journal, view: View, limits: Limits) -> Action:
    trial, boot = journal.trial, view.boot
    if not trial.new_slot or boot is None:
        return Advance(Stage.RESTORE)
    if boot.current != trial.new_slot:
        return Bury(trial.new_slot, journal.detail)
    if trial.asks > limits.starts:
        return Stop("failed", f"{journal.detail}; and there is no way back")
    old = boot.next is not None and boot.next.name != trial.new_slot
    way_back = _way_back(boot, trial.new_slot)
    return _start(view, Start(True, "back to the old slot")) if old or not way_back else GoBack(way_back)


def _restore(journal: Journal, view: View, limits: Limits) -> Action:
    left = [step for step in journal.steps if step.name in journal.touched and step.kind != ROOTFS]
    return Restore(left[-1]) if left else Advance(Stage.ENDED if journal.end else Stage.READY)


_DECISIONS = {
    Stage.DOWNLOAD: _download,
    Stage.READY: _ready,
    Stage.INSTALL: _install,
    Stage.SWITCH: _switch,
    Stage.TRIAL: _trial,
    Stage.CONFIRM: _confirm,
    Stage.FALLBACK: _fallback,
    Stage.RESTORE: _restore,
}


def _start(view: View, start: Start) -> Action:
    """Never against the vehicle's conditions, not even to go back: who drives needs a gateway, if an unwell one.

    What boots next is settled before, so the next turn of the key does it anyway.
    """
    return Wait(view.conditions_missing) if view.conditions_missing else start


def _has_waited(journal: Journal, view: View, limits: Limits) -> bool:
    return view.now_ns - journal.since_ns > limits.within_s * 1e9


def _running(boot: BootState) -> Slot | None:
    return _slot(boot, boot.current)


def _slot(boot: BootState, name: str) -> Slot | None:
    try:
        return boot.slot(name)
    except BootControlError:
        return None


def _way_back(boot: BootState, bad: str) -> str:
    """The best other slot that has proved itself; "" when there is none."""
    return next((slot.name for slot in boot.order if slot.successful and slot.name != bad), "")


def _is_spent(slot: Slot) -> bool:
    """All tries used: it was activated and did not come up. A slot that was only marked bad has no priority."""
    return slot.priority > 0 and not slot.successful and slot.tries <= 0
