"""Codecs: whatever the bytes, the only error is ours; and the services that no reference of ours can encode."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.uds.codec import authentication, control, data, dtc, events, load, scaling, secured
from gateway.uds.codec.query import Query, Reader
from gateway.uds.errors import MalformedAnswer, preview
from gateway.uds.names import DID_NAMES, NRC_NAMES, SERVICE_NAMES, did_name, nrc_name, service_name, session_name


class Sum:
    """A protection for tests: a checksum as signature, the bits turned as encryption, each counter once."""

    def __init__(self) -> None:
        self.counter, self.seen = 0, 0

    @staticmethod
    def _sign(message: secured.SecuredMessage) -> bytes:
        blank = secured.SecuredMessage(message.administrative, message.calculation, message.counter, b"", bytes(2))
        return (sum(blank.signed_part() + message.content) & 0xFFFF).to_bytes(2, "big")

    def seal(self, inner: bytes, administrative: int) -> secured.SecuredMessage:
        self.counter += 1
        content = bytes(b ^ 0xFF for b in inner)
        message = secured.SecuredMessage(administrative, 1, self.counter, content)
        return secured.SecuredMessage(administrative, 1, self.counter, content, self._sign(message))

    def protect(self, inner: bytes) -> secured.SecuredMessage:
        return self.seal(inner, secured.Administrative.IS_REQUEST | secured.Administrative.ENCRYPTED)

    def verify(self, message: secured.SecuredMessage) -> bytes:
        if message.signature != self._sign(message):
            raise ValueError("signature")
        if message.counter <= self.seen:
            raise ValueError("replay")
        self.seen = message.counter
        return bytes(b ^ 0xFF for b in message.content)


QUERIES: list[Query[Any]] = [
    control.session(3),
    control.reset(4),
    control.request_seed(1),
    control.send_key(2, b"k"),
    control.communication_control(0),
    control.tester_present(),
    control.timing(1),
    control.dtc_setting(1),
    control.verify_baudrate(1),
    dtc.clear(),
    dtc.count(1),
    dtc.by_status(1),
    dtc.listed(0x0A),
    dtc.snapshot_ids(),
    dtc.snapshots(1),
    dtc.snapshots(1, 1, {0x1111: 1}),
    dtc.snapshots(1, lengths=lambda did: did & 3, memory=1),
    dtc.stored_snapshots(),
    dtc.stored_snapshots(1, lambda did: did & 3),
    dtc.extended_data(1),
    dtc.extended_data(1, 1),
    dtc.extended_data(1, lengths=lambda record: record & 3, memory=1),
    dtc.extended_by_record(1, 2),
    dtc.count_by_severity(1, 1),
    dtc.by_severity(1, 1),
    dtc.severity(1),
    dtc.fault_counters(),
    dtc.by_user_memory(1, 1),
    dtc.extended_support(1),
    dtc.by_group(1, 1, 1),
    dtc.permanent_by_group(1),
    dtc.by_readiness(1, 1),
    data.read_did(0xF190),
    data.read_dids([1, 2, 3], {1: 1, 2: 2}),
    data.read_memory(1, 4),
    data.write_memory(1, b"abcd"),
    data.write_did(1, b"x"),
    data.io_control(1, 3),
    data.routine(1, 1),
    data.periodic(1, [1]),
    data.define_did(0xF301, [data.DidSource(1, 1, 1)]),
    data.clear_did(),
    scaling.read_scaling(0xF190),
    load.request_download(1, 1),
    load.request_upload(1, 1),
    load.transfer(1),
    load.transfer_exit(),
    *[load.request_file(mode, "x") for mode in range(1, 7)],
    *[
        authentication._query(task)  # the reading depends on the task alone
        for task in range(9)
    ],
    events.response_on_event(1, record=b"\1"),
    events.response_on_event(3, record=b"\1\2", service=b"\x22\1\2"),
    events.activated_events(),
    secured.secured(b"\x22\xf1\x90", Sum()),
]


@settings(max_examples=600, deadline=None)
@given(query=st.sampled_from(QUERIES), tail=st.binary(max_size=80))
def test_whatever_follows_the_echo_the_only_error_is_ours(query: Query[Any], tail: bytes) -> None:
    for prefix in query.prefixes:
        problem: MalformedAnswer | None = None
        try:
            query.decode(prefix + tail)
        except MalformedAnswer as error:
            problem = error
        assert problem is None or (problem.pdu == prefix + tail and problem.problem)


@settings(max_examples=200, deadline=None)
@given(query=st.sampled_from(QUERIES), pdu=st.binary(max_size=80))
def test_whatever_the_bytes_the_only_error_is_ours(query: Query[Any], pdu: bytes) -> None:
    if any(pdu.startswith(prefix) for prefix in query.prefixes):
        return
    with pytest.raises(MalformedAnswer):
        query.decode(pdu)


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.request.hex()[:12])
def test_a_truncated_echo_is_malformed(query: Query[Any]) -> None:
    for prefix in query.prefixes:
        with pytest.raises(MalformedAnswer):
            query.decode(prefix[:-1])


# Requests that cannot be


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: control.session(0x80), "sub-function"),
        (lambda: control.request_seed(2), "odd"),
        (lambda: control.send_key(1, b""), "even"),
        (lambda: control.communication_control(4), "node"),
        (lambda: control.communication_control(1, node=1), "node"),
        (lambda: control.timing(4), "record"),
        (lambda: control.verify_baudrate(1 << 24), "fit"),
        (lambda: dtc.snapshots(1 << 24), "DTC"),
        (lambda: dtc.by_status(256), "status mask"),
        (lambda: data.read_did(0x10000), "identifier"),
        (lambda: data.read_dids([], {}), "one or more"),
        (lambda: data.read_dids([1, 1], {1: 1}), "different"),
        (lambda: data.read_dids([1, 2], None), "0x0001"),
        (lambda: data.read_memory(-1, 1), "address"),
        (lambda: data.read_memory(256, 1, 1), "address"),
        (lambda: data.read_memory(1, 1, 16), "15 bytes"),
        (lambda: data.periodic(1), "at least one"),
        (lambda: data.periodic(1, [0xF301]), "0xF200"),
        (lambda: data.define_did(0xF301, []), "no pieces"),
        (lambda: data.define_did_by_memory(0xF301, []), "no pieces"),
        (lambda: load.transfer(256), "counter"),
        (lambda: load.request_file(1, "x" * 70_000), "path"),
        (lambda: authentication.request_challenge(b"short"), "16 bytes"),
        (lambda: authentication.prove_ownership(bytes(70_000)), "proof"),
        (lambda: events.response_on_event(4), "activated_events"),
        (lambda: events.response_on_event(1, record=b""), "1 bytes"),
    ],
)
def test_requests_that_cannot_be_are_refused(make: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make()


# What differs between ECUs


def test_several_identifiers_of_which_the_ecu_has_some() -> None:
    query = data.read_dids([1, 2, 3], {1: 1, 2: 2})
    assert query.decode(bytes.fromhex("62 0002 AABB 0003 01020304")) == {2: b"\xaa\xbb", 3: b"\1\2\3\4"}
    with pytest.raises(MalformedAnswer, match="not asked for"):
        query.decode(bytes.fromhex("62 0001 AA 0005 01"))
    with pytest.raises(MalformedAnswer, match="twice"):
        query.decode(bytes.fromhex("62 0001 AA 0001 AA"))


def test_snapshot_identifiers_of_unknown_length_are_kept_raw() -> None:
    pdu = bytes.fromhex("5904 123456 2F 01 02 1111 AA 2222 BBCC 02 01 1111 DD")
    found = dtc.snapshots(0x123456, lengths={0x1111: 1}).decode(pdu)
    assert found.records == (
        dtc.SnapshotRecord(1, (dtc.DidValue(0x1111, b"\xaa"),), bytes.fromhex("2222BBCC02011111DD")),
    )


def test_the_last_identifier_of_the_only_record_may_be_of_any_length() -> None:
    pdu = bytes.fromhex("5904 123456 2F 01 02 1111 AA 2222 BBCC")
    found = dtc.snapshots(0x123456, 1, lengths={0x1111: 1}).decode(pdu)
    assert found.records[0].values == (dtc.DidValue(0x1111, b"\xaa"), dtc.DidValue(0x2222, b"\xbb\xcc"))


def test_a_known_code_without_records_is_a_header() -> None:
    assert dtc.snapshots(0x123456).decode(bytes.fromhex("5904 123456 2F")).records == ()
    assert dtc.extended_data(0x123456).decode(bytes.fromhex("5906 123456 2F")).records == ()


def test_stored_snapshots_that_are_empty() -> None:
    found = dtc.stored_snapshots(1).decode(bytes.fromhex("5905 01"))
    assert found == (dtc.StoredSnapshot(1, None, None, None),)


def test_permanent_codes_of_a_group_with_and_without_severity() -> None:
    query = dtc.permanent_by_group(0x33)
    assert query.decode(bytes.fromhex("5955 33 FF 04 123456 2F")).dtcs == (dtc.GroupDtc(0x123456, 0x2F),)
    assert query.decode(bytes.fromhex("5955 33 FF 04 20 123456 2F")).dtcs == (dtc.GroupDtc(0x123456, 0x2F, 0x20),)


def test_readiness_group() -> None:
    found = dtc.by_readiness(0x33, 1).decode(bytes.fromhex("5956 33 FF 04 01 123456 2F"))
    assert (found.readiness, found.dtcs) == (1, (dtc.GroupDtc(0x123456, 0x2F),))


def test_session_answers_without_timing() -> None:
    assert control.session(3).decode(b"\x50\x03") == control.SessionStarted(3, None, None)


def test_power_down_time() -> None:
    assert control.reset(4).decode(b"\x51\x04\x0a") == 10
    assert control.reset(1).decode(b"\x51\x01") is None


# 0x24


def test_scaling_of_a_formula_with_a_unit() -> None:
    """ISO 14229-1's kind of example: unsigned, 1 byte, 0.75 * x + 30, km/h."""
    items = scaling.read_scaling(0x0105).decode(bytes.fromhex("64 0105 01 95 00 E04B 001E A1 30"))
    assert [item.coding for item in items] == [scaling.Coding.UNSIGNED, scaling.Coding.FORMULA, scaling.Coding.UNIT]
    assert items[0].data_bytes == 1
    assert items[1].formula == "0.75*x+30"
    assert items[2].extension == b"\x30"


