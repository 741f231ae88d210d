"""An ECU answers what `outrider sim describe` says, no more and no less: everything there could be is asked for."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from simulator.cli_ecus import describe_command
from simulator.ecu.describe import as_text, describe
from simulator.ecu.description import ecu_names, load_description
from simulator.ecu.host import chosen_ecus
from tests.simulator.ecu.support import Bench, unlock
from tests.support import LONG

ECUS = ecu_names()
NOT_THERE, NOT_IN_SESSION = 0x11, 0x7F


def numbers(*known: str) -> list[int]:
    """All two-byte numbers in a long run; otherwise the ranges in use, what is known, and every 61st."""
    if LONG:
        return list(range(0x10000))
    some = {*range(0x0400), *range(0xF100, 0xF400), 0xFF00, 0xFF01, 0xFFFF, *range(0, 0x10000, 61)}
    return sorted(some | {int(number, 16) for number in known})


def in_session(ecu: str, session: int) -> Bench:
    """An ECU in a session."""
    bench = Bench(ecu)
    if session != 1:
        bench.one("10 03")
    if session not in (1, 3):
        assert bench.one(bytes([0x10, session])).startswith("50")
    return bench


def nrc(answer: str) -> int:
    """Of a negative answer; 0 for a positive one or none."""
    return int(answer[6:8], 16) if answer.startswith("7F") else 0


def fresh(bench: Bench, session: int) -> None:
    """Back in the session, whatever the last request did."""
    bench.advance(8.0)
    while bench.server.state()["busy_with"] or not bench.server.is_running:
        bench.advance(1.0)
    if bench.context.session != session:
        bench.one("10 03")
        if session != 3:
            bench.one(bytes([0x10, session]))
    if session == 1:
        bench.one("10 01")
    assert bench.context.session == session


def sessions(ecu: str) -> list[int]:
    """All sessions of an ECU."""
    return sorted(load_description(ecu).session_ids)


@pytest.mark.parametrize("ecu", ECUS)
def test_services_by_session(ecu: str) -> None:
    services = describe(load_description(ecu))["services"]
    for session in sessions(ecu):
        bench = in_session(ecu, session)
        for sid in range(256):
            answer = bench.one(bytes([sid]) + b"\x7a" * 3)
            if sid & 0x40:
                assert answer == "", f"{sid:02X}"
                continue
            said = services.get(f"{sid:02X}")
            if sid < 0x10:  # OBD has its own rule: silence, or 0x11 where the ECU has no OBD at all
                assert said is not None or nrc(answer) == NOT_THERE, f"{sid:02X}"
                continue
            there = nrc(answer) not in (NOT_THERE, NOT_IN_SESSION)
            if said is None or not bench.context.boot_mode:
                assert (nrc(answer) == NOT_THERE) == (said is None), f"{sid:02X} {answer}"
            assert there == (said is not None and session in said["sessions"]), f"{sid:02X} in {session}: {answer}"
            if bench.context.session != session or not bench.server.is_running:
                fresh(bench, session)


@pytest.mark.parametrize("ecu", ECUS)
def test_subfunctions_by_session(ecu: str) -> None:
    services = describe(load_description(ecu))["services"]
    for session in sessions(ecu):
        bench = in_session(ecu, session)
        for number, said in services.items():
            sid = int(number, 16)
            if sid < 0x10 or "subfunctions" not in said or session not in said["sessions"]:
                continue
            for sub in range(0x80):
                answer = bench.one(bytes([sid, sub]))
                entry = said["subfunctions"].get(f"{sub:02X}")
                what = f"{sid:02X} {sub:02X} in {session}: {answer}"
                assert (nrc(answer) == 0x12) == (entry is None), what
                if entry is not None:
                    assert (nrc(answer) == 0x7E) == (session not in entry["sessions"]), what
                if bench.context.session != session or not bench.server.is_running:
                    fresh(bench, session)


def readable(said: dict[str, Any], session: int, unlocked: int) -> str:
    """What reading a DID gives: there, locked or absent."""
    access = said.get("read")
    if access is None or session not in access["sessions"]:
        return "absent"
    if access.get("security", unlocked) != unlocked or access.get("authenticated"):
        return "locked"
    return "there"


@pytest.mark.parametrize("ecu", ECUS)
def test_every_identifier_is_read(ecu: str) -> None:
    dids = describe(load_description(ecu))["dids"]
    for session in (1, 3):
        bench = in_session(ecu, session)
        found = {}
        for number in numbers(*dids):
            answer = bench.server.receive(b"\x22" + number.to_bytes(2, "big"), functional=False, now_s=bench.now_s)
            pdu = answer[-1].pdu
            if pdu[0] == 0x62:
                found[f"{number:04X}"] = "there"
                assert len(pdu) == 3 + dids[f"{number:04X}"]["bytes"]
            elif pdu[2] in (0x33, 0x34):
                found[f"{number:04X}"] = "locked"
            else:
                assert pdu[2] == 0x31
        said = {number: readable(about, session, 0) for number, about in dids.items()}
        assert found == {number: how for number, how in said.items() if how != "absent"}


@pytest.mark.parametrize("ecu", ECUS)
@pytest.mark.parametrize(("sid", "key"), [(0x2E, "write"), (0x2F, "io")])
def test_every_identifier_is_written_and_controlled(ecu: str, sid: int, key: str) -> None:
    """A value that is too short: 0x31 for what is not there, 0x13 for what is."""
    dids = describe(load_description(ecu))["dids"]
    bench = in_session(ecu, 3)
    tail = b"\x00" if sid == 0x2E else b"\x03"
    found = set()
    for number in numbers(*dids):
        request = bytes([sid]) + number.to_bytes(2, "big") + tail
        pdu = bench.server.receive(request, functional=False, now_s=bench.now_s)[-1].pdu
        if pdu[0] != 0x7F or pdu[2] != 0x31:
            found.add(f"{number:04X}")
    assert found == {n for n, about in dids.items() if 3 in about.get(key, {"sessions": []})["sessions"]} - (
        # A value of one byte was long enough: refused for what it says.
        {n for n, about in dids.items() if about["bytes"] == 1 and sid == 0x2E} - found
    )


@pytest.mark.parametrize("ecu", ECUS)
def test_every_routine(ecu: str) -> None:
    routines = describe(load_description(ecu))["services"]["31"]["details"]["routines"]
    for session in sessions(ecu):
        bench = in_session(ecu, session)
        found = set()
        for number in numbers(*routines):
            request = b"\x31\x7f" + number.to_bytes(2, "big")
            pdu = bench.server.receive(request, functional=False, now_s=bench.now_s)[-1].pdu
            assert pdu[0] == 0x7F
            if pdu[2] != 0x31:
                assert pdu[2] == 0x12
                found.add(f"{number:04X}")
        assert found == {n for n, about in routines.items() if session in about["sessions"]}
        for number, about in routines.items():
            if session in about["sessions"]:
                taken = [s for s in range(0x80) if nrc(bench.one(bytes([0x31, s]) + bytes.fromhex(number))) != 0x12]
                assert taken == about["subfunctions"]
                fresh(bench, session)


@pytest.mark.parametrize("ecu", ECUS)
def test_every_security_level_opens_with_its_algorithm(ecu: str) -> None:
    levels = describe(load_description(ecu))["services"]["27"]["details"]["levels"]
    for number, about in levels.items():
        bench = in_session(ecu, about["sessions"][0])
        unlock(bench, int(number, 16))
        assert bench.context.unlocked == int(number, 16)


@pytest.mark.parametrize("ecu", ECUS)
def test_boot_loader_answers_only_its_own(ecu: str) -> None:
    said = describe(load_description(ecu))["boot_loader"]
    bench = in_session(ecu, 3)
    bench.context.boot_mode = True
    services = [sid for sid in range(0x10, 256) if not sid & 0x40 and nrc(bench.one(bytes([sid]))) != NOT_THERE]
    assert services == sorted(int(sid, 16) for sid in said["services"])
    found = [d for d in numbers(*said["dids"]) if bench.server.receive(
        b"\x22" + d.to_bytes(2, "big"), functional=False, now_s=bench.now_s)[-1].pdu[0] == 0x62]  # fmt: skip
    assert found == sorted(int(did, 16) for did in said["dids"])


@pytest.mark.parametrize("ecu", ECUS)
def test_description_as_json_and_text(ecu: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert describe_command(argparse.Namespace(ecu=ecu, json=True)) == 0
    (one,) = json.loads(capsys.readouterr().out)["ecus"]
    assert one == json.loads(json.dumps(describe(load_description(ecu))))
    text = as_text(one)
    assert one["title"] in text
    assert all(number in text for number in one["dids"])


def test_unknown_ecu(capsys: pytest.CaptureFixture[str]) -> None:
    assert describe_command(argparse.Namespace(ecu="toaster", json=False)) != 0
    assert "no ECU 'toaster'; there are battery, body" in capsys.readouterr().err


def test_choosing_ecus() -> None:
    assert chosen_ecus("all") == ECUS
    assert chosen_ecus("none") == []
    assert chosen_ecus("motor, body") == ["motor", "body"]
    with pytest.raises(ValueError, match="twice"):
        chosen_ecus("motor,motor")
