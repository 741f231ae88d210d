"""What a flash is going to do and whether it may: steps, sizes, time, findings. No I/O.

A plan is made from the file, what is known of the ECU, and what the ECU says of itself. Its findings are ``ok``,
``warning`` (told, does not stop) or ``stop`` (not begun without ``force``).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping

import msgspec

from tester.flash_files import Firmware, Segment
from tester.values import Value
from tester.vehicle import Ecu, Region

SUPPLY_V = (11.0, 15.5)
#: Content bytes a second, from experience; only for the estimate before the first byte is sent.
CLASSIC_BYTES_PER_S, FD_BYTES_PER_S = 25_000, 120_000
ERASE_BYTES_PER_S = 1_000_000
PLAIN, ZLIB = 0x00, 0x10
VERSION_DIDS = (0xF189, 0xF195, 0xF181)
HARDWARE_DIDS = (0xF191, 0xF193, 0xF192)
SERIAL_DID, SESSION_DID = 0xF18C, 0xF186
ERASE, CHECK, PRECONDITIONS, DEPENDENCIES = 0xFF00, 0x0202, 0x0203, 0xFF01


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    level: str  # ok, warning, stop
    what: str
    detail: str


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to program; the numbers are what most makers took over from ISO 14229-1 and HIS."""

    level: int | None = None  # of 0x27; None: what the ECU's description says, else 0x11
    skip_unlock: bool = False
    compress: bool = False
    max_block_bytes: int | None = None
    retries: int = 3  # of one block
    attempts: int = 3  # after the ECU was lost
    lost_s: float = 30.0  # how long a lost ECU may take to come back
    reset: bool = True


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the ECU told before: identifiers that it has, decoded values by name."""

    dids: Mapping[int, str] = {}
    values: tuple[Value, ...] = ()


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A segment and how it is sent."""

    segment: Segment
    region: str = ""
    data_format: int = PLAIN
    sent: bytes = b""  # what goes over the bus

    @property
    def address(self) -> int:
        """Where it goes."""
        return self.segment.address


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is going to happen."""

    ecu: str
    parts: tuple[Part, ...]
    findings: tuple[Finding, ...]
    level: int | None
    estimate_s: float
    sha256: str
    version: str = ""  # of the image, where it tells
    was: str = ""  # version in the ECU before
    serial: str = ""

    @property
    def total_bytes(self) -> int:
        """Over the bus."""
        return sum(len(part.sent) for part in self.parts)

    @property
    def stops(self) -> tuple[Finding, ...]:
        """What speaks against it."""
        return tuple(f for f in self.findings if f.level == "stop")


def make_plan(firmware: Firmware, ecu: Ecu, known: Known, settings: Settings, *, via_doip: bool = False) -> Plan:
    """Judge and lay out. Never fails: what is wrong is a finding."""
    findings = [*_of_file(firmware), *_of_ecu(firmware, ecu, known), *_of_vehicle(known)]
    parts = []
    compress = settings.compress and ecu.download is not None and ZLIB in ecu.download.formats
    if settings.compress and not compress:
        findings.append(Finding("warning", "compression", "the ECU is not known to take compressed data; sent plain"))
    for segment in firmware.segments:
        region, finding = _region(ecu, segment)
        findings.append(finding)
        packed = zlib.compress(segment.content, 9) if compress else segment.content
        parts.append(
            Part(
                segment=segment,
                region=region.name if region else "",
                data_format=ZLIB if compress else PLAIN,
                sent=packed,
            )
        )
    header = firmware.header
    total = sum(len(part.sent) for part in parts)
    rate = FD_BYTES_PER_S if ecu.link.tx_dl > 8 else CLASSIC_BYTES_PER_S
    return Plan(
        ecu=ecu.name,
        parts=tuple(parts),
        findings=tuple(findings),
        level=None if settings.skip_unlock else _level(ecu, settings),
        estimate_s=total / rate + firmware.total_bytes / ERASE_BYTES_PER_S + 3 + (ecu.boot_s or 2.0) * (1 + via_doip),
        sha256=firmware.sha256,
        version=header.version if header else "",
        was=_first(known.dids, VERSION_DIDS),
        serial=known.dids.get(SERIAL_DID, ""),
    )


def _level(ecu: Ecu, settings: Settings) -> int:
    if settings.level is not None:
        return settings.level
    if ecu.download is not None and ecu.download.access is not None and ecu.download.access.security:
        return ecu.download.access.security
    programming = [n for n, level in ecu.levels.items() if 2 in level.sessions]
    return programming[0] if programming else 0x11


def _first(dids: Mapping[int, str], numbers: tuple[int, ...]) -> str:
    return next((dids[n] for n in numbers if dids.get(n)), "")


def _of_file(firmware: Firmware) -> list[Finding]:
    header = firmware.header
    if header is None:
        return [Finding("warning", "file", f"{firmware.kind} data that does not tell which ECU it is for")]
    problems = [Finding("stop", "file", problem) for problem in header.problems]
    return problems or [Finding("ok", "file", f"{header.ecu} {header.version}, checksums of the content are right")]


def _of_ecu(firmware: Firmware, ecu: Ecu, known: Known) -> list[Finding]:
    header, findings = firmware.header, []
    if header is not None:
        same = header.ecu.lower() == ecu.name.lower()
        text = f"the image is for {header.ecu!r}" + ("" if same else f", not for {ecu.name!r}")
        findings.append(Finding("ok" if same else "stop", "ECU", text))
        findings.append(_of_hardware(header.hardware, ecu, known))
        findings.append(_of_version(header.version, _first(known.dids, VERSION_DIDS)))
    if not known.dids:
        findings.append(Finding("stop", "ECU", "does not answer"))
    return findings


def _of_hardware(wanted: str, ecu: Ecu, known: Known) -> Finding:
    told = {known.dids[n] for n in HARDWARE_DIDS if known.dids.get(n)}
    described = ecu.download.hardware_id if ecu.download is not None else ""
    if wanted in told or (not told and wanted == described):
        return Finding("ok", "hardware", wanted)
    if not told and not described:
        return Finding("warning", "hardware", f"the image is for {wanted}; the ECU does not tell what it is")
    has = ", ".join(sorted(told)) or described
    if wanted == described:  # it tells another number than the one its boot loader compares
        return Finding("ok", "hardware", f"{wanted} (tells {has})")
    return Finding("stop", "hardware", f"the image is for {wanted}, the ECU is {has}")


def _of_version(new: str, old: str) -> Finding:
    if not old:
        return Finding("warning", "version", f"{new}; the ECU tells none (its boot loader may be running)")
    if new == old:
        return Finding("warning", "version", f"{new} is in the ECU already")
    if version_key(new) < version_key(old):
        return Finding("warning", "version", f"goes back from {old} to {new}")
    return Finding("ok", "version", f"from {old} to {new}")


def version_key(text: str) -> tuple[tuple[int, str], ...]:
    """For comparing versions as people mean them: numbers as numbers, words after numbers."""
    words: list[str] = re.findall(r"\d+|[A-Za-z]+", text)
    key = [(int(word), "") if word.isdecimal() else (-1, word.lower()) for word in words]
    while key and key[-1] == (0, ""):
        key.pop()
    return tuple(key)


def _of_vehicle(known: Known) -> list[Finding]:
    findings = []
    for value in known.values:
        if not isinstance(value.value, int | float):
            continue
        if value.unit == "V":
            fits = SUPPLY_V[0] <= value.value <= SUPPLY_V[1]
            text = value.text + ("" if fits else f": needs {SUPPLY_V[0]:g} to {SUPPLY_V[1]:g} V, connect a charger")
            findings.append(Finding("ok" if fits else "stop", "supply", text))
        if value.unit == "km/h":
            stands = abs(value.value) < 0.5
            findings.append(Finding("ok" if stands else "stop", "speed", value.text + ("" if stands else ": stop it")))
    return findings


def _region(ecu: Ecu, segment: Segment) -> tuple[Region | None, Finding]:
    where = f"{len(segment.content)} bytes at {segment.address:#010x}"
    if ecu.download is None or not ecu.download.regions:
        return None, Finding("warning", "memory", f"{where}: the ECU's memory map is not known")
    for region in ecu.download.regions:
        if region.start <= segment.address and segment.end <= region.start + region.bytes:
            return region, Finding("ok", "memory", f"{where}: {region.name}")
    names = ", ".join(f"{r.name} {r.start:#010x}-{r.start + r.bytes - 1:#010x}" for r in ecu.download.regions)
    return None, Finding("stop", "memory", f"{where} are in none of the regions that can be programmed ({names})")
