"""Programming an ECU: 34 to 37, the routines around them, the boot loader, images that must not run."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from simulator.ecu.description import DescriptionError, EcuDescription, load_description, parse_description
from simulator.ecu.flash_image import HEADER_BYTES, ImageError, make_image, parse_header
from simulator.ecu.flash_store import Verdict
from simulator.ecu.keys import ALGORITHMS
from tests.simulator.ecu.support import Bench

SPEED, VOLTAGE = "powertrain.VehicleMotion.VehicleSpeed", "body.LowVoltage.BatteryVoltage"
TOML = """
name = "small"
title = "Small"
node = "VCU"
logical_address = 1
transport = { bus = "powertrain", request_id = 0x7E0, response_id = 0x7E8 }
timing = { boot_s = 1.0 }
sessions = [
  { id = 1, name = "default" }, { id = 3, name = "extended" },
  { id = 2, name = "programming", reached_from = [2, 3], standstill = true },
]
services = [
  { sid = 0x10 }, { sid = 0x11 }, { sid = 0x19 }, { sid = 0x22 }, { sid = 0x31 }, { sid = 0x3E },
  { sid = 0x34, access = { sessions = [2] } }, { sid = 0x35, access = { sessions = [2] } },
  { sid = 0x36, access = { sessions = [2, 3] } }, { sid = 0x37, access = { sessions = [2, 3] } },
  { sid = 0x38, access = { sessions = [3] } },
]
dids = [
  { id = 0xF180, name = "boot", fields = [{ bytes = 4, encoding = "ascii", value = "BL01" }], in_boot = true },
  { id = 0xF188, name = "part", fields = [{ bytes = 10, encoding = "ascii", value = "FACTORY-SW" }] },
  { id = 0xF189, name = "version", fields = [{ bytes = 8, encoding = "ascii", value = "01.00.00" }] },
]
routines = [
  { id = 0xFF00, name = "erase", effect = "erase", option_bytes = 9, in_boot = true, access = { sessions = [2] } },
  { id = 0x0202, name = "check", effect = "check_memory", has_results = true, in_boot = true, access.sessions = [2] },
  { id = 0xFF01, name = "fit", effect = "dependencies", in_boot = true, access = { sessions = [2] } },
  { id = 0x0203, name = "ready", effect = "preconditions" },
]
[memory]
regions = [
  { name = "boot", start = 0, bytes = 4096, read = { sessions = [3] } },
  { name = "dataset", start = 0x200000, bytes = 1024 },
  { name = "application", start = 0x400000, bytes = 8192 },
]
[flash]
sector_bytes = 512
max_block_bytes = 130
erase_ms_per_sector = 20
file_bytes = 1000
files = 3
"""
BASE = 0x400000


def small() -> EcuDescription:
    return parse_description(TOML, "test")


class Flasher(Bench):
    """A small ECU and the steps of a tester that programs it."""

    def __init__(self, description: EcuDescription | None = None, folder: Path | None = None) -> None:
        super().__init__(description or small(), folder=folder)

    def programming(self) -> Flasher:
        """Into the boot loader's programming session."""
        assert self.one("10 03").startswith("50 03")
        assert self.one("10 02").startswith("50 02")
        return self

    def erase(self, address: int = BASE, size: int = 8192) -> str:
        return self.one("31 01 FF 00 44" + f"{address:08X}{size:08X}")

    def request(self, address: int, size: int, sid: int = 0x34, data_format: int = 0) -> str:
        return self.one(bytes([sid, data_format, 0x44]) + address.to_bytes(4, "big") + size.to_bytes(4, "big"))

    def blocks(self, content: bytes, size: int = 128) -> None:
        for i, at in enumerate(range(0, len(content), size)):
            counter = (i + 1) & 0xFF
            assert self.one(bytes([0x36, counter]) + content[at : at + size]) == f"76 {counter:02X}"

    def program(self, image: bytes, address: int = BASE) -> None:
        assert self.request(address, len(image)) == "74 20 00 82"
        self.blocks(image)
        assert self.one("37") == f"77 {zlib.crc32(image).to_bytes(4, 'big').hex(' ').upper()}"

    def flash(self, image: bytes, address: int = BASE, region_bytes: int = 8192) -> str:
        """Erase, program, check; the check's answer."""
        assert self.erase(address, region_bytes) == "71 01 FF 00 00"
        self.program(image, address)
        return self.one("31 01 02 02")

    def restart(self) -> None:
        assert self.one("11 01") == "51 01"
        self.advance(1.2)

    def version(self) -> str:
        """Software version by 22; "" from a boot loader."""
        answer = bytes.fromhex(self.one("22 F1 89"))
        return answer[3:].decode().rstrip() if answer[0] == 0x62 else ""


