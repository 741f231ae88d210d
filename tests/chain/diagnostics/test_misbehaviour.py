"""Testers that vanish or fight, ECUs that hang, power that goes: a defined answer, and an ECU usable after it."""

from __future__ import annotations

import contextlib
import socket

import pytest
from udsoncan import MemoryLocation

from tests.chain.diagnostics.car import DOIP_PORT, Car
from tests.chain.diagnostics.plain import SilenceError, plain
from tests.chain.diagnostics.testers import Foreigner, by_doip, by_library, reads
from tests.chain.diagnostics.tour import APPLICATION, enter_programming, image_for, program, reset, wait_for_boot

pytestmark = [pytest.mark.car, pytest.mark.slow, pytest.mark.timeout(300)]

LOCKS_GO_S = 30.0  # six seconds of silence in a slow guest


def begin_download(tester: Foreigner, image: bytes) -> int:
    """Erase and the first block; the size of a block."""
    enter_programming(tester)
    size = len(image).to_bytes(4, "big")
    tester.client.start_routine(0xFF00, b"\x44" + APPLICATION.to_bytes(4, "big") + size)
    place = MemoryLocation(APPLICATION, len(image), address_format=32, memorysize_format=32)
    block: int = tester.client.request_download(place).service_data.max_length - 2
    tester.client.transfer_data(1, image[: block // 2])
    return block


def new_flash_works(made: Car, ecu: str, version: str) -> None:
    """The ECU is usable: it takes software, and runs it."""
    with by_doip(ecu, 0x0E77) as tester:
        made.simulator.wait("the locks to go", lambda: tester.nrc("10 03") == 0, LOCKS_GO_S)
        assert program(tester, image_for(ecu, version)) == 0
        reset(tester, made.simulator)
        assert tester.good("22 F1 89")[3:].rstrip(b"\x00 ").decode() == version
    state = made.simulator.do("flash", ecu=ecu)
    assert not made.simulator.ecu(ecu)["boot_loader"], state


def test_a_tester_cut_off_in_a_download_leaves_an_ecu_that_takes_another(workshop: Car) -> None:
    image = image_for("brakes", "7.1", 9000)
    with by_doip("brakes", 0x0E33) as tester:
        begin_download(tester, image)
        doip = tester.client.conn._connection
        doip._tcp_sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        doip._tcp_sock.close()  # the cable
    new_flash_works(workshop, "brakes", "7.2")


def test_a_tester_silent_on_the_connector_loses_the_ecu_to_another(workshop: Car) -> None:
    with by_library("body", "connector") as tester:
        begin_download(tester, image_for("body", "7.1", 9000))
    with by_doip("body", 0x0E34) as other:
        assert other.nrc("22 F1 90") == 0x21  # somebody downloads
    new_flash_works(workshop, "body", "7.2")


def test_two_testers_at_once_one_writes_and_both_read(workshop: Car) -> None:
    with by_doip("telematics", 0x0E41) as first, by_doip("telematics", 0x0E42) as second:
        assert first.good("10 03")
        assert second.nrc("10 03") == 0x22
        assert second.nrc("2E F1 98" + b"SECOND    ".hex()) == 0x22
        assert second.good("22 F1 90")[3:] == first.good("22 F1 90")[3:]
        assert first.good("2E F1 98" + b"FIRST     ".hex())
        assert first.good("10 01")
        assert second.good("10 03")
        assert second.good("22 F1 98")[3:] == b"FIRST     "
        assert second.good("10 01")


@pytest.mark.long  # tests/tester/test_flash_process.py has it without the gateway, tests/chain/updates with it
def test_power_lost_while_programming_is_mended_by_programming_again(workshop: Car) -> None:
    simulator = workshop.simulator
    with by_doip("gearbox", 0x0E51) as tester:
        begin_download(tester, image_for("gearbox", "7.1", 9000))
        simulator.do("ecu_power", ecu="gearbox", on=False)
        with contextlib.suppress(Exception):
            tester.ask("3E 00")
        simulator.do("ecu_power", ecu="gearbox", on=True)
        wait_for_boot(tester, simulator)
        assert simulator.ecu("gearbox")["boot_loader"]
    new_flash_works(workshop, "gearbox", "7.2")


@pytest.mark.long  # the same at the ECU itself is in tests/simulator/ecu, by the updater in tests/gateway/update
def test_an_image_for_another_ecu_is_refused_and_the_right_one_taken(workshop: Car) -> None:
    with by_doip("motor", 0x0E61) as tester:
        workshop.simulator.wait("the locks to go", lambda: tester.nrc("10 03") == 0, LOCKS_GO_S)
        assert program(tester, image_for("battery", "7.1")) == 2
        assert program(tester, image_for("motor", "7.1")[:-1] + b"\x00", enter=False) == 5
        tester.good("11 01")
        wait_for_boot(tester, workshop.simulator)
        assert workshop.simulator.ecu("motor")["boot_loader"]
    new_flash_works(workshop, "motor", "7.2")


def test_an_ecu_pending_for_ever_is_given_up_and_others_are_served(workshop: Car) -> None:
    workshop.simulator.quirks("battery", pending_for_ever=[0x22])
    try:
        with by_doip("battery", 0x0E71) as stuck, by_doip("motor", 0x0E72) as other:
            stuck.tell("22 F1 90")
            heard = stuck.hears(20)
            assert heard == b"\x7f\x22\x78"
            assert other.good("22 F1 90")
    finally:
        workshop.simulator.quirks("battery", pending_for_ever=[])
        workshop.simulator.do("ecu_reset", ecu="battery")
    with by_doip("battery", 0x0E73) as tester:
        workshop.simulator.wait("the ECU", lambda: reads(tester), 60)


def test_a_silent_ecu_is_silence_for_its_tester_and_nothing_for_others(workshop: Car) -> None:
    workshop.simulator.quirks("brakes", mute=[0x22])
    try:
        with plain("brakes", "connector") as tester, by_doip("motor", 0x0E81) as other:
            with pytest.raises(SilenceError):
                tester.ask(b"\x22\xf1\x90", wait_s=4)
            assert other.good("22 F1 90")
            assert tester.nrc(b"\x3e\x00") == 0
    finally:
        workshop.simulator.quirks("brakes", mute=[])
    with plain("brakes", "connector") as tester:
        assert tester.ask(b"\x22\xf1\x86")[:1] == b"\x62"


def test_garbage_to_doip_hurts_nobody_else(workshop: Car) -> None:
    with by_doip("motor", 0x0EA1) as tester:
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", DOIP_PORT), timeout=10) as garbage:
                garbage.sendall(b"\xff\x00\x80\x01\xff\xff\xff\xff")
        assert tester.good("22 F1 90")
