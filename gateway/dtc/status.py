"""The status byte: what a verdict, a new operation cycle and a clear do to it (ISO 14229-1, annex D.2).

| bit | set | reset |
|---|---|---|
| 0 testFailed | test failed | test passed, clear |
| 1 testFailedThisOperationCycle | test failed | cycle start, clear |
| 2 pendingDTC | test failed | cycle start, if the test ran in the cycle before and never failed in it; clear |
| 3 confirmedDTC | failed in N cycles, none tested good between, and the memory has room | aging, displacement, clear |
| 4 testNotCompletedSinceLastClear | clear | test passed or failed |
| 5 testFailedSinceLastClear | test failed | clear only |
| 6 testNotCompletedThisOperationCycle | cycle start, clear | test passed or failed |
| 7 warningIndicatorRequested | with bit 3, if there is a lamp | M tested cycles without a failure; with bit 3; clear |

What happens between two cycles is judged at the start of the next one, so that a cycle cut off by a power cut is
judged by what it has left in memory. testFailed outlives the cycle: it is the last result, however old.
"""

from __future__ import annotations

from gateway.dtc.model import CLEARED, Definition, DtcState
from gateway.wire.dtc import Status

TF, TFTOC, PENDING, CONFIRMED = 0x01, 0x02, 0x04, 0x08
NCSLC, FSLC, NCTOC, LAMP = 0x10, 0x20, 0x40, 0x80
assert tuple(Status) == (TF, TFTOC, PENDING, CONFIRMED, NCSLC, FSLC, NCTOC, LAMP)

_SATURATED = 255


def failed(state: DtcState, definition: Definition) -> bool:
    """The test failed. Returns whether it is due to be confirmed; ``confirm`` does that once it is stored."""
    if not state.status & TFTOC:
        state.trips = min(_SATURATED, state.trips + 1)
        state.good_cycles = 0
    state.status = state.status & ~(NCSLC | NCTOC) | TF | TFTOC | PENDING | FSLC
    return state.trips >= definition.confirm_cycles


def confirm(state: DtcState, definition: Definition) -> None:
    """The DTC is in long-term memory now, and its lamp burns if it has one."""
    state.status |= CONFIRMED | (LAMP if definition.lamp else 0)
    if definition.emissions and definition.lamp:
        state.permanent, state.permanent_cleared = True, False


def passed(state: DtcState) -> None:
    """The test ran to its end and found nothing."""
    state.status &= ~(TF | NCSLC | NCTOC)


def next_cycle(state: DtcState, definition: Definition, *, warmed_up: bool) -> bool:
    """Judge the cycle that ended and begin the next. Returns whether the DTC has aged and must be forgotten."""
    was_tested, had_failed = not state.status & NCTOC, bool(state.status & TFTOC)
    had_lamp, has_aged = bool(state.status & LAMP), False
    if was_tested and not had_failed:
        state.status &= ~PENDING
        state.trips = 0
        if had_lamp:
            state.good_cycles += 1
            if state.good_cycles >= definition.healing_cycles:
                state.good_cycles = 0
                state.status &= ~LAMP
        if state.permanent and (state.permanent_cleared or not state.status & LAMP):
            state.permanent = state.permanent_cleared = False
    if state.entry is not None:
        state.entry.cycles_since_first = min(_SATURATED, state.entry.cycles_since_first + 1)
        state.entry.cycles_since_last = 0 if had_failed else min(_SATURATED, state.entry.cycles_since_last + 1)
        if had_failed or state.status & (TF | LAMP) or had_lamp or not state.status & CONFIRMED:
            pass
        elif warmed_up and (was_tested or not definition.aging_tested):
            state.entry.aging += 1
            has_aged = state.entry.aging >= definition.aging_cycles
    state.status = state.status & ~TFTOC | NCTOC
    return has_aged


def age_out(state: DtcState) -> None:
    """It was good for so long that it is forgotten; testFailedSinceLastClear stays."""
    state.entry = None
    state.trips = 0
    state.status &= ~(PENDING | CONFIRMED | LAMP)


def displace(state: DtcState) -> None:
    """Its place in long-term memory went to another DTC."""
    state.entry = None
    state.status &= ~(CONFIRMED | LAMP)


def clear(state: DtcState) -> DtcState:
    """The state after ClearDiagnosticInformation; a permanent DTC stays one until its test has passed."""
    return DtcState(state.code, CLEARED, permanent=state.permanent, permanent_cleared=state.permanent)