def test_negative_constants_of_a_formula() -> None:
    items = scaling.read_scaling(1).decode(bytes.fromhex("64 0001 93 08 0FD8"))
    assert items[0].formula == "x+-40"


def test_bits_with_their_mask() -> None:
    items = scaling.read_scaling(1).decode(bytes.fromhex("64 0001 22 0FF0"))
    assert items == (scaling.ScalingItem(scaling.Coding.BITS_WITH_MASK, 0, b"\x0f\xf0"),)


# 0x2A


def test_periodic_requests_and_messages() -> None:
    assert data.periodic(data.Rate.FAST, [0xF201, 0x02]).request == bytes.fromhex("2A 03 01 02")
    assert data.periodic(data.Rate.STOP).request == bytes.fromhex("2A 04")
    assert data.read_periodic_message(bytes.fromhex("6A 01 AABB")) == data.PeriodicMessage(0xF201, b"\xaa\xbb")
    assert data.read_periodic_message(b"\x6a") is None
    assert data.read_periodic_message(b"\x62\xf1\x90") is None


# 0x84


@given(inner=st.binary(min_size=1, max_size=60), answer=st.binary(min_size=1, max_size=60))
def test_secured_there_and_back(inner: bytes, answer: bytes) -> None:
    tester, ecu = Sum(), Sum()
    query = secured.secured(inner, tester)
    received = secured.read_secured(Reader(query.request))
    assert received.administrative & secured.Administrative.IS_REQUEST
    assert ecu.verify(received) == inner
    assert query.decode(b"\xc4" + ecu.seal(answer, 0).encode()) == answer


