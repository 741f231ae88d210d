"""Long-term memory: entries, displacement, clearing, permanent DTCs, user-defined memories."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gateway.dtc.memory import FaultMemory, UnknownGroupError
from gateway.dtc.model import ALL_GROUPS, EMISSIONS_GROUP, Debounce, Definition, Environment, FrozenValue, TestResult

NOW = Debounce(kind="none")
FAILED, PASSED = TestResult.FAILED, TestResult.PASSED


class Around:
    """A capture that counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, definition: Definition) -> Environment:
        self.count += 1
        return Environment(self.count, self.count / 10, (FrozenValue("x", float(self.count)),))


def make(*definitions: Definition, max_entries: int = 64) -> FaultMemory:
    memory = FaultMemory(definitions, capture=Around(), max_entries=max_entries)
    memory.start_cycle()
    return memory


def plain(code: int, priority: int = 10, confirm: int = 1) -> Definition:
    return Definition(code=code, priority=priority, confirm_cycles=confirm, debounce=NOW)


def fail(memory: FaultMemory, *codes: int) -> None:
    for code in codes:
        memory.report(code, FAILED, 0)


def heal(memory: FaultMemory, *codes: int) -> None:
    for code in codes:
        memory.report(code, PASSED, 0)


def stored(memory: FaultMemory) -> set[int]:
    return {code for code, state in memory.states.items() if state.entry is not None}


def test_first_and_most_recent_snapshot() -> None:
    memory = make(plain(1))
    for _ in range(3):
        fail(memory, 1)
        heal(memory, 1)
    entry = memory.states[1].entry
    assert entry is not None
    assert (entry.first.at_ns, entry.last.at_ns, entry.occurrences, entry.failed_cycles) == (1, 3, 3, 1)


def test_a_lasting_failure_is_one_occurrence_in_many_cycles() -> None:
    memory = make(plain(1))
    for _ in range(3):
        fail(memory, 1, 1, 1)
        memory.start_cycle()
    entry = memory.states[1].entry
    assert entry is not None
    assert (entry.first.at_ns, entry.last.at_ns, entry.occurrences, entry.failed_cycles) == (1, 1, 1, 3)
    assert (entry.cycles_since_first, entry.cycles_since_last) == (3, 0)


def test_counters_stop_at_255() -> None:
    memory = make(plain(1))
    for _ in range(300):
        fail(memory, 1)
        heal(memory, 1)
        memory.start_cycle()
    entry = memory.states[1].entry
    assert entry is not None
    assert entry.occurrences == entry.failed_cycles == entry.cycles_since_first == 255


def test_a_pending_dtc_that_was_not_confirmed_leaves_no_entry_behind() -> None:
    memory = make(plain(1, confirm=2))
    fail(memory, 1)
    heal(memory, 1)
    memory.start_cycle()
    heal(memory, 1)
    assert stored(memory) == {1}
    memory.start_cycle()
    assert stored(memory) == set()


def test_the_least_important_entry_makes_room() -> None:
    memory = make(plain(1, 1), plain(2, 30), plain(3, 20), plain(4, 5), max_entries=3)
    fail(memory, 1, 2, 3, 4)
    assert stored(memory) == {1, 3, 4}
    assert not memory.states[2].status & 0x88, "confirmed and lamp go with the entry"
    assert memory.states[2].status & 0x21 == 0x21, "that it fails is still said"


def test_among_equals_the_unconfirmed_then_the_passive_then_the_oldest_goes() -> None:
    confirmed_passive, confirmed_active, unconfirmed = plain(1), plain(2), plain(3, confirm=2)
    memory = make(confirmed_passive, confirmed_active, unconfirmed, plain(4), plain(5), plain(6), max_entries=3)
    fail(memory, 1, 2, 3)
    heal(memory, 1)
    fail(memory, 4)
    assert stored(memory) == {1, 2, 4}
    fail(memory, 5)
    assert stored(memory) == {2, 4, 5}
    fail(memory, 6)
    assert stored(memory) == {2, 4, 5}, "all are confirmed and fail now, none is less important"
    assert memory.overflows == 1
    assert memory.states[6].status & 0x2F == 0x27, "pending but not confirmed: it is not in long-term memory"


