"""Data by identifier: 0x22, 0x24, 0x2E, 0x2F."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.ecu.base import BaseService
from simulator.ecu.context import EcuContext
from simulator.ecu.description import DidDescription, EcuDescription, FieldDescription
from simulator.ecu.dids import ValueRangeError, check_field, decode_field, split_fields
from simulator.ecu.service import Call, Later, Nrc, Refusal

RETURN, RESET, FREEZE, ADJUST = 0, 1, 2, 3

_SCALING_TYPE = {"uint": 0x00, "int": 0x10, "hex": 0x20, "bcd": 0x40, "ascii": 0x60, "float32": 0x70}
#: Units of ISO 14229-1 annex C.
_UNITS = {
    "": 0x00, "m": 0x01, "s": 0x08, "min": 0x09, "h": 0x0A, "A": 0x0D, "V": 0x0E, "W": 0x10, "degC": 0x18,
    "deg": 0x1C, "Hz": 0x1D, "Nm": 0x22, "Pa": 0x26, "bar": 0x28, "km/h": 0x30, "rpm": 0x32, "%": 0x50,
}  # fmt: skip


def readable(context: EcuContext, number: int) -> bytes | None:
    """A DID's value as a tester may read it now; None: as if there were none.

    Raises:
        Refusal: 0x33, 0x34 or 0x22 for one that exists in this session.
    """
    sources = context.dynamic.sources(number)
    if sources is not None:
        for access in sources:
            context.check(access)
        return context.dynamic.read(number)
    did = context.dids.known.get(number)
    if did is None or did.read is None or (context.boot_mode and not did.in_boot):
        return None
    if did.read.sessions and context.session not in did.read.sessions:
        return None
    context.check(did.read)
    return context.dids.read(number)


class ReadData(BaseService):
    """0x22: the DIDs that are there, in the order asked for; 0x31 only if none is."""

    SID = 0x22
    MIN_LENGTH = 3

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        if len(call.data) % 2:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        out = b""
        for i in range(0, len(call.data), 2):
            value = readable(self.context, int.from_bytes(call.data[i : i + 2], "big"))
            if value is not None:
                out += call.data[i : i + 2] + value
        if not out:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if len(out) + 1 > self.description.transport.max_length:
            raise Refusal(Nrc.RESPONSE_TOO_LONG)
        return out


class ReadScaling(BaseService):
    """0x24: encoding, formula and unit of each field of a DID."""

    SID = 0x24
    MIN_LENGTH = 3

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        if len(call.data) != 2:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        did = self.context.dids.known.get(int.from_bytes(call.data, "big"))
        if did is None or did.read is None or not all(_scalable(part) for part in did.fields):
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        self.context.check(did.read)
        return call.data + b"".join(scaling(part) for part in did.fields)

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return {
            "dids": [f"{d.id:04X}" for d in self.description.dids if d.read and all(_scalable(f) for f in d.fields)]
        }


def _scalable(part: FieldDescription) -> bool:
    """A scaling byte has four bits for the number of bytes; longer fields are told in several."""
    return part.bytes <= 15 * 15


def scaling(part: FieldDescription) -> bytes:
    """Scaling bytes of a field: type and length, then formula and unit where they say something."""
    out, left = b"", part.bytes
    while left:
        out += bytes([_SCALING_TYPE[part.encoding] | min(15, left)])
        left -= min(15, left)
    if part.scale != 1.0 or part.offset != 0.0:
        out += b"\x95\x00" + _constant(part.scale) + _constant(part.offset)
    if part.unit and part.unit in _UNITS:
        out += bytes([0xA1, _UNITS[part.unit]])
    return out


def _constant(value: float) -> bytes:
    """Four bits of exponent and twelve of mantissa, both signed (annex C.2), as near as they come."""
    best = (abs(value), 0, 0)
    for exponent in range(7, -9, -1):
        mantissa = round(value / 10.0**exponent)
        if -2048 <= mantissa <= 2047:
            error = abs(mantissa * 10.0**exponent - value)
            if error < best[0] - 1e-15 * max(1.0, abs(value)):
                best = (error, exponent, mantissa)
    return ((best[1] & 0xF) << 12 | best[2] & 0xFFF).to_bytes(2, "big")


class WriteData(BaseService):
    """0x2E. What is written is non-volatile; an unknown DID is refused before its length is judged."""

    SID = 0x2E
    MIN_LENGTH = 4

    def handle(self, call: Call) -> bytes | Later:
        """See ``Service``."""
        number = int.from_bytes(call.data[:2], "big")
        did = self.context.dids.known.get(number)
        if did is None or did.write is None or (self.context.boot_mode and not did.in_boot):
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if did.write.sessions and self.context.session not in did.write.sessions:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        value = call.data[2:]
        if len(value) != did.length:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        self.context.check(did.write)
        for part, raw in split_fields(did, value):
            try:
                check_field(part, raw)
            except ValueRangeError:
                raise Refusal(Nrc.REQUEST_OUT_OF_RANGE) from None
        if did.write_once and self.context.nv.get(f"did.{number:04X}") is not None:
            raise Refusal(Nrc.CONDITIONS_NOT_CORRECT)
        if did.write_ms:
            return Later(duration_s=did.write_ms / 1000, finish=lambda now_s: self._store(number, value))
        return self._store(number, value)

    def _store(self, number: int, value: bytes) -> bytes:
        self.context.dids.write(number, value)
        return number.to_bytes(2, "big")


class IoControl(BaseService):
    """0x2F: holds signals of the model at a tester's values until it gives them back or the session ends."""

    SID = 0x2F
    MIN_LENGTH = 4

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        super().__init__(context, description)
        self._held: set[str] = set()

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        did = self.context.dids.known.get(int.from_bytes(call.data[:2], "big"))
        if did is None or did.io is None or (did.io.access.sessions and call.session not in did.io.access.sessions):
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        option, rest = call.data[2], call.data[3:]
        if option not in did.io.options:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        mask_bytes = 1 if did.io.mask else 0
        if len(rest) != (did.length if option == ADJUST else 0) + mask_bytes:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        self.context.check(did.io.access)
        mask = rest[-1] if mask_bytes else 0xFF
        if option == ADJUST:
            self._adjust(did, rest[: did.length], mask)
        else:
            self._other(did, option, mask)
        state = self.context.dids.read(did.id)
        assert state is not None
        return call.data[:3] + state

    def _adjust(self, did: DidDescription, state: bytes, mask: int) -> None:
        wanted: list[tuple[str, float]] = []
        for i, (part, raw) in enumerate(split_fields(did, state)):
            if not part.signal or not mask & 0x80 >> i:
                continue
            try:
                check_field(part, raw)
            except ValueRangeError:
                raise Refusal(Nrc.REQUEST_OUT_OF_RANGE) from None
            wanted.append((part.signal, float(decode_field(part, raw))))
        for signal, value in wanted:
            self._hold(signal, value)

    def _other(self, did: DidDescription, option: int, mask: int) -> None:
        assert did.io is not None
        for i, part in enumerate(did.fields):
            if not part.signal or not mask & 0x80 >> i:
                continue
            if option == RETURN:
                self._held.discard(part.signal)
                self.context.vehicle.override(part.signal, None)
            elif option == RESET:
                self._hold(part.signal, did.io.defaults[i] if i < len(did.io.defaults) else 0.0)
            else:
                self._hold(part.signal, self.context.vehicle.value(part.signal))

    def _hold(self, signal: str, value: float) -> None:
        self._held.add(signal)
        self.context.vehicle.override(signal, value)

    def session_changed(self, session: int, now_s: float) -> None:
        """See ``Service``: control returns to the ECU."""
        for signal in sorted(self._held):
            self.context.vehicle.override(signal, None)
        self._held.clear()

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return {
            "dids": {
                f"{d.id:04X}": {"options": list(d.io.options), **(self.context.describe_access(d.io.access) or {})}
                for d in self.description.dids
                if d.io
            }
        }
