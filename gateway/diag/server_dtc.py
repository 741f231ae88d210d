"""ReadDTCInformation (ISO 14229-1, service 0x19) over the gateway's fault memory: request bytes to answer bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gateway.diag.server_data import SNAPSHOT_TIME, float32
from gateway.dtc.memory import FaultMemory
from gateway.dtc.model import Definition, DtcState, Environment
from gateway.dtc.reports import FIRST, MOST_RECENT

AVAILABILITY, FORMAT_ISO14229 = 0xFF, 0x01
ALL_RECORDS = 0xFF
_PREFAILED = range(1, 127)  # of the fault detection counter
_CONFIRMED = 0x08


class Refused(Exception):
    """A negative answer."""

    def __init__(self, nrc: int) -> None:
        super().__init__(f"NRC {nrc:#04x}")
        self.nrc = nrc


OUT_OF_RANGE = 0x31


@dataclass(frozen=True, slots=True, kw_only=True)
class _Extended:
    """One extended data record of ``size`` bytes."""

    name: str
    size: int
    read: Callable[[FaultMemory, DtcState], int | None]


def _entry(name: str) -> Callable[[FaultMemory, DtcState], int | None]:
    return lambda memory, state: None if state.entry is None else getattr(state.entry, name)


def _odometer(which: str) -> Callable[[FaultMemory, DtcState], int | None]:
    """In units of 100 m; FFFFFFFF where it was unknown."""

    def read(memory: FaultMemory, state: DtcState) -> int | None:
        if state.entry is None:
            return None
        here: Environment = getattr(state.entry, which)
        return 0xFFFFFFFF if here.odometer_km is None else round(min(max(here.odometer_km, 0), 4e8) * 10)

    return read


def _time(which: str) -> Callable[[FaultMemory, DtcState], int | None]:
    """UTC seconds."""

    def read(memory: FaultMemory, state: DtcState) -> int | None:
        if state.entry is None:
            return None
        here: Environment = getattr(state.entry, which)
        return min(max(here.at_ns // 1_000_000_000, 0), 0xFFFFFFFF)

    return read


EXTENDED: Mapping[int, _Extended] = {
    0x01: _Extended(name="occurrences", size=1, read=_entry("occurrences")),
    0x02: _Extended(name="aging counter", size=1, read=_entry("aging")),
    0x03: _Extended(name="failed cycles", size=1, read=_entry("failed_cycles")),
    0x04: _Extended(name="cycles since first failure", size=1, read=_entry("cycles_since_first")),
    0x05: _Extended(name="cycles since last failure", size=1, read=_entry("cycles_since_last")),
    0x06: _Extended(name="odometer at first failure (100 m)", size=4, read=_odometer("first")),
    0x07: _Extended(name="odometer at last failure (100 m)", size=4, read=_odometer("last")),
    0x08: _Extended(name="first failure (UTC s)", size=4, read=_time("first")),
    0x09: _Extended(name="last failure (UTC s)", size=4, read=_time("last")),
    0x10: _Extended(name="highest fault detection counter since clear", size=1, read=lambda m, s: max(0, s.max_fdc)),
    0x11: _Extended(
        name="highest fault detection counter this cycle", size=1, read=lambda m, s: max(0, m.cycle_max_fdc(s.code))
    ),
    0x12: _Extended(name="times aged", size=1, read=lambda m, s: s.aged),
}

#: Length of the whole request by sub-function.
LENGTHS: Mapping[int, int] = {
    0x01: 3, 0x02: 3, 0x03: 2, 0x04: 6, 0x06: 6, 0x07: 4, 0x08: 4, 0x09: 5, 0x0A: 2, 0x0B: 2, 0x0C: 2, 0x0D: 2,
    0x0E: 2, 0x14: 2, 0x15: 2, 0x16: 3, 0x17: 4, 0x18: 7, 0x19: 7, 0x1A: 3,
}  # fmt: skip


class DtcReader:
    """Answers to 0x19.

    Args:
        identifiers: data identifier of each signal that snapshots hold, by name.
    """

    def __init__(self, memory: FaultMemory, identifiers: Mapping[str, int]) -> None:
        self._memory, self._identifiers = memory, identifiers

    def answer(self, sub: int, data: bytes) -> bytes:
        """The positive answer after SID and sub-function; ``data`` has the right length.

        Raises:
            Refused: 0x31.
        """
        memory = self._memory
        match sub:
            case 0x01:
                return self._count(memory.matching(data[0]))
            case 0x02:
                return self._list(memory.matching(data[0]))
            case 0x03:
                stored = [s for s in memory.states.values() if s.entry is not None and self._is_primary(s)]
                return b"".join(_code(s) + bytes([r]) for s in stored for r in (FIRST, MOST_RECENT))
            case 0x04 | 0x18:
                return self._snapshots(data, sub == 0x18)
            case 0x06 | 0x19:
                return self._extended(data, sub == 0x19)
            case 0x07 | 0x08 | 0x09:
                return self._by_severity(sub, data)
            case 0x0A:
                return self._list(memory.states.values())
            case 0x0B | 0x0C | 0x0D | 0x0E:
                return self._extreme(sub)
            case 0x14:
                counts = [(s, memory.fault_detection(s.code)) for s in memory.states.values()]
                return b"".join(_code(s) + bytes([fdc]) for s, fdc in counts if fdc in _PREFAILED)
            case 0x15:
                return self._list(s for s in memory.states.values() if s.permanent)
            case 0x16 | 0x1A:
                return self._by_record(sub, data[0])
            case 0x17:
                self._check_memory(data[1])
                return data[1:2] + self._list(memory.matching(data[0], data[1]))
        raise Refused(OUT_OF_RANGE)

    def _is_primary(self, state: DtcState) -> bool:
        return self._memory.definitions[state.code].memory is None

    def _check_memory(self, number: int) -> None:
        if all(d.memory != number for d in self._memory.definitions.values()):
            raise Refused(OUT_OF_RANGE)

    def _find(self, data: bytes, is_user: bool) -> tuple[bytes, Definition, DtcState]:
        """What the answer begins with (the memory's number, if one was chosen), and the DTC."""
        code = int.from_bytes(data[:3], "big")
        definition = self._memory.definitions.get(code)
        wanted = data[4] if is_user else None
        if definition is None or definition.memory != wanted:
            raise Refused(OUT_OF_RANGE)
        return data[4:5], definition, self._memory.states[code]

    def _count(self, states: Iterable[DtcState]) -> bytes:
        return bytes([AVAILABILITY, FORMAT_ISO14229]) + len(list(states)).to_bytes(2, "big")

    def _list(self, states: Iterable[DtcState]) -> bytes:
        return bytes([AVAILABILITY]) + b"".join(_code(s) + bytes([s.status]) for s in states)

    def _snapshots(self, data: bytes, is_user: bool) -> bytes:
        head, _, state = self._find(data, is_user)
        record = data[3]
        if record not in (FIRST, MOST_RECENT, ALL_RECORDS):
            raise Refused(OUT_OF_RANGE)
        answer = head + _code(state) + bytes([state.status])
        if state.entry is None:
            return answer
        for number, here in ((FIRST, state.entry.first), (MOST_RECENT, state.entry.last)):
            if record in (number, ALL_RECORDS):
                answer += bytes([number]) + self._record(here)
        return answer

    def _record(self, here: Environment) -> bytes:
        """Number of identifiers, then each with its data; values of signals nobody declares any more are left out."""
        known = [(self._identifiers[v.name], v.value) for v in here.values if v.name in self._identifiers][:254]
        milliseconds = max(0, here.at_ns // 1_000_000) & (1 << 64) - 1
        answer = bytes([1 + len(known)]) + SNAPSHOT_TIME.to_bytes(2, "big") + milliseconds.to_bytes(8, "big")
        return answer + b"".join(number.to_bytes(2, "big") + float32(value) for number, value in known)

    def _extended(self, data: bytes, is_user: bool) -> bytes:
        head, _, state = self._find(data, is_user)
        wanted = data[3]
        if wanted != ALL_RECORDS and wanted not in EXTENDED:
            raise Refused(OUT_OF_RANGE)
        answer = head + _code(state) + bytes([state.status])
        for number in EXTENDED:
            if wanted in (number, ALL_RECORDS):
                answer += self._extended_record(number, state)
        return answer

    def _extended_record(self, number: int, state: DtcState) -> bytes:
        """Number and data; nothing where the DTC has no entry in memory."""
        record = EXTENDED[number]
        value = None if state.entry is None else record.read(self._memory, state)
        return b"" if value is None else bytes([number]) + value.to_bytes(record.size, "big")

    def _by_severity(self, sub: int, data: bytes) -> bytes:
        if sub == 0x09:
            _, definition, state = self._find(data, False)
            return bytes([AVAILABILITY]) + _with_severity(definition, state)
        found = [
            (self._memory.definitions[s.code], s)
            for s in self._memory.matching(data[1])
            if self._memory.definitions[s.code].severity & data[0]
        ]
        if sub == 0x07:
            return self._count(state for _, state in found)
        return bytes([AVAILABILITY]) + b"".join(_with_severity(d, s) for d, s in found)

    def _extreme(self, sub: int) -> bytes:
        """First or most recent test failed (0B, 0D) or confirmed (0C, 0E) since clear."""
        name = {0x0B: "first_failed", 0x0C: "first_confirmed", 0x0D: "last_failed", 0x0E: "last_confirmed"}[sub]
        found = [(getattr(s, name), s) for s in self._memory.states.values() if getattr(s, name)]
        if not found:
            return bytes([AVAILABILITY])
        choose = min if sub in (0x0B, 0x0C) else max
        return self._list([choose(found, key=lambda pair: pair[0])[1]])

    def _by_record(self, sub: int, number: int) -> bytes:
        if number not in EXTENDED:
            raise Refused(OUT_OF_RANGE)
        if sub == 0x1A:
            return bytes([AVAILABILITY, number]) + b"".join(
                _code(s) + bytes([s.status]) for s in self._memory.states.values()
            )
        stored = [s for s in self._memory.states.values() if s.entry is not None and self._is_primary(s)]
        return bytes([number]) + b"".join(
            _code(s) + bytes([s.status]) + self._extended_record(number, s)[1:] for s in stored
        )


def _code(state: DtcState) -> bytes:
    return state.code.to_bytes(3, "big")


def _with_severity(definition: Definition, state: DtcState) -> bytes:
    return bytes([definition.severity, definition.functional_unit]) + _code(state) + bytes([state.status])
