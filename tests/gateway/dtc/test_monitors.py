"""Each kind of monitor on a vehicle of three messages: when it tests, when it fails, when it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from dbc.frames import ERROR, FrameBatch
from dbc.integrity import rule_of
from dbc.manifest import Kind, Manifest, Message, MuxBranch, Signal
from gateway.diag.config import VehicleStateSection
from gateway.diag.vehicle_state import VehicleState
from gateway.dtc.monitors import MonitorEngine
from gateway.dtc.rulefile import parse_rules_file
from gateway.dtc.rules import resolve_rules
from tests.gateway.dtc.drive import FakeClock
from tests.support import LONG

MS, S = 1_000_000, 1_000_000_000
EPOCH = 1_700_000_000 * S
CODE = 0x056200


def field(name: str, start: int, length: int, **kwargs: object) -> Signal:
    base: dict[str, object] = {
        "big_endian": False, "kind": Kind.SIGNED, "scale": 0.1, "offset": 0.0, "minimum": None, "maximum": None,
        "unit": "V", "labels": {}, "is_multiplexer": False, "mux": (),
    }  # fmt: skip
    return Signal(name=name, start=start, length=length, **{**base, **kwargs})  # type: ignore[arg-type]  # as declared


MANIFEST = Manifest(
    1,
    "car",
    ("a", "b"),
    (
        Message("Fast", 0, 0x100, False, False, 8, 10, None, "", "", (field("X", 0, 16), field("Y", 16, 16))),
        Message(
            "Safe", 1, 0x200, False, False, 8, 20, None, "", "",
            (
                field("Check", 0, 8, kind=Kind.UNSIGNED, scale=1.0, role="checksum"),
                field("Count", 8, 4, kind=Kind.UNSIGNED, scale=1.0, role="counter"),
                field("Z", 16, 16, labels={10: "ten"}),
            ),
            "crc8-autosar", 0x200,
        ),
        Message(
            "Pages", 1, 0x18FF1021, True, False, 8, 50, None, "", "",
            (
                field("Page", 0, 8, kind=Kind.UNSIGNED, scale=1.0, is_multiplexer=True),
                field("P0", 8, 16, mux=(MuxBranch(0, ((0, 0),)),)),
                field("P1", 8, 16, mux=(MuxBranch(0, ((1, 1),)),)),
            ),
        ),
        Message("Key", 1, 0x300, False, False, 1, 100, None, "", "", (field("Ignition", 0, 8, scale=1.0),)),
    ),
)  # fmt: skip
SAFE_RULE = rule_of(MANIFEST, 1)


class Car:
    """Sends the messages on time and runs one monitor."""

    def __init__(self, rule: str, *, head: str = "", ignition: bool = False, begin: bool = True) -> None:
        text = head + f'\n[[monitor]]\ndtc = "P0562"\n{rule}\n'
        if "debounce" not in text:
            text += "debounce = { fail_after = 3, pass_after = 3 }\n"
        section = VehicleStateSection(ignition_signal="Ignition" if ignition else "")
        self.clock = FakeClock(EPOCH)
        self.state = VehicleState(section, MANIFEST, self.clock)
        self.engine = MonitorEngine(resolve_rules(parse_rules_file(text), MANIFEST), MANIFEST, self.state)
        if begin:
            self.engine.begin()
        self.x = self.y = self.z = self.p0 = self.p1 = 1.0
        self.key = 1
        self.is_damaged = self.counts = False
        self.counter = 0
        self.silent: set[str] = set()
        self.now_ms = 0

    def rows(self, at_ms: int) -> list[tuple[int, int, int, int, bytes]]:
        at_ns, rows = EPOCH + at_ms * MS, []

        def raw(value: float) -> bytes:
            return round(value * 10).to_bytes(2, "little", signed=True)

        if "Fast" not in self.silent and at_ms % 10 == 0:
            rows.append((at_ns, 0, 0x100, 0, raw(self.x) + raw(self.y) + bytes(4)))
        if "Safe" not in self.silent and at_ms % 20 == 0:
            rows.append((at_ns, 1, 0x200, 0, self._safe(raw(self.z))))
        if "Pages" not in self.silent and at_ms % 50 == 0:
            page = at_ms // 50 % 2
            rows.append((at_ns, 1, 0x18FF1021, 1, bytes([page]) + raw(self.p1 if page else self.p0) + bytes(5)))
        if "Key" not in self.silent and at_ms % 100 == 0:
            rows.append((at_ns, 1, 0x300, 0, bytes([self.key])))
        return rows

    def _safe(self, z: bytes) -> bytes:
        assert SAFE_RULE is not None
        self.counter = self.counter if self.counts else (self.counter + 1) % 16
        data = np.zeros((1, 64), np.uint8)
        data[0, 1:4] = [self.counter, *z]
        SAFE_RULE.fill(data, 8)
        if self.is_damaged:
            data[0, 0] ^= 0x55
        return data[0, :8].tobytes()

    def run(self, ms: int, batch_ms: int = 50) -> Car:
        """Time passes; frames come in batches."""
        for _ in range(0, ms, batch_ms):
            rows = [row for at in range(self.now_ms, self.now_ms + batch_ms, 10) for row in self.rows(at)]
            self.now_ms += batch_ms
            self.clock.now_ns = self.now_ms * MS
            self.give(FrameBatch.from_rows(rows))
        return self

    def give(self, frames: FrameBatch) -> None:
        self.state.observe(frames, self.clock.utc_ns())
        self.engine.observe(frames, self.clock.utc_ns())

    @property
    def status(self) -> int:
        return self.engine.memory.states[CODE].status

    @property
    def fails(self) -> bool:
        return bool(self.status & 1)

    @property
    def is_tested(self) -> bool:
        return not self.status & 0x40


def test_range_with_hysteresis() -> None:
    car = Car('kind = "range"\nsignal = "X"\nmin = -1.0\nmax = 5.0\nhysteresis = 0.5')
    assert not car.run(1000).fails
    assert car.is_tested
    car.x = 5.1
    assert car.run(1000).fails
    car.x = 4.6
    assert car.run(2000).fails
    car.x = 4.4
    assert not car.run(1000).fails
    car.x = -1.1
    assert car.run(1000).fails


def test_a_short_excursion_is_debounced() -> None:
    car = Car('kind = "range"\nsignal = "X"\nmax = 5.0').run(1000)
    for _ in range(10):
        car.x = 9.0
        car.run(200)
        car.x = 1.0
        car.run(400)
    assert not car.status & 0x20


def test_a_signal_that_stopped_is_not_tested() -> None:
    car = Car('kind = "range"\nsignal = "X"\nmax = 5.0\ndebounce = { fail_after = 20 }').run(500)
    car.x = 9.0
    car.run(100)
    car.silent.add("Fast")
    assert not car.run(10_000).fails


@pytest.mark.parametrize(("step", "fails"), [(0.4, False), (0.9, True), (-0.9, True)])
def test_rate(step: float, fails: bool) -> None:
    car = Car('kind = "rate"\nsignal = "X"\nmax_rise_per_s = 6.0\nmax_fall_per_s = 6.0').run(1000)
    for _ in range(10):
        car.x += step
        car.run(100)
    assert car.fails is fails


def test_rate_in_one_direction() -> None:
    car = Car('kind = "rate"\nsignal = "X"\nmax_rise_per_s = 6.0').run(1000)
    for _ in range(10):
        car.x -= 5
        car.run(100)
    assert not car.status & 0x20


def test_plausibility_over_two_buses() -> None:
    car = Car('kind = "plausibility"\ncondition = "abs(X - Z) > 2"').run(1000)
    assert car.is_tested
    assert not car.fails
    car.z = 9.0
    assert car.run(1000).fails
    car.silent.add("Safe")
    assert car.run(5000).fails, "unknown is no test: the last result stays"


def test_multiplexed_signals_are_all_seen() -> None:
    car = Car('kind = "plausibility"\ncondition = "P1 - P0 > 2"').run(1000)
    assert car.is_tested
    car.p1 = 9.0
    assert car.run(1000).fails


def test_missing_message_after_its_timeout_and_back() -> None:
    car = Car('kind = "missing"\nmessage = ["Fast", "Safe"]\ntimeout_ms = 500').run(1000)
    assert car.is_tested
    car.silent.add("Safe")
    assert not car.run(600).fails
    assert car.run(500).fails
    car.silent.clear()
    assert not car.run(1000).fails


def test_a_message_that_never_came_is_missing_too() -> None:
    car = Car('kind = "missing"\nmessage = "Fast"\ntimeout_ms = 500')
    car.silent.add("Fast")
    assert car.run(2000).fails


def test_missing_bus_and_silence_of_everything() -> None:
    car = Car('kind = "missing"\nbus = "a"\ntimeout_ms = 500').run(1000)
    assert car.is_tested
    car.silent.add("Fast")
    assert car.run(2000).fails
    quiet = Car('kind = "missing"\nbus = "a"\ntimeout_ms = 500').run(1000)
    for _ in range(20):  # nothing comes from any bus: time passes by the caller's clock
        quiet.clock.now_ns += 200 * MS
        quiet.give(FrameBatch.empty())
    assert quiet.fails


def test_nothing_is_missing_on_a_bus_that_is_off() -> None:
    car = Car('kind = "missing"\nmessage = "Fast"\ntimeout_ms = 300').run(1000)
    car.silent.add("Fast")
    car.engine.tell_bus("a", is_off=True)
    assert not car.run(3000).fails


def test_enable_condition_and_its_delay() -> None:
    car = Car('kind = "range"\nsignal = "X"\nmax = 5.0\nenable = "Ignition > 0"\nenable_delay_ms = 2000')
    car.x, car.key = 9.0, 0
    assert not car.run(5000).is_tested
    car.key = 1
    assert not car.run(1900).is_tested
    assert car.run(1000).fails


def test_missing_counts_from_when_it_was_enabled() -> None:
    car = Car('kind = "missing"\nmessage = "Fast"\ntimeout_ms = 500\nenable = "Ignition > 0"\nenable_delay_ms = 0')
    car.silent.add("Fast")
    car.key = 0
    assert not car.run(5000).is_tested
    car.key = 1
    car.run(500)
    assert not car.fails
    assert car.run(1500).fails


@pytest.mark.parametrize(("check", "damage", "fails"), [
    ("checksum", "is_damaged", True), ("counter", "is_damaged", False), ("both", "is_damaged", True),
    ("checksum", "counts", False), ("counter", "counts", True), ("both", "counts", True),
])  # fmt: skip
def test_integrity(check: str, damage: str, fails: bool) -> None:
    car = Car(f'kind = "integrity"\nmessage = "Safe"\ncheck = "{check}"').run(1000)
    assert not car.fails
    assert car.is_tested
    setattr(car, damage, True)
    assert car.run(1000).fails is fails
    setattr(car, damage, False)
    assert not car.run(1000).fails


def test_integrity_is_not_tested_without_frames() -> None:
    car = Car('kind = "integrity"\nmessage = "Safe"')
    car.silent.add("Safe")
    assert not car.run(1000).is_tested


def test_ecu_silent_is_judged_once_for_each_time_it_was_asked() -> None:
    car = Car('kind = "ecu_silent"\necu = "body"').run(1000)
    for i in range(3):
        assert not car.fails, i
        car.engine.tell_ecu("body", is_silent=True)
        car.engine.tell_ecu("other", is_silent=False)
        car.run(1000)
    assert car.fails


def test_bus_off_by_error_frames_and_by_word() -> None:
    car = Car('kind = "bus_off"\nbus = "b"').run(1000)
    assert car.is_tested
    car.give(FrameBatch.from_rows([(EPOCH + car.now_ms * MS, 1, 0x40, ERROR, bytes(8))]))
    assert car.run(1000).fails
    car.give(FrameBatch.from_rows([(EPOCH + car.now_ms * MS, 1, 0x100, ERROR, bytes(8))]))
    assert not car.run(1000).fails
    car.engine.tell_bus("b", is_off=True)
    assert car.run(1000).fails


def test_snapshot_holds_values_labels_units_and_what_is_unknown() -> None:
    car = Car('kind = "range"\nsignal = "X"\nmax = 5.0\nsnapshot = ["X", "Z", "P1", "Ignition"]')
    car.silent.add("Key")
    car.run(1000)
    car.x = 9.0
    car.run(1000)
    entry = car.engine.memory.states[CODE].entry
    assert entry is not None
    assert [(v.name, v.value, v.unit, v.label) for v in entry.first.values] == [
        ("a.Fast.X", 9.0, "V", ""),
        ("b.Safe.Z", 1.0, "V", "ten"),
        ("b.Pages.P1", 1.0, "V", ""),
        ("b.Key.Ignition", None, "V", ""),
    ]
    assert EPOCH + S < entry.first.at_ns < EPOCH + 2 * S


def test_ignition_begins_and_ends_operation_cycles() -> None:
    car = Car('kind = "range"\nsignal = "X"\nmax = 5.0', ignition=True)
    car.key = 0
    car.x = 9.0
    assert not car.run(2000).is_tested
    assert car.engine.memory.cycles == 0
    for cycle in (1, 2):
        car.key = 1
        car.run(2000)
        assert car.engine.memory.cycles == cycle
        car.key = 0
        car.run(2000)
        assert not car.engine.memory.is_cycle_running
    assert car.status & 0x08, "failed in two cycles"


def test_a_flickering_ignition_makes_no_cycles() -> None:
    car = Car('kind = "range"\nsignal = "X"\nmax = 5.0', ignition=True).run(1000)
    for _ in range(10):
        car.key = 0
        car.run(500)
        car.key = 1
        car.run(300)
    assert car.engine.memory.cycles == 1
    assert car.engine.memory.is_cycle_running


def test_the_cycle_ends_when_the_ignition_is_unknown_for_long() -> None:
    car = Car('kind = "range"\nsignal = "X"\nmax = 5.0', head="cycle_end_ms = 5000", ignition=True).run(2000)
    car.silent.add("Key")
    assert car.run(4000).engine.memory.is_cycle_running
    assert not car.run(5000).engine.memory.is_cycle_running


def test_before_it_is_begun_nothing_is_tested() -> None:
    for ignition in (False, True):
        car = Car('kind = "range"\nsignal = "X"\nmax = 5.0', ignition=ignition, begin=False).run(2000)
        assert car.engine.memory.cycles == 0


def steps_of_the_clock(car: Car, step_s: int) -> None:
    """The wall clock is set; frames keep their rhythm."""
    car.clock.start_ns += step_s * S
    shift = step_s * S
    for _ in range(40):
        rows = [(at + shift, *rest) for ms in range(car.now_ms, car.now_ms + 50, 10) for at, *rest in car.rows(ms)]
        car.now_ms += 50
        car.clock.now_ns = car.now_ms * MS
        car.give(FrameBatch.from_rows(rows))  # type: ignore[arg-type]  # rows as they were


@pytest.mark.parametrize("step_s", [-86_400, -3, 3, 86_400, 10**9])
def test_a_clock_that_is_set_makes_no_fault(step_s: int) -> None:
    car = Car('kind = "missing"\nmessage = "Fast"\ntimeout_ms = 2500').run(2000)
    steps_of_the_clock(car, step_s)
    assert car.is_tested
    assert not car.status & 0x20


Feed = Callable[[Car, FrameBatch], None]


@settings(max_examples=200 if LONG else 12, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.sampled_from([
    'kind = "range"\nsignal = "X"\nmax = 5.0', 'kind = "missing"\nmessage = "Safe"\ntimeout_ms = 200',
    'kind = "integrity"\nmessage = "Safe"', 'kind = "missing"\nbus = "a"\ntimeout_ms = 200',
    'kind = "plausibility"\ncondition = "P1 > 5"', 'kind = "rate"\nsignal = "X"\nmax_rise_per_s = 6.0',
]))  # fmt: skip
def test_results_do_not_depend_on_how_frames_are_cut(cuts: Sequence[int], rule: str) -> None:
    def rows(car: Car) -> list[tuple[int, int, int, int, bytes]]:
        found = []
        for at in range(0, 6000, 10):
            car.x = 9.0 if 1000 < at < 2000 else 1.0
            car.p1 = 9.0 if 3000 < at < 4000 else 1.0
            car.is_damaged = 2000 < at < 2500
            car.silent = {"Fast", "Safe"} if 4500 < at < 5000 else set()
            found += car.rows(at)
        return found

    whole, cut = Car(rule), Car(rule)
    frames = FrameBatch.from_rows(rows(whole))
    whole.give(frames)
    at = 0
    while at < len(frames):
        for size in cuts:
            cut.give(frames.take(slice(at, at + size)))
            at += size
            if at >= len(frames):
                break
    assert whole.engine.looks == cut.engine.looks > 50
    assert whole.engine.memory.image() == cut.engine.memory.image()


@settings(max_examples=500 if LONG else 30, deadline=None)
@given(st.lists(st.tuples(
    st.integers(0, 1 << 62), st.integers(0, 255), st.integers(0, 0x1FFFFFFF) | st.sampled_from([0x100, 0x200]),
    st.integers(0, 63), st.binary(max_size=64),
), max_size=12), st.integers(-1 << 62, 1 << 62))  # fmt: skip
def test_any_frames_are_taken(rows: list[tuple[int, int, int, int, bytes]], now_ns: int) -> None:
    car = Car('kind = "plausibility"\ncondition = "P1 + X / Z > 5 and age_ms(Y) < 4"\nsnapshot = ["Y"]', ignition=True)
    car.engine.observe(FrameBatch.from_rows(rows), now_ns)
    car.engine.observe(FrameBatch.empty(), -now_ns)
    car.run(500)
    assert car.engine.looks <= 5 + 2 * (len(rows) + 4) * 20, "time passes by two seconds at most between frames"


def test_what_it_wants_of_the_buses() -> None:
    text = '[[monitor]]\ndtc = "U0100"\nkind = "missing"\nbus = "b"\n'
    car = Car('kind = "range"\nsignal = "X"\nmax = 5.0\nenable = "P1 > 0"', head=text)
    wanted = {bus: set(ids) for bus, ids in car.engine.wanted().items()}
    assert wanted == {"a": {(0x100, False)}, "b": {(0x200, False), (0x18FF1021, True), (0x300, False)}}


def test_without_rules_nothing_is_wanted_nor_done() -> None:
    clock = FakeClock()
    state = VehicleState(VehicleStateSection(), MANIFEST, clock)
    engine = MonitorEngine(resolve_rules(parse_rules_file(""), MANIFEST), MANIFEST, state)
    engine.begin()
    engine.observe(FrameBatch.from_rows([(0, 0, 0x100, 0, bytes(8))]), 0)
    assert engine.wanted() == {}
    assert engine.looks == 0
