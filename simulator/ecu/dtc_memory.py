"""The fault memory of an ECU: all its codes, and for those that failed an entry with snapshots and counters.

A core without I/O. Entries are few: when the memory is full, a failing code takes the place of one that matters less
(ISO 14229-1 leaves the rule to the maker; here: not failing now before failing, then by priority, then the older).
A code without an entry keeps its status bits but is never confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.wire.dtc import Status
from simulator.ecu.dtc_description import FIRST_SNAPSHOT, LAST_SNAPSHOT, DtcDescription
from simulator.ecu.dtc_status import FAILED_AT, PASSED_AT, CodeState

#: DID and its bytes.
SnapshotRecord = tuple[tuple[int, bytes], ...]
#: Reads the values of a snapshot.
Capture = Callable[[Sequence[int]], SnapshotRecord]


@dataclass(slots=True)
class Entry:
    """What is stored for a code that failed. ``sequence`` tells the order of entries."""

    sequence: int
    odometer_km: float
    snapshots: dict[int, SnapshotRecord] = field(default_factory=dict)


@dataclass(slots=True)
class Milestones:
    """Which code was the first and the latest to fail and to be confirmed, since the last clear (19 0B-0E)."""

    first_failed: int | None = None
    first_confirmed: int | None = None
    last_failed: int | None = None
    last_confirmed: int | None = None


class FaultMemory:
    """All codes of one memory. Times are operation cycles; the caller tells when those begin."""

    def __init__(
        self,
        codes: Iterable[DtcDescription],
        *,
        capacity: int,
        capture: Capture,
        odometer_km: Callable[[], float],
        usual_snapshot: Sequence[int] = (),
    ) -> None:
        """``capture`` and ``odometer_km`` are asked when a code fails."""
        self.codes: dict[int, DtcDescription] = {dtc.number: dtc for dtc in codes}
        self.states: dict[int, CodeState] = {number: CodeState() for number in self.codes}
        self.entries: dict[int, Entry] = {}
        self.milestones = Milestones()
        self.frozen = False  # by 0x85
        self.displaced = 0  # entries that gave way to others
        self.changes = 0  # grows with each change of what is non-volatile
        self.capacity = capacity
        self._capture = capture
        self._odometer_km = odometer_km
        self._usual_snapshot = tuple(usual_snapshot)
        self._sequence = 0
        self._cycle_owed: bool | None = None  # a cycle began while frozen; whether after a warm-up

    # ---- tests

    def observe(self, number: int, failing: bool, elapsed_ms: float, for_ms: float, heal_ms: float) -> None:
        """One look of a test at its condition; nothing while frozen.

        Raises:
            KeyError: no such code.
        """
        state = self.states[number]
        if self.frozen:
            return
        result = state.observe(failing, elapsed_ms, for_ms, heal_ms)
        if result is not None:
            self._settle(number, failed=result)

    def report(self, number: int, *, failed: bool) -> None:
        """A result without debounce; nothing while frozen. Raises ``KeyError``."""
        state = self.states[number]
        if self.frozen:
            return
        state.detection = FAILED_AT if failed else PASSED_AT
        self._settle(number, failed=failed)

    def _settle(self, number: int, *, failed: bool) -> None:
        self.changes += 1
        state, dtc = self.states[number], self.codes[number]
        if not failed:
            state.succeed()
            return
        was_confirmed = state.has(Status.CONFIRMED)
        entry = self._entry_for(number)
        occurrence = state.fail(dtc, may_confirm=entry is not None)
        if occurrence:
            self.milestones.last_failed = number
            if self.milestones.first_failed is None:
                self.milestones.first_failed = number
        if entry is not None and (occurrence or not entry.snapshots):
            self._take_snapshot(dtc, entry)
        if state.has(Status.CONFIRMED) and not was_confirmed:
            self.milestones.last_confirmed = number
            if self.milestones.first_confirmed is None:
                self.milestones.first_confirmed = number

    def _take_snapshot(self, dtc: DtcDescription, entry: Entry) -> None:
        values = self._capture(self._usual_snapshot if dtc.snapshot is None else dtc.snapshot)
        entry.snapshots.setdefault(FIRST_SNAPSHOT, values)
        entry.snapshots[LAST_SNAPSHOT] = values

    # ---- entries

    def _entry_for(self, number: int) -> Entry | None:
        if number in self.entries:
            return self.entries[number]
        if len(self.entries) >= self.capacity:
            victim = self._least_important(self.codes[number])
            if victim is None:
                return None
            self._drop(victim)
            self.states[victim].forget()
            self.displaced += 1
        self._sequence += 1
        self.entries[number] = Entry(self._sequence, self._odometer_km())
        return self.entries[number]

    def _least_important(self, than: DtcDescription) -> int | None:
        def importance(number: int) -> tuple[bool, int, int]:
            failing = self.states[number].has(Status.TEST_FAILED)
            return failing, -self.codes[number].priority, self.entries[number].sequence

        least = min(self.entries, key=importance)
        if importance(least)[:2] < (True, -than.priority):
            return least
        return None

    def _drop(self, number: int) -> None:
        self.entries.pop(number, None)

    def ordered_entries(self) -> list[int]:
        """Codes that have an entry, the oldest first."""
        return sorted(self.entries, key=lambda number: self.entries[number].sequence)

    # ---- operation cycles

    def begin_cycle(self, *, warm_up: bool) -> None:
        """An operation cycle begins; ``warm_up``: the one before was a warm-up cycle."""
        if self.frozen:
            self._cycle_owed = warm_up or bool(self._cycle_owed)
            return
        self.changes += 1
        for number, dtc in self.codes.items():
            if self.states[number].begin_cycle(dtc, warm_up=warm_up):
                self._drop(number)
                self.states[number].forget()

    def freeze(self) -> None:
        """Status bits and counters stay as they are from now on."""
        self.frozen = True

    def thaw(self) -> None:
        """They are updated again."""
        self.frozen = False
        if self._cycle_owed is not None:
            warm_up, self._cycle_owed = self._cycle_owed, None
            self.begin_cycle(warm_up=warm_up)

    # ---- clearing

    def clear(self, numbers: Iterable[int]) -> None:
        """Forget these codes, also while frozen. Permanent ones stay permanent."""
        gone = set(numbers)
        self.changes += 1
        for number in gone:
            self.states[number].clear()
            self._drop(number)
        m = self.milestones
        for name in ("first_failed", "first_confirmed", "last_failed", "last_confirmed"):
            if getattr(m, name) in gone:
                setattr(m, name, None)

    # ---- views

    def having(self, mask: int) -> list[tuple[int, int]]:
        """(code, status) of those with a bit of ``mask`` set, in the order of the description."""
        return [(number, state.status) for number, state in self.states.items() if state.status & mask]

    @property
    def lamp(self) -> bool:
        """Whether a code of this memory wants its warning lamp."""
        return any(state.has(Status.WARNING_INDICATOR) for state in self.states.values())

    # ---- non-volatile

    def save(self) -> dict[str, Any]:
        """Everything that survives a power loss: numbers, texts and bytes in dicts and lists."""
        milestones = {name: getattr(self.milestones, name) for name in Milestones.__dataclass_fields__}
        return {
            "states": {f"{number:06X}": state.save() for number, state in self.states.items()},
            "entries": {f"{number:06X}": _save_entry(entry) for number, entry in self.entries.items()},
            "milestones": milestones,
            "sequence": self._sequence,
            "displaced": self.displaced,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """What ``save`` gave; codes that the ECU no longer has are left out."""
        for text, state in saved.get("states", {}).items():
            if (number := int(text, 16)) in self.codes:
                self.states[number] = CodeState.load(state)
        for text, entry in saved.get("entries", {}).items():
            if (number := int(text, 16)) in self.codes:
                self.entries[number] = _load_entry(entry)
        for name, number in saved.get("milestones", {}).items():
            if number in self.codes and name in Milestones.__dataclass_fields__:
                setattr(self.milestones, name, number)
        self._sequence = int(saved.get("sequence", 0))
        self.displaced = int(saved.get("displaced", 0))


def _save_entry(entry: Entry) -> dict[str, Any]:
    snapshots = {str(record): [[did, value] for did, value in values] for record, values in entry.snapshots.items()}
    return {"sequence": entry.sequence, "odometer_km": entry.odometer_km, "snapshots": snapshots}


def _load_entry(saved: Mapping[str, Any]) -> Entry:
    snapshots = {
        int(record): tuple((int(did), bytes(value)) for did, value in values)
        for record, values in saved["snapshots"].items()
    }
    return Entry(int(saved["sequence"]), float(saved["odometer_km"]), snapshots)
