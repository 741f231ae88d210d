"""The batch codec: decoding gives the canonical content back exactly, whatever the content."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbc.frames import FrameBatch
from gateway.wire.batch import BatchHeader
from gateway.wire.codec import (
    MAX_ITEMS,
    Limits,
    canonical,
    canonical_events,
    canonical_frames,
    decode_batch,
    encode_batch,
    read_header,
)
from gateway.wire.samples import Event, SampleBlock
from tests.gateway.wire.batches import EVENTS, HEADER, assert_same, frame_batches, sample_blocks
from tests.support import LONG

pytestmark = pytest.mark.timeout(1800 if LONG else 120)

RESOLUTIONS = st.sampled_from((1, 1_000, 1_000_000, 7, 1_000_000_000))


@settings(max_examples=5_000 if LONG else 150, deadline=None)
@given(sample_blocks(), frame_batches(), EVENTS, RESOLUTIONS)
def test_decoding_gives_the_canonical_content_back(
    block: SampleBlock, frames: FrameBatch, events: list[Event], resolution_ns: int
) -> None:
    content = encode_batch(**HEADER, samples=block, frames=frames, events=events, resolution_ns=resolution_ns)
    batch = decode_batch(content)
    assert_same(batch.samples, canonical(block, resolution_ns))
    assert_same(batch.frames, canonical_frames(frames, resolution_ns))
    assert batch.events == canonical_events(events, resolution_ns)
    assert batch.header == read_header(content)
    assert batch.header.items == len(block) + len(frames) + len(events)


@settings(max_examples=50, deadline=None)
@given(sample_blocks(), RESOLUTIONS)
def test_canonical_form_is_its_own_canonical_form(block: SampleBlock, resolution_ns: int) -> None:
    once = canonical(block, resolution_ns)
    assert_same(canonical(once, resolution_ns), once)


def _block(times_ns: list[int], raw: list[int], message: int = 0, signal: int = 0) -> SampleBlock:
    n = len(raw)
    return SampleBlock(
        np.array(times_ns, np.int64),
        np.full(n, message, np.int32),
        np.arange(n, dtype=np.int32),
        np.full(n, signal, np.int32),
        np.array(raw, np.int64),
        np.zeros(n, np.uint8),
    )


@pytest.mark.parametrize("count", [1, 2, 3, 100, 5_000])
def test_extreme_raw_values_survive_at_any_length(count: int) -> None:
    raw = [(-(2**63), 2**63 - 1, 0, -1)[i % 4] for i in range(count)]
    block = _block([i * 10_000_000 for i in range(count)], raw)
    assert decode_batch(encode_batch(**HEADER, samples=block)).samples.raw.tolist() == raw


def test_clock_set_back_leaves_every_row_with_its_floored_time() -> None:
    times = [5_000_000_000 + i * 1_000_000 for i in range(50)] + [1_000_000_000 + i * 1_000_000 for i in range(50)]
    block = _block(times, list(range(100)))
    decoded = decode_batch(encode_batch(**HEADER, samples=block)).samples
    assert dict(zip(decoded.row_timestamp_ns.tolist(), decoded.raw.tolist(), strict=True)) == dict(
        zip(times, range(100), strict=True)
    )


def test_times_before_1970_survive() -> None:
    block = _block([-3_500_000, -1, 0], [1, 2, 3])
    assert decode_batch(encode_batch(**HEADER, samples=block)).samples.row_timestamp_ns.tolist() == [
        -4_000_000,
        -1_000_000,
        0,
    ]


def test_clock_jump_over_decades_costs_no_exactness() -> None:
    times = [i * 10_000_000 for i in range(100)] + [2**62 + i * 10_000_000 for i in range(100)]
    block = _block(times, list(range(200)))
    assert_same(decode_batch(encode_batch(**HEADER, samples=block, resolution_ns=1)).samples, block)


def test_rows_of_equal_floored_time_keep_their_order_of_reception_within_a_message() -> None:
    block = _block([1_000_900, 1_000_100, 1_000_500], [3, 1, 2])
    assert decode_batch(encode_batch(**HEADER, samples=block)).samples.raw.tolist() == [3, 1, 2]


def test_rows_without_samples_are_left_out() -> None:
    block = SampleBlock(
        np.array([1_000_000, 2_000_000], np.int64),
        np.array([3, 4], np.int32),
        np.array([1], np.int32),
        np.array([9], np.int32),
        np.array([-5], np.int64),
        np.array([0], np.uint8),
    )
    batch = decode_batch(encode_batch(**HEADER, samples=block))
    assert batch.samples.row_message.tolist() == [4]
    assert batch.samples.raw.tolist() == [-5]
    assert batch.header.first_ns == batch.header.last_ns == 2_000_000


def test_signals_numbered_beyond_any_table_survive() -> None:
    block = _block([0, 1_000_000], [1, 2], message=2**31 - 1, signal=2**31 - 1)
    assert_same(decode_batch(encode_batch(**HEADER, samples=block)).samples, block)


def test_header_tells_what_the_batch_holds() -> None:
    block = _block([1_500_000, 9_700_000], [1, 2])
    header = read_header(encode_batch(**HEADER, samples=block, frames=FrameBatch.from_rows([(3, 0, 1, 0, b"x")])))
    assert header == BatchHeader(
        stream=HEADER["stream"],
        sequence=7,
        items=3,
        items_before=1234,
        manifest_hash=bytes(range(32)),
        created_ns=HEADER["created_ns"],
        first_ns=0,
        last_ns=9_000_000,
        resolution_ns=1_000_000,
        samples=2,
        frames=1,
        events=0,
        schemes=(("everything", 3),),
    )


def test_empty_batch_is_a_batch() -> None:
    batch = decode_batch(encode_batch(**HEADER))
    assert batch.header.items == 0
    assert len(batch.samples) == len(batch.frames) == len(batch.events) == 0


def test_encoding_is_deterministic() -> None:
    block = _block([i * 10_000_000 for i in range(100)], list(range(100)))
    assert encode_batch(**HEADER, samples=block) == encode_batch(**HEADER, samples=block)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sequence": 0}, "sequence"),
        ({"manifest_hash": b"short"}, "manifest hash"),
        ({"resolution_ns": 0}, "resolution"),
        ({"items_before": -1}, "count"),
        ({"schemes": tuple((f"scheme {i}", 1) for i in range(10_000))}, "header"),
    ],
)
def test_encoder_refuses_a_header_no_decoder_would_accept(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        encode_batch(**(HEADER | change))


def test_encoder_refuses_a_sample_outside_the_rows() -> None:
    block = _block([0], [1])
    block.row[0] = 1
    with pytest.raises(ValueError, match="outside the rows"):
        encode_batch(**HEADER, samples=block)


def test_encoder_refuses_more_items_than_any_decoder_accepts() -> None:
    n = MAX_ITEMS + 1
    block = SampleBlock(
        np.zeros(1, np.int64),
        np.zeros(1, np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.int64),
        np.zeros(n, np.uint8),
    )
    with pytest.raises(ValueError, match="at most"):
        encode_batch(**HEADER, samples=block)


def test_many_constant_samples_cost_next_to_nothing_and_come_back() -> None:
    n = 200_000
    block = _block([i * 1_000_000 for i in range(n)], [42] * n)
    content = encode_batch(**HEADER, samples=block)
    assert len(content) < 400
    decoded = decode_batch(content, Limits(max_items=n)).samples
    assert_same(decoded, block)
