"""Service 0x19, ReadDTCInformation: what each sub-function tells of a fault memory (ISO 14229-1, 12.3).

Not here: mirror memory (0F-13), which the 2020 edition took out. A parameter nobody has (a code, a record number, a
memory or group) is 0x31; a known code without such a record is a positive answer that ends after the code's status.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from gateway.wire.dtc import Status
from simulator.ecu.dtc_description import EMISSIONS_GROUP, FIRST_SNAPSHOT, LAST_SNAPSHOT, SAFETY_GROUP
from simulator.ecu.dtc_memory import FaultMemory, SnapshotRecord
from simulator.ecu.service import Nrc, Refusal

ALL_RECORDS, OBD_RECORDS = 0xFF, 0xFE
#: DTCFormatIdentifier: ISO 14229-1 DTC format; SAE J2012-DA as WWH-OBD wants it.
FORMAT, WWH_FORMAT = 0x01, 0x04
#: Sub-function to the length of the whole request.
LENGTHS = {
    0x01: 3, 0x02: 3, 0x03: 2, 0x04: 6, 0x05: 3, 0x06: 6, 0x07: 4, 0x08: 4, 0x09: 5, 0x0A: 2, 0x0B: 2, 0x0C: 2,
    0x0D: 2, 0x0E: 2, 0x14: 2, 0x15: 2, 0x16: 3, 0x17: 4, 0x18: 7, 0x19: 7, 0x1A: 3, 0x42: 5, 0x55: 3, 0x56: 4,
}  # fmt: skip
USER_MEMORY_SUBFUNCTIONS = frozenset({0x17, 0x18, 0x19})


@dataclass(frozen=True, slots=True)
class ExtendedRecord:
    """An extended data record: how its bytes come from a code's state and entry."""

    name: str
    read: Callable[[FaultMemory, int], bytes]
    is_obd: bool = False


def _odometer(memory: FaultMemory, number: int) -> bytes:
    return min(0xFFFFFF, int(memory.entries[number].odometer_km)).to_bytes(3, "big")


#: Records of a code that has an entry. 0x90-0x9F are those of regulated emissions.
EXTENDED: dict[int, ExtendedRecord] = {
    0x01: ExtendedRecord("occurrence counter", lambda memory, n: bytes([memory.states[n].occurrences])),
    0x02: ExtendedRecord("aging counter", lambda memory, n: bytes([memory.states[n].aging])),
    0x03: ExtendedRecord("operation cycles with a failure", lambda memory, n: bytes([memory.states[n].failed_cycles])),
    0x04: ExtendedRecord("odometer in km at the first failure", _odometer),
    0x05: ExtendedRecord("fault detection counter", lambda memory, n: bytes([memory.states[n].detection_byte])),
    0x90: ExtendedRecord(
        "trips in a row with a failure, good cycles since",
        lambda memory, n: bytes([memory.states[n].trips, min(255, memory.states[n].good_cycles)]),
        is_obd=True,
    ),
}


