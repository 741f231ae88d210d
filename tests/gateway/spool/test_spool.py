"""The spool's promises, one by one."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from gateway.spool import Spool, SpoolBusy, SpoolError, SpoolFull, SpoolLimits
from tests.gateway.spool.disks import MemoryDisk

SMALL = SpoolLimits(max_bytes=4_000, segment_bytes=1_000)


def assert_balanced(spool: Spool) -> None:
    """stored = acknowledged + evicted + pending in every stream."""
    assert {name: total.unexplained for name, total in spool.totals().items() if total.unexplained} == {}


def test_what_is_appended_is_read_back_in_order(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "spool")
    sequences = [spool.append("normal", bytes([i]) * 10, 2, b"state") for i in range(5)]
    assert sequences == [1, 2, 3, 4, 5]
    assert [spool.read("normal", s) for s in sequences] == [bytes([i]) * 10 for i in range(5)]
    assert spool.stored_items("normal") == 10
    assert spool.next_pending("normal") == 1
    assert spool.next_pending("normal", after=5) is None
    spool.close()


def test_everything_is_there_again_after_a_clean_close(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    identity = spool.spool_id
    for i in range(10):
        spool.append("bulk-wifi", b"payload %d" % i, i, b"state %d" % i)
    spool.acknowledge("bulk-wifi", 4)
    before = spool.totals()
    spool.close()
    spool = Spool.open(tmp_path)
    assert spool.spool_id == identity
    assert len(identity) == 16
    assert spool.totals() == before
    assert spool.next_pending("bulk-wifi") == 5
    assert spool.read("bulk-wifi", 2) == b"payload 1"  # acknowledged, but retained for a re-request
    assert spool.last_state() == b"state 9"
    assert spool.append("bulk-wifi", b"next", 1, b"") == 11
    spool.close()


def test_second_process_is_refused(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    with pytest.raises(SpoolBusy, match="in use"):
        Spool.open(tmp_path)
    spool.close()
    Spool.open(tmp_path).close()


def test_unwritable_directory_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(SpoolError, match="file"):
        Spool.open(tmp_path / "file")


def test_checkpoint_gives_the_newest_state(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    assert spool.last_state() is None
    spool.append("normal", b"x", 1, b"from the record")
    spool.checkpoint(b"from the checkpoint")
    spool.close()
    spool = Spool.open(tmp_path)
    assert spool.last_state() == b"from the checkpoint"
    spool.append("normal", b"x", 1, b"newer")
    spool.close()
    assert Spool.open(tmp_path).last_state() == b"newer"


def test_full_spool_deletes_acknowledged_segments_first() -> None:
    spool = Spool(MemoryDisk(), SMALL)
    for _ in range(6):
        spool.append("normal", bytes(400), 1, b"")
    spool.acknowledge("normal", 4)
    for _ in range(3):
        spool.append("bulk", bytes(400), 1, b"")
    totals = spool.totals()
    assert totals["normal"].evicted == totals["bulk"].evicted == 0
    assert spool.read("normal", 1) is None
    assert spool.read("normal", 5) is not None
    assert spool.size_bytes <= SMALL.max_bytes


def test_full_spool_evicts_the_oldest_of_the_lowest_priority() -> None:
    spool = Spool(MemoryDisk(), SMALL)
    for stream in ("bulk", "normal", "critical"):
        for _ in range(2):
            spool.append(stream, bytes(400), 1, b"")
    for _ in range(8):
        spool.append("critical", bytes(400), 1, b"")
        assert_balanced(spool)
        assert spool.size_bytes <= SMALL.max_bytes
    totals = spool.totals()
    assert (totals["bulk"].evicted, totals["normal"].evicted) == (2, 2)
    assert spool.evicted("bulk") == ((1, 2),)
    assert totals["critical"].stored == 10
    assert totals["critical"].evicted == 2


def test_low_priority_never_evicts_a_higher_one() -> None:
    spool = Spool(MemoryDisk(), SMALL)
    while spool.size_bytes + 500 < SMALL.max_bytes:
        spool.append("critical", bytes(400), 1, b"")
    before = spool.totals()
    with pytest.raises(SpoolFull):
        spool.append("bulk", bytes(400), 1, b"")
    assert spool.totals() == before


def test_batch_larger_than_the_spool_evicts_nothing() -> None:
    spool = Spool(MemoryDisk(), SMALL)
    spool.append("normal", bytes(400), 1, b"")
    with pytest.raises(SpoolFull):
        spool.append("critical", bytes(5_000), 1, b"")
    assert spool.totals()["normal"].evicted == 0


def test_evicted_ranges_stay_until_the_cloud_has_heard_of_them() -> None:
    disk = MemoryDisk()
    spool = Spool(disk, SMALL)
    for _ in range(12):
        spool.append("normal", bytes(400), 3, b"")
    ((first, last),) = spool.evicted("normal")
    assert first == 1
    assert spool.next_pending("normal") == last + 1
    spool.close()
    spool = Spool(disk.after_kill(), SMALL)
    assert spool.evicted("normal") == ((first, last),)
    spool.confirm_evicted([("normal", first, last), ("no such stream", 1, 2)])
    assert spool.evicted("normal") == ()
    assert spool.totals()["normal"].evicted == 3 * last
    assert_balanced(spool)


def test_acknowledgement_beyond_what_is_stored_skips_the_numbers() -> None:
    spool = Spool(MemoryDisk(), SMALL)
    spool.append("normal", b"x", 5, b"")
    spool.acknowledge("normal", 10)
    assert spool.append("normal", b"y", 1, b"") == 11
    assert spool.read("normal", 11) == b"y"
    assert_balanced(spool)


def test_full_disk_evicts_and_goes_on() -> None:
    disk = MemoryDisk(capacity_bytes=64 * 1024 + 3_000)
    spool = Spool(disk, SpoolLimits(max_bytes=1_000_000, segment_bytes=1_000))
    for _ in range(20):
        spool.append("normal", bytes(400), 1, b"")
        assert_balanced(spool)
    totals = spool.totals()["normal"]
    assert totals.stored == 20
    assert totals.pending == 20 - totals.evicted > 0


def test_full_disk_without_anything_to_evict_leaves_nothing_half_written() -> None:
    disk = MemoryDisk(capacity_bytes=64 * 1024 + 600)
    spool = Spool(disk, SpoolLimits(max_bytes=1_000_000, segment_bytes=1_000))
    spool.append("critical", bytes(300), 7, b"")
    before = spool.totals()
    with pytest.raises(SpoolFull):
        spool.append("normal", bytes(400), 1, b"")
    assert spool.totals() == before
    reopened = Spool(disk.after_kill(), SMALL)
    assert reopened.totals() == before
    assert reopened.recovered.cut_bytes == 0


@pytest.mark.parametrize(
    ("operation", "stream"),
    [("write", "critical"), ("write", "normal"), ("open", "critical"), ("open", "normal"), ("sync", "critical")],
)
def test_failing_disk_is_an_error_and_the_append_did_not_happen(operation: str, stream: str) -> None:
    disk = MemoryDisk()
    spool = Spool(disk, SMALL)
    disk.failures[operation] = (0, errno.EIO)
    with pytest.raises(SpoolError):
        spool.append(stream, b"x", 1, b"")
    assert spool.totals()[stream].stored == 0
    assert spool.append(stream, b"y", 1, b"") == 1
    assert Spool(disk.after_kill(), SMALL).read(stream, 1) == b"y"


def test_number_of_a_record_that_could_not_be_taken_back_is_not_used_again() -> None:
    disk = MemoryDisk()
    spool = Spool(disk, SMALL)
    spool.append("critical", b"a", 1, b"")
    disk.failures = {"sync": (0, errno.EIO), "truncate": (0, errno.EIO)}
    with pytest.raises(SpoolError):
        spool.append("critical", b"b", 1, b"")
    assert spool.append("critical", b"c", 1, b"") == 3
    assert_balanced(spool)
    reopened = Spool(disk.after_kill(), SMALL)
    assert reopened.read("critical", 3) == b"c"
    assert_balanced(reopened)


def test_number_burnt_while_making_room_is_not_given_to_the_batch() -> None:
    disk = MemoryDisk(capacity_bytes=64 * 1024 + 1_200)
    spool = Spool(disk, SpoolLimits(max_bytes=1_000_000, segment_bytes=1_000))
    spool.append("normal", bytes(300), 1, b"")
    spool.append("critical", bytes(300), 1, b"")
    spool.sync()
    disk.failures = {"sync": (0, errno.EIO)}  # when the write that found the disk full is taken back
    assert spool.append("critical", bytes(500), 1, b"") == 3
    assert spool.evicted("critical") == ((2, 2),)
    assert spool.next_pending("critical", after=1) == 3
    assert_balanced(spool)