def test_room_that_comes_later_is_used_by_what_still_fails() -> None:
    memory = make(plain(1), plain(2), max_entries=1)
    fail(memory, 1, 2)
    assert stored(memory) == {1}
    memory.clear(1)
    fail(memory, 2)
    assert stored(memory) == {2}
    assert memory.states[2].status & 0x08


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 3), min_size=4, max_size=7),
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from("fpsc")), max_size=60),
    st.integers(1, 3),
)
def test_entries_never_exceed_the_room_and_confirmed_means_stored(
    priorities: list[int], steps: list[tuple[int, str]], room: int
) -> None:
    memory = make(*(plain(i + 1, p) for i, p in enumerate(priorities)), max_entries=room)
    for number, what in steps:
        code = number % len(priorities) + 1
        if what == "s":
            memory.start_cycle()
        elif what == "c":
            memory.clear(code)
        else:
            memory.report(code, FAILED if what == "f" else PASSED, 0)
        assert memory.entries <= room
        for state in memory.states.values():
            assert state.entry is not None or not state.status & 0x88
        image = memory.image()
        other = FaultMemory(memory.definitions.values(), capture=Around(), max_entries=room)
        other.restore(image)
        assert other.image() == image


def test_a_smaller_memory_keeps_the_worthiest_after_a_restart() -> None:
    definitions = [plain(1, 1), plain(2, 30), plain(3, 20)]
    memory = make(*definitions)
    fail(memory, 1, 2, 3)
    smaller = FaultMemory(definitions, capture=Around(), max_entries=2)
    smaller.restore(memory.image())
    assert stored(smaller) == {1, 3}


def test_clear_all_single_and_unknown() -> None:
    memory = make(plain(1), plain(2))
    fail(memory, 1, 2)
    assert memory.clear(2, by="me") == 1
    assert (memory.states[1].status, memory.states[2].status) == (0x2F, 0x50)
    assert memory.clear(ALL_GROUPS) == 2
    assert stored(memory) == set()
    for unknown in (3, 0, EMISSIONS_GROUP, 0xFFFFD0):
        with pytest.raises(UnknownGroupError):
            memory.clear(unknown)
    with pytest.raises(UnknownGroupError):
        memory.clear(ALL_GROUPS, memory=5)


def test_clearing_an_empty_memory_is_no_error() -> None:
    assert FaultMemory([], capture=Around()).clear() == 0


def test_clear_is_told_with_what_was_before_and_by_whom() -> None:
    memory = make(plain(1))
    memory.take_changes()
    fail(memory, 1)
    memory.take_changes()
    memory.clear(by="tester 0x0e80")
    [change] = memory.take_changes()
    assert (change.previous, change.status, change.kind, change.by) == (0x2F, 0x50, "cleared", "tester 0x0e80")


def test_changes_are_merged_per_dtc() -> None:
    memory = make(plain(1))
    memory.take_changes()
    for _ in range(100):
        fail(memory, 1)
        heal(memory, 1)
    [change] = memory.take_changes()
    assert (change.previous, change.status) == (0x50, 0x2E)


def permanent_memory() -> FaultMemory:
    memory = make(Definition(code=1, lamp=True, emissions=True, confirm_cycles=1, debounce=NOW), plain(2))
    fail(memory, 1)
    return memory


def test_permanent_survives_clear_until_a_tested_good_cycle() -> None:
    memory = permanent_memory()
    assert memory.clear(EMISSIONS_GROUP) == 1
    assert memory.states[1].permanent
    memory.start_cycle()  # the cycle of the clear was not tested after it
    assert memory.states[1].permanent
    heal(memory, 1)
    assert memory.states[1].permanent
    memory.start_cycle()
    assert not memory.states[1].permanent


def test_permanent_ends_with_the_lamp() -> None:
    memory = permanent_memory()
    for _ in range(3):
        memory.start_cycle()
        heal(memory, 1)
        assert memory.states[1].permanent
    memory.start_cycle()
    assert not memory.states[1].status & 0x80
    assert not memory.states[1].permanent


def test_user_memories_are_apart() -> None:
    memory = make(plain(1), Definition(code=2, memory=7, confirm_cycles=1, debounce=NOW))
    fail(memory, 1, 2)
    assert [s.code for s in memory.matching(0xFF)] == [1]
    assert [s.code for s in memory.matching(0xFF, 7)] == [2]
    memory.clear()
    assert stored(memory) == {2}
    memory.clear(memory=7)
    assert stored(memory) == set()


def test_mask_zero_matches_nothing() -> None:
    memory = make(plain(1))
    assert memory.matching(0) == []


def test_first_and_last_failed_and_confirmed() -> None:
    memory = make(plain(1), plain(2), plain(3, confirm=2))
    fail(memory, 2, 3, 1)
    heal(memory, 2)
    fail(memory, 2)
    states = memory.states
    assert states[2].first_failed < states[3].first_failed < states[1].first_failed < states[2].last_failed
    assert states[2].first_confirmed < states[1].first_confirmed
    assert states[3].first_confirmed == 0


def test_unknown_codes_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(KeyError):
        make().report(5, FAILED, 0)
    with pytest.raises(ValueError, match="two definitions"):
        make(plain(1), plain(1))
