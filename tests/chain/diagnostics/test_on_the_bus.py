"""What can-utils show: OBD requests to everybody, and messages that a tester takes off the bus and gives back."""

from __future__ import annotations

import subprocess

import pytest

from tests.chain.diagnostics.car import CONNECTOR, Car
from tests.chain.diagnostics.testers import by_doip, by_library, open_bus
from tests.vcan.plugin import has_vcan

pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not has_vcan(), reason="can-utils need SocketCAN"),
]

EVERYBODY, MOTOR, GEARBOX, BATTERY, BODY = "7DF", 0x7E8, 0x7E9, 0x7EC, 0x748
#: A generic scan tool's first requests, and who answers; how each first frame goes on after its first byte.
GENERIC = {
    "0100": {MOTOR: "4100", GEARBOX: "4100"},
    "010D": {MOTOR: "410D", GEARBOX: "410D"},
    "03": {MOTOR: "43", GEARBOX: "43"},
    "07": {MOTOR: "47", GEARBOX: "47"},
    "0900": {MOTOR: "4900", GEARBOX: "4900"},
    "0902": {MOTOR: "14490201", GEARBOX: "14490201"},
    "0A": {MOTOR: "4A", GEARBOX: "4A"},
    "01FF": {},
    "3E00": dict.fromkeys((MOTOR, GEARBOX, BATTERY, BODY), "7E00"),
}


def answers(interface: str, request: str, wanted: int) -> dict[int, str]:
    """The first frames of who answers what ``cansend`` sends to everybody; then a little patience for more."""
    frame = f"{EVERYBODY}#{len(request) // 2:02X}{request}".ljust(20, "0")
    found: dict[int, str] = {}
    with open_bus(interface, MOTOR, GEARBOX, BATTERY, BODY) as bus:
        subprocess.run(["cansend", interface, frame], check=True)
        while (message := bus.recv(10 if len(found) < wanted else 1)) is not None:
            if message.arbitration_id in (MOTOR, GEARBOX, BATTERY, BODY):  # others came before the filter was set
                found.setdefault(message.arbitration_id, bytes(message.data).hex().upper())
    return found


@pytest.mark.parametrize(
    "interface",
    [pytest.param("vcan0", id="powertrain", marks=pytest.mark.long), pytest.param(CONNECTOR, id="connector")],
)
def test_a_generic_scan_tool_gets_its_answers(workshop: Car, interface: str) -> None:
    """On the powertrain's bus from the two that are there, on the connector from all."""
    for ecu in ("motor", "gearbox"):
        with by_library(ecu) as tester:
            tester.good("14 FF FF FF")
    for request, expected in GENERIC.items():
        wanted = {who: text for who, text in expected.items() if interface == CONNECTOR or who in (MOTOR, GEARBOX)}
        found = answers(interface, request, len(wanted))
        assert set(found) == set(wanted), (request, found)
        for who, begin in wanted.items():
            assert found[who][2:].startswith(begin), (request, found)


def heard_by_candump(interface: str, can_id: str) -> bool:
    """Whether a message comes within two seconds."""
    shown = subprocess.run(
        ["candump", "-n", "1", "-T", "2000", f"{interface},{can_id}:7FF"], capture_output=True, text=True, check=False
    )
    return can_id in shown.stdout


def test_messages_taken_off_the_bus_through_the_gateway_are_gone_and_come_back(workshop: Car) -> None:
    with by_doip("body", 0x0EB1) as tester:
        assert heard_by_candump("vcan2", "300")
        tester.good("10 03")
        tester.good("28 03 01")
        while heard_by_candump("vcan2", "300"):  # what was in the sender's queue
            tester.good("3E 00")
            assert workshop.simulator.ecu("body")["silenced"]["normal"]
        tester.good("28 00 01")
        assert heard_by_candump("vcan2", "300")
        tester.good("10 01")
