"""What is checked before an ECU is written, what it is said to run, and what one ECU's flash survives."""

from __future__ import annotations

from pathlib import Path

import anyio
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import ConfigError, TransportError
from gateway.update.config import FlashingSection
from gateway.update.ecu_model import EcuRefusedError, FlashProgress, NotYetError
from gateway.update.model import AttackError, InstallError, VerifiedTarget
from gateway.wire.uptane import InstalledImage
from simulator.ecu.flash_image import make_image
from tests.crash.disk import CrashFiles
from tests.gateway.update.ecu_bench import NEW, OLD, Car, Gateway, NoFetcher, facts, in_car, old_everywhere, payload

ADDRESS = 0x400000


def silent(done: int, total: int) -> None:
    """Nobody listens."""


async def install(gateway: Gateway, target: VerifiedTarget) -> None:
    await gateway.installer.prepare(target, NoFetcher(), silent)
    await gateway.installer.install(target, NoFetcher(), silent)


def writes(car: Car, ecu: str = "motor") -> list[bytes]:
    """Requests that begin or continue writing."""
    return [pdu for pdu in car.ecus[ecu].requests if pdu[0] in (0x34, 0x36) or pdu[:4] == b"\x31\x01\xff\x00"]


def blocks(car: Car, ecu: str = "motor") -> int:
    return sum(pdu[0] == 0x36 for pdu in car.ecus[ecu].requests)


# Before anything is written.


def test_n1_an_ecu_that_is_not_ours_is_refused() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        with pytest.raises(InstallError, match=r"no ECU 'radio'.*N1"):
            await install(gateway, msgspec.structs.replace(car.target("motor"), ecu="radio"))
        assert gateway.installer.names == ("motor", "gearbox", "brakes")

    in_car(work)


def test_n2_an_image_for_other_hardware_is_refused_before_it_is_fetched() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        wrong = msgspec.structs.replace(car.target("motor").must_match, hardware_ids=("HW-brakes",))
        for target in (car.target("motor", must_match=wrong), car.target("motor", hardware_id="HW-brakes")):
            with pytest.raises(AttackError) as caught:
                await install(gateway, target)
            assert caught.value.rule == "N2"
        assert car.shelf.fetched == []
        assert writes(car) == []

    in_car(work)


def test_n2_an_ecu_of_other_hardware_at_the_address_is_not_written() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        car.ecus["motor"].hardware("HW-fake")
        with pytest.raises(EcuRefusedError, match=r"is hardware 'HW-fake'; 'HW-motor' is registered \(N2\)"):
            await install(gateway, car.target("motor"))
        assert writes(car) == []
        assert car.versions["motor"] == OLD

    in_car(work)


def test_n3_only_firmware_goes_into_an_ecu() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        rootfs = msgspec.structs.replace(car.target("motor").must_match, kind="rootfs")
        with pytest.raises(AttackError) as caught:
            await install(gateway, car.target("motor", must_match=rootfs))
        assert caught.value.rule == "N3"

    in_car(work)


def test_n4_a_lower_release_counter_is_a_rollback_of_image_and_of_the_way_back() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        five = msgspec.structs.replace(car.target("motor").must_match, release_counter=5)
        await install(gateway, car.target("motor", must_match=five, fallback_must_match=five))
        gateway.installer.confirm("motor")
        for target in (
            car.target("motor", "03.00.00"),  # a higher version, and the counter 1
            car.target("motor", must_match=five),  # as the way back
        ):
            with pytest.raises(AttackError) as caught:
                await install(gateway, target)
            assert (caught.value.attack, caught.value.rule) == ("rollback", "N4")
        assert car.versions["motor"] == NEW

    in_car(work)


def test_n4_the_counter_rises_only_when_the_update_is_final() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        five = msgspec.structs.replace(car.target("motor").must_match, release_counter=5)
        target = car.target("motor", must_match=five)
        await install(gateway, target)
        await gateway.installer.restore(target)
        assert car.versions["motor"] == OLD
        gateway.installer.confirm("motor")
        assert gateway.installer.store.record("motor").floor == 1

    in_car(work)


def test_n6_an_image_that_changed_on_the_disk_is_not_written() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        target = car.target("motor")
        await gateway.installer.prepare(target, NoFetcher(), silent)
        for spoiled in (b"x" * target.image.length, car.shelf.here[target.image.filename][:-1]):
            car.shelf.here[target.image.filename] = spoiled
            with pytest.raises(InstallError, match="N6"):
                await gateway.installer.install(target, NoFetcher(), silent)
        assert writes(car) == []

    in_car(work)


