"""The rules of fetching without a network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.update.config import UpdateSection
from gateway.update.model import AttackError
from gateway.uptane.fetch import FetchLimits, SpeedWatch, check_file, wire_name
from gateway.wire.uptane import FileFacts

SECOND_NS = 1_000_000_000
LIMITS = FetchLimits(min_bytes_per_s=5000, slow_s=60)


@given(st.lists(st.tuples(st.integers(0, 400_000), st.floats(0, 90)), max_size=60))
def test_v8_fast_enough_in_every_window_is_never_accused_and_a_slow_window_always_is(
    arrivals: list[tuple[int, float]],
) -> None:
    """The model: windows end with the first arrival that makes 60 s of waiting full."""
    watch, waited, total = SpeedWatch(LIMITS), 0, 0
    for count, wait_s in arrivals:
        wait_ns = int(wait_s * SECOND_NS)
        waited, total = waited + wait_ns, total + count
        is_over = waited >= 60 * SECOND_NS
        if is_over and total < 5000 * waited / SECOND_NS:
            with pytest.raises(AttackError) as caught:
                watch.heard(count, wait_ns, "image")
            assert (caught.value.attack, caught.value.rule) == ("slow retrieval", "V8")
            return
        watch.heard(count, wait_ns, "image")
        if is_over:
            waited = total = 0


def test_v8_a_fast_beginning_does_not_pay_for_a_slow_rest() -> None:
    watch = SpeedWatch(LIMITS)
    watch.heard(10**9, 60 * SECOND_NS, "image")
    watch.heard(1, 59 * SECOND_NS, "image")
    with pytest.raises(AttackError):
        watch.heard(1, SECOND_NS, "image")


def test_v8_limits_are_the_configured_ones() -> None:
    limits = FetchLimits.of(UpdateSection(min_bytes_per_s=7.0, slow_s=3.0))
    assert (limits.min_bytes_per_s, limits.slow_s) == (7.0, 3.0)


@pytest.mark.parametrize(
    "hashes",
    [{}, {"md5": "0" * 32}, {"sha256": "0" * 63}, {"sha256": "G" * 64}, {"sha256": "0" * 64, "blake2b": "0" * 128}],
)
def test_v4_a_hash_that_cannot_be_checked_is_refused_and_not_skipped(hashes: dict[str, str]) -> None:
    with pytest.raises(AttackError, match="V4"):
        check_file(FileFacts(filename="x", length=1, hashes=hashes))


def test_r4_an_image_is_named_by_its_hash_in_its_folder() -> None:
    both = {"sha256": "1" * 64, "sha512": "2" * 128}
    assert wire_name(FileFacts(filename="a/b.bin", length=1, hashes=both)) == f"a/{'1' * 64}.b.bin"
    only = {"sha512": "2" * 128}
    assert wire_name(FileFacts(filename="b.bin", length=1, hashes=only)) == f"{'2' * 128}.b.bin"
