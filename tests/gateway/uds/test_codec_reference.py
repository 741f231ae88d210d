"""Requests and answers compared with udsoncan, which we did not write, wherever it can encode or decode them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.uds.codec import authentication, control, data, dtc, load
from gateway.uds.codec.query import Query

udsoncan: Any = importlib.import_module("udsoncan")  # it exports its names to programs, not to type checkers
services: Any = importlib.import_module("udsoncan.services")

Reference = Callable[[], Any]
_R = services.ReadDTCInformation
_A = services.Authentication
_PLACE = udsoncan.MemoryLocation(0x12345678, 0x100, 32, 16)
_ALGORITHM = bytes(range(16))


class Raw(udsoncan.DidCodec):  # type: ignore[misc]  # see above
    """Bytes as they are."""

    def __init__(self, length: int) -> None:
        self.length = length

    def encode(self, *values: Any) -> bytes:
        return bytes(values[0])

    def decode(self, payload: bytes) -> bytes:
        return payload

    def __len__(self) -> int:
        return self.length


def _dynamic() -> Any:
    definition = udsoncan.DynamicDidDefinition()
    definition.add(source_did=0x1234, position=1, memorysize=2)
    definition.add(source_did=0x5678, position=3, memorysize=4)
    return definition


def _dynamic_memory() -> Any:
    definition = udsoncan.DynamicDidDefinition(udsoncan.MemoryLocation(0x1000, 4, 32, 8))
    definition.add(udsoncan.MemoryLocation(0x2000, 2, 32, 8))
    return definition


def _file(mode: int, **more: Any) -> Reference:
    return lambda: services.RequestFileTransfer.make_request(moop=mode, path="/a/b.bin", **more)


REQUESTS: list[tuple[Query[Any], Reference]] = [
    (control.session(3), lambda: services.DiagnosticSessionControl.make_request(3)),
    (control.reset(1), lambda: services.ECUReset.make_request(1)),
    (control.request_seed(5, b"xy"), lambda: services.SecurityAccess.make_request(5, _sa(0), data=b"xy")),
    (control.send_key(6, b"key"), lambda: services.SecurityAccess.make_request(5, _sa(1), data=b"key")),
    (control.communication_control(1, 3), lambda: services.CommunicationControl.make_request(1, _comm(True, True))),
    (
        control.communication_control(4, 1, 0x1234),
        lambda: services.CommunicationControl.make_request(4, _comm(True, False), 0x1234),
    ),
    (control.tester_present(), services.TesterPresent.make_request),
    (control.timing(3), lambda: services.AccessTimingParameter.make_request(3)),
    (control.timing(4, b"\1\2"), lambda: services.AccessTimingParameter.make_request(4, b"\1\2")),
    (control.dtc_setting(2), lambda: services.ControlDTCSetting.make_request(2)),
    (control.dtc_setting(1, b"\1"), lambda: services.ControlDTCSetting.make_request(1, b"\1")),
    (
        control.verify_fixed_baudrate(0x12),
        lambda: services.LinkControl.make_request(1, udsoncan.Baudrate(500_000, udsoncan.Baudrate.Type.Fixed)),
    ),
    (
        control.verify_baudrate(500_000),
        lambda: services.LinkControl.make_request(2, udsoncan.Baudrate(500_000, udsoncan.Baudrate.Type.Specific)),
    ),
    (control.transition_baudrate(), lambda: services.LinkControl.make_request(3)),
    (dtc.clear(), services.ClearDiagnosticInformation.make_request),
    (dtc.clear(0x123456, 7), lambda: services.ClearDiagnosticInformation.make_request(0x123456, 7)),
    (dtc.count(0x0C), lambda: _R.make_request(1, status_mask=0x0C)),
    (dtc.by_status(0x0C), lambda: _R.make_request(2, status_mask=0x0C)),
    (dtc.snapshot_ids(), lambda: _R.make_request(3)),
    (dtc.snapshots(0x123456, 2), lambda: _R.make_request(4, dtc=0x123456, snapshot_record_number=2)),
    (dtc.stored_snapshots(3), lambda: _R.make_request(5, snapshot_record_number=3)),
    (dtc.extended_data(0x123456, 2), lambda: _R.make_request(6, dtc=0x123456, extended_data_record_number=2)),
    (dtc.count_by_severity(0xE0, 1), lambda: _R.make_request(7, severity_mask=0xE0, status_mask=1)),
    (dtc.by_severity(0xE0, 1), lambda: _R.make_request(8, severity_mask=0xE0, status_mask=1)),
    (dtc.severity(0x123456), lambda: _R.make_request(9, dtc=0x123456)),
    *[(dtc.listed(n), lambda n=n: _R.make_request(n)) for n in (0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x15)],
    (dtc.by_status(1, 0x0F), lambda: _R.make_request(0x0F, status_mask=1, standard_version=2013)),
    (
        dtc.extended_data(0x123456, 2, is_mirror=True),
        lambda: _R.make_request(0x10, dtc=0x123456, extended_data_record_number=2),
    ),
    (dtc.count(1, 0x11), lambda: _R.make_request(0x11, status_mask=1, standard_version=2013)),
    (dtc.count(1, 0x12), lambda: _R.make_request(0x12, status_mask=1)),
    (dtc.by_status(1, 0x13), lambda: _R.make_request(0x13, status_mask=1)),
    (dtc.fault_counters(), lambda: _R.make_request(0x14)),
    (dtc.extended_by_record(2, 1), lambda: _R.make_request(0x16, extended_data_record_number=2)),
    (dtc.by_user_memory(1, 7), lambda: _R.make_request(0x17, status_mask=1, memory_selection=7)),
    (
        dtc.snapshots(0x123456, 2, memory=7),
        lambda: _R.make_request(0x18, dtc=0x123456, snapshot_record_number=2, memory_selection=7),
    ),
    (
        dtc.extended_data(0x123456, 2, memory=7),
        lambda: _R.make_request(0x19, dtc=0x123456, extended_data_record_number=2, memory_selection=7),
    ),
    (
        dtc.by_group(0x33, 1, 0xE0),
        lambda: _R.make_request(0x42, functional_group_id=0x33, status_mask=1, severity_mask=0xE0),
    ),
    (dtc.permanent_by_group(0x33), lambda: _R.make_request(0x55, functional_group_id=0x33)),
    (data.read_did(0xF190), lambda: services.ReadDataByIdentifier.make_request([0xF190], {0xF190: Raw(1)})),
    (
        data.read_dids([1, 2], {1: 1}),
        lambda: services.ReadDataByIdentifier.make_request([1, 2], {1: Raw(1), 2: Raw(1)}),
    ),
    (data.read_memory(0x12345678, 0x100, 4, 2), lambda: services.ReadMemoryByAddress.make_request(_PLACE)),
    (
        data.write_memory(0x12345678, bytes(256), 4, 2),
        lambda: services.WriteMemoryByAddress.make_request(_PLACE, bytes(256)),
    ),
    (data.write_did(0xF190, b"x"), lambda: services.WriteDataByIdentifier.make_request(0xF190, b"x", {0xF190: Raw(1)})),
    (
        data.io_control(0x1234, 0),
        lambda: services.InputOutputControlByIdentifier.make_request(
            0x1234, control_param=0, ioconfig={0x1234: {"codec": Raw(1)}}
        ),
    ),
    (
        data.io_control(0x1234, 3, b"x"),
        lambda: services.InputOutputControlByIdentifier.make_request(
            0x1234, control_param=3, values=[b"x"], ioconfig={0x1234: {"codec": Raw(1)}}
        ),
    ),
    (data.routine(1, 0xFF00, b"x"), lambda: services.RoutineControl.make_request(0xFF00, 1, b"x")),
    (
        data.define_did(0xF301, [data.DidSource(0x1234, 1, 2), data.DidSource(0x5678, 3, 4)]),
        lambda: services.DynamicallyDefineDataIdentifier.make_request(1, 0xF301, _dynamic()),
    ),
    (
        data.define_did_by_memory(0xF301, [data.MemorySource(0x1000, 4), data.MemorySource(0x2000, 2)], 4, 1),
        lambda: services.DynamicallyDefineDataIdentifier.make_request(2, 0xF301, _dynamic_memory()),
    ),
    (data.clear_did(0xF301), lambda: services.DynamicallyDefineDataIdentifier.make_request(3, 0xF301)),
    (data.clear_did(), lambda: services.DynamicallyDefineDataIdentifier.make_request(3, None)),
    (load.request_download(0x12345678, 0x100, size_bytes=2), lambda: services.RequestDownload.make_request(_PLACE)),
    (
        load.request_download(0x12345678, 0x100, size_bytes=2, data_format=0x12),
        lambda: services.RequestDownload.make_request(_PLACE, udsoncan.DataFormatIdentifier(1, 2)),
    ),
    (load.request_upload(0x12345678, 0x100, size_bytes=2), lambda: services.RequestUpload.make_request(_PLACE)),
    (load.transfer(5, b"block"), lambda: services.TransferData.make_request(5, b"block")),
    (load.transfer(5), lambda: services.TransferData.make_request(5)),
    (load.transfer_exit(), services.RequestTransferExit.make_request),
    (load.transfer_exit(b"x"), lambda: services.RequestTransferExit.make_request(b"x")),
    (
        load.request_file(1, "/a/b.bin", size=1000, compressed=500, width=2, data_format=0x10),
        _file(1, dfi=udsoncan.DataFormatIdentifier(1, 0), filesize=udsoncan.Filesize(1000, 500, 2)),
    ),
    (load.request_file(2, "/a/b.bin"), _file(2)),
    (load.request_file(3, "/a/b.bin", size=1000, width=4), _file(3, filesize=udsoncan.Filesize(1000, 1000, 4))),
    (load.request_file(4, "/a/b.bin"), _file(4)),
    (load.request_file(5, "/a/b.bin"), _file(5)),
    (load.request_file(6, "/a/b.bin", size=1000, width=4), _file(6, filesize=udsoncan.Filesize(1000, 1000, 4))),
    (authentication.deauthenticate(), lambda: _A.make_request(0)),
    (
        authentication.verify_certificate(b"cert", b"ch", configuration=3),
        lambda: _A.make_request(1, communication_configuration=3, certificate_client=b"cert", challenge_client=b"ch"),
    ),
    (
        authentication.verify_certificate(b"cert", b"ch", is_bidirectional=True),
        lambda: _A.make_request(2, communication_configuration=0, certificate_client=b"cert", challenge_client=b"ch"),
    ),
    (
        authentication.prove_ownership(b"proof", b"key"),
        lambda: _A.make_request(3, proof_of_ownership_client=b"proof", ephemeral_public_key_client=b"key"),
    ),
    (
        authentication.transmit_certificate(0x1234, b"cert"),
        lambda: _A.make_request(4, certificate_evaluation_id=0x1234, certificate_data=b"cert"),
    ),
    (
        authentication.request_challenge(_ALGORITHM, configuration=1),
        lambda: _A.make_request(5, communication_configuration=1, algorithm_indicator=_ALGORITHM),
    ),
    (
        authentication.verify_ownership(_ALGORITHM, b"proof", b"ch", b"more"),
        lambda: _A.make_request(
            6,
            algorithm_indicator=_ALGORITHM,
            proof_of_ownership_client=b"proof",
            challenge_client=b"ch",
            additional_parameter=b"more",
        ),
    ),
    (
        authentication.verify_ownership(_ALGORITHM, b"proof", b"ch", is_bidirectional=True),
        lambda: _A.make_request(
            7, algorithm_indicator=_ALGORITHM, proof_of_ownership_client=b"proof", challenge_client=b"ch"
        ),
    ),
    (authentication.configuration(), lambda: _A.make_request(8)),
]


def _sa(mode: int) -> int:
    return int([services.SecurityAccess.Mode.RequestSeed, services.SecurityAccess.Mode.SendKey][mode])


def _comm(normal: bool, network: bool) -> Any:
    return udsoncan.CommunicationType(
        udsoncan.CommunicationType.Subnet.node, normal_msg=normal, network_management_msg=network
    )


@pytest.mark.parametrize(
    ("ours", "theirs"), REQUESTS, ids=lambda value: value.request.hex()[:16] if isinstance(value, Query) else ""
)
def test_request_is_the_references(ours: Query[Any], theirs: Reference) -> None:
    assert ours.request.hex() == theirs().get_payload().hex()


def _respond(service: Any, payload: bytes, **options: Any) -> Any:
    return service.interpret_response(udsoncan.Response.from_payload(payload), **options).service_data


_codes = st.integers(1, 0xFFFFFF)  # udsoncan takes a DTC of zeros for padding
_status = st.integers(1, 255)
_dtcs = st.lists(st.tuples(_codes, _status), max_size=8, unique_by=lambda pair: pair[0])


def _packed(dtcs: list[tuple[int, int]]) -> bytes:
    return b"".join(code.to_bytes(3, "big") + bytes([status]) for code, status in dtcs)


@settings(max_examples=40, deadline=None)
@given(availability=_status, dtcs=_dtcs, report=st.sampled_from([0x02, 0x0A, 0x15, 0x13]))
def test_lists_of_dtcs_read_alike(availability: int, dtcs: list[tuple[int, int]], report: int) -> None:
    pdu = bytes([0x59, report, availability]) + _packed(dtcs)
    ours = (dtc.listed(report) if report in (0x0A, 0x15) else dtc.by_status(1, report)).decode(pdu)
    theirs = _respond(_R, pdu, subfunction=report)
    assert [(d.code, d.status) for d in ours.dtcs] == [(d.id, d.status.get_byte_as_int()) for d in theirs.dtcs] == dtcs
    assert ours.availability == theirs.status_availability.get_byte_as_int()


@settings(max_examples=30, deadline=None)
@given(availability=_status, count=st.integers(0, 0xFFFF), report=st.sampled_from([0x01, 0x07, 0x12]))
def test_counts_read_alike(availability: int, count: int, report: int) -> None:
    pdu = bytes([0x59, report, availability, 1]) + count.to_bytes(2, "big")
    ours = (dtc.count_by_severity(1, 1) if report == 7 else dtc.count(1, report)).decode(pdu)
    theirs = _respond(_R, pdu, subfunction=report)
    assert (ours.count, ours.format) == (theirs.dtc_count, theirs.dtc_format) == (count, 1)


@settings(max_examples=30, deadline=None)
@given(dtcs=_dtcs)
def test_fault_counters_read_alike(dtcs: list[tuple[int, int]]) -> None:
    pdu = b"\x59\x14" + _packed(dtcs)
    theirs = _respond(_R, pdu, subfunction=0x14)
    ours = dtc.fault_counters().decode(pdu)
    assert [(c.code, c.counter & 0xFF) for c in ours] == [(d.id, d.fault_counter & 0xFF) for d in theirs.dtcs] == dtcs


_dids = st.lists(st.tuples(st.sampled_from([0x1111, 0x2222, 0x3333]), st.integers(1, 255)), min_size=1, max_size=3)
_LENGTHS = {0x1111: 1, 0x2222: 2, 0x3333: 3}


@settings(max_examples=40, deadline=None)
@given(code=_codes, status=_status, records=st.lists(st.tuples(st.integers(1, 0xEF), _dids), max_size=3))
def test_snapshots_read_alike(code: int, status: int, records: list[tuple[int, list[tuple[int, int]]]]) -> None:
    pdu = b"\x59\x04" + _packed([(code, status)])
    for number, values in records:
        pdu += bytes([number, len(values)])
        pdu += b"".join(did.to_bytes(2, "big") + bytes([fill]) * _LENGTHS[did] for did, fill in values)
    ours = dtc.snapshots(code, lengths=_LENGTHS).decode(pdu)
    config = {did: Raw(length) for did, length in _LENGTHS.items()}
    theirs = _respond(_R, pdu, subfunction=4, didconfig=config)
    flat = [(r.record, v.did, v.data) for r in ours.records for v in r.values]
    assert flat == [(s.record_number, s.did, s.raw_data) for s in theirs.dtcs[0].snapshots]
    assert (ours.code, ours.status) == (code, status)


@settings(max_examples=30, deadline=None)
@given(
    code=_codes,
    status=_status,
    records=st.lists(st.tuples(st.integers(1, 0xEF), st.binary(min_size=2, max_size=2)), max_size=4),
)
def test_extended_data_reads_alike(code: int, status: int, records: list[tuple[int, bytes]]) -> None:
    pdu = b"\x59\x06" + _packed([(code, status)]) + b"".join(bytes([n]) + content for n, content in records)
    ours = dtc.extended_data(code, lengths=lambda record: 2).decode(pdu)
    theirs = _respond(_R, pdu, subfunction=6, extended_data_size=2)
    assert [(r.record, r.data) for r in ours.records] == [
        (e.record_number, e.raw_data) for e in theirs.dtcs[0].extended_data
    ]  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(
    dtcs=st.lists(st.tuples(_codes, _status, st.sampled_from([0x20, 0x40, 0x80])), max_size=4),
    group=st.integers(0, 0xFE),
)
def test_wwh_obd_reads_alike(dtcs: list[tuple[int, int, int]], group: int) -> None:
    packed = b"".join(bytes([severity]) + _packed([(code, status)]) for code, status, severity in dtcs)
    pdu = bytes([0x59, 0x42, group, 0xFF, 0xE0, 4]) + packed
    ours, theirs = dtc.by_group(group, 1, 1).decode(pdu), _respond(_R, pdu, subfunction=0x42)
    assert [(d.code, d.status, d.severity) for d in ours.dtcs] == dtcs
    assert [(d.id, d.severity.get_byte_as_int()) for d in theirs.dtcs] == [(d.code, d.severity) for d in ours.dtcs]
    assert (ours.group, ours.format) == (theirs.functional_group_id, theirs.dtc_format)


@settings(max_examples=30, deadline=None)
@given(p2_ms=st.integers(0, 0xFFFF), p2_star=st.integers(0, 0xFFFF))
def test_session_timing_reads_alike(p2_ms: int, p2_star: int) -> None:
    pdu = b"\x50\x03" + p2_ms.to_bytes(2, "big") + p2_star.to_bytes(2, "big")
    ours, theirs = control.session(3).decode(pdu), _respond(services.DiagnosticSessionControl, pdu)
    assert ours.p2_ms == pytest.approx(theirs.p2_server_max * 1000)
    assert ours.p2_star_ms == pytest.approx(theirs.p2_star_server_max * 1000)


@settings(max_examples=30, deadline=None)
@given(width=st.integers(2, 8), limit=st.integers(3, 0xFFFF))
def test_longest_block_reads_alike(width: int, limit: int) -> None:
    pdu = bytes([0x74, width << 4]) + limit.to_bytes(width, "big")
    assert load.request_download(0, 1).decode(pdu).max_block_bytes == limit
    assert _respond(services.RequestDownload, pdu).max_length == limit


@settings(max_examples=40, deadline=None)
@given(mode=st.sampled_from([1, 3, 4, 5, 6]), size=st.integers(0, 0xFFFF), compressed=st.integers(0, 0xFFFF))
def test_file_answers_read_alike(mode: int, size: int, compressed: int) -> None:
    pdu = bytes([0x78, mode, 2, 0x04, 0x00, 0x00])
    if mode in (4, 5):
        pdu += b"\x00\x02" + size.to_bytes(2, "big") + (compressed.to_bytes(2, "big") if mode == 4 else b"")
    elif mode == 6:
        pdu += size.to_bytes(8, "big")
    ours = load.request_file(mode, "x").decode(pdu)
    theirs = _respond(services.RequestFileTransfer, pdu)
    assert ours.max_block_bytes == theirs.max_length == 0x400
    if mode == 4:
        assert (ours.size_bytes, ours.compressed_bytes) == (theirs.filesize.uncompressed, theirs.filesize.compressed)
    elif mode == 5:
        assert ours.size_bytes == theirs.dirinfo_length
    elif mode == 6:
        assert ours.position == theirs.fileposition


_chunk = st.binary(max_size=20)


def _sized(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content


@settings(max_examples=40, deadline=None)
@given(a=_chunk, b=_chunk, c=_chunk, d=_chunk)
def test_authentication_answers_read_alike(a: bytes, b: bytes, c: bytes, d: bytes) -> None:
    ours = authentication.verify_certificate(b"x", is_bidirectional=True).decode(
        b"\x69\x02\x11" + _sized(a) + _sized(b) + _sized(c) + _sized(d)
    )
    assert (ours.challenge, ours.certificate, ours.proof, ours.ephemeral_key) == (a, b, c, d)
    theirs = _respond(_A, b"\x69\x01\x11" + _sized(a) + _sized(b))
    ours = authentication.verify_certificate(b"x").decode(b"\x69\x01\x11" + _sized(a) + _sized(b))
    assert ours.challenge == theirs.challenge_server
    assert ours.ephemeral_key == theirs.ephemeral_public_key_server
    pdu = b"\x69\x07\x12" + _ALGORITHM + _sized(a) + _sized(b)
    both, reference = (
        authentication.verify_ownership(_ALGORITHM, b"x", is_bidirectional=True).decode(pdu),
        _respond(_A, pdu),
    )
    assert (both.proof, both.session_key_info) == (reference.proof_of_ownership_server, reference.session_key_info)
    assert both.is_complete


def test_the_reference_knows_the_address_format_as_we_do() -> None:
    assert (
        udsoncan.AddressAndLengthFormatIdentifier(32, 16).get_byte_as_int() == data.read_memory(1, 1, 4, 2).request[1]
    )