def image(payload: bytes = b"application", version: str = "02.00.00", **changes: object) -> bytes:
    values: dict[str, object] = {"ecu": "small", "version": version, "payload": payload, **changes}
    return make_image(**values)  # type: ignore[arg-type]  # changed one by one in the tests


@pytest.fixture
def ecu() -> Flasher:
    return Flasher().programming()


# ---- the way through


def test_a_whole_flash_changes_the_software_version(ecu: Flasher) -> None:
    assert ecu.version() == ""
    content = image(bytes(range(256)) * 20, part="NEW-SW")
    assert ecu.flash(content) == "71 01 02 02 00 00"
    assert ecu.one("31 01 FF 01") == "71 01 FF 01 00 00"
    ecu.restart()
    assert not ecu.context.boot_mode
    assert ecu.version() == "02.00.00"
    assert ecu.one("22 F1 88") == "62 F1 88 " + b"NEW-SW    ".hex(" ").upper()
    ecu.power_cycle()
    assert ecu.version() == "02.00.00"


def test_a_compressed_download(ecu: Flasher) -> None:
    content = image(b"0123456789" * 500)
    packed = zlib.compress(content)
    assert ecu.erase() == "71 01 FF 00 00"
    assert ecu.request(BASE, len(content), data_format=0x10) == "74 20 00 82"
    ecu.blocks(packed)
    assert ecu.one(b"\x37" + zlib.crc32(content).to_bytes(4, "big")).startswith("77")
    assert ecu.one("31 01 02 02") == "71 01 02 02 00 00"


def test_what_was_programmed_can_be_uploaded(ecu: Flasher) -> None:
    content = image(b"x" * 400)
    ecu.flash(content)
    assert ecu.request(BASE, len(content), sid=0x35) == "75 20 00 82"
    read = b""
    counter = 1
    while len(read) < len(content):
        answer = bytes.fromhex(ecu.one(bytes([0x36, counter])))
        assert answer[:2] == bytes([0x76, counter])
        assert bytes.fromhex(ecu.one(bytes([0x36, counter]))) == answer  # repeated
        read += answer[2:]
        counter += 1
    assert read == content
    assert ecu.one(bytes([0x36, counter])) == "7F 36 24"
    assert ecu.one("37") == "77 " + zlib.crc32(content).to_bytes(4, "big").hex(" ").upper()


def test_an_upload_is_not_over_before_all_was_read(ecu: Flasher) -> None:
    ecu.request(BASE, 300, sid=0x35)
    ecu.one("36 01")
    assert ecu.one("37") == "7F 37 24"
    assert ecu.one("36 02 00") == "7F 36 13"


def test_erasing_answers_pending_while_it_lasts(ecu: Flasher) -> None:
    answers = ecu.ask("31 01 FF 00 44 00 40 00 00 00 00 20 00")
    assert answers == []
    assert ecu.advance(0.03) == ["7F 31 78"]
    assert ecu.advance(0.5) == ["71 01 FF 00 00"]


# ---- 36: counters and amounts


def _ready(ecu: Flasher, size: int = 400) -> None:
    ecu.erase()
    ecu.request(BASE, size)


def test_the_counter_wraps_from_ff_to_00(ecu: Flasher) -> None:
    ecu.erase()
    content = bytes(i % 251 for i in range(600))
    assert ecu.request(BASE, len(content)) == "74 20 00 82"
    ecu.blocks(content, size=2)  # 300 blocks
    assert ecu.one("37").startswith("77")
    assert ecu.context.memory.read(BASE, 600) == content


def test_a_repeated_block_is_answered_but_not_written_again(ecu: Flasher) -> None:
    _ready(ecu, 4)
    assert ecu.one("36 01 AA BB") == "76 01"
    assert ecu.one("36 01 AA BB") == "76 01"
    assert ecu.one("36 01 11 22") == "76 01"
    assert ecu.one("36 02 CC DD") == "76 02"
    assert ecu.one("36 02 CC DD") == "76 02"
    assert ecu.one("37").startswith("77")
    assert ecu.context.memory.read(BASE, 5) == b"\xaa\xbb\xcc\xdd\xff"


