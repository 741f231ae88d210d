"""Strategies and comparisons for batch content; shared by the codec's tests."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from hypothesis import strategies as st

from dbc.frames import EXTENDED, FD, REMOTE, FrameBatch
from gateway.wire.samples import Event, EventKind, SampleBlock

I64 = st.integers(-(2**63), 2**63 - 1)
#: Around 2023, with clock jumps of hours and more, and a clock that was never set.
TIMES_NS = st.one_of(
    st.integers(1_700_000_000_000_000_000, 1_700_000_010_000_000_000),
    st.integers(0, 2**62),
)
RAW = st.one_of(st.integers(0, 15), st.integers(-200, 200), I64, st.sampled_from((0, -1, 2**63 - 1, -(2**63))))


@st.composite
def sample_blocks(draw: st.DrawFn, max_rows: int = 40) -> SampleBlock:
    """Any block: several signals of a message, some rows sparse, times in any order, messages that share signals."""
    count = draw(st.integers(0, max_rows))
    periodic = draw(st.booleans())
    start = draw(TIMES_NS)
    times = [start + i * 10_000_000 + draw(st.integers(0, 3_000_000)) for i in range(count)] if periodic else None
    rows, samples = [], []
    for r in range(count):
        rows.append((times[r] if times else draw(TIMES_NS), draw(st.integers(0, 4))))
        message = rows[-1][1]
        for signal in sorted(draw(st.lists(st.integers(0, 3), min_size=0, max_size=4))):
            quality = draw(st.sampled_from((0, 0, 0, 0, 1, 4, 255)))
            samples.append((r, message * 3 + signal, draw(RAW), quality))
    return SampleBlock(
        np.array([t for t, _ in rows], np.int64),
        np.array([m for _, m in rows], np.int32),
        np.array([s[0] for s in samples], np.int32),
        np.array([s[1] for s in samples], np.int32),
        np.array([s[2] for s in samples], np.int64),
        np.array([s[3] for s in samples], np.uint8),
    )


@st.composite
def frame_batches(draw: st.DrawFn, max_frames: int = 20) -> FrameBatch:
    """Any frames: classic, FD, remote, error, several buses."""
    rows = []
    for _ in range(draw(st.integers(0, max_frames))):
        flags = draw(st.sampled_from((0, 0, EXTENDED, FD, REMOTE, 4, 63)))
        size = draw(st.sampled_from((0, 1, 8, 64) if flags & FD else (0, 2, 8)))
        payload = b"" if flags & REMOTE else draw(st.binary(min_size=size, max_size=size))
        can_id = draw(st.sampled_from((0x100, 0x7FF, 0x18FEF100, 0x1FFFFFFF)))
        rows.append((draw(TIMES_NS), draw(st.sampled_from((0, 1, 255))), can_id, flags, payload))
    batch = FrameBatch.from_rows(rows)
    batch.length[(batch.flags & REMOTE) > 0] = 8
    return batch


EVENTS = st.lists(
    st.builds(Event, TIMES_NS, st.sampled_from(EventKind), st.text(max_size=12), st.text(max_size=12)), max_size=4
)

HEADER: dict[str, Any] = {
    "stream": "00112233445566ff/normal",
    "sequence": 7,
    "items_before": 1234,
    "manifest_hash": bytes(range(32)),
    "created_ns": 1_700_000_010_500_000_000,
    "schemes": (("everything", 3),),
}


def assert_same(left: Any, right: Any) -> None:
    """Two blocks or frame batches are equal in every array, types included."""
    for field in fields(left):
        a, b = getattr(left, field.name), getattr(right, field.name)
        assert a.dtype == b.dtype, field.name
        np.testing.assert_array_equal(a, b, err_msg=field.name)