def test_a_secured_answer_that_is_forged_or_replayed() -> None:
    tester, ecu = Sum(), Sum()
    query = secured.secured(b"\x22\xf1\x90", tester)
    sealed = b"\xc4" + ecu.seal(b"\x62\xf1\x90A", 0).encode()
    with pytest.raises(MalformedAnswer, match="genuine"):
        query.decode(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    assert query.decode(sealed) == b"\x62\xf1\x90A"
    with pytest.raises(MalformedAnswer, match="replay"):
        query.decode(sealed)


# 0x86


def test_event_set_up_and_final_answer() -> None:
    query = events.response_on_event(1, record=b"\x0c", service=b"\x19\x0e", stored=True)
    assert query.request == bytes.fromhex("86 41 02 0C 190E")
    answer = query.decode(bytes.fromhex("C6 41 00 02 0C 190E"))
    assert answer == events.EventAnswer(0x41, 0, events.EventSetUp(0x41, 2, b"\x0c", b"\x19\x0e"))


def test_activated_events_of_several_services() -> None:
    pdu = bytes.fromhex("C6 04 03  01 02 0C 190E  03 02 F190 22F190  01 02 0C 19020C")
    found = events.activated_events().decode(pdu).events
    assert [(e.event, e.record, e.service) for e in found] == [
        (1, b"\x0c", b"\x19\x0e"), (3, b"\xf1\x90", b"\x22\xf1\x90"), (1, b"\x0c", b"\x19\x02\x0c"),
    ]  # fmt: skip


def test_no_activated_events() -> None:
    assert events.activated_events().decode(bytes.fromhex("C6 04 00 02")).events == ()


# Names


def test_every_number_has_a_name() -> None:
    assert all(nrc_name(nrc) for nrc in range(256))
    assert all(service_name(sid) for sid in range(256))
    assert service_name(0x22) == "read data by identifier (0x22)"
    assert service_name(0x01) == "OBD mode 0x01"
    assert nrc_name(0xF1) == "conditions not correct (maker's)"
    assert did_name(0xF190) == "vehicle identification number"
    assert (did_name(0xF201), did_name(0xF301), did_name(0x1234)) == ("periodic data", "dynamically defined data", "")
    assert (session_name(3), session_name(0x40)) == ("extended", "0x40")
    assert len({*NRC_NAMES.values()}) == len(NRC_NAMES)
    assert len({*DID_NAMES.values()}) == len(DID_NAMES)
    assert len({*SERVICE_NAMES.values()}) == len(SERVICE_NAMES)


def test_long_pdus_are_shown_short() -> None:
    assert preview(bytes(100)) == "00 " * 23 + "00 … (100 bytes)"
    assert preview(b"") == "(empty)"
