"""The JSON state of benches, and which slot runs."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootctl import core
from bootctl.backends import open_boot_control
from bootctl.current import running_slot, slot_of
from bootctl.errors import SetupError, StateError, StorageError
from bootctl.file import FileStore
from bootctl.files import RealFiles
from bootctl.model import BootState, Slot
from tests.bootctl.strategies import states
from tests.crash.disk import CrashFiles, crash_states

PATH = Path("/data/boot.json")


def store(files: CrashFiles, current: str = "") -> FileStore:
    return FileStore(PATH, ("A", "B"), current, files)


@settings(max_examples=60, deadline=None)
@given(states())
def test_the_state_survives_its_file(state: BootState) -> None:
    files = CrashFiles()
    kept = FileStore(PATH, [slot.name for slot in state.slots], state.current, files)
    kept.save(state)
    first = state.current or "A"  # a bench runs something
    assert kept.load() == replace(state, current=first)


def test_a_new_machine_runs_its_first_slot_which_is_good() -> None:
    assert store(CrashFiles()).load() == BootState((Slot("A", 1, 3, True), Slot("B", 0, 0, False)), "A")
    assert store(CrashFiles(), "B").load().next == Slot("B", 1, 3, True)


def test_the_loader_of_a_bench_takes_a_try_before_it_tells_the_slot() -> None:
    files = CrashFiles()
    store(files).save(core.activate(store(files).load(), "B", 2))
    assert [store(files).boot() for _ in range(4)] == ["B", "B", "A", "A"]
    assert store(files).load().current == "A"


def test_every_cut_of_a_change_leaves_the_state_before_or_after() -> None:
    files = CrashFiles()
    store(files).save(store(files).load())
    start, done = files.snapshot(), len(files.log)
    before = store(files).load()
    after = core.activate(before, "B")
    store(files).save(after)
    found = [store(cut.files).load() for cut in crash_states(start, files.log[done:])]
    assert found[-1] == after
    assert all(state in (before, after) for state in found)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"version": 2, "slots": {}}',
        b'{"version": 1, "slots": []}',
        b'{"version": 1, "slots": {"A": 1}}',
        b'{"version": 1, "slots": {"A": {"priority": -1}}}',
        b'{"version": 1, "slots": {"A": {"tries": true}}}',
        b'{"version": 1, "slots": {"A": {"successful": 1}}}',
        b'{"version": 1, "slots": {}, "resets": "many"}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_file_is_unknown_and_not_a_new_machine(content: bytes) -> None:
    files = CrashFiles()
    files.add_file(PATH, content)
    with pytest.raises(StateError, match=r"boot\.json"):
        store(files).load()


KEYS = st.sampled_from(["version", "slots", "A", "tries", "priority", "resets"])
LEAVES = st.none() | st.integers() | st.text()


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=60)
    | st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner)).map(lambda value: json.dumps(value).encode())
)
def test_any_content_is_a_state_or_told(content: bytes) -> None:
    files = CrashFiles()
    files.add_file(PATH, content)
    try:
        state = store(files).load()
    except StateError:
        return
    assert {slot.name for slot in state.slots} == {"A", "B"}


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    control = open_boot_control("file", str(tmp_path), "A", ["A", "B"])
    with pytest.raises(StorageError, match=str(tmp_path)):
        control.read()
    full = CrashFiles(capacity_bytes=10)
    full.directories.add(PATH.parent)
    with pytest.raises(StorageError):
        store(full).save(store(full).load())


@pytest.mark.parametrize(
    ("line", "slot"),
    [
        ("quiet rauc.slot=A root=/dev/vda2", "A"),
        ("rauc.slot=A outrider.slot=B", "B"),
        ("rauc.slot=A rauc.slot=B\n", "B"),
        ("rauc.slot= quiet", ""),
        ("notrauc.slot=A", ""),
        ("", ""),
        ("root=/dev/none", ""),
        ("root=LABEL=", ""),
        ("root", ""),
        ("rauc.slot=Z", "Z"),
    ],
)
def test_the_running_slot_is_what_the_boot_script_passed(line: str, slot: str) -> None:
    assert slot_of(line, {"A": "/dev/vda2", "B": "/dev/vda3"} if "root=/dev/vda2" in line else {}) == slot


def test_without_a_parameter_the_root_device_tells_links_followed(tmp_path: Path) -> None:
    (tmp_path / "disk" / "by-partuuid").mkdir(parents=True)
    for name in ("vda2", "vda3"):
        (tmp_path / name).touch()
    (tmp_path / "disk" / "by-partuuid" / "1234-03").symlink_to(tmp_path / "vda3")
    devices = {"A": str(tmp_path / "vda2"), "B": str(tmp_path / "vda3"), "C": ""}
    assert slot_of("root=PARTUUID=1234-03 quiet", devices, device_root=tmp_path) == "B"
    assert slot_of(f"root={tmp_path}/vda2", devices, device_root=tmp_path) == "A"
    assert slot_of("root=PARTUUID=ffff-03", devices, device_root=tmp_path) == ""


def test_no_command_line_is_unknown_and_a_forbidden_one_is_told(tmp_path: Path) -> None:
    assert running_slot({}, tmp_path / "none") == ""
    with pytest.raises(StorageError):
        running_slot({}, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("lilo", "x", "A", ["A", "B"]), "no back end 'lilo'"),
        (("file", "", "A", ["A", "B"]), "needs the path"),
        (("file", "x", "C", ["A", "B"]), "'C' is not one of A, B"),
        (("file", "x", "A", []), "0 slots"),
        (("file", "x", "A", ["A", "B C"]), "'B C'"),
        (("uboot", "x", "A", ["A;reset"]), "letters"),
    ],
)
def test_a_wrong_setup_is_told(arguments: tuple[str, str, str, list[str]], why: str) -> None:
    with pytest.raises(SetupError, match=why):
        open_boot_control(*arguments)


def test_a_change_is_made_under_a_lock_that_others_see(tmp_path: Path) -> None:
    """Read, decide and write are one step: two at once lose no change."""
    kept = FileStore(tmp_path / "boot.json", ("A", "B"), "A", RealFiles())
    handle = os.open(tmp_path, os.O_RDONLY)
    with kept.locked(), pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)
