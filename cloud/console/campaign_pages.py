"""Campaigns: the list, making one, and one as it moves."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery, PathParameter, QueryParameter

from cloud.auth.middleware import actor_of, role
from cloud.auth.model import Role
from cloud.campaigns.core import Action
from cloud.campaigns.desk import ActionOrder
from cloud.campaigns.members import list_members
from cloud.campaigns.model import CampaignState
from cloud.campaigns.plan import phases_of
from cloud.campaigns.routes import ADMIN_ACTIONS, act_on_campaign
from cloud.campaigns.views import SKIPPED, STATES
from cloud.console import campaign_facts as facts
from cloud.console.campaign_forms import DAYS, Form, empty_form, form_of, read_plan, rows_of
from cloud.console.forms import number, read_form
from cloud.console.render import HOME, AnyRequest, go, operator_of, page
from cloud.errors import CloudError, InvalidInput, NotAllowed, NotFound
from cloud.services import Services
from cloud.updates.model import ReleaseState
from cloud.web.inject import Injected

ROWS, MEMBER_ROWS, AUDIT_ROWS, RELEASES = 50, 50, 50, 200
CampaignId = Annotated[int, PathParameter(ge=1, le=1 << 53)]
InState = Annotated[str, QueryParameter(name="state", max_length=20)]
Search = Annotated[str, QueryParameter(name="search", max_length=64)]
MEMBER_STATES = (*STATES, *SKIPPED, "pending")


async def _list(services: Services, state: str, offset: str) -> dict[str, Any]:
    wanted = state if state in set(CampaignState) else ""
    start = number(offset)
    rows, total = await services.campaigns.desk.list(ROWS, start, wanted)
    return {
        "rows": [(row, facts.bar_of(row.totals, row.members)) for row in rows],
        "total": total,
        "state": wanted,
        "states": list(CampaignState),
        "offset": start,
        "limit": ROWS,
        "badge": facts.state_badge,
    }


@get("/campaigns")
async def campaigns(
    request: AnyRequest, services: Injected, in_state: InState = "", offset: FromQuery[str] = "0"
) -> Response[str]:
    """Campaigns, newest first."""
    return page(request, "campaigns.html", **await _list(services, in_state, offset))


@get("/campaigns/table")
async def campaigns_table(
    request: AnyRequest, services: Injected, in_state: InState = "", offset: FromQuery[str] = "0"
) -> Response[str]:
    """The same without the head, for refreshing it."""
    return page(request, "campaigns_table.html", **await _list(services, in_state, offset))


async def _form_page(
    request: AnyRequest, services: Services, form: Form, campaign_id: int | None, problem: str = ""
) -> Response[str]:
    releases, _ = await services.updates.releases.list(RELEASES, 0)
    return page(
        request,
        "campaign_new.html",
        form=form,
        problem=problem,
        campaign_id=campaign_id,
        rows=range(1, rows_of(form) + 1),
        days=DAYS,
        releases=[r for r in releases if r.state != ReleaseState.WITHDRAWN],
        tags=await services.vehicles.tags(),
    )


@get("/campaigns/new", opt=role(Role.OPERATOR))
async def new_campaign_page(
    request: AnyRequest, services: Injected, release: FromQuery[str] = "", copy_of: FromQuery[str] = ""
) -> Response[str]:
    """The form, empty, for a release, or with the plan of another campaign."""
    form = empty_form()
    if number(copy_of):
        form = form_of((await services.campaigns.desk.get(number(copy_of))).plan)
        form["seed"] = ""
    elif number(release):
        form["release"] = str(number(release))
    return await _form_page(request, services, form, None)


@get("/campaigns/{campaign_id:int}/edit", opt=role(Role.OPERATOR))
async def edit_campaign_page(request: AnyRequest, services: Injected, campaign_id: CampaignId) -> Response[str]:
    """The form with a draft's plan."""
    view = await services.campaigns.desk.get(campaign_id)
    return await _form_page(request, services, form_of(view.plan), campaign_id)


