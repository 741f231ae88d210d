"""The vehicle on its buses: advances the model and produces the frames of each stretch of time. A core without I/O.

The same manifest, scenario, seed and epoch give the same frames, bit for bit, however time is cut into stretches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbc.frames import FrameBatch
from dbc.manifest import Manifest
from simulator.actuation import Actuators
from simulator.encoder import FlatEncoder, expand
from simulator.faults import Fault, FaultSet
from simulator.model.route import load_route
from simulator.model.vehicle import STEP_S, Vehicle
from simulator.plan import Plan, build_plan
from simulator.scenario import Scenario
from simulator.signals import Readings

STEP_NS = round(STEP_S * 1e9)
#: Longest stretch made at once; bounds memory (about 3 MB of readings per second).
MAX_STEPS = 500


@dataclass(slots=True)
class _Due:
    """Frames that are due: which message of the plan, the how-manieth, and when."""

    sent: NDArray[np.int64]
    count: NDArray[np.int64]
    time_ns: NDArray[np.int64]

    def keep(self, mask: NDArray[np.bool_]) -> None:
        self.sent, self.count, self.time_ns = self.sent[mask], self.count[mask], self.time_ns[mask]


class Simulation:
    """A vehicle in a scenario, sending on all its buses."""

    def __init__(self, manifest: Manifest, scenario: Scenario, *, seed: int, epoch_ns: int) -> None:
        """``epoch_ns`` is the UTC time at which the simulation begins.

        Raises:
            PlanError: the manifest has signals the model does not know.
            FaultError: a fault of the scenario has no such target.
        """
        self.manifest = manifest
        self.scenario = scenario
        self.seed = seed
        self.epoch_ns = epoch_ns
        self.vehicle = Vehicle(load_route(scenario.phases[0].route), scenario.start, seed)
        self._readings = Readings(self.vehicle, epoch_ns)
        self.plan: Plan = build_plan(manifest, self._readings.columns)
        self._encoder = FlatEncoder(self.plan)
        self._matrix = np.zeros((0, len(self._readings.columns)))
        self._jitter = np.random.default_rng(seed ^ 0x5EED).random(4093)
        self.faults = FaultSet(manifest)
        for fault in scenario.faults:
            self.faults.add(fault)
        self.actuators = Actuators(manifest, self.vehicle)
        self.now_ns = 0  # since the simulation began
        #: Column of ``columns`` to the value that a diagnostic tester holds it at.
        self.overrides: dict[int, float] = {}
        #: Numbers of messages that ECUs keep off the bus.
        self.silent_messages: set[int] = set()
        #: By message number, when it was last sent; 0: not yet.
        self.last_sent_ns = np.zeros(len(manifest.messages), np.int64)
        #: The present values, by column; of the model, without faults of sensors.
        self.latest: NDArray[np.float64] = np.zeros(len(self._readings.columns))
        self._readings.fill(self.latest)
        self._phase = -1
        self._phase_ends_s = 0.0
        self._begin_phases()

    def _begin_phases(self) -> None:
        while self._phase + 1 < len(self.scenario.phases) and self.now_ns >= round(self._phase_ends_s * 1e9):
            self._phase += 1
            phase = self.scenario.phases[self._phase]
            begins_s, self._phase_ends_s = self._phase_ends_s, self._phase_ends_s + phase.duration_s
            if phase.route != self.vehicle.route.name:
                self.vehicle.change_route(load_route(phase.route))
            self.vehicle.begin(phase.activity)
            if self._phase == 0 and phase.on_the_road:
                self.vehicle.drive_at_once()
            for bus in phase.silent_buses:
                self.faults.add(Fault(kind="silent", target=bus, at_s=begins_s, duration_s=phase.duration_s))

    @property
    def columns(self) -> dict[str, int]:
        """``bus.Message.Signal`` to its place in ``latest``."""
        return self._readings.columns

    @property
    def phase_name(self) -> str:
        """The phase the scenario is in; the last one goes on for as long as it is asked for."""
        return self.scenario.phases[self._phase].name

    def advance(self, duration_ns: int) -> FrameBatch:
        """The frames of the next ``duration_ns`` (a multiple of 10 ms), in order of time, stamped in UTC.

        Raises:
            ValueError: not a positive multiple of 10 ms.
        """
        if duration_ns <= 0 or duration_ns % STEP_NS:
            raise ValueError(f"{duration_ns} ns is not a multiple of {STEP_NS} ns")
        batches = []
        left = duration_ns // STEP_NS
        while left:
            steps = min(left, MAX_STEPS)
            batches.append(self._stretch(steps))
            left -= steps
        return batches[0] if len(batches) == 1 else FrameBatch.concatenate(batches)

    def _stretch(self, steps: int) -> FrameBatch:
        begin_ns, end_ns = self.now_ns, self.now_ns + steps * STEP_NS
        if len(self._matrix) < steps:
            self._matrix = np.zeros((steps, len(self._readings.columns)))
        for i in range(steps):
            self._begin_phases()
            self.faults.act_on_vehicle(self.vehicle)
            self.vehicle.step()
            row = self._matrix[i]
            self._readings.fill(row)
            for column, value in self.overrides.items():
                row[column] = value
            self.now_ns += STEP_NS
        self.latest[:] = self._matrix[steps - 1]
        due = self._due(begin_ns, end_ns)
        self._silence(due, begin_ns, end_ns)
        self.last_sent_ns[self.plan.sent.message[due.sent]] = due.time_ns
        return self._frames(due, begin_ns, end_ns)

    def _due(self, begin_ns: int, end_ns: int) -> _Due:
        sent = self.plan.sent
        first = np.maximum(0, -((sent.phase_ns + sent.jitter_ns - begin_ns) // sent.cycle_ns))
        last = -((sent.phase_ns - end_ns) // sent.cycle_ns)
        which, count, _ = expand(first, np.maximum(0, last - first))
        jitter = self._jitter[(count * 31 + which * 257) % len(self._jitter)] * sent.jitter_ns[which]
        time_ns = sent.phase_ns[which] + count * sent.cycle_ns[which] + jitter.astype(np.int64)
        due = _Due(which, count, time_ns)
        due.keep((time_ns >= begin_ns) & (time_ns < end_ns))
        order = np.argsort(due.time_ns, kind="stable")
        due.sent, due.count, due.time_ns = due.sent[order], due.count[order], due.time_ns[order]
        return due

    def _silence(self, due: _Due, begin_ns: int, end_ns: int) -> None:
        for f in self.faults.active(begin_ns, end_ns, ("missing", "bus_off", "silent")):
            messages = self.plan.sent.message[due.sent]
            if f.fault.kind == "missing":
                hit = messages == f.message
            else:
                hit = self.plan.layouts.bus[self.plan.sent.first_layout[due.sent]] == f.bus
            due.keep(~(hit & f.when(due.time_ns)))
        if self.silent_messages:
            due.keep(~np.isin(self.plan.sent.message[due.sent], list(self.silent_messages)))

    def _frames(self, due: _Due, begin_ns: int, end_ns: int) -> FrameBatch:
        sent, layouts = self.plan.sent, self.plan.layouts
        layout = sent.first_layout[due.sent] + due.count % sent.layouts[due.sent]
        row = (due.time_ns - begin_ns) // STEP_NS
        pairs, entry, begin = self._encoder.pairs(layout, row, self._matrix)
        self.faults.act_on_values(pairs, due.time_ns, due.count)
        messages = layouts.message[layout]
        counter, spoil = due.count, None
        for f in self.faults.active(begin_ns, end_ns, ("counter_frozen", "bad_checksum")):
            hit = (messages == f.message) & f.when(due.time_ns)
            if f.fault.kind == "counter_frozen":
                place = int(np.flatnonzero(sent.message == f.message)[0])
                frozen = math.ceil((f.fault.at_s * 1e9 - int(sent.phase_ns[place])) / int(sent.cycle_ns[place])) - 1
                counter = np.where(hit, max(0, frozen), counter)
            else:
                spoil = hit if spoil is None else spoil | hit
        data = self._encoder.pack(layout, counter, pairs, entry, begin)
        self.plan.protection.fill(layout, data, spoil)
        length = layouts.length[layout]
        for f in self.faults.active(begin_ns, end_ns, ("wrong_length",)):
            hit = (messages == f.message) & f.when(due.time_ns)
            length = np.where(hit, np.uint8(f.fault.value or 0), length)
            data[hit, int(f.fault.value or 0) :] = 0
        batch = FrameBatch(
            due.time_ns, layouts.bus[layout], layouts.can_id[layout], layouts.flags[layout], length, data
        )
        extra = self.faults.extra_frames(begin_ns, end_ns)
        if len(extra):
            batch = FrameBatch.concatenate([batch, extra])
            batch = batch.take(np.argsort(batch.timestamp_ns, kind="stable"))
        np.add(batch.timestamp_ns, self.epoch_ns, out=batch.timestamp_ns)
        return batch
