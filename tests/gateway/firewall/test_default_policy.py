"""What the built-in policy lets through: reading always, writing at standstill, from one tester at a time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.firewall.policy import default_policy
from gateway.firewall.ports import Verdict
from gateway.firewall.services import NAMES, READING, WITH_SUBFUNCTION
from gateway.firewall.state import VehicleFacts
from tests.gateway.firewall.support import BATTERY, CLOUD, MOVING, OBD, OTHER, STANDING, UNKNOWN, WORKSHOP, Bench

READS = ["3E00", "3E80", "22F190", "22F190F18C", "190209", "1001", "1003", "24F190", "0100", "03", "07", "0902", "0A"]
WRITES = [
    "1002", "1004", "1060", "1101", "1103", "14FFFFFF", "2EF19041", "2F0100030102", "3101FF00", "310301", "3103FF00",
    "2701", "2702AABB", "280301", "2901", "8502", "8701", "34004411112222333344445555", "350044111122223333444455",
    "3601AA", "37", "380100014100010101", "3D1411000010AA", "2314000010AA00", "8303", "860302F19022F190", "04", "0801",
]  # fmt: skip
#: Services whose every form changes the vehicle, opens it or reads out its memory.
WRITING_SIDS = [0x04, 0x08, 0x11, 0x14, 0x23, 0x27, 0x28, 0x29, 0x2E, 0x2F, 0x31, 0x34, 0x35, 0x36, 0x37, 0x38, 0x3D,
                0x83, 0x84, 0x85, 0x86, 0x87]  # fmt: skip
TESTERS = [WORKSHOP, OBD, CLOUD]


@pytest.mark.parametrize("request_", READS)
@pytest.mark.parametrize("vehicle", [STANDING, MOVING, UNKNOWN], ids=["standing", "moving", "unknown"])
@pytest.mark.parametrize("tester", TESTERS, ids=["doip", "obd", "cloud"])
def test_reading_is_always_allowed(request_: str, vehicle: object, tester: object) -> None:
    bench = Bench(vehicle=vehicle)  # type: ignore[arg-type]  # parametrize knows no types
    assert bench.allows(request_, by=tester)  # type: ignore[arg-type]  # parametrize knows no types


@pytest.mark.parametrize("request_", WRITES)
def test_writing_is_refused_unless_the_vehicle_is_known_to_stand(request_: str) -> None:
    for vehicle in (MOVING, UNKNOWN):
        decision = Bench(vehicle=vehicle).ask(request_)
        assert decision.verdict is Verdict.REFUSE
        assert decision.nrc in (0x13, 0x22)


@pytest.mark.parametrize("request_", [w for w in WRITES if w != "310301"])
def test_writing_is_allowed_at_standstill(request_: str) -> None:
    assert Bench().allows(request_)


BLOCK, SILENT = "3601AA", VehicleFacts(was_standing=True)


def test_a_download_goes_on_when_the_ecu_that_sends_the_speed_is_the_one_programmed() -> None:
    bench = Bench()
    bench.do("1002", "5002003201F4")
    bench.vehicle = SILENT
    assert bench.allows("3101FF00")
    assert bench.allows(BLOCK)
    assert bench.nrc(BLOCK, to=BATTERY) == 0x22
    assert bench.nrc(BLOCK, by=OTHER) == 0x22
    bench.vehicle = MOVING
    assert bench.nrc(BLOCK) == 0x22


@pytest.mark.parametrize("session", ["1001", "1003"])
def test_a_speed_that_falls_silent_allows_nothing_outside_of_programming(session: str) -> None:
    bench = Bench()
    bench.do(session, f"50{session[2:]}003201F4")
    bench.vehicle = SILENT
    assert bench.nrc("2EF19041") == 0x22
    assert bench.nrc("1002") == 0x22


def test_a_speed_that_fell_silent_while_moving_stops_a_download() -> None:
    bench = Bench()
    bench.do("1002", "5002003201F4")
    bench.vehicle = UNKNOWN
    assert bench.nrc(BLOCK) == 0x22


def test_an_unknown_service_is_refused_as_not_supported() -> None:
    known = set(NAMES)
    for sid in range(0x100):
        if sid not in known and not sid & 0x40:
            assert Bench().nrc(f"{sid:02X}0000") == 0x11


def test_an_answer_sent_as_a_request_goes_nowhere() -> None:
    for sid in range(0x100):
        if sid & 0x40:
            assert Bench().ask(bytes([sid, 0x01])).verdict is Verdict.DROP


def test_secured_data_is_refused_whatever_the_vehicle_does() -> None:
    assert Bench().nrc("840000") == 0x33


def test_no_security_access_and_no_flashing_to_all_at_once() -> None:
    for request in ("2701", "34004411112222333344445555", "2EF19041", "3101FF00"):
        assert Bench().ask(request, functional=True).verdict is Verdict.DROP
    assert Bench().allows("1003", functional=True)
    assert Bench().allows("8502", functional=True)
    assert Bench().allows("14FFFFFF", functional=True)


@pytest.mark.parametrize("request_", ["2701", "2EF19041", "34004411112222333344445555", "280301", "1002"])
def test_the_cloud_may_not_unlock_write_or_flash(request_: str) -> None:
    assert Bench().nrc(request_, by=CLOUD) == 0x33


def test_an_unsigned_order_may_nothing() -> None:
    unsigned = type(CLOUD)(port="cloud", address=CLOUD.address, name="operator")
    assert Bench().nrc("22F190", by=unsigned) == 0x33


def any_request() -> st.SearchStrategy[bytes]:
    return st.one_of(
        st.binary(min_size=1, max_size=24),
        st.tuples(st.sampled_from(sorted(NAMES)), st.binary(max_size=20)).map(lambda p: bytes([p[0]]) + p[1]),
    )


@settings(max_examples=400, deadline=None)
@given(
    history=st.lists(st.tuples(any_request(), st.binary(max_size=8)), max_size=4),
    sid=st.sampled_from([*WRITING_SIDS, 0x10]),
    rest=st.binary(max_size=24),
    functional=st.booleans(),
    is_known=st.booleans(),
    tester=st.sampled_from(TESTERS),
)
def test_no_bytes_get_a_write_through_while_moving(
    history: list[tuple[bytes, bytes]], sid: int, rest: bytes, functional: bool, is_known: bool, tester: object
) -> None:
    """Whatever went before at standstill, whatever session or unlock the ECU granted."""
    bench = Bench()
    for request, answer in history:
        bench.ask(request)
        bench.firewall.answered(WORKSHOP, 0x1010, answer, now_ns=bench.now_ns)
    bench.vehicle = MOVING if is_known else UNKNOWN
    if sid == 0x10 and len(rest) and rest[0] & 0x7F in (1, 3):
        rest = b"\x02" + rest[1:]
    decision = bench.ask(bytes([sid]) + rest, by=tester, functional=functional)  # type: ignore[arg-type]
    assert decision.verdict is not Verdict.ALLOW


@settings(max_examples=300, deadline=None)
@given(
    sid=st.sampled_from(sorted(WITH_SUBFUNCTION)), sub=st.integers(0, 0x7F), rest=st.binary(max_size=16),
    moving=st.booleans(), functional=st.booleans(),
)  # fmt: skip
def test_the_suppress_bit_changes_no_decision(sid: int, sub: int, rest: bytes, moving: bool, functional: bool) -> None:
    plain, suppressed = (
        Bench(vehicle=MOVING if moving else STANDING).ask(bytes([sid, sub | bit]) + rest, functional=functional)
        for bit in (0, 0x80)
    )
    assert plain == suppressed


@settings(max_examples=300, deadline=None)
@given(pdu=any_request())
def test_any_bytes_get_a_decision(pdu: bytes) -> None:
    bench = Bench()
    decision = bench.ask(pdu)
    assert decision.verdict in Verdict
    assert decision.rule or decision.verdict is Verdict.ALLOW


@pytest.mark.parametrize(("vehicle", "reaches"), [(MOVING, READING), (STANDING, set(NAMES) - {0x84})])
def test_a_scanner_finds_what_the_policy_allows(vehicle: VehicleFacts, reaches: set[int]) -> None:
    """Every service with requests of growing length, as scanners send them: what reaches the ECU, and nothing else."""
    reached = set()
    for sid in range(0x100):
        for rest in (
            "",
            "00",
            "0000",
            "01",
            "03",
            "000000",
            "0000000000",
            "01F30022F10101",
            "0302F19022F190",
            "44" * 12,
        ):
            if Bench(vehicle=vehicle).allows(f"{sid:02X}{rest}"):
                reached.add(sid)
    assert reached == reaches


def test_deeply_nested_requests_are_refused() -> None:
    """An event that stores an event that stores an event …"""
    assert Bench().nrc("860102" * 1300 + "22F190") == 0x31


def test_the_policy_has_no_rule_that_never_applies() -> None:
    assert len({rule.name for rule in default_policy().rules}) == len(default_policy().rules)


def test_one_writer_at_a_time_is_in_force() -> None:
    bench = Bench()
    bench.do("1003", "5003003201F4")
    assert bench.nrc("2EF19041", by=OTHER) == 0x22
    assert bench.allows("22F190", by=OTHER)
