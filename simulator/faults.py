"""Faults that can be injected: what there is, how they are written, and how they act on a batch of frames.

Faults of sensors and messages change what is sent; those of a bus change which frames exist; physical ones change the
vehicle, and everything that follows from it. All are a function of time, so a seeded run stays reproducible.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dbc.frames import ERROR, FrameBatch
from dbc.manifest import Manifest
from simulator.encoder import Pairs
from simulator.model.vehicle import Vehicle

#: kind -> (what its target is, what its value means, default value; None where the value is needed or unused).
KINDS: dict[str, tuple[str, str, float | None]] = {
    "stuck": ("signal", "physical value it sticks at; without one, the value it has", None),
    "offset": ("signal", "physical units added", None),
    "noise": ("signal", "standard deviation in physical units", None),
    "missing": ("message", "", None),
    "bad_checksum": ("message", "", None),
    "counter_frozen": ("message", "", None),
    "wrong_length": ("message", "payload bytes sent", None),
    "bus_off": ("bus", "", None),
    "silent": ("bus", "", None),
    "flood": ("bus", "frames per second with identifier 0", 3000.0),
    "tyre_leak": ("wheel", "kPa per second", 0.5),
    "coolant_pump": ("", "", None),
    "converter_12v": ("", "", None),
    "cell_short": ("cell", "amperes through the short", 2.0),
}
NEEDS_VALUE = ("offset", "noise", "wrong_length")
WHEELS = ("front_left", "front_right", "rear_left", "rear_right")
#: Error classes of error frames, as in linux/can/error.h.
ERROR_BUS_OFF, ERROR_RESTARTED = 0x40, 0x100
MAX_FLOOD = 20_000.0
_NORMAL = np.random.default_rng(20).normal(0, 1, 8191)
_TEXT = re.compile(
    r"(?P<kind>\w+)(?::(?P<target>[^@=]+))?(?:@(?P<at>[^+=]+)(?:\+(?P<for>[^=]+))?)?(?:=(?P<value>.+))?$"
)


class FaultError(ValueError):
    """A fault that cannot be: unknown kind, target or value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. Times are seconds since the simulation began; without a duration it stays."""

    kind: str
    target: str = ""
    at_s: float = 0.0
    duration_s: float | None = None
    value: float | None = None

    @property
    def until_s(self) -> float:
        """When it ends; infinite without a duration."""
        return float("inf") if self.duration_s is None else self.at_s + self.duration_s


def parse_fault(text: str) -> Fault:
    """From ``KIND[:TARGET][@START[+DURATION]][=VALUE]``, as on the command line.

    Raises:
        FaultError: not of that form; the target is not looked at yet.
    """
    match = _TEXT.match(text)
    if not match:
        raise FaultError(f"fault {text!r}: expected KIND[:TARGET][@START[+DURATION]][=VALUE]")
    numbers: dict[str, float | None] = {}
    for part in ("at", "for", "value"):
        given = match[part]
        try:
            numbers[part] = None if given is None else float(given.removesuffix("s") if part != "value" else given)
        except ValueError:
            raise FaultError(f"fault {text!r}: {given!r} is no number") from None
    return Fault(
        kind=match["kind"],
        target=match["target"] or "",
        at_s=numbers["at"] or 0.0,
        duration_s=numbers["for"],
        value=numbers["value"],
    )


@dataclass(slots=True)
class Resolved:
    """A fault whose target was found in the manifest. ``held`` is the value a stuck signal keeps."""

    number: int
    fault: Fault
    bus: int = -1
    message: int = -1
    signal: int = -1
    index: int = -1
    held: float | None = None

    def when(self, time_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the times are within the fault."""
        now = time_ns >= round(self.fault.at_s * 1e9)
        if self.fault.duration_s is not None:
            now &= time_ns < round(self.fault.until_s * 1e9)
        return now


