"""Bytes and named values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tester.values import Field, decode, encode, limits, parse_hex, text_or_hex

SPEED = Field(bytes=2, name="Limit", scale=0.01, unit="km/h")
MODE = Field(bytes=1, name="Mode", values={"0": "off", "1": "on"})
FIELDS = st.builds(
    Field,
    bytes=st.integers(1, 8),
    name=st.sampled_from(["", "A"]),
    encoding=st.sampled_from(["uint", "int", "float32", "float64", "ascii", "hex", "bcd"]),
    scale=st.sampled_from([1.0, 0.1, 0.01, 2.0, -0.5]),
    offset=st.sampled_from([0.0, -40.0, 1000.0]),
)


@given(st.lists(FIELDS, max_size=4), st.binary(max_size=40))
def test_any_bytes_become_values(fields: list[Field], data: bytes) -> None:
    values = decode(fields, data)
    assert all(value.text for value in values)
    if fields and data:
        assert values


@given(
    st.integers(1, 4), st.booleans(), st.sampled_from([1.0, 0.1, 0.01, 0.5]), st.sampled_from([0.0, -40.0]), st.data()
)
def test_what_is_shown_can_be_written(
    size: int, signed: bool, scale: float, offset: float, data: st.DataObject
) -> None:
    field = Field(bytes=size, encoding="int" if signed else "uint", scale=scale, offset=offset)
    content = data.draw(st.binary(min_size=size, max_size=size))
    [value] = decode([field], content)
    assert encode([field], [str(value.value)]) == content


def test_long_numbers_are_exact() -> None:
    field = Field(bytes=8)
    [value] = decode([field], bytes.fromhex("FFFFFFFFFFFFFFFE"))
    assert value.text == "18446744073709551614"
    assert encode([field], [value.text]) == bytes.fromhex("FFFFFFFFFFFFFFFE")


def test_labels_are_read_and_written() -> None:
    [value] = decode([MODE], b"\x01")
    assert (value.label, value.text) == ("on", "on (1)")
    assert encode([MODE], ["ON"]) == b"\x01"
    assert encode([MODE], ["0x00"]) == b"\x00"


def test_fields_are_given_in_order_or_by_name() -> None:
    assert encode([SPEED, MODE], ["120.5", "on"]) == encode([SPEED, MODE], ["mode=on", "limit=120.5"])
    assert encode([SPEED, MODE], ["hex:01 02 03"]) == b"\x01\x02\x03"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["9999", "on"], "not within 0 to 655.35 km/h"),
        (["-1", "on"], "not within"),
        (["fast", "on"], "'fast' is no number"),
        (["nan", "on"], "no value"),
        (["inf", "on"], "no value"),
        (["1", "sideways"], "one of off, on"),
        (["1"], "1 values for 2 fields"),
        (["limit=1", "limit=2"], "no value for Mode"),
        (["hex:0102"], "2 bytes, must be 3"),
        (["hex:zz"], "no hexadecimal"),
    ],
)
def test_values_that_cannot_be_are_refused(words: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        encode([SPEED, MODE], words, 3)


def test_limits_of_the_file_are_kept() -> None:
    field = Field(bytes=1, minimum=10, maximum=20)
    assert limits(field) == (10, 20)
    with pytest.raises(ValueError, match="21 is above 20"):
        encode([field], ["21"])


def test_too_few_and_too_many_bytes_are_told() -> None:
    assert [v.name for v in decode([SPEED, MODE], b"\x00\x01")] == ["Limit", "Mode"]
    assert decode([SPEED, MODE], b"\x00\x01")[1].value == "(nothing)"
    assert decode([SPEED], b"\x00\x01\xaa")[1] == decode([SPEED], b"\x00\x01\xaa")[-1]
    assert decode([SPEED], b"\x00\x01\xaa")[-1].value == "AA"


@pytest.mark.parametrize("text", ["22F190", "22 F1 90", "0x22 0xf1 0x90", "22:f1:90", "22,F1,90"])
def test_hexadecimal_is_understood_in_all_usual_forms(text: str) -> None:
    assert parse_hex(text) == b"\x22\xf1\x90"


def test_text_only_where_all_is_printable() -> None:
    assert text_or_hex(b"OR1\x00\x00") == "OR1"
    assert text_or_hex(b"\x1b[31m") == "1B 5B 33 31 6D"
    assert text_or_hex(b"    ") == "(blank)"
