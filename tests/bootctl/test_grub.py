"""GRUB's environment block, checked against grub-editenv in both directions, and cut at every write."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootctl import core
from bootctl.backends import open_boot_control
from bootctl.errors import StateError, StorageError
from bootctl.files import RealFiles
from bootctl.grub import SIGNATURE, GrubStore, changed_block, parse_block, state_from, variables_of
from bootctl.model import BootState, Slot
from tests.bootctl.strategies import states
from tests.crash.disk import CrashFiles, crash_states

needs_tool = pytest.mark.skipif(shutil.which("grub-editenv") is None, reason="no grub-common (make apt-test)")
PATH = Path("/boot/grub/grubenv")
names = st.text("abcdefghijklmnop_", min_size=1, max_size=10)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
#: What a variable's value may be for the block's own escapes.
odd_values = st.text(st.characters(min_codepoint=1, max_codepoint=0x7E), max_size=20)


def editenv(path: Path, *words: str) -> str:
    done = subprocess.run(["grub-editenv", str(path), *words], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in editenv(path, "list").splitlines())


@needs_tool
def test_what_we_write_their_tool_reads_and_foreign_variables_survive(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    @settings(max_examples=20, deadline=None)
    @given(st.dictionaries(names, values, max_size=5), st.lists(states(), min_size=1, max_size=3))
    def check(others: dict[str, str], todo: list[BootState]) -> None:
        path = tmp_path_factory.mktemp("grub") / "grubenv"
        editenv(path, "create")
        if others:
            editenv(path, "set", *(f"{name}={value}" for name, value in others.items()))
        for state in todo:
            store = GrubStore(path, [s.name for s in state.slots], state.current, RealFiles())
            store.save(state)
            assert store.load() == state
            assert listed(path) == parse_block(path.read_bytes())
            assert others.items() <= listed(path).items()
            assert path.stat().st_size == 1024

    check()


@needs_tool
def test_what_their_tool_writes_we_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=20, deadline=None)
    @given(states(), st.dictionaries(names, values, max_size=5))
    def check(state: BootState, others: dict[str, str]) -> None:
        path = tmp_path_factory.mktemp("grub") / "grubenv"
        editenv(path, "create")
        wanted = {**others, **{n: v for n, v in variables_of(state, {}).items() if v is not None}}
        editenv(path, "set", *(f"{name}={value}" for name, value in wanted.items()))
        store = GrubStore(path, [s.name for s in state.slots], state.current, RealFiles())
        assert store.load() == state
        editenv(path, "unset", "ORDER")
        assert "ORDER" not in parse_block(path.read_bytes())

    check()


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(names, odd_values, max_size=8))
def test_any_value_survives_the_escapes(variables: dict[str, str]) -> None:
    empty = SIGNATURE.ljust(1024, b"#")
    assert parse_block(changed_block(empty, variables, [])) == variables


@settings(max_examples=100, deadline=None)
@given(states())
def test_the_state_survives_its_variables(state: BootState) -> None:
    made = {name: value for name, value in variables_of(state, {}).items() if value is not None}
    again = state_from(made, [s.name for s in state.slots], state.current)
    assert again == state
    assert variables_of(state, made) == {}


def test_tries_are_counted_down_by_what_the_boot_script_counts_up() -> None:
    before = {"ORDER": "B A", "B_OK": "1", "B_TRY": "2", "B_TRIES": "3", "A_OK": "1", "A_GOOD": "1", "A_TRY": "0"}
    state = state_from(before, ["A", "B"], "A")
    assert state.slot("B") == Slot("B", 2, 1, False)
    assert variables_of(core.switch(state, "A"), before) == {"ORDER": "A B"}


def test_a_block_of_a_script_that_knows_one_try_only() -> None:
    """``ORDER``, ``OK`` and ``TRY`` alone, as RAUC's script has them."""
    block = {"ORDER": "A B", "A_OK": "1", "A_TRY": "1", "B_OK": "1", "B_TRY": "0"}
    state = state_from(block, ["A", "B"], "B")
    assert state == BootState((Slot("A", 2, 0, False), Slot("B", 1, 1, False)), "B")
    assert state_from({}, ["A", "B"], "").order == (Slot("A", 2, 1, False), Slot("B", 1, 1, False))


@pytest.mark.parametrize("others", [{}, {"x": "y" * 600}, {f"v{n}": "z" * 30 for n in range(15)}])
def test_every_cut_of_a_change_leaves_the_state_before_or_after(others: dict[str, str]) -> None:
    disk = CrashFiles()
    disk.add_file(PATH, changed_block(SIGNATURE.ljust(1024, b"#"), others, []))
    store = GrubStore(PATH, ["A", "B"], "A", disk)
    for change in (core.mark_good, lambda s: core.mark_bad(s, "B"), lambda s: core.activate(s, "B", 3), core.mark_good):
        start, done = disk.snapshot(), len(disk.log)
        before = store.load()
        after = change(before)
        store.save(after)
        found = []
        for cut in crash_states(start, disk.log[done:], random_per_cut=10):
            found.append(GrubStore(PATH, ["A", "B"], "A", cut.files).load())
            assert others.items() <= parse_block(cut.files.read(PATH)).items()
        assert all(state in (before, after) for state in found)
        assert found[-1] == after


def test_a_change_in_one_sector_is_written_in_place() -> None:
    disk = CrashFiles()
    disk.add_file(PATH, SIGNATURE.ljust(1024, b"#"))
    store = GrubStore(PATH, ["A", "B"], "A", disk)
    store.save(core.mark_good(store.load()))
    assert [call.kind for call in disk.log] == ["write", "sync"]


@pytest.mark.parametrize("content", [b"", b"# GRUB", b"x" * 1024, SIGNATURE, SIGNATURE.ljust(100_000, b"#")])
def test_what_is_no_block_is_unknown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "grubenv"
    path.write_bytes(content)
    with pytest.raises(StateError, match="not a GRUB environment block"):
        open_boot_control("grub", str(path), "A", ["A", "B"]).read()


def test_a_missing_and_a_full_block_are_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        open_boot_control("grub", str(tmp_path / "grubenv"), "A", ["A", "B"]).read()
    (tmp_path / "grubenv").write_bytes(changed_block(SIGNATURE.ljust(1024, b"#"), {"x": "y" * 980}, []))
    control = open_boot_control("grub", str(tmp_path / "grubenv"), "A", ["A", "B"])
    with pytest.raises(StateError, match="full"):
        control.mark_good()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=1000))
def test_any_bytes_are_a_block_or_refused(content: bytes) -> None:
    block = (SIGNATURE + content).ljust(1024, b"#")[:1024]
    variables = parse_block(block)
    try:
        changed = changed_block(block, {"ORDER": "A"}, ["ORDER"])
    except StateError:
        return
    assert parse_block(changed) == {**variables, "ORDER": "A"}
