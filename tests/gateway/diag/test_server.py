"""The gateway's own UDS server, bytes in and bytes out; answers are read by udsoncan, which we did not write."""

from __future__ import annotations

import asyncio
import errno
import math
import struct

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from udsoncan.common.DidCodec import DidCodec
from udsoncan.Response import Response
from udsoncan.services.DiagnosticSessionControl import DiagnosticSessionControl
from udsoncan.services.ReadDataByIdentifier import ReadDataByIdentifier
from udsoncan.services.ReadDTCInformation import ReadDTCInformation

from gateway.diag import ports
from gateway.diag.config import VehicleStateSection
from gateway.diag.server import GatewayServer
from gateway.diag.server_data import (
    LINK_STATE,
    SPOOL_PENDING_BYTES,
    UPDATE_STATUS,
    DataIdentifier,
    identification,
    text,
    unsigned,
)
from gateway.diag.vehicle_state import VehicleState
from gateway.dtc.component import DtcComponent
from gateway.dtc.model import TestResult
from gateway.dtc.monitors import MonitorEngine
from gateway.dtc.rulefile import parse_rules_file
from gateway.dtc.rules import resolve_rules
from gateway.dtc.store import MemoryStore
from gateway.errors import NotNowError
from gateway.runtime import HealthBoard
from tests.gateway.dtc.drive import FakeClock
from tests.gateway.dtc.test_monitors import MANIFEST, Car
from tests.gateway.spool.disks import MemoryDisk
from tests.support import LONG

A, B, C = 0x056200, 0xC10087, 0x442300
RULES = """
[defaults]
debounce = { fail_after = 4, pass_after = 4 }
snapshot = ["X", "Z"]
[[monitor]]
dtc = "P0562"
kind = "range"
signal = "X"
max = 5.0
confirm_cycles = 1
severity = "immediate"
functional_unit = 0x10
lamp = true
emissions = true
[[monitor]]
dtc = "U0100-87"
kind = "missing"
message = "Safe"
severity = "maintenance"
[[monitor]]
dtc = "C0423-00"
kind = "ecu_silent"
ecu = "x"
memory = 2
"""
ME, OTHER = ports.Tester(port="doip", address=0x0E80), ports.Tester(port="obd", address=0x0EF1)
VIN = "WORTR1DE5TNE00042"


class Outlet:
    async def emit(self, *args: object) -> None:
        pass


