"""Director: manifests checked and metadata sets made per second, in one process; each is committed and synced.

Each vehicle has a Primary and two ECUs. Told are the CPU of signing a set alone, of checking a manifest alone, and both
as the service does them: in transactions, one vehicle after the other. The peer of the service is its own signing.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from cloud.auth.audit import CLI
from cloud.updates.assignments import AssignOrder
from cloud.updates.director import open_assignment
from cloud.updates.model import AssignmentPlanRow, VehicleEcuRow
from cloud.updates.plan import Plan
from gateway.wire.uptane import DirectorInstructions, Inventory, Signed
from tests.cloud.support import Vehicle
from tests.cloud.updates.support import BRAKES, ROOTFS, Car, Ecu, Rig, rig_in

VEHICLES = 200
SIGNED_SETS = 1_000


def run() -> list[dict[str, Any]]:
    """The measurements."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_run(Path(folder)))


async def _run(folder: Path) -> list[dict[str, Any]]:
    async with rig_in(folder) as rig:
        cars = [_car(rig, f"VIN{number}") for number in range(VEHICLES)]
        updates = rig.cloud.services.updates
        release = await _release(rig)
        for car in cars:
            await rig.cloud.services.vehicles.add(car.id, CLI)
            await updates.intake.take_inventory(car.id, Inventory(ecus=tuple(e.told for e in car.ecus.values())))
            await updates.assignments.assign(car.id, AssignOrder(release_id=release), CLI)
        made_s = await _each(cars, lambda car: updates.director.file(car.id, "timestamp.json"))
        again_s = await _each(cars, lambda car: updates.director.file(car.id, "timestamp.json"))
        manifests = {car.id: car.manifest() for car in cars}
        taken_s = await _each(cars, lambda car: updates.intake.take_manifest(car.id, manifests[car.id]))
        signed_s = await _signing(rig, cars[0])
        checked_s = await _checking(rig, cars[0])
    per_s = VEHICLES / (made_s + taken_s)
    return [
        {"name": "set signed (Targets, Snapshot, Timestamp)", "value": signed_s * 1e3, "unit": "ms CPU"},
        {"name": "manifest of three ECUs checked", "value": checked_s * 1e3, "unit": "ms CPU"},
        {"name": "sets made and stored", "value": VEHICLES / made_s, "unit": "per CPU s"},
        {"name": "sets asked for again, unchanged", "value": VEHICLES / again_s, "unit": "per CPU s"},
        {"name": "manifests checked and stored", "value": VEHICLES / taken_s, "unit": "per CPU s"},
        {
            "name": "vehicles, manifest and new set each",
            "value": per_s,
            "unit": "per CPU s",
            "peer": "signing alone",
            "ratio": per_s * signed_s,
        },
    ]


def _car(rig: Rig, name: str) -> Car:
    ecus = {
        "gateway": Ecu("gateway", ROOTFS, is_primary=True),
        "brakes": Ecu("brakes", BRAKES),
        "motor": Ecu("motor", "motor-c1"),
    }
    return Car(Vehicle(name, rig.admin), rig.clock, ecus)


async def _release(rig: Rig) -> int:
    numbers = [
        await rig.upload(f"{hardware}/image", hardware.encode() * 100, hardware_ids=[hardware], kind="firmware")
        for hardware in (ROOTFS, BRAKES, "motor-c1")
    ]
    await rig.sign_all()
    return await rig.release("bench", *numbers)


async def _each(cars: list[Car], work: Callable[[Car], Awaitable[object]]) -> float:
    """CPU seconds of all, threads included."""
    begun = time.process_time()
    for car in cars:
        await work(car)
    return time.process_time() - begun


async def _signing(rig: Rig, car: Car) -> float:
    """CPU seconds of one set."""
    updates = rig.cloud.services.updates
    async with rig.cloud.services.db.read() as session:
        root = await session.run_sync(updates.repositories.root, "director")
        there = await session.run_sync(open_assignment, car.id)
        row = await session.get(AssignmentPlanRow, there.id) if there else None
    assert root is not None
    plan = msgspec.json.decode(row.plan, type=Plan) if row else None
    begun = time.process_time()
    for version in range(1, SIGNED_SETS + 1):
        updates.director.sign(car.id, DirectorInstructions(vehicle=car.id), plan, root, version, rig.clock.now_ns())
    return (time.process_time() - begun) / SIGNED_SETS


async def _checking(rig: Rig, car: Car) -> float:
    """CPU seconds of one manifest."""
    async with rig.cloud.services.db.read() as session:
        rows = {ecu: await session.get(VehicleEcuRow, (car.id, ecu)) for ecu in car.ecus}
    known = {name: row for name, row in rows.items() if row is not None}
    told: Signed = car.manifest()
    begun = time.process_time()
    for _ in range(SIGNED_SETS):
        rig.cloud.services.updates.intake.check(car.id, told, known, rig.clock.now_ns())
    return (time.process_time() - begun) / SIGNED_SETS
