"""Bytes that are no delta, or try to be more than one: refused with a reason, without taking much memory or time."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.delta import DamagedDelta, DeltaFile, WrongBase
from gateway.wire.delta import (
    FIXED_BYTES,
    MAX_REFERENCE_BYTES,
    DeltaFormatError,
    DeltaHeader,
    Method,
    NewSegment,
    Patch,
    Window,
    encode_header,
    encode_patch,
    encode_windows,
    header_bytes,
)
from gateway.wire.delta.segment import PATCH_FACTOR
from tests.gateway.delta.support import Memory, applied, build, opened

SEGMENT = 4096
BASE = random.Random(3).randbytes(3 * SEGMENT)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """(delta, target) with a patched, a copied, a compressed and a zero segment, and a short one."""
    changed = bytearray(BASE[:SEGMENT])
    changed[::7] = bytes(b ^ 1 for b in changed[::7])
    target = bytes(changed) + BASE[SEGMENT : 2 * SEGMENT] + b"some text " * 400 + bytes(2 * SEGMENT) + b"end"
    delta, facts = build(tmp_path_factory.mktemp("example"), BASE, target, SEGMENT)
    assert {"copy", "zero", "zstd"} < set(facts.methods)
    return delta, target


def made(payload: bytes, method: Method, output: bytes, *, base_length: int = len(BASE)) -> bytes:
    """A delta of one segment with a payload of our own."""
    segment = NewSegment(method=method, payload_bytes=len(payload), sha256=hashlib.sha256(output).digest())
    header = encode_header(
        segment_bytes=SEGMENT,
        base_length=base_length,
        base_sha256=hashlib.sha256(BASE).digest(),
        target_length=len(output),
        target_sha256=hashlib.sha256(output).digest(),
        segments=[segment],
    )
    return header + payload


def refused(delta: bytes, base: bytes = BASE) -> str:
    """Why the first segment is refused."""
    file = opened(delta)
    with pytest.raises(DamagedDelta) as caught:
        file.segment(0, Memory(base))
    return str(caught.value)


def packed(content: bytes, *, with_size: bool = True) -> bytes:
    """A zstd frame."""
    return zstandard.ZstdCompressor(level=3, write_content_size=with_size).compress(content)


def patch(
    copies: list[int],
    literals: list[int],
    seeks: list[int],
    literal: bytes = b"",
    *,
    changed: Sequence[int] = (),
    differences: bytes = b"",
) -> bytes:
    """The frame of a patch."""
    columns = [np.array(c, np.int64) for c in (copies, literals, seeks, changed)]
    told = Patch(
        copies=columns[0],
        literals=columns[1],
        seeks=columns[2],
        literal=literal,
        changed=columns[3],
        differences=differences,
    )
    return packed(encode_patch(told))


def one_window(length: int, offset: int = 0) -> bytes:
    return encode_windows([Window(offset, length)], 0)


def test_a_delta_cut_at_any_byte_is_refused_before_anything_is_made(example: tuple[bytes, bytes]) -> None:
    delta, _ = example
    for length in range(len(delta)):
        with pytest.raises(DamagedDelta):
            opened(delta[:length])
    with pytest.raises(DamagedDelta, match="the file at"):
        opened(delta + b"x")


def test_no_byte_of_the_header_can_change_unnoticed(example: tuple[bytes, bytes]) -> None:
    delta, _ = example
    for at in range(header_bytes(opened(delta).header.count)):
        bad = bytearray(delta)
        bad[at] ^= 0x41
        with pytest.raises(DamagedDelta):
            opened(bytes(bad))


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, b"ORB", "not an Outrider delta"),
        (3, b"\x02", "format 2"),
        (4, (4095).to_bytes(4, "little"), "segments of 4095"),
        (4, (0).to_bytes(4, "little"), "segments of 0"),
        (4, (1 << 31).to_bytes(4, "little"), "segments of"),
        (8, (1 << 63).to_bytes(8, "little"), "base of"),
        (48, (1 << 62).to_bytes(8, "little"), "segments for a target"),
        (48, (0).to_bytes(8, "little"), "segments for a target"),
        (88, (0xFFFF_FFFF).to_bytes(4, "little"), "4294967295 segments"),
        (92, b"\x06", "no such method"),
        (93, b"\x01", "no such method"),
        (96, (0xFFFF_FFFF).to_bytes(4, "little"), "payload of 4294967295 bytes"),
        (96, (0).to_bytes(4, "little"), "payload of 0 bytes"),
    ],
)
def test_each_field_is_checked_even_with_a_right_checksum(
    example: tuple[bytes, bytes], at: int, value: bytes, reason: str
) -> None:
    delta, _ = example
    size = header_bytes(opened(delta).header.count)
    body = bytearray(delta[: size - 32])
    body[at : at + len(value)] = value
    hostile = bytes(body) + hashlib.sha256(body).digest() + delta[size:]
    with pytest.raises(DamagedDelta, match=reason):
        opened(hostile)


def test_a_header_never_makes_the_reader_read_more_than_the_file_has() -> None:
    asked = []

    def read_at(offset: int, length: int) -> bytes:
        asked.append(length)
        return (b"ORD\x01" + (1 << 21).to_bytes(4, "little") + bytes(40) + ((1 << 21) * 65_536).to_bytes(8, "little")
                + bytes(32) + (65_536).to_bytes(4, "little"))[offset : offset + length]  # fmt: skip

    with pytest.raises(DamagedDelta, match="ends within its header"):
        DeltaFile.open(read_at, FIXED_BYTES)
    assert max(asked) <= FIXED_BYTES


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_payloads_give_the_content_or_an_error_and_nothing_else(
    example: tuple[bytes, bytes], data: st.DataObject
) -> None:
    delta, target = example
    start = header_bytes(opened(delta).header.count)
    bad = bytearray(delta)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(start, len(delta) - 1))] = data.draw(st.integers(0, 255))
    file = opened(bytes(bad))
    for index in range(len(file)):
        record = file.record(index)
        try:
            content = file.segment(index, Memory(BASE))
        except DamagedDelta:
            continue
        assert content == target[record.output_offset : record.output_offset + record.output_bytes]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_no_delta(content: bytes) -> None:
    for noise in (content, b"ORD\x01" + content):
        with pytest.raises(DamagedDelta):
            opened(noise)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from((Method.COPY, Method.REFERENCE, Method.PATCH, Method.ZSTD)), st.binary(min_size=1, max_size=80))
def test_arbitrary_payloads_are_refused(method: Method, payload: bytes) -> None:
    refused(made(payload, method, bytes(range(200))))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 300))
def test_arbitrary_patches_are_refused(body: bytes, length: int) -> None:
    refused(made(one_window(64) + packed(body), Method.PATCH, hashlib.sha512(body).digest() * 8))


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(lambda: packed(bytes(1 << 28)), id="bomb"),
        pytest.param(lambda: packed(bytes(SEGMENT + 1)), id="one byte more"),
        pytest.param(lambda: packed(bytes(SEGMENT - 1)), id="one byte less"),
        pytest.param(lambda: packed(bytes(SEGMENT), with_size=False), id="no size"),
        pytest.param(lambda: packed(bytes(SEGMENT)) + b"x", id="bytes after the frame"),
        pytest.param(lambda: packed(bytes(SEGMENT)) + packed(bytes(SEGMENT)), id="two frames"),
        pytest.param(lambda: b"\x50\x2a\x4d\x18\x00\x10\x00\x00" + bytes(SEGMENT), id="skippable frame"),
    ],
)
@pytest.mark.parametrize("method", [Method.ZSTD, Method.REFERENCE])
def test_a_frame_makes_exactly_the_segment_or_nothing(frame: Callable[[], bytes], method: Method) -> None:
    listed = one_window(100) if method is Method.REFERENCE else b""
    refused(made(listed + frame(), method, bytes(SEGMENT)))


def test_a_frame_that_lies_about_its_size_makes_no_more() -> None:
    honest = bytearray(packed(bytes(3 * SEGMENT)))
    assert zstandard.frame_content_size(bytes(honest)) == 3 * SEGMENT
    at = bytes(honest).index((3 * SEGMENT - 256).to_bytes(2, "little"))
    honest[at : at + 2] = (SEGMENT - 256).to_bytes(2, "little")
    assert zstandard.frame_content_size(bytes(honest)) == SEGMENT
    refused(made(bytes(honest), Method.ZSTD, bytes(SEGMENT)))


def test_a_frame_with_a_huge_window_is_refused() -> None:
    frame = bytearray(zstandard.ZstdCompressor(level=1).compress(bytes(600)))
    frame[4] &= ~0x20  # not a single segment: a window descriptor follows
    frame[5:5] = b"\x88"  # 128 MiB
    assert zstandard.get_frame_parameters(bytes(frame)).window_size == 1 << 27
    assert zstandard.ZstdDecompressor().decompress(bytes(frame)) == bytes(600)
    assert "window" in refused(made(bytes(frame), Method.ZSTD, bytes(600)))


@pytest.mark.parametrize(
    ("windows", "reason"),
    [
        ([(len(BASE), 1)], "outside"),
        ([(len(BASE) - 10, 11)], "outside"),
        ([(0, 1 << 40)], "outside"),
        ([(0, 10), (-1, 10)], "outside"),
        ([(5, 0)], "empty"),
        ([(0, len(BASE))] * (MAX_REFERENCE_BYTES // len(BASE) + 1), "too long"),
        ([(0, 1)] * 5000, "more than"),
    ],
)
def test_windows_stay_within_base_and_limits(windows: list[tuple[int, int]], reason: str) -> None:
    numbers, at = bytearray(), 0
    for offset, length in windows:
        step = offset - at
        for number in ((step << 1) if step >= 0 else (-step << 1) - 1, length):
            while number >= 0x80:
                numbers.append(number & 0x7F | 0x80)
                number >>= 7
            numbers.append(number)
        at = offset + length
    payload = len(numbers).to_bytes(4, "little") + bytes(numbers)
    assert reason in refused(made(payload, Method.COPY, BASE[:100]))


def test_a_window_list_may_not_be_longer_than_its_payload() -> None:
    for size in (1, 9, 1 << 31, 0xFFFF_FFFF):
        assert "too long" in refused(made(size.to_bytes(4, "little"), Method.COPY, BASE[:100]))


def test_copied_windows_are_exactly_the_segment() -> None:
    assert applied(made(one_window(100), Method.COPY, BASE[:100]), BASE) == BASE[:100]
    for length in (99, 101):
        assert "not as long" in refused(made(one_window(length), Method.COPY, BASE[:100]))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (lambda: patch([101], [0], [0]), "too large|more or less"),
        (lambda: patch([99], [0], [0]), "more or less"),
        (lambda: patch([90], [10], [0], b"123456789"), "more or less"),
        (lambda: patch([90], [10], [0], b"12345678901"), "more or less"),
        (lambda: patch([100], [0], [-1]), "outside"),
        (lambda: patch([100], [0], [29]), "outside"),
        (lambda: patch([50, 50], [0, 0], [0, -51]), "outside"),
        (lambda: patch([100], [0], [1 << 62]), "too large"),
        (lambda: patch([100], [0], [-(1 << 63)]), "too large"),
        (lambda: patch([50, 50], [0], [0]), "different lengths"),
        (lambda: patch([0] * 50 + [100], [0] * 51, [0] * 51), "more than"),
        (lambda: patch([100], [0], [0], changed=[100], differences=b"\x01"), "after its end"),
        (lambda: patch([100], [0], [0], changed=[5, 6], differences=b"\x01"), "more than|different"),
        (lambda: patch([100], [0], [0], changed=[5], differences=b"\x01\x02"), "different"),
        (lambda: packed(b""), "ends within"),
        (lambda: packed(bytes(23)), "ends within"),
        (lambda: packed(b"\xff\xff\xff\xff" * 6), "not as long"),
        (lambda: packed(bytes(PATCH_FACTOR * 100 + 65)), "unpacked"),
        (lambda: packed(bytes(1 << 28)), "unpacked"),
    ],
)
def test_a_patch_stays_within_its_windows_and_its_segment(frame: Callable[[], bytes], reason: str) -> None:
    text = refused(made(one_window(128) + frame(), Method.PATCH, BASE[:100]))
    assert any(word in text for word in reason.split("|")), text


def test_a_patch_that_fits_is_applied() -> None:
    frame = patch([50, 40], [0, 10], [3, -53], b"0123456789", changed=[0, 89], differences=b"\x01\xff")
    want = bytearray(BASE[3:53] + BASE[0:40] + b"0123456789")
    want[0], want[89] = (want[0] + 1) % 256, (want[89] - 1) % 256
    assert applied(made(one_window(128) + frame, Method.PATCH, bytes(want)), BASE) == want


def test_raw_payloads_are_as_long_as_their_segment() -> None:
    assert applied(made(b"abc", Method.RAW, b"abc"), BASE) == b"abc"
    for payload in (b"ab", b"abcd", b"abd"):
        refused(made(payload, Method.RAW, b"abc"))


def test_a_wrong_base_is_told_before_the_first_segment(example: tuple[bytes, bytes]) -> None:
    delta, _ = example
    file = opened(delta)
    seen: list[tuple[int, int]] = []
    file.check_base(Memory(BASE + b"the slot is longer"), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(BASE), len(BASE))
    flipped = bytes([BASE[0] ^ 1]) + BASE[1:]
    for wrong in (flipped, BASE[:-1], b"", BASE[:-1] + bytes([BASE[-1] ^ 0x80])):
        with pytest.raises(WrongBase):
            file.check_base(Memory(wrong))


def test_segments_of_a_base_that_changed_after_the_check_are_refused(example: tuple[bytes, bytes]) -> None:
    delta, target = example
    file = opened(delta)
    refusals = 0
    for base in (bytes(b ^ 1 for b in BASE), BASE[:100]):
        for index in range(len(file)):
            place = file.record(index).output_offset
            try:
                assert file.segment(index, Memory(base)) == target[place : place + SEGMENT]
            except DamagedDelta:
                refusals += 1
    assert refusals >= 4


def test_segments_may_be_made_in_any_order_and_again(example: tuple[bytes, bytes]) -> None:
    delta, target = example
    file = opened(delta)
    for index in (3, 0, 3, len(file) - 1, 1):
        place = file.record(index).output_offset
        assert file.segment(index, Memory(BASE)) == target[place : place + SEGMENT]
    assert b"".join(content for _, content in file.segments(Memory(BASE), start=2)) == target[2 * SEGMENT :]
    for index in (-1, len(file)):
        with pytest.raises(IndexError):
            file.segment(index, Memory(BASE))


def test_a_builder_cannot_write_what_a_vehicle_would_refuse(tmp_path: Path) -> None:
    with pytest.raises(DeltaFormatError):
        encode_windows([Window(0, MAX_REFERENCE_BYTES), Window(0, 1)], 0)
    with pytest.raises(DeltaFormatError):
        encode_header(
            segment_bytes=SEGMENT,
            base_length=0,
            base_sha256=bytes(32),
            target_length=1,
            target_sha256=bytes(32),
            segments=[],
        )
    with pytest.raises(DeltaFormatError):
        DeltaHeader(b"", 0)
