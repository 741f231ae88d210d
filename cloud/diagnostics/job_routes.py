"""REST: remote jobs, their results, and cancelling them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.params import JSONBody, PathParameter, QueryParameter
from litestar.response import Stream

from cloud.auth.middleware import actor_of, role
from cloud.auth.model import Operator, Role
from cloud.diagnostics.jobs import Cancelled, JobOrder, JobView, NewJob
from cloud.diagnostics.results import OrderView
from cloud.diagnostics.selection import Selection
from cloud.errors import InvalidInput
from cloud.services import Services
from cloud.web.inject import Injected
from cloud.web.pages import Limit, Offset, Page
from gateway.wire.diagnostics import Step

AnyRequest = Request[Any, Any, Any]
JobId = Annotated[int, PathParameter(ge=1, le=1 << 53)]


class StepOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step. ``parameter`` is a number, or text like ``F190`` or ``0xF190`` (hexadecimal)."""

    do: str
    ecu: str
    parameter: int | str | None = None
    data_hex: str = ""


class NewJobOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job to create, for the enrolled vehicles that ``filter`` selects. ``everyone`` must be said."""

    steps: list[StepOrder]
    filter: Selection = Selection()
    everyone: bool = False  # an empty filter means the whole fleet, and that is never meant by leaving it out
    title: str = ""
    stop_on_error: bool = False
    expires_s: int | None = None


class Selected(msgspec.Struct, frozen=True):
    """How many vehicles a job would reach."""

    vehicles: int


def may_change(request: AnyRequest, services: Services) -> bool:
    """Whether the caller may clear, run routines and reset."""
    user = request.scope.get("user")
    return isinstance(user, Operator) and user.role >= Role.of(services.config.diagnostics.write_role)


def read_step(step: StepOrder, where: str) -> Step:
    """A step with its numbers read. ``InvalidInput`` when they are none."""
    parameter = step.parameter
    try:
        if isinstance(parameter, str):
            parameter = int(parameter.strip()[:20], 16) if parameter.strip() else None
    except ValueError:
        raise InvalidInput(f"{parameter!r} is no hexadecimal number", where=f"{where}.parameter") from None
    if parameter is not None and not 0 <= parameter <= 0xFFFFFF:
        raise InvalidInput("a parameter is 0 to FFFFFF", where=f"{where}.parameter")
    try:
        data = bytes.fromhex(step.data_hex)
    except ValueError:
        raise InvalidInput("pairs of hexadecimal digits", where=f"{where}.data_hex") from None
    return Step(do=step.do, ecu=step.ecu, parameter=parameter, data=data)


async def create_job(request: AnyRequest, services: Services, wanted: NewJobOrder) -> NewJob:
    """Create a job and wake the vehicles that are connected."""
    if wanted.filter.is_everyone and not wanted.everyone:
        raise InvalidInput("an empty filter is the whole fleet; say so with everyone", where="filter")
    order = JobOrder(
        steps=tuple(read_step(step, f"steps[{i}]") for i, step in enumerate(wanted.steps[:1_000])),
        wanted=wanted.filter,
        title=wanted.title,
        stop_on_error=wanted.stop_on_error,
        expires_s=wanted.expires_s,
    )
    diagnostics = services.diagnostics
    made = await diagnostics.jobs.create(order, actor_of(request), may_change=may_change(request, services))
    for vehicle_id in await diagnostics.jobs.vehicles_of(made.job.id):
        services.downlinks.notify(vehicle_id)
    diagnostics.tell_job(made.job.id)
    return made


@get("/diagnostics/jobs", opt=role(Role.VIEWER), tags=["diagnostics"], summary="Remote jobs")
async def list_jobs(
    services: Injected,
    limit: Limit = 50,
    offset: Offset = 0,
    vehicle: Annotated[str, QueryParameter(max_length=64, description="only jobs for this vehicle")] = "",
) -> Page[JobView]:
    """Newest first, with the number of vehicles in each state."""
    items, total = await services.diagnostics.jobs.list(limit, offset, vehicle)
    return Page(items, total, limit, offset)


@post("/diagnostics/jobs", opt=role(Role.OPERATOR), tags=["diagnostics"], summary="Ask vehicles")
async def add_job(request: AnyRequest, services: Injected, data: JSONBody[NewJobOrder]) -> NewJob:
    """One order for each selected vehicle. To clear, run routines or reset needs `diagnostics.write_role`."""
    return await create_job(request, services, data)


@post(
    "/diagnostics/selection",
    opt=role(Role.OPERATOR),
    status_code=200,
    tags=["diagnostics"],
    summary="How many vehicles would it reach",
)
async def count_selected(services: Injected, data: JSONBody[Selection]) -> Selected:
    """The enrolled vehicles a filter selects."""
    return Selected(await services.diagnostics.jobs.count_selected(data))


@get("/diagnostics/jobs/{job_id:int}", opt=role(Role.VIEWER), tags=["diagnostics"], summary="One job")
async def get_job(services: Injected, job_id: JobId) -> JobView:
    """Steps, filter and counts."""
    return await services.diagnostics.jobs.get(job_id)


@get("/diagnostics/jobs/{job_id:int}/orders", opt=role(Role.VIEWER), tags=["diagnostics"], summary="Results of a job")
async def list_orders(
    services: Injected,
    job_id: JobId,
    limit: Limit = 100,
    offset: Offset = 0,
    in_state: Annotated[str, QueryParameter(name="state", max_length=20)] = "",
) -> Page[OrderView]:
    """By vehicle: the state of its order, and what came of each step on each ECU."""
    items, total = await services.diagnostics.results.orders(job_id, in_state, limit, offset)
    return Page(items, total, limit, offset)


@get(
    "/diagnostics/jobs/{job_id:int}/results.csv",
    opt=role(Role.VIEWER),
    tags=["diagnostics"],
    summary="Results as CSV",
    media_type="text/csv",
)
async def get_results_csv(services: Injected, job_id: JobId) -> Stream:
    """One line per vehicle, step and ECU, streamed."""
    await services.diagnostics.jobs.get(job_id)
    return _download(services.diagnostics.results.csv(job_id), "text/csv; charset=utf-8", f"job-{job_id}.csv")


@get(
    "/diagnostics/jobs/{job_id:int}/results.jsonl",
    opt=role(Role.VIEWER),
    tags=["diagnostics"],
    summary="Results as JSON lines",
    media_type="application/x-ndjson",
)
async def get_results_json(services: Injected, job_id: JobId) -> Stream:
    """One object per vehicle and line, streamed."""
    await services.diagnostics.jobs.get(job_id)
    return _download(services.diagnostics.results.lines(job_id), "application/x-ndjson", f"job-{job_id}.jsonl")


def _download(chunks: AsyncIterator[bytes], media_type: str, name: str) -> Stream:
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
    return Stream(chunks, media_type=media_type, headers=headers)


@post(
    "/diagnostics/jobs/{job_id:int}/cancel",
    opt=role(Role.OPERATOR),
    status_code=200,
    tags=["diagnostics"],
    summary="Cancel a job",
)
async def cancel_job(request: AnyRequest, services: Injected, job_id: JobId) -> Cancelled:
    """Orders that no vehicle has accepted are withdrawn; the others go on."""
    waiting = await services.diagnostics.jobs.vehicles_of(job_id)
    cancelled = await services.diagnostics.jobs.cancel(job_id, actor_of(request))
    for vehicle_id in waiting:
        services.downlinks.notify(vehicle_id)
    services.diagnostics.tell_job(job_id)
    return cancelled


JOB_ROUTES = [
    list_jobs,
    add_job,
    count_selected,
    get_job,
    list_orders,
    get_results_csv,
    get_results_json,
    cancel_job,
]
