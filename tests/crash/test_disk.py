"""The model disk behaves as a real one while it has power, and loses what a real one may lose when it has not."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootctl.files import Files, RealFiles, replace_content
from tests.crash.disk import SECTOR_BYTES, CrashFiles, PowerCut, crash_states

PATH = Path("/data/state")
NAMES = ("a", "b", "c")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(NAMES), st.binary(max_size=8)),
        st.tuples(st.just("write_at"), st.sampled_from(NAMES), st.integers(0, 20), st.binary(max_size=8)),
        st.tuples(st.just("truncate"), st.sampled_from(NAMES), st.integers(0, 20)),
        st.tuples(st.just("replace"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
        st.tuples(st.just("remove"), st.sampled_from(NAMES)),
        st.tuples(st.just("sync_file"), st.sampled_from(NAMES)),
    ),
    max_size=12,
)


def play(files: Files, folder: Path, step: tuple[object, ...]) -> object:
    """One step on either disk; its answer, or what it raised."""
    kind, name, *rest = step
    path = folder / str(name)
    try:
        if kind in ("write_at", "truncate"):
            block = files.open(path, create=kind == "write_at")
            try:
                if kind == "truncate":
                    block.truncate(rest[0])  # type: ignore[arg-type]  # the strategies know
                else:
                    block.write_at(*rest)  # type: ignore[arg-type]  # the strategies know
                block.sync()
                return block.size(), block.read_at(2, 5)
            finally:
                block.close()
        if kind == "replace":
            files.replace(path, folder / str(rest[0]))
            return None
        return getattr(files, str(kind))(path, *rest)
    except OSError as error:
        return error.errno


@settings(max_examples=60, deadline=None)
@given(steps)
def test_with_power_it_is_like_a_real_disk(
    tmp_path_factory: pytest.TempPathFactory, todo: list[tuple[object, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("real")
    real, model = RealFiles(), CrashFiles()
    model.make_directory(folder)
    for step in todo:
        assert play(real, folder, step) == play(model, folder, step), step
        assert real.list(folder) == model.list(folder)
    for name in real.list(folder):
        assert real.read(folder / name) == model.read(folder / name)
        assert real.size(folder / name) == model.size(folder / name)


def disk_with(content: bytes) -> CrashFiles:
    disk = CrashFiles()
    disk.add_file(PATH, content)
    return disk


def test_a_safe_replacement_is_old_or_new_at_every_cut() -> None:
    disk = disk_with(b"old")
    start = disk.snapshot()
    replace_content(disk, PATH, b"new" * 1000)
    states = list(crash_states(start, disk.log))
    assert {bytes(state.files.read(PATH)) for state in states} == {b"old", b"new" * 1000}
    assert states[-1].files.read(PATH) == b"new" * 1000


def test_a_rename_without_sync_can_leave_an_empty_file() -> None:
    disk = disk_with(b"old")
    start = disk.snapshot()
    disk.write(Path("/data/.new"), b"new")
    disk.replace(Path("/data/.new"), PATH)
    assert b"" in {state.files.read(PATH) for state in crash_states(start, disk.log)}


def test_an_overwrite_in_place_can_tear_between_sectors() -> None:
    disk = disk_with(b"o" * 4 * SECTOR_BYTES)
    start = disk.snapshot()
    block = disk.open(PATH)
    block.write_at(0, b"n" * 4 * SECTOR_BYTES)
    contents = {state.files.read(PATH) for state in crash_states(start, disk.log, random_per_cut=30)}
    torn = contents - {b"o" * 4 * SECTOR_BYTES, b"n" * 4 * SECTOR_BYTES}
    assert torn
    assert all(len(set(c[i : i + SECTOR_BYTES])) == 1 for c in torn for i in range(0, len(c), SECTOR_BYTES))
    block.sync()
    assert {s.files.read(PATH) for s in crash_states(start, disk.log) if s.calls == 2} == {b"n" * 4 * SECTOR_BYTES}


def test_a_write_may_overtake_another_until_the_sync() -> None:
    disk = CrashFiles()
    disk.add_device(Path("/dev/a"), 1024)
    start = disk.snapshot()
    block = disk.open(Path("/dev/a"))
    block.write_at(0, b"1")
    block.write_at(512, b"2")
    found = {(c[0:1], c[512:513]) for c in (s.files.read(Path("/dev/a")) for s in crash_states(start, disk.log))}
    assert found == {(b"\0", b"\0"), (b"1", b"\0"), (b"\0", b"2"), (b"1", b"2")}


def test_what_was_synced_is_never_lost() -> None:
    disk = CrashFiles()
    disk.make_directory(PATH.parent)
    start = disk.snapshot()
    replace_content(disk, PATH, b"1")
    done = len(disk.log)
    replace_content(disk, PATH, b"2")
    assert {s.files.read(PATH) for s in crash_states(start, disk.log, random_per_cut=10) if s.calls >= done} == {
        b"1",
        b"2",
    }


def test_the_power_can_go_at_any_call_and_errors_can_be_made() -> None:
    disk = disk_with(b"old")

    def cut(number: int, call: object) -> None:
        if number == 2:
            raise PowerCut

    disk.before = cut
    with pytest.raises(PowerCut):
        replace_content(disk, PATH, b"new")
    assert len(disk.log) == 2
    small = CrashFiles(capacity_bytes=10)
    small.make_directory(Path("/d"))
    with pytest.raises(OSError) as refused:
        small.write(Path("/d/x"), bytes(11))
    assert refused.value.errno == errno.ENOSPC


def test_the_same_seed_gives_the_same_cuts() -> None:
    disk = disk_with(b"old" * 1000)
    start = disk.snapshot()
    replace_content(disk, PATH, random.Random(1).randbytes(5000))
    first, second = (
        [(s.calls, s.what, s.files.snapshot()) for s in crash_states(start, disk.log, seed=7)] for _ in range(2)
    )
    assert first == second


def test_real_files_refuse_a_device_in_use_only_when_asked(tmp_path: Path) -> None:
    """``exclusive`` is for block devices: a file is opened, and a missing one is an error."""
    path = tmp_path / "slot"
    path.write_bytes(b"x")
    block = RealFiles().open(path, exclusive=True)
    assert block.read_at(0, 10) == b"x"
    block.drop_cache()
    block.close()
    with pytest.raises(FileNotFoundError):
        RealFiles().open(tmp_path / "none")
    assert os.stat(path).st_size == 1
