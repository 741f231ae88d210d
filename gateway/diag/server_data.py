"""What the gateway's own diagnostic server can be asked by identifier (0x22): identification and live values."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

#: ISO 14229-1 annex C.1: identification (ASCII unless told otherwise).
BOOT_SOFTWARE, APPLICATION_SOFTWARE, ACTIVE_SESSION = 0xF180, 0xF181, 0xF186
PART_NUMBER, SOFTWARE_NUMBER, SOFTWARE_VERSION, SUPPLIER = 0xF187, 0xF188, 0xF189, 0xF18A
MANUFACTURED, SERIAL_NUMBER, VIN, HARDWARE_NUMBER, SYSTEM_NAME = 0xF18B, 0xF18C, 0xF190, 0xF191, 0xF197
#: Ours, from the range for system suppliers.
MANIFEST_HASH, UPDATE_STATUS, SPOOL_PENDING_BYTES, LINK_STATE = 0xFD00, 0xFD01, 0xFD02, 0xFD03
#: Signals of the monitors, live and in snapshots, from the range for vehicle manufacturers.
SNAPSHOT_TIME, FIRST_SIGNAL = 0x4000, 0x4001


@dataclass(frozen=True, slots=True, kw_only=True)
class DataIdentifier:
    """One readable identifier. ``read`` must not block; what it raises is a mistake of ours.

    ``coding``: ``ascii``, ``bytes``, ``uint`` or ``float32`` (both big-endian).
    """

    number: int
    name: str
    read: Callable[[], bytes]
    coding: str = "bytes"
    unit: str = ""


def text(number: int, name: str, value: str | Callable[[], str]) -> DataIdentifier:
    """An ASCII identifier; other characters become ``?``."""
    if callable(value):
        return DataIdentifier(number=number, name=name, read=lambda: _ascii(value()), coding="ascii")
    content = _ascii(value)
    return DataIdentifier(number=number, name=name, read=lambda: content, coding="ascii")


def unsigned(number: int, name: str, value: Callable[[], int], size: int, unit: str = "") -> DataIdentifier:
    """A big-endian number that stops at its largest value."""
    top = (1 << 8 * size) - 1

    def read() -> bytes:
        return min(max(value(), 0), top).to_bytes(size, "big")

    return DataIdentifier(number=number, name=name, read=read, coding="uint", unit=unit)


def float32(value: float | None) -> bytes:
    """A value in four bytes; unknown is NaN, what does not fit infinity."""
    try:
        return struct.pack(">f", float("nan") if value is None else value)
    except OverflowError:
        return struct.pack(">f", float("inf") if (value or 0) > 0 else float("-inf"))


def signal(number: int, name: str, value: Callable[[], float | None], unit: str) -> DataIdentifier:
    """A live signal."""
    return DataIdentifier(number=number, name=name, read=lambda: float32(value()), coding="float32", unit=unit)


def identification(
    *, vin: str, software: str, manifest_hash: bytes, serial: str = "", hardware: str = "", part: str = ""
) -> list[DataIdentifier]:
    """What every gateway tells of itself; empty texts are left out. The VIN is 17 characters or left out."""
    texts = (
        (APPLICATION_SOFTWARE, "application software", f"outrider {software}"),
        (PART_NUMBER, "part number", part),
        (SOFTWARE_NUMBER, "software number", "outrider-gateway"),
        (SOFTWARE_VERSION, "software version", software),
        (SUPPLIER, "supplier", "Outrider"),
        (SERIAL_NUMBER, "serial number", serial),
        (VIN, "VIN", vin if len(vin) == 17 else ""),
        (HARDWARE_NUMBER, "hardware number", hardware),
        (SYSTEM_NAME, "system name", "gateway"),
    )
    found = [text(number, name, value) for number, name, value in texts if value]
    found.append(DataIdentifier(number=MANIFEST_HASH, name="manifest hash", read=lambda: manifest_hash))
    return found


def table(identifiers: Sequence[DataIdentifier]) -> Mapping[int, DataIdentifier]:
    """By number.

    Raises:
        ValueError: two of one number, or one that is no identifier.
    """
    found: dict[int, DataIdentifier] = {}
    for identifier in identifiers:
        if identifier.number in found or not 0 <= identifier.number <= 0xFFFF:
            raise ValueError(f"data identifier {identifier.number:#06x} twice, or not 2 bytes")
        found[identifier.number] = identifier
    return dict(sorted(found.items()))


def _ascii(value: str) -> bytes:
    return value.encode("ascii", "replace")