def test_n6_every_listed_hash_is_checked() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        target = car.target("motor")
        hashes = target.image.hashes | {"sha512": "0" * 128}
        target = msgspec.structs.replace(target, image=msgspec.structs.replace(target.image, hashes=hashes))
        with pytest.raises(InstallError, match="sha512"):
            await install(gateway, target)
        no_hash = msgspec.structs.replace(target.image, hashes={"sha512": "0" * 128})
        with pytest.raises(AttackError) as caught:
            await install(gateway, msgspec.structs.replace(target, image=no_hash))
        assert caught.value.rule == "N6"

    in_car(work)


def test_n7_the_image_is_here_whole_before_the_ecu_is_touched() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        with pytest.raises(TransportError):
            await gateway.installer.install(
                msgspec.structs.replace(car.target("motor"), image=facts("nowhere", b"abc")), NoFetcher(), silent
            )
        assert writes(car) == []

    in_car(work)


def test_n8_the_ecus_own_conditions_are_asked_for() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        car.ecus["motor"].bench.vehicle.values["powertrain.VehicleMotion.VehicleSpeed"] = 30.0
        with pytest.raises(NotYetError, match="condition 1"):
            await install(gateway, car.target("motor"))
        assert writes(car) == []
        assert car.is_left_usable()

    in_car(work)


def test_n9_what_runs_can_be_told_after_a_failure_too() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        car.ecus["motor"].faults.check_result = 6
        with pytest.raises(EcuRefusedError, match="wrong signature"):
            await install(gateway, car.target("motor"))
        image = await gateway.installer.installed("motor")
        assert image is not None  # it answers
        assert (image.filename, image.hashes, image.version) == ("", {}, "")

    in_car(work)


def test_n10_the_image_to_go_back_to_is_fetched_with_the_new_one() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        await gateway.installer.prepare(car.target("motor"), NoFetcher(), silent)
        assert car.shelf.fetched == [f"motor-{NEW}.img", f"motor-{OLD}.img"]
        await gateway.installer.install(car.target("motor"), NoFetcher(), silent)
        await gateway.installer.restore(car.target("motor"))
        assert car.ecus["motor"].content() == car.images["motor", OLD]
        with pytest.raises(InstallError, match="no image to go back to"):
            await gateway.installer.restore(car.target("motor", old=None))

    in_car(work)


def test_pv2_a_refusal_of_partial_verification_ends_it_before_anything_is_fetched() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        asked: list[str] = []

        def refuse(target: VerifiedTarget) -> None:
            asked.append(target.ecu)
            raise AttackError("freeze", "CG5", "expired")

        gateway.installer._partial_check = refuse  # the constructor's argument, for this test alone
        with pytest.raises(AttackError):
            await gateway.set.prepare([car.target("motor")], NoFetcher())
        assert asked == ["motor"]
        assert car.shelf.fetched == []

    in_car(work)


# What an ECU runs.


def test_what_was_installed_counts_while_the_ecu_tells_the_same() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        image = await gateway.installer.installed("motor")
        assert image is not None
        assert image.hashes == car.file("motor", OLD).hashes
        other = make_image("motor", "09.00.00", payload(9), hardware_id="HW-motor", address=ADDRESS)
        unit = car.ecus["motor"].server.context
        unit.memory.data(unit.description.memory.regions[0])[:] = b"\xff" * 8192
        car.ecus["motor"].program(other)  # in a workshop
        image = await gateway.installer.installed("motor")
        assert image is not None
        assert (image.filename, image.version) == ("", "09.00.00")
        car.ecus["motor"].power(on=False)
        assert await gateway.installer.installed("motor") is None

    in_car(work)


def test_an_ecu_that_was_replaced_is_not_believed_to_run_what_the_old_one_did() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        car.ecus["motor"].server.context.override_did(0xF18C, b"OTHER1")
        image = await gateway.installer.installed("motor")
        assert image is not None
        assert image.hashes == {}

    in_car(work)


def test_the_factorys_image_counts_until_the_ecu_is_written() -> None:
    async def work(car: Car) -> None:
        made = InstalledImage(filename="factory", length=5, hashes={"sha256": "ab" * 32}, version="01.00.00")
        car.factory["motor"] = made
        gateway = Gateway(car, CrashFiles())
        assert await gateway.installer.installed("motor") == made
        await install(gateway, car.target("motor"))
        image = await gateway.installer.installed("motor")
        assert image is not None
        assert image.version == NEW

    in_car(work)


