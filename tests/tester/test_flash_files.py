"""Software files: what is understood, and what is told of those that are broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.ecu.flash_image import make_image
from tester.flash_files import Firmware, ImageFileError, Segment, read_firmware


def hex_file(segments: list[tuple[int, bytes]]) -> bytes:
    """Intel HEX, written independently."""
    lines = []

    def record(kind: int, offset: int, data: bytes) -> None:
        body = bytes([len(data)]) + offset.to_bytes(2, "big") + bytes([kind]) + data
        lines.append(":" + (body + bytes([-sum(body) & 0xFF])).hex().upper())

    for start, content in segments:
        for at in range(0, len(content), 16):
            address = start + at
            record(4, 0, (address >> 16).to_bytes(2, "big"))
            room = min(16, 0x10000 - (address & 0xFFFF))
            record(0, address & 0xFFFF, content[at : at + room])
            if room < len(content[at : at + 16]):
                record(4, 0, ((address + room) >> 16).to_bytes(2, "big"))
                record(0, 0, content[at + room : at + 16])
    record(1, 0, b"")
    return "\r\n".join(lines).encode()


def srec_file(segments: list[tuple[int, bytes]]) -> bytes:
    """S-records with 32-bit addresses."""
    lines, count = ["S0030000FC"], 0

    def record(kind: str, body: bytes) -> None:
        whole = bytes([len(body) + 1]) + body
        lines.append(f"S{kind}" + (whole + bytes([~sum(whole) & 0xFF])).hex().upper())

    for start, content in segments:
        for at in range(0, len(content), 32):
            record("3", (start + at).to_bytes(4, "big") + content[at : at + 32])
            count += 1
    record("5", count.to_bytes(2, "big"))
    record("7", bytes(4))
    return "\n".join(lines).encode() + b"\n"


SEGMENTS = st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=80)), min_size=1, max_size=4)


@given(SEGMENTS, st.sampled_from([0, 0x400000, 0xFFC0]))
def test_hex_and_srecords_give_back_what_was_written(gaps: list[tuple[int, bytes]], base: int) -> None:
    placed, at = [], base
    for gap, content in gaps:
        at += gap + 1
        placed.append((at, content))
        at += len(content)
    for file in (hex_file(placed), srec_file(placed)):
        assert [(s.address, s.content) for s in read_firmware(file).segments] == placed


def test_records_that_touch_become_one_whatever_their_order() -> None:
    found = read_firmware(srec_file([(0x1020, b"b" * 32), (0x1000, b"a" * 32)]))
    assert found.segments == (Segment(0x1000, b"a" * 32 + b"b" * 32),)
    assert found.kind == "srec"


def test_an_image_tells_what_it_is_for() -> None:
    image = make_image("motor", "02.01.00", b"software" * 100)
    found = read_firmware(image)
    assert (found.kind, found.total_bytes) == ("image", 256 + 800)
    assert found.header is not None
    assert (found.header.ecu, found.header.version, found.header.hardware) == ("motor", "02.01.00", "OR1-MC-HW02")
    assert found.header.problems == ()
    assert found.segments[0].address == found.header.address == 0x400000


def test_an_image_in_a_hex_file_is_still_one() -> None:
    image = make_image("motor", "3", b"x" * 500)
    found = read_firmware(hex_file([(0x400000, image)]))
    assert found.header is not None
    assert found.header.version == "3"
    assert found.header.problems == ()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda image: image[:-1], "announces 500 bytes, 499 follow"),
        (lambda image: image + b"x", "announces 500 bytes, 501 follow"),
        (lambda image: image[:-1] + b"y", "CRC-32"),
    ],
)
def test_a_damaged_image_is_told(damage: object, problem: str) -> None:
    assert callable(damage)
    header = read_firmware(damage(make_image("motor", "3", b"x" * 500))).header
    assert header is not None
    assert problem in header.problems[0]


@pytest.mark.parametrize(
    ("content", "name", "problem"),
    [
        (b"", "x.bin", "empty"),
        (b"ORIM" + bytes(100), "x", "no whole header"),
        (b"ORIM" + bytes(300), "x", "version 0"),
        (b":00000001FE\n", "x", "checksum"),
        (b":0100000041BE\n", "x", "cut off"),
        (b":0100000041BE\n:00000001FF\n:00000001FF\n", "x", "follows the end"),
        (b":02000000410ABE\n", "x", "line 1"),
        (b":0100000041BE\n0100000041BE\n", "x", "line 2"),
        (b"S1050000414178\n", "x.s19", "cut off"),
        (b"S1050000414171\n", "x", "checksum"),
        (b"S4030000FC\n", "x", "reserved"),
        (b"S1050000414178\nS5030002FA\n", "x", "2 records announced, 1 came"),
        (b"no hex at all", "x.hex", "line 1"),
        (b"\xff\xfe", "x.hex", "not text"),
        (b":00000001FF\n", "x", "no data"),
        (b"just bytes", "x.bin", "--address"),
    ],
)
def test_what_is_wrong_is_told(content: bytes, name: str, problem: str) -> None:
    with pytest.raises(ImageFileError, match=problem):
        read_firmware(content, name=name)


def test_two_records_for_one_address_are_refused() -> None:
    with pytest.raises(ImageFileError, match="two records"):
        read_firmware(srec_file([(0x1000, b"a" * 32), (0x1010, b"b" * 32)]))


def test_raw_bytes_go_where_told_and_only_there() -> None:
    assert read_firmware(b"abc", address=0x1000).segments == (Segment(0x1000, b"abc"),)
    with pytest.raises(ImageFileError, match="32-bit"):
        read_firmware(b"abc", address=0xFFFFFFFE)
    with pytest.raises(ImageFileError, match="of its own"):
        read_firmware(hex_file([(0, b"abc")]), address=0x1000)
    with pytest.raises(ImageFileError, match="made for"):
        read_firmware(make_image("motor", "1", b"x"), address=0)


@given(st.binary(max_size=300), st.sampled_from(["x", "x.hex", "x.s19"]), st.sampled_from([b"", b":", b"S1", b"ORIM"]))
def test_any_bytes_are_understood_or_refused(content: bytes, name: str, begin: bytes) -> None:
    try:
        found: Firmware | None = read_firmware(begin + content, name=name)
    except ImageFileError:
        found = None
    assert found is None or found.total_bytes > 0
