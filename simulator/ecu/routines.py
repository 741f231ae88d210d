"""Service 0x31 and what routines do: an effect is a small object with start, stop and results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from simulator.ecu.base import BaseService
from simulator.ecu.context import EcuContext
from simulator.ecu.description import EcuDescription, RoutineDescription
from simulator.ecu.service import Call, Later, Nrc, Refusal

START, STOP, RESULTS = 1, 2, 3


class RoutineEffect(Protocol):
    """What a routine does. Records returned are those after the routine identifier; any may raise ``Refusal``."""

    def start(self, option: bytes, now_s: float) -> bytes | Later:
        """Begin, with the option record."""

    def stop(self, now_s: float) -> bytes:
        """End early. Only called if the description allows it; raises 0x24 if it does not run."""

    def results(self, now_s: float) -> bytes:
        """What came of it; raises 0x24 if it was never started."""

    def session_changed(self, session: int, now_s: float) -> None:
        """As ``Service.session_changed``."""

    def tick(self, now_s: float) -> None:
        """As ``Service.tick``."""


EffectFactory = Callable[[EcuContext, EcuDescription, RoutineDescription], RoutineEffect]

#: Status in the first byte of records.
DONE, RUNNING, STOPPED, FAILED = 0x00, 0x01, 0x02, 0x03


class RoutineControl(BaseService):
    """0x31. An unknown routine is 0x31, before a sub-function it lacks is 0x12."""

    SID = 0x31
    MIN_LENGTH = 4
    LATE_SUBFUNCTION = True

    def __init__(self, context: EcuContext, description: EcuDescription, effects: Mapping[str, EffectFactory]) -> None:
        """Raises ``KeyError`` for an effect that does not exist."""
        super().__init__(context, description)
        self.routines = {r.id: r for r in description.routines}
        self.effects = {r.id: effects[r.effect](context, description, r) for r in description.routines}

    def handle(self, call: Call) -> bytes | Later:
        """See ``Service``."""
        assert call.sub is not None
        number, option = int.from_bytes(call.data[:2], "big"), call.data[2:]
        routine = self.routines.get(number)
        if routine is None or (self.context.boot_mode and not routine.in_boot):
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if routine.access.sessions and call.session not in routine.access.sessions:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if call.sub not in subfunctions_of(routine):
            raise Refusal(Nrc.SUBFUNCTION_NOT_SUPPORTED)
        self.context.check(routine.access)
        if len(option) != (routine.option_bytes if call.sub == START else 0):
            raise Refusal(Nrc.INCORRECT_LENGTH)
        effect, head = self.effects[number], bytes([call.sub]) + call.data[:2]
        if call.sub == STOP:
            return head + effect.stop(call.now_s)
        if call.sub == RESULTS:
            return head + effect.results(call.now_s)
        result = effect.start(option, call.now_s)
        if isinstance(result, bytes):
            return head + result
        finish = result.finish
        return Later(duration_s=result.duration_s, finish=lambda now_s: head + finish(now_s))

    def session_changed(self, session: int, now_s: float) -> None:
        """See ``Service``."""
        for effect in self.effects.values():
            effect.session_changed(session, now_s)

    def tick(self, now_s: float) -> Collection[bytes]:
        """See ``Service``."""
        for effect in self.effects.values():
            effect.tick(now_s)
        return ()

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return {
            "routines": {
                f"{r.id:04X}": {
                    "name": r.name, "subfunctions": sorted(subfunctions_of(r)), "option_bytes": r.option_bytes,
                    "duration_s": r.duration_s, "in_boot": r.in_boot,
                    **(self.context.describe_access(r.access, in_boot=r.in_boot) or {}),
                }
                for r in self.routines.values()
            }
        }  # fmt: skip


def subfunctions_of(routine: RoutineDescription) -> set[int]:
    """What 0x31 takes for a routine."""
    return {START} | ({STOP} if routine.can_stop else set()) | ({RESULTS} if routine.has_results else set())


class BaseEffect:
    """State most effects share: when it ends, whether it was stopped, its record."""

    def __init__(self, context: EcuContext, description: EcuDescription, routine: RoutineDescription) -> None:
        self.context, self.description, self.routine = context, description, routine
        self._ends_s: float | None = None
        self._stopped = False
        self._record = b""

    def _status(self, now_s: float) -> int:
        if self._stopped:
            return STOPPED
        if self._ends_s is None:
            raise Refusal(Nrc.REQUEST_SEQUENCE_ERROR)
        return RUNNING if now_s < self._ends_s else DONE

    def stop(self, now_s: float) -> bytes:
        """See ``RoutineEffect``."""
        if self._status(now_s) != RUNNING:
            raise Refusal(Nrc.REQUEST_SEQUENCE_ERROR)
        self._stopped = True
        self._end()
        return bytes([STOPPED])

    def _end(self) -> None:
        """Undo what acts on the vehicle."""

    def results(self, now_s: float) -> bytes:
        """See ``RoutineEffect``."""
        status = self._status(now_s)
        if status == DONE:
            self._end()
        return bytes([status]) + self._record

    def session_changed(self, session: int, now_s: float) -> None:
        """See ``RoutineEffect``: what runs ends."""
        if self._ends_s is not None and not self._stopped and now_s < self._ends_s:
            self._stopped = True
        self._end()

    def tick(self, now_s: float) -> None:
        """See ``RoutineEffect``."""


class RecordEffect(BaseEffect):
    """Takes its time while the tester waits (0x78), then answers a constant record."""

    def start(self, option: bytes, now_s: float) -> bytes | Later:
        """See ``RoutineEffect``."""
        return Later(duration_s=self.routine.duration_s, finish=self._finish)

    def _finish(self, now_s: float) -> bytes:
        self._ends_s, self._stopped = now_s, False
        self._record = bytes.fromhex(self.routine.result)
        return bytes([DONE]) + self._record


class MeasureEffect(BaseEffect):
    """Takes its time while the tester waits, then answers a signal: two bytes, scaled by ``value``."""

    def start(self, option: bytes, now_s: float) -> bytes | Later:
        """See ``RoutineEffect``."""
        return Later(duration_s=self.routine.duration_s, finish=self._finish)

    def _finish(self, now_s: float) -> bytes:
        raw = round(self.context.vehicle.value(self.routine.signal) / (self.routine.value or 1.0))
        self._ends_s, self._stopped = now_s, False
        self._record = min(0xFFFF, max(0, raw)).to_bytes(2, "big")
        return bytes([DONE]) + self._record


class ActuateEffect(BaseEffect):
    """Answers at once and holds a signal at ``value`` for the duration; can be stopped."""

    def start(self, option: bytes, now_s: float) -> bytes | Later:
        """See ``RoutineEffect``."""
        self.context.vehicle.override(self.routine.signal, self.routine.value)
        self._ends_s, self._stopped = now_s + self.routine.duration_s, False
        return bytes([RUNNING])

    def _end(self) -> None:
        if self._ends_s is not None:
            self.context.vehicle.override(self.routine.signal, None)

    def tick(self, now_s: float) -> None:
        """The signal is let go when time is up."""
        if self._ends_s is not None and not self._stopped and now_s >= self._ends_s:
            self._end()


#: Effects that need nothing of other modules; see ``simulator.ecu.services`` for the others.
EFFECTS: dict[str, EffectFactory] = {
    "record": RecordEffect,
    "measure": MeasureEffect,
    "actuate": ActuateEffect,
}
