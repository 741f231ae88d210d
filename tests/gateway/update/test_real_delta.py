"""Nothing imagined: the cloud's builder, the container, the store of fetched files, real files for slots."""

from __future__ import annotations

import random
from pathlib import Path

import anyio
import pytest

from bootctl.backends import open_boot_control
from bootctl.files import RealFiles
from cloud.updates.delta.build import Image, build_delta
from gateway.delta import open_delta
from gateway.update.slot import SlotInstaller
from gateway.update.slot_state import SlotContent, image_of
from gateway.uptane.download_store import DownloadStore
from gateway.wire.uptane import DeltaOffer
from tests.gateway.update.support import GATEWAY, Source, facts, no_progress, rootfs

LENGTH = 3_000_000


def test_a_delta_of_the_cloud_is_installed_from_the_running_slot(tmp_path: Path) -> None:
    """Also after a power cut in the middle: another process goes on."""
    rng = random.Random(5)
    old = rng.randbytes(LENGTH)
    new = old[:1_000_000] + rng.randbytes(5000) + old[990_000:2_990_000]
    (tmp_path / "a").write_bytes(old.ljust(4 << 20, b"\0"))
    (tmp_path / "b").write_bytes(rng.randbytes(4 << 20))
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    first, second = facts("old", old), facts("new", new)
    built = tmp_path / "delta"
    build_delta(
        Image(path=tmp_path / "old", sha256=first.hashes["sha256"], length=len(old)),
        Image(path=tmp_path / "new", sha256=second.hashes["sha256"], length=len(new)),
        built,
        segment_bytes=1 << 20,
    )
    content = built.read_bytes()
    assert len(content) < 50_000
    offer = DeltaOffer(
        base_sha256=first.hashes["sha256"], base_length=len(old), delta=facts("deltas/one.delta", content)
    )
    target = rootfs(new, "2", deltas=(offer,))
    source = Source([(offer.delta, content)])
    files = RealFiles()

    class Devices:
        def path(self, slot: str) -> Path:
            return tmp_path / slot.lower()

    def installer() -> SlotInstaller:
        return SlotInstaller(
            ecu=GATEWAY,
            boot=open_boot_control("file", str(tmp_path / "boot.json"), "A", ["A", "B"], files),
            devices=Devices(),
            files=files,
            directory=tmp_path / "update",
            segment_bytes=1 << 20,
            store=DownloadStore(tmp_path / "store", files, keep_free_bytes=0),
            open_delta=open_delta,
        )

    begun = installer()
    begun.state.set_content("A", SlotContent(is_whole=True, image=image_of(rootfs(old, "1"))))

    class CutError(Exception):
        """The process ended here."""

    def cut(done: int, total: int) -> None:
        del total
        if done == 2 << 20:
            raise CutError

    with pytest.raises(CutError):
        anyio.run(begun.install, target, source, cut)
    again = installer()
    anyio.run(again.install, target, source, no_progress)
    assert (tmp_path / "b").read_bytes()[: len(new)] == new
    assert source.sent == len(content), "the delta was fetched once, the image never"
    assert again.used_delta is True
    assert anyio.run(again.activate, target) == "B"
