"""Releases, images on their way into one, and the metadata that signs for them."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, get, post
from litestar.params import FromQuery, PathParameter, QueryParameter

from cloud.auth.middleware import actor_of, role
from cloud.auth.model import Role
from cloud.console import update_facts as facts
from cloud.console.campaign_facts import bar_of
from cloud.console.forms import number, read_form
from cloud.console.render import HOME, AnyRequest, go, page
from cloud.errors import CloudError
from cloud.services import Services
from cloud.updates.model import ImageState, ReleaseState
from cloud.updates.releases import NewRelease, ReleaseChange
from cloud.web.inject import Injected
from gateway.wire.uptane import KINDS

ROWS, IMAGES = 50, 200
CHUNK_BYTES = 4 << 20
ReleaseId = Annotated[int, PathParameter(ge=1, le=1 << 53)]
InState = Annotated[str, QueryParameter(name="state", max_length=20)]


async def _list(services: Services, state: str, offset: str) -> dict[str, Any]:
    wanted = state if state in set(ReleaseState) else ""
    start = number(offset)
    rows, total = await services.updates.releases.list(ROWS, start, wanted)
    jobs = await services.updates.deltas.listing()
    unsigned, waiting = await services.updates.images.list(IMAGES, 0, state=ImageState.STORED)
    lines = await _roles(services)
    return {
        "rows": [
            (row, bar_of(row.assignments, sum(row.assignments.values())), facts.delta_words(facts.deltas_of(row, jobs)))
            for row in rows
        ],
        "total": total,
        "state": wanted,
        "states": list(ReleaseState),
        "offset": start,
        "limit": ROWS,
        "unsigned": unsigned,
        "waiting": waiting,
        "urgent": [line for line in lines if line.kind != "good"],
        "has_roles": bool(lines),
        "badge": facts.badge,
    }


async def _roles(services: Services) -> list[facts.RoleLine]:
    roles = await services.updates.repositories.view()
    return facts.role_lines(roles, services.clock.now_ns(), services.config.updates.warn_days)


@get("/releases")
async def releases(
    request: AnyRequest, services: Injected, in_state: InState = "", offset: FromQuery[str] = "0"
) -> Response[str]:
    """Releases, newest first."""
    return page(request, "releases.html", **await _list(services, in_state, offset))


@get("/releases/table")
async def releases_table(
    request: AnyRequest, services: Injected, in_state: InState = "", offset: FromQuery[str] = "0"
) -> Response[str]:
    """The same without the head, for refreshing it."""
    return page(request, "releases_table.html", **await _list(services, in_state, offset))


@get("/releases/metadata")
async def metadata(request: AnyRequest, services: Injected) -> Response[str]:
    """Roles of both repositories, and when they expire."""
    return page(request, "releases_metadata.html", lines=await _roles(services))


@get("/releases/upload", opt=role(Role.OPERATOR))
async def upload_page(request: AnyRequest, services: Injected) -> Response[str]:
    """The form; the browser sends the pieces by REST."""
    images, _ = await services.updates.images.list(IMAGES, 0)
    chunk = min(CHUNK_BYTES, services.config.updates.max_chunk_bytes)
    own = [image for image in images if image.kind != "delta"]
    kinds = [kind for kind in KINDS if kind != "delta"]
    return page(request, "releases_upload.html", images=own[:ROWS], kinds=kinds, chunk=chunk, badge=facts.badge)


async def _form_page(
    request: AnyRequest, services: Services, form: dict[str, str], release_id: int | None, problem: str = ""
) -> Response[str]:
    images, total = await services.updates.images.list(IMAGES, 0)
    usable = [i for i in images if i.kind != "delta" and i.state in (ImageState.STORED, ImageState.SIGNED)]
    usable.sort(key=lambda image: (form.get(f"use-{image.id}") != "yes", -image.id))
    return page(
        request,
        "release_new.html",
        form=form,
        release_id=release_id,
        images=usable,
        has_more=total > IMAGES,
        problem=problem,
        badge=facts.badge,
    )


@get("/releases/new", opt=role(Role.OPERATOR))
async def new_release_page(request: AnyRequest, services: Injected, image: FromQuery[str] = "") -> Response[str]:
    """The form, perhaps for one image."""
    form = {f"use-{number(image)}": "yes"} if number(image) else {}
    return await _form_page(request, services, form, None)


@get("/releases/{release_id:int}/edit", opt=role(Role.OPERATOR))
async def edit_release_page(request: AnyRequest, services: Injected, release_id: ReleaseId) -> Response[str]:
    """The form with what a draft has."""
    release = await services.updates.releases.get(release_id)
    return await _form_page(request, services, facts.form_of(release), release_id)


@post("/releases/new", opt=role(Role.OPERATOR))
async def new_release(request: AnyRequest, services: Injected) -> Response[Any]:
    """Make a draft."""
    form = await read_form(request)
    try:
        wanted = NewRelease(
            name=form.get("name", ""),
            notes=form.get("notes", ""),
            images=facts.read_items(form),
            needs_consent=form.get("needs_consent") == "yes",
            is_critical=form.get("is_critical") == "yes",
        )
        made = await services.updates.releases.add(wanted, actor_of(request))
    except CloudError as error:
        return await _form_page(request, services, form, None, str(error))
    return go(f"{HOME}/releases/{made.id}")


@post("/releases/{release_id:int}/edit", opt=role(Role.OPERATOR))
async def edit_release(request: AnyRequest, services: Injected, release_id: ReleaseId) -> Response[Any]:
    """Change a draft; its name stays."""
    form = await read_form(request)
    try:
        wanted = ReleaseChange(
            notes=form.get("notes", ""),
            images=facts.read_items(form),
            needs_consent=form.get("needs_consent") == "yes",
            is_critical=form.get("is_critical") == "yes",
        )
        await services.updates.releases.change(release_id, wanted, actor_of(request))
    except CloudError as error:
        return await _form_page(request, services, form, release_id, str(error))
    return go(f"{HOME}/releases/{release_id}")


async def _release(services: Services, release_id: int) -> dict[str, Any]:
    found = await services.updates.releases.get(release_id)
    jobs = facts.deltas_of(found, await services.updates.deltas.listing())
    names = {item.image.id: item.image.filename for item in found.images}
    bases = {job.base_image_id for job in jobs} - set(names)
    for base in bases:
        names[base] = (await services.updates.images.get(base)).image.filename
    return {
        "release": found,
        "jobs": jobs,
        "names": names,
        "bar": bar_of(found.assignments, sum(found.assignments.values())),
        "unsigned": [item.image for item in found.images if not item.image.is_target],
        "rule_text": facts.rule_text,
        "badge": facts.badge,
        "duration": facts.duration,
    }


@get("/releases/{release_id:int}")
async def release(request: AnyRequest, services: Injected, release_id: ReleaseId) -> Response[str]:
    """Images, rules, signatures, deltas, vehicles."""
    return page(request, "release.html", **await _release(services, release_id), problem="")


@get("/releases/{release_id:int}/progress")
async def release_progress(request: AnyRequest, services: Injected, release_id: ReleaseId) -> Response[str]:
    """Vehicles and deltas, for refreshing them."""
    return page(request, "release_progress.html", **await _release(services, release_id))


@post("/releases/{release_id:int}/publish", opt=role(Role.ADMIN))
async def publish(request: AnyRequest, services: Injected, release_id: ReleaseId) -> Response[Any]:
    """Let it be assigned, and begin with deltas."""
    try:
        await services.updates.releases.publish(release_id, actor_of(request))
        await services.updates.want_deltas(release_id)
    except CloudError as error:
        return page(request, "release.html", **await _release(services, release_id), problem=str(error))
    return go(f"{HOME}/releases/{release_id}")


@post("/releases/{release_id:int}/withdraw", opt=role(Role.ADMIN))
async def withdraw(request: AnyRequest, services: Injected, release_id: ReleaseId) -> Response[Any]:
    """Never offer it again."""
    await services.updates.releases.withdraw(release_id, actor_of(request))
    return go(f"{HOME}/releases/{release_id}")


UPDATE_PAGES = [
    releases,
    releases_table,
    metadata,
    upload_page,
    new_release_page,
    edit_release_page,
    new_release,
    edit_release,
    release,
    release_progress,
    publish,
    withdraw,
]
