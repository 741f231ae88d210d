"""What parameter identifiers of SAE J1979 mean: lengths, names, scalings, units. A table, and how to read by it.

The words are ours. Numbers the table has no entry for are told in hexadecimal where their length can be known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import msgspec

Number = float | int | str


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One value of a parameter identifier."""

    pid: int
    name: str
    value: Number
    unit: str = ""

    @property
    def text(self) -> str:
        """For people."""
        shown = self.value if isinstance(self.value, str) else f"{self.value:.7g}"
        return f"{shown} {self.unit}".rstrip()


class Part(msgspec.Struct, frozen=True):
    """Some bits of a parameter identifier's data: ``raw * scale + offset``, or a word for the raw value."""

    name: str
    unit: str
    start: int
    size: int
    scale: float
    offset: float
    signed: bool = False
    words: Mapping[int, str] = {}


class Pid(msgspec.Struct, frozen=True):
    """A parameter identifier: how many bytes, and the values in them."""

    size: int
    parts: tuple[Part, ...]


def _one(name: str, size: int, scale: float = 1, unit: str = "", offset: float = 0, *, signed: bool = False) -> Pid:
    return Pid(size, (Part(name, unit, 0, size, scale, offset, signed),))


def _words(name: str, words: Mapping[int, str]) -> Pid:
    return Pid(1, (Part(name, "", 0, 1, 1, 0, False, words),))


def _two(size: int, first: Part, second: Part) -> Pid:
    return Pid(size, (first, second))


_PERCENT = 100 / 255
_TRIM = 100 / 128
_LAMBDA = 2 / 65536

OBD_STANDARDS = {
    1: "OBD-II (CARB)", 2: "OBD (EPA)", 3: "OBD and OBD-II", 4: "OBD-I", 5: "none", 6: "EOBD", 7: "EOBD and OBD-II",
    8: "EOBD and OBD", 9: "EOBD, OBD and OBD-II", 10: "JOBD", 11: "JOBD and OBD-II", 12: "JOBD and EOBD",
    13: "JOBD, EOBD and OBD-II", 17: "EMD", 18: "EMD+", 19: "HD OBD-C", 20: "HD OBD", 21: "WWH OBD", 23: "HD EOBD-I",
    24: "HD EOBD-I N", 25: "HD EOBD-II", 26: "HD EOBD-II N", 28: "OBDBr-1", 29: "OBDBr-2", 30: "KOBD", 31: "IOBD I",
    32: "IOBD II", 33: "HD EOBD-VI", 34: "OBD, OBD-II and HD OBD", 35: "OBDBr-3",
}  # fmt: skip
FUELS = {
    0: "none", 1: "petrol", 2: "methanol", 3: "ethanol", 4: "diesel", 5: "LPG", 6: "CNG", 7: "propane", 8: "electric",
    9: "petrol (bifuel)", 10: "methanol (bifuel)", 11: "ethanol (bifuel)", 12: "LPG (bifuel)", 13: "CNG (bifuel)",
    14: "propane (bifuel)", 15: "electricity (bifuel)", 16: "electric and combustion", 17: "hybrid petrol",
    18: "hybrid ethanol", 19: "hybrid diesel", 20: "hybrid electric", 21: "hybrid mixed", 22: "hybrid regenerative",
}  # fmt: skip


def _sensor_voltage(n: int) -> Pid:
    return _two(
        2,
        Part(f"oxygen sensor {n} voltage", "V", 0, 1, 0.005, 0),
        Part(f"oxygen sensor {n} fuel trim", "%", 1, 1, _TRIM, -100),
    )


def _sensor_wide(n: int, unit: str, scale: float, offset: float, what: str) -> Pid:
    return _two(
        4,
        Part(f"oxygen sensor {n} lambda", "", 0, 2, _LAMBDA, 0),
        Part(f"oxygen sensor {n} {what}", unit, 2, 2, scale, offset),
    )


