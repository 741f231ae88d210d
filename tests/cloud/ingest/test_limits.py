"""A token bucket never lets more through than burst plus rate, and says truly how long to wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud.ingest.limits import Buckets, TokenBucket

SECOND_NS = 1_000_000_000


@given(st.lists(st.tuples(st.integers(0, 3 * SECOND_NS), st.integers(1, 5)), max_size=60))
def test_never_more_than_burst_plus_rate(steps: list[tuple[int, int]]) -> None:
    buckets = Buckets(2.0, 5.0)
    now_ns = taken = 0
    for wait_ns, amount in steps:
        now_ns += wait_ns
        if buckets.try_take("vehicle", now_ns, amount) == 0:
            taken += amount
        assert taken <= 5 + 2.0 * now_ns / SECOND_NS + 1e-6


@given(st.integers(1, 50), st.floats(0.1, 50))
def test_waiting_as_long_as_told_is_enough(amount: int, rate: float) -> None:
    bucket = TokenBucket.full(rate, 10, 0)
    bucket.take(10, 0)
    wait_s = bucket.wait_s(amount, 0)
    assert wait_s > 0
    assert bucket.wait_s(amount, int(wait_s * SECOND_NS) + 2) == 0


def test_a_clock_that_steps_back_gives_nothing() -> None:
    bucket = TokenBucket.full(1.0, 1, 10 * SECOND_NS)
    bucket.take(1, 10 * SECOND_NS)
    assert bucket.wait_s(1, 0) > 0


def test_the_number_of_buckets_is_bounded() -> None:
    buckets = Buckets(1.0, 1.0, capacity=3)
    for name in "abcd":
        assert buckets.try_take(name, 0) == 0
    assert buckets.try_take("d", 0) > 0
    assert buckets.try_take("a", 0) == 0  # was forgotten, starts full
