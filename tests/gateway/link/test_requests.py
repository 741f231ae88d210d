"""What a cloud may ask for, however confused: bounded, each once, and answered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.link.requests import MAX_NOT_FOUND, MAX_REPORTED, MAX_REQUESTED, Requests
from gateway.wire.api import SequenceRange
from gateway.wire.batch import STREAMS

SPOOL = "00000000000000aa"
ANY = (1 << 63) - 1


def everything(_: str) -> bool:
    return True


def made(*ranges: SequenceRange) -> Requests:
    requests = Requests(SPOOL, STREAMS)
    requests.add(ranges, 0)
    return requests


def own(first: int, last: int, stream: str = "normal") -> SequenceRange:
    return SequenceRange(f"{SPOOL}/{stream}", first, last)


def taken(requests: Requests) -> list[tuple[str, int]]:
    return list(iter(lambda: requests.take(everything), None))


def test_each_sequence_is_given_once_in_the_order_asked() -> None:
    assert taken(made(own(5, 6), own(1, 2, "critical"), own(6, 7))) == [
        ("normal", 5),
        ("normal", 6),
        ("critical", 1),
        ("critical", 2),
        ("normal", 7),
    ]


def test_stream_that_may_not_travel_now_waits_and_others_pass() -> None:
    requests = made(own(1, 1, "bulk-wifi"), own(1, 1))
    assert requests.take(lambda stream: not stream.endswith("-wifi")) == ("normal", 1)
    assert requests.take(lambda stream: not stream.endswith("-wifi")) is None
    assert not requests.has_any(lambda stream: not stream.endswith("-wifi"))
    assert requests.take(everything) == ("bulk-wifi", 1)


def test_put_back_is_the_next() -> None:
    requests = made(own(1, 3))
    assert requests.take(everything) == ("normal", 1)
    requests.put_back("normal", 1)
    assert taken(requests)[0] == ("normal", 1)


def test_unknown_streams_and_impossible_ranges_are_ignored() -> None:
    requests = made(own(1, 3, "nonsense"), own(3, 1), own(-5, 2), own(0, 0), SequenceRange("", 2, 1))
    assert taken(requests) == []
    assert requests.not_found() == ()


def test_range_without_end_is_cut_off() -> None:
    requests = made(own(1, ANY), own(1, ANY, "bulk"))
    assert len(requests) == MAX_REQUESTED


def test_batches_of_another_spool_are_not_here() -> None:
    wanted = SequenceRange("00000000000000bb/normal", 4, 9)
    assert made(wanted).not_found() == (wanted,)


def test_what_is_gone_is_told_in_joined_ranges_until_the_cloud_has_heard() -> None:
    requests = made()
    for sequence in (7, 3, 4, 5):
        requests.not_here("normal", sequence)
    assert requests.not_found() == (own(3, 5), own(7, 7))
    requests.reported((own(3, 5),))
    assert requests.not_found() == (own(7, 7),)
    requests.reported((own(1, 9),))
    assert requests.not_found() == ()


def test_what_became_known_after_the_report_is_told_next_time() -> None:
    requests = made()
    requests.not_here("normal", 3)
    told = requests.not_found()
    requests.not_here("normal", 4)
    requests.reported(told)
    assert requests.not_found() == (own(4, 4),)


def test_answers_are_bounded_in_number_and_per_report() -> None:
    requests = made()
    for sequence in range(1, 4 * MAX_NOT_FOUND, 2):
        requests.not_here("normal", sequence)
    told = 0
    while ranges := requests.not_found():
        assert len(ranges) <= MAX_REPORTED
        told += len(ranges)
        requests.reported(ranges)
    assert told == MAX_NOT_FOUND


def test_deferred_batch_is_not_listened_for_until_its_time() -> None:
    requests = made()
    requests.defer("normal", 2, until_ns=100)
    requests.add((own(1, 3),), 50)
    assert taken(requests) == [("normal", 1), ("normal", 3)]
    requests.add((own(2, 2),), 100)
    assert taken(requests) == [("normal", 2)]


_STREAM_NAMES = st.sampled_from([f"{SPOOL}/normal", f"{SPOOL}/x", "other/normal", "", "/", f"{SPOOL}/", SPOOL])


@given(st.lists(st.builds(SequenceRange, _STREAM_NAMES, st.integers(-5, 30), st.integers(-5, 60)), max_size=20))
def test_any_request_is_bounded_and_gives_only_sequences_that_can_be(ranges: list[SequenceRange]) -> None:
    requests = made(*ranges)
    got = taken(requests)
    assert len(got) == len(set(got)) <= MAX_REQUESTED
    assert all(stream == "normal" and sequence >= 1 for stream, sequence in got)
    assert all(1 <= told.first <= told.last and not told.stream.startswith(SPOOL) for told in requests.not_found())
