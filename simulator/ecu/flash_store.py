"""The flash memory of an ECU: regions that are erased, programmed, checked, and whether the application may be started.

What makes a half-written application harmless: a region is marked invalid *before* its first byte is erased and marked
valid only *after* header, signature and checksum of all of it were found good. The mark and the bytes are both
non-volatile; the boot loader starts the application only if all marks are valid and the bytes still are those that
were checked. Nothing here can write to the boot loader's own region.
"""

from __future__ import annotations

import hashlib
import zlib
from enum import IntEnum
from typing import Annotated

import msgspec

from simulator.ecu.context import EcuContext
from simulator.ecu.description import DescriptionError, MemoryRegion
from simulator.ecu.flash_image import (
    TEST_KEY,
    ImageError,
    ImageHeader,
    default_hardware_id,
    is_signed,
    parse_header,
    public_bytes,
)

ERASED = 0xFF


class Verdict(IntEnum):
    """What a check of memory or dependencies found; the result byte of routines 0202 and FF01."""

    GOOD = 0x00
    NO_IMAGE = 0x01
    WRONG_ECU = 0x02
    WRONG_HARDWARE = 0x03
    INCOMPLETE = 0x04
    WRONG_CHECKSUM = 0x05
    WRONG_SIGNATURE = 0x06
    WRONG_ADDRESS = 0x07
    INCOMPATIBLE = 0x08


class FlashDescription(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an ECU can be programmed. ``regions``: names of the memory map, the first is the application's."""

    regions: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("application", "dataset")
    hardware_id: str = ""
    public_key: str = ""  # hexadecimal; empty: that of the test key
    sector_bytes: Annotated[int, msgspec.Meta(ge=1)] = 4096
    erase_ms_per_sector: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 1.0
    check_ms_per_sector: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.2
    program_ms_per_block: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    max_block_bytes: Annotated[int, msgspec.Meta(ge=3, le=0xFFFF)] = 4095
    #: DIDs that take the version and the part number of a new application.
    version_dids: tuple[int, ...] = (0xF181, 0xF189, 0xF195)
    part_dids: tuple[int, ...] = (0xF188,)
    #: DIDs of 32 bytes that take the SHA-256 of a new application, header included, as it was downloaded.
    digest_dids: tuple[int, ...] = ()
    #: Bytes of the file system (0x38); 0: none.
    file_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 22)] = 0
    files: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 32


