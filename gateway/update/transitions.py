"""How it went: each function gives the next journal after something that ``machine.decide`` named was done.

Pure. The engine makes the journal durable before it acts on it.
"""

from __future__ import annotations

import msgspec

from gateway.update.journal import Journal, Stage, Trial
from gateway.update.model import VerifiedUpdate
from gateway.update.plan import FIRMWARE, ROOTFS, Step

replace = msgspec.structs.replace


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When to stop trying."""

    failures: int = 3  # of a set, or of downloading
    resumes: int = 10  # restarts in a row in which nothing moved
    starts: int = 5  # of new software, or of going back
    within_s: float = 7 * 86_400.0  # of downloading, and of waiting for conditions


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


def clock_jumped(journal: Journal, by_ns: int) -> Journal:
    """The clock was set while this stage lasts: as much time has passed in it as before."""
    return replace(journal, since_ns=journal.since_ns + by_ns)


def told(journal: Journal) -> Journal:
    """The cloud has a manifest with this in it."""
    return replace(journal, is_told=True)