def test_an_image_that_is_there_already_is_not_written_again() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        await install(gateway, car.target("motor"))
        sent = len(writes(car))
        await install(Gateway(car, gateway.disk), car.target("motor"))
        assert len(writes(car)) == sent

    in_car(work)


def test_a_damaged_record_makes_the_image_unknown_and_the_update_possible() -> None:
    async def work(car: Car) -> None:
        disk = CrashFiles()
        gateway = await old_everywhere(car, disk)
        disk.write(Path("/data/ecus/ecu-motor.json"), b"\0\0\0")
        image = await gateway.installer.installed("motor")
        assert image is not None
        assert image.hashes == {}
        await install(gateway, car.target("motor"))
        assert car.versions["motor"] == NEW

    in_car(work)


# The flash itself.


@pytest.mark.parametrize("fault", ["power_loss_block", "reject_block", "lose_answer_block", "corrupt_block"])
@pytest.mark.parametrize("at", [1, 7, 14])
def test_one_fault_of_a_block_costs_time_only(fault: str, at: int) -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        car.ecus["motor"].faults.change({fault: at})
        await install(gateway, car.target("motor"))
        assert car.versions["motor"] == NEW
        assert car.ecus["motor"].content() == car.images["motor", NEW]
        assert car.is_left_usable()

    in_car(work)


def test_power_lost_in_the_middle_costs_no_block_twice() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        car.ecus["motor"].faults.power_loss_block = 9
        await install(gateway, car.target("motor"))
        whole = -(-len(car.images["motor", NEW]) // 128)
        lost = 4  # the block that got no answer, as often as it was tried
        assert whole <= blocks(car) <= whole + lost
        erased = [pdu for pdu in car.ecus["motor"].requests if pdu[:4] == b"\x31\x01\xff\x00"]
        assert len(erased) == 1

    in_car(work)


def test_after_a_cut_of_the_gateway_only_what_is_missing_is_sent() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        target = car.target("motor")
        await gateway.installer.prepare(target, NoFetcher(), silent)
        with anyio.CancelScope() as scope:
            await gateway.installer.install(
                target, NoFetcher(), lambda done, total: scope.cancel() if done > 1300 else None
            )
        sent = blocks(car)
        await anyio.sleep(30)  # the session ends by itself, the boot loader stays
        await install(Gateway(car, gateway.disk), target)
        whole = -(-target.image.length // 128)
        assert blocks(car) - sent <= whole - sent + 1
        assert car.ecus["motor"].content() == car.images["motor", NEW]

    in_car(work)


def test_progress_that_is_not_true_costs_an_erase_and_nothing_else() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        digest = car.file("motor", NEW).hashes["sha256"]
        gateway.installer.store.keep_progress(
            "motor", FlashProgress(sha256=digest, serial="SN-0", offset=1024, payload_bytes=128)
        )
        await install(gateway, car.target("motor"))
        assert car.ecus["motor"].content() == car.images["motor", NEW]

    in_car(work)


def test_an_ecu_without_check_routine_never_goes_on_in_the_middle() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        gateway = Gateway(car, gateway.disk, check_routine=0, dependencies_routine=0)
        target = car.target("motor")
        await gateway.installer.prepare(target, NoFetcher(), silent)
        with anyio.CancelScope() as scope:
            await gateway.installer.install(
                target, NoFetcher(), lambda done, total: scope.cancel() if done > 1000 else None
            )
        with pytest.raises(EcuRefusedError, match="boot loader stays"):  # ours starts nothing that it did not check
            await install(Gateway(car, gateway.disk, check_routine=0, dependencies_routine=0), target)
        erased = [pdu for pdu in car.ecus["motor"].requests if pdu[:4] == b"\x31\x01\xff\x00"]
        assert len(erased) == 2

    in_car(work)


def test_compressed_takes_fewer_blocks() -> None:
    async def work(car: Car) -> None:
        image = make_image("motor", NEW, bytes(4000), hardware_id="HW-motor", address=ADDRESS)
        car.images["motor", NEW] = car.shelf.remote[f"motor-{NEW}.img"] = image
        gateway = await old_everywhere(car, CrashFiles())
        told: list[tuple[int, int]] = []
        gateway = Gateway(car, gateway.disk, compress=True)
        await gateway.installer.prepare(car.target("motor"), NoFetcher(), silent)
        await gateway.installer.install(car.target("motor"), NoFetcher(), lambda *at: told.append(at))
        assert car.versions["motor"] == NEW
        assert blocks(car) < 10
        assert told[-1] == (len(image), len(image))
        assert told == sorted(told)

    in_car(work)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (make_image("motor", NEW, payload(1), hardware_id="HW-other", address=ADDRESS), "other hardware"),
        (make_image("brakes", NEW, payload(1), hardware_id="HW-motor", address=ADDRESS), "another ECU"),
        (
            make_image("motor", NEW, payload(1), Ed25519PrivateKey.generate(), hardware_id="HW-motor", address=ADDRESS),
            "wrong signature",
        ),
        (make_image("motor", NEW, payload(1), hardware_id="HW-motor", address=ADDRESS + 512), "wrong checksum"),
        (make_image("motor", "07.00.00", payload(1), hardware_id="HW-motor", address=ADDRESS), "'07.00.00' instead"),
    ],
    ids=["hardware", "ecu", "signature", "address", "version"],
)
def test_what_the_boot_loader_refuses_is_told_and_the_old_can_be_put_back(image: bytes, words: str) -> None:
    async def work(car: Car) -> None:
        car.images["motor", NEW] = car.shelf.remote[f"motor-{NEW}.img"] = image
        gateway = await old_everywhere(car, CrashFiles())
        with pytest.raises(EcuRefusedError, match=words):
            await install(gateway, car.target("motor"))
        await gateway.installer.restore(car.target("motor"))
        assert car.versions["motor"] == OLD
        assert car.is_left_usable()

    in_car(work)


