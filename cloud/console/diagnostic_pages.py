"""Faults of the fleet, and remote jobs."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, get, post
from litestar.datastructures import UploadFile
from litestar.params import FromPath, FromQuery, PathParameter, QueryParameter

from cloud.auth.middleware import actor_of, role
from cloud.auth.model import Role
from cloud.console.diagnostic_facts import job_badge, outcome_badge, read_job
from cloud.console.forms import number, read_form
from cloud.console.render import HOME, AnyRequest, go, page
from cloud.diagnostics.fault_routes import fleet_filter
from cloud.diagnostics.job_routes import create_job, may_change
from cloud.diagnostics.model import OrderState
from cloud.errors import CloudError, InvalidInput
from cloud.services import Services
from cloud.web.inject import Injected

ROWS = 50
CODES = 100
TREND_DAYS = 30
DAY_NS = 86_400_000_000_000
JobId = Annotated[int, PathParameter(ge=1, le=1 << 53)]
InState = Annotated[str, QueryParameter(name="state", max_length=20)]


async def _faults(services: Services, asked: dict[str, str]) -> dict[str, Any]:
    """The fleet's faults as asked for."""
    wanted = fleet_filter(
        ecu=asked["ecu"][:64],
        code="",
        words=asked["q"][:100],
        status=8 if asked["confirmed"] else 0,
        present="yes",
        tag=asked["tag"].strip()[:64],
        software=asked["software"].strip()[:100],
    )
    today = services.clock.now_ns() // DAY_NS
    queries = services.diagnostics.queries
    told = await queries.statistics(wanted, first_day=today - TREND_DAYS + 1, codes=CODES)
    newest, _ = await queries.faults(wanted, ROWS, 0)
    days = {day.day: day for day in told.days}
    trend = [(day * DAY_NS, days.get(day)) for day in range(today - TREND_DAYS + 1, today + 1)]
    return {
        "asked": asked,
        "told": told,
        "newest": newest,
        "trend": trend,
        "most": max((day.appeared for day in told.days), default=0),
        "ecus": await queries.ecus(),
        "texts": len(services.diagnostics.texts.texts),
    }


def _asked(ecu: str, q: str, confirmed: str, tag: str, software: str) -> dict[str, str]:
    return {"ecu": ecu, "q": q.strip(), "confirmed": confirmed, "tag": tag, "software": software}


@get("/faults")
async def faults(
    request: AnyRequest,
    services: Injected,
    ecu: FromQuery[str] = "",
    q: FromQuery[str] = "",
    confirmed: FromQuery[str] = "",
    tag: FromQuery[str] = "",
    software: FromQuery[str] = "",
) -> Response[str]:
    """Codes over the fleet, the trend, and what changed last."""
    facts = await _faults(services, _asked(ecu, q, confirmed, tag, software))
    return page(request, "diagnostics_faults.html", **facts, done="", problem="")


@get("/faults/table")
async def faults_table(
    request: AnyRequest,
    services: Injected,
    ecu: FromQuery[str] = "",
    q: FromQuery[str] = "",
    confirmed: FromQuery[str] = "",
    tag: FromQuery[str] = "",
    software: FromQuery[str] = "",
) -> Response[str]:
    """The same without the forms, for refreshing it."""
    facts = await _faults(services, _asked(ecu, q, confirmed, tag, software))
    return page(request, "diagnostics_faults_table.html", **facts)


@post("/faults/texts", opt=role(Role.ADMIN), request_max_body_size=20 * 1024 * 1024)
async def load_texts(request: AnyRequest, services: Injected) -> Response[str]:
    """Load a file of texts for codes."""
    form = await request.form()
    file = form.get("file")
    done, problem = "", ""
    try:
        if not isinstance(file, UploadFile) or not file.filename:
            raise InvalidInput("choose a file", where="file")
        content = await file.read()
        told = await services.diagnostics.texts.load(
            content, file.filename, actor_of(request), replace=form.get("replace") == "yes"
        )
        done = f"{told.stored} texts loaded, {told.total} in all"
        if told.bad:
            first = "; ".join(f"line {d.line}: {d.problem}" for d in told.defects[:5])
            done += f"; {told.bad} lines left out ({first})"
    except CloudError as error:
        problem = str(error)
    facts = await _faults(services, _asked("", "", "", "", ""))
    return page(request, "diagnostics_faults.html", **facts, done=done, problem=problem)


