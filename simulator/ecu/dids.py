"""Data identifiers as bytes: from signals of the model, constants and non-volatile memory. No access rules here."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from simulator.ecu.description import DidDescription, EcuDescription, FieldDescription
from simulator.ecu.storage import NvStore
from simulator.ecu.vehicle import VehiclePort
from simulator.model.parameters import VIN


class ValueRangeError(ValueError):
    """A value that a field must not have."""


def encode_field(part: FieldDescription, value: float | str) -> bytes:
    """A field's bytes; numbers are physical and bounded by what the bytes hold.

    Raises:
        ValueError: text that is no such value.
    """
    if part.encoding == "ascii":
        return str(value).encode("ascii")[: part.bytes].ljust(part.bytes)
    if part.encoding in ("hex", "bcd"):
        raw = bytes.fromhex(value) if isinstance(value, str) else int(value).to_bytes(part.bytes, "big")
        return raw[: part.bytes].ljust(part.bytes, b"\x00")
    number = float(value)
    if not math.isfinite(number):
        number = 0.0
    if part.encoding == "float32":
        return struct.pack(">f", number)
    scaled = round((number - part.offset) / part.scale)
    signed = part.encoding == "int"
    bits = 8 * part.bytes
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return min(high, max(low, scaled)).to_bytes(part.bytes, "big", signed=signed)


def decode_field(part: FieldDescription, raw: bytes) -> float | str:
    """The physical value, or text; hex for what is neither."""
    if part.encoding == "ascii":
        return raw.decode("ascii", "replace")
    if part.encoding in ("hex", "bcd"):
        return raw.hex()
    if part.encoding == "float32":
        (number,) = struct.unpack(">f", raw)
        return float(number)
    return int.from_bytes(raw, "big", signed=part.encoding == "int") * part.scale + part.offset


def check_field(part: FieldDescription, raw: bytes) -> None:
    """Raises ``ValueRangeError`` for bytes that must not be written."""
    if part.encoding == "ascii" and not all(0x20 <= byte < 0x7F for byte in raw):
        raise ValueRangeError(f"{part.name}: not printable")
    if part.encoding == "bcd" and any(byte >> 4 > 9 or byte & 15 > 9 for byte in raw):
        raise ValueRangeError(f"{part.name}: not BCD")
    value = decode_field(part, raw)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueRangeError(f"{part.name}: no number")
        low = -math.inf if part.minimum is None else part.minimum
        high = math.inf if part.maximum is None else part.maximum
        if not low <= value <= high:
            raise ValueRangeError(f"{part.name}: {value} is not in {low} to {high}")
    if part.values and str(int.from_bytes(raw, "big")) not in part.values:
        raise ValueRangeError(f"{part.name}: {raw.hex()} has no meaning")


def split_fields(did: DidDescription, raw: bytes) -> list[tuple[FieldDescription, bytes]]:
    """The bytes of each field; ``raw`` has the DID's length."""
    out, at = [], 0
    for part in did.fields:
        out.append((part, raw[at : at + part.bytes]))
        at += part.bytes
    return out


@dataclass(slots=True, eq=False)
class DidTable:
    """All DIDs of an ECU: present bytes, and what was written."""

    description: EcuDescription
    vehicle: VehiclePort
    nv: NvStore
    session: Callable[[], int]
    known: dict[int, DidDescription] = field(init=False)

    def __post_init__(self) -> None:
        self.known = {did.id: did for did in self.description.dids}

    def read(self, number: int) -> bytes | None:
        """The value now; None: no such DID."""
        did = self.known.get(number)
        if did is None:
            return None
        stored = self.nv.get(f"did.{number:04X}")
        if isinstance(stored, bytes):
            return stored
        if did.source == "vin":
            return VIN.encode("ascii")
        if did.source == "session":
            return bytes([self.session()])
        return b"".join(self._field(part) for part in did.fields)

    def _field(self, part: FieldDescription) -> bytes:
        return encode_field(part, self.vehicle.value(part.signal) if part.signal else part.value)

    def write(self, number: int, raw: bytes) -> None:
        """Store a value; it must have the DID's length."""
        self.nv.set(f"did.{number:04X}", bytes(raw))
