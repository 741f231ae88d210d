"""The fault detection counter reaches its ends exactly with the verdict, and moves as configured."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gateway.dtc.debounce import Debouncer
from gateway.dtc.model import Debounce, TestResult

BAD, GOOD, UNKNOWN = TestResult.PREFAILED, TestResult.PREPASSED, TestResult.UNKNOWN
MS = 1_000_000


def verdicts(settings_: Debounce, results: str, step_ms: int = 0) -> str:
    """``-`` bad, ``+`` good, ``?`` unknown → ``F`` failed, ``P`` passed, ``.`` open."""
    debouncer, out = Debouncer(settings_), ""
    for i, letter in enumerate(results):
        verdict = debouncer.take({"-": BAD, "+": GOOD, "?": UNKNOWN}[letter], i * step_ms * MS)
        out += {True: "F", False: "P", None: "."}[verdict]
    return out


def test_counter_counts_to_its_ends() -> None:
    assert verdicts(Debounce(fail_after=3, pass_after=2), "---+++++-") == "..F....P."


def test_counter_steps() -> None:
    plain = Debounce(fail_after=4, pass_after=4, step_up=2, jump_up=None)
    assert verdicts(plain, "-+-+-") == "....F"
    assert verdicts(plain, "--") == ".F"


def test_jumps_skip_the_wrong_side() -> None:
    slow = Debounce(fail_after=3, pass_after=3, jump_up=None)
    assert verdicts(slow, "+++---") == "..P..."
    fast = Debounce(fail_after=3, pass_after=3, jump_up=0)
    assert verdicts(fast, "+++---") == "..P..F"
    both = Debounce(fail_after=3, pass_after=3, jump_down=0)
    assert verdicts(both, "---+++") == "..F..P"


def test_unknown_changes_nothing_of_a_counter() -> None:
    assert verdicts(Debounce(fail_after=2, pass_after=2), "-?-??") == "..F.."


def test_time_needs_agreement_all_along() -> None:
    by_time = Debounce(kind="time", fail_ms=300, pass_ms=200)
    assert verdicts(by_time, "----", 100) == "...F"
    assert verdicts(by_time, "---+---", 100) == "......."
    assert verdicts(by_time, "---++++", 100) == ".....PP"


def test_time_does_not_run_while_unknown() -> None:
    by_time = Debounce(kind="time", fail_ms=200, pass_ms=200)
    assert verdicts(by_time, "--????-", 100) == "......."
    assert verdicts(by_time, "--????--", 100) == ".......F"


def test_time_that_goes_back_counts_as_none() -> None:
    debouncer = Debouncer(Debounce(kind="time", fail_ms=200))
    debouncer.take(BAD, 1000 * MS)
    assert debouncer.take(BAD, 0) is None
    assert debouncer.fault_detection == 0


def test_without_debouncing_the_first_result_decides() -> None:
    assert verdicts(Debounce(kind="none"), "-+-?") == "FPF."


@pytest.mark.parametrize("kind", ["counter", "time"])
def test_final_results_need_no_debouncing(kind: str) -> None:
    debouncer = Debouncer(Debounce(kind=kind))  # type: ignore[arg-type]  # one of the literals
    assert debouncer.take(TestResult.FAILED, 0) is True
    assert debouncer.fault_detection == 127
    assert debouncer.take(TestResult.PASSED, 0) is False
    assert debouncer.fault_detection == -128


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        Debounce,
        kind=st.sampled_from(["counter", "time", "none"]),
        fail_after=st.integers(1, 300),
        pass_after=st.integers(1, 300),
        step_up=st.integers(1, 400),
        step_down=st.integers(1, 400),
        jump_up=st.none() | st.just(0),
        jump_down=st.none() | st.just(0),
        fail_ms=st.integers(1, 500),
        pass_ms=st.integers(1, 500),
    ),
    st.lists(st.tuples(st.sampled_from(list(TestResult)), st.integers(-50, 200)), max_size=60),
)
def test_the_counter_is_in_range_and_at_its_end_exactly_with_the_verdict(
    settings_: Debounce, steps: list[tuple[TestResult, int]]
) -> None:
    debouncer, now_ms = Debouncer(settings_), 0
    for result, step_ms in steps:
        now_ms += step_ms
        before = debouncer.fault_detection
        verdict = debouncer.take(result, now_ms * MS)
        reached = debouncer.fault_detection
        assert -128 <= reached <= 127
        if result is UNKNOWN:
            assert verdict is None
            assert reached == before
        else:
            assert (verdict is True) == (reached == 127)
            assert (verdict is False) == (reached == -128)
        if result is BAD:
            assert reached >= min(before, 0)
        if result is GOOD:
            assert reached <= max(before, 0)
    debouncer.reset()
    assert debouncer.fault_detection == 0
