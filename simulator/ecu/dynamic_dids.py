"""What a tester composed with 0x2C: data identifiers made of pieces of others and of memory."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.ecu.description import AccessDescription
from simulator.ecu.dids import DidTable
from simulator.ecu.memory_map import EcuMemory
from simulator.ecu.service import Nrc, Refusal

MAX_PARTS, MAX_DEFINED = 32, 16


@dataclass(frozen=True, slots=True)
class DynamicPart:
    """A piece of a DID or of memory. ``position`` counts from 0; ``did`` None: an address."""

    did: int | None
    position: int
    size: int
    access: AccessDescription


class DynamicDids:
    """What was composed; volatile. One per ECU, shared by 0x22, 0x2A and 0x2C."""

    def __init__(self, dids: DidTable, memory: EcuMemory) -> None:
        self._dids, self._memory = dids, memory
        self._defined: dict[int, list[DynamicPart]] = {}

    @property
    def defined(self) -> list[int]:
        """All that are defined."""
        return sorted(self._defined)

    def sources(self, number: int) -> list[AccessDescription] | None:
        """Access rules of all parts; None: not defined."""
        parts = self._defined.get(number)
        return None if parts is None else [part.access for part in parts]

    def read(self, number: int) -> bytes:
        """The value now. Raises ``KeyError``."""
        out = b""
        for part in self._defined[number]:
            if part.did is None:
                out += self._memory.read(part.position, part.size)
            else:
                value = self._dids.read(part.did) or b""
                out += value[part.position : part.position + part.size]
        return out

    def extend(self, number: int, parts: list[DynamicPart]) -> None:
        """Define, or append to what is defined. Raises ``Refusal`` (0x31) for too many."""
        have = self._defined.get(number, [])
        if len(have) + len(parts) > MAX_PARTS or (not have and len(self._defined) >= MAX_DEFINED):
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        self._defined[number] = have + parts

    def clear(self, number: int | None = None) -> None:
        """Forget one, or all."""
        if number is None:
            self._defined.clear()
        else:
            self._defined.pop(number, None)
