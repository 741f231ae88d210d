"""Each method sends what it says, reads what comes, and puts services together where one alone is not enough."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.uds.client import UdsClient
from gateway.uds.codec import authentication, data, dtc, load
from gateway.uds.errors import MalformedAnswer, NegativeResponse
from gateway.uds.names import Session
from gateway.uds.timing import Timing

from .support import EcuInMemory, Script, run
from .test_codec import Sum

TIMING = Timing(latency_ms=0, transfer_ms=0)
_DTC = dtc.DtcStatus(0x123456, 0x2F)

#: What to call, the request it must send, the answer, what it returns.
CALLS: list[tuple[Callable[[UdsClient], Awaitable[Any]], str, str, Any]] = [
    (lambda c: c.raw(b"\x22\xf1\x90"), "22F190", "62F19041", bytes.fromhex("62F19041")),
    (lambda c: c.session(Session.EXTENDED), "1003", "5003003201F4", None),
    (lambda c: c.reset(), "1101", "5101", None),
    (lambda c: c.clear(), "14FFFFFF", "54", None),
    (lambda c: c.clear(0xFFFF33, 1), "14FFFF3301", "54", None),
    (lambda c: c.count_dtcs(8), "190108", "5901FF010003", dtc.DtcCount(0xFF, 1, 3)),
    (lambda c: c.read_dtcs(8), "190208", "5902FF1234562F", dtc.DtcList(0xFF, (_DTC,))),
    (lambda c: c.read_dtcs(8, memory=1), "19170801", "591701FF1234562F", dtc.DtcList(0xFF, (_DTC,), 1)),
    (lambda c: c.snapshot_ids(), "1903", "590312345601", (dtc.SnapshotId(0x123456, 1),)),
    (lambda c: c.supported_dtcs(), "190A", "590AFF", dtc.DtcList(0xFF, ())),
    (lambda c: c.first_failed_dtc(), "190B", "590BFF", dtc.DtcList(0xFF, ())),
    (lambda c: c.first_confirmed_dtc(), "190C", "590CFF", dtc.DtcList(0xFF, ())),
    (lambda c: c.most_recent_failed_dtc(), "190D", "590DFF", dtc.DtcList(0xFF, ())),
    (lambda c: c.most_recent_confirmed_dtc(), "190E", "590EFF", dtc.DtcList(0xFF, ())),
    (lambda c: c.permanent_dtcs(), "1915", "5915FF", dtc.DtcList(0xFF, ())),
    (lambda c: c.mirror_dtcs(1), "190F01", "590FFF", dtc.DtcList(0xFF, ())),
    (lambda c: c.count_mirror_dtcs(1), "191101", "5911FF010000", dtc.DtcCount(0xFF, 1, 0)),
    (lambda c: c.emissions_dtcs(1), "191301", "5913FF", dtc.DtcList(0xFF, ())),
    (lambda c: c.count_emissions_dtcs(1), "191201", "5912FF010000", dtc.DtcCount(0xFF, 1, 0)),
    (lambda c: c.snapshots(0x123456, 1), "190412345601", "59041234562F", dtc.DtcSnapshots(0x123456, 0x2F, ())),
    (lambda c: c.stored_snapshots(1), "190501", "590501", (dtc.StoredSnapshot(1, None, None, None),)),
    (
        lambda c: c.extended_data(0x123456, 1),
        "190612345601",
        "59061234562F0105",
        dtc.DtcExtendedData(0x123456, 0x2F, (dtc.ExtendedRecord(1, b"\5"),)),
    ),
    (
        lambda c: c.extended_data_by_record(1, 1),
        "191601",
        "5916011234562F05",
        (dtc.DtcExtended(0x123456, 0x2F, b"\5"),),
    ),
    (lambda c: c.extended_data_support(1), "191A01", "591AFF011234562F", dtc.ExtendedSupport(0xFF, 1, (_DTC,))),
    (lambda c: c.count_by_severity(0x20, 1), "19072001", "5907FF010000", dtc.DtcCount(0xFF, 1, 0)),
    (
        lambda c: c.read_by_severity(0x20, 1),
        "19082001",
        "5908FF20101234562F",
        dtc.SeverityList(0xFF, (dtc.DtcSeverity(0x123456, 0x2F, 0x20, 0x10),)),
    ),
    (
        lambda c: c.severity_of(0x123456),
        "1909123456",
        "5909FF20101234562F",
        dtc.DtcSeverity(0x123456, 0x2F, 0x20, 0x10),
    ),
    (lambda c: c.severity_of(0x123456), "1909123456", "5909FF", None),
    (
        lambda c: c.fault_counters(),
        "1914",
        "59141234568012345705",
        (dtc.FaultCounter(0x123456, -128), dtc.FaultCounter(0x123457, 5)),
    ),
    (
        lambda c: c.group_dtcs(0x33, 1, 2),
        "1942330102",
        "594233FFE004201234562F",
        dtc.GroupList(0x33, 0xFF, 4, (dtc.GroupDtc(0x123456, 0x2F, 0x20),), 0xE0),
    ),
    (lambda c: c.permanent_group_dtcs(0x33), "195533", "595533FF04", dtc.GroupList(0x33, 0xFF, 4, ())),
    (lambda c: c.readiness_dtcs(0x33, 1), "19563301", "595633FF0401", dtc.GroupList(0x33, 0xFF, 4, (), None, 1)),
    (lambda c: c.read_did(0xF190), "22F190", "62F19041", b"A"),
    (lambda c: c.read_memory(0x1000, 2), "2312100002", "63AABB", b"\xaa\xbb"),
    (lambda c: c.read_scaling(0xF190), "24F190", "64F1906F", None),
    (lambda c: c.communication_control(3), "280301", "6803", None),
    (lambda c: c.authentication_configuration(), "2908", "690802", authentication.Authentication(8, 2)),
    (lambda c: c.deauthenticate(), "2900", "690010", authentication.Authentication(0, 0x10)),
    (lambda c: c.periodic(1, [0xF201]), "2A0101", "6A", None),
    (lambda c: c.define_did(0xF301, [data.DidSource(0xF190, 1, 2)]), "2C01F301F1900102", "6C01F301", None),
    (lambda c: c.define_did_by_memory(0xF301, [data.MemorySource(1, 2)], 1, 1), "2C02F301110102", "6C02F301", None),
    (lambda c: c.clear_did(0xF301), "2C03F301", "6C03F301", None),
    (lambda c: c.write_did(0xF198, b"x"), "2EF19878", "6EF198", None),
    (lambda c: c.io_control(0x1234, 3, b"\1"), "2F12340301", "6F12340301", b"\1"),
    (lambda c: c.start_routine(0xFF00, b"\1"), "3101FF0001", "7101FF0000", b"\0"),
    (lambda c: c.stop_routine(0xFF00), "3102FF00", "7102FF00", b""),
    (lambda c: c.routine_result(0xFF00), "3103FF00", "7103FF0010", b"\x10"),
    (lambda c: c.request_download(1, 2), "3400440000000100000002", "74200102", load.Transfer(0x102)),
    (lambda c: c.request_upload(1, 2), "3500440000000100000002", "7510FF", load.Transfer(0xFF)),
    (lambda c: c.transfer(1, b"x"), "360178", "7601", b""),
    (lambda c: c.transfer_exit(), "37", "77", b""),
    (lambda c: c.transfer_file(2, "/a"), "380200022F61", "7802", load.FileTransfer(2)),
    (lambda c: c.write_memory(0x1000, b"x"), "3D1210000178", "7D12100001", None),
    (lambda c: c.tester_present(), "3E00", "7E00", None),
    (lambda c: c.access_timing(3), "8303", "C303003201F4", b"\0\x32\1\xf4"),
    (lambda c: c.dtc_setting(on=False), "8502", "C502", None),
    (lambda c: c.response_on_event(5), "860502", "C6050002", None),
    (lambda c: c.activated_events(), "860402", "C60400", ()),
]


@pytest.mark.parametrize(("call", "request_", "answer", "result"), CALLS, ids=lambda v: v if isinstance(v, str) else "")
def test_service(call: Callable[[UdsClient], Awaitable[Any]], request_: str, answer: str, result: Any) -> None:
    async def scenario() -> tuple[Any, list[bytes]]:
        channel = EcuInMemory(Script({request_: answer}))
        return await call(UdsClient(channel, timing=TIMING)), channel.requests

    found, requests = run(scenario)
    assert requests == [bytes.fromhex(request_)]
    if result is not None:
        assert found == result


def _run(table: dict[str, Any], call: Callable[[UdsClient], Awaitable[Any]]) -> tuple[Any, list[str]]:
    async def scenario() -> tuple[Any, list[str]]:
        channel = EcuInMemory(Script(table))
        found = await call(UdsClient(channel, timing=TIMING))
        return found, [request.hex().upper() for request in channel.requests]

    return run(scenario)


def test_security_access_sends_the_key_of_the_seed() -> None:
    table = {"2703": "6703AABB", "27044455": "6704"}
    found = _run(table, lambda c: c.security_access(3, lambda level, seed: bytes(b ^ 0xEE for b in seed)))
    assert found == (True, ["2703", "27044455"])


def test_security_access_that_is_open_already_sends_no_key() -> None:
    assert _run({"2703": "67030000"}, lambda c: c.security_access(3, lambda level, seed: b"")) == (False, ["2703"])


def test_authentication_by_certificate() -> None:
    table = {"29010000017800" + "00": "69011100024344" + "0000", "29030002444300" + "00": "690312" + "0000"}
    found, _ = _run(table, lambda c: c.authenticate_by_certificate(b"x", lambda challenge: challenge[::-1]))
    assert found.is_complete


def test_several_identifiers_go_in_one_request_where_lengths_are_known() -> None:
    found = _run({"22F190F18C": "62F19041F18C42"}, lambda c: c.read_dids([0xF190, 0xF18C], {0xF190: 1}))
    assert found == ({0xF190: b"A", 0xF18C: b"B"}, ["22F190F18C"])


def test_several_identifiers_go_one_by_one_where_lengths_are_unknown() -> None:
    table = {"22F190": "62F19041", "22F191": "7F2231", "22F18C": "62F18C42"}
    found = _run(table, lambda c: c.read_dids([0xF190, 0xF191, 0xF18C]))
    assert found == ({0xF190: b"A", 0xF18C: b"B"}, ["22F190", "22F191", "22F18C"])


@pytest.mark.parametrize("nrc", ["13", "14"])
def test_an_ecu_that_takes_one_identifier_at_a_time(nrc: str) -> None:
    table = {"22F190F18C": f"7F22{nrc}", "22F190": "62F19041", "22F18C": "62F18C42"}
    found = _run(table, lambda c: c.read_dids([0xF190, 0xF18C], {0xF190: 1}))
    assert found[0] == {0xF190: b"A", 0xF18C: b"B"}


def test_several_identifiers_of_which_none_exists() -> None:
    with pytest.raises(NegativeResponse) as caught:
        _run({"22F190": "7F2231", "22F18C": "7F2231"}, lambda c: c.read_dids([0xF190, 0xF18C]))
    assert caught.value.nrc == 0x31


def test_a_refusal_that_is_no_missing_identifier_ends_the_reading() -> None:
    with pytest.raises(NegativeResponse) as caught:
        _run({"22F190": "62F19041", "22F18C": "7F2233"}, lambda c: c.read_dids([0xF190, 0xF18C]))
    assert caught.value.nrc == 0x33


def test_link_control_verifies_then_goes() -> None:
    assert _run({"870212": "C702", "870207A120": "C702"}, lambda c: c.link_control(500_000))[1] == [
        "870207A120",
        "8783",
    ]
    assert _run({"870112": "C701"}, lambda c: c.link_control(fixed=0x12))[1] == ["870112", "8783"]


def test_link_control_wants_one_rate() -> None:
    with pytest.raises(ValueError, match="one of"):
        _run({}, lambda c: c.link_control())


class SecuredEcu:
    """Answers 0x84 around whatever it is told to answer inside."""

    def __init__(self, inner: bytes) -> None:
        self.protection, self.inner = Sum(), inner

    def __call__(self, request: bytes) -> list[tuple[float, bytes]]:
        return [(1, b"\xc4" + self.protection.seal(self.inner, 0).encode())]


def test_secured_requests_answer_what_is_inside() -> None:
    async def scenario() -> bytes:
        return await UdsClient(EcuInMemory(SecuredEcu(b"\x62\xf1\x90A")), timing=TIMING).secured(b"\x22\xf1\x90", Sum())

    assert run(scenario) == b"\x62\xf1\x90A"


def test_a_secured_refusal_is_a_refusal() -> None:
    async def scenario() -> None:
        await UdsClient(EcuInMemory(SecuredEcu(b"\x7f\x22\x33")), timing=TIMING).secured(b"\x22\xf1\x90", Sum())

    with pytest.raises(NegativeResponse) as caught:
        run(scenario)
    assert (caught.value.sid, caught.value.nrc) == (0x22, 0x33)


def test_a_service_without_sub_function_cannot_be_suppressed() -> None:
    async def scenario() -> None:
        await UdsClient(EcuInMemory(Script({})), timing=TIMING).tell(dtc.clear())

    with pytest.raises(ValueError, match="suppress"):
        run(scenario)


def test_an_answer_too_short_for_its_service_is_malformed_not_a_crash() -> None:
    with pytest.raises(MalformedAnswer):
        _run({"190208": "5902"}, lambda c: c.read_dtcs(8))
