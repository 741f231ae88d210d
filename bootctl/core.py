"""Pure changes of a boot state, and the decision a boot loader takes. No I/O.

Every change keeps this: while the running slot is successful it stays bootable. So a cut between any two changes, or
a machine that never asks again, finds something to boot.

Priorities come out as n, n-1 … 1 in the order of booting, 0 for a slot that must not boot: what every back end can
store, since boot loaders keep an order and not numbers. All changes are idempotent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bootctl.errors import RefusedError
from bootctl.model import DEFAULT_TRIES, BootState, Slot

#: One decimal digit in every boot loader's arithmetic.
MAX_TRIES = 7


def mark_bad(state: BootState, name: str) -> BootState:
    """Never boot ``name``: what is done before it is written.

    Raises:
        RefusedError: it runs, or nothing else is bootable.
        BootControlError: there is no such slot.
    """
    slot = state.slot(name)
    if name == state.current:
        raise RefusedError(f"slot {name} runs; the running slot is never marked bad")
    if [s.name for s in state.order] == [name]:
        raise RefusedError(f"slot {name} is the last bootable one")
    changed = state.with_slot(replace(slot, tries=0, successful=False))
    return _in_order(changed, [s for s in _order(state) if s != name])


def activate(state: BootState, name: str, tries: int = DEFAULT_TRIES) -> BootState:
    """Boot ``name`` next, on trial, before all others, which keep what they are.

    Raises:
        RefusedError: it runs (an update never goes into the running slot), or ``tries`` is out of range.
        BootControlError: there is no such slot.
    """
    slot = state.slot(name)
    if not 1 <= tries <= MAX_TRIES:
        raise RefusedError(f"tries must be 1 to {MAX_TRIES}, not {tries}")
    if name == state.current:
        raise RefusedError(f"slot {name} runs; a trial is for another slot (the way back to a good one is a switch)")
    return _first(state.with_slot(replace(slot, tries=tries, successful=False)), name)


def mark_good(state: BootState) -> BootState:
    """The running slot has proved itself: its tries no longer count. The order stays.

    A running slot that was marked bad meanwhile becomes bootable again, after all others.

    Raises:
        RefusedError: nobody knows which slot runs.
        BootControlError: the running slot is not one of the slots.
    """
    if not state.current:
        raise RefusedError("which slot runs is not known; only the running slot can be marked good")
    slot = state.slot(state.current)
    order = _order(state)
    changed = state.with_slot(replace(slot, tries=DEFAULT_TRIES, successful=True))
    return _in_order(changed, order if slot.name in order else [*order, slot.name])


def switch(state: BootState, name: str) -> BootState:
    """Boot ``name`` next, which is successful already: no trial.

    Raises:
        RefusedError: it is not successful.
        BootControlError: there is no such slot.
    """
    slot = state.slot(name)
    if not (slot.is_bootable and slot.successful):
        raise RefusedError(f"slot {name} was never marked good, or was marked bad; activate it for a trial")
    return _first(state, name)


def rollback(state: BootState) -> BootState:
    """Switch to the best successful slot that is not the running one.

    Raises:
        RefusedError: there is none, or nobody knows which slot runs.
    """
    if not state.current:
        raise RefusedError("which slot runs is not known; name the slot to switch to")
    for slot in state.order:
        if slot.successful and slot.name != state.current:
            return switch(state, slot.name)
    raise RefusedError(f"no other slot was marked good; there is nothing to go back to{_hint(state)}")


def _hint(state: BootState) -> str:
    ahead = state.next
    if ahead is None or ahead.name == state.current or not state.slot(state.current).successful:
        return ""
    return f"; to give up the trial of {ahead.name}, switch to {state.current}"


def decide(state: BootState) -> tuple[str | None, BootState]:
    """What a boot loader boots, and the state it must have stored before it starts the kernel.

    The first slot of the order that is successful (costs nothing) or has tries left (costs one). With none, the last
    resort: every slot that was written whole, which is one of priority above 0, gets its tries back, ``resets`` goes
    up by one, and the choice is made again. Better to try what failed than to stop: what failed may have been a cold
    battery. None only where no slot has a priority: nothing was ever installed.

    Returns:
        The slot, and the state afterwards; ``current`` is that slot.
    """
    if state.next is None:
        state = last_resort(state)
    chosen = state.next
    if chosen is None:
        return None, replace(state, current="")
    if not chosen.successful:
        state = state.with_slot(replace(chosen, tries=chosen.tries - 1))
    return chosen.name, replace(state, current=chosen.name)


def last_resort(state: BootState) -> BootState:
    """The state with all tries given back to the slots that have a priority, and that counted."""
    restored = tuple(replace(s, tries=DEFAULT_TRIES) if s.priority > 0 else s for s in state.slots)
    if not any(s.priority > 0 for s in state.slots):
        return state
    return replace(state, slots=restored, resets=state.resets + 1)


def is_like_new(slot: Slot) -> bool:
    """Whether nothing is known of it: as ``mark_bad`` leaves it."""
    return not (slot.priority or slot.tries or slot.successful)


def ordered(slots: Sequence[Slot], order: Sequence[str]) -> tuple[Slot, ...]:
    """The slots with priorities as their names stand in ``order``; 0 for those that do not."""
    rank = {name: len(order) - place for place, name in enumerate(order)}
    return tuple(replace(slot, priority=rank.get(slot.name, 0)) for slot in slots)


def _order(state: BootState) -> list[str]:
    """All with a priority, exhausted ones, too."""
    return [s.name for s in sorted(state.slots, key=lambda s: -s.priority) if s.priority > 0]


def _in_order(state: BootState, order: Sequence[str]) -> BootState:
    return replace(state, slots=ordered(state.slots, order))


def _first(state: BootState, name: str) -> BootState:
    return _in_order(state, [name, *(other for other in _order(state) if other != name)])