@pytest.mark.parametrize("counter", [0, 2, 5, 0xFF])
def test_a_wrong_first_counter(ecu: Flasher, counter: int) -> None:
    _ready(ecu)
    assert ecu.one(bytes([0x36, counter, 1])) == "7F 36 73"
    assert ecu.one("36 01 00") == "76 01"


def test_a_wrong_later_counter_leaves_the_transfer_as_it_was(ecu: Flasher) -> None:
    _ready(ecu, 3)
    for counter in (1, 2):
        ecu.one(bytes([0x36, counter, 0x55]))
    assert ecu.one("36 04 55") == "7F 36 73"
    assert ecu.one("36 00 55") == "7F 36 73"
    assert ecu.one("36 03 55") == "76 03"


def test_more_data_than_announced_is_suspended(ecu: Flasher) -> None:
    _ready(ecu, 4)
    assert ecu.one("36 01 AA BB") == "76 01"
    assert ecu.one("36 02 CC DD EE") == "7F 36 71"
    assert ecu.one("36 02 CC DD") == "76 02"
    assert ecu.one("36 03 EE") == "7F 36 24"


def test_exit_before_all_is_there_and_blocks_without_a_request(ecu: Flasher) -> None:
    assert ecu.one("36 01 AA") == "7F 36 24"
    assert ecu.one("37") == "7F 37 24"
    _ready(ecu, 4)
    ecu.one("36 01 AA BB")
    assert ecu.one("37") == "7F 37 24"
    ecu.one("36 02 CC DD")
    assert ecu.one("37").startswith("77")
    assert ecu.one("37") == "7F 37 24"
    assert ecu.one("36 03 00") == "7F 36 24"


def test_blocks_longer_than_allowed_or_empty(ecu: Flasher) -> None:
    _ready(ecu)
    assert ecu.one(b"\x36\x01" + bytes(129)) == "7F 36 13"
    assert ecu.one("36 01") == "7F 36 13"
    assert ecu.one("36") == "7F 36 13"
    assert ecu.one(b"\x36\x01" + bytes(128)) == "76 01"


def test_exit_with_a_checksum(ecu: Flasher) -> None:
    _ready(ecu, 3)
    ecu.one(b"\x36\x01abc")
    assert ecu.one("37 00") == "7F 37 13"
    assert ecu.one("37 00 00 00 00") == "7F 37 72"
    assert ecu.one(b"\x37" + zlib.crc32(b"abc").to_bytes(4, "big")).startswith("77")


def test_compressed_data_that_is_none_or_too_much(ecu: Flasher) -> None:
    ecu.erase()
    ecu.request(BASE, 100, data_format=0x10)
    assert ecu.one("36 01 FF FF FF FF") == "7F 36 72"
    bomb = zlib.compress(bytes(100_000))
    assert ecu.one(b"\x36\x01" + bomb[:128]) == "7F 36 71"
    good = zlib.compress(bytes(100))
    assert ecu.one(b"\x36\x01" + good[:5]) == "76 01"
    assert ecu.one("37") == "7F 37 24"
    assert ecu.one(b"\x36\x02" + good[5:]) == "76 02"
    assert ecu.one("37").startswith("77")


# ---- 34 and erase: what is refused


@pytest.mark.parametrize(
    ("request_", "nrc"),
    [
        ("34 00 44 00 40 00 00 00 00", "13"), ("34 00 44 00 40 00 00 00 00 00 10 00", "13"), ("34 00 44", "13"),
        ("34", "13"), ("34 20 44 00 40 00 00 00 00 00 10", "31"), ("34 01 44 00 40 00 00 00 00 00 10", "31"),
        ("34 00 55 00 00 40 00 00 00 00 00 00 10", "31"), ("34 00 00 00 00", "31"),
        ("34 00 44 00 40 00 00 00 00 00 00", "31"), ("34 00 44 00 00 00 00 00 00 00 10", "31"),
        ("34 00 44 00 40 00 00 00 00 20 01", "31"), ("34 00 44 00 41 00 00 00 00 00 10", "31"),
        ("34 00 44 FF FF FF FF FF FF FF FF", "31"),
    ],
)  # fmt: skip
def test_refused_downloads(ecu: Flasher, request_: str, nrc: str) -> None:
    assert ecu.one(request_) == f"7F 34 {nrc}"
    assert ecu.one("36 01 00") == "7F 36 24"


