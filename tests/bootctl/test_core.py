"""The rules of changing a boot state, one by one and in any order with boots and cuts between."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bootctl import core
from bootctl.errors import RefusedError
from bootctl.model import BootControlError, BootState, Slot
from bootctl.store import Change
from tests.bootctl.strategies import states

GOOD_A = BootState((Slot("A", 1, 3, True), Slot("B", 0, 0, False)), "A")
BOTH_GOOD = BootState((Slot("A", 2, 3, True), Slot("B", 1, 3, True)), "A")
ON_TRIAL = core.activate(GOOD_A, "B")


def test_an_activated_slot_boots_next_with_its_tries_and_the_other_keeps_what_it_is() -> None:
    assert ON_TRIAL.slot("B") == Slot("B", 2, 3, False)
    assert ON_TRIAL.slot("A") == Slot("A", 1, 3, True)
    assert ON_TRIAL.next == ON_TRIAL.slot("B")


def test_a_good_slot_that_is_written_anew_is_on_trial_again() -> None:
    assert core.activate(BOTH_GOOD, "B").slot("B") == Slot("B", 2, 3, False)


def test_three_boots_without_mark_good_and_the_loader_goes_back_by_itself() -> None:
    state, booted = ON_TRIAL, []
    for _ in range(5):
        chosen, state = core.decide(state)
        booted.append(chosen)
    assert booted == ["B", "B", "B", "A", "A"]
    assert state.resets == 0


def test_a_good_slot_boots_any_number_of_times_for_nothing() -> None:
    state = core.mark_good(replace(ON_TRIAL, current="B"))
    for _ in range(20):
        chosen, after = core.decide(state)
        assert (chosen, after) == ("B", state)


def test_a_try_is_taken_before_the_slot_starts() -> None:
    assert core.decide(ON_TRIAL)[1].slot("B").tries == 2


def test_nothing_bootable_gives_all_tries_back_and_counts_it() -> None:
    worn = BootState((Slot("A", 1, 0, False), Slot("B", 2, 0, False), Slot("C", 0, 0, False)), "A")
    chosen, after = core.decide(worn)
    assert chosen == "B"
    assert after == BootState((Slot("A", 1, 3, False), Slot("B", 2, 2, False), Slot("C", 0, 0, False)), "B", resets=1)


def test_a_slot_that_was_never_whole_is_no_last_resort() -> None:
    empty = BootState((Slot("A", 0, 0, False), Slot("B", 0, 0, False)), "")
    assert core.decide(empty) == (None, empty)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: core.mark_bad(s, "A"), "runs"),
        (lambda s: core.mark_bad(replace(s, current=""), "A"), "last bootable"),
        (lambda s: core.activate(s, "A"), "runs"),
        (lambda s: core.activate(s, "B", 0), "tries"),
        (lambda s: core.activate(s, "B", core.MAX_TRIES + 1), "tries"),
        (lambda s: core.switch(s, "B"), "never marked good"),
        (lambda s: core.mark_good(replace(s, current="")), "not known"),
        (core.rollback, "nothing to go back to"),
        (lambda s: core.rollback(replace(s, current="")), "not known"),
    ],
)
def test_what_would_end_badly_is_refused(change: Change, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        change(GOOD_A)


def test_an_unknown_slot_is_told_with_the_known_ones() -> None:
    with pytest.raises(BootControlError, match="'C' \\(A, B\\)"):
        core.activate(GOOD_A, "C")


def test_the_last_bootable_slot_is_kept_even_when_the_running_one_is_worn() -> None:
    worn = BootState((Slot("A", 2, 0, False), Slot("B", 1, 3, True)), "A")
    with pytest.raises(RefusedError, match="last bootable"):
        core.mark_bad(worn, "B")


def test_a_trial_that_has_not_begun_is_given_up_by_switching_to_the_running_slot() -> None:
    with pytest.raises(RefusedError, match="to give up the trial of B, switch to A"):
        core.rollback(ON_TRIAL)
    assert core.switch(ON_TRIAL, "A").next == Slot("A", 2, 3, True)


def test_a_rollback_goes_to_the_other_good_slot_and_twice_is_once() -> None:
    once = core.rollback(BOTH_GOOD)
    assert once.next == Slot("B", 2, 3, True)
    assert core.rollback(once) == once


def test_a_rollback_during_the_trial_goes_to_the_good_slot() -> None:
    booted = replace(core.decide(ON_TRIAL)[1], current="B")
    after = core.rollback(booted)
    assert after.next == Slot("A", 2, 3, True)


def test_a_running_slot_that_was_marked_bad_by_others_is_saved_by_mark_good() -> None:
    odd = BootState((Slot("A", 0, 0, False), Slot("B", 1, 3, False)), "A")
    after = core.mark_good(odd)
    assert [s.name for s in after.order] == ["B", "A"]


changes = st.one_of(
    st.tuples(st.sampled_from(("mark_bad", "activate", "switch")), st.sampled_from(("A", "B", "C"))),
    st.sampled_from((("mark_good",), ("rollback",))),
)


@settings(max_examples=150, deadline=None)
@given(states(), changes)
def test_every_change_is_idempotent_and_keeps_what_is_not_named(state: BootState, change: tuple[str, ...]) -> None:
    try:
        once = getattr(core, change[0])(state, *change[1:])
    except BootControlError:
        return
    assert getattr(core, change[0])(once, *change[1:]) == once
    assert (once.current, once.resets) == (state.current, state.resets)
    assert sorted(s.priority for s in once.slots if s.priority) == list(
        range(1, 1 + sum(s.priority > 0 for s in once.slots))
    )


class Machine(RuleBasedStateMachine):
    """A vehicle that boots, changes its state, and loses power between any two of these."""

    def __init__(self) -> None:
        super().__init__()
        self.state = GOOD_A

    @rule(change=changes)
    def change(self, change: tuple[str, ...]) -> None:
        """Any change, allowed or not."""
        before = self.state
        try:
            self.state = getattr(core, change[0])(self.state, *change[1:])
        except BootControlError:
            self.state = before
        running = before.slot(before.current)
        if running.successful:
            assert self.state.slot(running.name).successful
            assert self.state.slot(running.name).is_bootable

    @rule()
    def power_cycle(self) -> None:
        """The loader decides, with what was stored."""
        had_good = any(s.is_bootable and s.successful for s in self.state.slots)
        chosen, after = core.decide(self.state)
        assert chosen is not None
        assert had_good <= (after.resets == self.state.resets)
        self.state = after

    @invariant()
    def something_boots(self) -> None:
        """Never a dead end; and a good slot stays reachable within the tries of those before it."""
        state = self.state
        for _ in range(3 * core.MAX_TRIES + 1):
            chosen, state = core.decide(state)
            assert chosen is not None
            if state.slot(chosen).successful:
                return
        assert not any(s.successful and s.priority for s in self.state.slots)


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyOrder = Machine.TestCase
