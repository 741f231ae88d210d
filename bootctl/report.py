"""How a boot state is shown: aligned text for people, plain data for machines. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from bootctl.model import BootState, Slot


def as_data(backend: str, state: BootState, notes: Sequence[str] = ()) -> dict[str, object]:
    """For ``--json``; these names stay."""
    return {
        "backend": backend,
        "current": state.current or None,
        "next": state.next.name if state.next else None,
        "resets": state.resets,
        "notes": list(notes),
        "slots": [
            {
                "name": slot.name,
                "state": word(slot),
                "priority": slot.priority,
                "tries": slot.tries,
                "successful": slot.successful,
                "bootable": slot.is_bootable,
            }
            for slot in state.slots
        ],
    }


def word(slot: Slot) -> str:
    """One word for what a slot is."""
    if slot.is_bootable:
        return "good" if slot.successful else "trial"
    return "exhausted" if slot.priority > 0 else "bad"


def as_text(backend: str, state: BootState, notes: Sequence[str] = ()) -> list[str]:
    """For people."""
    upcoming = state.next.name if state.next else "none: the boot loader gives all tries back"
    lines = [f"back end  {backend}", f"running   {state.current or 'not known'}", f"next      {upcoming}"]
    if state.resets:
        lines.append(f"resets    {state.resets} (nothing was bootable; all tries were given back)")
    wide = max(4, *(len(slot.name) for slot in state.slots))
    lines += ["", f"{'slot':<{wide}}  state      priority  tries"]
    for slot in state.slots:
        tries = "-" if slot.successful else str(slot.tries)
        lines.append(f"{slot.name:<{wide}}  {word(slot):<9}  {slot.priority:>8}  {tries:>5}")
    return lines + [f"note: {note}" for note in notes]


def differences(before: BootState, after: BootState) -> list[str]:
    """What a change changes, a line each; empty when nothing."""
    lines = []
    for old, new in zip(before.slots, after.slots, strict=True):
        if (word(old), old.tries) != (word(new), new.tries):
            lines.append(f"slot {old.name}: {_told(old)} -> {_told(new)}")
    old_order, new_order = (" ".join(s.name for s in state.order) or "none" for state in (before, after))
    if old_order != new_order:
        lines.append(f"order of booting: {old_order} -> {new_order}")
    if lines or before == after:
        return lines
    return ["order of slots that cannot boot now"]


def _told(slot: Slot) -> str:
    return f"{word(slot)}, {slot.tries} tries" if word(slot) == "trial" else word(slot)
