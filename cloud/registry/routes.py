"""Vehicles, enrolment tokens and certificates over REST, and the enrolment of a vehicle."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, patch, post
from litestar.params import JSONBody, PathParameter, QueryParameter

from cloud.auth.middleware import actor_of, role
from cloud.auth.model import Role
from cloud.errors import InvalidInput, TooMany
from cloud.identity.enrolment import CertificateView, NewToken, TokenView
from cloud.registry.erasure import erase_vehicle
from cloud.registry.imports import Imported, import_vehicles, read_csv, read_json
from cloud.registry.model import VehicleState
from cloud.registry.vehicles import Traits, VehicleFilter, VehicleView
from cloud.services import Services
from cloud.web.inject import Injected
from cloud.web.pages import Limit, Offset, Page
from gateway.wire.api import ENROL, EnrolReply, EnrolRequest

AnyRequest = Request[Any, Any, Any]
VehicleId = Annotated[str, PathParameter(description="vehicle id, for example a VIN", max_length=64)]

Search = Annotated[str, QueryParameter(max_length=200, description="part of id or display name")]
InState = Annotated[str, QueryParameter(name="state", description="new, enrolled or revoked", max_length=20)]
Tag = Annotated[str, QueryParameter(max_length=64)]
Silent = Annotated[bool, QueryParameter(description="only enrolled ones that have gone silent")]


def vehicle_filter(services: Services, search: str, state: str, tag: str, silent: bool) -> VehicleFilter:
    """The filter of a listing. ``InvalidInput`` for a state that does not exist."""
    if state and state not in set(VehicleState):
        raise InvalidInput("the state is new, enrolled or revoked", where="state")
    since_ns = services.clock.now_ns() - int(services.config.fleet.silent_after_s * 1e9) if silent else None
    return VehicleFilter(search, state, tag, since_ns)


class NewVehicle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vehicle to register."""

    id: str
    display_name: str = ""
    notes: str = ""
    tags: list[str] = []
    traits: Traits = Traits()


class VehicleChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change; None leaves it."""

    display_name: str | None = None
    notes: str | None = None
    tags: list[str] | None = None
    traits: Traits = Traits()


class TokenOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a token shall live; None takes the configured time."""

    ttl_s: int | None = None


class Revocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why; for the audit trail."""

    reason: str = ""


@get("/vehicles", opt=role(Role.VIEWER), tags=["vehicles"], summary="List vehicles")
async def list_vehicles(
    services: Injected,
    limit: Limit = 50,
    offset: Offset = 0,
    search: Search = "",
    in_state: InState = "",
    tag: Tag = "",
    silent: Silent = False,
) -> Page[VehicleView]:
    """By id; filters are combined."""
    items, total = await services.vehicles.list(vehicle_filter(services, search, in_state, tag, silent), limit, offset)
    return Page(items, total, limit, offset)


@post("/vehicles", opt=role(Role.OPERATOR), tags=["vehicles"], summary="Register a vehicle")
async def add_vehicle(request: AnyRequest, services: Injected, data: JSONBody[NewVehicle]) -> VehicleView:
    """It is new until it enrols."""
    return await services.vehicles.add(
        data.id,
        actor_of(request),
        display_name=data.display_name,
        notes=data.notes,
        tags=data.tags,
        traits=data.traits,
    )


@post(
    "/vehicles/import",
    opt=role(Role.OPERATOR),
    status_code=200,
    tags=["vehicles"],
    summary="Register or change many vehicles",
)
async def import_many(request: AnyRequest, services: Injected) -> Imported:
    """A CSV file with a header (`text/csv`), or a JSON list: `id`, names, tags, `model`, `region`, `usage`,
    `is_critical`, `timezone`. All or nothing."""
    content = await request.body()
    is_csv = request.headers.get("content-type", "").partition(";")[0].strip().lower() in {"text/csv", "text/plain"}
    lines = read_csv(content) if is_csv else read_json(content)
    return await import_vehicles(services.db, services.clock, lines, actor_of(request))


@get("/vehicles/{vehicle_id:str}", opt=role(Role.VIEWER), tags=["vehicles"], summary="One vehicle")
async def get_vehicle(services: Injected, vehicle_id: VehicleId) -> VehicleView:
    """Names, state and totals."""
    return await services.vehicles.get(vehicle_id)


@patch("/vehicles/{vehicle_id:str}", opt=role(Role.OPERATOR), tags=["vehicles"], summary="Change a vehicle")
async def change_vehicle(
    request: AnyRequest, services: Injected, vehicle_id: VehicleId, data: JSONBody[VehicleChange]
) -> VehicleView:
    """Fields that are left out stay."""
    return await services.vehicles.change(
        vehicle_id,
        actor_of(request),
        display_name=data.display_name,
        notes=data.notes,
        tags=data.tags,
        traits=data.traits,
    )


@delete(
    "/vehicles/{vehicle_id:str}", opt=role(Role.ADMIN), status_code=204, tags=["vehicles"], summary="Erase a vehicle"
)
async def remove_vehicle(request: AnyRequest, services: Injected, vehicle_id: VehicleId) -> None:
    """Deletes the vehicle and everything kept of it, in the lake too. Cannot be undone."""
    await erase_vehicle(services, vehicle_id, actor_of(request))


@post(
    "/vehicles/{vehicle_id:str}/revoke",
    opt=role(Role.OPERATOR),
    status_code=200,
    tags=["vehicles"],
    summary="Revoke a vehicle",
)
async def revoke_vehicle(
    request: AnyRequest, services: Injected, vehicle_id: VehicleId, data: JSONBody[Revocation]
) -> VehicleView:
    """All its certificates end now; what it has sent stays."""
    await services.enrolment.revoke_vehicle(vehicle_id, data.reason, actor_of(request))
    services.downlinks.close(vehicle_id)
    return await services.vehicles.get(vehicle_id)


@post(
    "/vehicles/{vehicle_id:str}/reinstate",
    opt=role(Role.OPERATOR),
    status_code=200,
    tags=["vehicles"],
    summary="Let a revoked vehicle enrol again",
)
async def reinstate_vehicle(request: AnyRequest, services: Injected, vehicle_id: VehicleId) -> VehicleView:
    """It needs a new token; its old certificates stay revoked."""
    await services.enrolment.reinstate_vehicle(vehicle_id, actor_of(request))
    return await services.vehicles.get(vehicle_id)


@get("/vehicles/{vehicle_id:str}/tokens", opt=role(Role.OPERATOR), tags=["enrolment"], summary="Enrolment tokens")
async def list_tokens(services: Injected, vehicle_id: VehicleId) -> list[TokenView]:
    """Newest first, without their secrets."""
    return await services.enrolment.tokens(vehicle_id)


@post(
    "/vehicles/{vehicle_id:str}/tokens", opt=role(Role.OPERATOR), tags=["enrolment"], summary="Make an enrolment token"
)
async def make_token(
    request: AnyRequest, services: Injected, vehicle_id: VehicleId, data: JSONBody[TokenOrder]
) -> NewToken:
    """The token is shown this once."""
    return await services.enrolment.make_token(vehicle_id, actor_of(request), ttl_s=data.ttl_s)


@delete(
    "/vehicles/{vehicle_id:str}/tokens/{token_id:int}",
    opt=role(Role.OPERATOR),
    status_code=204,
    tags=["enrolment"],
    summary="Withdraw a token",
)
async def withdraw_token(
    request: AnyRequest,
    services: Injected,
    vehicle_id: VehicleId,
    token_id: Annotated[int, PathParameter(ge=0, le=(1 << 62))],
) -> None:
    """An open token becomes useless."""
    await services.enrolment.withdraw_token(vehicle_id, token_id, actor_of(request))


@get("/vehicles/{vehicle_id:str}/certificates", opt=role(Role.VIEWER), tags=["enrolment"], summary="Certificates")
async def list_certificates(services: Injected, vehicle_id: VehicleId) -> list[CertificateView]:
    """Newest first."""
    return await services.enrolment.certificates(vehicle_id)


@post(
    "/vehicles/{vehicle_id:str}/certificates/{serial:str}/revoke",
    opt=role(Role.OPERATOR),
    status_code=200,
    tags=["enrolment"],
    summary="Revoke a certificate",
)
async def revoke_certificate(
    request: AnyRequest,
    services: Injected,
    vehicle_id: VehicleId,
    serial: Annotated[str, PathParameter(max_length=64)],
    data: JSONBody[Revocation],
) -> CertificateView:
    """In force at the vehicle's next request."""
    view = await services.enrolment.revoke_certificate(vehicle_id, serial, data.reason, actor_of(request))
    services.downlinks.notify(vehicle_id)
    return view


@post(ENROL, opt=role(Role.PUBLIC), status_code=200, tags=["enrolment"], summary="Enrol a vehicle")
async def enrol(request: AnyRequest, services: Injected, data: JSONBody[EnrolRequest]) -> EnrolReply:
    """A vehicle trades its one-time token and CSR for its first certificate."""
    address = request.client.host if request.client else "-"
    now_ns = services.clock.monotonic_ns()
    wait_s = services.enrol_attempts.try_take(address, now_ns)
    wait_s = max(wait_s, services.enrol_attempts.try_take(f"vehicle:{data.vehicle[:64]}", now_ns))
    if wait_s > 0:
        raise TooMany("too many attempts to enrol", retry_after_s=wait_s)
    issued = await services.enrolment.enrol(data.token, data.vehicle, data.csr_pem, address)
    enrolment = services.enrolment
    return EnrolReply(issued.pem, enrolment.ca_pem, services.vehicle_url, enrolment.order_key)


@get(
    "/ca",
    opt=role(Role.PUBLIC),
    tags=["enrolment"],
    summary="The CA's certificate",
    media_type="application/x-pem-file",
)
async def ca_certificate(services: Injected) -> str:
    """The trust anchor of the vehicle port. Public, and no proof of anything by itself."""
    return services.enrolment.ca_pem


REGISTRY_ROUTES = [
    list_vehicles,
    add_vehicle,
    import_many,
    get_vehicle,
    change_vehicle,
    remove_vehicle,
    revoke_vehicle,
    reinstate_vehicle,
    list_tokens,
    make_token,
    withdraw_token,
    list_certificates,
    revoke_certificate,
    ca_certificate,
]
