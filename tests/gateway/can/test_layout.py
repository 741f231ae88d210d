"""SocketCAN's frame layouts: what the kernel writes is what a batch holds, and nothing else."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dbc.frames import BRS, ERROR, ESI, EXTENDED, FD, REMOTE, FrameBatch
from gateway.can.layout import build_frames, parse_frames


def rows_of(contents: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Rows as the receive buffers hold them: rubbish past each message."""
    rows = np.full((len(contents), 72), 0xA5, np.uint8)
    for i, content in enumerate(contents):
        rows[i, : len(content)] = np.frombuffer(content, np.uint8)[:72]
    return rows, np.array([len(c) for c in contents], np.uint32)


def parse(contents: list[bytes]) -> tuple[FrameBatch, int]:
    """The frames in datagrams, all of bus 3 and stamped by their place."""
    rows, sizes = rows_of(contents)
    return parse_frames(rows, sizes, np.arange(len(contents), dtype=np.int64), np.full(len(contents), 3, np.uint8))


@st.composite
def frame_rows(draw: st.DrawFn) -> tuple[int, int, int, int, bytes]:
    """Any frame a bus can carry."""
    kind = draw(st.sampled_from(["classic", "fd", "error", "remote"]))
    extended = draw(st.booleans())
    can_id = draw(st.integers(0, 0x1FFFFFFF if extended or kind == "error" else 0x7FF))
    flags = EXTENDED if extended and kind != "error" else 0
    if kind == "fd":
        flags |= FD | draw(st.sampled_from([0, BRS, ESI, BRS | ESI]))
        return 0, 3, can_id, flags, draw(st.binary(max_size=64))
    if kind == "error":
        return 0, 3, can_id, ERROR, draw(st.binary(min_size=8, max_size=8))
    if kind == "remote":
        return 0, 3, can_id, flags | REMOTE, b""
    return 0, 3, can_id, flags, draw(st.binary(max_size=8))


@given(st.lists(frame_rows(), max_size=20))
def test_frames_survive_the_kernels_layout(rows: list[tuple[int, int, int, int, bytes]]) -> None:
    """parse(build(batch)) == batch, whatever mix of frames shares a batch and whatever the buffer held before."""
    batch = FrameBatch.from_rows(rows)
    parsed, malformed = parse(build_frames(batch))
    assert malformed == 0
    assert (parsed.can_id == batch.can_id).all()
    assert (parsed.flags == batch.flags).all()
    assert (parsed.length == batch.length).all()
    assert (parsed.data == batch.data).all()
    assert (parsed.bus == 3).all()
    assert (parsed.timestamp_ns == np.arange(len(rows))).all()


@given(
    st.lists(
        st.one_of(st.binary(max_size=72), st.binary(min_size=16, max_size=16), st.binary(min_size=72, max_size=72))
    )
)
def test_any_datagrams_give_sound_frames_or_are_counted(contents: list[bytes]) -> None:
    """Lengths are in bounds, identifiers fit their format, payload past the length is zero, odd sizes are counted."""
    batch, malformed = parse(contents)
    assert malformed == sum(len(c) not in (16, 72) for c in contents)
    assert len(batch) == len(contents) - malformed
    fd = (batch.flags & FD) != 0
    assert (batch.length <= np.where(fd, 64, 8)).all()
    wide = (batch.flags & (EXTENDED | ERROR)) != 0
    assert (batch.can_id <= np.where(wide, 0x1FFFFFFF, 0x7FF)).all()
    past = np.arange(64) >= batch.length[:, None]
    assert not batch.data[past].any()


def test_a_length_beyond_the_format_is_cut() -> None:
    """A driver that claims 15 bytes in a classic frame gives 8."""
    batch, _ = parse(
        [struct.pack("=IB3x8s", 0x123, 15, b"abcdefgh"), struct.pack("=IBB2x64s", 0x124, 255, 4, b"x" * 64)]
    )
    assert batch.length.tolist() == [8, 64]
    assert bytes(batch.data[0, :10]) == b"abcdefgh\0\0"


def test_the_batch_does_not_alias_the_buffer() -> None:
    """The receive buffer is filled again while the batch is still in use."""
    rows, sizes = rows_of([struct.pack("=IB3x8s", 1, 8, b"\x01" * 8), struct.pack("=IBB2x64s", 2, 64, 0, b"\x02" * 64)])
    stamps, bus = np.zeros(2, np.int64), np.zeros(2, np.uint8)
    batch, _ = parse_frames(rows, sizes, stamps, bus)
    rows[:] = 0xFF
    assert batch.can_id.tolist() == [1, 2]
    assert set(batch.data[0, :8].tolist()) == {1}
    assert set(batch.data[1].tolist()) == {2}


def test_nothing_parses_to_nothing() -> None:
    """An empty buffer is an empty batch."""
    batch, malformed = parse([])
    assert (len(batch), malformed) == (0, 0)
