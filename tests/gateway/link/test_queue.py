"""The urgent go first, acknowledgements advance in sequence only, nothing is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.link.queue import BY_URGENCY, UploadQueue

STREAMS = ("critical", "normal", "bulk")


class Disk:
    """Pending sequences per stream, as a spool would tell."""

    def __init__(self, **pending: list[int]) -> None:
        self.pending = {name: pending.get(name, []) for name in STREAMS}
        self.acknowledged = dict.fromkeys(STREAMS, 0)

    def next_pending(self, stream: str, after: int) -> int | None:
        after = max(after, self.acknowledged[stream])
        return next((s for s in self.pending[stream] if s > after), None)


def everything(_: str) -> bool:
    return True


def test_critical_batch_overtakes_a_backlog() -> None:
    disk = Disk(bulk=[1, 2, 3])
    queue = UploadQueue(STREAMS, disk.next_pending)
    assert queue.pick(everything) == ("bulk", 1)
    disk.pending["critical"] = [1]
    assert [queue.pick(everything) for _ in range(4)] == [("critical", 1), ("bulk", 2), ("bulk", 3), None]


def test_wifi_streams_keep_their_urgency() -> None:
    assert [name.removesuffix("-wifi") for name in BY_URGENCY] == ["critical"] * 2 + ["normal"] * 2 + ["bulk"] * 2


def test_parked_batch_comes_back_by_itself_when_its_time_has_come() -> None:
    queue = UploadQueue(STREAMS, Disk(normal=[1]).next_pending)
    queue.pick(everything)
    queue.park("normal", 1, until_ns=100)
    assert queue.pick(everything, 99) is None
    assert queue.parked == 1
    assert queue.pick(everything, 100) == ("normal", 1)
    assert queue.parked == 0


def test_batch_is_waiting_until_the_cloud_has_it() -> None:
    """What waits anyway need not be sent for a request."""
    disk = Disk(normal=[1, 2])
    queue = UploadQueue(STREAMS, disk.next_pending)
    assert queue.is_waiting("normal", 2, 0)
    queue.pick(everything)
    queue.pick(everything)
    assert queue.is_waiting("normal", 2, 0)
    queue.succeeded("normal", 2, 0)
    assert not queue.is_waiting("normal", 2, 0)
    assert not queue.is_waiting("normal", 1, 1)


def test_stream_that_may_not_travel_now_is_passed_over() -> None:
    queue = UploadQueue(STREAMS, Disk(critical=[1], normal=[1]).next_pending)
    assert queue.pick(lambda stream: stream != "critical") == ("normal", 1)
    assert queue.pick(lambda stream: stream != "critical") is None
    assert queue.pick(everything) == ("critical", 1)


def test_acknowledgement_waits_for_the_gap_before_it() -> None:
    disk = Disk(normal=[1, 2, 3])
    queue = UploadQueue(STREAMS, disk.next_pending)
    for _ in range(3):
        queue.pick(everything)
    assert queue.succeeded("normal", 3, 0) == 0
    assert queue.succeeded("normal", 2, 0) == 0
    assert queue.succeeded("normal", 1, 0) == 3


def test_evicted_sequences_do_not_hold_up_the_acknowledgement() -> None:
    disk = Disk(normal=[5, 9])
    queue = UploadQueue(STREAMS, disk.next_pending)
    queue.pick(everything)
    queue.pick(everything)
    queue.succeeded("normal", 9, 0)
    assert queue.succeeded("normal", 5, 0) == 9


def test_failed_batch_is_sent_again_before_newer_ones() -> None:
    queue = UploadQueue(STREAMS, Disk(normal=[1, 2, 3]).next_pending)
    queue.pick(everything)
    queue.pick(everything)
    queue.failed("normal", 1)
    assert queue.pick(everything) == ("normal", 1)
    assert queue.pick(everything) == ("normal", 3)


def test_parked_batch_lets_others_pass_and_keeps_the_mark_before_it() -> None:
    disk = Disk(normal=[1, 2])
    queue = UploadQueue(STREAMS, disk.next_pending)
    queue.pick(everything)
    queue.park("normal", 1, 100)
    assert queue.pick(everything) == ("normal", 2)
    assert queue.succeeded("normal", 2, 0) == 0
    assert queue.pick(everything) is None
    queue.retry_parked()
    assert queue.pick(everything) == ("normal", 1)
    assert queue.succeeded("normal", 1, 0) == 2


@given(
    st.lists(
        st.tuples(st.sampled_from(["pick", "ok", "fail", "park", "gone", "store", "later"]), st.integers(0, 5)),
        max_size=120,
    )
)
def test_every_stored_batch_is_delivered_at_least_once_and_never_acknowledged_before(
    story: list[tuple[str, int]],
) -> None:
    disk = Disk()
    stored = dict.fromkeys(STREAMS, 0)
    queue = UploadQueue(STREAMS, disk.next_pending)
    now_ns = 0
    under_way: list[tuple[str, int]] = []
    delivered: set[tuple[str, int]] = set()

    def deliver(stream: str, sequence: int) -> None:
        delivered.add((stream, sequence))
        mark = queue.succeeded(stream, sequence, disk.acknowledged[stream])
        assert all((stream, s) in delivered for s in disk.pending[stream] if s <= mark)
        assert not any(queue.is_waiting(stream, s, mark) for s in range(1, mark + 1))
        disk.acknowledged[stream] = max(mark, disk.acknowledged[stream])

    for what, n in story:
        if what == "store":
            pending = disk.pending[STREAMS[n % 3]]
            stored[STREAMS[n % 3]] += 1
            pending.append(stored[STREAMS[n % 3]])
        elif what == "later":
            now_ns += n
        elif what == "pick" and (picked := queue.pick(everything, now_ns)):
            assert picked not in under_way
            under_way.append(picked)
        elif what in ("ok", "fail", "park", "gone") and under_way:
            stream, sequence = under_way.pop(n % len(under_way))
            if what == "ok":
                deliver(stream, sequence)
            elif what == "park":
                queue.park(stream, sequence, now_ns + 3)
            elif what == "gone":  # evicted while it was under way
                disk.pending[stream].remove(sequence)
                queue.gone(stream, sequence)
            else:
                queue.failed(stream, sequence)
    for stream, sequence in under_way:
        deliver(stream, sequence)
    while picked := queue.pick(everything, now_ns + 3):
        deliver(*picked)
    assert delivered >= {(name, s) for name in STREAMS for s in disk.pending[name]}
    assert all(disk.next_pending(name, 0) is None for name in STREAMS)
    assert (queue.under_way, queue.parked) == (0, 0)
