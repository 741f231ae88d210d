"""The pages of one vehicle: live values, charts, accounting, events, schemes, access."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from cloud.auth.middleware import actor_of, role
from cloud.auth.model import Role
from cloud.console.facts import silence_note, state_of
from cloud.console.forms import read_form, vehicle_path
from cloud.console.render import HOME, AnyRequest, go, page
from cloud.errors import InvalidInput
from cloud.history.answers import list_signals
from cloud.history.events import list_events
from cloud.history.telemetry import Shared
from cloud.registry.erasure import erase_vehicle
from cloud.services import Services
from cloud.web.inject import Injected
from gateway.wire.samples import EventKind

EVENT_ROWS = 200
EVER_NS = 2**62


async def vehicle_facts(services: Services, vehicle_id: str, tab: str) -> dict[str, Any]:
    """What every page of a vehicle needs. ``NotFound`` when there is none."""
    vehicle = await services.vehicles.get(vehicle_id)
    found = await services.check_ins.latest(vehicle_id)
    check_in = found[0] if found else None
    silence = await services.accounting.silence(vehicle_id)
    return {
        "vehicle": vehicle,
        "check_in": check_in,
        "skew_s": (found[0].at_ns - found[1]) / 1e9 if found else 0.0,
        "state": state_of(vehicle.state, silent=silence.silent, stopped=bool(check_in and check_in.stopping)),
        "silence": silence_note(silence),
        "tab": tab,
    }


@get("/vehicles/{vehicle_id:str}")
async def live(request: AnyRequest, services: Injected, telemetry: Shared, vehicle_id: FromPath[str]) -> Response[str]:
    """Newest values, kept up to date."""
    facts = await vehicle_facts(services, vehicle_id, "")
    first = msgspec.to_builtins(await telemetry.live.latest(vehicle_id))
    return page(request, "vehicle_live.html", **facts, first=first)


@get("/vehicles/{vehicle_id:str}/health")
async def health(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[str]:
    """The upper part of the live page, for refreshing it."""
    return page(request, "vehicle_health.html", **await vehicle_facts(services, vehicle_id, ""))


@get("/vehicles/{vehicle_id:str}/charts")
async def charts(
    request: AnyRequest,
    services: Injected,
    telemetry: Shared,
    vehicle_id: FromPath[str],
    signals: Annotated[list[str] | None, QueryParameter(name="signal")] = None,
) -> Response[str]:
    """Signals over time."""
    facts = await vehicle_facts(services, vehicle_id, "/charts")
    known = await list_signals(telemetry.history, vehicle_id)
    return page(request, "vehicle_charts.html", **facts, signals=known, chosen=set(signals or ()))


@get("/vehicles/{vehicle_id:str}/accounting")
async def accounting(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[str]:
    """Where every frame and item went."""
    facts = await vehicle_facts(services, vehicle_id, "/accounting")
    return page(request, "vehicle_accounting.html", **facts, account=await services.accounting.accounting(vehicle_id))


@get("/vehicles/{vehicle_id:str}/events")
async def events(
    request: AnyRequest, services: Injected, telemetry: Shared, vehicle_id: FromPath[str], kind: FromQuery[str] = ""
) -> Response[str]:
    """What happened, and the black box."""
    facts = await vehicle_facts(services, vehicle_id, "/events")
    found = await list_events(
        telemetry.history, vehicle_id, from_ns=-EVER_NS, to_ns=EVER_NS, kind=kind, limit=EVENT_ROWS
    )
    return page(
        request,
        "vehicle_events.html",
        **facts,
        events=found,
        kind=kind,
        kinds=[str(k) for k in EventKind],
        frames=await telemetry.history.has_frames(vehicle_id),
    )


@get("/vehicles/{vehicle_id:str}/schemes")
async def schemes(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[str]:
    """What the vehicle collects, and how it is."""
    facts = await vehicle_facts(services, vehicle_id, "/schemes")
    return page(request, "vehicle_schemes.html", **facts)


async def _access(request: AnyRequest, services: Services, vehicle_id: str, token: object = None) -> Response[str]:
    facts = await vehicle_facts(services, vehicle_id, "/access")
    return page(
        request,
        "vehicle_access.html",
        **facts,
        certificates=await services.enrolment.certificates(vehicle_id),
        tokens=await services.enrolment.tokens(vehicle_id),
        token=token,
    )


@get("/vehicles/{vehicle_id:str}/access")
async def access(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[str]:
    """Certificates, tokens, names, revocation."""
    return await _access(request, services, vehicle_id)


@post("/vehicles/{vehicle_id:str}/tokens", opt=role(Role.OPERATOR))
async def make_token(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[str]:
    """Make a one-time token and show it this once."""
    token = await services.enrolment.make_token(vehicle_id, actor_of(request))
    return await _access(request, services, vehicle_id, token)


@post("/vehicles/{vehicle_id:str}/tokens/{token_id:int}/withdraw", opt=role(Role.OPERATOR))
async def withdraw_token(
    request: AnyRequest, services: Injected, vehicle_id: FromPath[str], token_id: FromPath[int]
) -> Response[Any]:
    """Make an open token useless."""
    await services.enrolment.withdraw_token(vehicle_id, token_id, actor_of(request))
    return go(vehicle_path(vehicle_id, "/access"))


@post("/vehicles/{vehicle_id:str}/certificates/{serial:str}/revoke", opt=role(Role.OPERATOR))
async def revoke_certificate(
    request: AnyRequest, services: Injected, vehicle_id: FromPath[str], serial: FromPath[str]
) -> Response[Any]:
    """End one certificate."""
    await services.enrolment.revoke_certificate(vehicle_id, serial, "by the console", actor_of(request))
    services.downlinks.notify(vehicle_id)
    return go(vehicle_path(vehicle_id, "/access"))


@post("/vehicles/{vehicle_id:str}/change", opt=role(Role.OPERATOR))
async def change(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[Any]:
    """Name and tags."""
    form = await read_form(request)
    tags = [tag.strip() for tag in form.get("tags", "").split(",") if tag.strip()]
    await services.vehicles.change(vehicle_id, actor_of(request), display_name=form.get("display_name", ""), tags=tags)
    return go(vehicle_path(vehicle_id, "/access"))


@post("/vehicles/{vehicle_id:str}/revoke", opt=role(Role.OPERATOR))
async def revoke(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[Any]:
    """End all certificates of a vehicle."""
    reason = (await read_form(request)).get("reason", "")
    await services.enrolment.revoke_vehicle(vehicle_id, reason[:400], actor_of(request))
    services.downlinks.close(vehicle_id)
    return go(vehicle_path(vehicle_id, "/access"))


@post("/vehicles/{vehicle_id:str}/reinstate", opt=role(Role.OPERATOR))
async def reinstate(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[Any]:
    """Let a revoked vehicle enrol again."""
    await services.enrolment.reinstate_vehicle(vehicle_id, actor_of(request))
    return go(vehicle_path(vehicle_id, "/access"))


@post("/vehicles/{vehicle_id:str}/erase", opt=role(Role.ADMIN))
async def erase(request: AnyRequest, services: Injected, vehicle_id: FromPath[str]) -> Response[Any]:
    """Delete a vehicle and its data, once its id has been typed."""
    if (await read_form(request)).get("confirm", "").strip() != vehicle_id:
        raise InvalidInput("to erase a vehicle, type its id", where="confirm")
    await erase_vehicle(services, vehicle_id, actor_of(request))
    return go(HOME)


VEHICLE_PAGES = [
    live,
    health,
    charts,
    accounting,
    events,
    schemes,
    access,
    make_token,
    withdraw_token,
    revoke_certificate,
    change,
    revoke,
    reinstate,
    erase,
]
