"""REST: campaigns, their vehicles, and what may be done to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from litestar import Request, get, post, put
from litestar.params import JSONBody, PathParameter, QueryParameter
from litestar.response import ServerSentEvent
from litestar.response.sse import ServerSentEventMessage

from cloud.auth.middleware import actor_of, role
from cloud.auth.model import Operator, Role
from cloud.campaigns.core import Action
from cloud.campaigns.desk import ActionOrder
from cloud.campaigns.forecast import Forecast
from cloud.campaigns.members import list_members
from cloud.campaigns.plan import Plan
from cloud.campaigns.running import FleetCampaigns
from cloud.campaigns.views import AuditEntry, CampaignItem, CampaignView, MemberView, Selected
from cloud.errors import InvalidInput, NotAllowed
from cloud.live.login import HasEnded, login_of
from cloud.services import Services
from cloud.web.inject import Injected
from cloud.web.pages import Limit, Offset, Page

AnyRequest = Request[Any, Any, Any]
CampaignId = Annotated[int, PathParameter(ge=1, le=1 << 53)]
#: What only an admin may do.
ADMIN_ACTIONS = frozenset({Action.APPROVE, Action.REJECT, Action.WITHDRAW})
TAGS = ["campaigns"]


@get("/campaigns", opt=role(Role.VIEWER), tags=TAGS, summary="Campaigns")
async def list_campaigns(
    services: Injected,
    limit: Limit = 50,
    offset: Offset = 0,
    in_state: Annotated[str, QueryParameter(name="state", max_length=20)] = "",
) -> Page[CampaignItem]:
    """Newest first, with the number of vehicles in each state."""
    items, total = await services.campaigns.desk.list(limit, offset, in_state)
    return Page(list(items), total, limit, offset)


@post("/campaigns", opt=role(Role.OPERATOR), tags=TAGS, summary="Make a campaign")
async def add_campaign(request: AnyRequest, services: Injected, data: JSONBody[Plan]) -> CampaignView:
    """It is a draft; nothing happens before it is submitted, and approved where that is asked for."""
    made = await services.campaigns.desk.create(data, actor_of(request))
    services.campaigns.tell(made.id)
    return made


@post(
    "/campaigns/selection",
    opt=role(Role.OPERATOR),
    status_code=200,
    tags=TAGS,
    summary="Whom would a campaign reach",
)
async def count_campaign(services: Injected, data: JSONBody[Plan]) -> Selected:
    """Checks a plan and counts: members, the size of each phase, strata, and who is left out and why."""
    return await services.campaigns.desk.count(data)


@post("/campaigns/forecast", opt=role(Role.OPERATOR), status_code=200, tags=TAGS, summary="When would it be over")
async def forecast_plan(services: Injected, data: JSONBody[Plan]) -> Forecast:
    """Time and data of a plan, from how often its vehicles have been heard of lately."""
    return await services.campaigns.forecaster.of_plan(data)


@get("/campaigns/{campaign_id:int}/forecast", opt=role(Role.VIEWER), tags=TAGS, summary="When will it be over")
async def forecast_campaign(services: Injected, campaign_id: CampaignId) -> Forecast:
    """Time and data still to come; from measured times as soon as enough vehicles have reported."""
    return await services.campaigns.forecaster.of_campaign(campaign_id)


@get("/campaigns/{campaign_id:int}", opt=role(Role.VIEWER), tags=TAGS, summary="One campaign")
async def get_campaign(services: Injected, campaign_id: CampaignId) -> CampaignView:
    """With its phases, the vehicles of each by state, and what may be done now."""
    return await services.campaigns.desk.get(campaign_id)


@put("/campaigns/{campaign_id:int}", opt=role(Role.OPERATOR), tags=TAGS, summary="Another plan for a draft")
async def change_campaign(
    request: AnyRequest, services: Injected, campaign_id: CampaignId, data: JSONBody[Plan]
) -> CampaignView:
    """The whole plan is replaced."""
    changed = await services.campaigns.desk.change(campaign_id, data, actor_of(request))
    services.campaigns.tell(campaign_id)
    return changed


@get("/campaigns/{campaign_id:int}/vehicles", opt=role(Role.VIEWER), tags=TAGS, summary="Vehicles of a campaign")
async def list_campaign_vehicles(
    services: Injected,
    campaign_id: CampaignId,
    limit: Limit = 100,
    offset: Offset = 0,
    in_state: Annotated[str, QueryParameter(name="state", max_length=20)] = "",
    phase: Annotated[int | None, QueryParameter(ge=1, le=1_000)] = None,
    search: Annotated[str, QueryParameter(max_length=64, description="part of the id")] = "",
) -> Page[MemberView]:
    """In the order in which they were drawn, each with its newest assignment."""
    items, total = await list_members(services.db, campaign_id, in_state, phase, search, limit, offset)
    return Page(items, total, limit, offset)


@get("/campaigns/{campaign_id:int}/audit", opt=role(Role.VIEWER), tags=TAGS, summary="What was done to a campaign")
async def get_campaign_audit(
    services: Injected, campaign_id: CampaignId, limit: Limit = 100, offset: Offset = 0
) -> Page[AuditEntry]:
    """Newest first: every transition, by whom and why."""
    items, total = await services.campaigns.desk.audit(campaign_id, limit, offset)
    return Page(list(items), total, limit, offset)


async def act_on_campaign(
    request: AnyRequest, services: Services, campaign_id: int, action: Action, order: ActionOrder
) -> CampaignView:
    """Take an action for whoever makes the request. Raises as ``CampaignDesk.act``."""
    user = request.scope.get("user")
    needs_admin = action in ADMIN_ACTIONS or (action is Action.ROLL_BACK and order.withdraw)
    if needs_admin and not (isinstance(user, Operator) and user.role >= Role.ADMIN):
        raise NotAllowed(f"to {action.value.replace('_', ' ')} needs the role admin")
    view = await services.campaigns.desk.act(campaign_id, action, order, actor_of(request))
    services.campaigns.tell(campaign_id)
    return view


@post(
    "/campaigns/{campaign_id:int}/actions/{action:str}",
    opt=role(Role.OPERATOR),
    status_code=200,
    tags=TAGS,
    summary="Act on a campaign",
)
async def post_campaign_action(
    request: AnyRequest,
    services: Injected,
    campaign_id: CampaignId,
    action: Annotated[str, PathParameter(max_length=20)],
    data: JSONBody[ActionOrder],
) -> CampaignView:
    """`submit`, `start`, `pause`, `resume`, `next`, `retry`, `finish`, `cancel`, `roll_back`; for admins besides
    `approve`, `reject`, `withdraw`. The answer's `actions` are those that its state allows."""
    try:
        wanted = Action(action)
    except ValueError:
        raise InvalidInput(f"one of {', '.join(a.value for a in Action)}", where="action") from None
    return await act_on_campaign(request, services, campaign_id, wanted, data)


