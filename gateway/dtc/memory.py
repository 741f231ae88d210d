"""The fault memory: test results in, status bytes, entries and changes out. A core without I/O.

Every defined DTC has a status byte always; long-term memory (``Entry``: environment at the first and the most recent
failure, counters) has room for ``max_entries``. A DTC is confirmed only while it has an entry. When the memory is full
a new failure takes the place of the least worthy entry (``_worth``), unless all are worth more; then it goes without
and ``overflows`` counts it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import msgspec

from gateway.dtc import status as rules
from gateway.dtc.debounce import Debouncer
from gateway.dtc.model import (
    ALL_GROUPS,
    CLEARED,
    EMISSIONS_GROUP,
    Capture,
    Change,
    Definition,
    DtcState,
    Entry,
    TestResult,
)
from gateway.errors import PeerError

_SATURATED = 255


class UnknownGroupError(PeerError):
    """No DTC, group or memory of that number."""


class MemoryImage(msgspec.Struct, frozen=True, array_like=True):
    """What of a memory survives a power cut. In a journal ``states`` holds only those that changed."""

    states: tuple[DtcState, ...]
    order: int = 0
    is_cycle_running: bool = False
    cycles: int = 0
    overflows: int = 0


class FaultMemory:
    """All DTCs of one ECU.

    Args:
        definitions: no two of one code.
        max_entries: room for entries of primary and user-defined memories together.
        capture: the environment of a failure; called when a test fails that did not fail before.
    """

    def __init__(self, definitions: Iterable[Definition], *, capture: Capture, max_entries: int = 64) -> None:
        self.definitions: dict[int, Definition] = {}
        for definition in sorted(definitions, key=lambda d: d.code):
            if definition.code in self.definitions:
                raise ValueError(f"two definitions of DTC {definition.code:06X}")
            self.definitions[definition.code] = definition
        self.max_entries = max_entries
        self.overflows = 0  # failures that found no room
        self.cycles = 0  # operation cycles begun
        self.is_cycle_running = False
        self._capture = capture
        self._states = {code: DtcState(code) for code in self.definitions}
        self._debouncers = {code: Debouncer(d.debounce) for code, d in self.definitions.items()}
        self._cycle_max_fdc = dict.fromkeys(self.definitions, 0)
        self._order = 0
        self._frozen_by: set[str] = set()
        self._warmed_up = True
        self._changes: dict[int, Change] = {}
        self._dirty: set[int] = set()

    # -- results ------------------------------------------------------------------------------------------------

    def report(self, code: int, result: TestResult, now_ns: int) -> None:
        """Take in one test result. Ignored while no cycle runs or DTC setting is off.

        ``now_ns`` is monotonic, for debouncing by time.

        Raises:
            KeyError: no such DTC.
        """
        debouncer = self._debouncers[code]
        if not self.is_cycle_running or self._frozen_by:
            return
        verdict = debouncer.take(result, now_ns)
        state = self._states[code]
        reached = debouncer.fault_detection
        if reached > self._cycle_max_fdc[code]:
            self._cycle_max_fdc[code] = reached
            if reached > state.max_fdc:
                state.max_fdc = reached
        if verdict is True:
            if not state.status & rules.TF or not state.status & rules.TFTOC or self._lacks_entry(state):
                self._fail(state, self.definitions[code])
        elif verdict is False and state.status & (rules.TF | rules.NCSLC | rules.NCTOC):
            before = state.status
            rules.passed(state)
            self._changed(state, before)

    def _lacks_entry(self, state: DtcState) -> bool:
        """Room may have come since it failed."""
        return state.entry is None and self._has_room_for(state)

    def _fail(self, state: DtcState, definition: Definition) -> None:
        before = state.status
        is_new_failure = not before & rules.TF
        is_new_in_cycle = not before & rules.TFTOC
        is_due = rules.failed(state, definition)
        self._order += 1
        if is_new_failure or is_new_in_cycle:
            state.first_failed = state.first_failed or self._order
            state.last_failed = self._order
        self._remember(state, definition, is_new_failure=is_new_failure, is_new_in_cycle=is_new_in_cycle)
        if is_due and state.entry is not None:
            if not state.status & rules.CONFIRMED:
                state.first_confirmed = state.first_confirmed or self._order
                state.last_confirmed = self._order
            rules.confirm(state, definition)
        self._changed(state, before)

    def _remember(
        self, state: DtcState, definition: Definition, *, is_new_failure: bool, is_new_in_cycle: bool
    ) -> None:
        entry = state.entry
        if entry is None:
            if not self._make_room(state):
                self.overflows += 1
                return
            here = self._capture(definition)
            state.entry = Entry(here, here, self._order)
            return
        if is_new_failure:
            entry.last = self._capture(definition)
            entry.last_order = self._order
            entry.occurrences = min(_SATURATED, entry.occurrences + 1)
        if is_new_in_cycle:
            entry.failed_cycles = min(_SATURATED, entry.failed_cycles + 1)
        entry.cycles_since_last = entry.aging = 0

    def _worth(self, state: DtcState) -> tuple[int, bool, bool, int]:
        """Ascending: the first to go. Importance, then confirmed, then failing now, then how recently it failed."""
        assert state.entry is not None
        is_confirmed, is_active = bool(state.status & rules.CONFIRMED), bool(state.status & rules.TF)
        return -self.definitions[state.code].priority, is_confirmed, is_active, state.entry.last_order

    def _victim(self, newcomer: DtcState) -> DtcState | None:
        stored = [s for s in self._states.values() if s.entry is not None]
        victim = min(stored, key=self._worth)
        theirs, ours = self.definitions[victim.code].priority, self.definitions[newcomer.code].priority
        if ours > theirs or (ours == theirs and victim.status & rules.CONFIRMED and victim.status & rules.TF):
            return None
        return victim

    def _has_room_for(self, state: DtcState) -> bool:
        return self.entries < self.max_entries or self._victim(state) is not None

    def _make_room(self, newcomer: DtcState) -> bool:
        if self.entries < self.max_entries:
            return True
        victim = self._victim(newcomer)
        if victim is None:
            return False
        before = victim.status
        rules.displace(victim)
        self._changed(victim, before)
        return True

    # -- cycles -------------------------------------------------------------------------------------------------

    def start_cycle(self) -> None:
        """An operation cycle begins. The one before is judged now: pending, lamp, aging (ISO 14229-1, D.2)."""
        for code, state in self._states.items():
            before, definition = state.status, self.definitions[code]
            if self.cycles and rules.next_cycle(state, definition, warmed_up=self._warmed_up):
                rules.age_out(state)
                state.aged = min(_SATURATED, state.aged + 1)
            elif not self.cycles:
                state.status = state.status & ~rules.TFTOC | rules.NCTOC
            if state.entry is not None and not state.status & (rules.TF | rules.PENDING | rules.CONFIRMED):
                state.entry = None
            self._debouncers[code].reset()
            self._cycle_max_fdc[code] = 0
            self._dirty.add(code)
            self._changed(state, before)
        self.is_cycle_running = True
        self.cycles += 1

    def end_cycle(self) -> None:
        """The operation cycle is over; results are ignored until the next."""
        if self.is_cycle_running:
            self.is_cycle_running = False
            self._dirty.update(self._states)

    def set_warmed_up(self, warmed_up: bool) -> None:
        """Whether the running cycle counts as a warm-up cycle for aging. Unless told, every cycle does."""
        self._warmed_up = warmed_up

    # -- services -----------------------------------------------------------------------------------------------

    def clear(self, group: int = ALL_GROUPS, *, memory: int | None = None, by: str = "") -> int:
        """ClearDiagnosticInformation: all, the emissions-related ones, or one DTC. Returns how many were cleared.

        Works while DTC setting is off (ISO 14229-1, service 0x85).

        Raises:
            UnknownGroupError: no such group, DTC or memory.
        """
        chosen = [d for d in self.definitions.values() if d.memory == memory]
        if group == EMISSIONS_GROUP:
            chosen = [d for d in chosen if d.emissions]
        elif group != ALL_GROUPS:
            chosen = [d for d in chosen if d.code == group]
        if not chosen and not (group == ALL_GROUPS and memory is None):
            raise UnknownGroupError(f"no DTC or group {group:06X}")
        for definition in chosen:
            code = definition.code
            before = self._states[code].status
            self._states[code] = rules.clear(self._states[code])
            self._debouncers[code].reset()
            self._cycle_max_fdc[code] = 0
            self._dirty.add(code)
            earlier = self._changes.get(code)
            previous = before if earlier is None else earlier.previous
            self._changes[code] = Change(code=code, previous=previous, status=CLEARED, kind="cleared", by=by)
        return len(chosen)

    def set_updates(self, enabled: bool, *, by: str = "") -> None:
        """ControlDTCSetting on or off, for each who asks: updates run while nobody holds them off."""
        if enabled:
            self._frozen_by.discard(by)
            return
        self._frozen_by.add(by)
        for debouncer in self._debouncers.values():
            debouncer.reset()

    @property
    def is_updating(self) -> bool:
        """False while DTC setting is off."""
        return not self._frozen_by

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def entries(self) -> int:
        """Entries in long-term memory."""
        return sum(s.entry is not None for s in self._states.values())

    @property
    def states(self) -> Mapping[int, DtcState]:
        """By code; to be read only."""
        return self._states

    def fault_detection(self, code: int) -> int:
        """The fault detection counter, -128..127."""
        return self._debouncers[code].fault_detection

    def cycle_max_fdc(self, code: int) -> int:
        """The highest fault detection counter of this operation cycle."""
        return self._cycle_max_fdc[code]

    def matching(self, mask: int, memory: int | None = None) -> list[DtcState]:
        """States with any bit of ``mask``, by code; none for mask 0."""
        return [s for s in self._states.values() if s.status & mask and self.definitions[s.code].memory == memory]

    # -- persistence --------------------------------------------------------------------------------------------

    def take_changes(self) -> list[Change]:
        """The changes since the last call, at most one for each DTC: from the status then to the one now."""
        changes, self._changes = list(self._changes.values()), {}
        return changes

    def take_dirty(self) -> MemoryImage | None:
        """What must be stored since the last call; None when nothing."""
        if not self._dirty:
            return None
        codes, self._dirty = sorted(self._dirty), set()
        return self._image(codes)

    def image(self) -> MemoryImage:
        """All that must be stored."""
        return self._image(self._states)

    def _image(self, codes: Iterable[int]) -> MemoryImage:
        states = tuple(copy.deepcopy(self._states[c]) for c in codes)
        return MemoryImage(states, self._order, self.is_cycle_running, self.cycles, self.overflows)

    def restore(self, image: MemoryImage) -> int:
        """Continue from an image; call before anything else. Returns how many states had no definition any more.

        A cycle that was running still is: the caller decides by ``start_cycle`` whether another begins.
        """
        lost = 0
        for state in image.states:
            if state.code in self.definitions:
                self._states[state.code] = state
            else:
                lost += 1
        self._order, self.cycles = image.order, image.cycles
        self.is_cycle_running, self.overflows = image.is_cycle_running, image.overflows
        for state in sorted((s for s in self._states.values() if s.entry is not None), key=self._worth)[
            : max(0, self.entries - self.max_entries)
        ]:
            rules.displace(state)
        return lost

    def _changed(self, state: DtcState, before: int) -> None:
        self._dirty.add(state.code)
        if state.status == before:
            return
        earlier = self._changes.get(state.code)
        if earlier is None:
            self._changes[state.code] = Change(code=state.code, previous=before, status=state.status)
        else:
            self._changes[state.code] = msgspec.structs.replace(earlier, status=state.status)
