"""Scaling of identifiers (0x24): what an ECU tells about the coding of its data, ISO 14229-1 annex C."""

from __future__ import annotations

from enum import IntEnum

from gateway.uds.codec.query import Answer, Query, Reader, number, query
from gateway.uds.names import Sid


class Coding(IntEnum):
    """High nibble of a scaling byte."""

    UNSIGNED = 0x0
    SIGNED = 0x1
    BITS_WITH_MASK = 0x2  # the extension says which bits are valid
    BITS = 0x3
    BCD = 0x4
    STATE = 0x5
    ASCII = 0x6
    FLOAT = 0x7
    PACKET = 0x8
    FORMULA = 0x9
    UNIT = 0xA
    CONNECTION = 0xB


#: Codings whose low nibble counts the bytes of the extension instead of the data's.
_EXTENDED = frozenset({Coding.BITS_WITH_MASK, Coding.FORMULA, Coding.UNIT, Coding.CONNECTION})
#: Formulas of annex C.3 over the raw value x.
FORMULAS = {
    0: "C0*x+C1",
    1: "C0*(x+C1)",
    2: "C0/(x+C1)+C2",
    3: "x/C0+C1",
    4: "(x+C0)/C1",
    5: "(x+C0)/C1+C2",
    6: "C0*x",
    7: "x/C0",
    8: "x+C0",
    9: "x*C0/C1",
}


class ScalingItem(Answer, frozen=True):
    """One scaling byte. ``data_bytes``: of the data it describes, 0 where it only adds to the one before."""

    coding: int
    data_bytes: int
    extension: bytes = b""

    @property
    def formula(self) -> str:
        """The formula with its constants, as text; empty when it is none."""
        if self.coding != Coding.FORMULA or not self.extension:
            return ""
        text = FORMULAS.get(self.extension[0], f"formula {self.extension[0]:#04x}")
        for index, at in enumerate(range(1, len(self.extension) - 1, 2)):
            text = text.replace(f"C{index}", f"{_constant(self.extension[at : at + 2]):g}")
        return text


def _constant(pair: bytes) -> float:
    """Annex C.3: a signed 4-bit power of ten, a signed 12-bit mantissa."""
    word = int.from_bytes(pair, "big")
    exponent, mantissa = word >> 12, word & 0xFFF
    return float(
        (mantissa - 0x1000 if mantissa & 0x800 else mantissa) * 10.0 ** (exponent - 16 if exponent & 8 else exponent)
    )


def read_scaling(did: int) -> Query[tuple[ScalingItem, ...]]:
    """0x24: the scaling items of an identifier, in order."""

    def read(reader: Reader) -> tuple[ScalingItem, ...]:
        reader.take(2, "identifier")
        found = []
        while reader.left:
            head = reader.number(1, "scaling byte")
            coding, count = head >> 4, head & 0x0F
            if coding in _EXTENDED:
                found.append(ScalingItem(coding, 0, reader.take(count, "scaling extension")))
            else:
                found.append(ScalingItem(coding, count))
        return tuple(found)

    return query(bytes([Sid.READ_SCALING]) + number(did, 2, "identifier"), 2, read)
