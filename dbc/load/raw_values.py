"""Raw values as they travel: 64-bit two's complement, whatever the kind of the signal.

Files write a raw value as a number. For floats that is the value itself, which travels as its bit pattern; unsigned
values of 64 bits above 2**63 - 1 travel as the negative number of the same bits.
"""

from __future__ import annotations

import struct

from dbc.manifest import Kind


def raw_value(number: float, kind: Kind, length: int) -> int | None:
    """The raw value of a signal that a file writes as ``number``; None when the signal cannot hold it."""
    if kind in (Kind.FLOAT32, Kind.FLOAT64):
        return _pattern(float(number), kind)
    value = int(number)
    if value != number:
        return None
    low, high = (-(1 << length - 1), (1 << length - 1) - 1) if kind is Kind.SIGNED else (0, (1 << length) - 1)
    if not low <= value <= high:
        return None
    return as_int64(value)


def _pattern(number: float, kind: Kind) -> int | None:
    try:
        packed = struct.pack("<f" if kind is Kind.FLOAT32 else "<d", number)
    except OverflowError:
        return None
    return as_int64(int.from_bytes(packed, "little"))


def as_int64(value: int) -> int:
    """The number with the same low 64 bits that fits a signed 64-bit integer."""
    return (value & (1 << 64) - 1) - (1 << 64 if value & 1 << 63 else 0)
