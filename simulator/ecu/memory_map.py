"""The bytes behind an ECU's addresses, by region."""

from __future__ import annotations

from simulator.ecu.description import MemoryDescription, MemoryRegion
from simulator.ecu.storage import NvStore


class EcuMemory:
    """Regions of a description; non-volatile ones are blobs ``memory.NAME`` of the store."""

    def __init__(self, description: MemoryDescription, nv: NvStore) -> None:
        """Raises ``StorageError`` if a stored region has another size."""
        self._regions = description.regions
        self._nv = nv
        self._volatile: dict[str, bytearray] = {}
        self.clear_volatile()

    def clear_volatile(self) -> None:
        """What a loss of power does."""
        self._volatile = {r.name: bytearray([r.fill]) * r.bytes for r in self._regions if r.volatile}

    def region(self, address: int, size: int) -> MemoryRegion | None:
        """The region with all of the range; None: there is none, or nothing is asked for."""
        if size <= 0:
            return None
        for region in self._regions:
            if region.start <= address and address + size <= region.start + region.bytes:
                return region
        return None

    def data(self, region: MemoryRegion) -> bytearray:
        """All bytes of a region, to be changed in place; see ``NvStore.touch``."""
        if region.volatile:
            return self._volatile[region.name]
        return self._nv.blob(f"memory.{region.name}", region.bytes, region.fill)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of a range within one region. Raises ``KeyError`` for any other."""
        region = self.region(address, size)
        if region is None:
            raise KeyError(address)
        at = address - region.start
        return bytes(self.data(region)[at : at + size])

    def write(self, address: int, content: bytes) -> None:
        """Change a range within one region. Raises ``KeyError`` for any other."""
        region = self.region(address, len(content))
        if region is None:
            raise KeyError(address)
        at = address - region.start
        self.data(region)[at : at + len(content)] = content
        if not region.volatile:
            self._nv.touch(f"memory.{region.name}")
