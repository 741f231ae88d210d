"""Whatever the bytes, a reader gives a batch or a ``CodecError``, in bounded memory."""

from __future__ import annotations

import random
import tracemalloc
import zlib

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.batch import Batch, BatchHeader
from gateway.wire.codec import MAX_ITEMS, CodecError, Limits, decode_batch, encode_batch, read_header
from gateway.wire.codec.numbers import pack_varints, unpack_varints
from gateway.wire.samples import SampleBlock
from tests.gateway.wire.batches import HEADER
from tests.support import LONG, ROOT
from tests.vectors.make_batches import HEAD, VECTORS

pytestmark = pytest.mark.timeout(1800 if LONG else 120)

SEEDS = [p.read_bytes() for p in sorted((ROOT / "tests" / "vectors").glob("batch-1-*.orb"))]
EXTREMES = (0, 1, 2, 8, 9, 63, 64, 65, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def take_apart(content: bytes) -> tuple[bytes, BatchHeader, bytes]:
    """(everything up to the body, header, unpacked body)."""
    end = 10 + int.from_bytes(content[4:6], "little")
    return content[:end], read_header(content), zstandard.ZstdDecompressor().decompress(content[end:])


def wrap(header: bytes, body: bytes, *, checksum: bool = True, size: bool = True) -> bytes:
    """A container whose checksums are right, around any header bytes and body."""
    prefix = b"ORB\x01" + len(header).to_bytes(2, "little") + header
    packed = zstandard.ZstdCompressor(level=1, write_checksum=checksum, write_content_size=size).compress(body)
    return prefix + zlib.crc32(prefix).to_bytes(4, "little") + packed


def decode_or_refuse(content: bytes) -> Batch | None:
    """The batch or None; anything but a ``CodecError`` escapes and fails the test."""
    try:
        return decode_batch(content, Limits(max_items=20_000, max_unpacked_bytes=4 * 1024 * 1024))
    except CodecError:
        return None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(content: bytes) -> None:
    for candidate in (content, b"ORB\x01" + content):
        with pytest.raises(CodecError):
            decode_batch(candidate)
        with pytest.raises(CodecError):
            read_header(candidate)


@pytest.mark.parametrize("content", SEEDS)
def test_batch_cut_anywhere_is_refused(content: bytes) -> None:
    for size in range(len(content)):
        with pytest.raises(CodecError):
            decode_batch(content[:size])


@pytest.mark.parametrize("content", SEEDS)
def test_any_flipped_bit_is_noticed(content: bytes) -> None:
    chance = random.Random(0)
    whole = decode_batch(content)
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << chance.randrange(8)
        batch = decode_or_refuse(bytes(damaged))
        # zstd's frame header has bits that mean nothing; flipping these changes nothing
        assert batch is None or np.array_equal(batch.samples.raw, whole.samples.raw)


def test_bytes_after_the_end_are_refused() -> None:
    for content in SEEDS:
        with pytest.raises(CodecError):
            decode_batch(content + b"x")


def test_mutated_bodies_are_decoded_or_refused() -> None:
    """With sound checksums around them, as a hostile vehicle would send."""
    chance = random.Random(1)
    outcomes = set()
    for _ in range(100_000 if LONG else 1_500):
        prefix, _, body = take_apart(chance.choice(SEEDS))
        mutated = bytearray(body)
        directory_end = 4 + int.from_bytes(body[:4], "little")
        for _ in range(chance.randint(1, 4)):
            upto = directory_end if chance.random() < 0.8 else len(mutated)
            at = chance.randrange(max(1, min(upto, len(mutated))))
            match chance.randrange(3):
                case 0:
                    mutated[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    del mutated[at : at + chance.randint(1, 3)]
                case _:
                    mutated[at:at] = chance.randbytes(chance.randint(1, 3))
        outcomes.add(decode_or_refuse(wrap(prefix[6:-4], bytes(mutated))) is None)
    assert outcomes == {True, False}


def test_any_number_of_the_directory_replaced_is_decoded_or_refused() -> None:
    chance = random.Random(2)
    for content in SEEDS:
        prefix, _, body = take_apart(content)
        end = 4 + int.from_bytes(body[:4], "little")
        numbers = unpack_varints(np.frombuffer(body[4:end], np.uint8))
        for i in range(len(numbers)):
            for value in EXTREMES if LONG else chance.sample(EXTREMES, 6):
                changed = numbers.copy()
                changed[i] = value
                directory = pack_varints(changed)
                decode_or_refuse(wrap(prefix[6:-4], len(directory).to_bytes(4, "little") + directory + body[end:]))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 12), st.one_of(st.integers(-(2**63), 2**64 - 1), st.text(max_size=4), st.none(), st.binary()))
