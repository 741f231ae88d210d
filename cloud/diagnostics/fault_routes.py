"""REST: faults of a vehicle and of the fleet, their history and statistics, texts for codes, and news as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, put
from litestar.params import FromQuery, PathParameter, QueryParameter
from litestar.response import ServerSentEvent
from litestar.response.sse import ServerSentEventMessage

from cloud.auth.middleware import actor_of, role
from cloud.auth.model import Role
from cloud.diagnostics.queries import ChangeView, FaultFilter, FaultView, Statistics
from cloud.diagnostics.selection import Selection, check_selection
from cloud.diagnostics.service import FleetDiagnostics
from cloud.diagnostics.texts import LoadedView
from cloud.errors import InvalidInput, NotFound
from cloud.live.login import HasEnded, login_of
from cloud.registry.routes import VehicleId
from cloud.services import Services
from cloud.web.inject import Injected
from cloud.web.pages import Limit, Offset, Page
from gateway.wire.dtc import parse_dtc
from gateway.wire.dtc_texts import MAX_FILE_BYTES, DtcText

AnyRequest = Request[Any, Any, Any]
INTERVAL_S = 0.5  # shortest time between two messages to one client
DAY_NS = 86_400_000_000_000

Ecu = Annotated[str, QueryParameter(max_length=64)]
Code = Annotated[str, QueryParameter(max_length=20, description="P0AA6 (any failure type) or P0AA6-16")]
Words = Annotated[
    str, QueryParameter(name="q", max_length=100, description="words of the text, or how the code begins")
]
StatusMask = Annotated[
    int, QueryParameter(name="status", ge=0, le=255, description="at least one of these bits; 8: confirmed")
]
Present = Annotated[str, QueryParameter(max_length=3, description="yes: stored now (default); no: gone; any")]
Tag = Annotated[str, QueryParameter(max_length=64)]
Software = Annotated[str, QueryParameter(max_length=100, description="as reported; a trailing * is any ending")]
Days = Annotated[int, QueryParameter(ge=1, le=400, description="days the trend reaches back")]


class FaultNews(msgspec.Struct, frozen=True):
    """The data of a ``faults`` event (vehicles) or a ``jobs`` event (numbers of jobs)."""

    changed: list[str]


def _present(text: str) -> bool | None:
    try:
        return {"": True, "yes": True, "no": False, "any": None}[text]
    except KeyError:
        raise InvalidInput("yes, no or any", where="query.present") from None


def fleet_filter(
    *, ecu: str, code: str, words: str, status: int, present: str, tag: str, software: str, search: str = ""
) -> FaultFilter:
    """The filter of a listing. ``InvalidInput`` for what cannot be."""
    selection = Selection(tag=tag, software=software, search=search)
    check_selection(selection)
    return FaultFilter(ecu=ecu, code=code, words=words, status=status, present=_present(present), selection=selection)


async def _known(services: Services, vehicle_id: str) -> None:
    if not await services.vehicles.exists(vehicle_id):
        raise NotFound(f"there is no vehicle {vehicle_id!r}")


@get("/vehicles/{vehicle_id:str}/faults", opt=role(Role.VIEWER), tags=["faults"], summary="Faults of a vehicle")
async def get_vehicle_faults(
    services: Injected,
    vehicle_id: VehicleId,
    limit: Limit = 100,
    offset: Offset = 0,
    ecu: Ecu = "",
    code: Code = "",
    words: Words = "",
    status: StatusMask = 0,
    present: Present = "yes",
) -> Page[FaultView]:
    """By ECU and code, with decoded status, snapshots and extended data."""
    await _known(services, vehicle_id)
    wanted = FaultFilter(vehicle=vehicle_id, ecu=ecu, code=code, words=words, status=status, present=_present(present))
    items, total = await services.diagnostics.queries.faults(wanted, limit, offset)
    return Page(items, total, limit, offset)


@get("/vehicles/{vehicle_id:str}/faults/history", opt=role(Role.VIEWER), tags=["faults"], summary="What faults did")
async def get_fault_history(
    services: Injected,
    vehicle_id: VehicleId,
    limit: Limit = 100,
    offset: Offset = 0,
    ecu: Ecu = "",
    code: Code = "",
) -> Page[ChangeView]:
    """Each change the vehicle told of, newest first, with the snapshot of that moment and who cleared."""
    await _known(services, vehicle_id)
    wanted = FaultFilter(vehicle=vehicle_id, ecu=ecu, code=code, present=None)
    items, total = await services.diagnostics.queries.history(wanted, limit, offset)
    return Page(items, total, limit, offset)


@get("/faults", opt=role(Role.VIEWER), tags=["faults"], summary="Faults of the fleet")
async def get_faults(
    services: Injected,
    limit: Limit = 100,
    offset: Offset = 0,
    ecu: Ecu = "",
    code: Code = "",
    words: Words = "",
    status: StatusMask = 0,
    present: Present = "yes",
    tag: Tag = "",
    software: Software = "",
) -> Page[FaultView]:
    """The newest change first; filters are combined."""
    wanted = fleet_filter(ecu=ecu, code=code, words=words, status=status, present=present, tag=tag, software=software)
    items, total = await services.diagnostics.queries.faults(wanted, limit, offset)
    return Page(items, total, limit, offset)


@get("/faults/statistics", opt=role(Role.VIEWER), tags=["faults"], summary="Faults counted")
async def get_fault_statistics(
    services: Injected,
    ecu: Ecu = "",
    code: Code = "",
    words: Words = "",
    status: StatusMask = 0,
    tag: Tag = "",
    software: Software = "",
    days: Days = 30,
) -> Statistics:
    """Vehicles affected by code, first and last seen; by ECU, by software, and by day."""
    wanted = fleet_filter(ecu=ecu, code=code, words=words, status=status, present="yes", tag=tag, software=software)
    first_day = services.clock.now_ns() // DAY_NS - days + 1
    return await services.diagnostics.queries.statistics(wanted, first_day=first_day)


@get("/faults/texts/{code:str}", opt=role(Role.VIEWER), tags=["faults"], summary="A code in words")
async def get_text(
    services: Injected, code: Annotated[str, PathParameter(max_length=20, description="P0AA6-16")]
) -> DtcText:
    """The loaded texts go before the built-in ones."""
    try:
        return services.diagnostics.texts.describe(parse_dtc(code))
    except ValueError as error:
        raise InvalidInput(str(error)[:200], where="code") from error


@put(
    "/faults/texts",
    opt=role(Role.ADMIN),
    tags=["faults"],
    summary="Load texts",
    request_max_body_size=MAX_FILE_BYTES,
)
async def put_texts(
    request: AnyRequest,
    services: Injected,
    replace: FromQuery[bool] = False,
    name: Annotated[str, QueryParameter(max_length=200, description="the file's name; tells CSV or JSON")] = "",
) -> LoadedView:
    """The body is a file: CSV `code,text`, or JSON. Sound lines are stored; the answer names the others."""
    return await services.diagnostics.texts.load(await request.body(), name, actor_of(request), replace=replace)


@delete("/faults/texts", opt=role(Role.ADMIN), status_code=204, tags=["faults"], summary="Remove loaded texts")
async def delete_texts(request: AnyRequest, services: Injected) -> None:
    """The built-in texts stay."""
    await services.diagnostics.texts.clear(actor_of(request))


@get(
    "/faults/live",
    opt=role(Role.VIEWER),
    tags=["faults"],
    summary="News of faults and jobs",
    media_type="text/event-stream",
)
async def get_faults_live(
    request: AnyRequest, services: Injected, vehicle: Annotated[str, QueryParameter(max_length=64)] = ""
) -> ServerSentEvent:
    """Server-sent events: `faults` with vehicles whose faults changed, `jobs` with jobs that moved; of all, or one."""
    services.diagnostics.hub.check_room()
    return ServerSentEvent(news_of(services.diagnostics, vehicle, login_of(request)), retry_duration=3_000)


async def news_of(
    diagnostics: FleetDiagnostics, topic: str, has_ended: HasEnded
) -> AsyncIterator[ServerSentEventMessage]:
    """The events of one reader; ends when the hub closes or the login has ended."""
    with diagnostics.hub.subscribe(topic) as box:
        yield ServerSentEventMessage(event="heartbeat", data="{}")
        while not box.closed and not await has_ended():
            news, _ = await box.take(diagnostics.heartbeat_s)
            for event, kind in (("faults", "faults"), ("jobs", "job")):
                changed = [what for of, what in news if of == kind]
                if changed:
                    yield ServerSentEventMessage(event=event, data=msgspec.json.encode(FaultNews(changed)).decode())
            if news:
                await asyncio.sleep(INTERVAL_S)
            elif not box.closed:
                yield ServerSentEventMessage(event="heartbeat", data="{}")


FAULT_ROUTES = [
    get_vehicle_faults,
    get_fault_history,
    get_faults,
    get_fault_statistics,
    get_text,
    put_texts,
    delete_texts,
    get_faults_live,
]