class Rig:
    def __init__(self, **kwargs: object) -> None:
        self.clock, self.disk = FakeClock(), MemoryDisk()
        state = VehicleState(VehicleStateSection(), MANIFEST, self.clock)
        self.engine = MonitorEngine(resolve_rules(parse_rules_file(RULES), MANIFEST), MANIFEST, state)
        self.memory = self.engine.memory
        self.component = DtcComponent(
            engine=self.engine, store=MemoryStore(self.disk), outlet=Outlet(), clock=self.clock, health=HealthBoard()
        )
        self.component._health.register("dtc", 0, limit_s=None)
        self.component._loaded = True
        self.engine.begin()
        self.server = GatewayServer(
            faults=self.component,
            engine=self.engine,
            identifiers=[
                *identification(vin=VIN, software="1.2.3", manifest_hash=MANIFEST.hash, serial="S-7"),
                text(UPDATE_STATUS, "update status", lambda: "idle"),
                unsigned(SPOOL_PENDING_BYTES, "bytes waiting", lambda: 1 << 70, 8, "B"),
                text(LINK_STATE, "link", "up"),
            ],
            clock=self.clock,
            **kwargs,  # type: ignore[arg-type]  # as the tests need
        )

    def ask(self, request: str | bytes, tester: ports.Tester = ME, *, functional: bool = False) -> str:
        """Hexadecimal in, hexadecimal out; empty for silence."""
        pdu = bytes.fromhex(request) if isinstance(request, str) else request
        answers = asyncio.run(self.server.handle(tester, pdu, is_functional=functional))
        return " ".join(a.hex() for a in answers)

    def fail(self, code: int, count: int = 1) -> None:
        for _ in range(count):
            self.memory.report(code, TestResult.FAILED, 0)

    def response(self, request: str) -> Response:
        return Response.from_payload(bytes.fromhex(self.ask(request)))


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ("", ""),
        ("27 01", "7f2711"),  # a service it does not have
        ("00", "7f0011"),
        ("7f 10 11", "7f7f11"),
        ("50 01", "7f5011"),
        ("10", "7f1013"),
        ("10 02", "7f1012"),
        ("10 01", "5001003201f4"),
        ("10 81", ""),
        ("10 82", "7f1012"),
        ("10 01 00", "7f1013"),
        ("10 02 00", "7f1012"),  # the sub-function is looked at before the exact length
        ("3e 00", "7e00"),
        ("3e 80", ""),
        ("3e 01", "7f3e12"),
        ("3e 00 00", "7f3e13"),
        ("85 02", "7f857f"),  # only in the extended session
        ("85", "7f857f"),
        ("11 01", "7f1111"),
        ("14", "7f1413"),
        ("14 ff ff", "7f1413"),
        ("14 ff ff ff 00 00", "7f1413"),
        ("14 ff ff ff", "54"),
        ("14 00 00 00", "7f1431"),
        ("14 05 62 00", "54"),
        ("14 44 23 00", "7f1431"),  # in a user-defined memory
        ("14 44 23 00 02", "54"),
        ("14 ff ff ff 02", "54"),
        ("14 ff ff ff 03", "7f1431"),
        ("14 ff ff 33", "54"),
        ("19", "7f1913"),
        ("19 00", "7f1912"),
        ("19 05 01", "7f1912"),
        ("19 42 33 08 1e", "7f1912"),
        ("19 02", "7f1913"),
        ("19 02 ff ff", "7f1913"),
        ("19 82 ff", ""),
        ("19 02 00", "5902ff"),
        ("22", "7f2213"),
        ("22 f1", "7f2213"),
        ("22 f1 90 f1", "7f2213"),
        ("22 12 34", "7f2231"),
        ("22 f1 86", "62f18601"),
        ("22 f1 90", "62f190" + VIN.encode().hex()),
        ("22 12 34 f1 86 00 00", "62f18601"),
        ("22 fd 01", "62fd01" + b"idle".hex()),
        ("22 fd 02", "62fd02ffffffffffffffff"),
        ("22 fd 00", "62fd00" + MANIFEST.hash.hex()),
    ],
)
def test_answers_in_the_default_session(rig: Rig, request_: str, answer: str) -> None:
    assert rig.ask(request_) == answer


@pytest.mark.parametrize(("request_", "answer"), [
    ("27 01", ""), ("10 02", ""), ("22 12 34", ""), ("85 02", ""), ("14 00 00 00", ""), ("3e 00 00", "7f3e13"),
    ("3e 00", "7e00"), ("22 f1 86", "62f18601"),
])  # fmt: skip
def test_functional_requests_get_no_11_12_31_7e_7f(rig: Rig, request_: str, answer: str) -> None:
    assert rig.ask(request_, functional=True) == answer


def test_session_control_is_read_by_udsoncan(rig: Rig) -> None:
    data = DiagnosticSessionControl.interpret_response(rig.response("10 03"), 2020).service_data
    assert (data.session_echo, data.p2_server_max, data.p2_star_server_max) == (3, 0.05, 5.0)
    assert rig.ask("22 f1 86") == "62f18603"


def test_a_session_ends_after_s3_and_lives_on_tester_present(rig: Rig) -> None:
    rig.ask("10 03")
    for _ in range(3):
        rig.clock.now_ns += 4_999_000_000
        assert rig.ask("3e 80", functional=True) == ""
    assert rig.ask("22 f1 86") == "62f18603"
    rig.clock.now_ns += 5_000_000_000
    assert rig.ask("22 f1 86") == "62f18601"


def test_sessions_are_per_tester(rig: Rig) -> None:
    rig.ask("10 03")
    assert rig.ask("22 f1 86", OTHER) == "62f18601"
    assert rig.ask("85 02", OTHER) == "7f857f"
    rig.ask("10 01", OTHER)
    assert rig.ask("22 f1 86") == "62f18603"


def updating(rig: Rig) -> bool:
    return rig.memory.is_updating


def test_dtc_setting_stays_off_while_anyone_holds_it(rig: Rig) -> None:
    for tester in (ME, OTHER):
        rig.ask("10 03", tester)
        assert rig.ask("85 02", tester) == "c502"
    rig.fail(A)
    assert rig.memory.states[A].status == 0x50
    assert rig.ask("85 01") == "c501"
    assert not updating(rig)
    rig.server.left(OTHER)
    assert updating(rig)
    rig.fail(A)
    assert rig.memory.states[A].status & 1


