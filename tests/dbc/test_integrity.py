"""Checksums against published check values, counters across batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbc.integrity import CHECKSUMS, Rule, Verifier, checksum, rule_of, rules_of
from tests.dbc.decode_support import frames, manifest, message, signal

CHECK = np.frombuffer(b"123456789", np.uint8).reshape(1, -1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crc8-sae-j1850", 0x4B),
        ("crc8-autosar", 0xDF),
        ("crc16-ccitt", 0x29B1),
        ("xor8", 0x31),
        ("sum8", 0xDD),
    ],
)
def test_each_checksum_has_its_published_check_value(name: str, value: int) -> None:
    assert checksum(name, CHECK, 9).tolist() == [value]


@pytest.mark.parametrize(
    ("can_id", "payload"),
    [(0x260, "08FFFB0000001884"), (0x2C1, "0014DF14BBCA3A91"), (0x0B4, "000000001D0B7A5E")],
)
def test_toyota_checksum_of_recorded_frames(can_id: int, payload: str) -> None:
    data = np.frombuffer(bytes.fromhex(payload), np.uint8).reshape(1, -1)
    assert checksum("toyota", data, 8, can_id).tolist() == [data[0, 7]]


def slow_crc(data: bytes, bits: int, polynomial: int, start: int, final: int) -> int:
    register = start
    for byte in data:
        for bit in range(7, -1, -1):
            top = register >> (bits - 1) & 1
            register = (register << 1) & ((1 << bits) - 1)
            if top ^ (byte >> bit & 1):
                register ^= polynomial
    return register ^ final


def slow(name: str, payload: bytes, can_id: int, data_id: int) -> int:
    covered = payload + (data_id.to_bytes(2, "little") if data_id else b"")
    if name == "xor8":
        value = 0
        for byte in covered:
            value ^= byte
        return value
    if name == "sum8":
        return sum(covered) & 0xFF
    if name == "toyota":
        return sum(can_id.to_bytes(4, "big")) + len(payload) + sum(payload[:-1]) & 0xFF
    parameters = {
        "crc8-sae-j1850": (8, 0x1D, 255, 255),
        "crc8-autosar": (8, 0x2F, 255, 255),
        "crc16-ccitt": (16, 0x1021, 65535, 0),
    }
    return slow_crc(covered, *parameters[name])


@given(
    st.sampled_from(CHECKSUMS),
    st.lists(st.tuples(st.binary(max_size=64), st.integers(0, 0x1FFFFFFF)), min_size=1, max_size=6),
    st.integers(0, 0xFFFF),
)
def test_checksums_of_mixed_lengths_equal_the_bitwise_definition(
    name: str, rows: list[tuple[bytes, int]], data_id: int
) -> None:
    batch = frames(*[(can_id, payload) for payload, can_id in rows])
    found = checksum(name, batch.data, batch.length, batch.can_id, data_id)
    assert found.tolist() == [slow(name, payload, can_id, data_id) for payload, can_id in rows]


def test_an_unknown_checksum_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="crc8-autosar"):
        checksum("crc9", CHECK, 9)
    with pytest.raises(ValueError, match="crc8-autosar"):
        Rule(0, 1, "crc9", signal("s", 0, 8))


def test_a_rule_with_half_a_checksum_is_refused() -> None:
    with pytest.raises(ValueError, match="both"):
        Rule(0, 1, "xor8")
    with pytest.raises(ValueError, match="bits long"):
        Rule(0, 1, "xor8", signal("s", 0, 80))


PROTECTED = manifest(
    message(
        "m",
        0x123,
        signal("value", 8, 16),
        signal("count", 4, 4, role="counter"),
        signal("crc", 7, 8, big_endian=True, role="checksum"),
        checksum="crc8-autosar",
        checksum_data_id=0xBEEF,
    ),
    message("plain", 2, signal("value", 0, 8)),
    message("counted", 3, signal("count", 0, 2, role="counter"), length=1),
)


@pytest.mark.parametrize("name", CHECKSUMS)
@pytest.mark.parametrize("place", [signal("crc", 56, 8), signal("crc", 63, 8, big_endian=True)])
def test_what_fill_writes_verify_accepts_and_one_changed_bit_is_found(name: str, place: object) -> None:
    rule = Rule(0, 0x2C1, name, place, 0 if name == "toyota" else 0x1234)  # type: ignore[arg-type]  # parametrised
    batch = frames(*[(0x2C1, bytes(range(i, i + 8))) for i in range(30)])
    rule.fill(batch.data, 8)
    assert rule.verify(batch).all()
    for bit in range(64):
        batch.data[:, bit // 8] ^= 1 << bit % 8
        assert not rule.verify(batch).any()
        batch.data[:, bit // 8] ^= 1 << bit % 8


def test_a_checksum_in_the_middle_covers_the_other_bits_of_its_bytes() -> None:
    rule = Rule(0, 1, "crc8-sae-j1850", signal("crc", 12, 8))
    batch = frames((1, b"\xff" * 8))
    rule.fill(batch.data, 8)
    assert rule.verify(batch).tolist() == [True]
    batch.data[0, 1] ^= 1
    assert rule.verify(batch).tolist() == [False]


def test_a_frame_too_short_for_its_checksum_is_wrong() -> None:
    rule = Rule(0, 1, "xor8", signal("crc", 56, 8))
    assert rule.verify(frames((1, bytes(8)), (1, bytes(7)), (1, b""))).tolist() == [True, False, False]


def test_roles_in_the_manifest_make_the_rules() -> None:
    first, second = rules_of(PROTECTED)
    assert (first.algorithm, first.data_id, first.can_id) == ("crc8-autosar", 0xBEEF, 0x123)
    assert first.checksum is not None
    assert first.counter is not None
    assert (first.checksum.name, first.counter.name) == ("crc", "count")
    assert (second.message, second.algorithm, second.checksum) == (2, "", None)
    assert rule_of(PROTECTED, 1) is None


def counted(*values: int) -> list[bool]:
    """One verdict per counter value of message "counted", each value in a batch of its own."""
    verifier = Verifier(rules_of(PROTECTED))
    numbers = np.array([2], np.int32)
    return [bool(verifier.check(frames((3, bytes([v]))), numbers).counter_ok[0]) for v in values]


def test_a_counter_goes_up_by_one_modulo_its_length_across_batches() -> None:
    assert counted(2, 3, 0, 1, 1, 2, 0, 1) == [True, True, True, True, False, True, False, True]


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 30))
def test_counters_are_judged_the_same_however_frames_are_batched(values: list[int], size: int) -> None:
    verifier = Verifier(rules_of(PROTECTED))
    judged: list[bool] = []
    for at in range(0, len(values), size):
        part = values[at : at + size]
        verdict = verifier.check(frames(*[(3, bytes([v])) for v in part]), np.full(len(part), 2, np.int32))
        judged += verdict.counter_ok.tolist()
    assert judged == counted(*values)


def test_a_frame_with_a_wrong_checksum_is_not_counted() -> None:
    rule = rules_of(PROTECTED)[0]
    batch = frames(*[(0x123, bytes([0, 0, 0, 0, 0, 0, 0, 0])) for _ in range(4)])
    batch.data[:, 0] = np.array([0x10, 0x20, 0x70, 0x30]) & 0xF0
    layout = rule.counter
    assert layout is not None
    shifted = Rule(0, 0x123, "crc8-autosar", signal("crc", 8, 8), 0xBEEF, layout)
    shifted.fill(batch.data, 8)
    batch.data[2, 1] ^= 0xFF
    verdict = Verifier([shifted]).check(batch, np.zeros(4, np.int32))
    assert verdict.checksum_ok.tolist() == [True, True, False, True]
    assert verdict.counter_ok.tolist() == [True, True, True, True]


def test_messages_in_a_mixed_batch_count_separately_and_others_pass() -> None:
    rules = [Rule(0, 1, counter=signal("c", 0, 8)), Rule(4, 2, counter=signal("c", 0, 8))]
    verifier = Verifier(rules)
    batch = frames((1, b"\x05"), (2, b"\x09"), (9, b"\x00"), (1, b"\x06"), (2, b"\x08"), (9, b"\x00"))
    verdict = verifier.check(batch, np.array([0, 4, -1, 0, 4, 3], np.int32))
    assert verdict.counter_ok.tolist() == [True, True, True, True, False, True]
    assert verdict.checksum_ok.all()


def test_forgetting_a_message_starts_its_counter_anew() -> None:
    verifier = Verifier([Rule(0, 1, counter=signal("c", 0, 8))])
    numbers = np.zeros(1, np.int32)
    verifier.check(frames((1, b"\x05")), numbers)
    verifier.forget(0)
    assert verifier.check(frames((1, b"\x63")), numbers).counter_ok.tolist() == [True]


def test_an_empty_batch_and_no_rules_are_fine() -> None:
    assert len(Verifier(rules_of(PROTECTED)).check(frames(), np.zeros(0, np.int32)).checksum_ok) == 0
    assert Verifier([]).check(frames((1, b"")), np.zeros(1, np.int32)).checksum_ok.tolist() == [True]
