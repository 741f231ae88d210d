"""Memory of an ECU and the services on addresses: 0x23 and 0x3D. Contents are non-volatile unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from simulator.ecu.base import BaseService
from simulator.ecu.context import EcuContext
from simulator.ecu.description import MemoryRegion
from simulator.ecu.service import Call, Nrc, Refusal


class MemoryArea(NamedTuple):
    """A range a tester names, and what follows it in the request."""

    address: int
    size: int
    rest: bytes


def parse_area(context: EcuContext, data: bytes) -> MemoryArea:
    """``addressAndLengthFormatIdentifier``, address and size at the start of ``data``.

    Raises:
        Refusal: 0x31 a format the ECU does not take, 0x13 too short for it.
    """
    if not data:
        raise Refusal(Nrc.INCORRECT_LENGTH)
    size_bytes, address_bytes = data[0] >> 4, data[0] & 0x0F
    memory = context.description.memory
    if address_bytes not in memory.address_bytes or size_bytes not in memory.size_bytes:
        raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
    end = 1 + address_bytes + size_bytes
    if len(data) < end:
        raise Refusal(Nrc.INCORRECT_LENGTH)
    address = int.from_bytes(data[1 : 1 + address_bytes], "big")
    return MemoryArea(address, int.from_bytes(data[1 + address_bytes : end], "big"), data[end:])


def find_region(context: EcuContext, address: int, size: int) -> MemoryRegion:
    """The one region that holds all of the range. Raises ``Refusal`` (0x31)."""
    region = context.memory.region(address, size)
    if region is None:
        raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
    return region


class ReadMemory(BaseService):
    """0x23."""

    SID = 0x23
    MIN_LENGTH = 4

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        area = parse_area(self.context, call.data)
        if area.rest:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        region = find_region(self.context, area.address, area.size)
        if region.read is None or area.size > self.description.transport.max_length - 1:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        self.context.check(region.read)
        return self.context.memory.read(area.address, area.size)

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return describe_memory(self.context)


class WriteMemory(BaseService):
    """0x3D."""

    SID = 0x3D
    MIN_LENGTH = 5

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        area = parse_area(self.context, call.data)
        if area.size > self.description.transport.max_length:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if len(area.rest) != area.size:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        region = find_region(self.context, area.address, area.size)
        if region.write is None:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        self.context.check(region.write)
        self.context.memory.write(area.address, area.rest)
        return call.data[: len(call.data) - area.size]

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return describe_memory(self.context)


def describe_memory(context: EcuContext) -> dict[str, object]:
    """The memory map for ``outrider sim describe``."""
    memory = context.description.memory
    return {
        "address_bytes": list(memory.address_bytes),
        "size_bytes": list(memory.size_bytes),
        "regions": [
            {
                "name": r.name,
                "start": f"{r.start:08X}",
                "bytes": r.bytes,
                "read": context.describe_access(r.read),
                "write": context.describe_access(r.write),
            }
            for r in memory.regions
        ],
    }