def test_an_ecu_that_never_answers_was_not_touched() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        car.ecus["motor"].power(on=False)
        with pytest.raises(TransportError):
            await install(gateway, car.target("motor"))
        record = gateway.installer.store.record("motor")
        assert record.image is not None

    in_car(work)


def test_neighbours_set_no_codes_meanwhile_and_do_again_after() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        gateway = Gateway(car, gateway.disk, quiet="messages")
        await gateway.installer.prepare(car.target("motor"), NoFetcher(), silent)
        seen: list[tuple[bool, tuple[bool, bool]]] = []

        def look(done: int, total: int) -> None:
            context = car.ecus["brakes"].server.context
            seen.append((context.dtcs_frozen, context.silenced))

        await gateway.installer.install(car.target("motor"), NoFetcher(), look)
        assert set(seen) == {(True, (True, False))}
        assert car.is_left_usable()

    in_car(work)


def test_a_neighbour_that_is_off_does_not_matter() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        car.ecus["brakes"].power(on=False)
        await install(gateway, car.target("motor"))
        assert car.versions["motor"] == NEW

    in_car(work)


def test_a_key_that_is_missing_is_found_before_anything_is_fetched() -> None:
    class NoKey:
        def key(self, ecu: str, level: int, seed: bytes) -> bytes:
            raise ConfigError("no key file")

    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        gateway.installer._key = NoKey()  # the constructor's argument, for this test alone
        with pytest.raises(EcuRefusedError, match="no key file"):
            await install(gateway, car.target("motor"))
        assert car.shelf.fetched == []

    in_car(work)


def test_a_wrong_key_writes_nothing() -> None:
    class WrongKey:
        def key(self, ecu: str, level: int, seed: bytes) -> bytes:
            return bytes(16)

    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        gateway.installer._key = WrongKey()  # the constructor's argument, for this test alone
        with pytest.raises(EcuRefusedError, match="invalid key"):
            await install(gateway, car.target("motor"))
        assert writes(car) == []
        await anyio.sleep(3)
        assert car.versions["motor"] == OLD

    in_car(work)


def test_tried_so_often_and_no_more() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        gateway = Gateway(car, gateway.disk, FlashingSection(attempts=2, pause_s=1.0))
        car.ecus["motor"].on_request = lambda pdu: (
            car.ecus["motor"].faults.change({"power_loss_block": 1}) if pdu[0] == 0x36 else None
        )
        with pytest.raises((TransportError, EcuRefusedError)):
            await install(gateway, car.target("motor"))
        downloads = [pdu for pdu in car.ecus["motor"].requests if pdu[0] == 0x34]
        assert len(downloads) == 2

    in_car(work)
