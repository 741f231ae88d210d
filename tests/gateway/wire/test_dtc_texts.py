"""Texts of trouble codes: ours cover what an electric car uses, the user's go first, bad lines are told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.dtc import Status, format_dtc, parse_dtc
from gateway.wire.dtc_texts import (
    TextsError,
    any_failure,
    describe_dtc,
    failure_text,
    load_texts,
    own_codes,
    status_words,
)
from gateway.wire.dtc_words import BAD_DATA, FAILURE_TYPES, FAMILIES, LOST


@given(st.integers(0, 0xFFFFFF))
def test_every_code_has_words_that_tell_whether_it_is_known(code: int) -> None:
    told = describe_dtc(code)
    assert told.code == format_dtc(code)
    assert told.text
    assert told.known == (code >> 8 in own_codes()) == (told.source == "outrider")
    assert told.area == {"P": "powertrain", "C": "chassis", "B": "body", "U": "network"}[told.code[0]]
    assert (told.failure == "") == (code & 0xFF == 0)


def test_at_least_two_hundred_codes_have_words_and_no_family_overlaps_another() -> None:
    told = sum(len(pattern) for _, _, pattern in FAMILIES) + len(LOST) + len(BAD_DATA)
    assert len(own_codes()) == told >= 200
    assert len(FAILURE_TYPES) >= 60
    assert len(set(own_codes().values())) > 0.95 * told


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("P0A2F-00", "Drive motor A too hot"),
        ("P0A2F-4B", "Drive motor A too hot"),
        ("P0A2C-00", "Drive motor A temperature sensor: signal too low"),
        ("U0111-87", "Lost communication with battery energy control A (message missing)"),
        ("P1234-16", "Unknown powertrain fault of the maker (voltage below its limit)"),
        ("B0FFF-EE", "Unknown body fault (failure type EE)"),
    ],
)
def test_a_code_reads_as_component_and_failure(code: str, text: str) -> None:
    assert describe_dtc(parse_dtc(code)).text == text


def test_who_numbers_a_code_follows_its_digits() -> None:
    origins = {
        c: describe_dtc(parse_dtc(c)).origin for c in ("P0001", "P1001", "P2001", "P3001", "P3401", "C1001", "U3001")
    }
    assert origins == {
        "P0001": "standard", "P1001": "maker", "P2001": "standard", "P3001": "maker", "P3401": "standard",
        "C1001": "maker", "U3001": "standard",
    }  # fmt: skip


def test_the_users_exact_text_goes_before_that_of_any_failure_and_that_before_ours() -> None:
    code = parse_dtc("P0AA6-16")
    assert describe_dtc(code).source == "outrider"
    general = {any_failure(code >> 8): "Insulation"}
    assert describe_dtc(code, general).text == "Insulation (voltage below its limit)"
    exact = {**general, code: "Insulation below 500 ohms per volt"}
    assert describe_dtc(code, exact).text == "Insulation below 500 ohms per volt"
    assert describe_dtc(code, exact).known


def test_a_csv_file_gives_its_sound_lines_and_names_the_others() -> None:
    content = (
        "\ufeffcode;text\n# a remark\nP0AA6;Insulation\nP0AA6-16;Exactly this\n\nX1234;no such letter\nP0001;\n"
        'P0AA6;"Insulation; again"\nlonely\n'
    ).encode()
    loaded = load_texts(content, "texts.csv")
    assert loaded.texts == {any_failure(0x0AA6): "Insulation; again", 0x0AA616: "Exactly this"}
    assert (loaded.bad, loaded.replaced) == (3, 1)
    assert [d.line for d in loaded.defects] == [6, 7, 9]
    assert "X1234" in loaded.defects[0].problem


@pytest.mark.parametrize(
    "content", [{"P0AA6": "a", "U0111-00": "b"}, [{"code": "P0AA6", "text": "a"}, {"code": "C10011-00"}, 5]]
)
def test_json_files_may_be_objects_or_lists(content: object) -> None:
    loaded = load_texts(json.dumps(content).encode(), "texts.json")
    assert loaded.texts[any_failure(0x0AA6)] == "a"
    assert loaded.bad == (2 if isinstance(content, list) else 0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff\xfe\x00", "UTF-8"),
        (b"{", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'"text"', "no text"),
        (b"", "no text"),
        (b"code,text\nrubbish,yes\n", "rubbish"),
    ],
)
def test_a_file_that_gives_nothing_is_refused_with_the_reason(content: bytes, problem: str) -> None:
    with pytest.raises(TextsError, match=problem):
        load_texts(content)


@given(st.binary(max_size=300), st.sampled_from(["", "a.csv", "a.json"]))
def test_any_bytes_are_a_file_of_texts_or_refused(content: bytes, name: str) -> None:
    try:
        loaded = load_texts(content, name)
    except TextsError:
        return
    for key, text in loaded.texts.items():
        assert describe_dtc(key if key >= 0 else (-1 - key) << 8, loaded.texts).text == text


def test_status_words_follow_the_bits() -> None:
    assert status_words(0) == []
    assert status_words(0xFF) == [w for bit in Status for w in status_words(bit)]
    assert status_words(0x09) == ["failing", "confirmed"]
    assert failure_text(0) == ""
