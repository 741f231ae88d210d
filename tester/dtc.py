"""Reading an ECU's fault memory as a technician wants it: texts, status in words, snapshots with names and units."""

from __future__ import annotations

import msgspec

from gateway.uds.client import UdsClient
from gateway.uds.codec import dtc as codec
from gateway.uds.errors import MalformedAnswer, NegativeResponse, NoAnswer
from gateway.uds.names import Nrc
from gateway.wire.dtc import format_dtc
from gateway.wire.dtc_texts import describe_dtc, status_words
from tester.values import Value, as_json, decode
from tester.vehicle import Ecu, Vehicle

SEVERITIES = {0x80: "check immediately", 0x40: "check at next halt", 0x20: "maintenance only"}
#: What most makers keep under these extended data records.
USUAL_RECORDS = {
    0x01: "occurrences", 0x02: "aging counter", 0x03: "failed cycles", 0x04: "odometer at first failure",
    0x05: "fault detection counter",
}  # fmt: skip
MAX_LEARNED = 64
_ABSENT = frozenset({Nrc.OUT_OF_RANGE, Nrc.SUBFUNCTION_NOT_SUPPORTED, Nrc.SERVICE_NOT_SUPPORTED,
                     Nrc.SUBFUNCTION_NOT_IN_SESSION, Nrc.SERVICE_NOT_IN_SESSION, Nrc.INCORRECT_LENGTH,
                     Nrc.SECURITY_ACCESS_DENIED, Nrc.CONDITIONS_NOT_CORRECT})  # fmt: skip


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A code with its state in words."""

    number: int
    status: int
    text: str
    severity: str = ""

    @property
    def code(self) -> str:
        """``P0A93-00``."""
        return format_dtc(self.number)

    @property
    def words(self) -> list[str]:
        """The set bits of the status."""
        return status_words(self.status)

    def as_json(self) -> dict[str, object]:
        """For machines."""
        return {
            "code": self.code, "number": f"{self.number:06X}", "status": f"{self.status:02X}",
            "status_words": self.words, "text": self.text, "severity": self.severity,
        }  # fmt: skip


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """A fault memory. ``availability``: the status bits the ECU keeps."""

    availability: int
    faults: tuple[Fault, ...]


class SnapshotView(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot: (identifier, its name, its values); ``rest``: hexadecimal of what nobody can take apart."""

    record: int
    items: tuple[tuple[int, str, tuple[Value, ...]], ...]
    rest: str = ""


class RecordView(msgspec.Struct, frozen=True, kw_only=True):
    """An extended data record."""

    record: int
    name: str
    data: bytes

    @property
    def text(self) -> str:
        """A number if it is short."""
        number = int.from_bytes(self.data, "big", signed=self.record == 0x05 and len(self.data) == 1)
        return str(number) if len(self.data) <= 4 else self.data.hex(" ").upper()


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """All an ECU tells about a code."""

    fault: Fault
    snapshots: tuple[SnapshotView, ...]
    records: tuple[RecordView, ...]
    rest: str = ""

    def as_json(self) -> dict[str, object]:
        """For machines."""
        return {
            **self.fault.as_json(),
            "snapshots": [
                {
                    "record": f"{s.record:02X}",
                    "values": [{"did": f"{did:04X}", "name": name, "fields": as_json(v)} for did, name, v in s.items],
                    **({"rest": s.rest} if s.rest else {}),
                }
                for s in self.snapshots
            ],
            "extended": [
                {"record": f"{r.record:02X}", "name": r.name, "data": r.data.hex().upper(), "value": r.text}
                for r in self.records
            ],
            **({"rest": self.rest} if self.rest else {}),
        }


def severity_words(severity: int) -> str:
    """The most urgent of bits 7 to 5; "" for none."""
    return next((words for bit, words in SEVERITIES.items() if severity & bit), "")


def fault_of(vehicle: Vehicle, ecu: Ecu, number: int, status: int, severity: int = 0) -> Fault:
    """With its text: the vehicle file's, else ours."""
    text = describe_dtc(number, vehicle.texts_of(ecu)).text
    return Fault(number=number, status=status, text=text, severity=severity_words(severity))


