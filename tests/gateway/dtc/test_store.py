"""The stored memory survives what disks and power do; what was saved is there, and damage is counted."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from gateway.dtc.memory import FaultMemory, MemoryImage
from gateway.dtc.model import Debounce, Definition, Environment, FrozenValue, TestResult
from gateway.dtc.store import COMPACT_BYTES, KEPT_GENERATIONS, MemoryStore, decode_records, encode_record, merge
from gateway.spool.adapters import PosixDisk
from gateway.spool.ports import Disk
from tests.gateway.spool.disks import MemoryDisk
from tests.support import ROOT

CODES = (0x123456, 0x442300, 0xC10087)


def make_memory(texts: int = 1) -> FaultMemory:
    around = Environment(
        1_700_000_000_000_000_000, 1234.5, tuple(FrozenValue(f"b.M.S{i}", 1.5, "V") for i in range(texts))
    )
    definitions = [Definition(code=c, confirm_cycles=1, lamp=True, debounce=Debounce(kind="none")) for c in CODES]
    return FaultMemory(definitions, capture=lambda definition: around)


def random_step(memory: FaultMemory, chance: random.Random) -> None:
    """Something that changes the memory."""
    kind = chance.choice(("start", "end", "clear", "fail", "fail", "pass"))
    code = chance.choice(CODES)
    if kind == "start":
        memory.start_cycle()
    elif kind == "end":
        memory.end_cycle()
    elif kind == "clear":
        memory.clear(code)
    else:
        memory.report(code, TestResult.FAILED if kind == "fail" else TestResult.PASSED, 0)


def encoded(image: MemoryImage | None) -> bytes:
    return msgspec.msgpack.encode(image)


def loaded(disk: Disk) -> bytes:
    return encoded(MemoryStore(disk).load().image)


def test_what_was_saved_is_loaded() -> None:
    disk, memory, chance = MemoryDisk(), make_memory(), random.Random(1)
    store = MemoryStore(disk)
    store.save(memory.image())
    for _ in range(200):
        random_step(memory, chance)
        if (changed := memory.take_dirty()) is not None:
            store.save(changed)
        assert loaded(disk) == encoded(merge(memory.image(), memory.image()))


def test_no_memory_on_an_empty_disk() -> None:
    found = MemoryStore(MemoryDisk()).load()
    assert found.image is None
    assert found.damaged_bytes == found.skipped_generations == 0


def saved_history(disk: MemoryDisk, steps: int, seed: int) -> list[bytes]:
    """Saves after each step; returns the whole memory after each save, in order."""
    memory, chance, store = make_memory(), random.Random(seed), MemoryStore(disk)
    store.save(memory.image())
    memory.take_dirty()
    history = [encoded(memory.image())]
    for _ in range(steps):
        random_step(memory, chance)
        if (changed := memory.take_dirty()) is not None:
            store.save(changed)
            history.append(encoded(memory.image()))
    return history


def test_cut_after_every_byte_leaves_the_last_whole_save() -> None:
    """A file cut anywhere holds all saves whose record is whole; never anything else."""
    disk = MemoryDisk()
    history = saved_history(disk, 12, 3)
    [name] = disk.names()
    content = bytes(disk.files[name].content)
    ends = [end for _, end, _ in decode_records(content)]
    assert len(ends) == len(history)
    for size in range(len(content) + 1):
        disk.files[name].content[:] = content[:size]
        whole = sum(end <= size for end in ends)
        found = MemoryStore(disk).load()
        if whole == 0:
            assert found.image is None
            assert found.skipped_generations == 1
        else:
            assert encoded(found.image) == history[whole - 1], f"cut at {size}"
            assert found.damaged_bytes == size - ends[whole - 1]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_power_cut_at_any_operation_keeps_what_was_saved(seed: int) -> None:
    """Whatever of the unsynced is lost: the loaded memory is the last one whose save returned, or the one under way."""
    chance = random.Random(seed)
    disk, memory = MemoryDisk(), make_memory()
    store = MemoryStore(disk)
    operation = chance.choice(("write", "sync", "open", "truncate"))
    certain: list[bytes] = []
    store.save(memory.image())
    memory.take_dirty()
    certain.append(encoded(memory.image()))
    disk.failures[operation] = (chance.randint(0, 25), errno.EIO)
    under_way = certain[-1]
    for _ in range(40):
        random_step(memory, chance)
        if chance.random() < 0.1:  # as at a start: a new generation
            store._abandon()
        if (changed := memory.take_dirty()) is None:
            continue
        under_way = encoded(memory.image())
        try:
            store.save(changed)
        except OSError:
            break
        certain.append(under_way)
    after = disk.after_power_cut(chance)
    assert loaded(after) in (certain[-1], under_way)


def test_a_failed_save_is_made_good_by_the_next() -> None:
    disk, memory = MemoryDisk(), make_memory()
    store = MemoryStore(disk)
    store.save(memory.image())
    memory.take_dirty()
    memory.start_cycle()
    disk.failures["sync"] = (0, errno.EIO)
    changed = memory.take_dirty()
    assert changed is not None
    with pytest.raises(OSError, match="sync fails"):
        store.save(changed)
    memory.report(CODES[0], TestResult.FAILED, 0)
    changed = memory.take_dirty()
    assert changed is not None
    store.save(changed)
    assert loaded(disk.after_power_cut(random.Random(1))) == encoded(memory.image())


def test_full_disk_does_not_fill_up_with_attempts() -> None:
    disk, memory = MemoryDisk(), make_memory()
    store = MemoryStore(disk)
    store.save(memory.image())
    disk.capacity_bytes = sum(len(f.content) for f in disk.files.values()) + 10
    for _ in range(20):
        with pytest.raises(OSError, match="disk full"):
            store.save(memory.image())
    assert len(disk.names()) == 1
    assert loaded(disk) == encoded(memory.image())


def test_damage_in_the_middle_loses_that_record_only() -> None:
    disk = MemoryDisk()
    memory, store = make_memory(), MemoryStore(disk)
    store.save(memory.image())
    for code in CODES:
        memory.clear(code)
        memory.start_cycle()
        memory.report(code, TestResult.FAILED, 0)
        changed = memory.take_dirty()
        assert changed is not None
        store.save(changed)
    [name] = disk.names()
    records = list(decode_records(bytes(disk.files[name].content)))
    disk.files[name].content[records[1][0] + 30] ^= 0xFF
    found = MemoryStore(disk).load()
    assert found.damaged_bytes == records[1][1] - records[1][0]
    assert encoded(found.image) == encoded(memory.image())  # the records after it say all of it again


def test_a_damaged_generation_falls_back_to_the_one_before() -> None:
    disk, memory = MemoryDisk(), make_memory()
    MemoryStore(disk).save(memory.image())
    memory.start_cycle()
    MemoryStore(disk).save(memory.image())
    old, new = disk.names()
    disk.files[new].content[25] ^= 1
    found = MemoryStore(disk).load()
    assert found.skipped_generations == 1
    assert found.image is not None
    assert found.image.cycles == 0
    store = MemoryStore(disk)
    store.load()
    store.save(memory.image())
    assert loaded(disk) == encoded(memory.image())
    assert old not in disk.names()


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=200), prefix=st.booleans())
def test_arbitrary_files_never_stop_the_start(content: bytes, prefix: bool) -> None:
    disk, memory = MemoryDisk(), make_memory()
    MemoryStore(disk).save(memory.image())
    if prefix:
        content = bytes(disk.files["memory-0000000000000001"].content)[: len(content) + 20] + content
    for name in ("memory-0000000000000001", "memory-0000000000000007", "memory-x", "lock.old"):
        file = disk.open(name)
        file.truncate(0)
        file.write_at(0, content)
    store = MemoryStore(disk)
    store.load()
    store.save(memory.image())
    assert loaded(disk) == encoded(memory.image())


def test_the_journal_is_compacted_and_old_generations_go() -> None:
    disk, memory = MemoryDisk(), make_memory(texts=200)
    store = MemoryStore(disk)
    store.save(memory.image())
    for _ in range(60):
        memory.clear()
        memory.start_cycle()
        memory.report(CODES[0], TestResult.FAILED, 0)
        changed = memory.take_dirty()
        assert changed is not None
        store.save(changed)
    assert len(disk.names()) <= KEPT_GENERATIONS
    assert all(disk.size(name) < COMPACT_BYTES + 20_000 for name in disk.names())
    assert loaded(disk) == encoded(memory.image())


def test_states_without_a_definition_are_counted_and_dropped() -> None:
    image = make_memory().image()
    other = FaultMemory([Definition(code=CODES[1])], capture=lambda d: Environment(0))
    assert other.restore(image) == 2


def test_a_record_of_a_newer_version_is_stepped_over() -> None:
    body = encode_record(0, make_memory().image())
    assert len(list(decode_records(body))) == 1
    assert list(decode_records(body[:-1])) == []


CHILD = """
import sys
from pathlib import Path
from tests.gateway.dtc.test_store import CODES, make_memory, random_step, encoded
from gateway.dtc.store import MemoryStore
from gateway.spool.adapters import PosixDisk
import random, hashlib
memory, chance, store = make_memory(), random.Random(5), MemoryStore(PosixDisk(Path(sys.argv[1])))
store.load()
store.save(memory.image())
memory.take_dirty()
while True:
    random_step(memory, chance)
    if (changed := memory.take_dirty()) is None:
        continue
    print("going", hashlib.sha256(encoded(memory.image())).hexdigest(), flush=True)
    store.save(changed)
    print("saved", hashlib.sha256(encoded(memory.image())).hexdigest(), flush=True)
"""


def test_kill_9_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    import hashlib

    for lines in (7, 60):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert child.stdout is not None
        told = [child.stdout.readline().split() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        told += [line.split() for line in child.stdout]
        child.wait()
        child.stdout.close()
        told = [t for t in told if len(t) == 2 and len(t[1]) == 64]
        saved = [digest for word, digest in told if word == "saved"]
        disk = PosixDisk(tmp_path)
        digest = hashlib.sha256(loaded(disk)).hexdigest()
        disk.close()
        assert digest in (saved[-1], told[-1][1])