@pytest.mark.parametrize("end", ["s3", "default", "reset"])
def test_dtc_setting_comes_back_with_the_default_session(end: str) -> None:
    resets: list[int] = []
    rig = Rig(reset=resets.append)
    rig.ask("10 03")
    rig.ask("85 82")
    assert not rig.memory.is_updating
    if end == "s3":
        rig.server.tick(4_999_999_999)
        assert not rig.memory.is_updating
        rig.server.tick(5_000_000_000)
    elif end == "default":
        rig.ask("10 01")
    else:
        assert rig.ask("11 03") == "5103"
        assert resets == [3]
    assert rig.memory.is_updating


def test_a_reset_that_cannot_be_done_now_is_22() -> None:
    def refuse(kind: int) -> None:
        raise NotNowError("the car moves")

    rig = Rig(reset=refuse)
    assert rig.ask("11 01") == "7f1122"
    assert rig.ask("11 02") == "7f1112"


def test_testers_in_sessions_are_bounded(rig: Rig) -> None:
    for address in range(64):
        assert rig.ask("10 03", ports.Tester(port="doip", address=address)).startswith("50")
    assert rig.ask("10 03", OTHER) == "7f1021"
    assert rig.ask("22 f1 86", OTHER) == "62f18601"
    rig.clock.now_ns += 5_000_000_000
    assert rig.ask("10 03", OTHER).startswith("50")


def with_faults(rig: Rig) -> Car:
    """P0562 fails twice with values around it; U0100 once, unconfirmed."""
    car = Car('kind = "range"\nsignal = "Y"\nmax = 99')
    car.engine, car.clock = rig.engine, rig.clock
    car.z = 2.5
    car.x = 9.0
    car.run(2000)
    car.x = 1.5
    car.run(2000)
    car.x = 7.0
    car.run(2000)
    rig.fail(B)
    return car


def test_read_dtc_sub_functions_are_read_by_udsoncan(rig: Rig) -> None:
    with_faults(rig)
    rig.memory.report(C, TestResult.PREFAILED, 0)

    def ask(request: str, sub: int) -> ReadDTCInformation.ResponseData:
        response = rig.response(request)
        assert response.positive, response.code_name
        return ReadDTCInformation.interpret_response(
            response, sub, extended_data_size=None, dtc_snapshot_did_size=2, didconfig={"default": Raw4()}
        ).service_data

    assert ask("19 01 ff", 1).dtc_count == 2
    assert ask("19 01 08", 1).dtc_count == 1
    assert {d.id: d.status.get_byte_as_int() for d in ask("19 02 ff", 2).dtcs} == {A: 0xAF, B: 0x27}
    assert [d.id for d in ask("19 02 08", 2).dtcs] == [A]
    assert {d.id for d in ask("19 0a", 0x0A).dtcs} == {A, B, C}
    assert [d.id for d in ask("19 0b", 0x0B).dtcs] == [A]
    assert [d.id for d in ask("19 0c", 0x0C).dtcs] == [A]
    assert [d.id for d in ask("19 0d", 0x0D).dtcs] == [B]
    assert [d.id for d in ask("19 0e", 0x0E).dtcs] == [A]
    assert [(d.id, d.fault_counter) for d in ask("19 14", 0x14).dtcs] == [(C, 31)]
    assert [d.id for d in ask("19 15", 0x15).dtcs] == [A]
    assert ask("19 07 80 ff", 7).dtc_count == 1
    [severe] = ask("19 08 80 ff", 8).dtcs
    assert (severe.id, severe.severity.get_byte_as_int(), severe.functional_unit) == (A, 0x80, 0x10)
    assert ask("19 09 05 62 00", 9).dtcs[0].id == A
    assert ask("19 03", 3).dtc_count == 2


class Raw4(DidCodec):
    def decode(self, payload: bytes) -> bytes:
        return payload

    def encode(self, *value: object) -> bytes:
        raise NotImplementedError

    def __len__(self) -> int:
        return 4


