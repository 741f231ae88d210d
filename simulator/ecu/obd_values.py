"""What an emissions-related ECU tells by SAE J1979: parameter identifiers of modes 01 and 02, as bytes.

All values come from the vehicle model or from the fault unit, so that a generic scan tool sees the same car as the
maker's diagnostics. Formulas as in SAE J1979-DA.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from gateway.wire.dtc import Status
from simulator.ecu.context import EcuContext
from simulator.ecu.dtc_read import is_ready
from simulator.ecu.dtc_unit import FaultUnit, fault_unit

MASK_EVERY = 0x20
#: Comprehensive components: the only monitor a car without a combustion engine has.
COMPONENTS_SUPPORTED, COMPONENTS_INCOMPLETE = 0x04, 0x40
OBD_STANDARD, ELECTRIC = 0x01, 0x08
REFERENCE_TORQUE_NM = 310.0
#: PIDs whose values at the time of a failure say something; the others are not part of a freeze frame.
FRAME_PIDS = frozenset({0x0D, 0x1F, 0x33, 0x42, 0x46, 0x49, 0x4A, 0x5B, 0x61, 0x62})


def scaled(value: float, size: int) -> bytes:
    """Rounded and bounded to what ``size`` bytes hold."""
    return min((1 << 8 * size) - 1, max(0, round(value))).to_bytes(size, "big")


def support_masks(numbers: Collection[int]) -> dict[int, bytes]:
    """The masks 00, 20, 40 …: bit 31 of each is the number after it, bit 0 tells that there is a next mask."""
    out = {}
    for base in range(0, 0x100, MASK_EVERY):
        if base and not any(number >= base for number in numbers):
            break
        mask = 0
        for number in numbers:
            if base < number <= base + MASK_EVERY and number % MASK_EVERY:
                mask |= 1 << (MASK_EVERY - (number - base))
        if any(number >= base + MASK_EVERY for number in numbers):
            mask |= 1
        out[base] = mask.to_bytes(4, "big")
    return out


class ObdValues:
    """Parameter identifiers of one ECU."""

    def __init__(self, context: EcuContext) -> None:
        self._context = context
        self.unit: FaultUnit = fault_unit(context)
        self._every = self._table()
        wanted = self.unit.obd.pids if self.unit.obd is not None else ()
        unknown = [pid for pid in wanted if pid not in self._every]
        if unknown:
            raise ValueError(f"PID {unknown[0]:#04x} is not implemented")
        #: PIDs with data; the masks come on top.
        self.pids: tuple[int, ...] = tuple(sorted(wanted or self._every))
        self.masks = support_masks(self.pids)
        self.frame_pids = tuple(pid for pid in self.pids if pid in FRAME_PIDS)
        self.unit.capture_frame = lambda: {pid: self._every[pid]() for pid in self.frame_pids}

    def read(self, pid: int) -> bytes | None:
        """Bytes of a PID now; None: the ECU does not have it."""
        if pid in self.masks:
            return self.masks[pid]
        return self._every[pid]() if pid in self.pids else None

    def _signal(self, name: str) -> float:
        return self._context.vehicle.value(name) if self._context.vehicle.has(name) else 0.0

    def _linear(self, name: str, size: int, factor: float = 1.0, offset: float = 0.0) -> Callable[[], bytes]:
        return lambda: scaled((self._signal(name) + offset) * factor, size)

    def _table(self) -> dict[int, Callable[[], bytes]]:
        unit, signal = self.unit, self._signal
        pedal = "powertrain.AcceleratorPedal.PedalPosition"
        return {
            0x01: lambda: self._monitors(this_cycle=False),
            0x0D: self._linear("powertrain.VehicleMotion.VehicleSpeed", 1),
            0x1C: lambda: bytes([OBD_STANDARD]),
            0x1F: lambda: scaled(unit.run_s, 2),
            0x21: lambda: scaled(self._since(unit.life.lamp_at_km), 2),
            0x30: lambda: scaled(unit.life.warm_ups_since_clear, 1),
            0x31: lambda: scaled(self._since(unit.life.cleared_at_km), 2),
            0x33: self._linear("auxiliary.AMB.BarometricPressure", 1),
            0x41: lambda: self._monitors(this_cycle=True),
            0x42: self._linear("body.LowVoltage.BatteryVoltage", 2, 1000.0),
            0x46: self._linear("body.CabinEnvironment.AmbientTemperature", 1, 1.0, 40.0),
            0x49: self._linear(pedal, 1, 2.55),
            0x4A: self._linear(pedal, 1, 2.55),
            0x4D: lambda: scaled(unit.life.lamp_s / 60 if unit.memory.lamp else 0, 2),
            0x4E: lambda: scaled(unit.life.since_clear_s / 60, 2),
            0x51: lambda: bytes([ELECTRIC]),
            0x5B: self._linear("battery.PackStatus.StateOfCharge", 1, 2.55),
            0x61: lambda: self._torque("powertrain.TorqueRequest.TorqueRequested"),
            0x62: lambda: self._torque("powertrain.InverterStatus.MotorTorque"),
            0x63: lambda: scaled(REFERENCE_TORQUE_NM, 2),
            0xA6: lambda: scaled(signal("powertrain.Odometer.TotalDistance") * 10, 4),
        }

    def _torque(self, name: str) -> bytes:
        return scaled(self._signal(name) / REFERENCE_TORQUE_NM * 100 + 125, 1)

    def _since(self, km: float | None) -> float:
        return 0.0 if km is None else self.unit.odometer_km() - km

    def _monitors(self, *, this_cycle: bool) -> bytes:
        """PID 01 with lamp and number of confirmed codes, PID 41 without; both with the state of the monitors."""
        memory = self.unit.memory
        lamp_and_count = 0
        if not this_cycle:
            confirmed = [n for n in self.unit.emissions if memory.states[n].has(Status.CONFIRMED)]
            lit = any(memory.states[n].has(Status.WARNING_INDICATOR) for n in self.unit.emissions)
            lamp_and_count = min(0x7F, len(confirmed)) | (0x80 if lit else 0)
        monitors = COMPONENTS_SUPPORTED
        if not is_ready(memory, this_cycle=this_cycle):
            monitors |= COMPONENTS_INCOMPLETE
        return bytes([lamp_and_count, monitors, 0, 0])


def obd_values(context: EcuContext) -> ObdValues:
    """The ECU's one table of values. Raises ``ValueError``: the description lists a PID that is not implemented."""
    values = context.shared.get("obd")
    if not isinstance(values, ObdValues):
        values = context.shared["obd"] = ObdValues(context)
    return values