def test_any_field_of_the_header_replaced_is_decoded_or_refused(field: int, value: object) -> None:
    for content in SEEDS[:3]:
        _, header, body = take_apart(content)
        fields = list(msgspec.to_builtins(header, builtin_types=(bytes,)))
        fields[field] = value
        decode_or_refuse(wrap(msgspec.msgpack.encode(fields), body))


def test_header_of_a_later_writer_with_more_fields_is_read() -> None:
    content = encode_batch(**(HEAD | VECTORS["one"]))
    _, header, body = take_apart(content)
    fields = [*msgspec.to_builtins(header, builtin_types=(bytes,)), "new", {"and": "unknown"}]
    assert decode_batch(wrap(msgspec.msgpack.encode(fields), body)).header == header


def test_newer_format_is_named() -> None:
    content = bytearray(encode_batch(**HEADER))
    content[3] = 2
    with pytest.raises(CodecError, match="format 2, this version reads 1"):
        read_header(bytes(content))


@pytest.mark.parametrize(("checksum", "size"), [(False, True), (True, False)])
def test_body_without_checksum_or_size_is_refused(checksum: bool, size: bool) -> None:
    prefix, _, body = take_apart(SEEDS[0])
    with pytest.raises(CodecError, match="size or has no checksum"):
        decode_batch(wrap(prefix[6:-4], body, checksum=checksum, size=size))


def peak_bytes_of_refusing(content: bytes, limits: Limits, match: str) -> int:
    """Memory at the worst moment of an attempt that must be refused."""
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match=match):
            decode_batch(content, limits)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_zstd_bomb_is_refused_before_it_unpacks() -> None:
    prefix, _, _ = take_apart(SEEDS[0])
    bomb = wrap(prefix[6:-4], bytes(80 * 1024 * 1024))
    assert len(bomb) < 20_000
    assert peak_bytes_of_refusing(bomb, Limits(), "unpacked, at most") < 1024 * 1024


def test_frame_that_lies_about_its_size_is_refused() -> None:
    prefix, _, body = take_apart(SEEDS[-1])
    honest = wrap(prefix[6:-4], body)
    start = 10 + int.from_bytes(honest[4:6], "little")
    frame = bytearray(honest[start:])
    frame[5] ^= 0x10  # within the content size
    with pytest.raises(CodecError):
        decode_batch(honest[:start] + bytes(frame))


def test_constant_column_of_a_billion_samples_is_refused_before_it_is_made() -> None:
    n = MAX_ITEMS
    block = SampleBlock(
        np.arange(n, dtype=np.int64) * 1_000_000,
        np.zeros(n, np.int32),
        np.arange(n, dtype=np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.int64),
        np.zeros(n, np.uint8),
    )
    content = encode_batch(**HEADER, samples=block)
    assert len(content) < 200
    assert peak_bytes_of_refusing(content, Limits(max_items=n - 1), "items, at most") < 1024 * 1024
    _, header, body = take_apart(content)
    billion = msgspec.structs.replace(header, items=10**9, samples=10**9)
    assert peak_bytes_of_refusing(wrap(msgspec.msgpack.encode(billion), body), Limits(), "at most") < 1024 * 1024
    # Header and directory that disagree are refused before columns are made.
    few = msgspec.structs.replace(header, items=10, samples=10)
    assert peak_bytes_of_refusing(wrap(msgspec.msgpack.encode(few), body), Limits(), "above 10") < 1024 * 1024


def test_batch_longer_than_allowed_is_refused_unread() -> None:
    with pytest.raises(CodecError, match="bytes, at most 100"):
        decode_batch(SEEDS[0], Limits(max_bytes=100))