def test_snapshots_hold_time_and_signals(rig: Rig) -> None:
    car = with_faults(rig)
    answer = bytes.fromhex(rig.ask("19 04 05 62 00 ff"))
    assert answer[:6].hex() == "590405620" + "0af"
    records, at = {}, 6
    while at < len(answer):
        number, count, at = answer[at], answer[at + 1], at + 2
        values = {}
        for _ in range(count):
            did = int.from_bytes(answer[at : at + 2], "big")
            size = 8 if did == 0x4000 else 4
            values[did] = answer[at + 2 : at + 2 + size]
            at += 2 + size
        records[number] = values
    names = rig.server.describe()["identifiers"]
    assert isinstance(names, dict)
    x, z = (int(n, 16) for name in ("a.Fast.X", "b.Safe.Z") for n, d in names.items() if d["name"] == name)
    assert set(records) == {1, 2}
    first, last = records[1], records[2]
    assert struct.unpack(">f", first[x])[0] == pytest.approx(9.0)
    assert struct.unpack(">f", last[x])[0] == pytest.approx(7.0)
    assert struct.unpack(">f", last[z])[0] == pytest.approx(2.5)
    times = [int.from_bytes(r[0x4000], "big") for r in (first, last)]
    assert 0 < times[1] - times[0] < car.now_ms
    assert bytes.fromhex(rig.ask("19 04 05 62 00 02"))[6] == 2


def test_signals_of_snapshots_can_be_read_live(rig: Rig) -> None:
    with_faults(rig)
    identifiers = rig.server.describe()["identifiers"]
    assert isinstance(identifiers, dict)
    [x] = [n for n, d in identifiers.items() if d["name"] == "a.Fast.X"]
    assert struct.unpack(">f", bytes.fromhex(rig.ask(f"22 {x}"))[3:])[0] == pytest.approx(7.0)
    fresh = Rig()
    assert math.isnan(struct.unpack(">f", bytes.fromhex(fresh.ask(f"22 {x}"))[3:])[0]), "unknown is NaN"


def test_extended_data(rig: Rig) -> None:
    with_faults(rig)
    answer = rig.ask("19 06 05 62 00 01")
    assert answer == "5906056200af" + "0102"
    assert rig.ask("19 06 05 62 00 10") == "5906056200af" + "107f"
    assert rig.ask("19 06 05 62 00 06") == "5906056200af" + "06ffffffff"
    whole = bytes.fromhex(rig.ask("19 06 05 62 00 ff"))
    sizes = rig.server.describe()["extended_data"]
    assert isinstance(sizes, dict)
    assert len(whole) == 6 + sum(1 + record["bytes"] for record in sizes.values())
    assert rig.ask("19 16 01") == "591601" + "056200af02" + "c100872701"
    assert rig.ask("19 1a 01").startswith("591aff01056200af")


@pytest.mark.parametrize("request_", [
    "19 04 05 62 00 03", "19 04 00 00 01 ff", "19 04 44 23 00 ff", "19 06 05 62 00 55", "19 06 05 62 00 fe",
    "19 06 00 00 01 ff", "19 09 00 00 01", "19 16 55", "19 1a 55", "19 17 ff 03", "19 18 05 62 00 ff 02",
    "19 19 44 23 00 ff 01",
])  # fmt: skip
def test_what_is_not_there_is_31(rig: Rig, request_: str) -> None:
    assert rig.ask(request_) == "7f1931"


def test_a_known_dtc_without_records_gives_the_header_only(rig: Rig) -> None:
    assert rig.ask("19 04 05 62 00 ff") == "590405620050"
    assert rig.ask("19 06 05 62 00 ff") == "590605620050"
    assert rig.ask("19 0b") == "590bff"
    assert rig.ask("19 03") == "5903"
    assert rig.ask("19 14") == "5914"


def test_user_defined_memory(rig: Rig) -> None:
    rig.fail(C)
    assert rig.ask("19 17 ff 02") == "591702ff44230027"
    assert rig.ask("19 02 2f") == "5902ff"
    assert rig.ask("19 19 44 23 00 01 02") == "5919024423" + "0027" + "0101"
    assert rig.ask("19 18 44 23 00 ff 02").startswith("591802442300270103")
    rig.ask("14 ff ff ff")
    assert rig.memory.states[C].status == 0x27
    rig.ask("14 ff ff ff 02")
    assert rig.memory.states[C].status == 0x50


def test_a_clear_is_answered_once_it_is_durable(rig: Rig) -> None:
    rig.fail(A)
    assert rig.ask("14 ff ff ff") == "54"
    image = MemoryStore(rig.disk).load().image
    assert image is not None
    assert all(s.status == 0x50 for s in image.states)
    assert rig.ask("19 15") == "5915ff05620050", "a permanent DTC stays one"
    rig.disk.failures["sync"] = (0, errno.EIO)
    rig.fail(A)
    assert rig.ask("14 ff ff ff") == "7f1472"
    rig.component._loaded = False
    assert rig.ask("14 ff ff ff") == "7f1422"