class DtcReader:
    """Answers 0x19 from one or two memories."""

    def __init__(self, memory: FaultMemory, user: FaultMemory | None, user_selection: int) -> None:
        """``user`` is the memory that ``user_selection`` selects in 17-19."""
        self._memory, self._user, self._selection = memory, user, user_selection
        lamp = any(dtc.lamp for dtc in memory.codes.values())
        #: DTCStatusAvailabilityMask: the bits this ECU uses.
        self.availability = 0xFF if lamp else 0x7F
        self._table: dict[int, Callable[[bytes], bytes]] = {
            0x01: self._count, 0x02: self._by_status, 0x03: self._snapshot_ids, 0x04: self._snapshots,
            0x05: self._stored_data, 0x06: self._extended, 0x07: self._count_by_severity, 0x08: self._by_severity,
            0x09: self._severity, 0x0A: self._supported, 0x0B: self._milestone("first_failed"),
            0x0C: self._milestone("first_confirmed"), 0x0D: self._milestone("last_failed"),
            0x0E: self._milestone("last_confirmed"), 0x14: self._detection_counters, 0x15: self._permanent,
            0x16: self._extended_by_number, 0x17: self._user_by_status, 0x18: self._user_snapshots,
            0x19: self._user_extended, 0x1A: self._having_extended, 0x42: self._wwh_by_mask,
            0x55: self._wwh_permanent, 0x56: self._by_readiness,
        }  # fmt: skip

    @property
    def subfunctions(self) -> frozenset[int]:
        """Those this ECU can answer: emissions and user memory only where there are such."""
        out = set(self._table)
        if self._user is None:
            out -= USER_MEMORY_SUBFUNCTIONS
        if not self._groups():
            out -= {0x42, 0x55, 0x56}
        return frozenset(out)

    def answer(self, sub: int, data: bytes) -> bytes:
        """The answer after ``59 sub``; ``data`` is what follows the sub-function, of the right length.

        Raises:
            Refusal: 0x31.
        """
        return self._table[sub](data)

    # ---- lists

    def _status_of(self, number: int) -> int:
        return self._memory.states[number].status & self.availability

    def _list(self, numbers: Collection[int], memory: FaultMemory | None = None) -> bytes:
        states = (memory or self._memory).states
        return b"".join(n.to_bytes(3, "big") + bytes([states[n].status & self.availability]) for n in numbers)

    def _having(self, mask: int, memory: FaultMemory | None = None) -> list[int]:
        return [number for number, _ in (memory or self._memory).having(mask & self.availability)]

    def _counted(self, count: int) -> bytes:
        return bytes([self.availability, FORMAT]) + count.to_bytes(2, "big")

    def _count(self, data: bytes) -> bytes:
        return self._counted(len(self._having(data[0])))

    def _by_status(self, data: bytes) -> bytes:
        return bytes([self.availability]) + self._list(self._having(data[0]))

    def _supported(self, data: bytes) -> bytes:
        return bytes([self.availability]) + self._list(self._memory.codes)

    def _milestone(self, name: str) -> Callable[[bytes], bytes]:
        def answer(data: bytes) -> bytes:
            number: int | None = getattr(self._memory.milestones, name)
            return bytes([self.availability]) + self._list([] if number is None else [number])

        return answer

    def _permanent(self, data: bytes) -> bytes:
        return bytes([self.availability]) + self._list(self.permanent())

    def permanent(self) -> list[int]:
        """Codes with permanent status."""
        return [number for number, state in self._memory.states.items() if state.permanent]

    def _detection_counters(self, data: bytes) -> bytes:
        rising = [(n, s.detection_byte) for n, s in self._memory.states.items() if 1 <= int(s.detection) < 127]
        return b"".join(number.to_bytes(3, "big") + bytes([counter]) for number, counter in rising)

    # ---- severity

    def _matching_severity(self, severity_mask: int, status_mask: int) -> list[int]:
        codes = self._memory.codes
        return [n for n in self._having(status_mask) if codes[n].severity_byte & severity_mask]

    def _count_by_severity(self, data: bytes) -> bytes:
        return self._counted(len(self._matching_severity(data[0], data[1])))

    def _severity_record(self, number: int) -> bytes:
        dtc = self._memory.codes[number]
        return bytes([dtc.severity_byte, dtc.functional_unit]) + self._list([number])

    def _by_severity(self, data: bytes) -> bytes:
        found = self._matching_severity(data[0], data[1])
        return bytes([self.availability]) + b"".join(self._severity_record(number) for number in found)

    def _severity(self, data: bytes) -> bytes:
        return bytes([self.availability]) + self._severity_record(self._known(data))

    # ---- snapshots

    def _known(self, data: bytes, memory: FaultMemory | None = None) -> int:
        number = int.from_bytes(data[:3], "big")
        if number not in (memory or self._memory).codes:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        return number

    def _snapshot_ids(self, data: bytes) -> bytes:
        entries = self._memory.entries
        return b"".join(
            number.to_bytes(3, "big") + bytes([record])
            for number in self._memory.ordered_entries()
            for record in sorted(entries[number].snapshots)
        )

    def _snapshots(self, data: bytes) -> bytes:
        return self._snapshots_of(self._memory, data)

    def _snapshots_of(self, memory: FaultMemory, data: bytes) -> bytes:
        number, record = self._known(data, memory), data[3]
        if record not in (FIRST_SNAPSHOT, LAST_SNAPSHOT, ALL_RECORDS):
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        out = self._list([number], memory)
        entry = memory.entries.get(number)
        if entry is not None:
            wanted = sorted(entry.snapshots) if record == ALL_RECORDS else [r for r in entry.snapshots if r == record]
            for found in wanted:
                out += bytes([found]) + _snapshot_bytes(entry.snapshots[found])
        return out

    def _stored_data(self, data: bytes) -> bytes:
        """Stored data by record number: the n-th entry of the memory and what was captured first."""
        memory, record = self._memory, data[0]
        order = memory.ordered_entries()
        if record == ALL_RECORDS:
            wanted = list(range(1, len(order) + 1))
        elif 1 <= record <= memory.capacity:
            wanted = [record]
        else:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        out = b""
        for place in wanted:
            out += bytes([place])
            if place <= len(order):
                number = order[place - 1]
                out += self._list([number]) + _snapshot_bytes(memory.entries[number].snapshots.get(FIRST_SNAPSHOT, ()))
        return out

    # ---- extended data

    def _extended(self, data: bytes) -> bytes:
        return self._extended_of(self._memory, data)

    def _extended_of(self, memory: FaultMemory, data: bytes) -> bytes:
        number, record = self._known(data, memory), data[3]
        records = self._extended_records(record, regulated=memory.codes[number].emissions)
        out = self._list([number], memory)
        if number in memory.entries:
            for found in records:
                out += bytes([found]) + EXTENDED[found].read(memory, number)
        return out

    def _extended_records(self, record: int, *, regulated: bool) -> list[int]:
        have = self.extended_records
        if record == OBD_RECORDS and any(EXTENDED[r].is_obd for r in have):
            wanted = [r for r in have if EXTENDED[r].is_obd]
        elif record == ALL_RECORDS:
            wanted = list(have)
        elif record in have:
            wanted = [record]
        else:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        return [r for r in wanted if regulated or not EXTENDED[r].is_obd]

    @property
    def extended_records(self) -> tuple[int, ...]:
        """Extended data records this ECU has."""
        regulated = EMISSIONS_GROUP in self._groups()
        return tuple(number for number, record in EXTENDED.items() if regulated or not record.is_obd)

    def _extended_by_number(self, data: bytes) -> bytes:
        record = data[0]
        if record not in self.extended_records:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        out = bytes([record])
        for number in self._with_record(record):
            if number in self._memory.entries:
                out += self._list([number]) + EXTENDED[record].read(self._memory, number)
        return out

    def _with_record(self, record: int) -> list[int]:
        codes = self._memory.codes
        return [number for number in codes if codes[number].emissions or not EXTENDED[record].is_obd]

    def _having_extended(self, data: bytes) -> bytes:
        if data[0] not in self.extended_records:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        return bytes([self.availability, data[0]]) + self._list(self._with_record(data[0]))

    # ---- user-defined memory

    def _selected(self, selection: int) -> FaultMemory:
        if self._user is None or selection != self._selection:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        return self._user

    def _user_by_status(self, data: bytes) -> bytes:
        memory = self._selected(data[1])
        return bytes([data[1], self.availability]) + self._list(self._having(data[0], memory), memory)

    def _user_snapshots(self, data: bytes) -> bytes:
        return bytes([data[4]]) + self._snapshots_of(self._selected(data[4]), data)

    def _user_extended(self, data: bytes) -> bytes:
        return bytes([data[4]]) + self._extended_of(self._selected(data[4]), data)

    # ---- functional groups

    def _groups(self) -> dict[int, list[int]]:
        codes = self._memory.codes
        groups = {
            EMISSIONS_GROUP: [number for number, dtc in codes.items() if dtc.emissions],
            SAFETY_GROUP: [number for number, dtc in codes.items() if dtc.safety],
        }
        return {group: numbers for group, numbers in groups.items() if numbers}

    @property
    def groups(self) -> dict[int, list[int]]:
        """Functional group identifiers and the codes in them."""
        return self._groups()

    def _group(self, identifier: int) -> list[int]:
        numbers = self._groups().get(identifier)
        if numbers is None:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        return numbers

    def _wwh_by_mask(self, data: bytes) -> bytes:
        group, status_mask, severity_mask = data
        members = self._group(group)
        codes = self._memory.codes
        severities = 0
        for number in members:
            severities |= codes[number].severity_byte
        out = bytes([group, self.availability, severities, WWH_FORMAT])
        for number in self._matching_severity(severity_mask, status_mask):
            if number in members:
                out += bytes([codes[number].severity_byte]) + self._list([number])
        return out

    def _wwh_permanent(self, data: bytes) -> bytes:
        members = self._group(data[0])
        return bytes([data[0], self.availability, WWH_FORMAT]) + self._list(
            [number for number in self.permanent() if number in members]
        )

    def _by_readiness(self, data: bytes) -> bytes:
        members = self._group(data[0])
        found = [number for number in members if self._memory.codes[number].readiness == data[1]]
        if not found:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        return bytes([data[0], self.availability, WWH_FORMAT, data[1]]) + self._list(found)


def _snapshot_bytes(values: SnapshotRecord) -> bytes:
    out = bytes([len(values)])
    for did, value in values:
        out += did.to_bytes(2, "big") + value
    return out


def is_ready(memory: FaultMemory, *, this_cycle: bool) -> bool:
    """Whether all tests of emissions codes have completed since the last clear, or in this cycle."""
    bit = Status.NOT_COMPLETED_THIS_CYCLE if this_cycle else Status.NOT_COMPLETED_SINCE_CLEAR
    return not any(memory.states[number].has(bit) for number, dtc in memory.codes.items() if dtc.emissions)
