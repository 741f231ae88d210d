"""Deltas in the slot installer: what is used when, and that the full image is always there to fall back on."""

from __future__ import annotations

import anyio
import pytest

from gateway.errors import TransportError
from gateway.update.model import VerifiedTarget
from gateway.update.slot import SlotInstaller
from gateway.update.slot_state import SlotContent, image_of
from gateway.wire.uptane import DeltaOffer
from tests.crash.disk import CrashFiles
from tests.gateway.update.support import (
    DATA,
    DEVICES,
    Shelf,
    Source,
    facts,
    fresh_disk,
    image_bytes,
    no_progress,
    open_xor,
    rootfs,
    slot_installer,
    xor_delta,
)

OLD = image_bytes(1)
NEW = OLD[:10_000] + b"patched" + OLD[10_007:30_000]
OFFER, DELTA = xor_delta(OLD, NEW)


def vehicle(disk: CrashFiles) -> SlotInstaller:
    installer = slot_installer(disk, store=Shelf(disk), open_delta=open_xor)
    installer.state.set_content("A", SlotContent(is_whole=True, image=image_of(rootfs(OLD, "1"))))
    return installer


def offer(offers: tuple[DeltaOffer, ...] = (OFFER,)) -> tuple[VerifiedTarget, Source]:
    target = rootfs(NEW, "2", deltas=offers)
    return target, Source([(target.image, NEW), (OFFER.delta, DELTA)])


def install(installer: SlotInstaller, target: VerifiedTarget, source: Source) -> None:
    async def both() -> None:
        await installer.prepare(target, source, no_progress)
        await installer.install(target, source, no_progress)

    anyio.run(both)


def written(disk: CrashFiles) -> bytes:
    return disk.open(DEVICES["B"]).read_at(0, len(NEW))


def test_a_delta_that_fits_is_all_that_is_fetched() -> None:
    disk = fresh_disk(running=OLD)
    target, source = offer()
    installer = vehicle(disk)
    install(installer, target, source)
    assert written(disk) == NEW
    assert source.sent == len(DELTA)
    assert installer.used_delta is True


def test_a_delta_for_another_base_is_not_fetched() -> None:
    disk = fresh_disk(running=OLD)
    other, _ = xor_delta(image_bytes(7), NEW)
    target, source = offer((other,))
    installer = vehicle(disk)
    install(installer, target, source)
    assert written(disk) == NEW
    assert source.sent == len(NEW)
    assert installer.used_delta is False


def test_a_base_that_changed_since_is_seen_before_the_first_write() -> None:
    """Nobody knows what is in A: the delta is tried, its base is compared, the full image is taken."""
    disk = fresh_disk(running=OLD)
    disk.open(DEVICES["A"]).write_at(100, b"changed")
    installer = slot_installer(disk, store=Shelf(disk), open_delta=open_xor)
    target, source = offer()
    install(installer, target, source)
    assert written(disk) == NEW
    assert source.sent == len(DELTA) + len(NEW)
    assert installer.used_delta is False


def test_a_delta_that_makes_something_else_is_given_up() -> None:
    disk = fresh_disk(running=OLD)
    wrong, content = xor_delta(OLD, NEW[:-1] + b"?")
    target = rootfs(NEW, "2", deltas=(wrong,))
    source = Source([(target.image, NEW), (wrong.delta, content)])
    installer = vehicle(disk)
    install(installer, target, source)
    assert written(disk) == NEW
    assert installer.used_delta is False


def test_a_delta_whose_result_is_wrong_is_given_up_for_good() -> None:
    """It claims the right target and makes another one; after a restart it is not tried again."""
    disk = fresh_disk(running=OLD)
    _, content = xor_delta(OLD, NEW)
    content = content[:-20] + bytes(20)
    bad = DeltaOffer(base_sha256=OFFER.base_sha256, base_length=len(OLD), delta=facts("deltas/bad", content))
    target = rootfs(NEW, "2", deltas=(bad,))
    source = Source([(target.image, NEW), (bad.delta, content)])
    source.breaks_after = len(content) + 5000
    with pytest.raises(TransportError):
        install(vehicle(disk), target, source)
    assert disk.exists(DATA / "slot-progress.json")
    source.breaks_after = None
    again = vehicle(disk)
    anyio.run(again.install, target, source, no_progress)
    assert written(disk) == NEW
    assert again.used_delta is not True


def test_a_delta_that_cannot_be_fetched_is_given_up_after_some_tries() -> None:
    disk = fresh_disk(running=OLD)
    target, source = offer()
    del source.contents[OFFER.delta.filename]
    installer = vehicle(disk)
    for _ in range(2):
        with pytest.raises(TransportError):
            anyio.run(installer.prepare, target, source, no_progress)
    install(installer, target, source)
    assert written(disk) == NEW


def test_a_delta_larger_than_the_image_is_not_used() -> None:
    disk = fresh_disk(running=OLD)
    small = NEW[:100]
    large, content = xor_delta(OLD, NEW)
    target = rootfs(small, "2", deltas=(large,))
    source = Source([(target.image, small), (large.delta, content)])
    install(vehicle(disk), target, source)
    assert source.sent == len(small)
