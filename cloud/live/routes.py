"""REST: the newest values of a vehicle, and server-sent events of them and of the fleet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from litestar import Request, Router, get
from litestar.di import Provide
from litestar.params import FromPath
from litestar.response import ServerSentEvent
from litestar.response.sse import ServerSentEventMessage

from cloud.auth.middleware import role
from cloud.auth.model import Role
from cloud.history.routes import known_vehicle
from cloud.history.telemetry import Shared, Telemetry, telemetry_of
from cloud.live.login import HasEnded, login_of
from cloud.live.state import FLEET, LiveValue

INTERVAL_S = 0.25  # shortest time between two messages to one client
FLEET_INTERVAL_S = 1.0


AnyRequest = Request[Any, Any, Any]


class LiveMessage(msgspec.Struct, frozen=True):
    """The data of a ``values`` event. ``dropped`` counts values replaced before they could be sent."""

    values: list[LiveValue]
    dropped: int


class FleetMessage(msgspec.Struct, frozen=True):
    """The data of a ``fleet`` event: vehicles of which something new arrived."""

    vehicles: list[str]


class LatestAnswer(msgspec.Struct, frozen=True):
    """The newest value of each signal of a vehicle."""

    vehicle: str
    now_ms: int
    values: list[LiveValue]


def _event(name: str, data: msgspec.Struct) -> ServerSentEventMessage:
    return ServerSentEventMessage(event=name, data=msgspec.json.encode(data).decode())


def _heartbeat() -> ServerSentEventMessage:
    return ServerSentEventMessage(event="heartbeat", data="{}")


@get("/vehicles/{vehicle_id:str}/latest", summary="Newest values of a vehicle")
async def get_latest(telemetry: Shared, vehicle_id: FromPath[str]) -> LatestAnswer:
    """The newest value of each signal by the sample's own time; kept through restarts."""
    await known_vehicle(telemetry, vehicle_id)
    values = await telemetry.live.latest(vehicle_id)
    return LatestAnswer(vehicle_id, telemetry.lake.clock.now_ns() // 1_000_000, values)


@get("/vehicles/{vehicle_id:str}/live", summary="Values as they arrive", media_type="text/event-stream")
async def get_live(request: AnyRequest, telemetry: Shared, vehicle_id: FromPath[str]) -> ServerSentEvent:
    """Server-sent events: first all newest values, then what changes; ``heartbeat`` when nothing does. Ends when the
    login does."""
    await known_vehicle(telemetry, vehicle_id)
    telemetry.live.values_hub.check_room()
    return ServerSentEvent(values_of(telemetry, vehicle_id, login_of(request)), retry_duration=3_000)


async def values_of(
    telemetry: Telemetry, vehicle_id: str, has_ended: HasEnded
) -> AsyncIterator[ServerSentEventMessage]:
    """The events of one reader; ends when the hub closes or the login has ended."""
    live = telemetry.live
    with live.values_hub.subscribe(vehicle_id) as box:
        yield _event("values", LiveMessage(await live.latest(vehicle_id), 0))
        while not box.closed and not await has_ended():
            values, dropped = await box.take(live.heartbeat_s)
            if values:
                yield _event("values", LiveMessage(values, dropped))
                await asyncio.sleep(INTERVAL_S)
            elif not box.closed:
                yield _heartbeat()


@get("/fleet/live", summary="Vehicles as they report", media_type="text/event-stream")
async def get_fleet_live(request: AnyRequest, telemetry: Shared) -> ServerSentEvent:
    """Server-sent events: ``fleet`` with the ids of vehicles of which batches arrived."""
    telemetry.live.fleet_hub.check_room()
    return ServerSentEvent(fleet_changes(telemetry, login_of(request)), retry_duration=3_000)


async def fleet_changes(telemetry: Telemetry, has_ended: HasEnded) -> AsyncIterator[ServerSentEventMessage]:
    """The events of one reader of the fleet; ends when the hub closes."""
    live = telemetry.live
    with live.fleet_hub.subscribe(FLEET) as box:
        yield _heartbeat()
        while not box.closed and not await has_ended():
            vehicles, _ = await box.take(live.heartbeat_s)
            if vehicles:
                yield _event("fleet", FleetMessage(vehicles))
                await asyncio.sleep(FLEET_INTERVAL_S)
            elif not box.closed:
                yield _heartbeat()


#: All routes of this module, below ``/api/v1``; needs the dependency ``services``.
live_router = Router(
    path="/api/v1",
    route_handlers=[get_latest, get_live, get_fleet_live],
    dependencies={"telemetry": Provide(telemetry_of, sync_to_thread=False)},
    opt=role(Role.VIEWER),
    tags=["live"],
)
