"""Payloads: loaded for trial by those who read them, put in place at once, put back by restarts."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
import pytest

from gateway.collect.model import Limits
from gateway.update.blocking import in_place
from gateway.update.config import PayloadSection
from gateway.update.model import AttackError, InstallError, VerifiedTarget
from gateway.update.payload import PayloadInstaller
from gateway.update.payload_checks import check_manifest, check_model, payload_checks
from gateway.update.payload_trial import TRIES, before_start, trial_record
from gateway.wire.uptane import FileFacts, MustMatch
from tests.crash.disk import CrashFiles
from tests.gateway.manifests import MANIFEST
from tests.gateway.update.support import DATA, Shelf, Source, facts, no_progress
from tests.support import ROOT

BASE = Path("/etc/outrider")
PATH = BASE / "schemes.toml"
OLD, NEW = b"old content", b"new content"


def payload(content: bytes, kind: str = "scheme", version: str = "2") -> VerifiedTarget:
    return VerifiedTarget(
        ecu="schemes",
        hardware_id="board",
        image=facts(f"schemes-{version}.toml", content),
        must_match=MustMatch(hardware_ids=("board",), release_counter=1, kind=kind, version=version),
    )


def disk_with(content: bytes | None) -> CrashFiles:
    disk = CrashFiles()
    disk.make_directory(DATA)
    disk.make_directory(BASE)
    if content is not None:
        disk.add_file(PATH, content)
    return disk


def installer(disk: CrashFiles) -> PayloadInstaller:
    return PayloadInstaller(
        (PayloadSection(name="schemes", kind="scheme", path="schemes.toml"),),
        base=BASE,
        checks={"scheme": lambda content: None},
        store=Shelf(disk),
        files=disk,
        directory=DATA,
        offload=in_place,
    )


def install(disk: CrashFiles, content: bytes = NEW) -> PayloadInstaller:
    made, target = installer(disk), payload(content)
    anyio.run(made.install, target, Source([(target.image, content)]), no_progress)
    return made


def test_n10_the_content_before_is_kept_and_comes_back() -> None:
    disk = disk_with(OLD)
    made = install(disk)
    assert disk.read(PATH) == NEW
    anyio.run(made.restore, payload(NEW))
    assert disk.read(PATH) == OLD
    assert before_start(PATH, disk) == ""
    assert disk.read(PATH) == OLD


def test_a_payload_that_was_not_there_is_gone_again() -> None:
    disk = disk_with(None)
    made = install(disk)
    assert disk.read(PATH) == NEW
    anyio.run(made.restore, payload(NEW))
    assert not disk.exists(PATH)
    assert anyio.run(made.installed, "schemes") is None


def test_restore_leaves_what_is_not_its_own() -> None:
    disk = disk_with(OLD)
    anyio.run(installer(disk).restore, payload(NEW))
    assert disk.read(PATH) == OLD


def test_starts_on_trial_are_counted_and_then_it_comes_back() -> None:
    disk = disk_with(OLD)
    made = install(disk)
    for _ in range(TRIES):
        assert before_start(PATH, disk) == ""
        assert disk.read(PATH) == NEW
    assert "given up" in before_start(PATH, disk)
    assert disk.read(PATH) == OLD
    assert before_start(PATH, disk) == "", "once"
    assert "given up" in made.lost((payload(NEW),))
    assert made.lost((payload(b"another"),)) == ""


def test_a_confirmed_payload_is_counted_no_more() -> None:
    disk = disk_with(OLD)
    made = install(disk)
    made.confirm((payload(NEW),))
    for _ in range(TRIES + 2):
        assert before_start(PATH, disk) == ""
    assert disk.read(PATH) == NEW


def test_a_file_that_somebody_changed_is_left_alone() -> None:
    disk = disk_with(OLD)
    install(disk)
    disk.add_file(PATH, b"by hand")
    for _ in range(TRIES + 2):
        assert before_start(PATH, disk) == ""
    assert disk.read(PATH) == b"by hand"
    assert trial_record(disk, PATH).path not in disk.names


def test_a_damaged_mark_is_no_obstacle() -> None:
    disk = disk_with(OLD)
    install(disk)
    disk.add_file(trial_record(disk, PATH).path, b"\0\0")
    assert before_start(PATH, disk) == ""


def test_v1_what_is_installed_is_what_the_file_holds() -> None:
    disk = disk_with(OLD)
    made = install(disk)
    image = anyio.run(made.installed, "schemes")
    assert image is not None
    assert (image.filename, image.version) == ("schemes-2.toml", "2")
    disk.add_file(PATH, b"by hand")
    image = anyio.run(made.installed, "schemes")
    assert image is not None
    assert (image.filename, image.length) == ("", 7)


def test_n6_a_store_that_gives_something_else_is_caught() -> None:
    class Liar(Shelf):
        def _name(self, file: FileFacts) -> Path:
            return self.directory / file.hashes["sha256"]

        async def fetch(self, file: FileFacts, fetcher: object, progress: object) -> None:
            await anyio.lowlevel.checkpoint()
            self.files.make_directory(self.directory)
            self.files.write(self._name(file), b"X" * file.length)

    disk = disk_with(OLD)
    made = PayloadInstaller(
        (PayloadSection(name="schemes", kind="scheme", path="schemes.toml"),),
        base=BASE,
        checks={"scheme": lambda content: None},
        store=Liar(disk),
        files=disk,
        directory=DATA,
        offload=in_place,
    )
    with pytest.raises(AttackError):
        anyio.run(made.install, payload(NEW), Source(), no_progress)
    assert disk.read(PATH) == OLD


def test_an_unknown_payload_kind_or_name_is_refused() -> None:
    disk = disk_with(OLD)
    target = payload(NEW, kind="model")
    with pytest.raises(InstallError, match="nobody here"):
        anyio.run(installer(disk).install, target, Source([(target.image, NEW)]), no_progress)
    with pytest.raises(InstallError, match="no payload"):
        anyio.run(installer(disk).installed, "nothing")


def test_a_payload_that_is_too_large_is_not_fetched() -> None:
    disk = disk_with(OLD)
    made = installer(disk)
    made._max_bytes = 5
    source = Source([(payload(NEW).image, NEW)])
    with pytest.raises(InstallError, match="5 at most"):
        anyio.run(made.prepare, payload(NEW), source, no_progress)
    assert source.sent == 0


# loading for trial

CHECKS = payload_checks(vehicle="BENCH-1", manifest=lambda: MANIFEST, limits=Limits())
CONFIG = b"""
vehicle = "BENCH-1"
[[buses]]
name = "can0"
channel = "can0"
[collect]
manifest = "vehicle.manifest"
schemes = ["everything.toml"]
"""


def test_a_manifest_is_loaded() -> None:
    check_manifest(MANIFEST.to_bytes())
    for wrong in (b"", b"\0" * 100, MANIFEST.to_bytes()[:-1]):
        with pytest.raises(InstallError, match="manifest: "):
            check_manifest(wrong)


def test_a_scheme_must_fit_the_manifest_in_use() -> None:
    example = (ROOT / "gateway/collect/examples/everything.toml").read_text(encoding="utf-8")
    CHECKS["scheme"](re.sub(r"exclude = .*", "", example).encode())
    for wrong in (b"", b"\xff", b'id = "x"\nversion = 1\n[[signals]]\nname = "no.such.signal"\n'):
        with pytest.raises(InstallError, match="scheme: ") as caught:
            CHECKS["scheme"](wrong)
        assert "/tmp" not in str(caught.value)


def test_a_configuration_must_be_this_vehicles() -> None:
    CHECKS["config"](CONFIG)
    with pytest.raises(InstallError, match="BENCH-2"):
        CHECKS["config"](CONFIG.replace(b"BENCH-1", b"BENCH-2"))
    for wrong in (b"", b"\xff", CONFIG + b"[nonsense]\n"):
        with pytest.raises(InstallError, match="configuration: the file"):
            CHECKS["config"](wrong)


def test_a_model_must_look_like_one() -> None:
    check_model(b"\x1c\0\0\0TFL3" + bytes(100))
    for wrong in (b"", b"TFL3", bytes(100)):
        with pytest.raises(InstallError, match="model"):
            check_model(wrong)
