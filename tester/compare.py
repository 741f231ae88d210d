"""Snapshots of a vehicle (identification, identifiers, faults of all ECUs) and what differs between two.

A snapshot is JSON and keeps what was read as bytes and in words, so that a comparison needs no vehicle file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gateway.errors import GatewayError
from gateway.uds.client import UdsClient
from gateway.uds.errors import NegativeResponse
from gateway.uds.names import DID_NAMES
from tester.did import values_of
from tester.dtc import Details, read_details, read_faults
from tester.errors import FileError
from tester.values import as_text
from tester.vehicle import Ecu, Vehicle

FORMAT = "outrider-vehicle-snapshot/1"
MAX_FILE_BYTES = 64 * 1024 * 1024
STORED = 0xAF  # what "not tested" bits alone do not make
MAX_DETAILS = 32
#: Differ between two moments without meaning anything.
VOLATILE = frozenset({0xF186})


class DidEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One identifier."""

    did: str
    name: str
    data: str  # hexadecimal
    text: str

    @property
    def is_identification(self) -> bool:
        """What does not change by itself: F1xx."""
        return self.did.startswith("F1")


class DtcValue(msgspec.Struct, frozen=True, kw_only=True):
    """A value of a code's snapshot or an extended data record."""

    record: str
    name: str
    text: str


class DtcEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One stored code."""

    code: str
    status: str
    words: tuple[str, ...]
    text: str
    severity: str = ""
    snapshots: tuple[DtcValue, ...] = ()
    extended: tuple[DtcValue, ...] = ()


class EcuEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One ECU; ``error``: why nothing could be read."""

    ecu: str
    title: str = ""
    dids: tuple[DidEntry, ...] = ()
    dtcs: tuple[DtcEntry, ...] = ()
    dtc_error: str = ""
    error: str = ""

    def text_of(self, did: str) -> str:
        """The words of an identifier; "" where there are none."""
        return next((entry.text for entry in self.dids if entry.did == did), "")


class VehicleSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A whole vehicle at one time."""

    taken_utc: str
    vehicle: str
    ecus: tuple[EcuEntry, ...]
    vin: str = ""
    format: str = FORMAT


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not the same. ``kind``: ecu, did, dtc; "" stands for absent."""

    ecu: str
    kind: str
    item: str
    name: str
    before: str
    after: str


async def read_ecu(vehicle: Vehicle, ecu: Ecu, client: UdsClient) -> EcuEntry:
    """One ECU, in its default session, by reading only.

    Raises:
        GatewayError: it does not answer at all.
    """
    dids: list[DidEntry] = []
    for number in readable(ecu):
        try:
            data = await client.read_did(number)
        except NegativeResponse:
            continue
        did = ecu.did(number)
        text = as_text(values_of(did, data))
        dids.append(DidEntry(did=f"{number:04X}", name=did.name, data=data.hex().upper(), text=text))
    try:
        dtcs, problem = await _read_dtcs(vehicle, ecu, client), ""
    except GatewayError as error:
        dtcs, problem = (), str(error)
    return EcuEntry(ecu=ecu.name, title=ecu.title, dids=tuple(dids), dtcs=dtcs, dtc_error=problem)


def readable(ecu: Ecu) -> list[int]:
    """Identifiers that are described as readable in the default session; without description, the standard's."""
    described = [
        number
        for number, did in ecu.dids.items()
        if did.read is not None
        and (not did.read.sessions or 1 in did.read.sessions)
        and not did.read.security
        and not did.read.authenticated
    ]
    return sorted(described or [*DID_NAMES, *ecu.dids])


async def _read_dtcs(vehicle: Vehicle, ecu: Ecu, client: UdsClient) -> tuple[DtcEntry, ...]:
    found = []
    for i, fault in enumerate((await read_faults(vehicle, ecu, client, STORED)).faults):
        details: Details | None = None
        if i < MAX_DETAILS:
            try:
                details = await read_details(vehicle, ecu, client, fault.number)
            except GatewayError:
                details = None
        found.append(
            DtcEntry(
                code=fault.code, status=f"{fault.status:02X}", words=tuple(fault.words), text=fault.text,
                severity=fault.severity,
                snapshots=tuple(
                    DtcValue(record=f"{s.record:02X}", name=name or f"{did:04X}", text=as_text(values))
                    for s in (details.snapshots if details else ())
                    for did, name, values in s.items
                ),
                extended=tuple(
                    DtcValue(record=f"{r.record:02X}", name=r.name, text=r.text)
                    for r in (details.records if details else ())
                ),
            )
        )  # fmt: skip
    return tuple(found)


def snapshot_of(vehicle: Vehicle, ecus: Iterable[EcuEntry]) -> VehicleSnapshot:
    """Put together; the VIN is the first that is told."""
    entries = tuple(ecus)
    vin = next((text for entry in entries if (text := entry.text_of("F190"))), "")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return VehicleSnapshot(taken_utc=now, vehicle=vehicle.name, ecus=entries, vin=vin)


def load_snapshot(path: Path) -> VehicleSnapshot:
    """From a file.

    Raises:
        FileError: missing, or no snapshot.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise FileError(path, f"larger than {MAX_FILE_BYTES} bytes")
        found = msgspec.json.decode(path.read_bytes(), type=VehicleSnapshot)
    except OSError as error:
        raise FileError(path, error.strerror or str(error), is_missing=True) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileError(path, f"not a snapshot of a vehicle: {error}") from error
    if found.format != FORMAT:
        raise FileError(path, f"a snapshot of format {found.format!r}; this program reads {FORMAT!r}")
    return found


def differences(a: VehicleSnapshot, b: VehicleSnapshot, *, values: bool = False) -> list[Difference]:
    """What is not the same in ``b``. ``values``: also measured values, which change by themselves."""
    found: list[Difference] = []
    before, after = ({entry.ecu: entry for entry in s.ecus} for s in (a, b))
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old is None or new is None or bool(old.error) != bool(new.error):
            words = ["" if e is None else e.error or "answers" for e in (old, new)]
            found.append(Difference(ecu=name, kind="ecu", item="", name="", before=words[0], after=words[1]))
        if old is not None and new is not None and not old.error and not new.error:
            found += _of_dids(name, old, new, values=values)
            found += _of_dtcs(name, old, new)
    return found


def _of_dids(ecu: str, old: EcuEntry, new: EcuEntry, *, values: bool) -> list[Difference]:
    before, after = ({e.did: e for e in entry.dids} for entry in (old, new))
    found = []
    for did in sorted({*before, *after}):
        a, b = before.get(did), after.get(did)
        known = a or b
        if known is None or int(did, 16) in VOLATILE or not (values or known.is_identification):
            continue
        if (a.data if a else None) != (b.data if b else None):
            found.append(
                Difference(
                    ecu=ecu,
                    kind="did",
                    item=did,
                    name=known.name,
                    before=a.text if a else "",
                    after=b.text if b else "",
                )
            )
    return found


def _of_dtcs(ecu: str, old: EcuEntry, new: EcuEntry) -> list[Difference]:
    before: Mapping[str, DtcEntry] = {e.code: e for e in old.dtcs}
    after: Mapping[str, DtcEntry] = {e.code: e for e in new.dtcs}
    found = []
    for code in sorted({*before, *after}):
        a, b = before.get(code), after.get(code)
        words = ["" if e is None else ", ".join(e.words) for e in (a, b)]
        known = a or b
        if words[0] != words[1] and known is not None:
            found.append(
                Difference(ecu=ecu, kind="dtc", item=code, name=known.text, before=words[0], after=words[1])
            )  # fmt: skip
    return found
