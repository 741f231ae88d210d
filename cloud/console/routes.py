"""All routes of the console. Needs the dependency ``services`` and the operator application's guard."""

from __future__ import annotations

from litestar import Response, Router, get
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.params import FromPath
from litestar.static_files import create_static_files_router

from cloud.auth.middleware import role
from cloud.auth.model import Role
from cloud.console.admin_pages import ADMIN_PAGES
from cloud.console.campaign_pages import CAMPAIGN_PAGES
from cloud.console.diagnostic_pages import DIAGNOSTIC_PAGES
from cloud.console.fleet_pages import FLEET_PAGES
from cloud.console.render import FOLDER, HOME, AnyRequest, go, page_error
from cloud.console.update_pages import UPDATE_PAGES
from cloud.console.vehicle_fault_pages import VEHICLE_FAULT_PAGES
from cloud.console.vehicle_pages import VEHICLE_PAGES
from cloud.console.vehicle_update_pages import VEHICLE_UPDATE_PAGES
from cloud.errors import CloudError, NotFound
from cloud.history.telemetry import telemetry_of


@get("/", opt=role(Role.PUBLIC), include_in_schema=False)
async def front_door() -> Response[None]:
    """Browsers come in here."""
    return go(HOME)


@get("/{rest:path}")
async def nowhere(request: AnyRequest, rest: FromPath[str]) -> Response[str]:
    """An address no page has."""
    raise NotFound(f"there is no page {request.url.path[:200]}")


_static = create_static_files_router(
    path="/static",
    directories=[FOLDER / "static"],
    opt=role(Role.PUBLIC),
    include_in_schema=False,
)

_pages = Router(
    HOME,
    route_handlers=[
        *FLEET_PAGES,
        *VEHICLE_PAGES,
        *VEHICLE_FAULT_PAGES,
        *VEHICLE_UPDATE_PAGES,
        *DIAGNOSTIC_PAGES,
        *CAMPAIGN_PAGES,
        *UPDATE_PAGES,
        *ADMIN_PAGES,
        _static,
        nowhere,
    ],
    dependencies={"telemetry": Provide(telemetry_of, sync_to_thread=False)},
    exception_handlers={CloudError: page_error, HTTPException: page_error, Exception: page_error},
    opt=role(Role.VIEWER),
    include_in_schema=False,
)

console_router = Router("/", route_handlers=[front_door, _pages])
