"""Diagnostic trouble codes: 0x14 and every report of 0x19."""

from __future__ import annotations

from gateway.uds.codec.data import Lengths, length_of
from gateway.uds.codec.query import Answer, Query, Reader, byte, nothing, number, query
from gateway.uds.names import Sid

ALL_GROUPS = 0xFFFFFF
ALL_RECORDS = 0xFF


class DtcStatus(Answer, frozen=True):
    """A code and its status byte (``gateway.wire.dtc``)."""

    code: int
    status: int


class DtcList(Answer, frozen=True):
    """Codes with the mask of the status bits the ECU keeps. ``memory``: the user memory, where one was chosen."""

    availability: int
    dtcs: tuple[DtcStatus, ...]
    memory: int | None = None


class DtcCount(Answer, frozen=True):
    """How many match. ``format``: 0 and 4 SAE J2012-DA, 1 ISO 14229-1, 2 SAE J1939-73, 3 ISO 11992-4."""

    availability: int
    format: int
    count: int


class SnapshotId(Answer, frozen=True):
    """A snapshot the ECU has."""

    code: int
    record: int


class DidValue(Answer, frozen=True):
    """An identifier and its bytes inside a snapshot."""

    did: int
    data: bytes


class SnapshotRecord(Answer, frozen=True):
    """A snapshot. ``rest``: bytes from the first identifier of unknown length on, that one included."""

    record: int
    values: tuple[DidValue, ...]
    rest: bytes = b""


class DtcSnapshots(Answer, frozen=True):
    """The snapshots of one code."""

    code: int
    status: int
    records: tuple[SnapshotRecord, ...]
    memory: int | None = None


class StoredSnapshot(Answer, frozen=True):
    """A snapshot found by its record number; code and status None where nothing is stored under it."""

    record: int
    code: int | None
    status: int | None
    snapshot: SnapshotRecord | None


class ExtendedRecord(Answer, frozen=True):
    """An extended data record."""

    record: int
    data: bytes


class DtcExtendedData(Answer, frozen=True):
    """The extended data of one code. ``rest``: from the first record of unknown length on, its number included."""

    code: int
    status: int
    records: tuple[ExtendedRecord, ...]
    rest: bytes = b""
    memory: int | None = None


class DtcExtended(Answer, frozen=True):
    """A code with one extended data record."""

    code: int
    status: int
    data: bytes


class DtcSeverity(Answer, frozen=True):
    """A code with its severity (bits 7-5) and class (bits 4-0), and the functional unit that reports it."""

    code: int
    status: int
    severity: int
    unit: int


class SeverityList(Answer, frozen=True):
    """Codes by severity."""

    availability: int
    dtcs: tuple[DtcSeverity, ...]


class FaultCounter(Answer, frozen=True):
    """A fault detection counter: 127 failed, -128 passed, between them on the way."""

    code: int
    counter: int


class ExtendedSupport(Answer, frozen=True):
    """The codes that have an extended data record."""

    availability: int
    record: int | None
    dtcs: tuple[DtcStatus, ...]


class GroupDtc(Answer, frozen=True):
    """A code of a functional group; severity None where the report has none."""

    code: int
    status: int
    severity: int | None = None


class GroupList(Answer, frozen=True):
    """Codes of a functional group (0x33 emissions, 0xD0 safety, 0xFE VOBD). ``readiness``: the readiness group."""

    group: int
    availability: int
    format: int
    dtcs: tuple[GroupDtc, ...]
    severity_availability: int | None = None
    readiness: int | None = None


def clear(group: int = ALL_GROUPS, memory: int | None = None) -> Query[None]:
    """0x14: forget the codes of a group (a code, 0xFFFF33 emissions, 0xFFFFFF all), of a user memory where named."""
    suffix = b"" if memory is None else byte(memory, "memory")
    return query(bytes([Sid.CLEAR_DTCS]) + number(group, 3, "group of DTCs") + suffix, 0, nothing(0))


def _request(report: int, *parts: bytes) -> bytes:
    return bytes([Sid.READ_DTCS, report]) + b"".join(parts)


def _code(code: int) -> bytes:
    return number(code, 3, "DTC")


def _read_dtc(reader: Reader) -> DtcStatus:
    return DtcStatus(reader.number(3, "DTC"), reader.number(1, "status"))


def _read_all(reader: Reader) -> tuple[DtcStatus, ...]:
    found = []
    while reader.left:
        found.append(_read_dtc(reader))
    return tuple(found)


def _read_list(reader: Reader) -> DtcList:
    reader.take(1, "echo")
    return DtcList(reader.number(1, "availability mask"), _read_all(reader))


def _read_memory_list(reader: Reader) -> DtcList:
    reader.take(1, "echo")
    memory = reader.number(1, "memory")
    return DtcList(reader.number(1, "availability mask"), _read_all(reader), memory)


