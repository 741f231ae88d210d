"""No manifest and no frame makes the decoder raise, and what it says of a batch does not depend on the batch."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dbc.decode import Decoded, Decoder, FrameStatus, Values
from dbc.decode.identify import Identifier
from dbc.frames import FrameBatch
from dbc.manifest import Kind, Manifest, Message, MuxBranch, Signal
from tests.dbc.decode_support import manifest, message, samples, signal
from tests.support import LONG

EXAMPLES = 1000 if LONG else 100

integers = st.one_of(st.integers(0, 4), st.integers(-(1 << 64), 1 << 64))
ranges = st.lists(st.tuples(integers, integers), max_size=3).map(tuple)


@st.composite
def any_signal(draw: st.DrawFn, name: str, selectors: int) -> Signal:
    """A signal that may lie anywhere and hang on anything, even on itself."""
    branches = st.builds(MuxBranch, st.integers(-1, selectors), ranges)
    return signal(
        name,
        draw(st.integers(-1, 530)),
        draw(st.integers(0, 70)),
        big_endian=draw(st.booleans()),
        kind=draw(st.sampled_from(Kind)),
        scale=draw(st.floats(allow_nan=False, allow_infinity=False)),
        offset=draw(st.floats(allow_nan=False, allow_infinity=False)),
        mux=tuple(draw(st.lists(branches, max_size=3))) if draw(st.booleans()) else (),
    )


@st.composite
def any_manifest(draw: st.DrawFn) -> Manifest:
    messages: list[Message] = []
    for number in range(draw(st.integers(0, 4))):
        count = draw(st.integers(0, 6))
        signals = [draw(any_signal(f"s{i}", count)) for i in range(count)]
        messages.append(
            message(
                f"m{number}",
                draw(st.one_of(st.integers(0, 3), st.integers(0, 0x1FFFFFFF))),
                *signals,
                bus=draw(st.integers(0, 1)),
                extended=draw(st.booleans()),
                length=draw(st.integers(0, 64)),
                pgn=draw(st.one_of(st.none(), st.integers(0, 0x3FFFF))),
            )
        )
    return manifest(*messages, buses=("a", "b"))


rows = st.tuples(
    st.integers(0, 1 << 62),
    st.sampled_from([0, 0, 1, 2, 255]),
    st.one_of(st.integers(0, 3), st.integers(0, 0xFFFFFFFF)),
    st.one_of(st.sampled_from([0, 1, 8]), st.integers(0, 255)),
    st.binary(max_size=64),
)


@given(any_manifest(), st.lists(rows, max_size=12))
@settings(max_examples=EXAMPLES)
def test_any_frame_with_any_manifest(layout: Manifest, content: list[tuple[int, int, int, int, bytes]]) -> None:
    decoder = Decoder(layout)
    batch = FrameBatch.from_rows(content)
    decoded = decoder.decode(batch)
    assert len(decoded.message) == len(decoded.status) == len(content)
    assert set(decoded.status.tolist()) <= set(FrameStatus)
    assert np.all((decoded.message >= 0) | np.isin(decoded.status, [1, 2, 3]))
    order = decoded.frame.astype(np.int64) << 32 | decoded.signal
    assert np.all(np.diff(order) > 0)
    assert np.all(np.array(layout.signal_message, np.int64)[decoded.signal] == decoded.message[decoded.frame])
    assert not np.isin(decoded.signal, [number for number, _ in decoder.unsupported]).any()
    assert len(Values(layout).physical(decoded.signal, decoded.raw)) == len(decoded)
    _same_one_by_one(decoder, batch, decoded)


def _same_one_by_one(decoder: Decoder, batch: FrameBatch, decoded: Decoded) -> None:
    """Frame by frame gives what the batch gave."""
    singles = [decoder.decode(batch.take(slice(i, i + 1))) for i in range(len(batch))]
    assert [s.message[0] for s in singles] == decoded.message.tolist()
    assert [s.status[0] for s in singles] == decoded.status.tolist()
    assert [(i, s, r) for i, one in enumerate(singles) for _, s, r in samples(one)] == samples(decoded)


def test_a_batch_far_larger_than_the_last_is_decoded_whole() -> None:
    layout = manifest(message("m", 1, *[signal(f"s{i}", i, 1) for i in range(64)]), message("empty", 2))
    decoder = Decoder(layout)
    for can_id, count in ((1, 3), (1, 5000), (2, 20_000), (1, 1)):
        batch = FrameBatch.empty(count)
        batch.can_id[:] = can_id
        batch.length[:] = 8
        batch.data[:, 0] = np.arange(count) & 0xFF
        decoded = decoder.decode(batch)
        assert len(decoded) == (64 * count if can_id == 1 else 0)
        if can_id == 1:
            assert np.array_equal(decoded.raw.reshape(count, 64)[:, 0], np.arange(count) & 1)


def test_thousands_of_identifiers_are_found_without_a_perfect_hash() -> None:
    generator = np.random.default_rng(3)
    identifiers = np.unique(generator.integers(0, 1 << 29, 4000))
    messages = [message(f"m{i}", int(c), extended=True) for i, c in enumerate(identifiers.tolist())]
    finder = Identifier(manifest(*messages))
    batch = FrameBatch.empty(len(identifiers) + 1)
    batch.can_id[:-1] = identifiers
    batch.flags[:] = 1
    assert finder.match(batch).tolist() == [*range(len(identifiers)), len(identifiers)]
