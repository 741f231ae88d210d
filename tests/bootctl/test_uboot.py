"""The U-Boot environment, checked against U-Boot's own tools in both directions, and cut at every write."""

from __future__ import annotations

import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootctl import core, uboot_env
from bootctl.backends import open_boot_control
from bootctl.errors import SetupError, StateError, StorageError
from bootctl.files import RealFiles
from bootctl.model import BootState, Slot
from bootctl.uboot import UbootStore, open_store, state_from, variables_of
from bootctl.uboot_config import Place, parse
from bootctl.uboot_env import Copy
from tests.bootctl.strategies import states
from tests.crash.disk import CrashFiles, crash_states

SIZE = 0x1000
TOOLS = ("fw_printenv", "fw_setenv", "mkenvimage")
needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)), reason="no libubootenv-tool and u-boot-tools (make apt-test)"
)
names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="=#"), min_size=1, max_size=12)
values = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="\\#"), min_size=1, max_size=20
)
foreign = st.dictionaries(names.filter(lambda n: not n.startswith("BOOT_")), values, max_size=6)


def run(*words: str | Path, text: str = "") -> str:
    done = subprocess.run([str(w) for w in words], input=text, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def image(folder: Path, content: str, *, redundant: bool) -> Path:
    """An environment made by mkenvimage in a file of two places, and its fw_env.config."""
    disk, config = folder / "disk", folder / "fw_env.config"
    (folder / "text").write_text(content)
    run("mkenvimage", *(["-r"] if redundant else []), "-s", hex(SIZE), "-o", folder / "one", folder / "text")
    disk.write_bytes(bytes(SIZE) + (folder / "one").read_bytes() + bytes(2 * SIZE))
    lines = [f"{disk} {SIZE:#x} {SIZE:#x}", f"{disk} {2 * SIZE:#x} {SIZE:#x}"]
    config.write_text("\n".join(lines if redundant else lines[:1]) + "\n")
    return config


def printed(config: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in run("fw_printenv", "-c", config).splitlines())


def set_by_tool(config: Path, variables: dict[str, str | None]) -> None:
    script = config.with_name("script")
    script.write_text("".join(f"{name}={value or ''}\n" for name, value in variables.items()))
    run("fw_setenv", "-c", config, "-s", script)


@needs_tools
@pytest.mark.parametrize("redundant", [True, False])
def test_what_we_write_their_tool_reads_and_foreign_variables_survive(
    tmp_path_factory: pytest.TempPathFactory, redundant: bool
) -> None:
    @settings(max_examples=20, deadline=None)
    @given(foreign, st.lists(states(), min_size=1, max_size=4))
    def check(others: dict[str, str], todo: list[BootState]) -> None:
        folder = tmp_path_factory.mktemp("env")
        config = image(folder, "".join(f"{n}={v}\n" for n, v in others.items()) + "last=1\n", redundant=redundant)
        for state in todo:
            store = open_store(config, [s.name for s in state.slots], state.current, RealFiles())
            before = store.variables()
            store.save(state)
            assert store.load() == state
            assert printed(config) == store.variables()
            kept = {n: v for n, v in store.variables().items() if not n.startswith("BOOT_")}
            assert list(kept.items()) == [(n, v) for n, v in before.items() if not n.startswith("BOOT_")]

    check()


@needs_tools
@pytest.mark.parametrize("redundant", [True, False])
def test_what_their_tool_writes_we_read(tmp_path_factory: pytest.TempPathFactory, redundant: bool) -> None:
    @settings(max_examples=15, deadline=None)
    @given(st.lists(states(), min_size=1, max_size=4), foreign)
    def check(todo: list[BootState], others: dict[str, str]) -> None:
        config = image(tmp_path_factory.mktemp("env"), "first=1\n", redundant=redundant)
        for state in todo:
            store = open_store(config, [s.name for s in state.slots], state.current, RealFiles())
            set_by_tool(config, {**variables_of(state, store.variables()), **others})
            assert store.load() == state
            assert printed(config) == store.variables()

    check()


@needs_tools
def test_both_take_turns_through_the_wrap_of_the_flag(tmp_path: Path) -> None:
    """The flag is one byte: after 255 comes 0, and 0 is newer."""
    config = image(tmp_path, "n=0\n", redundant=True)
    store = open_store(config, ["A", "B"], "A", RealFiles())
    state = core.mark_good(store.load())
    for turn in range(140):
        state = core.activate(state, "B", 1 + turn % 7)
        store.save(state)
        set_by_tool(config, {"n": str(turn)})
        assert store.load() == state
        assert store.variables()["n"] == str(turn)


def copy_of(text: dict[str, str], flag: int) -> bytes:
    data = b"".join(f"{n}={v}".encode() + b"\0" for n, v in text.items()) + b"\0"
    return uboot_env.encode(Copy(data.ljust(SIZE - 5, b"\0"), flag), is_redundant=True)


def disk_with(first: bytes, second: bytes) -> tuple[CrashFiles, UbootStore]:
    disk = CrashFiles()
    disk.add_device(Path("/dev/env0"), SIZE, first)
    disk.add_device(Path("/dev/env1"), SIZE, second)
    return disk, store_on(disk)


def store_on(disk: CrashFiles) -> UbootStore:
    places = [Place(Path("/dev/env0"), 0, SIZE), Place(Path("/dev/env1"), 0, SIZE)]
    return UbootStore(places, ["A", "B"], "A", disk)


GOOD = {"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3", "BOOT_A_GOOD": "1", "BOOT_B_LEFT": "3", "x": "y" * 1500}


@pytest.mark.parametrize(
    ("flags", "active"),
    [
        ((1, 0), 0),
        ((0, 1), 1),
        ((255, 0), 1),
        ((0, 255), 0),
        ((255, 254), 0),
        ((7, 7), 0),
        ((1, None), 0),
        ((None, 9), 1),
    ],
)
def test_every_cut_of_a_change_leaves_the_state_before_or_after(flags: tuple[int | None, ...], active: int) -> None:
    older = {**GOOD, "BOOT_ORDER": "B A", "x": "z" * 1500}
    texts = [GOOD if place == active else older for place in range(2)]
    disk, store = disk_with(*(b"" if f is None else copy_of(t, f) for t, f in zip(texts, flags, strict=True)))
    before = store.load()
    start = disk.snapshot()
    after = core.activate(before, "B", 2)
    store.save(after)
    found = []
    for cut in crash_states(start, disk.log, random_per_cut=40):
        found.append(store_on(cut.files).load())
        assert store_on(cut.files).variables()["x"] == "y" * 1500
    assert found[0] == before
    assert found[-1] == after
    assert all(state in (before, after) for state in found)
    assert len(found) > 5


def test_a_single_copy_can_tear_which_is_why_there_are_two() -> None:
    disk = CrashFiles()
    data = copy_of(GOOD, 0)[5:] + b"\0"
    disk.add_device(Path("/dev/env0"), SIZE, uboot_env.encode(Copy(data, 0), is_redundant=False))
    store = UbootStore([Place(Path("/dev/env0"), 0, SIZE)], ["A", "B"], "A", disk)
    assert "single copy" in store.notes()[0]
    start = disk.snapshot()
    changed = uboot_env.changed(data, {"BOOT_B_LEFT": "2", "a": "shifts everything"})
    disk.open(Path("/dev/env0")).write_at(0, uboot_env.encode(Copy(changed, 0), is_redundant=False))
    torn = 0
    for cut in crash_states(start, disk.log, random_per_cut=20):
        try:
            UbootStore([Place(Path("/dev/env0"), 0, SIZE)], ["A", "B"], "A", cut.files).load()
        except StateError:
            torn += 1
    assert torn > 0


@settings(max_examples=100, deadline=None)
@given(states())
def test_the_state_survives_its_variables(state: BootState) -> None:
    names = [slot.name for slot in state.slots]
    made = {name: value for name, value in variables_of(state, {}).items() if value is not None}
    assert state_from(made, names, state.current) == state
    assert variables_of(state, made) == {}


def test_a_missing_order_and_missing_tries_mean_what_the_boot_script_makes_of_them() -> None:
    assert state_from({}, ["A", "B"], "") == BootState((Slot("A", 2, 3, False), Slot("B", 1, 3, False)), "")


@pytest.mark.parametrize("left", ["", "0", "x", "-1", "0 1"])
def test_tries_that_are_no_number_are_none(left: str) -> None:
    assert not state_from({"BOOT_A_LEFT": left, "BOOT_ORDER": "A"}, ["A"], "").slot("A").is_bootable


def test_a_slot_that_another_tool_exhausted_or_left_out_is_not_good_whatever_our_variable_says() -> None:
    variables = {"BOOT_ORDER": "A", "BOOT_A_LEFT": "0", "BOOT_A_GOOD": "1", "BOOT_B_GOOD": "1", "BOOT_B_LEFT": "3"}
    state = state_from(variables, ["A", "B"], "")
    assert not state.slot("A").successful
    assert not state.slot("B").is_bootable


def test_slots_of_others_stay_in_the_order_behind_ours() -> None:
    before = {"BOOT_ORDER": "R A B", "BOOT_A_LEFT": "3", "BOOT_A_GOOD": "1", "BOOT_B_LEFT": "3"}
    state = core.activate(state_from(before, ["A", "B"], "A"), "B")
    assert variables_of(state, before) == {"BOOT_ORDER": "B A R"}


def test_an_order_without_slots_cannot_be_stored() -> None:
    with pytest.raises(StateError, match="empty"):
        variables_of(BootState((Slot("A", 0, 0, False),), ""), {})


def test_a_full_environment_is_refused_and_nothing_is_written() -> None:
    disk, store = disk_with(copy_of({"x": "y" * (SIZE - 10)}, 1), b"")
    start = len(disk.log)
    with pytest.raises(StateError, match="full"):
        store.save(core.mark_good(store.load()))
    assert len(disk.log) == start


def test_two_damaged_copies_are_unknown_and_not_a_bad_slot() -> None:
    _, store = disk_with(b"x", b"y")
    with pytest.raises(StateError, match="bad CRC"):
        store.load()


def test_a_damaged_copy_is_told_and_the_next_change_repairs_it() -> None:
    _, store = disk_with(copy_of(GOOD, 4), b"")
    assert "copy 2" in store.notes()[0]
    store.save(core.activate(store.load(), "B", 2))
    assert store.notes() == ()


def test_nothing_is_written_when_nothing_changes() -> None:
    disk, store = disk_with(copy_of(GOOD, 4), copy_of(GOOD, 3))
    calls = len(disk.log)
    store.save(store.load())
    assert len(disk.log) == calls


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.dictionaries(st.sampled_from(["a", "b"]), st.none() | values, max_size=2))
def test_any_bytes_with_a_right_checksum_are_read_and_changed(data: bytes, changes: dict[str, str | None]) -> None:
    """Entries without a sign, names that are there twice, no end: read as U-Boot would, foreign ones kept."""
    padded = data.ljust(300, b"\0")
    content = zlib.crc32(padded).to_bytes(4, "little") + padded
    copy = uboot_env.decode(content, is_redundant=False)
    assert copy is not None
    before, changed = uboot_env.variables(copy.data), uboot_env.changed(copy.data, changes)
    after = uboot_env.variables(changed)
    assert len(changed) == len(padded)
    for name, value in changes.items():
        assert after.get(name) == value
    assert {n: v for n, v in after.items() if n not in changes} == {n: v for n, v in before.items() if n not in changes}


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (
            "/dev/mmcblk0 0x400000 0x4000\n/dev/mmcblk0 0x404000 0x4000 # second\n",
            [(0x400000, 0x4000), (0x404000, 0x4000)],
        ),
        ("# one\n\n/dev/mmcblk0boot1 -0x2000 8192 0x200 16\n", [(-0x2000, 8192)]),
        ("env 010 0x100\n", [(8, 256)]),
    ],
)
def test_the_tools_configuration_is_read(text: str, places: list[tuple[int, int]]) -> None:
    assert [(p.offset, p.size_bytes) for p in parse(text)] == places


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "0 environments"),
        ("a 0 0x100\n" * 3, "3 environments"),
        ("a 0\n", "line 1"),
        ("a zero 0x100\n", "'zero' is no number"),
        ("a 0 1\n", "of 1 bytes"),
        ("a 0 0x7fffffff\n", "bytes"),
        ("a 0 0x100\nb 0 0x200\n", "differ in size"),
        ("a 0 0x100\na 0x80 0x100\n", "overlap"),
        ("uboot:\n  size: 0x100\n", "line 1"),
    ],
)
def test_a_wrong_configuration_is_told(text: str, why: str) -> None:
    with pytest.raises(SetupError, match=why):
        parse(text)


def test_a_place_from_the_end_and_one_beyond_it(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(100) + copy_of(GOOD, 1)[:0] + bytes(SIZE))
    config = tmp_path / "fw_env.config"
    config.write_text(f"disk -{SIZE:#x} {SIZE:#x}\n")
    with pytest.raises(StateError):
        open_boot_control("uboot", str(config), "A", ["A", "B"]).read()
    config.write_text(f"disk 0x2000 {SIZE:#x}\n")
    with pytest.raises(SetupError, match="too short"):
        open_boot_control("uboot", str(config), "A", ["A", "B"]).read()
    config.write_text(f"nothing 0 {SIZE:#x}\n")
    with pytest.raises(StorageError, match="No such file"):
        open_boot_control("uboot", str(config), "A", ["A", "B"]).read()
    config.write_text(f"/dev/null 0 {SIZE:#x}\n")
    with pytest.raises(SetupError, match="raw flash"):
        open_boot_control("uboot", str(config), "A", ["A", "B"]).read()
