"""Accounting, "why silent", gaps, the last check-in, and the fleet overview over REST."""

from __future__ import annotations

import msgspec
from litestar import get

from cloud.accounting.reconcile import Accounting, Gap
from cloud.accounting.service import FleetOverview, FleetRow
from cloud.accounting.silence import Silence
from cloud.auth.middleware import role
from cloud.auth.model import Role
from cloud.errors import NotFound
from cloud.registry.routes import InState, Search, Silent, Tag, VehicleId, vehicle_filter
from cloud.web.inject import Injected
from cloud.web.pages import Limit, Offset, Page
from gateway.wire.api import BusState, SchemeState


class LastCheckIn(msgspec.Struct, frozen=True):
    """What the vehicle said last."""

    received_ns: int
    at_ns: int
    started_ns: int
    software: str
    boot_id: str
    manifest_hash: str
    stopping: bool
    budget_level: int
    schemes: list[SchemeState]
    buses: list[BusState]
    health: dict[str, str]


@get(
    "/vehicles/{vehicle_id:str}/accounting", opt=role(Role.VIEWER), tags=["accounting"], summary="Where every item went"
)
async def get_accounting(services: Injected, vehicle_id: VehicleId) -> Accounting:
    """The vehicle's ledger beside the cloud's own counts; ``complete`` is true when nothing is unexplained."""
    return await services.accounting.accounting(vehicle_id)


@get("/vehicles/{vehicle_id:str}/gaps", opt=role(Role.VIEWER), tags=["accounting"], summary="Batches that are not here")
async def get_gaps(services: Injected, vehicle_id: VehicleId) -> list[Gap]:
    """Missing ones are asked for again; evicted and lost ones the vehicle has explained."""
    return (await services.accounting.accounting(vehicle_id)).gaps


@get("/vehicles/{vehicle_id:str}/silence", opt=role(Role.VIEWER), tags=["accounting"], summary="Why is it silent")
async def get_silence(services: Injected, vehicle_id: VehicleId) -> Silence:
    """Probable reasons, the most decisive first."""
    return await services.accounting.silence(vehicle_id)


@get("/vehicles/{vehicle_id:str}/check-in", opt=role(Role.VIEWER), tags=["accounting"], summary="The last check-in")
async def get_check_in(services: Injected, vehicle_id: VehicleId) -> LastCheckIn:
    """Software, buses, schemes and health as the vehicle reported them."""
    await services.vehicles.get(vehicle_id)
    found = await services.check_ins.latest(vehicle_id)
    if found is None:
        raise NotFound(f"vehicle {vehicle_id} has not checked in yet")
    message, received_ns = found
    return LastCheckIn(
        received_ns=received_ns,
        at_ns=message.at_ns,
        started_ns=message.started_ns,
        software=message.software,
        boot_id=message.boot_id,
        manifest_hash=message.manifest_hash,
        stopping=message.stopping,
        budget_level=message.budget_level,
        schemes=list(message.schemes),
        buses=list(message.buses),
        health=message.health,
    )


@get("/fleet", opt=role(Role.VIEWER), tags=["fleet"], summary="The fleet at a glance")
async def get_fleet(services: Injected) -> FleetOverview:
    """Counts by state, silent vehicles, what came today and in the last minute."""
    return await services.accounting.fleet()


@get("/fleet/vehicles", opt=role(Role.VIEWER), tags=["fleet"], summary="The fleet as a list")
async def get_fleet_vehicles(
    services: Injected,
    limit: Limit = 50,
    offset: Offset = 0,
    search: Search = "",
    in_state: InState = "",
    tag: Tag = "",
    silent: Silent = False,
) -> Page[FleetRow]:
    """Each vehicle with its last contact, traffic, bytes today, and whether all is accounted for."""
    wanted = vehicle_filter(services, search, in_state, tag, silent)
    rows, total = await services.accounting.fleet_rows(wanted, limit, offset)
    return Page(rows, total, limit, offset)


ACCOUNTING_ROUTES = [get_accounting, get_gaps, get_silence, get_check_in, get_fleet, get_fleet_vehicles]
