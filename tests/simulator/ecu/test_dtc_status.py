"""The life of one code, and of a memory of codes: every rule of the status byte, on its own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.dtc import Status
from simulator.ecu.dtc_description import DtcDescription
from simulator.ecu.dtc_memory import FaultMemory, SnapshotRecord
from simulator.ecu.dtc_status import CLEARED, CodeState

CODE = DtcDescription(code="P0A93-00", text="", lamp=True, emissions=True, confirm_cycles=2)
SIMPLE = DtcDescription(code="U0100-00", text="", aging_cycles=3)


def _cycle(state: CodeState, dtc: DtcDescription, *results: bool, warm_up: bool = True) -> bool:
    """One operation cycle with these results; returns whether its end forgot the code."""
    for failed in results:
        if failed:
            state.fail(dtc, may_confirm=True)
        else:
            state.succeed()
    return state.begin_cycle(dtc, warm_up=warm_up)


def test_a_new_code_has_not_been_tested() -> None:
    assert CodeState().status == CLEARED == 0x50


def test_a_failure_sets_failed_pending_and_since_clear() -> None:
    state = CodeState()
    state.fail(CODE, may_confirm=True)
    assert state.status == 0x27


def test_a_pass_clears_the_last_result_only() -> None:
    state = CodeState()
    state.fail(CODE, may_confirm=True)
    state.succeed()
    assert state.status == 0x26
    fresh = CodeState()
    fresh.succeed()
    assert fresh.status == 0x00


def test_confirmation_and_lamp_after_as_many_failing_cycles_as_the_code_asks_for() -> None:
    state = CodeState()
    _cycle(state, CODE, True)
    assert not state.status & (Status.CONFIRMED | Status.WARNING_INDICATOR)
    state.fail(CODE, may_confirm=True)
    assert state.status == 0xAF
    assert state.permanent
    simple = CodeState()
    simple.fail(SIMPLE, may_confirm=True)
    assert simple.status == 0x2F


def test_a_good_cycle_between_failures_starts_the_count_of_trips_anew() -> None:
    state = CodeState()
    _cycle(state, CODE, True)
    _cycle(state, CODE, False)
    state.fail(CODE, may_confirm=True)
    assert not state.has(Status.CONFIRMED)


def test_a_cycle_in_which_the_test_did_not_complete_changes_nothing_but_the_cycle_bits() -> None:
    state = CodeState()
    _cycle(state, CODE, True)
    before = state.status
    for _ in range(5):
        _cycle(state, CODE)
    assert state.status == before
    assert state.status & Status.PENDING
    assert state.trips == 1


def test_cycle_start_resets_this_cycle_and_keeps_the_last_result() -> None:
    state = CodeState()
    _cycle(state, CODE, True)
    assert state.status == Status.TEST_FAILED | Status.PENDING | Status.FAILED_SINCE_CLEAR | 0x40


def test_pending_ends_with_the_first_cycle_that_completed_without_a_failure() -> None:
    state = CodeState()
    _cycle(state, CODE, True)
    state.succeed()
    assert state.has(Status.PENDING)
    assert state.begin_cycle(CODE, warm_up=True)  # suspected, never confirmed: forgotten
    assert state.status == Status.FAILED_SINCE_CLEAR | 0x40


def test_a_cycle_with_failure_and_pass_is_a_failing_one() -> None:
    state = CodeState()
    _cycle(state, CODE, True, False)
    assert state.has(Status.PENDING)


def test_the_lamp_heals_after_three_good_cycles_and_the_code_stays_confirmed() -> None:
    state = CodeState()
    _cycle(state, CODE, True)
    _cycle(state, CODE, True)
    for _ in range(2):
        _cycle(state, CODE, False)
    assert state.has(Status.WARNING_INDICATOR)
    _cycle(state, CODE, False)
    assert not state.has(Status.WARNING_INDICATOR)
    assert not state.permanent
    assert state.has(Status.CONFIRMED)


def test_aging_counts_good_warm_up_cycles_and_forgets_after_the_last() -> None:
    state = CodeState()
    _cycle(state, SIMPLE, True)
    assert not _cycle(state, SIMPLE, False)
    assert not _cycle(state, SIMPLE, False, warm_up=False)
    assert not _cycle(state, SIMPLE, False)
    assert state.has(Status.CONFIRMED)
    assert state.aging == 2
    assert _cycle(state, SIMPLE, False)
    assert state.status & ~0x40 == Status.FAILED_SINCE_CLEAR


def test_a_failure_while_aging_starts_it_anew() -> None:
    state = CodeState()
    _cycle(state, SIMPLE, True)
    _cycle(state, SIMPLE, False)
    _cycle(state, SIMPLE, True)
    assert state.aging == 0
    assert state.failed_cycles == 2


def test_occurrences_count_changes_to_failed_and_cycles_not_repeated_results() -> None:
    state = CodeState()
    assert state.fail(SIMPLE, may_confirm=True)
    assert not state.fail(SIMPLE, may_confirm=True)
    state.succeed()
    assert state.fail(SIMPLE, may_confirm=True)
    state.begin_cycle(SIMPLE, warm_up=True)
    assert state.fail(SIMPLE, may_confirm=True)
    assert state.occurrences == 3
    assert state.failed_cycles == 2


def test_clear_gives_a_new_code_but_permanent_stays_until_a_good_cycle() -> None:
    state = CodeState()
    _cycle(state, CODE, True)
    _cycle(state, CODE, True)
    state.clear()
    assert state.status == 0x50
    permanent = [state.permanent]
    for results in ((), (False,)):
        _cycle(state, CODE, *results)
        permanent.append(state.permanent)
    assert permanent == [True, True, False]


def test_debounce_fails_after_for_ms_and_passes_after_heal_ms_and_turns_round_at_zero() -> None:
    state = CodeState()
    assert [state.observe(True, 100, 500, 200) for _ in range(6)] == [None] * 4 + [True, None]
    assert state.detection_byte == 127
    assert state.observe(False, 100, 500, 200) is None
    assert state.detection == -64
    assert state.observe(False, 100, 500, 200) is False
    assert state.detection_byte == 0x80
    assert state.observe(True, 100, 500, 200) is None
    assert int(state.detection) == 25


@given(st.lists(st.tuples(st.booleans(), st.floats(1, 1000)), max_size=60))
def test_the_detection_counter_is_a_signed_byte_and_tells_once_in_a_run(
    looks: list[tuple[bool, float]],
) -> None:
    state = CodeState()
    last: bool | None = None
    for failing, elapsed_ms in looks:
        result = state.observe(failing, elapsed_ms, 500, 700)
        assert -128 <= state.detection <= 127
        if last is not None and failing is not last:
            last = None
        if result is not None:
            assert result is failing
            assert result is not last
            last = result


# ---- a memory of several codes


def _memory(capacity: int = 2, **priorities: int) -> FaultMemory:
    codes = [DtcDescription(code=code, text="", priority=priority) for code, priority in priorities.items()]
    taken = iter(range(1000))

    def capture(dids: Sequence[int]) -> SnapshotRecord:
        return ((0xF40D, bytes([next(taken)])),)

    return FaultMemory(codes, capacity=capacity, capture=capture, odometer_km=lambda: 1234.5, usual_snapshot=(0xF40D,))


def _numbers(memory: FaultMemory) -> list[int]:
    return list(memory.codes)


def test_first_and_last_snapshot() -> None:
    memory = _memory(P0A01=5)
    (code,) = _numbers(memory)
    for failed in (True, True, False, True):
        memory.report(code, failed=failed)
    assert memory.entries[code].snapshots == {1: ((0xF40D, b"\x00"),), 2: ((0xF40D, b"\x01"),)}


def test_a_full_memory_gives_up_the_passed_one_first_then_the_less_important() -> None:
    memory = _memory(2, P0A01=5, P0A02=5, P0A03=5, P0A04=1, P0A05=9)
    one, two, three, four, five = _numbers(memory)
    memory.report(one, failed=True)
    memory.report(two, failed=True)
    memory.report(one, failed=False)
    memory.report(three, failed=True)
    assert memory.ordered_entries() == [two, three]
    assert not memory.states[one].status & (Status.CONFIRMED | Status.PENDING)
    assert memory.states[one].status & Status.FAILED_SINCE_CLEAR
    memory.report(five, failed=True)  # matters less than what is there
    assert memory.ordered_entries() == [two, three]
    assert not memory.states[five].has(Status.CONFIRMED)
    assert memory.states[five].has(Status.TEST_FAILED)
    memory.report(four, failed=True)  # matters more
    assert memory.ordered_entries() == [three, four]
    assert memory.displaced == 2


def test_freezing_stops_results_and_cycles_but_not_clearing() -> None:
    memory = _memory(P0A01=5)
    (code,) = _numbers(memory)
    memory.report(code, failed=True)
    before = memory.states[code].status
    memory.freeze()
    memory.report(code, failed=False)
    memory.observe(code, False, 10_000, 1, 1)
    memory.begin_cycle(warm_up=True)
    assert memory.states[code].status == before
    memory.clear([code])
    assert memory.states[code].status == 0x50
    memory.thaw()
    memory.report(code, failed=True)
    assert memory.states[code].status == 0x2F


def test_a_cycle_that_began_while_frozen_is_judged_afterwards() -> None:
    memory = _memory(P0A01=5)
    (code,) = _numbers(memory)
    memory.report(code, failed=True)
    memory.freeze()
    memory.begin_cycle(warm_up=True)
    memory.thaw()
    assert not memory.states[code].has(Status.TEST_FAILED_THIS_CYCLE)


def test_milestones_follow_failures_and_forget_what_is_cleared() -> None:
    memory = _memory(5, P0A01=5, P0A02=5)
    one, two = _numbers(memory)
    memory.report(one, failed=True)
    memory.report(two, failed=True)
    m = memory.milestones
    assert (m.first_failed, m.first_confirmed, m.last_failed, m.last_confirmed) == (one, one, two, two)
    memory.clear([one])
    assert (m.first_failed, m.last_failed) == (None, two)


def test_unknown_codes_are_refused() -> None:
    memory = _memory(P0A01=5)
    with pytest.raises(KeyError):
        memory.report(0x123456, failed=True)


_ACTIONS = st.one_of(
    st.tuples(st.just("report"), st.integers(0, 4), st.booleans()),
    st.tuples(st.just("cycle"), st.booleans(), st.just(False)),
    st.tuples(st.just("clear"), st.integers(0, 4), st.just(False)),
    st.tuples(st.just("freeze"), st.booleans(), st.just(False)),
    st.tuples(st.just("restart"), st.just(0), st.just(False)),
)


@given(st.lists(_ACTIONS, max_size=80))
def test_any_history_keeps_the_invariants_of_the_memory(actions: list[tuple[str, int, bool]]) -> None:
    memory = _memory(2, P0A01=5, P0A02=4, P0A03=3, P0A04=2, P0A05=1)
    numbers = _numbers(memory)
    for action, which, flag in actions:
        if action == "report":
            memory.report(numbers[which], failed=flag)
        elif action == "cycle":
            memory.begin_cycle(warm_up=bool(which))
        elif action == "clear":
            memory.clear([numbers[which]])
        elif action == "freeze":
            memory.freeze() if which else memory.thaw()
        else:
            saved = memory.save()
            memory = _memory(2, P0A01=5, P0A02=4, P0A03=3, P0A04=2, P0A05=1)
            memory.load(saved)
            assert memory.save() == saved
        assert len(memory.entries) <= 2
        for number, state in memory.states.items():
            stored = state.has(Status.PENDING) and number in memory.entries
            assert not state.has(Status.CONFIRMED) or number in memory.entries
            assert number not in memory.entries or state.has(Status.CONFIRMED) or stored
            if state.has(Status.TEST_FAILED_THIS_CYCLE):
                assert not state.has(Status.NOT_COMPLETED_THIS_CYCLE)
                assert state.has(Status.FAILED_SINCE_CLEAR)
            if state.has(Status.NOT_COMPLETED_SINCE_CLEAR):
                assert state.status == CLEARED
            assert not state.has(Status.WARNING_INDICATOR) or state.has(Status.CONFIRMED)