def _choose(kind: str, what: str, name: str, names: Sequence[str]) -> int:
    if name in names:
        return names.index(name)
    near = difflib.get_close_matches(name, names, 3, 0.5)
    hint = f"; did you mean {' or '.join(near)}" if near else f"; there are {len(names)}, such as {names[0]}"
    raise FaultError(f"fault {kind}: no {what} {name!r}{hint}")


def resolve(fault: Fault, manifest: Manifest, number: int) -> Resolved:
    """Find the target.

    Raises:
        FaultError: unknown kind or target, a value missing or out of range, a time below zero.
    """
    if fault.kind not in KINDS:
        raise FaultError(f"no fault {fault.kind!r}; there are {', '.join(KINDS)}")
    what, meaning, default = KINDS[fault.kind]
    value = default if fault.value is None else fault.value
    if value is None and fault.kind in NEEDS_VALUE:
        raise FaultError(f"fault {fault.kind}: needs a value ({meaning})")
    if value is not None and not meaning:
        raise FaultError(f"fault {fault.kind}: takes no value")
    if value is not None and not -1e12 < value < 1e12:
        raise FaultError(f"fault {fault.kind}: value {value} is out of range")
    if not 0 <= fault.at_s < 1e9 or (fault.duration_s is not None and not 0 < fault.duration_s < 1e9):
        raise FaultError(f"fault {fault.kind}: start and duration must be positive seconds")
    out = Resolved(number, replace(fault, value=value))
    if not what and fault.target:
        raise FaultError(f"fault {fault.kind}: takes no target")
    if what == "signal":
        out.signal = _choose(fault.kind, what, fault.target, manifest.signal_names)
    elif what == "message":
        names = [f"{manifest.buses[m.bus]}.{m.name}" for m in manifest.messages]
        out.message = _choose(fault.kind, what, fault.target, names)
        _check_message(fault.kind, value, manifest, out.message)
    elif what == "bus":
        out.bus = _choose(fault.kind, what, fault.target, manifest.buses)
    elif what == "wheel":
        out.index = _choose(fault.kind, what, fault.target, WHEELS)
    elif what == "cell":
        out.index = _choose(fault.kind, what, fault.target, [str(i + 1) for i in range(96)])
    if fault.kind == "flood" and not 0 < (value or 0) <= MAX_FLOOD:
        raise FaultError(f"fault flood: 1 to {MAX_FLOOD:.0f} frames per second")
    return out


def _check_message(kind: str, value: float | None, manifest: Manifest, number: int) -> None:
    message = manifest.messages[number]
    if kind == "bad_checksum" and not message.checksum:
        raise FaultError(f"fault {kind}: {message.name} has no checksum")
    if kind == "counter_frozen" and not any(s.role == "counter" for s in message.signals):
        raise FaultError(f"fault {kind}: {message.name} has no counter")
    allowed = (*range(9), 12, 16, 20, 24, 32, 48, 64) if message.fd else range(9)
    if kind == "wrong_length" and value not in allowed:
        raise FaultError(f"fault {kind}: {message.name} can be sent with {', '.join(map(str, allowed))} bytes")