def test_other_address_formats_that_are_accepted() -> None:
    formats = "[memory]\naddress_bytes = [3, 4]\nsize_bytes = [1, 2]"
    ecu = Flasher(parse_description(TOML.replace("[memory]", formats), "test")).programming()
    assert ecu.one("34 00 44 00 40 00 00 00 00 00 10") == "7F 34 31"
    assert ecu.one("34 00 23 40 00 00 00 10") == "74 20 00 82"


def test_memory_that_is_not_erased_is_not_accepted(ecu: Flasher) -> None:
    ecu.flash(image())
    assert ecu.request(BASE, 100) == "7F 34 70"
    assert ecu.request(BASE + 4096, 100) == "74 20 00 82"


def test_one_transfer_at_a_time(ecu: Flasher) -> None:
    _ready(ecu)
    assert ecu.request(BASE, 100) == "7F 34 22"
    assert ecu.request(BASE, 100, sid=0x35) == "7F 35 22"
    assert ecu.erase() == "7F 31 24"
    assert ecu.one("31 01 02 02") == "7F 31 24"


@pytest.mark.parametrize(
    "option", ["43 00 40 00 00 00 00 20 00", "44 00 00 00 00 00 00 10 00", "44 00 40 00 00 00 00 20 01"]
)
def test_refused_erasing(ecu: Flasher, option: str) -> None:
    assert ecu.one(f"31 01 FF 00 {option}") == "7F 31 31"


def test_erase_needs_its_whole_option(ecu: Flasher) -> None:
    assert ecu.one("31 01 FF 00") == "7F 31 13"
    assert ecu.one("31 01 FF 00 44 00 40 00 00 00 00 20 00 00") == "7F 31 13"


@pytest.mark.parametrize(("volts", "nrc"), [(9.0, "93"), (16.0, "92")])
def test_a_bad_supply_stops_programming_without_harm(ecu: Flasher, volts: float, nrc: str) -> None:
    content = image(b"p" * 300)
    _ready(ecu, len(content))
    ecu.blocks(content[:128])
    ecu.vehicle.values[VOLTAGE] = volts
    assert ecu.one(b"\x36\x02" + content[128:256]) == f"7F 36 {nrc}"
    assert ecu.erase(0x200000, 512) == "7F 31 24"
    ecu.vehicle.values[VOLTAGE] = 12.5
    assert ecu.one(b"\x36\x02" + content[128:256]) == "76 02"


def test_programming_needs_its_key_and_session() -> None:
    ecu = Bench("motor")
    for request in ("34 00 44 00 40 00 00 00 00 10 00", "35 00 44 00 40 00 00 00 00 10 00"):
        assert ecu.one(request) == f"7F {request[:2]} 7F"
    assert ecu.one("36 01 00") == "7F 36 7F"
    assert ecu.one("31 01 FF 00 44 00 40 00 00 00 00 10 00") == "7F 31 31"
    ecu.one("10 03")
    ecu.one("10 02")
    assert ecu.one("34 00 44 00 40 00 00 00 00 10 00") == "7F 34 33"
    assert ecu.one("31 01 FF 00 44 00 40 00 00 00 00 10 00") == "7F 31 33"
    level = next(level for level in load_description("motor").security if level.level == 0x11)
    seed = bytes.fromhex(ecu.one("27 11"))[2:]
    assert ecu.one(b"\x27\x12" + ALGORITHMS[level.algorithm](seed, bytes.fromhex(level.constant))) == "67 12"
    assert ecu.one("31 01 FF 00 44 00 40 00 00 00 00 10 00") == "71 01 FF 00 00"
    assert ecu.one("34 00 44 00 40 00 00 00 00 10 00") == "74 20 0F FF"