@post("/campaigns/preview", opt=role(Role.OPERATOR), status_code=200)
async def preview_campaign(request: AnyRequest, services: Injected) -> Response[str]:
    """Whom a plan would reach, when it would be over, and what it would cost. A part of the form's page."""
    form = await read_form(request)
    # Whom it reaches can be told before it has a name.
    form["name"] = form.get("name", "").strip() or "unnamed"
    try:
        if not form.get("release", "").strip():
            raise InvalidInput("choose a release first", where="release")
        plan = read_plan(form)
        selected = await services.campaigns.desk.count(plan)
        forecast = await services.campaigns.forecaster.of_plan(plan)
    except CloudError as error:
        return page(request, "campaign_preview.html", problem=str(error), selected=None, forecast=None, plan=None)
    return page(request, "campaign_preview.html", problem="", selected=selected, forecast=forecast, plan=plan)


async def _save(request: AnyRequest, services: Services, campaign_id: int | None) -> Response[Any]:
    form = await read_form(request)
    desk, actor = services.campaigns.desk, actor_of(request)
    try:
        if not form.get("release", "").strip():
            raise InvalidInput("choose a release", where="release")
        plan = read_plan(form)
        made = await (desk.create(plan, actor) if campaign_id is None else desk.change(campaign_id, plan, actor))
    except CloudError as error:
        return await _form_page(request, services, form, campaign_id, str(error))
    services.campaigns.tell(made.id)
    if form.get("do") == "submit":
        try:
            await act_on_campaign(request, services, made.id, Action.SUBMIT, ActionOrder())
        except CloudError as error:
            return await _campaign_page(request, services, made.id, problem=f"it is a draft: {error}")
    return go(f"{HOME}/campaigns/{made.id}")


@post("/campaigns/new", opt=role(Role.OPERATOR))
async def new_campaign(request: AnyRequest, services: Injected) -> Response[Any]:
    """Make a draft, or make and submit it."""
    return await _save(request, services, None)


@post("/campaigns/{campaign_id:int}/edit", opt=role(Role.OPERATOR))
async def edit_campaign(request: AnyRequest, services: Injected, campaign_id: CampaignId) -> Response[Any]:
    """Another plan for a draft."""
    return await _save(request, services, campaign_id)


async def _head(request: AnyRequest, services: Services, campaign_id: int) -> dict[str, Any]:
    view = await services.campaigns.desk.get(campaign_id)
    phases, dtc = await facts.campaign_phases(services, view)
    return {
        "campaign": view,
        "phases": phases,
        "dtc": dtc,
        "planned": facts.planned_phases(view, phases_of(view.plan)),
        "bar": facts.bar_of(view.totals, view.members),
        "forecast": await services.campaigns.forecaster.of_campaign(campaign_id),
        "badge": facts.state_badge,
        "span": facts.span,
        "days": DAYS,
        **await _actions(request, services, campaign_id),
    }


async def _actions(request: AnyRequest, services: Services, campaign_id: int) -> dict[str, Any]:
    """What the state, and who is looking, allow."""
    view = await services.campaigns.desk.get(campaign_id)
    user = operator_of(request)
    allowed = [Action(name) for name in view.actions]
    if user.role < Role.OPERATOR:
        allowed = []
    elif user.role < Role.ADMIN:
        allowed = [action for action in allowed if action not in ADMIN_ACTIONS]
    waits_for = ""
    if view.state == CampaignState.WAITING:
        if (
            services.config.campaigns.four_eyes
            and Action.APPROVE in allowed
            and actor_of(request).name == view.created_by
        ):
            allowed.remove(Action.APPROVE)
            waits_for = "another admin than who made it"
        elif Action.APPROVE not in allowed:
            waits_for = "an admin"
    releases, _ = await services.updates.releases.list(RELEASES, 0, ReleaseState.PUBLISHED)
    return {
        "campaign": view,
        "buttons": [(action.value, *facts.ACTIONS[action]) for action in allowed if action in facts.ACTIONS],
        "dangers": [action.value for action in facts.ACTION_FORMS if action in allowed],
        "waits_for": waits_for,
        "releases": [r for r in releases if r.id != view.release_id],
    }


async def _members(services: Services, campaign_id: int, state: str, phase: int, search: str, offset: int) -> Any:
    wanted = state if state in MEMBER_STATES else ""
    members, total = await list_members(
        services.db, campaign_id, wanted, phase or None, search, MEMBER_ROWS, min(offset, 1 << 31)
    )
    return {
        "members": members,
        "members_total": total,
        "member_state": wanted,
        "member_states": MEMBER_STATES,
        "member_phase": phase,
        "search": search,
        "offset": offset,
        "limit": MEMBER_ROWS,
        "member_badge": facts.vehicle_badge,
    }