def _table() -> dict[int, Pid]:
    pids = {
        0x04: _one("calculated load", 1, _PERCENT, "%"),
        0x05: _one("coolant temperature", 1, 1, "degC", -40),
        0x06: _one("short term fuel trim, bank 1", 1, _TRIM, "%", -100),
        0x07: _one("long term fuel trim, bank 1", 1, _TRIM, "%", -100),
        0x08: _one("short term fuel trim, bank 2", 1, _TRIM, "%", -100),
        0x09: _one("long term fuel trim, bank 2", 1, _TRIM, "%", -100),
        0x0A: _one("fuel pressure", 1, 3, "kPa"),
        0x0B: _one("intake manifold pressure", 1, 1, "kPa"),
        0x0C: _one("engine speed", 2, 0.25, "rpm"),
        0x0D: _one("vehicle speed", 1, 1, "km/h"),
        0x0E: _one("ignition advance", 1, 0.5, "deg", -64),
        0x0F: _one("intake air temperature", 1, 1, "degC", -40),
        0x10: _one("mass air flow", 2, 0.01, "g/s"),
        0x11: _one("throttle position", 1, _PERCENT, "%"),
        0x12: _words("secondary air", {1: "upstream", 2: "downstream", 4: "off", 8: "on for diagnosis"}),
        0x13: _one("oxygen sensors present", 1),
        0x1C: _words("OBD requirements", OBD_STANDARDS),
        0x1D: _one("oxygen sensors present", 1),
        0x1E: _words("auxiliary input", {0: "power take-off inactive", 1: "power take-off active"}),
        0x1F: _one("run time since start", 2, 1, "s"),
        0x21: _one("distance with warning lamp on", 2, 1, "km"),
        0x22: _one("fuel rail pressure, relative", 2, 0.079, "kPa"),
        0x23: _one("fuel rail pressure", 2, 10, "kPa"),
        0x2C: _one("commanded EGR", 1, _PERCENT, "%"),
        0x2D: _one("EGR error", 1, _TRIM, "%", -100),
        0x2E: _one("commanded evaporative purge", 1, _PERCENT, "%"),
        0x2F: _one("fuel level", 1, _PERCENT, "%"),
        0x30: _one("warm-ups since clearing", 1),
        0x31: _one("distance since clearing", 2, 1, "km"),
        0x32: _one("evaporative system pressure", 2, 0.25, "Pa", signed=True),
        0x33: _one("barometric pressure", 1, 1, "kPa"),
        0x3C: _one("catalyst temperature, bank 1 sensor 1", 2, 0.1, "degC", -40),
        0x3D: _one("catalyst temperature, bank 2 sensor 1", 2, 0.1, "degC", -40),
        0x3E: _one("catalyst temperature, bank 1 sensor 2", 2, 0.1, "degC", -40),
        0x3F: _one("catalyst temperature, bank 2 sensor 2", 2, 0.1, "degC", -40),
        0x42: _one("control module voltage", 2, 0.001, "V"),
        0x43: _one("absolute load", 2, _PERCENT, "%"),
        0x44: _one("commanded lambda", 2, _LAMBDA, ""),
        0x45: _one("relative throttle position", 1, _PERCENT, "%"),
        0x46: _one("ambient temperature", 1, 1, "degC", -40),
        0x47: _one("throttle position B", 1, _PERCENT, "%"),
        0x48: _one("throttle position C", 1, _PERCENT, "%"),
        0x49: _one("accelerator pedal position D", 1, _PERCENT, "%"),
        0x4A: _one("accelerator pedal position E", 1, _PERCENT, "%"),
        0x4B: _one("accelerator pedal position F", 1, _PERCENT, "%"),
        0x4C: _one("commanded throttle", 1, _PERCENT, "%"),
        0x4D: _one("time with warning lamp on", 2, 1, "min"),
        0x4E: _one("time since clearing", 2, 1, "min"),
        0x4F: Pid(
            4,
            (
                Part("maximum of lambda", "", 0, 1, 1, 0),
                Part("maximum of oxygen sensor voltage", "V", 1, 1, 1, 0),
                Part("maximum of oxygen sensor current", "mA", 2, 1, 1, 0),
                Part("maximum of manifold pressure", "kPa", 3, 1, 10, 0),
            ),
        ),
        0x50: Pid(4, (Part("maximum of mass air flow", "g/s", 0, 1, 10, 0),)),
        0x51: _words("fuel", FUELS),
        0x52: _one("ethanol", 1, _PERCENT, "%"),
        0x53: _one("evaporative system pressure, absolute", 2, 0.005, "kPa"),
        0x54: _one("evaporative system pressure", 2, 1, "Pa", signed=True),
        0x59: _one("fuel rail pressure, absolute", 2, 10, "kPa"),
        0x5A: _one("relative accelerator pedal position", 1, _PERCENT, "%"),
        0x5B: _one("hybrid battery remaining", 1, _PERCENT, "%"),
        0x5C: _one("engine oil temperature", 1, 1, "degC", -40),
        0x5D: _one("injection timing", 2, 1 / 128, "deg", -210),
        0x5E: _one("fuel rate", 2, 0.05, "L/h"),
        0x5F: _one("emission requirements", 1),
        0x61: _one("demanded torque", 1, 1, "%", -125),
        0x62: _one("actual torque", 1, 1, "%", -125),
        0x63: _one("reference torque", 2, 1, "Nm"),
        0x64: Pid(5, tuple(Part(f"torque at point {i + 1}", "%", i, 1, 1, -125) for i in range(5))),
        0x8E: _one("friction torque", 1, 1, "%", -125),
        0xA6: _one("odometer", 4, 0.1, "km"),
    }
    pids |= {0x14 + i: _sensor_voltage(i + 1) for i in range(8)}
    pids |= {0x24 + i: _sensor_wide(i + 1, "V", 8 / 65536, 0, "voltage") for i in range(8)}
    pids |= {0x34 + i: _sensor_wide(i + 1, "mA", 1 / 256, -128, "current") for i in range(8)}
    return pids


