"""Whole updates through reboots: what ends how, and what is never done."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from gateway.errors import NotNowError
from gateway.update.journal import Stage
from gateway.update.model import VerifiedTarget, VerifiedUpdate
from gateway.wire.uptane import InstalledImage
from tests.gateway.update.support import DATA, GATEWAY, SEGMENT_BYTES, boot_control, image_bytes
from tests.gateway.update.world import BASE, OLD, PAYLOAD, World, drive, target, update

NEW = image_bytes(2)
NEWER = image_bytes(3)
HEAD = NEW[:16].hex()


def states(world: World) -> list[str]:
    """States as the cloud heard them, without repetitions."""
    seen: list[str] = []
    for report in world.reports:
        if not seen or seen[-1] != report.state:
            seen.append(report.state)
    return seen


def rootfs_update(assignment: str = "one", content: bytes = NEW, version: str = "2", **policy: Any) -> VerifiedUpdate:
    return update(assignment, target(GATEWAY, content, version, counter=5), **policy)


def test_v3_a_root_file_system_is_installed_tried_and_confirmed() -> None:
    world = World()
    world.offer(rootfs_update(), NEW)
    run = drive(world)
    assert (run.slot, run.end) == ("B", "succeeded")
    assert boot_control(world.disk, "B").read().slot("B").successful
    assert world.counters == {GATEWAY: 5}
    assert states(world) == ["downloading", "downloaded", "installing", "rebooting", "verifying", "succeeded"]
    image = anyio.run(run.installer.installed, GATEWAY)
    assert image is not None
    assert image.version == "2"
    assert not run.engine.journal.is_told, "a manifest is due"


def test_n10_unhealthy_software_is_given_up_and_the_reason_is_kept() -> None:
    world = World()
    world.offer(rootfs_update(), NEW)
    world.sick.add(HEAD)
    run = drive(world)
    assert (run.slot, run.end) == ("A", "rolled_back")
    assert "vehicle: not well" in run.engine.journal.detail
    assert not boot_control(world.disk).read().slot("B").is_bootable
    assert world.counters == {}
    assert states(world)[-2:] == ["installing", "rolled_back"] or states(world)[-1] == "rolled_back"


def test_n10_software_that_does_not_come_up_is_left_by_the_loader() -> None:
    world = World()
    world.offer(rootfs_update(), NEW)
    world.dead.add(HEAD)
    run = drive(world)
    assert (run.slot, run.end) == ("A", "rolled_back")
    assert "did not come up" in run.engine.journal.detail
    assert world.counters == {}


def test_n10_power_cycles_during_the_trial_end_in_the_old_slot() -> None:
    """It came up, but nobody saw it well before the tries were used up."""
    world = World()
    world.offer(rootfs_update(), NEW)
    run = world.boot()
    assert run.go().kind == "reboot"
    slots = []
    for _ in range(4):
        run = world.boot()
        slots.append(run.slot)
        anyio.run(run.engine.step)
        anyio.run(run.engine.step)
    assert slots == ["B", "B", "B", "A"]
    run = drive(world, run)
    assert (run.slot, run.end) == ("A", "rolled_back")
    assert "did not stay up" in run.engine.journal.detail
    assert not boot_control(world.disk).read().slot("B").is_bootable
    assert world.counters == {}


def test_an_ended_update_is_not_begun_again() -> None:
    world = World()
    world.offer(rootfs_update(), NEW)
    world.dead.add(HEAD)
    drive(world)
    written = len(world.disk.log)
    boots = world.boots
    run = drive(world)
    assert run.end == "rolled_back"
    assert world.boots == boots + 1
    assert len(world.disk.log) - written < 10


def test_a_new_assignment_of_the_same_image_is_a_new_try() -> None:
    world = World()
    world.offer(rootfs_update("one"), NEW)
    world.sick.add(HEAD)
    drive(world)
    world.sick.clear()
    world.offer(rootfs_update("two"), NEW)
    sent = world.source.sent
    run = drive(world)
    assert (run.slot, run.end) == ("B", "succeeded")
    assert world.source.sent == sent, "the slot holds it still"


def test_a_commanded_rollback_switches_without_writing() -> None:
    world = World()
    world.offer(update("up", target(GATEWAY, NEW, "2")), NEW)
    drive(world)
    first = World(world.disk)
    first.boots = world.boots
    first.offer(update("again", target(GATEWAY, NEWER, "3")), NEWER)
    drive(first)
    sent = first.source.sent
    first.offer(update("back", target(GATEWAY, NEW, "2")), NEW)
    run = drive(first)
    assert run.end == "succeeded"
    assert first.source.sent == sent
    assert first.runs_image(run.slot, NEW)


def test_what_is_installed_already_needs_nothing() -> None:
    world = World()
    world.offer(rootfs_update("one"), NEW)
    drive(world)
    boots = world.boots
    world.offer(rootfs_update("two"), NEW)
    run = drive(world)
    assert run.end == "succeeded"
    assert world.boots == boots + 1
    assert "already" in run.engine.journal.detail


def refused(one: VerifiedTarget, *more: VerifiedTarget) -> str:
    """Why an update is not begun; nothing is fetched, nothing changed, and it is told all the same (N9)."""
    world = World()
    world.raise_counters({GATEWAY: 5})
    world.offer(update("one", one, *more), *(NEW for _ in (one, *more)))
    run = drive(world)
    assert run.end == "failed"
    assert world.source.sent == 0
    assert not run.engine.journal.is_told
    assert world.reports[-1].state == "failed"
    assert boot_control(world.disk).read().slot("B").successful
    return run.engine.journal.detail


def test_n1_an_ecu_that_is_not_in_this_vehicle() -> None:
    one = target(GATEWAY, NEW, "2", counter=5)
    assert "N1" in refused(msgspec.structs.replace(one, ecu="nobody"))


def test_n2_an_image_for_other_hardware() -> None:
    one = target(GATEWAY, NEW, "2", counter=5)
    assert "N2" in refused(msgspec.structs.replace(one, hardware_id="other"))
    match = msgspec.structs.replace(one.must_match, hardware_ids=("other",))
    assert "N2" in refused(msgspec.structs.replace(one, must_match=match))


@pytest.mark.parametrize("kind", ["firmware", "scheme", "delta", "anything"])
def test_n3_a_file_that_this_ecu_does_not_take(kind: str) -> None:
    one = target(GATEWAY, NEW, "2", counter=5)
    match = msgspec.structs.replace(one.must_match, kind=kind)
    assert "N3" in refused(msgspec.structs.replace(one, must_match=match))


def test_n4_a_lower_release_counter() -> None:
    assert "N4" in refused(target(GATEWAY, NEW, "2", counter=4))


def test_an_ecu_named_twice_is_refused() -> None:
    one = target(GATEWAY, NEW, "2", counter=5)
    assert "twice" in refused(one, one)


def test_n10_a_set_without_a_way_back_is_not_begun() -> None:
    brake = msgspec.structs.replace(target("brake", NEW, "2"), fallback=None)
    assert "no old image for brake" in refused(brake, target("motor", NEW, "2"))


def test_n8_conditions_are_waited_for() -> None:
    world = World()
    world.offer(rootfs_update(), NEW)
    world.missing = "parked (speed is 80)"
    run = world.boot()
    left = run.go()
    assert (left.kind, left.detail) == ("wait", "parked (speed is 80)")
    assert world.reports[-1].state == "waiting"
    assert boot_control(world.disk).read().slot("B").successful, "nothing was touched"
    world.missing = ""
    assert drive(world, run).end == "succeeded"


def test_n8_conditions_are_asked_again_before_the_switch() -> None:
    world = World()
    world.offer(rootfs_update(), NEW)
    run = world.boot()

    async def drive_off() -> None:
        while run.engine.journal.stage is not Stage.INSTALL:
            await run.engine.step()
        await run.engine.step()

    anyio.run(drive_off)
    world.missing = "parked"
    left = run.go()
    assert left.kind == "wait"
    assert not boot_control(world.disk).read().slot("B").is_bootable
    world.missing = ""
    assert drive(world, run).end == "succeeded"


def test_n8_waiting_ends() -> None:
    world = World()
    world.offer(rootfs_update(), NEW)
    world.missing = "parked"
    run = world.boot()
    run.go()
    world.clock.go_on(8 * 86_400)
    run.go()
    assert run.end == "failed"
    assert "waited too long: parked" in run.engine.journal.detail


def test_a_clock_that_is_set_does_not_end_the_waiting() -> None:
    """1970 after a flat battery, then the true time, and back: only time that passed counts."""
    world = World()
    world.clock.utc = 0
    world.offer(rootfs_update(), NEW)
    world.missing = "parked"
    run = world.boot()
    for utc in (0, 1_800_000_000, 5, 1_800_000_000):
        world.clock.utc = utc * 10**9
        assert run.go().kind == "wait"
        run = world.boot() if utc == 5 else run
        assert run.go().kind == "wait"
    for _ in range(6):
        world.clock.go_on(86_400)
        assert run.go().kind == "wait"
    world.clock.go_on(2 * 86_400)
    run.go()
    assert run.end == "failed"


def test_n8_no_reboot_while_driving_not_even_to_go_back() -> None:
    world = World()
    world.offer(rootfs_update(), NEW)
    world.sick.add(HEAD)
    run = world.boot()
    assert run.go().kind == "reboot"
    run = world.boot()
    world.missing = "parked (speed is 120)"
    left = run.go()
    assert (left.kind, run.slot) == ("wait", "B")
    state = boot_control(world.disk, "B").read()
    assert state.next is not None
    assert state.next.name == "A", "the next turn of the key goes back"
    world.missing = ""
    assert drive(world, run).end == "rolled_back"


def test_consent_is_needed_and_survives_a_restart() -> None:
    world = World()
    world.offer(rootfs_update(needs_consent=True), NEW)
    run = world.boot()
    assert run.go().detail == "consent"

    async def consent(assignment: str) -> None:
        await run.engine.give_consent(assignment, "driver")

    with pytest.raises(NotNowError):
        anyio.run(consent, "another")
    world.missing = "parked"
    anyio.run(consent, "one")
    world.missing = ""
    assert drive(world).end == "succeeded"


def test_the_deadline_ends_it_before_it_is_begun() -> None:
    world = World()
    world.offer(rootfs_update(deadline_ns=world.clock.utc - 1), NEW)
    run = drive(world)
    assert run.end == "failed"
    assert "time to begin is over" in run.engine.journal.detail


def test_big_files_wait_for_wifi_and_critical_ones_do_not() -> None:
    world = World()
    world.links, world.link = "wifi", "cellular"
    world.offer(rootfs_update(), NEW)
    run = world.boot()
    assert "Wi-Fi" in run.go().detail
    assert world.source.sent == 0
    world.offer(rootfs_update("two", is_critical=True), NEW)
    assert drive(world).end == "succeeded"


def test_a_withdrawn_update_is_cancelled() -> None:
    world = World()
    world.offer(rootfs_update(), NEW)
    world.missing = "parked"
    run = world.boot()
    run.go()
    run.engine.want(VerifiedUpdate(director_version=2))
    run.go()
    assert run.end == "cancelled"
    assert run.engine.journal.detail == "withdrawn by the cloud"
    assert world.reports[-1].state == "cancelled"


def test_the_director_changes_its_mind_in_the_middle() -> None:
    world = World()
    world.offer(rootfs_update(), NEW)
    world.source.breaks_after = 3 * SEGMENT_BYTES
    run = world.boot()

    async def begin() -> None:
        while run.engine.journal.stage is not Stage.INSTALL:
            await run.engine.step()
        await run.engine.step()

    anyio.run(begin)
    world.source.breaks_after = None
    second = world.offer(rootfs_update("two", NEWER, "3"), NEWER)
    run.engine.want(second)
    run = drive(world, run)
    assert (run.slot, run.end) == ("B", "succeeded")
    assert world.runs_image("B", NEWER)
    assert "cancelled" in states(world)


def test_a_person_cancels_until_the_switch() -> None:
    world = World()
    world.offer(rootfs_update(), NEW)
    world.missing = "parked"
    run = world.boot()
    run.go()
    run.engine.cancel()
    run.go()
    assert run.end == "cancelled"
    with pytest.raises(NotNowError):
        run.engine.cancel()


def test_a_set_of_ecus_and_gateway_is_installed_together() -> None:
    world = World()
    targets = target(GATEWAY, NEW, "2"), target("brake", b"brake 2", "2"), target("motor", b"motor 2", "2")
    world.offer(update("one", *targets), NEW, b"brake 2", b"motor 2")
    run = drive(world)
    assert (run.slot, run.end) == ("B", "succeeded")
    assert world.ecus.flashed == ["brake-2.img", "motor-2.img"]
    assert world.ecus.confirmed == ["brake", "motor"]
    assert world.counters == {GATEWAY: 1, "brake": 1, "motor": 1}


def test_an_ecu_that_refuses_leaves_everything_old() -> None:
    world = World()
    targets = target(GATEWAY, NEW, "2"), target("brake", b"brake 2", "2"), target("motor", b"motor 2", "2")
    world.offer(update("one", *targets), NEW, b"brake 2", b"motor 2")
    world.ecus.refuse.add("motor-2.img")
    run = drive(world)
    assert (run.slot, run.end) == ("A", "failed")
    assert {e: f.filename for e, f in world.ecus.runs.items()} == {"brake": "brake-old.img", "motor": "motor-old.img"}
    assert run.engine.journal.failures == 3
    assert world.ecus.flashed.count("brake-2.img") == 3, "bounded"
    assert not boot_control(world.disk).read().slot("B").is_bootable


def test_a_failed_trial_puts_the_ecus_back_too() -> None:
    world = World()
    targets = target(GATEWAY, NEW, "2"), target("brake", b"brake 2", "2")
    world.offer(update("one", *targets), NEW, b"brake 2")
    world.sick.add(HEAD)
    run = drive(world)
    assert (run.slot, run.end) == ("A", "rolled_back")
    assert world.ecus.runs["brake"].filename == "brake-old.img"
    assert world.ecus.confirmed == []


def test_a_set_that_cannot_be_put_back_says_so() -> None:
    world = World()
    targets = target(GATEWAY, NEW, "2"), target("brake", b"brake 2", "2")
    world.offer(update("one", *targets), NEW, b"brake 2")
    world.sick.add(HEAD)
    world.ecus.stuck.add("brake")
    run = drive(world)
    assert run.end == "rolled_back"
    assert "not whole: brake could not be put back" in run.engine.journal.detail


def test_sets_are_installed_one_after_the_other() -> None:
    world = World()
    targets = target("brake", b"brake 2", "2"), target(GATEWAY, NEW, "2"), target("motor", b"motor 2", "2")
    sets = [["brake"], [GATEWAY], ["motor"]]
    world.offer(update("one", *targets, sets=sets), b"brake 2", NEW, b"motor 2")
    world.ecus.refuse.add("motor-2.img")
    run = drive(world)
    assert (run.slot, run.end) == ("B", "failed")
    assert world.ecus.runs["brake"].filename == "brake-2.img"
    assert world.counters == {"brake": 1, GATEWAY: 1}, "what was confirmed stays"


def test_a_payload_is_used_after_a_restart_and_confirmed() -> None:
    world = World()
    world.disk.add_file(BASE / "schemes.toml", b"old scheme")
    world.offer(update("one", target(PAYLOAD, b"new scheme", "2")), b"new scheme")
    boots = world.boots + 1
    run = drive(world)
    assert run.end == "succeeded"
    assert world.boots == boots, "the machine did not reboot"
    assert world.disk.read(BASE / "schemes.toml") == b"new scheme"
    assert world.disk.read(BASE / "schemes.toml.previous") == b"old scheme"
    assert not world.disk.exists(BASE / "schemes.toml.trial")
    image = anyio.run(run.payloads.installed, PAYLOAD)
    assert isinstance(image, InstalledImage)
    assert image.version == "2"


def test_a_payload_that_is_wrong_is_not_put_in_place() -> None:
    world = World()
    world.disk.add_file(BASE / "schemes.toml", b"old scheme")
    world.offer(update("one", target(PAYLOAD, b"bad scheme", "2")), b"bad scheme")
    run = drive(world)
    assert run.end == "failed"
    assert "not a scheme" in run.engine.journal.detail
    assert world.disk.read(BASE / "schemes.toml") == b"old scheme"


def test_a_payload_with_which_the_vehicle_is_not_well_is_put_back() -> None:
    world = World()
    world.disk.add_file(BASE / "schemes.toml", b"old scheme")
    world.offer(update("one", target(PAYLOAD, b"sick scheme", "2")), b"sick scheme")
    world.sick.add("sick scheme")
    starts = world.starts
    run = drive(world)
    assert run.end == "rolled_back"
    assert world.disk.read(BASE / "schemes.toml") == b"old scheme"
    assert world.starts == starts + 3, "started once with it, once without"


def test_a_payload_with_which_the_gateway_never_starts_comes_back_by_itself() -> None:
    world = World()
    world.disk.add_file(BASE / "schemes.toml", b"old scheme")
    world.offer(update("one", target(PAYLOAD, b"deadly scheme", "2")), b"deadly scheme")
    run = world.boot()
    assert run.go().kind == "restart"
    for _ in range(4):  # it starts, reads the payload and ends, before any update code runs
        run = world.start("A")
    assert world.disk.read(BASE / "schemes.toml") == b"old scheme"
    run = drive(world, run)
    assert run.end == "rolled_back"
    assert "after 3 starts" in run.engine.journal.detail


def test_a_slot_on_trial_that_nobody_explains_has_to_prove_itself() -> None:
    world = World()
    world.offer(rootfs_update(), NEW)
    run = world.boot()
    run.go()
    world.disk.remove(DATA / "journal.json")
    world.wanted = None
    run = drive(world)
    assert run.slot == "B"
    assert boot_control(world.disk, "B").read().slot("B").successful


def test_downloads_that_break_go_on() -> None:
    world = World()
    world.offer(rootfs_update(), NEW)
    run = world.boot()
    for bytes_more in range(9000, 60_000, 9000):
        world.source.breaks_after = bytes_more

        async def some(run=run) -> None:  # type: ignore[no-untyped-def]  # bound now
            for _ in range(12):
                pause_s = await run.engine.step()
                world.clock.go_on(min(pause_s, 60))

        anyio.run(some)
    assert drive(world, run).end == "succeeded"
    assert world.source.sent < 2 * len(NEW)


def test_an_attack_is_named_and_the_vehicle_stays_updatable() -> None:
    world = World()
    world.offer(rootfs_update(), NEW[:-1] + b"!")
    run = drive(world)
    assert (run.slot, run.end, run.engine.journal.attack) == ("A", "failed", "arbitrary software")
    assert {error.attack for error in world.attacks} == {"arbitrary software"}
    assert len(world.attacks) == 3
    assert world.reports[-1].attack == "arbitrary software"
    world.offer(rootfs_update("two"), NEW)
    assert drive(world).end == "succeeded"


def test_the_old_image_was_never_touched() -> None:
    world = World()
    world.offer(rootfs_update(), NEW)
    drive(world)
    assert world.runs_image("A", OLD)