def test_identification_is_read_by_udsoncan(rig: Rig) -> None:
    class Ascii(DidCodec):
        def __init__(self, size: int) -> None:
            self.size = size

        def decode(self, payload: bytes) -> str:
            return payload.decode("ascii")

        def __len__(self) -> int:
            return self.size

    config: dict[int | str, str | DidCodec | type[DidCodec]] = {0xF190: Ascii(17), 0xF189: Ascii(5), 0xF18C: Ascii(3)}
    response = rig.response("22 f1 90 f1 89 f1 8c")
    data = ReadDataByIdentifier.interpret_response(response, [0xF190, 0xF189, 0xF18C], config, False).service_data
    assert data.values == {0xF190: VIN, 0xF189: "1.2.3", 0xF18C: "S-7"}


def test_too_many_identifiers_and_too_long_answers(rig: Rig) -> None:
    assert rig.ask("22" + "f186" * 32).startswith("62")
    assert rig.ask("22" + "f186" * 33) == "7f2213"
    long = DataIdentifier(number=0xFD10, name="long", read=lambda: bytes(200))
    wide = Rig()
    wide.server._identifiers = {**wide.server._identifiers, 0xFD10: long}
    assert wide.ask("22" + "fd10" * 21) == "7f2214"


def test_an_identifier_that_cannot_be_read_is_22() -> None:
    def broken() -> bytes:
        raise OSError("disk gone")

    rig = Rig()
    bad = DataIdentifier(number=0xFD11, name="broken", read=broken)
    rig.server._identifiers = {**rig.server._identifiers, 0xFD11: bad}
    assert rig.ask("22 f1 86 fd 11") == "7f2222"


def test_it_answers_exactly_what_it_declares(rig: Rig) -> None:
    declared = rig.server.describe()
    services = declared["services"]
    assert isinstance(services, dict)
    found = {}
    rig.ask("10 03")
    for sid in range(256):
        answers = {rig.ask(bytes([sid, *tail])) for tail in ((), (0,), (0, 0), (0, 0, 0, 0, 0))}
        if not answers <= {f"7f{sid:02x}11", f"7f{sid:02x}7f"}:
            subs = [s for s in range(128) if rig.ask(bytes([sid, s])) not in (f"7f{sid:02x}12",)]
            rig.ask("10 03")
            found[f"{sid:02X}"] = subs
    assert set(found) == set(services)
    for sid_text, service in services.items():
        if service["subfunctions"] is not None:
            assert found[sid_text] == service["subfunctions"]

    async def identifiers() -> set[str]:
        numbers = [n.to_bytes(2, "big") for n in range(0x10000) if LONG or n % 16 == 0 or n >> 8 in (0x40, 0xF1, 0xFD)]
        refused = [b"\x7f\x22\x31"]
        asked = [(n, await rig.server.handle(ME, b"\x22" + n, is_functional=False)) for n in numbers]
        return {n.hex().upper() for n, answer in asked if answer != refused}

    readable = asyncio.run(identifiers())
    assert readable == set(declared["identifiers"])  # type: ignore[call-overload]  # JSON


@settings(max_examples=2000 if LONG else 100, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=9) | st.builds(
    lambda sid, rest: bytes([sid]) + rest, st.sampled_from([0x10, 0x11, 0x14, 0x19, 0x22, 0x3E, 0x85]),
    st.binary(max_size=8)), st.booleans(), st.integers(0, 6000)), max_size=10))  # fmt: skip
def test_arbitrary_bytes_are_answered_or_ignored(requests: list[tuple[bytes, bool, int]]) -> None:
    rig = Rig(reset=lambda kind: None)
    rig.fail(A)
    for pdu, is_functional, wait_ms in requests:
        rig.clock.now_ns += wait_ms * 1_000_000
        answers = asyncio.run(rig.server.handle(ME, pdu, is_functional=is_functional))
        assert len(answers) <= 1
        for answer in answers:
            assert answer[0] == pdu[0] | 0x40 or answer[:2] == bytes([0x7F, pdu[0]])
            if answer[0] == 0x7F and is_functional:
                assert answer[2] not in (0x11, 0x12, 0x31, 0x7E, 0x7F)
