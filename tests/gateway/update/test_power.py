"""Power cuts: after any of them something verified boots, and the update then ends as it would have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.update.model import VerifiedUpdate
from gateway.update.slot_state import SlotContent, SlotState, image_of
from tests.crash.disk import CrashFiles, crash_states
from tests.gateway.update.support import (
    DATA,
    GATEWAY,
    SEGMENT_BYTES,
    boot_control,
    fresh_disk,
    image_bytes,
    rootfs,
    xor_delta,
)
from tests.gateway.update.world import BASE, PAYLOAD, World, drive, target, update
from tests.support import LONG

OLD = image_bytes(1)
NEW = image_bytes(2, 20_000)
PATCHED = OLD[:9000] + b"patched" + OLD[9007:20_000]
OFFER, DELTA = xor_delta(OLD, PATCHED)
EVERY, RANDOM = (1, 8) if LONG else (1, 4)


def vehicle(disk: CrashFiles | None = None, boots: int = 0) -> World:
    world = World(disk or fresh_disk(running=OLD))
    world.boots = world.starts = boots
    if disk is None:
        SlotState(world.disk, DATA).set_content("A", SlotContent(is_whole=True, image=image_of(rootfs(OLD, "1"))))
    return world


def cuts(wanted: VerifiedUpdate, *contents: bytes, scheme: bytes = b"") -> Iterator[tuple[int, World]]:
    """The whole update once, and the world after each cut of it."""
    world = vehicle()
    if scheme:
        world.disk.add_file(BASE / "schemes.toml", scheme)
    start = world.disk.snapshot()
    world.disk.log.clear()
    world.offer(wanted, *contents)
    world.source.contents[OFFER.delta.filename] = DELTA
    assert drive(world).end == "succeeded"
    count = 0
    for state in crash_states(start, world.disk.log, every=EVERY, random_per_cut=RANDOM):
        count += 1
        after = vehicle(state.files, boots=1000)
        after.offer(wanted, *contents)
        after.source.contents[OFFER.delta.filename] = DELTA
        yield state.calls, after
    assert count > 50


def check(world: World, content: bytes, calls: int) -> None:
    """Boots into something whole, and goes on to the end with at most one segment more."""
    progress = SlotState(world.disk, DATA).progress()
    run = world.boot()
    assert world.runs_image(run.slot, OLD) or world.runs_image(run.slot, content), f"after {calls} calls"
    counters = world.counters
    run = drive(world, run)
    if run.engine.journal.stage != "idle":
        assert run.end == "succeeded", f"after {calls} calls: {run.engine.journal.detail}"
    assert world.runs_image(run.slot, content)
    assert boot_control(world.disk, run.slot).read().slot(run.slot).successful
    assert all(world.counters[ecu] >= counter for ecu, counter in counters.items())
    if progress is not None and progress.length == len(content):
        assert world.source.sent <= len(content) - progress.done_bytes + SEGMENT_BYTES


def test_n7_a_full_image_survives_every_cut() -> None:
    for calls, world in cuts(update("one", target(GATEWAY, NEW, "2")), NEW):
        check(world, NEW, calls)


def test_n7_a_delta_survives_every_cut() -> None:
    wanted = update("one", target(GATEWAY, PATCHED, "2", deltas=(OFFER,)))
    for calls, world in cuts(wanted, PATCHED):
        check(world, PATCHED, calls)
        assert world.source.sent <= len(DELTA)


def test_a_payload_survives_every_cut() -> None:
    wanted = update("one", target(PAYLOAD, b"new scheme", "2"))
    for calls, world in cuts(wanted, b"new scheme", scheme=b"old scheme"):
        run = world.boot()
        assert world.disk.read(BASE / "schemes.toml") in (b"old scheme", b"new scheme"), f"after {calls} calls"
        drive(world, run)
        assert world.disk.read(BASE / "schemes.toml") == b"new scheme"
        assert not world.disk.exists(BASE / "schemes.toml.trial")


@pytest.mark.parametrize("kind", ["sick", "dead"])
def test_n10_a_fallback_survives_every_cut(kind: str) -> None:
    """Software that is not well, or does not come up: the old one runs in the end, whenever the power went."""
    wanted = update("one", target(GATEWAY, NEW, "2"))
    world = vehicle()
    start = world.disk.snapshot()
    world.disk.log.clear()
    world.offer(wanted, NEW)
    getattr(world, kind).add(NEW[:16].hex())
    assert drive(world).end == "rolled_back"
    for state in crash_states(start, world.disk.log, every=EVERY + 2, random_per_cut=RANDOM):
        after = vehicle(state.files, boots=1000)
        after.offer(wanted, NEW)
        getattr(after, kind).add(NEW[:16].hex())
        run = drive(after)
        assert after.runs_image(run.slot, OLD), f"after {state.calls} calls"
        assert run.end == "rolled_back"
        assert after.counters == {}


def test_n7_a_second_cut_while_the_first_is_mended() -> None:
    """Power that comes and goes: the way out of a cut is cut again, at every other call."""
    wanted = update("one", target(GATEWAY, NEW, "2"))
    count = 0
    for number, (calls, world) in enumerate(cuts(wanted, NEW)):
        if number % (2 if LONG else 14):
            continue
        start = world.disk.snapshot()
        world.disk.log.clear()
        drive(world)
        for state in crash_states(start, world.disk.log, every=2, random_per_cut=1):
            count += 1
            again = vehicle(state.files, boots=2000)
            again.offer(wanted, NEW)
            check(again, NEW, calls)
    assert count > 400
