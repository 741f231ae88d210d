"""Power cuts of the gateway while a set is changed: after the next start every ECU is new, or every ECU is old.

Each cut is a story of its own: ECUs live on while the gateway is dead, and the disk is as a cut there may leave it.
"""

from __future__ import annotations

import random

import anyio
import pytest

from gateway.update.ecu_model import SetNotWholeError
from gateway.update.model import InstallError
from simulator.ecu.flash_image import make_image
from tests.crash.disk import Call, CrashFiles, PowerCut, crash_states
from tests.gateway.update.ecu_bench import (
    NAMES,
    NEW,
    OLD,
    Car,
    Gateway,
    NoFetcher,
    in_car,
    old_everywhere,
    payload,
)
from tests.support import LONG

ALL_OLD, ALL_NEW = dict.fromkeys(NAMES, OLD), dict.fromkeys(NAMES, NEW)
STRIDES = {False: 1, True: 1} if LONG else {False: 11, True: 19}


def _has_cut(error: BaseException) -> bool:
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return isinstance(error, PowerCut) or any(_has_cut(e) for e in inner)


async def _until_cut(car: Car, gateway: Gateway, at: int) -> bool:
    """Install, with the power going at the ``at``-th change of the disk; False: it was done before."""
    disk = gateway.disk

    def before(number: int, call: Call) -> None:
        if number >= at:
            car.cut_off(off=True)
            raise PowerCut

    disk.before = before
    try:
        await gateway.set.prepare(car.targets(), NoFetcher())
        await gateway.set.install(car.targets(), NoFetcher())
    except InstallError:
        return False
    except BaseException as error:
        if not _has_cut(error):
            raise
        return True
    finally:
        disk.before = None
        car.cut_off(off=False)
    return False


def _after_cut(disk: CrashFiles, start: CrashFiles, seed: int) -> CrashFiles:
    """One of the disks that the cut may leave, another one for each seed."""
    states = [s for s in crash_states(start.snapshot(), disk.log, seed=seed, every=10**9) if s.calls == len(disk.log)]
    return random.Random(seed).choice(states).files


async def _start(car: Car) -> tuple[Gateway, CrashFiles]:
    gateway = await old_everywhere(car, CrashFiles())
    start = CrashFiles.of(gateway.disk.snapshot())
    return Gateway(car, CrashFiles.of(start.snapshot())), start


def _refused_at_the_last(car: Car) -> None:
    """The boot loader of the last one takes no image for other hardware."""
    car.images["brakes", NEW] = make_image("brakes", NEW, payload(7), hardware_id="HW-other", address=0x400000)
    car.shelf.remote[f"brakes-{NEW}.img"] = car.images["brakes", NEW]


async def _changes_in_all(car: Car) -> int:
    gateway, _ = await _start(car)
    await _until_cut(car, gateway, 10**9)
    return len(gateway.disk.log)


def _cut_points(is_refused: bool) -> range:
    async def work(car: Car) -> int:
        if is_refused:
            _refused_at_the_last(car)
        return await _changes_in_all(car)

    return range(in_car(work))


@pytest.mark.parametrize("is_refused", [False, True], ids=["forward", "back"])
def test_cut_at_any_change_of_the_disk(is_refused: bool) -> None:
    """The decision is the journal's: without a fault all is new in the end, with one at the last all is old."""
    points = _cut_points(is_refused)
    assert len(points) > 100

    def cut(at: int) -> None:
        async def work(car: Car) -> None:
            if is_refused:
                _refused_at_the_last(car)
            gateway, start = await _start(car)
            assert await _until_cut(car, gateway, at)
            if at % 2:  # the whole car, not the gateway alone
                for ecu in car.ecus.values():
                    ecu.power(on=False)
                await anyio.sleep(3)
                for ecu in car.ecus.values():
                    ecu.power(on=True)
                await anyio.sleep(3)
            again = Gateway(car, _after_cut(gateway.disk, start, at))
            if is_refused:
                with pytest.raises(InstallError):
                    await again.set.install(car.targets(), NoFetcher())
            else:
                await again.set.install(car.targets(), NoFetcher())
            assert car.versions == (ALL_OLD if is_refused else ALL_NEW)
            assert car.is_left_usable()

        in_car(work)

    for at in points[:: STRIDES[is_refused]]:
        cut(at)


@pytest.mark.parametrize("seed", range(40 if LONG else 5))
def test_cut_again_and_again_the_set_is_never_mixed_in_the_end(seed: int) -> None:
    """Often enough, the passes are used up: then all is old."""

    async def work(car: Car) -> None:
        rng = random.Random(seed)
        gateway, start = await _start(car)
        for number in range(rng.randrange(2, 9)):
            if not await _until_cut(car, gateway, rng.randrange(5, 120)):
                break
            disk = _after_cut(gateway.disk, start, seed + 100 * number)
            start = CrashFiles.of(disk.snapshot())
            gateway = Gateway(car, disk)
        try:
            await gateway.set.install(car.targets(), NoFetcher())
        except SetNotWholeError:
            pytest.fail("an ECU is left behind though all of them answer")
        except InstallError:
            assert car.versions == ALL_OLD
        else:
            assert car.versions == ALL_NEW
        assert car.is_left_usable()
        for name in NAMES:
            image = await gateway.set.installed(name)
            assert image is not None
            assert image.version == car.versions[name]

    in_car(work)
