"""What a scanner finds at an ECU is what its description declares; through the gateway, what the policy lets pass."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.chain.diagnostics.car import ECUS, Car, Simulator, declared
from tests.chain.diagnostics.plain import plain
from tests.chain.diagnostics.testers import by_doip
from tests.support import LONG

pytestmark = [pytest.mark.car, pytest.mark.slow, pytest.mark.timeout(3600 if LONG else 400)]

Nrc = Callable[[bytes], int]
NOT_THERE, NO_SUCH_SUB, TOO_LITTLE, NO_SUCH_VALUE, IN_NO_SUCH_SESSION = 0x11, 0x12, 0x13, 0x31, 0x7F
#: Services of ISO 14229-1 from 0x10 to 0x3E and from 0x83 to 0x88, and all others that are requests.
SIDS = [sid for sid in range(0x10, 0x100) if not sid & 0x40]


def around(known: Iterable[str], few: int, *, below: int = 0x10000) -> list[int]:
    """Known numbers, their neighbours, and a few others; all there are in a long run."""
    if LONG:
        return list(range(below))
    numbers = {int(number, 16) for number in known}
    near = {number + step for number in numbers for step in (-1, 0, 1)}
    drawn = random.Random(1).sample(range(below), few)
    return sorted(number for number in {*near, *drawn} if 0 <= number < below)


def scan_services(nrc: Nrc) -> set[int]:
    """As a scanner does: the identifier alone; whoever does not say 0x11 is there.

    A file request that is none is 0x13 for the gateway, before the ECU could say that it has no files: so ask soundly.
    """
    return {sid for sid in SIDS if nrc(b"\x38\x05\x00\x01/" if sid == 0x38 else bytes([sid])) != NOT_THERE}


def scan_dids(nrc: Nrc, known: Iterable[str]) -> dict[int, int]:
    """Identifiers that are there, with how they answered."""
    answers = {did: nrc(b"\x22" + did.to_bytes(2, "big")) for did in around(known, 48)}
    return {did: code for did, code in answers.items() if code != NO_SUCH_VALUE}


def scan_routines(nrc: Nrc, known: Iterable[str]) -> set[int]:
    """Routines whose results can be asked for, or that say they have none."""
    numbers = around(known, 24)
    return {number for number in numbers if nrc(b"\x31\x03" + number.to_bytes(2, "big")) != NO_SUCH_VALUE}


def scan_subfunctions(nrc: Nrc, sid: int, known: Iterable[str]) -> set[int]:
    """Sub-functions that are there, alone; those that reset or end the session are asked for elsewhere."""
    return {sub for sub in around(known, 8, below=0x80) if nrc(bytes([sid, sub])) != NO_SUCH_SUB}


def declared_dids(ecu: str, session: int) -> dict[int, int]:
    """Identifiers that can be read in a session while locked, with the answer they must give."""
    found = {}
    for number, about in declared(ecu)["dids"].items():
        read = about.get("read")
        if read is not None and session in read["sessions"]:
            found[int(number, 16)] = 0x34 if read.get("authenticated") else 0x33 if read.get("security") else 0
    return found


def declared_routines(ecu: str, session: int) -> set[int]:
    """Routines of a session."""
    known: dict[str, Any] = declared(ecu)["services"]["31"]["details"]["routines"]
    return {int(number, 16) for number, about in known.items() if session in about["sessions"]}


def check_reading(ecu: str, nrc: Nrc) -> None:
    """Services, identifiers in two sessions, routines."""
    about = declared(ecu)
    services = {int(sid, 16) for sid in about["services"] if int(sid, 16) >= 0x10}
    assert scan_services(nrc) == services
    for session in (1, 3):
        assert nrc(bytes([0x10, session])) == 0
        assert scan_dids(nrc, about["dids"]) == declared_dids(ecu, session)
    assert nrc(b"\x3e\x00") == 0
    routines = about["services"]["31"]["details"]["routines"]
    assert nrc(b"\x10\x03") == 0
    assert scan_routines(nrc, routines) == declared_routines(ecu, 3)


def check_subfunctions(ecu: str, nrc: Nrc) -> None:
    """Of all services but those that end what we scan."""
    for number, said in declared(ecu)["services"].items():
        sid = int(number, 16)
        if "subfunctions" not in said or 3 not in said["sessions"] or sid in (0x10, 0x11):
            continue
        assert nrc(b"\x10\x03") == 0
        assert scan_subfunctions(nrc, sid, said["subfunctions"]) == {int(s, 16) for s in said["subfunctions"]}, number


def check_sessions(ecu: str, nrc: Nrc, simulator: Simulator) -> None:
    """Those that can be entered from the extended one, and no others."""
    found = set()
    for session in [*range(0x08), *random.Random(2).sample(range(8, 0x80), 12), 0x7F]:
        assert nrc(b"\x10\x03") == 0
        code = nrc(bytes([0x10, session]))
        if code == 0:
            found.add(session)
        else:
            assert code == NO_SUCH_SUB
        if session == 2 and code == 0:
            assert nrc(b"\x10\x01") == 0
            simulator.wait("the application", lambda: simulator.ecu(ecu)["power"] == "on")
    assert found == {int(number, 16) for number in declared(ecu)["sessions"]}


def at_once(check: Callable[[str], None]) -> None:
    """For all ECUs, two at a time; all that is wrong."""

    def one(ecu: str) -> str:
        try:
            check(ecu)
        except Exception as error:  # the others count as well
            return f"{ecu}: {''.join(traceback.format_exception(error)[-4:])}"
        return ""

    with ThreadPoolExecutor(2) as pool:
        problems = [problem for problem in pool.map(one, ECUS) if problem]
    assert not problems, "\n".join(problems)


def test_on_its_bus_each_ecu_has_what_it_declares_and_nothing_else(workshop: Car) -> None:
    def check(ecu: str) -> None:
        with plain(ecu) as tester:
            check_reading(ecu, tester.nrc)
            check_subfunctions(ecu, tester.nrc)
            check_sessions(ecu, tester.nrc, workshop.simulator)
            workshop.simulator.wait("the ECU", lambda: workshop.simulator.ecu(ecu)["power"] == "on")

    at_once(check)


def test_through_the_connector_a_standing_car_shows_the_same(workshop: Car) -> None:
    def check(ecu: str) -> None:
        with plain(ecu, "connector") as tester:
            check_reading(ecu, tester.nrc)
            assert tester.nrc(b"\x10\x01") == 0

    at_once(check)


def test_by_doip_a_standing_car_shows_the_same(workshop: Car) -> None:
    def check(ecu: str) -> None:
        with by_doip(ecu) as tester:
            check_reading(ecu, tester.nrc)
            assert tester.nrc(b"\x10\x01") == 0

    at_once(check)
