"""The slot installer: its order, proved by the disk's log, and what it does when something is in the way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from bootctl.file import FileStore
from bootctl.files import RealFiles
from bootctl.model import BootControl
from bootctl.store import StoredBootControl
from gateway.errors import TransportError
from gateway.update.blocking import in_place
from gateway.update.model import AttackError, InstallError, VerifiedTarget
from gateway.update.slot import SlotInstaller
from tests.crash.disk import Call, CrashFiles
from tests.gateway.update.support import (
    BOOT_FILE,
    DATA,
    DEVICES,
    GATEWAY,
    SEGMENT_BYTES,
    SLOT_BYTES,
    Devices,
    Source,
    boot_control,
    facts,
    fresh_disk,
    image_bytes,
    no_progress,
    rootfs,
    slot_installer,
)
from tests.support import ROOT

OLD, NEW = image_bytes(1), image_bytes(2)


def install(disk: CrashFiles, source: Source, target: VerifiedTarget, current: str = "A") -> SlotInstaller:
    installer = slot_installer(disk, current)
    anyio.run(installer.install, target, source, no_progress)
    return installer


def source_of(target: VerifiedTarget, content: bytes) -> Source:
    return Source([(target.image, content)])


def content_of(disk: CrashFiles, slot: str, length: int) -> bytes:
    return disk.open(DEVICES[slot]).read_at(0, length)


def test_the_order_is_bad_then_no_head_then_segments_then_head_then_noted() -> None:
    """Design, section 5: each step durable before the next."""
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    install(disk, source_of(target, NEW), target)
    log = [call for call in disk.log if call.kind != "make"]
    device = [n for n, call in enumerate(log) if call.path == DEVICES["B"]]
    bad = next(n for n, call in enumerate(log) if call.target == BOOT_FILE)
    assert bad < device[0]
    writes = [(log[n].offset, len(log[n].data)) for n in device if log[n].kind == "write"]
    assert writes[0] == (0, 4096)
    assert not any(log[device[0]].data)
    assert writes[-1] == (0, 4096)
    assert all(offset >= 4096 for offset, _ in writes[1:-1])
    assert [log[n].kind for n in device] == ["write", "sync"] * len(writes), "each write is synced before the next"
    whole = max(n for n, call in enumerate(log) if call.target == DATA / "slots.json")
    assert whole > device[-1]
    assert content_of(disk, "B", len(NEW)) == NEW
    assert content_of(disk, "A", len(OLD)) == OLD


def test_the_record_follows_the_data() -> None:
    """Whenever the progress record changes, what it tells of has been synced."""
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    unsynced: set[Path] = set()

    def watch(number: int, call: Call) -> None:
        if call.path == DEVICES["B"] and call.kind == "write":
            unsynced.add(call.path)
        elif call.kind == "sync":
            unsynced.discard(call.path)
        elif call.kind == "rename" and call.target == DATA / "slot-progress.json":
            assert not unsynced, f"call {number}"

    disk.before = watch
    install(disk, source_of(target, NEW), target)


def test_n7_the_slot_is_not_bootable_until_it_is_activated() -> None:
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    installer = install(disk, source_of(target, NEW), target)
    state = boot_control(disk).read()
    assert not state.slot("B").is_bootable
    assert anyio.run(installer.activate, target) == "B"
    state = boot_control(disk).read()
    assert state.next is not None
    assert state.next.name == "B"
    assert state.slot("B").is_on_trial
    assert state.slot("A").successful


def test_a_broken_connection_goes_on_where_it_was() -> None:
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    source = source_of(target, NEW)
    source.breaks_after = 20_000
    with pytest.raises(TransportError):
        install(disk, source, target)
    source.breaks_after = None
    written = len(disk.log)
    install(disk, source, target)
    assert source.offsets == [0, 20_000 // SEGMENT_BYTES * SEGMENT_BYTES]
    again = [c for c in disk.log[written:] if c.path == DEVICES["B"] and c.kind == "write" and c.offset >= 4096]
    assert min(call.offset for call in again) == source.offsets[-1], "nothing that was there is written again"
    assert content_of(disk, "B", len(NEW)) == NEW


def test_a_slot_that_holds_the_image_is_read_and_not_written() -> None:
    """A commanded rollback: the other slot has exactly that image still."""
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    install(disk, source_of(target, NEW), target)
    written = len(disk.log)
    installer = install(disk, Source(), target)
    assert not [call for call in disk.log[written:] if call.path == DEVICES["B"]]
    assert anyio.run(installer.activate, target) == "B"


def test_a_slot_that_only_claims_to_hold_the_image_is_written() -> None:
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    install(disk, source_of(target, NEW), target)
    disk.open(DEVICES["B"]).write_at(30_000, b"rotten")
    install(disk, source_of(target, NEW), target)
    assert content_of(disk, "B", len(NEW)) == NEW


def test_n6_what_came_is_not_what_was_signed() -> None:
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    with pytest.raises(AttackError) as caught:
        install(disk, source_of(target, NEW[:-1] + b"!"), target)
    assert (caught.value.attack, caught.value.rule) == ("arbitrary software", "N6")
    assert not boot_control(disk).read().slot("B").is_bootable
    install(disk, source_of(target, NEW), target)
    assert content_of(disk, "B", len(NEW)) == NEW


def test_n6_more_than_was_signed_is_endless_data() -> None:
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    with pytest.raises(AttackError, match="endless data"):
        install(disk, source_of(target, NEW + b"x"), target)


def test_n6_less_than_was_signed_is_refused() -> None:
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    with pytest.raises(AttackError, match="ended after"):
        install(disk, source_of(target, NEW[:-1]), target)


def test_v4_a_hash_that_nobody_can_check_is_refused() -> None:
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    target.image.hashes["whirlpool"] = "00"
    with pytest.raises(InstallError, match="whirlpool"):
        install(disk, source_of(target, NEW), target)
    assert not disk.log


def test_v4_every_listed_hash_is_compared() -> None:
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    target.image.hashes["sha512"] = "0" * 128
    with pytest.raises(AttackError):
        install(disk, source_of(target, NEW), target)


def test_an_image_that_is_too_large_touches_nothing() -> None:
    disk = fresh_disk(running=OLD)
    content = image_bytes(3, SLOT_BYTES + 1)
    target = rootfs(content, "2")
    with pytest.raises(InstallError, match=f"room for {SLOT_BYTES} bytes"):
        install(disk, source_of(target, content), target)
    assert not disk.log


def test_an_image_as_large_as_the_slot_fits() -> None:
    disk = fresh_disk(running=OLD)
    content = image_bytes(3, SLOT_BYTES)
    target = rootfs(content, "2")
    install(disk, source_of(target, content), target)
    assert content_of(disk, "B", SLOT_BYTES) == content


@pytest.mark.parametrize("length", [1, 511, 4095, 4096, 4097, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1])
def test_any_length_works(length: int) -> None:
    disk = fresh_disk(running=OLD)
    content = image_bytes(4, length)
    target = rootfs(content, "2")
    install(disk, source_of(target, content), target)
    assert content_of(disk, "B", length) == content


def test_a_slot_in_use_is_refused() -> None:
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    disk.in_use.add(DEVICES["B"])
    with pytest.raises(InstallError, match="busy"):
        install(disk, source_of(target, NEW), target)
    assert not disk.log


def test_a_missing_device_is_told() -> None:
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    del disk.names[DEVICES["B"]]
    with pytest.raises(InstallError, match=r"slot B .*No such file"):
        install(disk, source_of(target, NEW), target)


def test_a_slot_on_the_device_that_runs_is_refused() -> None:
    class Same(Devices):
        def path(self, slot: str) -> Path:
            return DEVICES["A"]

    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    installer = SlotInstaller(
        ecu=GATEWAY,
        boot=boot_control(disk),
        devices=Same(),
        files=disk,
        directory=DATA,
        segment_bytes=SEGMENT_BYTES,
        offload=in_place,
    )
    with pytest.raises(InstallError, match="device that runs"):
        anyio.run(installer.install, target, source_of(target, NEW), no_progress)
    assert content_of(disk, "A", len(OLD)) == OLD


def test_no_installation_while_the_running_slot_is_on_trial() -> None:
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    install(disk, source_of(target, NEW), target)
    anyio.run(slot_installer(disk).activate, target)
    assert FileStore(BOOT_FILE, tuple(DEVICES), "", disk).boot() == "B"
    with pytest.raises(InstallError, match="on trial"):
        install(disk, source_of(target, NEW), rootfs(OLD, "1"), current="B")
    assert content_of(disk, "A", len(OLD)) == OLD


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_every_write_may_fail_and_the_next_try_succeeds(error: int) -> None:
    """A disk that is full, or fails, at any write: told, the running slot untouched, and it heals."""
    target, number, failures = rootfs(NEW, "2"), 0, 0
    while True:
        disk = fresh_disk(running=OLD)
        has_failed = False

        def fail(count: int, call: Call, number: int = number) -> None:
            nonlocal has_failed
            if count == number and not has_failed:
                has_failed = True
                raise OSError(error, "injected", str(call.path))

        disk.before = fail
        with suppress(InstallError):
            install(disk, source_of(target, NEW), target)
            failures -= 1
        failures += 1
        assert content_of(disk, "A", len(OLD)) == OLD
        assert boot_control(disk).read().slot("A").is_bootable
        if not has_failed:
            break
        disk.before = None
        install(disk, source_of(target, NEW), target)
        assert content_of(disk, "B", len(NEW)) == NEW
        number += 1
    assert number > 40
    assert failures > number * 0.9


def test_v1_the_running_slot_is_read_back_once() -> None:
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    install(disk, source_of(target, NEW), target)
    running = slot_installer(disk, "B")
    image = anyio.run(running.installed, GATEWAY)
    assert image is not None
    assert (image.filename, image.version, image.hashes) == (target.image.filename, "2", target.image.hashes)
    disk.broken[DEVICES["B"]] = errno.EIO
    assert anyio.run(slot_installer(disk, "B").installed, GATEWAY) == image, "remembered"


def test_v1_a_running_slot_that_changed_is_told_as_it_is() -> None:
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    install(disk, source_of(target, NEW), target)
    disk.open(DEVICES["B"]).write_at(5000, b"somebody was here")
    image = anyio.run(slot_installer(disk, "B").installed, GATEWAY)
    assert image is not None
    assert image.filename == ""
    assert image.hashes["sha256"] != target.image.hashes["sha256"]


def test_v1_a_slot_filled_by_somebody_else_is_read_whole() -> None:
    disk = fresh_disk(running=OLD)
    image = anyio.run(slot_installer(disk).installed, GATEWAY)
    assert image is not None
    assert image.hashes == facts("", content_of(disk, "A", SLOT_BYTES)).hashes


def test_a_damaged_status_file_is_no_obstacle() -> None:
    disk, target = fresh_disk(running=OLD), rootfs(NEW, "2")
    install(disk, source_of(target, NEW), target)
    for name in ("slots.json", "slot-progress.json", "booted.json"):
        disk.write(DATA / name, b"\0" * 100)
    other = rootfs(OLD, "1")
    install(disk, source_of(other, OLD), other)
    assert content_of(disk, "B", len(OLD)) == OLD


def test_the_control_is_the_file_back_end() -> None:
    """What these tests call the boot loader's state is the real back end on the model disk."""
    control: BootControl = boot_control(fresh_disk())
    assert isinstance(control, StoredBootControl)