async def read_faults(
    vehicle: Vehicle, ecu: Ecu, client: UdsClient, mask: int, *, memory: int | None = None, severities: bool = True
) -> Faults:
    """Those with one of the status bits, with severities where the ECU keeps them.

    Raises:
        As ``UdsClient.read_dtcs``.
    """
    listed = await client.read_dtcs(mask, memory=memory)
    urgent: dict[int, int] = {}
    if severities and listed.dtcs and memory is None:
        try:
            urgent = {d.code: d.severity for d in (await client.read_by_severity(0xE0, mask)).dtcs}
        except (NegativeResponse, MalformedAnswer, NoAnswer):
            urgent = {}
    found = [fault_of(vehicle, ecu, d.code, d.status, urgent.get(d.code, 0)) for d in listed.dtcs]
    return Faults(availability=listed.availability, faults=tuple(found))


def faults_of_list(vehicle: Vehicle, ecu: Ecu, listed: codec.DtcList) -> Faults:
    """From any other report."""
    return Faults(
        availability=listed.availability,
        faults=tuple(fault_of(vehicle, ecu, d.code, d.status) for d in listed.dtcs),
    )


async def read_details(
    vehicle: Vehicle, ecu: Ecu, client: UdsClient, number: int, *, memory: int | None = None
) -> Details | None:
    """Snapshots and extended data of a code; None when the ECU does not know it.

    Raises:
        As ``UdsClient.snapshots``.
    """
    try:
        stored = await _snapshots(ecu, client, number, memory)
    except NegativeResponse as refusal:
        if refusal.nrc == Nrc.OUT_OF_RANGE:
            return None
        if refusal.nrc not in _ABSENT:
            raise
        stored = None
    severity = await _severity(client, number) if memory is None else 0
    status = stored.status if stored else await _status(client, number)
    if status is None:
        return None
    records, rest = await _records(ecu, client, number, memory)
    return Details(
        fault=fault_of(vehicle, ecu, number, status, severity),
        snapshots=tuple(_view(ecu, record) for record in stored.records) if stored else (),
        records=records,
        rest=rest,
    )


async def _status(client: UdsClient, number: int) -> int | None:
    for found in (await client.read_dtcs(0xFF)).dtcs:
        if found.code == number:
            return found.status
    return None


async def _severity(client: UdsClient, number: int) -> int:
    try:
        found = await client.severity_of(number)
    except (NegativeResponse, MalformedAnswer, NoAnswer):
        return 0
    return found.severity if found else 0


async def _snapshots(ecu: Ecu, client: UdsClient, number: int, memory: int | None) -> codec.DtcSnapshots:
    """Learns the length of identifiers that the vehicle file does not have, by reading them."""
    lengths = ecu.did_lengths()
    for _ in range(MAX_LEARNED):
        stored = await client.snapshots(number, codec.ALL_RECORDS, lengths, memory=memory)
        unknown = next((int.from_bytes(r.rest[:2], "big") for r in stored.records if len(r.rest) > 2), None)
        if unknown is None or unknown in lengths:
            return stored
        try:
            lengths[unknown] = len(await client.read_did(unknown))
        except NegativeResponse:
            return stored
    return stored


def _view(ecu: Ecu, record: codec.SnapshotRecord) -> SnapshotView:
    items = []
    for value in record.values:
        did = ecu.did(value.did)
        items.append((value.did, did.name or f"{value.did:04X}", decode(did.fields, value.data)))
    return SnapshotView(record=record.record, items=tuple(items), rest=record.rest.hex(" ").upper())


async def _records(ecu: Ecu, client: UdsClient, number: int, memory: int | None) -> tuple[tuple[RecordView, ...], str]:
    """One by one where their numbers are known: each is then as long as the answer. Else all, as far as possible."""
    names = dict(ecu.extended_records) or USUAL_RECORDS
    found: list[RecordView] = []
    for record, name in names.items():
        try:
            answer = await client.extended_data(number, record, memory=memory)
        except NegativeResponse as refusal:
            if refusal.nrc not in _ABSENT:
                raise
            continue
        found += [RecordView(record=r.record, name=name, data=r.data) for r in answer.records]
    if found:
        return tuple(found), ""
    try:
        answer = await client.extended_data(number, memory=memory)
    except NegativeResponse as refusal:
        if refusal.nrc not in _ABSENT:
            raise
        return (), ""
    return (), answer.rest.hex(" ").upper()
