"""The gateway's monitors: watches the frames that pass and tells the fault memory what each test says.

Theory of operation: frames of messages that a rule needs are picked out of each batch and kept, the newest of each
message (``LatestSignals``). Every ``period_ms`` *of the frames' time* the newest are decoded once, and each monitor
looks at the values. Only checksums and counters see every frame. Frames are put in before the look that follows them,
so results do not depend on how frames are cut into batches.

Time is that of the frames, carried on by the caller's clock while none come. It counts on from zero; a step of the
clock, or a stretch without being called, counts as at most ``MAX_GAP_NS`` and a step back as nothing.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from dbc.frames import ERROR, FrameBatch
from dbc.integrity import Verifier
from dbc.manifest import Manifest
from gateway.can.observer import Wanted
from gateway.dtc.checks import Check, Look, make_check
from gateway.dtc.latest import NEVER, LatestSignals, filter_of
from gateway.dtc.memory import FaultMemory
from gateway.dtc.model import Definition, Environment, FrozenValue, TestResult
from gateway.dtc.ports import Vehicle
from gateway.dtc.rules import (
    BusOffTest,
    ConditionTest,
    IntegrityTest,
    MissingTest,
    MonitorRule,
    RangeTest,
    RateTest,
    Rules,
)
from gateway.dtc.scalar import NAN, Present, Reader, compile_condition

MAX_GAP_NS = 2_000_000_000
BACK_NS = 1_000_000_000
#: The ignition must be off for so long: a line that flickers while the car starts makes no cycles.
IGNITION_OFF_NS = 1_000_000_000
#: Frames with checksums or counters that wait for the next look; more are judged at once.
MAX_UNVERIFIED = 4096
_STALE_CYCLES = 5
_BUS_OFF, _RESTARTED = 0x40, 0x100  # error classes of linux/can/error.h


class _Runner:
    """One monitor with what it remembers."""

    def __init__(self, rule: MonitorRule, check: Check, enable: Reader | None) -> None:
        self.code, self.check = rule.definition.code, check
        self._enable, self._delay_ns = enable, rule.enable_delay_ns
        self._enabled_since_ns: int | None = None

    def look(self, look: Look) -> TestResult:
        """What the test says now; UNKNOWN while it is not enabled."""
        if self._enable is not None and self._enable() != 1.0:
            self._forget()
            return TestResult.UNKNOWN
        if self._enabled_since_ns is None:
            self._enabled_since_ns = look.now_ns
            self.check.begin(look)
        if look.now_ns - self._enabled_since_ns < self._delay_ns and self._enable is not None:
            return TestResult.UNKNOWN
        return self.check.look(look)

    def _forget(self) -> None:
        self._enabled_since_ns = None

    def begin_cycle(self) -> None:
        """Another operation cycle: the enabling conditions must hold anew."""
        self._forget()


class MonitorEngine:
    """A ``FrameObserver`` that runs the rules of one vehicle.

    Args:
        state: for odometer and ignition; it must be observed before this one. Without an ignition signal the operation
            cycle runs from ``begin`` to ``end``.
        max_entries: room in the fault memory.
    """

    def __init__(self, rules: Rules, manifest: Manifest, state: Vehicle, *, max_entries: int = 64) -> None:
        self.rules, self.manifest, self._state = rules, manifest, state
        self.memory = FaultMemory(rules.definitions, capture=self._capture, max_entries=max_entries)
        self._rule = {m.definition.code: m for m in rules.monitors}
        signals = _signals_of(rules)
        self._place = {signal: i for i, signal in enumerate(signals)}
        self._names = [_describe(manifest, s) for s in signals]
        integrity = {r.message: r for m in rules.monitors if isinstance(m.test, IntegrityTest) for r in m.test.rules}
        missing = [n for m in rules.monitors if isinstance(m.test, MissingTest) for n, _ in m.test.messages]
        self._latest = LatestSignals(manifest, signals, [*integrity, *missing])
        self._verifier = Verifier(integrity.values())
        self._message_of_slot = np.array(self._latest.messages, np.int32)
        self._is_checked = np.isin(self._message_of_slot, list(integrity)) if integrity else None
        self._unverified: list[tuple[FrameBatch, NDArray[np.int32]]] = []
        self._unverified_frames = 0
        self._stale_ns = np.array([_stale_ns(manifest, s, rules.stale_ns) for s in signals], np.int64)
        self._present = Present(len(signals))
        self._look = Look(self._present, len(manifest.messages), len(manifest.buses))
        self._runners = [self._runner(m) for m in rules.monitors]
        self._watched_buses = {
            m.test.bus for m in rules.monitors if isinstance(m.test, MissingTest | BusOffTest) and m.test.bus >= 0
        }
        self._frame_ns: int | None = None  # UTC of the newest frame, carried on
        self._called_ns = 0  # UTC of the last call
        self._now_ns = 0
        self._end_ns = 0  # the engine's time of ``_frame_ns``
        self._utc_ns = 0  # of the look under way
        self._next_look_ns = 0
        self._is_begun = False
        self._ignition_told_ns = self._ignition_on_ns = 0  # when it was last known, and last on
        self.looks = 0

    def _runner(self, rule: MonitorRule) -> _Runner:
        def compiled(test: ConditionTest) -> Reader:
            return compile_condition(test.condition, [self._place[s] for s in test.condition.inputs], self._present)

        slots = {message: slot for slot, message in enumerate(self._latest.messages)}
        buses = {message: self.manifest.messages[message].bus for message in slots}
        check = make_check(rule.test, self._place, slots, buses, compiled)
        enable = None if rule.enable is None else compiled(ConditionTest(condition=rule.enable))
        return _Runner(rule, check, enable)

    # -- FrameObserver ------------------------------------------------------------------------------------------

    def wanted(self) -> dict[str, Collection[Wanted]]:
        """See ``FrameObserver``. A bus that is watched as a whole lets its most frequent message pass."""
        wanted = self._latest.wanted()
        for bus in self._watched_buses:
            cyclic = [m for m in self.manifest.messages if m.bus == bus and m.cycle_ms]
            for message in sorted(cyclic, key=lambda m: m.cycle_ms or 0)[:4]:
                wanted.setdefault(self.manifest.buses[bus], set()).add(filter_of(message))
        return dict(wanted)

    def observe(self, frames: FrameBatch, now_ns: int) -> None:
        """See ``FrameObserver``."""
        if not self._runners:
            return
        if not len(frames):
            self._pass_time(now_ns)
            return
        self._called_ns = now_ns
        slots = self._latest.slots(frames)
        rows = np.flatnonzero(slots >= 0)
        all_times, end_ns = self._times(frames)
        buses = self._bus_times(frames, all_times)
        times, slots = all_times[rows], slots[rows]
        wanted = frames.take(rows) if len(rows) < len(frames) else frames
        at = 0
        while self._next_look_ns <= end_ns:
            until = at + int(np.searchsorted(times[at:], self._next_look_ns, "left"))
            self._put(wanted, slots, times, at, until)
            self._see_buses(buses, self._next_look_ns)
            at = until
            self._look_at(self._next_look_ns)
        self._put(wanted, slots, times, at, len(rows))
        self._see_buses(buses, end_ns + 1)
        self._now_ns = end_ns

    def _pass_time(self, now_ns: int) -> None:
        step_ns = min(max(0, now_ns - self._called_ns), MAX_GAP_NS) if self._called_ns else 0
        self._called_ns = now_ns
        if self._frame_ns is not None:
            self._frame_ns += step_ns
        self._now_ns += step_ns
        self._end_ns = self._now_ns
        while self._next_look_ns <= self._now_ns:
            self._look_at(self._next_look_ns)

    def _times(self, frames: FrameBatch) -> tuple[NDArray[np.int64], int]:
        """The engine's time of each frame and of the batch's end; never goes back."""
        stamps = frames.timestamp_ns
        last = self._frame_ns
        if last is None or int(stamps.min()) < last - BACK_NS:
            last = int(stamps[0])
        monotone = np.maximum.accumulate(np.concatenate([np.array([last], np.int64), stamps]))
        times = self._now_ns + np.cumsum(np.minimum(np.diff(monotone), MAX_GAP_NS))
        self._frame_ns, self._end_ns = int(monotone[-1]), int(times[-1])
        return times, self._end_ns

    def _put(self, frames: FrameBatch, slots: NDArray[np.intp], times: NDArray[np.int64], begin: int, end: int) -> None:
        if begin == end:
            return
        if end - begin < len(slots):
            chosen = slice(begin, end)
            frames, slots, times = frames.take(chosen), slots[chosen], times[chosen]
        self._latest.put(frames, slots, times)
        if self._is_checked is not None:
            checked = self._is_checked[slots]
            if checked.any():
                self._unverified.append((frames.take(checked), self._message_of_slot[slots[checked]]))
                self._unverified_frames += len(self._unverified[-1][1])
                if self._unverified_frames > MAX_UNVERIFIED:
                    self._verify()

    def _verify(self) -> None:
        """Judge checksums and counters of what came since the last time: ten large batches a second, not a hundred."""
        parts, self._unverified, self._unverified_frames = self._unverified, [], 0
        if not parts:
            return
        frames = parts[0][0] if len(parts) == 1 else FrameBatch.concatenate([part for part, _ in parts])
        numbers = np.concatenate([numbers for _, numbers in parts])
        verdict, look = self._verifier.check(frames, numbers), self._look
        count = len(self.manifest.messages)
        look.frames += np.bincount(numbers, minlength=count)
        if not verdict.checksum_ok.all():
            look.bad_checksums += np.bincount(numbers[~verdict.checksum_ok], minlength=count)
        if not verdict.counter_ok.all():
            look.bad_counters += np.bincount(numbers[~verdict.counter_ok], minlength=count)

    def _bus_times(self, frames: FrameBatch, times: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        """Of watched buses, when frames came. Error frames that tell of bus-off are taken in at once."""
        is_error = frames.flags & np.uint8(ERROR) != 0
        if is_error.any():
            for at in np.flatnonzero(is_error).tolist():
                bus, kind = int(frames.bus[at]), int(frames.can_id[at])
                if kind & (_BUS_OFF | _RESTARTED) and bus < len(self.manifest.buses):
                    self.tell_bus(self.manifest.buses[bus], is_off=bool(kind & _BUS_OFF))
        return {bus: times[(frames.bus == bus) & ~is_error] for bus in self._watched_buses}

    def _see_buses(self, buses: dict[int, NDArray[np.int64]], before_ns: int) -> None:
        for bus, times in buses.items():
            if count := int(np.searchsorted(times, before_ns, "left")):
                self._look.bus_seen_ns[bus] = int(times[count - 1])

    # -- what others tell ---------------------------------------------------------------------------------------

    def tell_ecu(self, name: str, *, is_silent: bool) -> None:
        """An ECU was asked: it answered, or did not."""
        self._look.silent_ecus[name] = is_silent

    def tell_bus(self, name: str, *, is_off: bool) -> None:
        """A bus went off, or came back. Error frames on the bus say the same."""
        if name in self.manifest.buses:
            self._look.bus_is_off[self.manifest.buses.index(name)] = is_off

    def begin(self) -> None:
        """The gateway runs: without an ignition signal an operation cycle begins."""
        self._is_begun = True
        if not self._state.has_ignition:
            self._begin_cycle()

    def end(self) -> None:
        """The gateway stops."""
        self._is_begun = False
        if not self._state.has_ignition:
            self.memory.end_cycle()

    @property
    def now_ns(self) -> int:
        """The engine's own time, counted from its start."""
        return self._now_ns

    @property
    def signals(self) -> tuple[int, ...]:
        """Numbers of all signals that monitors or snapshots need."""
        return self._latest.signals

    def value_of(self, signal: int) -> float | None:
        """The present value of one of ``signals``; None when unknown or stale."""
        value = self._present.value[self._place[signal]]
        return None if value != value else value

    # -- looking ------------------------------------------------------------------------------------------------

    def _look_at(self, at_ns: int) -> None:
        self._next_look_ns = at_ns + self.rules.period_ns
        newest_ns = self._called_ns if self._frame_ns is None else self._frame_ns
        self._utc_ns = newest_ns - (self._end_ns - at_ns)
        self._follow_ignition(at_ns)
        self._refresh(at_ns)
        self._verify()
        if self.memory.is_cycle_running:
            self.looks += 1
            look, memory = self._look, self.memory
            look.now_ns = at_ns
            for runner in self._runners:
                memory.report(runner.code, runner.look(look), at_ns)
        self._look.forget_counts()

    def _refresh(self, at_ns: int) -> None:
        latest = self._latest
        latest.refresh()
        age_ns = at_ns - latest.time_ns
        known = (latest.time_ns != NEVER) & (age_ns <= self._stale_ns)
        self._present.value[:] = np.where(known, latest.value, NAN).tolist()
        self._present.age_ms[:] = np.where(latest.time_ns == NEVER, NAN, age_ns / 1e6).tolist()
        self._look.seen_ns[:] = latest.seen_ns.tolist()

    def _follow_ignition(self, at_ns: int) -> None:
        if not self._is_begun or not self._state.has_ignition:
            return
        is_on = self._state.is_ignition_on
        if is_on is not None:
            self._ignition_told_ns = at_ns
        if is_on:
            self._ignition_on_ns = at_ns
            if not self.memory.is_cycle_running:
                self._begin_cycle()
        elif self.memory.is_cycle_running:
            is_off = is_on is False and at_ns - self._ignition_on_ns >= IGNITION_OFF_NS
            if is_off or at_ns - self._ignition_told_ns > self.rules.cycle_end_ns:
                self.memory.end_cycle()

    def _begin_cycle(self) -> None:
        for runner in self._runners:
            runner.begin_cycle()
        self.memory.start_cycle()

    def _capture(self, definition: Definition) -> Environment:
        rule = self._rule[definition.code]
        values = []
        for signal in rule.snapshot:
            place = self._place[signal]
            name, unit, labels = self._names[place]
            value = self._present.value[place]
            if value != value:
                values.append(FrozenValue(name, None, unit))
            else:
                values.append(FrozenValue(name, value, unit, labels.get(value, "")))
        return Environment(self._utc_ns, self._state.odometer_km, tuple(values))


def _describe(manifest: Manifest, number: int) -> tuple[str, str, dict[float, str]]:
    signal = manifest.signals[number]
    labels = {raw * signal.scale + signal.offset: text for raw, text in signal.labels.items()}
    return manifest.signal_names[number], signal.unit, labels


def _signals_of(rules: Rules) -> list[int]:
    """All signals that any rule looks at or freezes, each once."""
    signals: dict[int, None] = {}
    for monitor in rules.monitors:
        match monitor.test:
            case RangeTest(signal=signal) | RateTest(signal=signal):
                signals[signal] = None
            case ConditionTest(condition=condition):
                signals.update(dict.fromkeys(condition.inputs))
        if monitor.enable is not None:
            signals.update(dict.fromkeys(monitor.enable.inputs))
        signals.update(dict.fromkeys(monitor.snapshot))
    return list(signals)


def _stale_ns(manifest: Manifest, signal: int, least_ns: int) -> int:
    """A signal whose message has no cycle is known for ever."""
    cycle_ms = manifest.messages[manifest.signal_message[signal]].cycle_ms
    return max(least_ns, _STALE_CYCLES * cycle_ms * 1_000_000) if cycle_ms else 1 << 61
