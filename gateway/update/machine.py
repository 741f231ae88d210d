"""What to do next: the update as a state machine without I/O.

Theory of operation. ``decide`` looks at the journal and at the world (``View``) and names one action. The engine does
it and tells how it went by one of the functions below, each of which gives the next journal, which is made durable
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

replace = msgspec.structs.replace


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When to stop trying."""

    failures: int = 3  # of a set, or of downloading
    resumes: int = 10  # restarts in a row in which nothing moved
    starts: int = 5  # of new software, or of going back
    within_s: float = 7 * 86_400.0  # of downloading, and of waiting for conditions


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
        return Start(False, "payloads were put back")
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
        return Start(True, f"slot {new.name} on trial")
    if trial.asks and trial.asked_in_boot != view.boot_id:
        return Bury(new.name, f"slot {new.name} was given up by the boot loader")
    return Activate(target) if view.holding else Stop("failed", "the written slot is gone")


def _switch_payloads(trial: Trial, view: View, limits: Limits) -> Action:
    """Only payloads changed: the gateway is to start again with them."""
    if view.lost_payload:
        return GiveUp(view.lost_payload)
    if trial.asks and trial.asked_in_run != view.run_id:
        return Seen()
    return GiveUp("the gateway could not be restarted") if trial.asks > limits.starts else Start(False, "new payloads")


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
    return Start(True, "back to the old slot") if old or not way_back else GoBack(way_back)


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


# How it went: each gives the next journal


def begun(journal: Journal, update: VerifiedUpdate, key: str, now_ns: int) -> Journal:
    """A new update; ``update`` has only what is not installed yet."""
    stage = Stage.DOWNLOAD if update.targets else Stage.ENDED
    end, detail = ("", "") if update.targets else ("succeeded", "it is installed already")
    return Journal(key=key, update=update, stage=stage, since_ns=now_ns, end=end, detail=detail, is_told=not end)


def refused(journal: Journal, update: VerifiedUpdate, key: str, why: str, now_ns: int) -> Journal:
    """An update that is not for this vehicle ends before it begins."""
    kept = replace(update, targets=(), sets=())
    return Journal(key=key, update=kept, stage=Stage.ENDED, since_ns=now_ns, end="failed", detail=why, is_told=False)


def adopted(journal: Journal, slot: str, boot_id: str, monotonic_ns: int, now_ns: int) -> Journal:
    """A slot on trial that nobody explains is watched like one of ours."""
    trial = Trial(new_slot=slot, boot=boot_id, began_ns=monotonic_ns)
    return Journal(key=journal.key, stage=Stage.TRIAL, since_ns=now_ns, trial=trial)


def advanced(journal: Journal, to: Stage, now_ns: int) -> Journal:
    """To the next stage."""
    if to is Stage.ENDED:
        return _ended(journal, now_ns)
    changes: dict[str, object] = {"stage": to, "since_ns": now_ns}
    if to in (Stage.READY, Stage.INSTALL):
        changes |= {"done": (), "touched": (), "resumes": 0, "trial": Trial()}
    return replace(journal, **changes)


def _ended(journal: Journal, now_ns: int) -> Journal:
    return replace(journal, stage=Stage.ENDED, since_ns=now_ns, done=(), touched=(), is_told=False)


def prepared(journal: Journal, step: Step) -> Journal:
    """A step's files are here."""
    return replace(journal, done=(*journal.done, step.name), resumes=0)


def step_begun(journal: Journal, step: Step) -> Journal:
    """Before a step is carried out: whatever happens, it may have to be put back."""
    if step.name in journal.touched:
        return journal
    return replace(journal, touched=(*journal.touched, step.name))


def step_done(journal: Journal, step: Step, used_delta: bool | None = None) -> Journal:
    """A step is in place."""
    delta = journal.used_delta if used_delta is None else used_delta
    return replace(journal, done=(*journal.done, step.name), resumes=0, used_delta=delta)


def resumed(journal: Journal, moved_bytes: int) -> Journal:
    """The process was started and finds an update under way. ``moved_bytes``: how far the slot is written."""
    if journal.stage is not Stage.INSTALL:
        return journal
    resumes = journal.resumes + 1 if moved_bytes == journal.moved_bytes else 1
    return replace(journal, resumes=resumes, moved_bytes=moved_bytes)


