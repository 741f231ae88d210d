"""What belongs to a DTC: its snapshots and extended data, read and put into words.

Neither tells how long its parts are. Lengths come from a layout where the integrator gave one; else they are learned by
reading the identifier, or the record, by itself; for one poll only, since a flashed ECU may have others. What cannot be
learned is told as hexadecimal bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Literal

import msgspec

from gateway.errors import TransportError
from gateway.uds.client import UdsClient
from gateway.uds.codec import dtc
from gateway.uds.codec.query import Query
from gateway.uds.errors import MalformedAnswer, NegativeResponse, UnexpectedAnswer
from gateway.uds.names import did_name
from gateway.wire.dtc import DtcReport, Snapshot, SnapshotValue

Coding = Literal["uint", "int", "ascii", "bcd", "hex", "float32"]


class DidLayout(msgspec.Struct, frozen=True, kw_only=True):
    """How an identifier's bytes become values: a big-endian number times ``factor`` plus ``offset``, text, or parts."""

    name: str
    length: int
    factor: float = 1.0
    offset: float = 0.0
    unit: str = ""
    coding: Coding = "uint"
    labels: Mapping[int, str] = {}
    parts: tuple[DidLayout, ...] = ()  # one after the other; their lengths add up to this one's

    def values_of(self, content: bytes) -> list[SnapshotValue]:
        """Physical values, labels or texts; bytes of another length than the layout's as they are."""
        if len(content) != self.length:
            return [SnapshotValue(name=self.name, value=content.hex().upper())]
        if not self.parts:
            return [SnapshotValue(name=self.name, value=self._value_of(content), unit=self.unit)]
        values, at = [], 0
        for part in self.parts:
            piece, at = content[at : at + part.length], at + part.length
            name = f"{self.name}: {part.name}" if part.name else self.name
            values.append(SnapshotValue(name=name, value=part._value_of(piece), unit=part.unit))
        return values

    def _value_of(self, content: bytes) -> float | str:
        if self.coding == "ascii":
            return content.decode("latin-1").strip("\0 ")
        if self.coding in ("hex", "bcd"):
            return content.hex().upper()
        if self.coding == "float32":
            (number,) = struct.unpack(">f", content)
            return float(number) * self.factor + self.offset if math.isfinite(number) else str(number)
        raw = int.from_bytes(content, "big", signed=self.coding == "int")
        return self.labels.get(raw, raw * self.factor + self.offset)


class ExtendedLayout(msgspec.Struct, frozen=True, kw_only=True):
    """An extended data record: an unsigned number, by a name."""

    name: str
    length: int = 1


#: The numbers most makers give these counters; only used for records of just this length.
USUAL_EXTENDED: dict[int, ExtendedLayout] = {
    0x01: ExtendedLayout(name="occurrences"),
    0x02: ExtendedLayout(name="aging"),
    0x03: ExtendedLayout(name="failed_cycles"),
    0x04: ExtendedLayout(name="first_odometer_km", length=3),
    0x05: ExtendedLayout(name="fault_detection"),
}


class EcuLayout(msgspec.Struct, frozen=True, kw_only=True):
    """What is known beforehand of one ECU's snapshots and extended data. ``texts``: words for its trouble codes."""

    dids: Mapping[int, DidLayout] = {}
    extended: Mapping[int, ExtendedLayout] = msgspec.field(default_factory=lambda: USUAL_EXTENDED)
    texts: Mapping[int, str] = {}