@pytest.mark.parametrize("name", ["motor", "gearbox", "battery", "body", "brakes", "telematics"])
def test_every_shipped_ecu_can_be_programmed(name: str) -> None:
    ecu = Bench(name)
    ecu.one("10 03")
    ecu.one("10 02")
    level = next(level for level in load_description(name).security if level.level == 0x11)
    seed = bytes.fromhex(ecu.one("27 11"))[2:]
    assert ecu.one(b"\x27\x12" + ALGORITHMS[level.algorithm](seed, bytes.fromhex(level.constant))) == "67 12"
    content = make_image(name, "07.01.02", b"new" * 1000)
    head = parse_header(content)
    where = f"44 {head.address:08X} {len(content):08X}"
    assert ecu.one(f"31 01 FF 00 {where}") == "71 01 FF 00 00"
    assert ecu.one(f"34 00 {where}").startswith("74 20")
    assert ecu.one(b"\x36\x01" + content) == "76 01"
    assert ecu.one("37").startswith("77")
    assert ecu.one("31 01 02 02") == "71 01 02 02 00 00"
    assert ecu.one("31 01 FF 01") == "71 01 FF 01 00 00"
    ecu.one("11 01")
    ecu.advance(ecu.server.description.timing.boot_s + 0.1)
    assert ecu.one("22 F1 89") == "62 F1 89 " + b"07.01.02".hex(" ").upper()


# ---- the boot loader


def test_the_programming_session_is_refused_while_the_car_moves_or_lacks_voltage() -> None:
    ecu = Flasher()
    assert ecu.one("10 02") == "7F 10 7E"
    ecu.one("10 03")
    assert ecu.one("31 01 02 03") == "71 01 02 03 00"
    ecu.vehicle.values[SPEED] = 30
    ecu.vehicle.values[VOLTAGE] = 9
    assert ecu.one("31 01 02 03") == "71 01 02 03 00 01 02"
    assert ecu.one("10 02") == "7F 10 22"
    ecu.vehicle.values[SPEED] = 0
    assert ecu.one("10 02") == "7F 10 22"
    ecu.vehicle.values[VOLTAGE] = 12
    assert ecu.one("10 02").startswith("50 02")


def test_the_boot_loader_answers_only_what_a_boot_loader_answers(ecu: Flasher) -> None:
    assert ecu.one("22 F1 80") == "62 F1 80 42 4C 30 31"
    assert ecu.one("22 F1 89") == "7F 22 31"
    assert ecu.one("19 0A") == "7F 19 11"
    assert ecu.one("31 01 02 03") == "7F 31 31"
    assert ecu.context.silenced == (True, True)


@pytest.mark.parametrize("how", ["10 01", "11 01", "wait"])
def test_the_application_comes_back_when_the_session_ends(ecu: Flasher, how: str) -> None:
    if how != "wait":
        ecu.one(how)
    ecu.advance(7.0)
    assert not ecu.context.boot_mode
    assert ecu.version() == "01.00.00"
    assert ecu.server.resets == 1


def test_a_tester_that_vanishes_in_a_download_leaves_a_boot_loader_that_can_be_programmed(ecu: Flasher) -> None:
    content = image(b"q" * 1000)
    _ready(ecu, len(content))
    ecu.blocks(content[:256])
    ecu.advance(10)
    assert ecu.server.state()["session"] == 1
    assert ecu.version() == ""
    assert ecu.one("36 03 00") == "7F 36 7F"
    ecu.programming()
    assert ecu.one("36 03 00") == "7F 36 24"
    assert ecu.flash(content) == "71 01 02 02 00 00"
    ecu.restart()
    assert ecu.version() == "02.00.00"


def test_a_download_can_go_on_where_it_was_cut_off(ecu: Flasher) -> None:
    content = image(b"r" * 1000)
    _ready(ecu, len(content))
    ecu.blocks(content[:512])
    ecu.power_cycle()
    ecu.programming()
    assert ecu.request(BASE + 512, len(content) - 512) == "74 20 00 82"
    ecu.blocks(content[512:])
    assert ecu.one("37").startswith("77")
    assert ecu.one("31 01 02 02") == "71 01 02 02 00 00"


@pytest.mark.parametrize("cut", ["erasing", "erased", "half", "programmed", "checked"])
def test_power_loss_at_any_step(ecu: Flasher, cut: str) -> None:
    content = image(b"s" * 600)
    steps = ["erasing", "erased", "half", "programmed", "checked"]
    reached = steps.index(cut)
    ecu.ask("31 01 FF 00 44 00 40 00 00 00 00 20 00")
    if reached >= 1:
        ecu.advance(1.0)
    if reached >= 2:
        ecu.request(BASE, len(content))
        ecu.blocks(content[:256])
    if reached >= 3:
        for counter in range(3, 8):
            ecu.one(bytes([0x36, counter]) + content[(counter - 1) * 128 : counter * 128])
        assert ecu.one("37").startswith("77")
    if reached >= 4:
        assert ecu.one("31 01 02 02") == "71 01 02 02 00 00"
    ecu.power_cycle()
    assert ecu.context.boot_mode is (cut != "checked")
    assert ecu.version() == ("02.00.00" if cut == "checked" else "")
    ecu.programming()
    assert ecu.flash(image(b"again", "03.00.00")) == "71 01 02 02 00 00"
    ecu.restart()
    assert ecu.version() == "03.00.00"