class _Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a region. ``bytes`` 0: valid as it left the factory, with nothing to compare."""

    valid: bool
    bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    crc32: int = 0
    version: str | None = None
    compatibility: int = 1


class FlashStore:
    """Regions and their marks."""

    def __init__(self, context: EcuContext) -> None:
        """Raises ``DescriptionError``: a region that the memory map lacks, or a key that is none."""
        self._context = context
        description = context.description
        try:
            self.settings = msgspec.convert(description.flash or {}, FlashDescription)
            self._public_key = bytes.fromhex(self.settings.public_key) or public_bytes(TEST_KEY)
            if len(self._public_key) != 32:
                raise ValueError("public_key: 32 bytes")
            by_name = {region.name: region for region in description.memory.regions}
            missing = [name for name in self.settings.regions if name not in by_name]
            if missing:
                raise ValueError(f"memory has no region {', '.join(missing)}")
        except (msgspec.ValidationError, ValueError) as error:
            raise DescriptionError(f"{description.name}: flash: {error}") from error
        self.regions: tuple[MemoryRegion, ...] = tuple(by_name[name] for name in self.settings.regions)
        self.described_hardware_id = self.settings.hardware_id or default_hardware_id(description.name)
        self.hardware_id = self.described_hardware_id

    # ---- marks

    def _mark(self, region: MemoryRegion) -> _Mark:
        """As stored; a region that was never programmed holds what the ECU left the factory with."""
        stored = self._context.nv.get(f"flash.{region.name}")
        if stored is None:
            return _Mark(valid=True)
        try:
            return msgspec.convert(stored, _Mark)
        except msgspec.ValidationError:
            return _Mark(valid=False)

    def _set_mark(self, region: MemoryRegion, mark: _Mark) -> None:
        self._context.nv.set(f"flash.{region.name}", msgspec.to_builtins(mark))

    def is_valid(self, region: MemoryRegion) -> bool:
        """Whether it was checked and is still what was checked."""
        mark = self._mark(region)
        if not mark.valid or mark.bytes > region.bytes:
            return False
        checked = memoryview(self._context.memory.data(region))[: mark.bytes]
        return not mark.bytes or zlib.crc32(checked) == mark.crc32

    def version(self, region: MemoryRegion) -> str | None:
        """Of the image that was programmed and checked; None: factory content or none."""
        mark = self._mark(region)
        return mark.version if mark.valid else None

    def is_bootable(self) -> bool:
        """Whether the application may be started."""
        return all(self.is_valid(region) for region in self.regions) and self.dependencies() == Verdict.GOOD

    def dependencies(self) -> Verdict:
        """Whether the regions fit each other; those of the factory have compatibility number 1."""
        if not all(self.is_valid(region) for region in self.regions):
            return Verdict.INCOMPLETE
        numbers = {self._mark(region).compatibility for region in self.regions}
        return Verdict.GOOD if len(numbers) == 1 else Verdict.INCOMPATIBLE

    # ---- erase and program

    def find(self, address: int, size: int) -> MemoryRegion | None:
        """The programmable region that holds the whole range."""
        region = self._context.memory.region(address, size)
        return region if region in self.regions else None

    def begin_erase(self, region: MemoryRegion, address: int, size: int) -> float:
        """Invalidate, begin erasing; returns the seconds it takes until ``finish_erase`` may be called."""
        self._set_mark(region, _Mark(valid=False))
        first, sectors = self._sectors(region, address, size)
        self._fill(region, first, self.settings.sector_bytes)
        return sectors * self.settings.erase_ms_per_sector / 1000

    def finish_erase(self, region: MemoryRegion, address: int, size: int) -> None:
        """All sectors that hold a byte of the range are erased."""
        first, sectors = self._sectors(region, address, size)
        self._fill(region, first, sectors * self.settings.sector_bytes)

    def _sectors(self, region: MemoryRegion, address: int, size: int) -> tuple[int, int]:
        """Offset of the first sector, number of sectors."""
        sector = self.settings.sector_bytes
        first = (address - region.start) // sector
        last = (address - region.start + size - 1) // sector
        return first * sector, last - first + 1

    def _fill(self, region: MemoryRegion, offset: int, size: int) -> None:
        data = self._context.memory.data(region)
        end = min(len(data), offset + size)
        data[offset:end] = bytes([ERASED]) * (end - offset)
        self._context.nv.touch(f"memory.{region.name}")

    def is_erased(self, address: int, size: int) -> bool:
        """Whether a range of a region can be programmed."""
        return self._context.memory.read(address, size).count(ERASED) == size

    def program(self, region: MemoryRegion, address: int, content: bytes) -> bool:
        """Write to erased memory; False (nothing written): it was not erased."""
        if not self.is_erased(address, len(content)):
            return False
        self._set_mark(region, _Mark(valid=False))
        self._context.memory.write(address, content)
        return True

    # ---- checks

    def check(self) -> Verdict:
        """Check what was programmed and mark it valid if it is good; GOOD also if there was nothing to check."""
        for region in self.regions:
            if not self.is_valid(region):
                verdict = self._check(region)
                if verdict != Verdict.GOOD:
                    return verdict
        return Verdict.GOOD

    def check_s(self) -> float:
        """How long ``check`` takes."""
        open_bytes = sum(region.bytes for region in self.regions if not self.is_valid(region))
        return open_bytes / self.settings.sector_bytes * self.settings.check_ms_per_sector / 1000

    def _check(self, region: MemoryRegion) -> Verdict:
        data = bytes(self._context.memory.data(region))
        try:
            header = parse_header(data)
        except ImageError:
            return Verdict.NO_IMAGE
        verdict = self._judge(region, header, data)
        if verdict == Verdict.GOOD:
            crc32 = zlib.crc32(data[: header.image_bytes])
            self._set_mark(
                region,
                _Mark(
                    valid=True, bytes=header.image_bytes, crc32=crc32, version=header.version,
                    compatibility=header.compatibility,
                ),
            )  # fmt: skip
            if region == self.regions[0]:
                self._tell_versions(header)
                digest = hashlib.sha256(data[: header.image_bytes]).digest()
                for number in self.settings.digest_dids:
                    self._context.override_did(number, digest)
        return verdict

    def _judge(self, region: MemoryRegion, header: ImageHeader, data: bytes) -> Verdict:
        if not is_signed(data, self._public_key):
            return Verdict.WRONG_SIGNATURE
        if header.ecu != self._context.description.name:
            return Verdict.WRONG_ECU
        if header.hardware_id != self.hardware_id:
            return Verdict.WRONG_HARDWARE
        if header.address != region.start or header.image_bytes > region.bytes:
            return Verdict.WRONG_ADDRESS
        payload = data[header.image_bytes - header.payload_bytes : header.image_bytes]
        if zlib.crc32(payload) != header.crc32 or hashlib.sha256(payload).digest() != header.sha256:
            return Verdict.WRONG_CHECKSUM
        return Verdict.GOOD

    def _tell_versions(self, header: ImageHeader) -> None:
        for dids, text in ((self.settings.version_dids, header.version), (self.settings.part_dids, header.part)):
            for number in dids:
                did = self._context.description.did(number)
                if did is not None:
                    self._context.override_did(number, text.encode("ascii")[: did.length].ljust(did.length))