PIDS: Mapping[int, Pid] = MappingProxyType(_table())
#: Lengths of those that are read otherwise (masks, monitors, fuel system, codes).
OTHER_SIZES = {0x01: 4, 0x02: 2, 0x03: 2, 0x41: 4, **dict.fromkeys(range(0, 256, 32), 4)}
MASKS = tuple(range(0, 0x100, 0x20))
#: Freeze frames of this mode tell the code that stored them.
FRAME_CODE = 0x02


def pid_bytes(pid: int) -> int | None:
    """How many bytes of data; None: not known."""
    known = PIDS.get(pid)
    return known.size if known is not None else OTHER_SIZES.get(pid)


def read_pid(pid: int, data: bytes) -> tuple[Reading, ...]:
    """The values of one; hexadecimal where the table does not know it, or the length is another."""
    known = PIDS.get(pid)
    if known is None or len(data) < known.size:
        return (Reading(pid=pid, name=f"PID {pid:02X}", value=data.hex(" ").upper() or "(nothing)"),)
    found = []
    for part in known.parts:
        raw = int.from_bytes(data[part.start : part.start + part.size], "big", signed=part.signed)
        value: Number = round(raw * part.scale + part.offset, 6)
        if part.words:
            value = part.words.get(raw, f"0x{raw:02X}")
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        found.append(Reading(pid=pid, name=part.name, value=value, unit=part.unit))
    return tuple(found)


def supported(base: int, mask: bytes) -> tuple[int, ...]:
    """The numbers a support mask tells of, without the next mask."""
    bits = int.from_bytes(mask[:4].ljust(4, b"\0"), "big")
    return tuple(base + i + 1 for i in range(31) if bits >> (31 - i) & 1)


def has_next(mask: bytes) -> bool:
    """Whether the mask after this one exists, too."""
    return len(mask) >= 4 and bool(mask[3] & 1)


_CONTINUOUS = ("misfire", "fuel system", "components")
_SPARK = (
    "catalyst", "heated catalyst", "evaporative system", "secondary air", "A/C refrigerant", "oxygen sensor",
    "oxygen sensor heater", "EGR or VVT",
)  # fmt: skip
_COMPRESSION = (
    "NMHC catalyst", "NOx aftertreatment", "", "boost pressure", "", "exhaust gas sensor", "particulate filter",
    "EGR or VVT",
)  # fmt: skip


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """PID 01 or 41: the lamp, how many codes, which monitors there are and which have completed."""

    lamp: bool
    codes: int
    ignition: str  # spark, compression
    monitors: dict[str, bool]  # name to: has completed

    @property
    def is_ready(self) -> bool:
        """All monitors that exist have completed."""
        return all(self.monitors.values())


def read_readiness(data: bytes) -> Readiness:
    """From the four bytes of PID 01 or 41.

    Raises:
        ValueError: fewer bytes.
    """
    if len(data) < 4:
        raise ValueError(f"{len(data)} bytes of readiness, must be 4")
    a, b, c, d = data[:4]
    is_compression = bool(b & 8)
    monitors = {name: not b >> (4 + i) & 1 for i, name in enumerate(_CONTINUOUS) if b >> i & 1}
    names: Sequence[str] = _COMPRESSION if is_compression else _SPARK
    monitors |= {name: not d >> i & 1 for i, name in enumerate(names) if name and c >> i & 1}
    return Readiness(
        lamp=bool(a & 0x80),
        codes=a & 0x7F,
        ignition="compression" if is_compression else "spark",
        monitors=monitors,
    )