async def _audit(services: Services, campaign_id: int) -> dict[str, Any]:
    entries, total = await services.campaigns.desk.audit(campaign_id, AUDIT_ROWS, 0)
    return {"entries": entries, "entries_total": total}


async def _campaign_page(
    request: AnyRequest,
    services: Services,
    campaign_id: int,
    *,
    state: str = "",
    phase: int = 0,
    search: str = "",
    offset: int = 0,
    problem: str = "",
) -> Response[str]:
    context = await _head(request, services, campaign_id)
    context |= await _members(services, campaign_id, state, phase, search, offset)
    context |= await _audit(services, campaign_id)
    return page(request, "campaign.html", **context, problem=problem)


@get("/campaigns/{campaign_id:int}")
async def campaign(
    request: AnyRequest,
    services: Injected,
    campaign_id: CampaignId,
    in_state: InState = "",
    phase: FromQuery[str] = "",
    search: Search = "",
    offset: FromQuery[str] = "0",
) -> Response[str]:
    """One campaign: progress, gates, forecast, vehicles, audit; and what may be done to it."""
    return await _campaign_page(
        request,
        services,
        campaign_id,
        state=in_state,
        phase=min(number(phase), 1000),
        search=search.strip(),
        offset=number(offset),
    )


@get("/campaigns/{campaign_id:int}/progress")
async def campaign_progress(request: AnyRequest, services: Injected, campaign_id: CampaignId) -> Response[str]:
    """State, phases, gates and forecast, for refreshing them."""
    return page(request, "campaign_progress.html", **await _head(request, services, campaign_id))


@get("/campaigns/{campaign_id:int}/actions")
async def campaign_actions(request: AnyRequest, services: Injected, campaign_id: CampaignId) -> Response[str]:
    """What may be done now, for refreshing it."""
    return page(request, "campaign_actions.html", **await _actions(request, services, campaign_id))


@get("/campaigns/{campaign_id:int}/vehicles")
async def campaign_vehicles(
    request: AnyRequest,
    services: Injected,
    campaign_id: CampaignId,
    in_state: InState = "",
    phase: FromQuery[str] = "",
    search: Search = "",
    offset: FromQuery[str] = "0",
) -> Response[str]:
    """The table of vehicles, for refreshing it."""
    context = await _members(services, campaign_id, in_state, min(number(phase), 1000), search.strip(), number(offset))
    view = await services.campaigns.desk.get(campaign_id)
    return page(request, "campaign_vehicles.html", campaign=view, **context)


@get("/campaigns/{campaign_id:int}/audit")
async def campaign_audit(request: AnyRequest, services: Injected, campaign_id: CampaignId) -> Response[str]:
    """What was done to it, for refreshing it."""
    return page(request, "campaign_audit.html", **await _audit(services, campaign_id))


@post("/campaigns/{campaign_id:int}/actions/{action:str}", opt=role(Role.OPERATOR))
async def act(request: AnyRequest, services: Injected, campaign_id: CampaignId, action: FromPath[str]) -> Response[Any]:
    """Take an action. The campaign's page says why one could not be taken."""
    form = await read_form(request)
    try:
        wanted = Action(action)
    except ValueError:
        raise InvalidInput("there is no such action", where="action") from None
    order = ActionOrder(
        reason=" ".join(form.get("reason", "").split())[:300],
        stop_running=form.get("stop_running") == "yes",
        release=number(form.get("release", "")) or None,
        withdraw=form.get("withdraw") == "yes",
    )
    try:
        await act_on_campaign(request, services, campaign_id, wanted, order)
    except (NotAllowed, NotFound):
        raise
    except CloudError as error:
        return await _campaign_page(request, services, campaign_id, problem=str(error))
    return go(f"{HOME}/campaigns/{campaign_id}")


CAMPAIGN_PAGES = [
    campaigns,
    campaigns_table,
    new_campaign_page,
    edit_campaign_page,
    preview_campaign,
    new_campaign,
    edit_campaign,
    campaign,
    campaign_progress,
    campaign_actions,
    campaign_vehicles,
    campaign_audit,
    act,
]
