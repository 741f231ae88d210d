"""Boot states as core leaves them, drawn."""

from __future__ import annotations

from hypothesis import strategies as st

from bootctl import core
from bootctl.model import BootState, Slot

NAMES = ("A", "B", "C")


@st.composite
def states(draw: st.DrawFn, *, resets: bool = True) -> BootState:
    """Two or three slots in any order, at least one of them with a priority."""
    names = NAMES[: draw(st.integers(2, 3))]
    order = draw(st.permutations(names))[: draw(st.integers(1, len(names)))]
    slots = []
    for name in names:
        good = name in order and draw(st.booleans())
        tries = 0 if name not in order else draw(st.integers(1 if good else 0, core.MAX_TRIES))
        slots.append(Slot(name, 0, tries, good))
    current = draw(st.sampled_from(("", *names)))
    return BootState(core.ordered(slots, order), current, draw(st.integers(0, 40)) if resets else 0)
