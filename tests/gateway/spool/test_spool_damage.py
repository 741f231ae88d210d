"""A spool that was cut, damaged or killed opens, explains every number, and loses nothing that was durable."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.spool import Spool, SpoolLimits
from tests.gateway.spool.disks import Inode, MemoryDisk
from tests.support import ROOT

LIMITS = SpoolLimits(max_bytes=100_000, segment_bytes=600)


def filled(batches: int = 12) -> MemoryDisk:
    """A closed spool with three segments of one stream and some of another; batch ``n`` has n items."""
    disk = MemoryDisk()
    spool = Spool(disk, LIMITS)
    for n in range(1, batches + 1):
        spool.append("normal", b"batch %d " % n * 5, n, b"state %d" % n)
        if n % 3 == 0:
            spool.append("critical", b"urgent %d" % n, 1, b"")
    spool.acknowledge("normal", 2)
    spool.close()
    return disk


def copy_of(disk: MemoryDisk, changed: str = "", content: bytes = b"") -> MemoryDisk:
    """The same files, one of them with other content."""
    other = MemoryDisk()
    other.files = {n: Inode(bytearray(i.content), bytes(i.content)) for n, i in disk.files.items()}
    if changed:
        other.files[changed] = Inode(bytearray(content), content)
    return other


def check(spool: Spool, stream: str = "normal") -> set[int]:
    """Every number is explained, and every batch that can be read is what was stored. Returns the pending ones."""
    at = 0
    while (found := spool.next_pending(stream, at)) is not None:
        assert spool.read(stream, found) in (b"batch %d " % found * 5, b"new", None)  # damage may show only now
        at = found
    assert all(total.unexplained == 0 for total in spool.totals().values())
    total = spool.totals()[stream]
    pending, at = set(), 0
    while (found := spool.next_pending(stream, at)) is not None:
        assert spool.read(stream, found) is not None
        pending.add(found)
        at = found
    gone = {n for first, last in spool.evicted(stream) for n in range(first, last + 1)}
    assert pending | gone == set(range(total.acknowledged_sequence + 1, total.last_sequence + 1))
    return pending


def segments(disk: MemoryDisk, stream: str = "normal") -> list[str]:
    return [name for name in disk.names() if name.startswith(f"{stream}-0")]


def test_cut_at_every_byte_loses_only_what_comes_after() -> None:
    disk = filled()
    newest = segments(disk)[-1]
    whole = bytes(disk.files[newest].content)
    kept_before = -1
    for size in range(len(whole) + 1):
        spool = Spool(copy_of(disk, newest, whole[:size]), LIMITS)
        kept = len(check(spool))
        assert kept >= kept_before
        kept_before = kept
        assert spool.totals()["normal"].last_sequence == 12  # the accounts were written after all of them
    assert kept_before == 10


def test_cut_at_every_byte_of_a_tail_that_never_was_durable_forgets_it_whole() -> None:
    disk = MemoryDisk()
    spool = Spool(disk, LIMITS)
    for n in range(1, 4):
        spool.append("normal", b"batch %d " % n * 5, n, b"")
    (name,) = segments(disk)
    whole = bytes(disk.files[name].content)
    seen = set()
    for size in range(len(whole) + 1):
        reopened = Spool(copy_of(disk, name, whole[:size]), LIMITS)
        kept = len(check(reopened))
        assert reopened.totals()["normal"].stored == kept * (kept + 1) // 2
        assert reopened.append("normal", b"new", 1, b"") == kept + 1
        seen.add(kept)
    assert seen == {0, 1, 2, 3}


def test_older_segment_cut_at_every_byte_evicts_what_is_gone() -> None:
    disk = filled()
    oldest = segments(disk)[0]
    whole = bytes(disk.files[oldest].content)
    for size in range(0, len(whole), 3):
        spool = Spool(copy_of(disk, oldest, whole[:size]), LIMITS)
        check(spool)
        total = spool.totals()["normal"]
        assert (total.stored, total.acknowledged) == (78, 3)


def test_tail_of_zeros_is_cut_and_costs_no_number() -> None:
    disk = MemoryDisk()
    spool = Spool(disk, LIMITS)
    spool.append("normal", b"batch 1 " * 5, 1, b"")
    (name,) = segments(disk)
    disk.files[name].content.extend(bytes(500))
    reopened = Spool(disk.after_kill(), LIMITS)
    assert check(reopened) == {1}
    assert reopened.append("normal", b"new", 1, b"") == 2


def test_numbers_of_an_unreadable_tail_are_not_used_again() -> None:
    disk = MemoryDisk()
    spool = Spool(disk, LIMITS)
    spool.append("normal", b"batch 1 " * 5, 1, b"")
    size = disk.size(segments(disk)[0])
    spool.append("normal", b"batch 2 " * 5, 2, b"")
    (name,) = segments(disk)
    disk.files[name].content[size + 9] ^= 1  # in the head of the second: it may have been sent
    reopened = Spool(disk.after_kill(), LIMITS)
    assert check(reopened) == {1}
    assert reopened.append("normal", b"new", 1, b"") > 2


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_flipped_bits_anywhere_are_counted(data: st.DataObject) -> None:
    disk = filled()
    names = disk.names()
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(names))
        content = disk.files[name].content
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    spool = Spool(disk, LIMITS)
    check(spool)
    total = spool.totals()["normal"]
    assert total.stored <= 78
    assert total.last_sequence >= 12 or total.stored < 78
    spool.append("normal", b"new", 1, b"")
    spool.close()
    check(Spool(disk, LIMITS))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(("normal", "accounts.0", "accounts.1")), st.booleans())
def test_garbage_in_place_of_a_file_never_stops_the_spool(garbage: bytes, which: str, both: bool) -> None:
    disk = filled()
    name = segments(disk)[0] if which == "normal" else which
    disk = copy_of(disk, name, garbage)
    if both:
        disk = copy_of(disk, "accounts.0", garbage)
    spool = Spool(disk, LIMITS)
    check(spool)
    assert spool.totals()["normal"].acknowledged_sequence in (0, 2)


def test_lost_accounts_forget_acknowledgements_but_no_batch_and_no_number() -> None:
    disk = filled()
    spool_id = Spool(copy_of(disk), LIMITS).spool_id
    for slot in ("accounts.0", "accounts.1"):
        disk = copy_of(disk, slot, bytes(10))
    spool = Spool(disk, LIMITS)
    assert spool.spool_id == spool_id
    assert check(spool) == set(range(1, 13))
    assert spool.next_sequence("bulk") > 1 << 40  # nobody knows which numbers it used
    assert spool.last_state() == b""  # of the newest record


def test_damaged_record_read_later_becomes_evicted() -> None:
    disk = filled()
    oldest = segments(disk)[0]
    content = disk.files[oldest].content
    at = bytes(content).index(b"batch 4 ")
    spool = Spool(disk, LIMITS)
    content[at] ^= 0x80
    assert spool.read("normal", 4) is None
    assert spool.totals()["normal"].evicted == 4
    assert spool.evicted("normal") == ((4, 4),)
    check(spool)
    check(Spool(disk.after_kill(), LIMITS))


def test_names_that_are_no_segments_are_left_alone() -> None:
    disk = filled()
    for name in ("readme.txt", "normal-x.seg", "unknown-0000000000000001.seg", "normal-.seg"):
        disk.files[name] = Inode(bytearray(b"mine"))
    Spool(disk, LIMITS).close()
    assert disk.files["readme.txt"].content == b"mine"


WRITER = """
import os, sys
from pathlib import Path
from gateway.spool import Spool, SpoolLimits
spool = Spool.open(Path(sys.argv[1]), SpoolLimits(max_bytes=200_000, segment_bytes=5_000))
while True:
    sequence = spool.next_sequence("critical")
    spool.append("critical", b"%d " % sequence * 20, 3, b"state")
    if sequence % 5 == 0:
        spool.append("bulk", b"bulk", 1, b"state")
    if sequence % 7 == 0:
        spool.acknowledge("critical", sequence - 5)
        spool.checkpoint(b"checkpoint")
    os.write(1, b"%d\\n" % sequence)
"""


@pytest.mark.parametrize("seed", range(4))
def test_kill_9_loses_no_append_that_returned(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    returned = 0
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        ) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randint(1, 60)):
                line = writer.stdout.readline()
                returned = int(line)
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:  # what it said before the signal reached it
                returned = int(line) if line.endswith(b"\n") else returned
        spool = Spool.open(tmp_path, SpoolLimits(max_bytes=200_000, segment_bytes=5_000))
        total = spool.totals()["critical"]
        assert all(t.unexplained == 0 for t in spool.totals().values())
        assert total.last_sequence in (returned, returned + 1)
        assert total.stored == 3 * total.last_sequence
        assert total.evicted == 0
        at = 0
        while (at := spool.next_pending("critical", at) or 0) != 0:
            assert spool.read("critical", at) == b"%d " % at * 20
        spool.close()
