"""Batches close by age and by size, the urgent ones first, and nothing gets lost between."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.batcher import Batcher, Piece
from gateway.wire.batch import Priority, UploadRule
from gateway.wire.samples import Event, EventKind, SampleBlock

S = 1_000_000_000
PERIODS = {Priority.CRITICAL: 2 * S, Priority.NORMAL: 60 * S, Priority.BULK: 60 * S}


def block(samples: int) -> SampleBlock:
    return SampleBlock(
        np.arange(samples, dtype=np.int64),
        np.zeros(samples, np.int32),
        np.arange(samples, dtype=np.int32),
        np.zeros(samples, np.int32),
        np.arange(samples, dtype=np.int64),
        np.zeros(samples, np.uint8),
    )


def piece(priority: Priority = Priority.NORMAL, samples: int = 1, *, scheme: str = "s", wifi: bool = False) -> Piece:
    return Piece(
        priority=priority,
        upload=UploadRule.WIFI if wifi else UploadRule.ANY,
        resolution_ns=1_000_000,
        scheme=(scheme, 1),
        samples=block(samples),
    )


def test_critical_batch_is_due_long_before_a_normal_one() -> None:
    batcher = Batcher(PERIODS, 1000)
    batcher.add([piece(Priority.NORMAL), piece(Priority.CRITICAL)], 0)
    assert batcher.next_deadline_ns() == 2 * S
    assert [b.stream for b in batcher.due(2 * S)] == ["critical"]
    assert [b.stream for b in batcher.due(60 * S)] == ["normal"]
    assert batcher.next_deadline_ns() is None


def test_full_batch_is_handed_out_at_once() -> None:
    batcher = Batcher(PERIODS, 10)
    assert batcher.add([piece(samples=9)], 0) == []
    (full,) = batcher.add([piece(samples=5)], 0)
    assert full.items == 14
    assert len(full.content()[0]) == 14


def test_wifi_only_data_gets_a_stream_of_its_own() -> None:
    batcher = Batcher(PERIODS, 10)
    batcher.add([piece(), piece(wifi=True)], 0)
    assert sorted(b.stream for b in batcher.flush()) == ["normal", "normal-wifi"]


def test_joined_content_keeps_rows_events_and_schemes() -> None:
    batcher = Batcher(PERIODS, 1000)
    event = Event(5, EventKind.TRIGGER, "s")
    batcher.add([piece(samples=2, scheme="b"), piece(samples=3, scheme="a")], 0)
    batcher.add(
        [
            Piece(
                priority=Priority.NORMAL,
                upload=UploadRule.ANY,
                resolution_ns=1_000_000,
                scheme=("b", 1),
                events=(event,),
            )
        ],
        0,
    )
    (batch,) = batcher.flush()
    samples, frames, events = batch.content()
    assert samples.row.tolist() == [0, 1, 2, 3, 4]
    assert samples.row_timestamp_ns.tolist() == [0, 1, 0, 1, 2]
    assert (len(frames), events) == (0, (event,))
    assert batch.schemes() == (("a", 1), ("b", 1))


@given(
    st.lists(
        st.tuples(st.sampled_from(Priority), st.integers(0, 30), st.booleans(), st.integers(0, 5 * S)), max_size=50
    )
)
def test_whatever_goes_in_comes_out_once(story: list[tuple[Priority, int, bool, int]]) -> None:
    batcher, now_ns, out, put = Batcher(PERIODS, 40), 0, 0, 0
    for priority, samples, wifi, step_ns in story:
        now_ns += step_ns
        put += samples
        out += sum(b.items for b in batcher.add([piece(priority, samples, wifi=wifi)], now_ns))
        out += sum(b.items for b in batcher.due(now_ns))
    assert out + sum(b.items for b in batcher.flush()) == put