def test_content_that_changed_after_the_check_is_not_started(ecu: Flasher) -> None:
    ecu.flash(image())
    ecu.context.memory.write(BASE + HEADER_BYTES, b"\x00")
    ecu.restart()
    assert ecu.context.boot_mode
    assert ecu.one("22 F1 80").startswith("62")


# ---- images that must not run


@pytest.mark.parametrize(
    ("bad", "verdict"),
    [
        (b"\x00" * 400, Verdict.NO_IMAGE),
        (image(ecu="motor", hardware_id="SMALL-HW-1", address=BASE), Verdict.WRONG_ECU),
        (image(hardware_id="SMALL-HW-2"), Verdict.WRONG_HARDWARE),
        (image(key=Ed25519PrivateKey.from_private_bytes(bytes(32))), Verdict.WRONG_SIGNATURE),
        (image(address=0x200000), Verdict.WRONG_ADDRESS),
        (image(b"abc")[:-1] + b"d", Verdict.WRONG_CHECKSUM),
        (image(b"abc" * 100)[:-1], Verdict.WRONG_CHECKSUM),
        (image(b"abc")[:20] + b"X" + image(b"abc")[21:], Verdict.WRONG_SIGNATURE),
    ],
)
def test_bad_images_are_told_apart_and_never_started(ecu: Flasher, bad: bytes, verdict: Verdict) -> None:
    assert ecu.flash(bad) == f"71 01 02 02 00 {verdict:02X}"
    assert ecu.one("31 03 02 02") == f"71 03 02 02 00 {verdict:02X}"
    assert ecu.one("31 01 FF 01") == f"71 01 FF 01 00 {Verdict.INCOMPLETE:02X}"
    ecu.restart()
    assert ecu.context.boot_mode
    ecu.programming()
    assert ecu.flash(image()) == "71 01 02 02 00 00"


def test_parts_that_do_not_fit_each_other_stay_in_the_boot_loader(ecu: Flasher) -> None:
    assert ecu.flash(image(compatibility=2)) == "71 01 02 02 00 00"
    assert ecu.one("31 01 FF 01") == f"71 01 FF 01 00 {Verdict.INCOMPATIBLE:02X}"
    ecu.restart()
    assert ecu.context.boot_mode
    ecu.programming()
    data = image(b"data", address=0x200000, compatibility=2)
    assert ecu.flash(data, 0x200000, 1024) == "71 01 02 02 00 00"
    assert ecu.one("31 01 FF 01") == "71 01 FF 01 00 00"
    ecu.restart()
    assert ecu.version() == "02.00.00"


@given(st.binary(max_size=400))
def test_a_header_of_any_bytes_is_an_image_error_or_a_header(raw: bytes) -> None:
    try:
        header = parse_header(raw)
    except ImageError:
        return
    assert raw[:4] == b"ORIM"
    assert header.image_bytes >= HEADER_BYTES


@pytest.mark.parametrize(
    "changes", [{"version": "x" * 17}, {"version": ""}, {"version": "ü"}, {"payload": b""}, {"address": -1},
                {"address": 1 << 32}, {"compatibility": 65536}, {"part": "a\nb"}],
)  # fmt: skip
def test_images_that_cannot_be_made(changes: dict[str, object]) -> None:
    with pytest.raises(ImageError):
        image(**{"payload": b"x", **changes})  # type: ignore[arg-type]  # one of them


@pytest.mark.parametrize(
    ("old", "new"),
    [("sector_bytes = 512", "sector_bytes = 0"), ("files = 3", 'files = 3\npublic_key = "00"'),
     ("files = 3", "filez = 3"), ("files = 3", 'files = 3\nregions = ["nowhere"]')],
)  # fmt: skip
def test_flash_descriptions_that_cannot_be(old: str, new: str) -> None:
    with pytest.raises(DescriptionError, match="flash"):
        Flasher(parse_description(TOML.replace(old, new), "test"))
