"""Modes 01 to 0A of SAE J1979 on CAN (ISO 15765-4), on the same fault memory as 0x19.

What is not supported, or not of the right form, is not answered at all. Answers of 03, 07 and 0A begin with the number
of codes; a code has two bytes here. Modes 05 (not on CAN) and 08 (no test to command) are known and silent.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

from gateway.wire.dtc import Status
from simulator.ecu.base import BaseService
from simulator.ecu.context import EcuContext
from simulator.ecu.description import DescriptionError, EcuDescription
from simulator.ecu.dtc_description import ObdDescription, ObdMonitor
from simulator.ecu.dtc_unit import FaultUnit, fault_unit
from simulator.ecu.obd_values import obd_values, scaled, support_masks
from simulator.ecu.service import Call, NoAnswer, Nrc, Refusal
from simulator.model.parameters import VIN

MAX_PIDS, MAX_FRAME_PIDS = 6, 3
FRAME_CODE_PID = 0x02
CALIBRATION_BYTES, NAME_BYTES = 16, 20
#: Counters of infotype 08: two general ones and pairs of seven monitor groups, none of which this car has.
USE_COUNTERS = 16
SOFTWARE_NUMBER, SOFTWARE_VERSION = 0xF188, 0xF189


class _ObdService(BaseService):
    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        super().__init__(context, description)
        self.unit: FaultUnit = fault_unit(context)
        if self.unit.obd is None:
            raise DescriptionError(f"{description.name}: service {self.SID:#04x} needs a section obd")
        self.obd: ObdDescription = self.unit.obd
        try:
            self.values = obd_values(context)
        except ValueError as error:
            raise DescriptionError(f"{description.name}: obd: {error}") from error


class CurrentData(_ObdService):
    """Mode 01: up to six PIDs; those the ECU has are answered."""

    SID = 0x01

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        if not 1 <= len(call.data) <= MAX_PIDS:
            raise NoAnswer
        read = ((pid, self.values.read(pid)) for pid in call.data)
        out = b"".join(bytes([pid]) + value for pid, value in read if value is not None)
        if not out:
            raise NoAnswer
        return out

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return {"pids": [f"{pid:02X}" for pid in sorted({*self.values.pids, *self.values.masks})]}


class FreezeFrame(_ObdService):
    """Mode 02: up to three pairs of PID and frame number. There is one frame, 00."""

    SID = 0x02

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        pairs = [call.data[i : i + 2] for i in range(0, len(call.data), 2)]
        if not 1 <= len(pairs) <= MAX_FRAME_PIDS or len(call.data) % 2:
            raise NoAnswer
        masks = support_masks([FRAME_CODE_PID, *self.values.frame_pids])
        out = b""
        for pid, frame in pairs:
            value = masks.get(pid, self._value(pid))
            if frame == 0 and value is not None:
                out += bytes([pid, frame]) + value
        if not out:
            raise NoAnswer
        return out

    def _value(self, pid: int) -> bytes | None:
        life = self.unit.life
        if pid == FRAME_CODE_PID:
            return (life.frame_code >> 8).to_bytes(2, "big")
        return life.frame.get(pid)

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return {"pids": [f"{pid:02X}" for pid in (FRAME_CODE_PID, *self.values.frame_pids)]}


class _Codes(_ObdService):
    def numbers(self) -> list[int]:
        """The codes it tells of."""
        raise NotImplementedError

    def having(self, bit: Status) -> list[int]:
        """Emissions-related codes with a status bit."""
        return [number for number in self.unit.emissions if self.unit.memory.states[number].has(bit)]

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        if call.data:
            raise NoAnswer
        codes = list(dict.fromkeys((number >> 8).to_bytes(2, "big") for number in self.numbers()))[:255]
        return bytes([len(codes)]) + b"".join(codes)


class StoredCodes(_Codes):
    """Mode 03: confirmed codes."""

    SID = 0x03

    def numbers(self) -> list[int]:
        """See ``_Codes``."""
        return self.having(Status.CONFIRMED)


class PendingCodes(_Codes):
    """Mode 07: codes that failed in this or the last completed driving cycle."""

    SID = 0x07

    def numbers(self) -> list[int]:
        """See ``_Codes``."""
        return self.having(Status.PENDING)


class PermanentCodes(_Codes):
    """Mode 0A: codes that only the ECU itself forgets."""

    SID = 0x0A

    def numbers(self) -> list[int]:
        """See ``_Codes``."""
        return self.unit.reader.permanent()


class ClearCodes(_ObdService):
    """Mode 04: only the bare request clears, and only while the vehicle stands."""

    SID = 0x04

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        if call.data:
            raise NoAnswer
        if not self.context.is_standing:
            raise Refusal(Nrc.CONDITIONS_NOT_CORRECT)
        self.unit.clear(self.unit.emissions)
        return b""


class Silent(_ObdService):
    """A mode that is known and never answered."""

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        raise NoAnswer

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return {"answers": "none"}


class OxygenSensors(Silent):
    """Mode 05: mode 06 has its place on CAN."""

    SID = 0x05


class RequestControl(Silent):
    """Mode 08: there is no system to command."""

    SID = 0x08


class MonitorResults(_ObdService):
    """Mode 06: results with their limits by monitor; zeros for a test that has not completed since the last clear."""

    SID = 0x06

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        super().__init__(context, description)
        self._monitors: dict[int, list[ObdMonitor]] = {}
        for monitor in self.obd.monitors:
            if not context.vehicle.has(monitor.signal):
                raise DescriptionError(f"{description.name}: obd: no signal {monitor.signal}")
            if monitor.number not in self.unit.memory.codes:
                raise DescriptionError(f"{description.name}: obd: monitor of {monitor.code}, a code it does not have")
            self._monitors.setdefault(monitor.mid, []).append(monitor)
        self._masks = support_masks(list(self._monitors))

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        return _masks_or_one(call.data, self._masks, self._results)

    def _results(self, mid: int) -> bytes | None:
        if mid not in self._monitors:
            return None
        return b"".join(self._result(monitor) for monitor in self._monitors[mid])

    def _result(self, monitor: ObdMonitor) -> bytes:
        head = bytes([monitor.mid, monitor.tid, monitor.scaling])
        if self.unit.memory.states[monitor.number].has(Status.NOT_COMPLETED_SINCE_CLEAR):
            return head + bytes(6)
        values = (self.context.vehicle.value(monitor.signal), monitor.minimum, monitor.maximum)
        return head + b"".join(scaled((value - monitor.offset) / monitor.factor, 2) for value in values)

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return {"monitors": {f"{mid:02X}": [f"{m.tid:02X}" for m in found] for mid, found in self._monitors.items()}}


class VehicleInformation(_ObdService):
    """Mode 09."""

    SID = 0x09

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        super().__init__(context, description)
        self._types: dict[int, Callable[[], bytes]] = {
            0x02: lambda: b"\x01" + VIN.encode("ascii"),
            0x04: lambda: b"\x01" + self.calibration_id(),
            0x06: lambda: b"\x01" + self.verification_number(),
            0x08: self._use,
            0x0A: lambda: b"\x01" + self._name(),
        }
        self._masks = support_masks(list(self._types))

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        return _masks_or_one(call.data, self._masks, self._information)

    def _information(self, infotype: int) -> bytes | None:
        read = self._types.get(infotype)
        return None if read is None else bytes([infotype]) + read()

    def calibration_id(self) -> bytes:
        """Number and version of the software, as a flash changes them."""
        parts = [(self.context.read_did(did) or b"").strip() for did in (SOFTWARE_NUMBER, SOFTWARE_VERSION)]
        text = self.obd.calibration_id.encode("ascii") or b"".join(parts).translate(None, b".-")
        return text[:CALIBRATION_BYTES].ljust(CALIBRATION_BYTES, b"\x00")

    def verification_number(self) -> bytes:
        """CRC-32 over what can be programmed, and over the calibration identifier."""
        crc32 = zlib.crc32(self.calibration_id())
        for region in self.description.memory.regions:
            if region.name in (self.description.flash or {}).get("regions", ()):
                crc32 = zlib.crc32(self.context.memory.data(region), crc32)
        return crc32.to_bytes(4, "big")

    def _use(self) -> bytes:
        cycles = scaled(self.unit.life.cycles, 2)
        return bytes([USE_COUNTERS]) + (cycles + cycles).ljust(2 * USE_COUNTERS, b"\x00")

    def _name(self) -> bytes:
        acronym, _, text = self.obd.name.partition("-")
        return acronym.encode("ascii")[:4].ljust(4, b"\x00") + b"-" + text.encode("ascii")[:15].ljust(15, b"\x00")

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return {"infotypes": [f"{number:02X}" for number in sorted({*self._types, *self._masks})]}


def _masks_or_one(data: bytes, masks: Mapping[int, bytes], read: Callable[[int], bytes | None]) -> bytes:
    """Up to six support masks, or one identifier with data."""
    if data and len(data) <= MAX_PIDS and all(number % 0x20 == 0 for number in data):
        out = b"".join(bytes([number]) + masks[number] for number in data if number in masks)
        if out:
            return out
    elif len(data) == 1:
        one = read(data[0])
        if one is not None:
            return one
    raise NoAnswer


OBD_SERVICES: dict[int, Callable[[EcuContext, EcuDescription], BaseService]] = {
    service.SID: service
    for service in (
        CurrentData, FreezeFrame, StoredCodes, ClearCodes, OxygenSensors, MonitorResults, PendingCodes, RequestControl,
        VehicleInformation, PermanentCodes,
    )
}  # fmt: skip
