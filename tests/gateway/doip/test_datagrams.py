"""What is answered to datagrams, and to which of them nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.doip.datagrams import answer_datagram
from gateway.doip.messages import (
    V_ANY,
    EntityStatus,
    EntityStatusRequest,
    HeaderNack,
    IdentificationRequest,
    Message,
    PayloadType,
    PowerMode,
    PowerModeCode,
    PowerModeRequest,
    VehicleIdentity,
    decode,
    encode,
    frame,
)
from gateway.doip.model import UNKNOWN_VIN, Entity, vehicle_facts
from gateway.doip.sockets import announcement_target
from gateway.errors import ConfigError, TransportError
from tests.gateway.doip.support import VIN, facts, section

CONFIG = section()
ENTITY = Entity(
    facts=facts(CONFIG),
    power_mode=lambda: PowerModeCode.NOT_SUPPORTED,
    open_sockets=lambda: 300,
    max_sockets=8,
    max_data_bytes=4096,
)


def reply(data: bytes) -> Message | None:
    answer = answer_datagram(data, ENTITY)
    return None if answer is None else decode(int.from_bytes(answer[2:4], "big"), answer[8:])


@pytest.mark.parametrize("version", [2, 3, V_ANY])
def test_identification_is_answered_in_the_version_asked_or_in_that_of_2012(version: int) -> None:
    answer = answer_datagram(encode(IdentificationRequest(), version), ENTITY)
    assert answer is not None
    assert answer[0] == (2 if version == V_ANY else version)
    assert answer[0] ^ answer[1] == 0xFF


def test_only_whom_is_meant_answers() -> None:
    assert isinstance(reply(encode(IdentificationRequest(vin=VIN.encode()))), VehicleIdentity)
    assert isinstance(reply(encode(IdentificationRequest(eid=ENTITY.facts.eid))), VehicleIdentity)
    assert reply(encode(IdentificationRequest(vin=b"W" * 17))) is None
    assert reply(encode(IdentificationRequest(eid=b"\xff" * 6))) is None


def test_status_and_power_mode() -> None:
    assert reply(encode(EntityStatusRequest())) == EntityStatus(0, 8, 255, 4096)
    assert reply(encode(PowerModeRequest(), 3)) == PowerMode(2)


@pytest.mark.parametrize(
    ("datagram", "code"),
    [
        (bytes(8)[:2] + b"\x40\x01" + bytes(4), 0x00),
        (encode(EntityStatusRequest(), V_ANY), 0x00),
        (frame(0x1234, b""), 0x01),
        (frame(PayloadType.ACTIVATION_REQUEST, bytes(7)), 0x01),  # TCP only
        (frame(PayloadType.DIAGNOSTIC, bytes(7)), 0x01),
        (frame(PayloadType.IDENTIFICATION_REQUEST, b"x"), 0x04),
        (frame(PayloadType.IDENTIFICATION_REQUEST, b"") + b"x", 0x04),
        (frame(PayloadType.IDENTIFICATION_REQUEST_VIN, bytes(17))[:-1], 0x04),
    ],
)
def test_what_is_wrong_gets_a_header_nack(datagram: bytes, code: int) -> None:
    assert reply(datagram) == HeaderNack(code)


@pytest.mark.parametrize("version", [2, 3, 9])
def test_answers_of_others_and_our_own_announcements_are_never_answered(version: int) -> None:
    answers: list[Message] = [ENTITY.facts.identity, ENTITY.status(), PowerMode(1), HeaderNack(0)]
    assert [answer_datagram(encode(message, version), ENTITY) for message in answers] == [None] * 4


@given(st.binary(max_size=100) | st.builds(frame, st.sampled_from([*PayloadType, 7, 0xFFFF]), st.binary(max_size=40)))
def test_any_datagram_gets_one_small_answer_or_none_and_no_answer_is_answered(data: bytes) -> None:
    answer = answer_datagram(data, ENTITY)
    if answer is not None:
        assert len(answer) <= 8 + 33
        assert answer_datagram(answer, ENTITY) is None


# who the vehicle is


def test_the_vehicles_name_is_its_vin_if_it_can_be_one() -> None:
    assert vehicle_facts(section(vin=""), VIN).vin == VIN.encode()
    unknown = vehicle_facts(section(vin=""), "BENCH-1")
    assert unknown.vin == UNKNOWN_VIN
    assert unknown.identity.sync_status == 0x10
    assert vehicle_facts(section(), "BENCH-1").identity.sync_status == 0x00


def test_an_interface_lends_its_address_as_eid_and_the_group_is_ours(tmp_path: Path) -> None:
    for name, address in (("lo", "00:00:00:00:00:00"), ("can0", "nonsense"), ("eth0", "02:aa:bb:cc:dd:ee")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "address").write_text(address + "\n")
    known = vehicle_facts(section(eid=""), "BENCH-1", interfaces=tmp_path)
    assert (known.eid, known.gid) == (bytes.fromhex("02aabbccddee"),) * 2


def test_without_an_interface_the_eid_is_stable_and_locally_administered(tmp_path: Path) -> None:
    first, again, other = (vehicle_facts(section(eid=""), n, interfaces=tmp_path).eid for n in ("A", "A", "B"))
    assert first == again != other
    assert first[0] & 0x03 == 0x02


@pytest.mark.parametrize("wrong", [{"vin": "SHORT"}, {"vin": "O" * 17}, {"eid": "1234"}, {"gid": "zz" * 6}])
def test_what_cannot_be_an_identity_is_told_with_its_key(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"diagnostics.doip.{next(iter(wrong))}"):
        vehicle_facts(section(**wrong), "BENCH-1")


def test_announcements_stay_on_this_machine_unless_told_otherwise() -> None:
    assert announcement_target("127.0.0.1", "", 13400) == ("127.255.255.255", 13400)
    assert announcement_target("0.0.0.0", "", 13400) == ("127.255.255.255", 13400)
    assert announcement_target("::1", "", 13400) == ("::1", 13400)
    assert announcement_target("192.0.2.1", "255.255.255.255", 13400) == ("255.255.255.255", 13400)
    with pytest.raises(TransportError, match="no IP address"):
        announcement_target("gateway.local", "", 13400)
