"""ISO 14229-1 annex D.2 by an independent plain model: eight booleans and the clause's words, no bit arithmetic."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.dtc.memory import FaultMemory
from gateway.dtc.model import CLEARED, Debounce, Definition, Environment, TestResult
from gateway.dtc.store import decode_records, encode_record
from tests.support import LONG

CODE = 0x442300


def nothing_around(definition: Definition) -> Environment:
    return Environment(0)


@dataclass
class PlainDtc:
    """The clause in plain words."""

    confirm_cycles: int
    aging_cycles: int
    aging_tested: bool
    healing_cycles: int
    has_lamp: bool
    is_emissions: bool
    bits: dict[str, bool] = field(default_factory=dict)
    failing_cycles: int = 0
    good_for_lamp: int = 0
    warm_ups: int = 0
    occurrences: int = 0
    permanent: str = "no"  # "no", "yes", "cleared"
    cycles: int = 0

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        names = ["failed", "failed_this_cycle", "pending", "confirmed", "untested_since_clear", "failed_since_clear"]
        self.bits = dict.fromkeys([*names, "untested_this_cycle", "lamp"], False)
        self.bits["untested_since_clear"] = self.bits["untested_this_cycle"] = True
        self.failing_cycles = self.good_for_lamp = self.warm_ups = self.occurrences = 0
        if self.permanent != "no":
            self.permanent = "cleared"

    def fail(self) -> None:
        b = self.bits
        if not b["failed_this_cycle"]:
            self.failing_cycles += 1
            self.good_for_lamp = 0
        if not b["failed"]:
            self.occurrences += 1
        self.warm_ups = 0
        for name in ("failed", "failed_this_cycle", "pending", "failed_since_clear"):
            b[name] = True
        b["untested_since_clear"] = b["untested_this_cycle"] = False
        if self.failing_cycles >= self.confirm_cycles:
            b["confirmed"] = True
            if self.has_lamp:
                b["lamp"] = True
                if self.is_emissions:
                    self.permanent = "yes"

    def succeed(self) -> None:
        b = self.bits
        b["failed"] = b["untested_since_clear"] = b["untested_this_cycle"] = False

    def start(self) -> None:
        b = self.bits
        if self.cycles:
            self._judge()
        b["failed_this_cycle"], b["untested_this_cycle"] = False, True
        if not (b["failed"] or b["pending"] or b["confirmed"]):
            self.occurrences = self.warm_ups = 0
        self.cycles += 1

    def _judge(self) -> None:
        b = self.bits
        tested, bad = not b["untested_this_cycle"], b["failed_this_cycle"]
        lamp_before = b["lamp"]
        if tested and not bad:
            b["pending"] = False
            self.failing_cycles = 0
            if b["lamp"]:
                self.good_for_lamp += 1
                if self.good_for_lamp == self.healing_cycles:
                    b["lamp"], self.good_for_lamp = False, 0
            if self.permanent == "cleared" or (self.permanent == "yes" and not b["lamp"]):
                self.permanent = "no"
        may_age = b["confirmed"] and not (b["failed"] or bad or lamp_before)
        if may_age and (tested or not self.aging_tested):
            self.warm_ups += 1
            if self.warm_ups == self.aging_cycles:
                b["confirmed"] = b["pending"] = b["lamp"] = False
                self.failing_cycles = 0

    @property
    def byte(self) -> int:
        order = ("failed", "failed_this_cycle", "pending", "confirmed", "untested_since_clear", "failed_since_clear",
                 "untested_this_cycle", "lamp")  # fmt: skip
        return sum(1 << i for i, name in enumerate(order) if self.bits[name])


class StatusMachine(RuleBasedStateMachine):
    """Any order of results, cycles, clears, DTC setting and kills gives the status byte of the plain model."""

    @initialize(
        confirm=st.integers(1, 3),
        aging=st.integers(1, 4),
        tested=st.booleans(),
        healing=st.integers(1, 3),
        lamp=st.sampled_from(["none", "lamp", "emissions"]),
    )
    def begin(self, confirm: int, aging: int, tested: bool, healing: int, lamp: str) -> None:
        self.definition = Definition(
            code=CODE,
            confirm_cycles=confirm,
            aging_cycles=aging,
            aging_tested=tested,
            healing_cycles=healing,
            lamp=lamp != "none",
            emissions=lamp == "emissions",
            debounce=Debounce(kind="none"),
        )
        self.memory = FaultMemory([self.definition], capture=nothing_around)
        self.plain = PlainDtc(confirm, aging, tested, healing, lamp != "none", lamp == "emissions")
        self.running = self.off = False
        self.told = CLEARED

    @rule(bad=st.booleans(), final=st.booleans())
    def result(self, bad: bool, final: bool) -> None:
        chosen = (TestResult.FAILED if final else TestResult.PREFAILED) if bad else TestResult.PREPASSED
        self.memory.report(CODE, chosen, 0)
        if self.running and not self.off:
            self.plain.fail() if bad else self.plain.succeed()

    @rule()
    def unknown(self) -> None:
        self.memory.report(CODE, TestResult.UNKNOWN, 0)

    @rule()
    def start(self) -> None:
        self.memory.start_cycle()
        self.plain.start()
        self.running = True

    @rule()
    def end(self) -> None:
        self.memory.end_cycle()
        self.running = False

    @rule(group=st.sampled_from([0xFFFFFF, CODE]))
    def clear(self, group: int) -> None:
        self.memory.clear(group)
        self.plain.clear()

    @rule(off=st.booleans())
    def dtc_setting(self, off: bool) -> None:
        self.memory.set_updates(not off)
        self.off = off

    @precondition(lambda self: not self.off)
    @rule()
    def kill(self) -> None:
        """A new process continues from what was stored."""
        record = encode_record(0, self.memory.image())
        [(_, _, image)] = decode_records(record)
        self.memory = FaultMemory([self.definition], capture=nothing_around)
        assert self.memory.restore(image) == 0
        self.told = self.memory.states[CODE].status

    @rule()
    def changes_lead_from_what_was_told_to_what_is(self) -> None:
        for change in self.memory.take_changes():
            assert change.previous == self.told
            self.told = change.status
        assert self.told == self.memory.states[CODE].status

    @invariant()
    def status_is_the_clauses(self) -> None:
        if not hasattr(self, "memory"):
            return
        state = self.memory.states[CODE]
        assert f"{state.status:08b}" == f"{self.plain.byte:08b}"
        assert state.permanent == (self.plain.permanent != "no")
        if state.entry is not None:
            assert state.entry.occurrences == self.plain.occurrences
            assert state.entry.aging == self.plain.warm_ups
        else:
            assert not self.plain.bits["confirmed"]
            assert not self.plain.bits["pending"]


TestStatusMachine = StatusMachine.TestCase
TestStatusMachine.settings = settings(max_examples=1000 if LONG else 50, stateful_step_count=50, deadline=None)


def memory_of(**settings_: object) -> FaultMemory:
    definition = Definition(code=CODE, debounce=Debounce(kind="none"), **settings_)  # type: ignore[arg-type]  # any
    return FaultMemory([definition], capture=nothing_around)


def status(memory: FaultMemory) -> int:
    return memory.states[CODE].status


def test_a_new_dtc_is_not_tested() -> None:
    assert status(memory_of()) == 0x50


def test_a_failure_sets_bits_0_1_2_5_and_resets_4_6() -> None:
    memory = memory_of()
    memory.start_cycle()
    memory.report(CODE, TestResult.FAILED, 0)
    assert status(memory) == 0x27


def test_a_pass_resets_0_4_6_and_keeps_1_2_5() -> None:
    memory = memory_of()
    memory.start_cycle()
    memory.report(CODE, TestResult.FAILED, 0)
    memory.report(CODE, TestResult.PASSED, 0)
    assert status(memory) == 0x26


def test_pending_survives_an_untested_cycle_and_ends_after_a_good_one() -> None:
    memory = memory_of()
    memory.start_cycle()
    memory.report(CODE, TestResult.FAILED, 0)
    memory.report(CODE, TestResult.PASSED, 0)
    memory.start_cycle()  # the cycle before failed
    assert status(memory) == 0x64
    memory.start_cycle()  # the cycle before was not tested
    assert status(memory) == 0x64
    memory.report(CODE, TestResult.PASSED, 0)
    assert status(memory) == 0x24
    memory.start_cycle()
    assert status(memory) == 0x60


@pytest.mark.parametrize("cycles", [1, 2, 3])
def test_confirmed_after_n_failing_cycles(cycles: int) -> None:
    memory = memory_of(confirm_cycles=cycles)
    for i in range(cycles):
        memory.start_cycle()
        assert not status(memory) & 0x08, f"cycle {i}"
        memory.report(CODE, TestResult.FAILED, 0)
    assert status(memory) & 0x08


def test_lamp_goes_out_after_three_good_cycles_and_confirmed_ages_after_forty_more() -> None:
    memory = memory_of(confirm_cycles=1, lamp=True)
    memory.start_cycle()
    memory.report(CODE, TestResult.FAILED, 0)
    assert status(memory) == 0xAF
    good = 0
    while status(memory) & 0x80:
        memory.start_cycle()
        memory.report(CODE, TestResult.PASSED, 0)
        good += 1
    assert good == 4  # three good ones, seen at the start of the fourth
    while status(memory) & 0x08:
        memory.start_cycle()
        memory.report(CODE, TestResult.PASSED, 0)
        good += 1
    assert good == 4 + 40
    assert status(memory) == 0x20, "failed since clear stays"
    assert memory.entries == 0
    assert memory.states[CODE].aged == 1


def test_cycles_that_do_not_warm_up_do_not_age() -> None:
    memory = memory_of(confirm_cycles=1, aging_cycles=2)
    memory.start_cycle()
    memory.report(CODE, TestResult.FAILED, 0)
    memory.report(CODE, TestResult.PASSED, 0)
    for _ in range(5):
        memory.start_cycle()
        memory.set_warmed_up(False)
        memory.report(CODE, TestResult.PASSED, 0)
    assert status(memory) & 0x08


def test_results_outside_a_cycle_are_ignored() -> None:
    memory = memory_of()
    memory.report(CODE, TestResult.FAILED, 0)
    assert status(memory) == 0x50


def test_dtc_setting_off_freezes_the_status_but_not_clearing() -> None:
    memory = memory_of()
    memory.start_cycle()
    memory.report(CODE, TestResult.FAILED, 0)
    memory.set_updates(False, by="a")
    memory.set_updates(False, by="b")
    memory.report(CODE, TestResult.PASSED, 0)
    memory.set_updates(True, by="a")
    memory.report(CODE, TestResult.PASSED, 0)
    assert status(memory) == 0x27
    memory.clear()
    assert status(memory) == 0x50
    memory.set_updates(True, by="b")
    memory.report(CODE, TestResult.PASSED, 0)
    assert status(memory) == 0x00


STEPS = "fpsc"  # fail, pass, start of a cycle, clear


@pytest.mark.parametrize(("confirm", "lamp", "emissions"), [(1, False, False), (2, True, False), (1, True, True)])
def test_every_sequence_of_five_steps(confirm: int, lamp: bool, emissions: bool) -> None:
    definition = Definition(
        code=CODE, confirm_cycles=confirm, aging_cycles=1, healing_cycles=1, lamp=lamp, emissions=emissions,
        debounce=Debounce(kind="none"),
    )  # fmt: skip
    for steps in itertools.product(STEPS, repeat=5):
        memory = FaultMemory([definition], capture=nothing_around)
        plain = PlainDtc(confirm, 1, True, 1, lamp, emissions)
        memory.start_cycle()
        plain.start()
        for i, step in enumerate(steps):
            if step == "s":
                memory.start_cycle()
                plain.start()
            elif step == "c":
                memory.clear(CODE)
                plain.clear()
            else:
                memory.report(CODE, TestResult.FAILED if step == "f" else TestResult.PASSED, 0)
                plain.fail() if step == "f" else plain.succeed()
            assert status(memory) == plain.byte, steps[: i + 1]
        assert memory.states[CODE].permanent == (plain.permanent != "no"), steps
