"""Sets of ECUs: all or nothing, whatever fails at whichever ECU."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from gateway.errors import TransportError
from gateway.update.ecu_model import NotYetError, SetNotWholeError
from gateway.update.model import InstallError
from tests.crash.disk import CrashFiles
from tests.gateway.update.ecu_bench import NAMES, NEW, OLD, Car, CarEcu, Gateway, in_car, old_everywhere

ALL_OLD, ALL_NEW = dict.fromkeys(NAMES, OLD), dict.fromkeys(NAMES, NEW)


def test_a_set_of_three_is_changed_in_its_order() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        await gateway.update(car.targets())
        assert car.versions == ALL_NEW
        for name in NAMES:
            assert car.ecus[name].content() == car.images[name, NEW]
            image = await gateway.set.installed(name)
            assert image is not None
            assert (image.version, image.hashes) == (NEW, car.file(name, NEW).hashes)
        done = [ecu for ecu, state in gateway.told if state == "installed"]
        assert done == list(NAMES)
        assert car.is_left_usable()
        journal = gateway.journal()
        assert journal is not None
        assert journal.state == "installed"
        gateway.set.confirm(car.targets())
        assert gateway.journal() is None

    in_car(work)


FAULTS: dict[str, Callable[[CarEcu], None]] = {
    "erase": lambda ecu: setattr(ecu.faults, "reject_erase", True),
    "check": lambda ecu: setattr(ecu.faults, "check_result", 6),
    "checksum": lambda ecu: setattr(ecu.faults, "check_result", 5),
    "start": lambda ecu: setattr(ecu.faults, "no_start", True),
}


@pytest.mark.parametrize("stage", FAULTS)
@pytest.mark.parametrize("name", NAMES)
def test_one_that_fails_puts_all_back(name: str, stage: str) -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        FAULTS[stage](car.ecus[name])

        def mend(ecu: str, state: str, done: int, total: int) -> None:
            """The new software alone has the fault: it is gone once it is put back."""
            if (ecu, state) == (name, "failed"):
                car.ecus[name].faults.change({"reject_erase": False, "check_result": 0, "no_start": False})

        await gateway.set.prepare(car.targets(), None, mend)  # type: ignore[arg-type]  # the shelf needs none
        with pytest.raises(InstallError) as caught:
            await gateway.set.install(car.targets(), None, mend)  # type: ignore[arg-type]  # likewise
        assert name in str(caught.value)
        assert not isinstance(caught.value, SetNotWholeError)
        assert car.versions == ALL_OLD
        assert all(car.ecus[n].content() == car.images[n, OLD] for n in NAMES)
        assert car.is_left_usable()
        image = await gateway.set.installed(name)
        assert image is not None
        assert image.version == OLD

    in_car(work)


def test_nothing_is_written_before_everything_is_here() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        del car.shelf.remote[f"brakes-{NEW}.img"]
        with pytest.raises(TransportError):
            await gateway.update(car.targets())
        assert car.versions == ALL_OLD
        assert gateway.journal() is None

    in_car(work)


def test_a_set_without_a_way_back_is_refused() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        targets = [car.target("motor"), car.target("brakes", old=None)]
        with pytest.raises(InstallError, match="no old image for brakes"):
            await gateway.update(targets)
        assert car.shelf.fetched == []

    in_car(work)


def test_n8_a_condition_missing_at_the_last_is_found_before_the_first_is_written() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        car.ecus["brakes"].bench.vehicle.values["body.LowVoltage.BatteryVoltage"] = 9.0
        with pytest.raises(NotYetError, match="condition 2"):
            await gateway.update(car.targets())
        assert car.versions == ALL_OLD
        assert gateway.journal() is None
        car.ecus["brakes"].bench.vehicle.values["body.LowVoltage.BatteryVoltage"] = 12.5
        await gateway.update(car.targets())
        assert car.versions == ALL_NEW

    in_car(work)


def test_one_that_does_not_come_back_is_told_by_name_and_mended_at_the_next_start() -> None:
    async def work(car: Car) -> None:
        disk = CrashFiles()
        gateway = await old_everywhere(car, disk)

        def die(pdu: bytes) -> None:
            if pdu[0] == 0x36 and pdu[1] == 5:
                car.ecus["brakes"].power(on=False)

        car.ecus["brakes"].on_request = die
        with pytest.raises(SetNotWholeError) as caught:
            await gateway.update(car.targets())
        assert caught.value.runs == {"motor": OLD, "gearbox": OLD, "brakes": "does not answer"}
        assert "set not whole: motor at 01.00.00" in str(caught.value)
        car.ecus["brakes"].on_request = lambda pdu: None
        car.ecus["brakes"].power(on=True)
        again = Gateway(car, disk)
        with pytest.raises(InstallError) as mended:
            await again.set.recover()
        assert not isinstance(mended.value, SetNotWholeError)
        assert car.versions == ALL_OLD
        await again.set.recover()  # nothing is open any more

    in_car(work)


def test_restoring_is_tried_so_often_and_no_more() -> None:
    async def work(car: Car) -> None:
        disk = CrashFiles()
        gateway = await old_everywhere(car, disk)
        car.ecus["gearbox"].faults.no_start = True
        with pytest.raises(SetNotWholeError) as caught:
            await gateway.update(car.targets())
        assert caught.value.runs["gearbox"] == "stays in its boot loader"
        for _ in range(8):
            with pytest.raises(SetNotWholeError):
                await Gateway(car, disk).set.recover()
        asked = len(car.ecus["gearbox"].requests)
        with pytest.raises(SetNotWholeError):
            await Gateway(car, disk).set.recover()
        assert all(pdu[0] == 0x22 for pdu in car.ecus["gearbox"].requests[asked:])  # it only reads what they run
        car.ecus["gearbox"].faults.no_start = False
        await Gateway(car, disk).update(car.targets("03.00.00"))  # another update of these ECUs mends it
        assert car.versions == dict.fromkeys(NAMES, "03.00.00")

    in_car(work)


def test_a_finished_set_is_left_alone_when_asked_for_again_even_if_one_is_silent() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        await gateway.update(car.targets())
        car.ecus["brakes"].power(on=False)
        await Gateway(car, gateway.disk).update(car.targets())
        car.ecus["brakes"].power(on=True)
        await anyio.sleep(3)
        assert car.versions == ALL_NEW
        writes = [pdu for pdu in car.ecus["motor"].requests if pdu[0] == 0x34]
        assert len(writes) == 1

    in_car(work)


def test_a_finished_set_that_a_workshop_changed_is_done_again() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        await gateway.update(car.targets())
        car.ecus["brakes"].server.context.memory.data(car.ecus["brakes"].server.context.description.memory.regions[0])[
            :
        ] = b"\xff" * 8192
        car.ecus["brakes"].program(car.images["brakes", OLD])
        await Gateway(car, gateway.disk).update(car.targets())
        assert car.versions == ALL_NEW

    in_car(work)


def test_a_finished_set_can_be_called_back() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        await gateway.update(car.targets())
        await gateway.set.restore(car.targets())
        assert car.versions == ALL_OLD
        asked = [len(ecu.requests) for ecu in car.ecus.values()]
        await gateway.set.restore(car.targets())
        assert [len(ecu.requests) for ecu in car.ecus.values()] == asked

    in_car(work)


def test_cancelled_in_the_middle_leaves_a_usable_bus_and_goes_on_at_the_next_call() -> None:
    async def work(car: Car) -> None:
        gateway = await old_everywhere(car, CrashFiles())
        await gateway.set.prepare(car.targets(), None)  # type: ignore[arg-type]  # the shelf needs none
        with anyio.CancelScope() as scope:

            def stop(ecu: str, state: str, done: int, total: int) -> None:
                if ecu == "gearbox" and done > total // 2:
                    scope.cancel()

            await gateway.set.install(car.targets(), None, stop)  # type: ignore[arg-type]  # likewise
        assert scope.cancelled_caught
        await anyio.sleep(2)
        assert all(ecu.server.context.session == 1 for ecu in car.ecus.values())
        assert car.versions == {"motor": NEW, "gearbox": "", "brakes": OLD}
        sent = len([pdu for pdu in car.ecus["gearbox"].requests if pdu[0] == 0x36])
        await gateway.set.install(car.targets(), None)  # type: ignore[arg-type]  # likewise
        assert car.versions == ALL_NEW
        blocks = len([pdu for pdu in car.ecus["gearbox"].requests if pdu[0] == 0x36]) - sent
        assert blocks < len(car.images["gearbox", NEW]) // 128  # it went on, and did not begin again

    in_car(work)
