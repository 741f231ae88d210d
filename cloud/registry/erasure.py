"""Erasure of a vehicle: everything the cloud keeps of it, in the database and through the registered erasers."""

from __future__ import annotations

from sqlalchemy import delete

from cloud.auth.audit import Actor, record
from cloud.errors import NotFound
from cloud.ingest.model import CheckInRow, DailyRow, RangeRow, StreamRow
from cloud.registry.model import VehicleRow
from cloud.services import Services
from cloud.spool.deadletters import DeadLetterDropsRow
from cloud.spool.model import BatchRow, DeadLetterRow


async def erase_vehicle(services: Services, vehicle_id: str, actor: Actor) -> None:
    """Delete a vehicle and its data. The audit trail keeps that it was done, and by whom.

    The vehicle is revoked first, so that nothing new comes while its data goes; the erasers run before the last
    transaction, so that a crash in between leaves a revoked vehicle whose erasure can be asked for again.

    Raises:
        NotFound: no such vehicle.
    """
    if not await services.vehicles.exists(vehicle_id):
        raise NotFound(f"there is no vehicle {vehicle_id!r}")
    await services.enrolment.revoke_vehicle(vehicle_id, "erased", actor)
    services.downlinks.close(vehicle_id)
    async with services.db.write() as session:
        await session.execute(delete(BatchRow).where(BatchRow.vehicle_id == vehicle_id))
    for eraser in services.erasers:
        await eraser(vehicle_id)
    async with services.db.write() as session:
        for table in (BatchRow, DeadLetterRow, DeadLetterDropsRow, StreamRow, RangeRow, CheckInRow, DailyRow):
            await session.execute(delete(table).where(table.vehicle_id == vehicle_id))
        await session.execute(delete(VehicleRow).where(VehicleRow.id == vehicle_id))
        record(session, actor, services.clock.now_ns(), "vehicle.erase", vehicle_id)