class DetailReader:
    """Completes reports of one ECU's poll."""

    def __init__(self, client: UdsClient, layout: EcuLayout) -> None:
        self._client, self._layout = client, layout
        self._did_bytes: dict[int, int] = {}
        self._record_bytes: dict[int, int] = {}
        self._closed: set[int] = set()  # identifiers that cannot be read by themselves
        self.requests = 0
        self.has_failed = False

    async def complete(self, report: DtcReport) -> DtcReport:
        """The report with all that could be read; what is refused or lost is left out, ``has_failed`` tells silence."""
        try:
            snapshots = await self._snapshots(report.code)
            extended = await self._extended(report.code)
        except (TransportError, UnexpectedAnswer):
            self.has_failed = True
            return report
        values = {name: value for name, value in extended.items() if isinstance(value, float)}
        occurrences, aging, odometer = values.get("occurrences"), values.get("aging"), values.get("odometer_km")
        return msgspec.structs.replace(
            report,
            snapshots=snapshots,
            extended=extended,
            occurrences=None if occurrences is None else int(occurrences),
            aging=None if aging is None else int(aging),
            odometer_km=odometer,
        )

    # Snapshots.

    def _did_length(self, did: int) -> int | None:
        layout = self._layout.dids.get(did)
        return self._did_bytes.get(did) if layout is None else layout.length

    async def _snapshots(self, code: int) -> tuple[Snapshot, ...]:
        query = dtc.snapshots(code, dtc.ALL_RECORDS, self._did_length)
        answer = await self._request(query)
        if answer is None:
            return ()
        while True:
            try:
                found = query.decode(answer)
            except MalformedAnswer:  # a length that is not always the same
                self._did_bytes.clear()
                return ()
            unknown = next((int.from_bytes(r.rest[:2], "big") for r in found.records if r.rest), None)
            if unknown is None or unknown in self._closed:
                return tuple(self._words(record) for record in found.records)
            await self._learn_did(unknown)

    async def _learn_did(self, did: int) -> None:
        self.requests += 1
        try:
            self._did_bytes[did] = len(await self._client.read_did(did))
        except NegativeResponse:
            self._closed.add(did)

    def _words(self, record: dtc.SnapshotRecord) -> Snapshot:
        values = [each for value in record.values for each in self._values(value.did, value.data)]
        if record.rest:
            did = int.from_bytes(record.rest[:2], "big")
            name = f"{_name(did)} and what follows"
            values.append(SnapshotValue(name=name, value=record.rest[2:].hex().upper()))
        return Snapshot(record=record.record, at_ns=None, values=tuple(values))

    def _values(self, did: int, content: bytes) -> list[SnapshotValue]:
        layout = self._layout.dids.get(did)
        if layout is None:
            return [SnapshotValue(name=_name(did), value=content.hex().upper())]
        return layout.values_of(content)

    # Extended data.

    def _record_length(self, record: int) -> int | None:
        return self._record_bytes.get(record)

    async def _extended(self, code: int) -> dict[str, float | str]:
        query = dtc.extended_data(code, dtc.ALL_RECORDS, self._record_length)
        answer = await self._request(query)
        if answer is None:
            return {}
        while True:
            try:
                found = query.decode(answer)
            except MalformedAnswer:
                self._record_bytes.clear()
                return {}
            if not found.rest or not await self._learn_record(code, found.rest[0]):
                break
        values = dict(self._field(record) for record in found.records)
        if found.rest:
            values[f"record_{found.rest[0]:02X}_and_what_follows"] = found.rest[1:].hex().upper()
        return values

    async def _learn_record(self, code: int, record: int) -> bool:
        """Ask for one record alone; False when that does not tell its length."""
        if record in self._record_bytes or not 0 < record < 0xFE:
            return False
        query = dtc.extended_data(code, record)
        try:
            answer = await self._request(query)
            records = () if answer is None else query.decode(answer).records
        except MalformedAnswer:
            return False
        if len(records) != 1 or records[0].record != record or not records[0].data:
            return False
        self._record_bytes[record] = len(records[0].data)
        return True

    def _field(self, record: dtc.ExtendedRecord) -> tuple[str, float | str]:
        layout = self._layout.extended.get(record.record)
        if layout is None or layout.length != len(record.data):
            return f"record_{record.record:02X}", record.data.hex().upper()
        return layout.name, float(int.from_bytes(record.data, "big"))

    async def _request(self, query: Query[object]) -> bytes | None:
        """The answer as it is, None when it is refused."""
        self.requests += 1
        try:
            return await self._client.request(query.request, query.prefixes)
        except NegativeResponse:
            return None


def _name(did: int) -> str:
    return did_name(did) or f"0x{did:04X}"