@dataclass(slots=True)
class FaultSet:
    """The faults of a run; each gets a number by which it can be taken back."""

    manifest: Manifest
    _faults: list[Resolved] = field(default_factory=list)
    _next: int = 1
    _leaking: set[int] = field(default_factory=set)

    def add(self, fault: Fault) -> int:
        """Add one and return its number; raises ``FaultError``."""
        self._faults.append(resolve(fault, self.manifest, self._next))
        self._next += 1
        return self._next - 1

    def clear(self, number: int | None = None) -> int:
        """Take back one fault, or all; returns how many there were."""
        before = len(self._faults)
        self._faults = [f for f in self._faults if number is not None and f.number != number]
        return before - len(self._faults)

    def listed(self, now_s: float) -> list[dict[str, object]]:
        """Faults that act or will act, for people."""
        return [
            {"number": f.number, "kind": f.fault.kind, "target": f.fault.target, "value": f.fault.value,
             "at_s": f.fault.at_s, "duration_s": f.fault.duration_s, "active": f.fault.at_s <= now_s}
            for f in self._faults
            if f.fault.until_s > now_s
        ]  # fmt: skip

    def active(self, begin_ns: int, end_ns: int, kinds: Iterable[str]) -> list[Resolved]:
        """Faults of these kinds that act within the time."""
        wanted = set(kinds)
        return [
            f
            for f in self._faults
            if f.fault.kind in wanted and f.fault.at_s * 1e9 < end_ns and f.fault.until_s * 1e9 > begin_ns
        ]

    def act_on_vehicle(self, vehicle: Vehicle) -> None:
        """Physical faults, as they are at the vehicle's present time."""
        if not self._faults and not self._leaking:
            return
        now_ns = round(vehicle.time_s * 1e9)
        vehicle.coolant_pump_works = vehicle.low_voltage.converter_works = True
        vehicle.tyres.leak_kpa_per_s = [0.0] * 4
        vehicle.battery.cell_leak_a[:] = 0.0
        self._leaking = set()
        for f in self.active(now_ns, now_ns + 1, ("tyre_leak", "coolant_pump", "converter_12v", "cell_short")):
            self._leaking.add(f.number)
            if f.fault.kind == "tyre_leak":
                vehicle.tyres.leak_kpa_per_s[f.index] += f.fault.value or 0.0
            elif f.fault.kind == "coolant_pump":
                vehicle.coolant_pump_works = False
            elif f.fault.kind == "converter_12v":
                vehicle.low_voltage.converter_works = False
            else:
                vehicle.battery.cell_leak_a[f.index] += f.fault.value or 0.0

    def act_on_values(self, pairs: Pairs, time_ns: NDArray[np.int64], count: NDArray[np.int64]) -> None:
        """Sensor faults; ``time_ns`` and ``count`` (how many frames of its message came before) are per frame."""
        if not len(time_ns):
            return
        for f in self.active(int(time_ns.min()), int(time_ns.max()) + 1, ("stuck", "offset", "noise")):
            value = f.fault.value or 0.0
            at = np.flatnonzero(pairs.signal == f.signal)
            at = at[f.when(time_ns[pairs.frame[at]])]
            if not len(at):
                continue
            if f.fault.kind == "offset":
                pairs.value[at] += value
            elif f.fault.kind == "noise":
                pairs.value[at] += _NORMAL[count[pairs.frame[at]] * 2957 % len(_NORMAL)] * value
            else:
                if f.held is None:
                    f.held = float(pairs.value[at[0]]) if f.fault.value is None else f.fault.value
                pairs.value[at] = f.held

    def extra_frames(self, begin_ns: int, end_ns: int) -> FrameBatch:
        """Flood frames and the error frames around a bus-off, timed since the simulation began."""
        times, buses, ids, flags = [], [], [], []
        for f in self.active(begin_ns, end_ns, ("flood",)):
            period = 1e9 / (f.fault.value or 1.0)
            at = round(f.fault.at_s * 1e9)
            first, last = int(np.ceil((max(begin_ns, at) - at) / period)), int(np.ceil((end_ns - at) / period))
            when = at + (np.arange(first, last) * period).astype(np.int64)
            when = when[(when >= begin_ns) & (when < min(end_ns, f.fault.until_s * 1e9))]
            times += when.tolist()
            buses += [f.bus] * len(when)
            ids += [0] * len(when)
            flags += [0] * len(when)
        for f in self.active(begin_ns - 1, end_ns, ("bus_off",)):
            for at_s, error in ((f.fault.at_s, ERROR_BUS_OFF), (f.fault.until_s, ERROR_RESTARTED)):
                if begin_ns <= at_s * 1e9 < end_ns:
                    times.append(round(at_s * 1e9))
                    buses.append(f.bus)
                    ids.append(error)
                    flags.append(ERROR)
        batch = FrameBatch.empty(len(times))
        batch.timestamp_ns[:], batch.bus[:], batch.can_id[:], batch.flags[:] = times, buses, ids, flags
        batch.length[:] = 8
        return batch