@get(
    "/campaigns/{campaign_id:int}/live",
    opt=role(Role.VIEWER),
    tags=TAGS,
    summary="A campaign as it moves",
    media_type="text/event-stream",
)
async def get_campaign_live(request: AnyRequest, services: Injected, campaign_id: CampaignId) -> ServerSentEvent:
    """Server-sent events: `changed` with the new `mark`; `heartbeat` when nothing does. Ends when the login does."""
    await services.campaigns.desk.get(campaign_id)
    services.campaigns.hub.check_room()
    return ServerSentEvent(campaign_events(services.campaigns, campaign_id, login_of(request)), retry_duration=3_000)


async def campaign_events(
    campaigns: FleetCampaigns, campaign_id: int, has_ended: HasEnded
) -> AsyncIterator[ServerSentEventMessage]:
    """The events of one reader. Outcomes come from vehicles at any time, so the mark is looked at in between, too."""
    mark = ""
    with campaigns.hub.subscribe(str(campaign_id)) as box:
        while not box.closed and not await has_ended():
            now = (await campaigns.desk.get(campaign_id)).mark
            if now != mark:
                mark = now
                yield ServerSentEventMessage(event="changed", data=f'{{"id":{campaign_id},"mark":"{mark}"}}')
            else:
                yield ServerSentEventMessage(event="heartbeat", data="{}")
            await box.take(min(campaigns.tick_s, campaigns.heartbeat_s))


CAMPAIGN_ROUTES = [
    list_campaigns,
    add_campaign,
    count_campaign,
    forecast_plan,
    forecast_campaign,
    get_campaign,
    change_campaign,
    list_campaign_vehicles,
    get_campaign_audit,
    post_campaign_action,
    get_campaign_live,
]
