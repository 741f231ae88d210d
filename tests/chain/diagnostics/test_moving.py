"""A driving car: what the built-in policy lets through both ports is exactly what an ECU hears."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chain.diagnostics.car import Car, car
from tests.chain.diagnostics.testers import by_doip, by_library

pytestmark = [pytest.mark.car, pytest.mark.slow, pytest.mark.timeout(300)]

#: One sound request of each service the motor has, and what it gets while the car drives: a positive answer, or the
#: gateway's. 0x22 is the rule for writing, 0x33 the one for secured data.
READING = {
    "10 03", "10 01", "3E 00", "22 F1 90", "22 01 01 01 02", "19 01 FF", "19 02 FF", "19 0A", "24 01 01",
    "2C 01 F3 01 01 00 01 01", "2C 03 F3 01", "01 0D", "03", "07", "09 02", "0A",
}  # fmt: skip
WRITING = {
    "10 02": 0x22, "11 01": 0x22, "14 FF FF FF": 0x22, "23 14 20 00 00 00 04": 0x22, "27 01": 0x22, "28 00 01": 0x22,
    "29 00": 0x22, "2E F1 98 46 4F 52 45 49 47 4E 45 52 21": 0x22, "2F 02 10 03 10": 0x22, "31 01 02 00": 0x22,
    "31 03 02 00": 0x22, "34 00 44 00 40 00 00 00 00 10 00": 0x22, "35 00 44 00 40 00 00 00 00 10 00": 0x22,
    "36 01 00": 0x22, "37": 0x22, "38 05 00 01 2F": 0x22, "3D 14 20 00 00 00 01 00": 0x22, "83 03": 0x22,
    "84 00 00 00 00 00 00 00": 0x33, "85 02": 0x22, "86 00 02": 0x22, "87 01 11": 0x22, "04": 0x22,
}  # fmt: skip
UNKNOWN = ("12 00", "BA 01", "8A", "3F")


@pytest.fixture(scope="module")
def driving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Car]:
    """On the motorway from the start."""
    with car(tmp_path_factory.mktemp("driving")) as made:
        made.prepare()
        made.start("motorway")
        made.simulator.wait("speed", lambda: made.simulator.do("state")["speed_km_h"] > 20, 90)
        yield made


def heard(made: Car) -> list[str]:
    """The motor's last requests."""
    requests = made.simulator.do("ecu_requests", ecu="motor")["requests"]
    return [str(entry.get("request", entry)).upper().replace(" ", "") for entry in requests]


@pytest.mark.parametrize("way", ["connector", "doip"])
def test_reading_passes_and_nothing_that_writes_reaches_the_ecu(driving: Car, way: str) -> None:
    with by_doip("motor") if way == "doip" else by_library("motor", "connector") as tester:
        for request in sorted(READING):
            assert tester.nrc(request) == 0, request
        before = len(heard(driving))
        assert tester.good("10 01")
        for request, code in WRITING.items():
            assert tester.nrc(request) == code, request
        for request in UNKNOWN:
            assert tester.nrc(request) == 0x11, request
        words = heard(driving)
    assert before > 0
    written = {request.replace(" ", "") for request in WRITING}
    assert not written & set(words), words
    refused = [record for record in driving.audit() if record.get("rule") == "no writing while moving"]
    assert refused
