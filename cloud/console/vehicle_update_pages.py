"""The page of one vehicle's software: what it runs and shall run, how far it is, and its ECUs."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath
from sqlalchemy import select

from cloud.auth.middleware import actor_of, role
from cloud.auth.model import Role
from cloud.console import update_facts as facts
from cloud.console.forms import number, read_form, vehicle_path
from cloud.console.render import AnyRequest, go, page
from cloud.console.vehicle_pages import vehicle_facts
from cloud.errors import CloudError, InvalidInput, NotFound
from cloud.services import Services
from cloud.updates.assignments import AssignOrder
from cloud.updates.model import ReleaseState, VehicleEcuRow
from cloud.web.inject import Injected
from gateway.wire.uptane import InstallPolicy

HISTORY_ROWS, RELEASES = 50, 200


async def _state(services: Services, vehicle_id: str) -> dict[str, Any]:
    assignments = services.updates.assignments
    view = await assignments.view(vehicle_id)
    inventory = await assignments.inventory(vehicle_id)
    async with services.db.read() as session:
        registered = select(VehicleEcuRow.ecu, VehicleEcuRow.key_id).where(VehicleEcuRow.vehicle_id == vehicle_id)
        keys = {str(ecu): str(key_id) for ecu, key_id in await session.execute(registered)}
    return {
        "update": view,
        "words": facts.STATUS_WORDS.get(view.status, view.status.replace("_", " ")),
        "is_open": facts.is_open(view.assignment),
        "consent": facts.waits_for_consent(view),
        "eta": "" if view.eta_s is None else facts.duration(view.eta_s),
        "inventory": inventory,
        "differences": facts.differences(inventory, keys),
        "history": await assignments.history(vehicle_id, HISTORY_ROWS, 0),
        "badge": facts.badge,
    }


async def _software(request: AnyRequest, services: Services, vehicle_id: str, problem: str = "") -> Response[str]:
    context = await vehicle_facts(services, vehicle_id, "/software")
    context |= await _state(services, vehicle_id)
    releases, _ = await services.updates.releases.list(RELEASES, 0, ReleaseState.PUBLISHED)
    return page(request, "vehicle_software.html", **context, releases=releases, problem=problem)


@get("/vehicles/{vehicle_id:str}/software")
async def vehicle_software(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[str]:
    """The update in progress, versions, history."""
    return await _software(request, services, vehicle_id)


@get("/vehicles/{vehicle_id:str}/software/table")
async def vehicle_software_table(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[str]:
    """The same without the forms, for refreshing it."""
    vehicle = await services.vehicles.get(vehicle_id)
    return page(request, "vehicle_software_table.html", vehicle=vehicle, **await _state(services, vehicle_id))


@post("/vehicles/{vehicle_id:str}/software/assign", opt=role(Role.OPERATOR))
async def assign_release(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[Any]:
    """Give this vehicle a release. The page says why it cannot have one."""
    form = await read_form(request)
    try:
        if not number(form.get("release", "")):
            raise InvalidInput("choose a release", where="release")
        order = AssignOrder(
            release_id=number(form["release"]),
            policy=InstallPolicy(needs_consent=True) if form.get("needs_consent") == "yes" else None,
            replace=form.get("replace") == "yes",
            is_rollback=form.get("is_rollback") == "yes",
        )
        await services.updates.assignments.assign(vehicle_id, order, actor_of(request))
    except CloudError as error:
        return await _software(request, services, vehicle_id, str(error))
    services.downlinks.notify(vehicle_id)
    return go(vehicle_path(vehicle_id, "/software"))


@post("/vehicles/{vehicle_id:str}/software/cancel", opt=role(Role.OPERATOR))
async def cancel_update(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[Any]:
    """End the open assignment."""
    try:
        await services.updates.assignments.cancel(vehicle_id, actor_of(request))
    except NotFound as error:
        return await _software(request, services, vehicle_id, str(error))
    services.downlinks.notify(vehicle_id)
    return go(vehicle_path(vehicle_id, "/software"))


@post("/vehicles/{vehicle_id:str}/software/inventory", opt=role(Role.OPERATOR))
async def decide_inventory(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[Any]:
    """Accept or refuse the ECUs that wait."""
    do = (await read_form(request)).get("do", "")
    if do not in ("accept", "refuse"):
        raise InvalidInput("accept or refuse", where="do")
    intake = services.updates.intake
    try:
        await (intake.accept_inventory if do == "accept" else intake.refuse_inventory)(vehicle_id, actor_of(request))
    except CloudError as error:
        return await _software(request, services, vehicle_id, str(error))
    services.downlinks.notify(vehicle_id)
    return go(vehicle_path(vehicle_id, "/software"))


VEHICLE_UPDATE_PAGES = [
    vehicle_software,
    vehicle_software_table,
    assign_release,
    cancel_update,
    decide_inventory,
]