#: Mode 06: unit and scaling identifiers, (unit, scale, offset, signed). Those with the high bit are signed.
UNITS: Mapping[int, tuple[str, float, float]] = MappingProxyType(
    {
        0x01: ("", 1, 0), 0x02: ("", 0.1, 0), 0x03: ("", 0.01, 0), 0x04: ("", 0.001, 0), 0x05: ("", 1 / 32768, 0),
        0x06: ("", 0.000305, 0), 0x07: ("rpm", 0.25, 0), 0x08: ("km/h", 0.01, 0), 0x09: ("km/h", 1, 0),
        0x0A: ("V", 0.000122, 0), 0x0B: ("V", 0.001, 0), 0x0C: ("V", 0.01, 0), 0x0D: ("mA", 1 / 256, 0),
        0x0E: ("A", 0.001, 0), 0x0F: ("A", 0.01, 0), 0x10: ("s", 0.001, 0), 0x11: ("s", 0.1, 0), 0x12: ("s", 1, 0),
        0x13: ("Ohm", 0.001, 0), 0x14: ("Ohm", 1, 0), 0x15: ("kOhm", 1, 0), 0x16: ("degC", 0.1, -40),
        0x17: ("kPa", 0.01, 0), 0x18: ("kPa", 0.0117, 0), 0x19: ("kPa", 0.079, 0), 0x1A: ("kPa", 1, 0),
        0x1B: ("kPa", 10, 0), 0x1C: ("deg", 0.01, 0), 0x1D: ("deg", 0.5, 0), 0x1E: ("", 1 / 32768, 0),
        0x1F: ("", 0.05, 0), 0x20: ("", 1 / 256, 0), 0x21: ("mHz", 1, 0), 0x22: ("Hz", 1, 0), 0x23: ("kHz", 1, 0),
        0x24: ("", 1, 0), 0x25: ("km", 1, 0), 0x26: ("mV/ms", 0.1, 0), 0x27: ("g/s", 0.01, 0), 0x28: ("g/s", 1, 0),
        0x29: ("Pa/s", 0.25, 0), 0x2A: ("kg/h", 0.001, 0), 0x2B: ("", 1, 0), 0x2C: ("g/cyl", 0.01, 0),
        0x2E: ("", 1, 0), 0x2F: ("%", 0.01, 0), 0x30: ("%", 0.001526, 0), 0x31: ("L", 0.001, 0),
        0x39: ("%", 0.01, -327.68), 0x81: ("", 1, 0), 0x82: ("", 0.1, 0), 0x83: ("", 0.01, 0), 0x84: ("", 0.001, 0),
        0x85: ("", 1 / 32768, 0), 0x86: ("", 0.000305, 0), 0x8A: ("V", 0.000122, 0), 0x8B: ("V", 0.001, 0),
        0x8C: ("V", 0.01, 0), 0x8D: ("mA", 1 / 256, 0), 0x8E: ("A", 0.001, 0), 0x90: ("s", 0.001, 0),
        0x96: ("degC", 0.1, 0), 0x9C: ("deg", 0.01, 0), 0x9D: ("deg", 0.5, 0), 0xA8: ("g/s", 1, 0),
        0xA9: ("Pa/s", 0.25, 0), 0xAF: ("%", 0.01, 0), 0xB0: ("%", 0.003052, 0), 0xFD: ("kPa", 0.001, 0),
        0xFE: ("Pa", 0.25, 0),
    }
)  # fmt: skip


class MonitorResult(msgspec.Struct, frozen=True, kw_only=True):
    """One test of mode 06. ``passed`` None: it has not run."""

    monitor: int
    test: int
    value: float
    minimum: float
    maximum: float
    unit: str
    passed: bool | None


def read_monitor(data: bytes) -> tuple[MonitorResult, ...]:
    """Groups of nine bytes: monitor, test, unit and scaling, value, minimum, maximum."""
    found = []
    for at in range(0, len(data) - 8, 9):
        monitor, test, scaling = data[at : at + 3]
        unit, scale, offset = UNITS.get(scaling, ("", 1, 0))
        words = [data[at + 3 + 2 * i : at + 5 + 2 * i] for i in range(3)]
        raws = [int.from_bytes(word, "big", signed=scaling >= 0x80) for word in words]
        value, low, high = (round(raw * scale + offset, 6) for raw in raws)
        passed = None if not any(data[at + 3 : at + 9]) else low <= value <= high
        found.append(
            MonitorResult(monitor=monitor, test=test, value=value, minimum=low, maximum=high, unit=unit, passed=passed)
        )
    return tuple(found)


#: Splits what one answer of mode 01 or 02 holds into (PID, bytes); the callers know what a PID's data begins with.
SizeOf = Callable[[int], int | None]


def split_answer(data: bytes, sizes: SizeOf = pid_bytes, *, skip: int = 0) -> tuple[list[tuple[int, bytes]], bytes]:
    """``[(pid, data)]`` and what could not be split. ``skip``: bytes between PID and data (frame number in mode 02)."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        pid = data[at]
        size = sizes(pid)
        start = at + 1 + skip
        if size is None or start + size > len(data):
            if not found and size is None:
                return [(pid, data[start:])], b""
            return found, data[at:]
        found.append((pid, data[start : start + size]))
        at = start + size
    return found, b""
