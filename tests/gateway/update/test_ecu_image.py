"""What an ECU image says is written where, for each form it may have; and bytes that are no image."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.update.config import UpdateEcu
from gateway.update.ecu_image import Bytes, Part, read_image
from gateway.update.ecu_key import FileSeedKey
from gateway.update.model import InstallError
from simulator.ecu.flash_image import make_image
from simulator.ecu.keys import aes_cmac


def parts(content: bytes, load_address: int | None = None) -> list[tuple[int, bytes]]:
    return [(p.address, p.read(0, p.length)) for p in read_image(Bytes(content), load_address)]


def hex_line(address: int, kind: int, data: bytes) -> str:
    record = bytes([len(data)]) + address.to_bytes(2, "big") + bytes([kind]) + data
    return ":" + (record + bytes([-sum(record) & 0xFF])).hex().upper()


def srec_line(kind: int, address: int, data: bytes) -> str:
    width = {1: 2, 2: 3, 3: 4, 7: 4, 8: 3, 9: 2, 0: 2, 5: 2}[kind]
    record = bytes([width + len(data) + 1]) + address.to_bytes(width, "big") + data
    return f"S{kind}" + (record + bytes([~sum(record) & 0xFF])).hex().upper()


def test_a_signed_image_knows_its_address_and_goes_whole() -> None:
    image = make_image("motor", "01.00.00", b"payload", address=0x00400000)
    assert parts(image) == [(0x00400000, image)]
    assert parts(image, 0x1234) == [(0x00400000, image)]


def test_raw_bytes_go_where_the_configuration_says() -> None:
    assert parts(b"\x7fELF and more", 0x8000) == [(0x8000, b"\x7fELF and more")]
    with pytest.raises(InstallError, match="load_address"):
        parts(b"\x7fELF and more\xff")
    with pytest.raises(InstallError, match="past 32-bit"):
        parts(b"four", 0xFFFFFFFE)


def test_pieces_of_hex_files_are_joined_where_they_touch() -> None:
    lines = [
        hex_line(0, 4, b"\x08\x00"), hex_line(0x10, 0, b"abcd"), hex_line(0x14, 0, b"ef"), hex_line(0x40, 0, b"far"),
        hex_line(0, 5, bytes(4)), hex_line(0, 1, b""),
    ]  # fmt: skip
    assert parts("\r\n".join(lines).encode()) == [(0x08000010, b"abcdef"), (0x08000040, b"far")]


def test_s_records_of_each_width() -> None:
    lines = [srec_line(0, 0, b"title"), srec_line(1, 0x10, b"ab"), srec_line(2, 0x12, b"cd"), srec_line(3, 0x14, b"ef")]
    lines += [srec_line(5, 3, b""), srec_line(7, 0, b"")]
    assert parts("\n".join(lines).encode()) == [(0x10, b"abcdef")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"ORIM" + bytes(200), "within its header"),
        (hex_line(0, 0, b"ab").encode(), "end record"),
        (hex_line(0, 0, b"ab")[:-1].encode(), "line 1"),
        (b":00000001FE", "line 1"),
        ((hex_line(0, 1, b"") + "\n" + hex_line(0, 0, b"ab")).encode(), "line 2"),
        (("\n".join([hex_line(0, 0, b"ab"), hex_line(1, 0, b"c"), hex_line(0, 1, b"")])).encode(), "two records"),
        (hex_line(0, 1, b"").encode(), "0 separate parts"),
        (hex_line(0, 9, b"").encode(), "type 09"),
        (b"S1", "line 1"),
        (srec_line(1, 0, b"a").encode(), "end record"),
        (b"S4030000FC\n" + srec_line(9, 0, b"").encode(), "S4 records"),
        (b"plain text", "load_address"),
    ],
)
def test_what_is_broken_is_told(content: bytes, words: str) -> None:
    with pytest.raises(InstallError, match=words):
        parts(content)


@given(st.binary(max_size=300) | st.text(":S0123456789ABCDEF\n", max_size=200).map(str.encode))
def test_any_bytes_are_an_image_or_an_install_error(content: bytes) -> None:
    try:
        found = parts(content)
    except InstallError:
        return
    assert sum(len(data) for _, data in found) > 0


@given(st.binary(min_size=1, max_size=2000), st.integers(0, 0xFFFFF000), st.sampled_from(["hex", "srec"]))
def test_what_was_written_as_text_is_read_as_bytes(content: bytes, address: int, form: str) -> None:
    lines, at = [], 0
    while at < len(content):
        place = address + at
        piece = content[at : at + min(16, 0x10000 - (place & 0xFFFF))]
        if form == "hex":
            lines += [hex_line(0, 4, (place >> 16).to_bytes(2, "big")), hex_line(place & 0xFFFF, 0, piece)]
        else:
            lines.append(srec_line(3, place, piece))
        at += len(piece)
    lines.append(hex_line(0, 1, b"") if form == "hex" else srec_line(7, 0, b""))
    assert parts("\n".join(lines).encode()) == [(address, content)]


def test_a_disk_that_holds_less_than_before_is_told() -> None:
    part = Part(0, 10, Bytes(b"short"))
    with pytest.raises(InstallError, match="only 5 of 10"):
        part.read(0, 10)


def test_the_key_of_a_seed_is_its_cmac_and_a_bad_file_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "motor.key").write_text("00112233445566778899aabbccddeeff\n")
    (folder / "bad.key").write_text("0011")
    (folder / "worse.key").write_text("no key")
    ecus = tuple(
        UpdateEcu(name=name, hardware_id="H", security_key_file=file)
        for name, file in (("motor", "motor.key"), ("bad", "bad.key"), ("worse", "worse.key"), ("gone", "gone.key"))
    )
    key = FileSeedKey((*ecus, UpdateEcu(name="none", hardware_id="H")), folder)
    assert key.key("motor", 0x11, b"seed" * 4) == aes_cmac(
        b"seed" * 4, bytes.fromhex("00112233445566778899aabbccddeeff")
    )
    for name, words in (("bad", "2 bytes"), ("worse", "hexadecimal"), ("gone", "No such file"), ("none", "names none")):
        with pytest.raises(ConfigError, match=words):
            key.key(name, 0x11, b"seed")