def _read_count(reader: Reader) -> DtcCount:
    reader.take(1, "echo")
    count = DtcCount(
        reader.number(1, "availability mask"), reader.number(1, "format"), reader.number(2, "number of DTCs")
    )
    reader.end()
    return count


def count(mask: int, report: int = 0x01) -> Query[DtcCount]:
    """0x19 01 (0x11 mirror memory, 0x12 emissions)."""
    return query(_request(report, byte(mask, "status mask")), 1, _read_count)


def by_status(mask: int, report: int = 0x02) -> Query[DtcList]:
    """0x19 02 (0x0F mirror memory, 0x13 emissions)."""
    return query(_request(report, byte(mask, "status mask")), 1, _read_list)


def listed(report: int) -> Query[DtcList]:
    """0x19 without parameters: 0A supported, 0B-0E first and most recent failed and confirmed, 15 permanent."""
    return query(_request(report), 1, _read_list)


def snapshot_ids() -> Query[tuple[SnapshotId, ...]]:
    """0x19 03."""

    def read(reader: Reader) -> tuple[SnapshotId, ...]:
        reader.take(1, "echo")
        found = []
        while reader.left:
            found.append(SnapshotId(reader.number(3, "DTC"), reader.number(1, "record")))
        return tuple(found)

    return query(_request(0x03), 1, read)


def _read_snapshot(reader: Reader, record: int, lengths: Lengths | None, *, is_last: bool) -> SnapshotRecord:
    """The identifiers of one record, as far as their lengths are known.

    Without a length the rest of the answer belongs to the identifier if it is the last of the only record.
    """
    count = reader.number(1, "number of identifiers")
    values: list[DidValue] = []
    for index in range(count) if count else ():
        did = reader.number(2, "identifier")
        length = length_of(lengths, did)
        if length is None and is_last and index == count - 1:
            length = reader.left
        if length is None:
            return SnapshotRecord(record, tuple(values), did.to_bytes(2, "big") + reader.rest())
        values.append(DidValue(did, reader.take(length, f"data of 0x{did:04X}")))
    return SnapshotRecord(record, tuple(values))


def snapshots(
    code: int, record: int = ALL_RECORDS, lengths: Lengths | None = None, memory: int | None = None
) -> Query[DtcSnapshots]:
    """0x19 04, or 18 with a user memory.

    ``lengths``: bytes of each identifier; what follows an unknown one is kept raw.
    """

    def read(reader: Reader) -> DtcSnapshots:
        reader.take(1, "echo")
        chosen = None if memory is None else reader.number(1, "memory")
        dtc = _read_dtc(reader)
        records = []
        while reader.left:
            found = reader.number(1, "record")
            records.append(_read_snapshot(reader, found, lengths, is_last=record != ALL_RECORDS))
        return DtcSnapshots(dtc.code, dtc.status, tuple(records), chosen)

    if memory is None:
        return query(_request(0x04, _code(code), byte(record, "record")), 1, read)
    return query(_request(0x18, _code(code), byte(record, "record"), byte(memory, "memory")), 1, read)


def stored_snapshots(record: int = ALL_RECORDS, lengths: Lengths | None = None) -> Query[tuple[StoredSnapshot, ...]]:
    """0x19 05: by record number instead of code."""

    def read(reader: Reader) -> tuple[StoredSnapshot, ...]:
        reader.take(1, "echo")
        found = []
        while reader.left:
            number_ = reader.number(1, "record")
            if not reader.left or (record != ALL_RECORDS and number_ != record):
                found.append(StoredSnapshot(number_, None, None, None))
                continue
            dtc = _read_dtc(reader)
            snapshot = _read_snapshot(reader, number_, lengths, is_last=record != ALL_RECORDS)
            found.append(StoredSnapshot(number_, dtc.code, dtc.status, snapshot))
        return tuple(found)

    return query(_request(0x05, byte(record, "record")), 1, read)


def extended_data(
    code: int,
    record: int = ALL_RECORDS,
    lengths: Lengths | None = None,
    memory: int | None = None,
    *,
    is_mirror: bool = False,
) -> Query[DtcExtendedData]:
    """0x19 06, 19 with a user memory, 10 of the mirror memory. ``lengths``: bytes of each record number.

    Records 0xFE (OBD) and 0xFF ask for all; one asked for by number may be of any length.
    """

    def read(reader: Reader) -> DtcExtendedData:
        reader.take(1, "echo")
        chosen = None if memory is None else reader.number(1, "memory")
        dtc = _read_dtc(reader)
        records, rest = [], b""
        while reader.left and not rest:
            found = reader.number(1, "record")
            length = length_of(lengths, found)
            if length is None and record < 0xFE:
                length = reader.left
            if length is None:
                rest = bytes([found]) + reader.rest()
            else:
                records.append(ExtendedRecord(found, reader.take(length, f"extended data {found:#04x}")))
        return DtcExtendedData(dtc.code, dtc.status, tuple(records), rest, chosen)

    parts = (_code(code), byte(record, "record"))
    if memory is not None:
        return query(_request(0x19, *parts, byte(memory, "memory")), 1, read)
    return query(_request(0x10 if is_mirror else 0x06, *parts), 1, read)