def step_failed(
    journal: Journal, step: Step, detail: str, now_ns: int, limits: Limits, *, attack: str = "", is_final: bool = False
) -> Journal:
    """A step failed for a reason that trying again at once does not cure."""
    failures = journal.failures + 1
    is_over = is_final or failures >= limits.failures
    told = {"failures": failures, "detail": detail, "attack": attack, "failed_ecu": step.ecus[0], "is_told": False}
    if journal.stage is Stage.DOWNLOAD:
        made = replace(journal, **told)
        return _ended(replace(made, end="failed"), now_ns) if is_over else made
    end = "failed" if is_over else ""
    return replace(journal, stage=Stage.RESTORE, since_ns=now_ns, end=end, **told)


def stopped(journal: Journal, end: str, detail: str, now_ns: int) -> Journal:
    """Ends before its time; goes by RESTORE when anything was touched."""
    made = replace(
        journal, end=end, detail=detail if end != "failed" or not journal.detail else f"{detail}; {journal.detail}"
    )
    if journal.stage is Stage.FALLBACK or not journal.touched:
        return _ended(made, now_ns)
    return replace(made, stage=Stage.RESTORE, since_ns=now_ns)


def start_asked(journal: Journal, boot_id: str, run_id: str) -> Journal:
    """Before a reboot or restart is asked for."""
    asks = journal.trial.asks + 1
    return replace(journal, trial=replace(journal.trial, asked_in_boot=boot_id, asked_in_run=run_id, asks=asks))


def slot_chosen(journal: Journal, slots: tuple[str, str]) -> Journal:
    """Before a slot is activated: after a power cut this tells which one it was."""
    return replace(journal, trial=replace(journal.trial, old_slot=slots[0], new_slot=slots[1]))


def trial_begun(journal: Journal, boot_id: str, monotonic_ns: int, now_ns: int) -> Journal:
    """The new software runs, or runs again after another reboot: its time starts with each boot."""
    trial = replace(journal.trial, boot=boot_id, began_ns=monotonic_ns)
    return replace(journal, stage=Stage.TRIAL, since_ns=now_ns, trial=trial)


def given_up(journal: Journal, reason: str, now_ns: int) -> Journal:
    """The trial failed; the reason is kept for the slot that takes over."""
    trial = replace(journal.trial, asks=0)
    return replace(
        journal, stage=Stage.FALLBACK, since_ns=now_ns, end="rolled_back", detail=reason, trial=trial, is_told=False
    )


def buried(journal: Journal, reason: str, now_ns: int) -> Journal:
    """The old slot runs and the new one is unbootable: what else the set changed goes back, too."""
    return replace(journal, stage=Stage.RESTORE, since_ns=now_ns, end="rolled_back", detail=reason, is_told=False)


def confirmed(journal: Journal, now_ns: int) -> Journal:
    """A set is good for ever: the next one, or the end."""
    if journal.set_index + 1 < journal.set_count:
        on = replace(journal, set_index=journal.set_index + 1, failures=0, detail="", attack="", failed_ecu="")
        return replace(advanced(on, Stage.READY, now_ns), is_told=False)
    return _ended(replace(journal, end="succeeded", detail="", attack="", failed_ecu=""), now_ns)


def restored(journal: Journal, step: Step) -> Journal:
    """A step is as it was before. Payloads that the process has loaded since need a restart."""
    was_started = journal.trial.asks > 0 or bool(journal.trial.boot) or bool(journal.trial.new_slot)
    is_payload = step.kind not in (ROOTFS, FIRMWARE)
    return replace(
        journal,
        touched=tuple(name for name in journal.touched if name != step.name),
        restore_failures=0,
        restart_due=journal.restart_due or (is_payload and was_started),
    )


def restore_failed(journal: Journal, step: Step, detail: str, limits: Limits) -> Journal:
    """A step could not be put back; after some tries that is said, and the set is left as it is."""
    failures = journal.restore_failures + 1
    if failures < limits.failures:
        return replace(journal, restore_failures=failures)
    what = f"not whole: {', '.join(step.ecus)} could not be put back ({detail})"
    detail = f"{journal.detail}; {what}" if journal.detail else what
    left = tuple(name for name in journal.touched if name != step.name)
    end = journal.end or "failed"
    return replace(journal, touched=left, detail=detail, end=end, is_told=False, restore_failures=0)


def restarted(journal: Journal) -> Journal:
    """The restart that was due has been asked for."""
    return replace(journal, restart_due=False)


def told(journal: Journal) -> Journal:
    """The cloud has a manifest with this in it."""
    return replace(journal, is_told=True)
