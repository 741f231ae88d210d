"""Service 0x38: the six modes on the file system of a small ECU."""

from __future__ import annotations

import zlib

import pytest

from tests.simulator.ecu.test_flash import Flasher


class FileTester(Flasher):
    """A tester that moves files."""

    def ask_file(self, mode: int, path: str, size: int | None = None, *, data_format: int = 0, packed: int = 0) -> str:
        raw = path.encode()
        request = bytes([0x38, mode]) + len(raw).to_bytes(2, "big") + raw
        if mode in (1, 3, 6):
            assert size is not None
            request += bytes([data_format, 2]) + size.to_bytes(2, "big") + (packed or size).to_bytes(2, "big")
        elif mode == 4:
            request += bytes([data_format])
        return self.one(request)

    def store(self, path: str, content: bytes, mode: int = 1) -> None:
        assert self.ask_file(mode, path, len(content)) == f"78 {mode:02X} 02 00 82 00"
        self.blocks(content)
        assert self.one("37").startswith("77")

    def load(self, mode: int, path: str) -> bytes:
        answer = bytes.fromhex(self.ask_file(mode, path))
        assert answer[:8] == bytes([0x78, mode, 2, 0, 0x82, 0, 0, 4])
        size, out, counter = int.from_bytes(answer[8:12], "big"), b"", 1
        while len(out) < size:
            block = bytes.fromhex(self.one(bytes([0x36, counter & 0xFF])))
            assert block[:2] == bytes([0x76, counter & 0xFF])
            out += block[2:]
            counter += 1
        assert self.one("37") == "77 " + zlib.crc32(out).to_bytes(4, "big").hex(" ").upper()
        return out


@pytest.fixture
def ecu() -> FileTester:
    tester = FileTester()
    tester.one("10 03")
    return tester


def test_add_read_list_replace_delete(ecu: FileTester) -> None:
    assert ecu.load(5, "/") == b""
    ecu.store("/map.bin", b"0123456789" * 30)
    ecu.store("/log", b"x")
    assert ecu.load(4, "/map.bin") == b"0123456789" * 30
    assert ecu.load(5, "/") == b"/log\t1\n/map.bin\t300\n"
    ecu.store("/map.bin", b"new", mode=3)
    assert ecu.load(4, "/map.bin") == b"new"
    assert ecu.ask_file(2, "/map.bin") == "78 02"
    assert ecu.ask_file(4, "/map.bin") == "7F 38 31"
    assert ecu.ask_file(2, "/map.bin") == "7F 38 31"


def test_files_are_kept_without_power(ecu: FileTester) -> None:
    ecu.store("/a", b"kept")
    ecu.power_cycle()
    ecu.one("10 03")
    assert ecu.load(4, "/a") == b"kept"


def test_a_compressed_file(ecu: FileTester) -> None:
    content = b"abc" * 200
    packed = zlib.compress(content)
    answer = ecu.ask_file(1, "/c", len(content), data_format=0x10, packed=len(packed))
    assert answer == "78 01 02 00 82 10"
    ecu.blocks(packed)
    assert ecu.one("37").startswith("77")
    assert ecu.load(4, "/c") == content


def test_a_file_that_was_cut_off_is_resumed_where_it_ended(ecu: FileTester) -> None:
    content = bytes(i % 256 for i in range(600))
    ecu.ask_file(1, "/big", 600)
    ecu.blocks(content[:256])
    ecu.power_cycle()
    ecu.one("10 03")
    assert ecu.ask_file(4, "/big") == "7F 38 31"  # not there before all of it is
    assert ecu.ask_file(6, "/big", 599) == "7F 38 31"
    assert ecu.ask_file(6, "/other", 600) == "7F 38 31"
    assert ecu.ask_file(6, "/big", 600) == "78 06 02 00 82 00 00 00 00 00 00 00 01 00"
    ecu.blocks(content[256:])
    assert ecu.one("37").startswith("77")
    assert ecu.load(4, "/big") == content


def test_replacing_keeps_the_old_file_until_the_new_one_is_whole(ecu: FileTester) -> None:
    ecu.store("/a", b"old")
    ecu.ask_file(3, "/a", 400)
    ecu.blocks(b"n" * 128)
    ecu.power_cycle()
    ecu.one("10 03")
    assert ecu.load(4, "/a") == b"old"


def test_room_is_bounded_in_bytes_and_files(ecu: FileTester) -> None:
    assert ecu.ask_file(1, "/a", 1001) == "7F 38 70"
    ecu.store("/a", b"a" * 900)
    assert ecu.ask_file(1, "/b", 101) == "7F 38 70"
    ecu.store("/b", b"b")
    ecu.store("/c", b"c")
    assert ecu.ask_file(1, "/d", 1) == "7F 38 70"
    assert ecu.ask_file(1, "/a", 1) == "7F 38 31"  # is there already


def test_one_transfer_at_a_time(ecu: FileTester) -> None:
    ecu.store("/old", b"o")
    ecu.ask_file(1, "/a", 10)
    for mode, path, size in ((1, "/b", 10), (2, "/old", None), (4, "/old", None), (5, "/", None), (6, "/a", 10)):
        assert ecu.ask_file(mode, path, size) == "7F 38 22"
    ecu.one("10 03")
    assert ecu.ask_file(4, "/old").startswith("78 04")


@pytest.mark.parametrize(
    ("request_", "nrc"),
    [
        ("38", "13"), ("38 01", "13"), ("38 01 00 00", "13"), ("38 00 00 02 2F 61", "31"), ("38 07 00 02 2F 61", "31"),
        ("38 02 00 00 00", "13"), ("38 02 00 09 2F 61", "13"), ("38 02 00 02 2F 61 00", "13"),
        ("38 01 00 02 2F 61", "13"), ("38 01 00 02 2F 61 00", "13"), ("38 01 00 02 2F 61 00 01 05", "13"),
        ("38 01 00 02 2F 61 00 00", "31"), ("38 01 00 02 2F 61 00 09" + " 00" * 18, "31"),
        ("38 01 00 02 2F 61 00 01 05 06", "31"), ("38 01 00 02 2F 61 11 01 05 05", "31"),
        ("38 01 00 02 2F 61 00 01 00 00", "31"), ("38 01 00 01 61 00 01 05 05", "31"),
        ("38 01 00 02 2F 2F 00 01 05 05", "31"), ("38 04 00 02 2F 61", "13"), ("38 04 00 02 2F 61 10", "31"),
        ("38 05 00 02 2F 61", "31"), ("38 02 00 01 2F", "31"),
    ],
)  # fmt: skip
def test_refusals(ecu: FileTester, request_: str, nrc: str) -> None:
    assert ecu.one(request_) == f"7F 38 {nrc}"


def test_a_file_does_not_get_into_flash_memory(ecu: FileTester) -> None:
    before = bytes(ecu.context.memory.read(0x400000, 8192))
    ecu.store("/a", b"x" * 500)
    assert ecu.context.memory.read(0x400000, 8192) == before