@get("/jobs")
async def jobs(request: AnyRequest, services: Injected, offset: FromQuery[str] = "0") -> Response[str]:
    """Remote jobs, newest first."""
    start = number(offset)
    rows, total = await services.diagnostics.jobs.list(ROWS, start)
    return page(request, "diagnostics_jobs.html", jobs=rows, total=total, offset=start, limit=ROWS, badge=job_badge)


async def _new_job(request: AnyRequest, services: Services, form: dict[str, str], problem: str = "") -> Response[str]:
    return page(
        request,
        "diagnostics_job_new.html",
        form=form,
        problem=problem,
        may_change=may_change(request, services),
        tags=await services.vehicles.tags(),
        ecus=await services.diagnostics.queries.ecus(),
    )


@get("/jobs/new", opt=role(Role.OPERATOR))
async def new_job_page(
    request: AnyRequest, services: Injected, vehicle: FromQuery[str] = "", fault: FromQuery[str] = ""
) -> Response[str]:
    """The form."""
    return await _new_job(request, services, {"vehicles": vehicle[:64], "fault": fault[:20], "ecu": "*"})


@post("/jobs/new", opt=role(Role.OPERATOR))
async def new_job(request: AnyRequest, services: Injected) -> Response[Any]:
    """Make a job and show it."""
    form = await read_form(request)
    try:
        made = await create_job(request, services, read_job(form))
    except CloudError as error:
        return await _new_job(request, services, form, str(error))
    return go(f"{HOME}/jobs/{made.job.id}")


async def _job(services: Services, job_id: int, state: str, offset: int) -> dict[str, Any]:
    wanted = state if state in set(OrderState) else ""
    orders, total = await services.diagnostics.results.orders(job_id, wanted, ROWS, offset)
    return {
        "job": await services.diagnostics.jobs.get(job_id),
        "orders": orders,
        "total": total,
        "state": wanted,
        "states": list(OrderState),
        "offset": offset,
        "limit": ROWS,
        "badge": job_badge,
        "outcome_badge": outcome_badge,
    }


@get("/jobs/{job_id:int}")
async def job(
    request: AnyRequest, services: Injected, job_id: JobId, in_state: InState = "", offset: FromQuery[str] = "0"
) -> Response[str]:
    """What came of a job."""
    return page(request, "diagnostics_job.html", **await _job(services, job_id, in_state, number(offset)), problem="")


@get("/jobs/{job_id:int}/table")
async def job_table(
    request: AnyRequest, services: Injected, job_id: JobId, in_state: InState = "", offset: FromQuery[str] = "0"
) -> Response[str]:
    """The same without the head, for refreshing it."""
    return page(request, "diagnostics_job_table.html", **await _job(services, job_id, in_state, number(offset)))


@post("/jobs/{job_id:int}/cancel", opt=role(Role.OPERATOR))
async def cancel_job(request: AnyRequest, services: Injected, job_id: FromPath[int]) -> Response[Any]:
    """Withdraw what no vehicle has accepted."""
    diagnostics = services.diagnostics
    waiting = await diagnostics.jobs.vehicles_of(job_id)
    try:
        await diagnostics.jobs.cancel(job_id, actor_of(request))
    except CloudError as error:
        facts = await _job(services, job_id, "", 0)
        return page(request, "diagnostics_job.html", **facts, problem=str(error))
    for vehicle_id in waiting:
        services.downlinks.notify(vehicle_id)
    diagnostics.tell_job(job_id)
    return go(f"{HOME}/jobs/{job_id}")


DIAGNOSTIC_PAGES = [
    faults,
    faults_table,
    load_texts,
    jobs,
    new_job_page,
    new_job,
    job,
    job_table,
    cancel_job,
]
