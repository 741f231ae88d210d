"""EFI variables in a folder that looks like efivarfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootctl import core
from bootctl.backends import open_boot_control
from bootctl.efi import ATTRIBUTES, GLOBAL, EfiStore
from bootctl.errors import SetupError
from bootctl.files import RealFiles
from bootctl.model import Slot
from bootctl.store import Change, StoredBootControl
from tests.crash.disk import CrashFiles, crash_states

FOLDER = Path("/sys/firmware/efi/efivars")
ENTRIES = {"Boot0000": "UEFI Shell", "Boot0003": "A", "Boot000A": "B", "Boot0007": "A"}


def entry(text: str) -> bytes:
    """An EFI_LOAD_OPTION: attributes, length of the path, description, a path."""
    return (1).to_bytes(4, "little") + (4).to_bytes(2, "little") + text.encode("utf-16-le") + b"\0\0" + b"\x7f\xff\4\0"


def numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "little") for value in values)


def firmware(order: bytes = numbers(3, 0xA, 0), boot_next: bytes | None = None) -> CrashFiles:
    files = CrashFiles()
    variables = {name: entry(text) for name, text in ENTRIES.items()} | {"BootOrder": order}
    if boot_next is not None:
        variables["BootNext"] = boot_next
    for name, content in variables.items():
        files.add_file(FOLDER / f"{name}-{GLOBAL}", ATTRIBUTES + content)
    return files


def control(files: CrashFiles, current: str = "A") -> StoredBootControl:
    return StoredBootControl(EfiStore(FOLDER, ["A", "B"], current, files))


def variable(files: CrashFiles, name: str) -> bytes | None:
    path = FOLDER / f"{name}-{GLOBAL}"
    if not files.exists(path):
        return None
    assert files.read(path)[:4] == ATTRIBUTES
    return files.read(path)[4:]


def test_slots_are_entries_by_their_description_and_the_first_of_a_name_counts() -> None:
    state = control(firmware()).read()
    assert state.slots == (Slot("A", 2, 1, True), Slot("B", 1, 1, True))


def test_a_trial_is_boot_next_alone_and_comes_after_going_out_of_the_order() -> None:
    files = firmware()
    boot = control(files)
    boot.mark_bad("B")
    assert variable(files, "BootOrder") == numbers(3, 0)
    boot.activate("B", 3)
    assert variable(files, "BootNext") == numbers(0xA)
    assert variable(files, "BootOrder") == numbers(3, 0)
    assert boot.read().slots == (Slot("A", 1, 1, True), Slot("B", 2, 1, False))


def test_the_firmware_takes_the_one_try_and_the_good_slot_is_next() -> None:
    files = firmware(numbers(3, 0), boot_next=numbers(0xA))
    assert control(files).read().next == Slot("B", 2, 1, False)
    files.remove(FOLDER / f"BootNext-{GLOBAL}")  # as the firmware does
    assert control(files, "B").read().next == Slot("A", 1, 1, True)


def test_mark_good_puts_the_running_slot_into_the_order() -> None:
    files = firmware(numbers(3, 0))
    control(files, "B").mark_good()
    assert variable(files, "BootOrder") == numbers(3, 0xA, 0)
    control(files, "B").switch("B")
    assert variable(files, "BootOrder") == numbers(0xA, 3, 0)


def test_a_switch_gives_up_a_trial_and_foreign_entries_stay() -> None:
    files = firmware(numbers(0, 3), boot_next=numbers(0xA))
    control(files).switch("A")
    assert variable(files, "BootNext") is None
    assert variable(files, "BootOrder") == numbers(3, 0)


def test_a_foreign_boot_next_is_left_alone() -> None:
    files = firmware(boot_next=numbers(0))
    control(files).switch("B")
    assert variable(files, "BootNext") == numbers(0)


def test_a_name_without_an_entry_is_told() -> None:
    with pytest.raises(SetupError, match="no boot entry is called C"):
        EfiStore(FOLDER, ["A", "C"], "A", firmware()).load()


@pytest.mark.parametrize("start", [firmware(), firmware(numbers(3, 0), numbers(0xA)), firmware(numbers(3))])
def test_a_cut_between_two_variables_leaves_something_bootable(start: CrashFiles) -> None:
    """Whole writes only, as firmware makes them."""
    changes: list[Change] = [
        lambda s: core.activate(s, "B", 1),
        lambda s: core.switch(s, "A"),
        lambda s: core.mark_bad(s, "B"),
    ]
    for change in changes:
        files = CrashFiles.of(start.snapshot())
        store = EfiStore(FOLDER, ["A", "B"], "A", files)
        store.save(change(store.load()))
        assert store.load() == change(store.load())
        for calls in range(len(files.log) + 1):
            state = [s for s in crash_states(start.snapshot(), files.log[:calls]) if s.what == "all is there"]
            for cut in state[-1:]:
                booting = EfiStore(FOLDER, ["A", "B"], "A", cut.files).load()
                assert booting.slot("A").successful
                assert booting.next is not None


def test_real_files_are_written_with_their_attributes_first(tmp_path: Path) -> None:
    source = firmware()
    for path in list(source.names):
        (tmp_path / path.name).write_bytes(source.read(path))
    boot = open_boot_control("efi", str(tmp_path), "A", ["A", "B"], RealFiles())
    boot.mark_bad("B")
    boot.activate("B", 1)
    assert (tmp_path / f"BootNext-{GLOBAL}").read_bytes() == ATTRIBUTES + numbers(0xA)
    assert (tmp_path / f"BootOrder-{GLOBAL}").read_bytes() == ATTRIBUTES + numbers(3, 0)
