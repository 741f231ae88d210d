"""Diagnostic trouble codes as vehicle, tool and cloud share them: numbers, their written form, status bits, reports.

A DTC is 3 bytes (ISO 14229-1, format 0x01 as ISO 15031-6 / SAE J2012-DA): two bytes that SAE J2012 writes as a letter
and four digits, and the failure type byte. ``0x442300`` is written ``C0423-00``.
"""

from __future__ import annotations

import re
from enum import IntFlag

import msgspec

_LETTERS = "PCBU"
_WRITTEN = re.compile(r"([PCBU])([0-3])([0-9A-F]{3})(?:-?([0-9A-F]{2}))?")


class Status(IntFlag):
    """The status byte of ISO 14229-1, annex D.2."""

    TEST_FAILED = 0x01
    TEST_FAILED_THIS_CYCLE = 0x02
    PENDING = 0x04
    CONFIRMED = 0x08
    NOT_COMPLETED_SINCE_CLEAR = 0x10
    FAILED_SINCE_CLEAR = 0x20
    NOT_COMPLETED_THIS_CYCLE = 0x40
    WARNING_INDICATOR = 0x80


def format_dtc(code: int) -> str:
    """``0x442300`` → ``C0423-00``.

    Raises:
        ValueError: not a 24-bit number.
    """
    if not 0 <= code <= 0xFFFFFF:
        raise ValueError(f"{code:#x} is no 3-byte DTC")
    return f"{_LETTERS[code >> 22]}{code >> 20 & 3}{code >> 8 & 0xFFF:03X}-{code & 0xFF:02X}"


def parse_dtc(text: str) -> int:
    """From ``C0423-00``, ``C042300``, ``C0423`` (failure type 00) or six hexadecimal digits (``0x442300``, ``442300``).

    Raises:
        ValueError: none of these.
    """
    word = text.strip().upper()
    if match := _WRITTEN.fullmatch(word):
        letter, digit, rest, kind = match.groups()
        return _LETTERS.index(letter) << 22 | int(digit) << 20 | int(rest, 16) << 8 | int(kind or "0", 16)
    if re.fullmatch(r"(0X)?[0-9A-F]{6}", word):
        return int(word.removeprefix("0X"), 16)
    raise ValueError(f"{text!r} is no DTC; expected one like P0A1B-16 or 0x0A1B16")


class SnapshotValue(msgspec.Struct, frozen=True, kw_only=True):
    """One value of a snapshot: a DID or a signal, by name, physical where its scaling is known."""

    name: str
    value: float | str  # text: a label, or hexadecimal bytes of what nobody can decode
    unit: str = ""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Freeze frame: the values at one moment. ``record`` is the UDS record number (1 first, 2 most recent here)."""

    record: int
    at_ns: int | None  # UTC; None where the ECU does not tell
    values: tuple[SnapshotValue, ...] = ()


class DtcReport(msgspec.Struct, frozen=True, kw_only=True):
    """A DTC whose stored state changed, or that was cleared: the ``detail`` (JSON) of an event of kind ``dtc``.

    Unknown keys are ignored by readers, so that newer vehicles can tell more.
    """

    ecu: str  # as in the vehicle's configuration; "gateway" for its own monitors
    code: int
    status: int
    previous: int | None = None  # status before; None: seen for the first time
    change: str = "changed"  # "new", "changed", "cleared", "gone" (an ECU no longer lists it), "present" (full list)
    severity: int | None = None
    occurrences: int | None = None
    aging: int | None = None
    odometer_km: float | None = None
    snapshots: tuple[Snapshot, ...] = ()
    extended: dict[str, float | str] = {}
    text: str = ""  # the vehicle's own words, where it has any
    by: str = ""  # who cleared it: "tester 0x0E80", "cloud job 12", "ecu"
