"""Faults of a boot loader on purpose: each does what it says, once, and nothing else."""

from __future__ import annotations

import hashlib

import pytest

from simulator.ecu.control import ECU_ACTIONS
from simulator.ecu.description import parse_description
from simulator.ecu.flash_faults import FlashFaults
from simulator.ecu.flash_image import make_image
from simulator.ecu.flash_unit import flash_unit
from tests.simulator.ecu.test_flash import BASE, TOML, Flasher

IMAGE = make_image("small", "02.00.00", bytes(range(250)), address=BASE)


def ready() -> Flasher:
    """Erased, and a download announced."""
    flasher = Flasher().programming()
    assert flasher.erase().startswith("71 01 FF 00")
    assert flasher.one(b"\x34\x00\x44" + BASE.to_bytes(4, "big") + len(IMAGE).to_bytes(4, "big")).startswith("74")
    return flasher


def faults_of(flasher: Flasher) -> FlashFaults:
    return flash_unit(flasher.context).faults


def send(flasher: Flasher) -> list[str]:
    """All blocks of 128 bytes, each asked once."""
    blocks = [IMAGE[at : at + 128] for at in range(0, len(IMAGE), 128)]
    return [flasher.one(bytes([0x36, number]) + block) for number, block in enumerate(blocks, 1)]


def test_no_fault_unless_asked() -> None:
    flasher = ready()
    assert send(flasher) == [f"76 {number:02X}" for number in range(1, 5)]
    assert flasher.one("37").startswith("77")
    assert flasher.one("31 01 02 02").endswith("00")


def test_a_block_is_rejected_once() -> None:
    flasher = ready()
    faults_of(flasher).reject_block = 2
    assert send(flasher)[:2] == ["76 01", "7F 36 72"]
    assert flasher.one(b"\x36\x02" + IMAGE[128:256]) == "76 02"


def test_a_block_that_is_written_wrong_is_found_by_the_check() -> None:
    flasher = ready()
    faults_of(flasher).corrupt_block = 3
    assert send(flasher)[-1] == "76 04"
    assert flasher.one("37").startswith("77")
    assert flasher.one("31 01 02 02").endswith("05")


def test_a_lost_answer_is_given_again() -> None:
    flasher = ready()
    faults_of(flasher).lose_answer_block = 1
    assert flasher.one(b"\x36\x01" + IMAGE[:128]) == ""
    assert flasher.one(b"\x36\x01" + IMAGE[:128]) == "76 01"


def test_power_that_fails_in_a_block_or_while_erasing() -> None:
    flasher = ready()
    faults_of(flasher).power_loss_block = 2
    assert send(flasher)[:2] == ["76 01", ""]
    flasher.advance(1.5)
    assert flasher.context.boot_mode
    assert flasher.one(b"\x36\x02" + IMAGE[128:256]) == "7F 36 7F"
    flasher.programming()
    faults_of(flasher).power_loss_at_erase = True
    assert flasher.erase() == ""
    flasher.advance(1.5)
    assert flasher.programming().erase().startswith("71 01 FF 00")


def test_results_at_will_and_software_that_does_not_start() -> None:
    flasher = ready()
    faults_of(flasher).check_result = 6
    send(flasher)
    flasher.one("37")
    assert flasher.one("31 01 02 02").endswith("06")
    faults_of(flasher).check_result = 0
    assert flasher.one("31 01 02 02").endswith("00")
    faults_of(flasher).no_start = True
    assert flasher.one("11 01").startswith("51")
    flasher.advance(1.5)
    assert flasher.context.boot_mode
    faults_of(flasher).no_start = False
    flasher.power_cycle()
    assert not flasher.context.boot_mode


def test_the_control_socket_sets_them_and_says_what_it_does_not_know() -> None:
    flasher = Flasher()
    told = ECU_ACTIONS["flash_fault"](flasher.context, {"set": {"reject_erase": True, "hardware": "OTHER"}}, 0.0)
    assert told["faults"]["reject_erase"] is True
    assert flash_unit(flasher.context).store.hardware_id == "OTHER"
    ECU_ACTIONS["flash_fault"](flasher.context, {"set": {"hardware": ""}}, 0.0)
    assert flash_unit(flasher.context).store.hardware_id == "SMALL-HW-1"
    assert flasher.programming().erase() == "7F 31 72"
    for wrong in ({"set": {"no_such": 1}}, {"set": {"reject_block": -1}}, {"set": 3}):
        with pytest.raises(ValueError, match=r"."):
            ECU_ACTIONS["flash_fault"](flasher.context, wrong, 0.0)


def test_a_digest_follows_a_new_application() -> None:
    toml = TOML.replace("routines = [", "routines = [", 1).replace(
        "dids = [", 'dids = [\n  { id = 0xF1F0, name = "digest", fields = [{ bytes = 32, encoding = "hex" }] },', 1
    )
    flasher = Flasher(parse_description(toml + "digest_dids = [0xF1F0]\n", "test"))
    flasher.programming().erase()
    flasher.one(b"\x34\x00\x44" + BASE.to_bytes(4, "big") + len(IMAGE).to_bytes(4, "big"))
    send(flasher)
    flasher.one("37")
    flasher.one("31 01 02 02")
    assert flasher.context.read_did(0xF1F0) == hashlib.sha256(IMAGE).digest()
