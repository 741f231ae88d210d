"""The page of one vehicle's faults: now, history, remote jobs, and its own audit of diagnostics."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath

from cloud.auth.middleware import role
from cloud.auth.model import Role
from cloud.console.diagnostic_facts import audit_notes, job_badge
from cloud.console.forms import read_form
from cloud.console.render import HOME, AnyRequest, go, page
from cloud.console.vehicle_pages import EVER_NS, vehicle_facts
from cloud.diagnostics.job_routes import NewJobOrder, StepOrder, create_job, may_change
from cloud.diagnostics.queries import FaultFilter
from cloud.diagnostics.selection import Selection
from cloud.errors import InvalidInput
from cloud.history.events import list_events
from cloud.history.telemetry import Shared, Telemetry
from cloud.services import Services
from cloud.web.inject import Injected
from gateway.wire.samples import EventKind

FAULT_ROWS, CHANGE_ROWS, JOB_ROWS, NOTE_ROWS = 200, 100, 10, 50


async def _faults(services: Services, telemetry: Telemetry, vehicle_id: str) -> dict[str, Any]:
    diagnostics = services.diagnostics
    wanted = FaultFilter(vehicle=vehicle_id)
    faults, total = await diagnostics.queries.faults(wanted, FAULT_ROWS, 0)
    changes, changes_total = await diagnostics.queries.history(wanted, CHANGE_ROWS, 0)
    jobs, _ = await diagnostics.jobs.list(JOB_ROWS, 0, vehicle_id)
    states = await diagnostics.jobs.states_of(vehicle_id, [job.id for job in jobs])
    events = await list_events(
        telemetry.history, vehicle_id, from_ns=-EVER_NS, to_ns=EVER_NS, kind=EventKind.AUDIT.value, limit=NOTE_ROWS
    )
    return {
        "faults": faults,
        "total": total,
        "changes": changes,
        "changes_total": changes_total,
        "jobs": [(job, states[job.id]) for job in jobs if job.id in states],
        "notes": audit_notes(events),
        "badge": job_badge,
    }


@get("/vehicles/{vehicle_id:str}/faults")
async def vehicle_faults(
    request: AnyRequest, services: Injected, telemetry: Shared, vehicle_id: FromPath[str]
) -> Response[str]:
    """Trouble codes with decoded status, text and surroundings."""
    facts = await vehicle_facts(services, vehicle_id, "/faults")
    facts |= await _faults(services, telemetry, vehicle_id)
    return page(request, "vehicle_faults.html", **facts, may_change=may_change(request, services))


@get("/vehicles/{vehicle_id:str}/faults/table")
async def vehicle_faults_table(
    request: AnyRequest, services: Injected, telemetry: Shared, vehicle_id: FromPath[str]
) -> Response[str]:
    """The same without the head, for refreshing it."""
    vehicle = await services.vehicles.get(vehicle_id)
    facts = await _faults(services, telemetry, vehicle_id)
    return page(request, "vehicle_faults_table.html", vehicle=vehicle, **facts)


@post("/vehicles/{vehicle_id:str}/faults/ask", opt=role(Role.OPERATOR))
async def ask_vehicle(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[Any]:
    """A job for all ECUs of this vehicle: read its trouble codes, or clear them."""
    do = (await read_form(request)).get("do", "")
    if do not in ("read_dtcs", "clear_dtcs"):
        raise InvalidInput("read_dtcs or clear_dtcs", where="do")
    order = NewJobOrder(steps=[StepOrder(do, "*")], filter=Selection(vehicles=(vehicle_id,)))
    made = await create_job(request, services, order)
    return go(f"{HOME}/jobs/{made.job.id}")


VEHICLE_FAULT_PAGES = [vehicle_faults, vehicle_faults_table, ask_vehicle]
