"""The fault memory of one ECU at work: tests run, operation cycles begin and end, what must survive is stored.

Services 14, 19, 85 and those of OBD share one ``FaultUnit`` (``fault_unit``). The user-defined memory sees the same
results as the primary one, but only a 14 with its memory selection clears it: workshops cannot wipe it by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from simulator.ecu.context import EcuContext
from simulator.ecu.description import DescriptionError
from simulator.ecu.dtc_description import (
    EMISSIONS_GROUP,
    DtcDescription,
    FaultMemoryDescription,
    ObdDescription,
)
from simulator.ecu.dtc_memory import FaultMemory, SnapshotRecord
from simulator.ecu.dtc_read import DtcReader
from simulator.ecu.dtc_tests import PERIOD_S, FaultTests
from simulator.ecu.storage import StorageError

ODOMETER = "powertrain.Odometer.TotalDistance"
ALL_GROUPS, FUNCTIONAL_GROUPS = 0xFFFFFF, 0xFFFF00
NV_KEY, NV_USER_KEY, NV_LIFE_KEY = "dtc.primary", "dtc.user", "dtc.life"
#: A gap between two looks longer than this (power off, boot, simulation paused) is not time in which a fault lasted.
LONGEST_LOOK_S = 1.0


class Life(msgspec.Struct):
    """What the ECU counts besides codes, for OBD. Non-volatile."""

    in_cycle: bool = False
    warmed_up: bool = False
    warm_ups_since_clear: int = 0
    cleared_at_km: float | None = None
    lamp_at_km: float | None = None
    since_clear_s: float = 0.0
    lamp_s: float = 0.0
    cycles: int = 0
    #: The OBD freeze frame: the code that stored it (0: none) and raw PIDs.
    frame_code: int = 0
    frame: dict[int, bytes] = {}


class FaultUnit:
    """Fault memories, tests and counters of one ECU."""

    def __init__(self, context: EcuContext) -> None:
        """Raises ``DescriptionError``: codes that cannot be used; ``StorageError``: stored ones that cannot be read."""
        description = context.description
        self._context = context
        try:
            self.codes = msgspec.convert(list(description.dtcs), list[DtcDescription])
            self.settings = msgspec.convert(description.dtc_settings, FaultMemoryDescription)
            self.obd = None if description.obd is None else msgspec.convert(description.obd, ObdDescription)
            self._tests = FaultTests(self.codes, context.vehicle, lambda: context.receive_off)
            numbers = [dtc.number for dtc in self.codes]
            if len(set(numbers)) != len(numbers):
                raise ValueError("a code is there twice")
        except (msgspec.ValidationError, ValueError) as error:
            raise DescriptionError(f"{description.name}: dtcs: {error}") from error
        self.memory = self._new_memory()
        self.user = self._new_memory() if self.settings.user_memory else None
        self.reader = DtcReader(self.memory, self.user, self.settings.user_memory)
        #: Reads the PIDs of an OBD freeze frame; set by the OBD services.
        self.capture_frame: Callable[[], dict[int, bytes]] = dict
        self.life = Life()
        self.run_s = 0.0  # since the operation cycle began with the drive ready; volatile
        self._saved_changes = -1
        self._looked_s: float | None = None
        self._cycle_began_s = 0.0
        self._told: dict[int, int] = {}
        self._stored: set[int] = set()
        self._load()

    def _new_memory(self) -> FaultMemory:
        return FaultMemory(
            self.codes,
            capacity=self.settings.capacity,
            capture=self._snapshot,
            odometer_km=self.odometer_km,
            usual_snapshot=self.settings.snapshot,
        )

    def _memories(self) -> list[FaultMemory]:
        return [self.memory] if self.user is None else [self.memory, self.user]

    def _snapshot(self, dids: Sequence[int]) -> SnapshotRecord:
        read = ((did, self._context.read_did(did)) for did in dids)
        return tuple((did, value) for did, value in read if value is not None)

    def odometer_km(self) -> float:
        """Of the vehicle, now."""
        vehicle = self._context.vehicle
        return vehicle.value(ODOMETER) if vehicle.has(ODOMETER) else 0.0

    # ---- time

    def tick(self) -> None:
        """Let time pass up to the vehicle's present; call often."""
        now_s = self._context.vehicle.time_s()
        if self._looked_s is None:
            self._looked_s = now_s
        elapsed_s = now_s - self._looked_s
        if elapsed_s < PERIOD_S - 1e-6:
            return
        self._looked_s = now_s
        self._follow_setting()
        if self._context.boot_mode:
            return
        elapsed_s = min(elapsed_s, LONGEST_LOOK_S)
        self._follow_cycle(elapsed_s)
        if self.life.in_cycle and now_s - self._cycle_began_s >= self.settings.settle_s:
            self._tests.look(elapsed_s * 1000, self._observe)
        self._after_changes()

    def _observe(self, number: int, failing: bool, elapsed_ms: float, for_ms: float, heal_ms: float) -> None:
        for memory in self._memories():
            memory.observe(number, failing, elapsed_ms, for_ms, heal_ms)

    def _follow_setting(self) -> None:
        for memory in self._memories():
            if memory.frozen and not self._context.dtcs_frozen:
                memory.thaw()
            elif self._context.dtcs_frozen:
                memory.freeze()

    def _follow_cycle(self, elapsed_s: float) -> None:
        life, value = self.life, self._context.vehicle.value
        active = self.settings.cycle.holds(value(self.settings.cycle.signal))
        if active and not life.in_cycle:
            self.begin_cycle()
        elif not active and life.in_cycle:
            life.in_cycle = False
            self._save_life()
        if not active:
            return
        if self.settings.warm_up.holds(value(self.settings.warm_up.signal)):
            self.run_s += elapsed_s
            if self.run_s >= self.settings.warm_up_s and not life.warmed_up:
                life.warmed_up = True
                life.warm_ups_since_clear = min(255, life.warm_ups_since_clear + 1)
                self._save_life()
        life.since_clear_s += elapsed_s
        if self.memory.lamp:
            life.lamp_s += elapsed_s

    def begin_cycle(self) -> None:
        """An operation cycle begins now (also for tests that want forty of them)."""
        life = self.life
        for memory in self._memories():
            memory.begin_cycle(warm_up=life.warmed_up)
        life.in_cycle, life.warmed_up = True, False
        life.cycles += 1
        self.run_s = 0.0
        self._cycle_began_s = self._context.vehicle.time_s()
        self._after_changes()
        self._save_life()

    def pass_cycle(self) -> None:
        """All tests of the present operation cycle pass and it was a warm-up cycle, as if it had been driven."""
        for number in self.memory.codes:
            for memory in self._memories():
                memory.report(number, failed=False)
        if not self.life.warmed_up:
            self.life.warmed_up = True
            self.life.warm_ups_since_clear = min(255, self.life.warm_ups_since_clear + 1)
        self._after_changes()

    # ---- results from outside

    def report(self, number: int, *, failed: bool) -> None:
        """One test result without debounce, as if the test had run. Raises ``KeyError``: no such code."""
        self._follow_setting()
        for memory in self._memories():
            memory.report(number, failed=failed)
        self._after_changes()

    def force(self, number: int, failing: bool | None) -> None:
        """Hold a test's condition failing or passing whatever the vehicle does; None lets go. Raises ``KeyError``."""
        if number not in self.memory.codes:
            raise KeyError(number)
        if failing is None:
            self._tests.forced.pop(number, None)
        else:
            self._tests.forced[number] = failing

    # ---- clearing

    def group(self, group: int) -> list[int] | None:
        """The codes that a group of 0x14 names; None: there is no such group or code."""
        if group == ALL_GROUPS:
            return list(self.memory.codes)
        if group & FUNCTIONAL_GROUPS == FUNCTIONAL_GROUPS:
            return self.reader.groups.get(group & 0xFF)
        return [group] if group in self.memory.codes else None

    def clear(self, numbers: Sequence[int], *, user: bool = False) -> None:
        """Clear these codes in the primary memory, or in the user-defined one instead."""
        if user:
            if self.user is not None:
                self.user.clear(numbers)
            self._after_changes()
            return
        self.memory.clear(numbers)
        if self.life.frame_code in numbers:
            self.life.frame_code, self.life.frame = 0, {}
        if set(self.emissions) <= set(numbers):
            life = self.life
            life.warm_ups_since_clear, life.since_clear_s, life.lamp_s = 0, 0.0, 0.0
            life.cleared_at_km, life.lamp_at_km = self.odometer_km(), None
        self._after_changes()
        self._save_life()

    @property
    def emissions(self) -> list[int]:
        """Emissions-related codes."""
        return self.reader.groups.get(EMISSIONS_GROUP, [])

    # ---- what follows from changes

    def _after_changes(self) -> None:
        changes = sum(memory.changes for memory in self._memories())
        if changes == self._saved_changes:
            return
        self._saved_changes = changes
        self._follow_lamp_and_frame()
        for number, state in self.memory.states.items():
            before = self._told.get(number, state.status)
            self._told[number] = state.status
            if before != state.status:
                self._context.dtc_changed(number, before, state.status)
        self._context.nv.set(NV_KEY, self.memory.save())
        if self.user is not None:
            self._context.nv.set(NV_USER_KEY, self.user.save())
        self._save_life()

    def _follow_lamp_and_frame(self) -> None:
        life, memory = self.life, self.memory
        if memory.lamp and life.lamp_at_km is None:
            life.lamp_at_km, life.lamp_s = self.odometer_km(), 0.0
        elif not memory.lamp:
            life.lamp_at_km = None
        if life.frame_code and life.frame_code not in memory.entries:
            life.frame_code, life.frame = 0, {}
        # Only a failure of this moment: values of now say nothing of one that was stored before.
        new = [number for number in memory.ordered_entries() if number not in self._stored and number in self.emissions]
        self._stored = set(memory.entries)
        if new and not life.frame_code and self.obd is not None:
            life.frame_code, life.frame = new[0], self.capture_frame()

    # ---- non-volatile

    def _save_life(self) -> None:
        life = msgspec.structs.asdict(self.life)
        life["frame"] = [[pid, value] for pid, value in self.life.frame.items()]
        self._context.nv.set(NV_LIFE_KEY, life)

    def _load(self) -> None:
        try:
            self._load_all()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            name = self._context.description.name
            raise StorageError(f"{name}: stored faults cannot be read: {error!r}") from error

    def _load_all(self) -> None:
        nv = self._context.nv
        self.memory.load(nv.get(NV_KEY, {}))
        if self.user is not None:
            self.user.load(nv.get(NV_USER_KEY, {}))
        life: dict[str, Any] = dict(nv.get(NV_LIFE_KEY, {}))
        life["frame"] = {int(pid): bytes(value) for pid, value in life.get("frame", [])}
        self.life = msgspec.convert(life, Life)
        self._stored = set(self.memory.entries)
        self._told = {number: state.status for number, state in self.memory.states.items()}

    def reset(self) -> None:
        """The ECU boots: counters of the debounce start anew, as does the look at time."""
        self._looked_s = None
        self._cycle_began_s = self._context.vehicle.time_s()
        for memory in self._memories():
            for state in memory.states.values():
                state.detection = 0.0


def fault_unit(context: EcuContext) -> FaultUnit:
    """The ECU's one fault unit.

    Raises:
        DescriptionError: its codes cannot be used.
        StorageError: what it stored cannot be read.
    """
    unit = context.shared.get("dtc")
    if not isinstance(unit, FaultUnit):
        unit = context.shared["dtc"] = FaultUnit(context)
    return unit