def extended_by_record(record: int, length: int) -> Query[tuple[DtcExtended, ...]]:
    """0x19 16: one record of all codes that have it; its ``length`` in bytes must be known."""

    def read(reader: Reader) -> tuple[DtcExtended, ...]:
        reader.take(1, "echo")
        if reader.number(1, "record") != record:
            raise reader.fail("another record than asked for")
        found = []
        while reader.left:
            dtc = _read_dtc(reader)
            found.append(DtcExtended(dtc.code, dtc.status, reader.take(length, "extended data")))
        return tuple(found)

    return query(_request(0x16, byte(record, "record")), 1, read)


def count_by_severity(severity: int, mask: int) -> Query[DtcCount]:
    """0x19 07."""
    return query(_request(0x07, byte(severity, "severity mask"), byte(mask, "status mask")), 1, _read_count)


def _read_severities(reader: Reader) -> SeverityList:
    reader.take(1, "echo")
    availability = reader.number(1, "availability mask")
    found = []
    while reader.left:
        severity, unit = reader.number(1, "severity"), reader.number(1, "functional unit")
        dtc = _read_dtc(reader)
        found.append(DtcSeverity(dtc.code, dtc.status, severity, unit))
    return SeverityList(availability, tuple(found))


def by_severity(severity: int, mask: int) -> Query[SeverityList]:
    """0x19 08."""
    return query(_request(0x08, byte(severity, "severity mask"), byte(mask, "status mask")), 1, _read_severities)


def severity(code: int) -> Query[SeverityList]:
    """0x19 09: of one code; none when the ECU does not know it."""
    return query(_request(0x09, _code(code)), 1, _read_severities)


def fault_counters() -> Query[tuple[FaultCounter, ...]]:
    """0x19 14: of codes on their way to failed."""

    def read(reader: Reader) -> tuple[FaultCounter, ...]:
        reader.take(1, "echo")
        found = []
        while reader.left:
            code, counter = reader.number(3, "DTC"), reader.number(1, "counter")
            found.append(FaultCounter(code, counter - 256 if counter > 127 else counter))
        return tuple(found)

    return query(_request(0x14), 1, read)


def by_user_memory(mask: int, memory: int) -> Query[DtcList]:
    """0x19 17."""
    return query(_request(0x17, byte(mask, "status mask"), byte(memory, "memory")), 1, _read_memory_list)


def extended_support(record: int) -> Query[ExtendedSupport]:
    """0x19 1A: the codes with an extended data record."""

    def read(reader: Reader) -> ExtendedSupport:
        reader.take(1, "echo")
        availability = reader.number(1, "availability mask")
        found = reader.number(1, "record") if reader.left else None
        return ExtendedSupport(availability, found, _read_all(reader))

    return query(_request(0x1A, byte(record, "record")), 1, read)


def _group(report: int, parts: bytes, *, has_severity: bool, has_readiness: bool = False) -> Query[GroupList]:
    def read(reader: Reader) -> GroupList:
        reader.take(1, "echo")
        group, availability = reader.number(1, "group"), reader.number(1, "availability mask")
        severities = reader.number(1, "severity availability mask") if has_severity else None
        format_ = reader.number(1, "format")
        readiness = reader.number(1, "readiness group") if has_readiness else None
        return GroupList(group, availability, format_, _read_group(reader, has_severity), severities, readiness)

    return query(_request(report, parts), 1, read)


def _read_group(reader: Reader, has_severity: bool) -> tuple[GroupDtc, ...]:
    """Some ECUs put a severity before the codes of 0x55, too: five bytes each instead of four."""
    has_severity = has_severity or (reader.left % 4 != 0 and reader.left % 5 == 0)
    found = []
    while reader.left:
        severity = reader.number(1, "severity") if has_severity else None
        dtc = _read_dtc(reader)
        found.append(GroupDtc(dtc.code, dtc.status, severity))
    return tuple(found)


def by_group(group: int, mask: int, severity: int) -> Query[GroupList]:
    """0x19 42 (WWH-OBD): codes of a functional group by status and severity."""
    parts = byte(group, "group") + byte(mask, "status mask") + byte(severity, "severity mask")
    return _group(0x42, parts, has_severity=True)


def permanent_by_group(group: int) -> Query[GroupList]:
    """0x19 55 (WWH-OBD): permanent codes of a functional group."""
    return _group(0x55, byte(group, "group"), has_severity=False)


def by_readiness(group: int, readiness: int) -> Query[GroupList]:
    """0x19 56: codes of a readiness group."""
    parts = byte(group, "group") + byte(readiness, "readiness group")
    return _group(0x56, parts, has_severity=False, has_readiness=True)