def test_a_device_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    """The running slot under dm-verity refuses to be opened for writing."""
    path = tmp_path / "slot"
    path.write_bytes(b"image")
    path.chmod(0o400)

    def refuse(name: object, flags: int, *rest: int, real: Callable[..., int] = os.open) -> int:
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(name, flags, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)  # root may write to anything, so the refusal is acted
        file = RealFiles().open(path)
        with pytest.raises(OSError, match="Read-only"):
            RealFiles().open(path, create=True)
    assert file.read_at(0, 100) == b"image"
    file.close()


def test_memory_is_bounded_whatever_the_image(tmp_path: Path) -> None:
    """24 MiB through real files in a process of its own: no more than a few segments are held."""
    script = f"""
import anyio, hashlib, resource, sys
from pathlib import Path
from bootctl.file import FileStore
from bootctl.files import RealFiles
from bootctl.model import BootState, Slot
from bootctl.store import StoredBootControl
from gateway.update.model import VerifiedTarget
from gateway.update.slot import SlotInstaller
from gateway.wire.uptane import FileFacts, MustMatch

base, length, piece = Path({str(tmp_path)!r}), 24 << 20, bytes(range(256)) * 256
for name in "ab":
    with open(base / name, "wb") as file:
        file.truncate(64 << 20)
hashes = {{name: hashlib.new(name) for name in ("sha256", "sha512")}}
for one in hashes.values():
    for _ in range(length // len(piece)):
        one.update(piece)
facts = FileFacts(filename="big", length=length, hashes={{n: h.hexdigest() for n, h in hashes.items()}})
match = MustMatch(hardware_ids=("x",), release_counter=1, kind="rootfs", version="1")
target = VerifiedTarget(ecu="g", hardware_id="x", image=facts, must_match=match)

class Source:
    async def target(self, file, offset):
        for _ in range((file.length - offset) // len(piece)):
            yield piece

class Devices:
    def path(self, slot):
        return base / slot.lower()

store = FileStore(base / "boot.json", ("A", "B"), "A", RealFiles())
store.save(BootState((Slot("A", 2, 3, True), Slot("B", 1, 3, True)), "A"))
installer = SlotInstaller(ecu="g", boot=StoredBootControl(store), devices=Devices(), files=RealFiles(),
                          directory=base / "update", segment_bytes=1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
anyio.run(installer.install, target, Source(), lambda done, total: None)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, installer.slot_holding(target))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    grown_mib, slot = done.stdout.split()
    assert slot == "B"
    assert int(grown_mib) < 16
