"""REST of images, the repositories' metadata, releases, and updates of single vehicles."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, patch, post, put
from litestar.params import JSONBody, PathParameter, QueryParameter

from cloud.auth.middleware import actor_of, role
from cloud.auth.model import Operator, Role
from cloud.errors import InvalidInput, NotAllowed, TooLarge
from cloud.updates.assignments import AssignmentView, AssignOrder, InventoryView, UpdateView
from cloud.updates.delta.jobs import DeltaJob
from cloud.updates.images import NewImage, SignRequest, UploadView
from cloud.updates.keys import OnlineKey, OnlineKeyFile
from cloud.updates.releases import NewRelease, ReleaseChange, ReleaseView, Withdrawn
from cloud.updates.repository import RoleView, Taken
from cloud.updates.trust import DIRECTOR, IMAGE
from cloud.updates.views import ImageView
from cloud.web.inject import Injected
from cloud.web.pages import Limit, Offset, Page

AnyRequest = Request[Any, Any, Any]
ImageId = Annotated[int, PathParameter(ge=1, le=1 << 53)]
ReleaseId = Annotated[int, PathParameter(ge=1, le=1 << 53)]
VehicleId = Annotated[str, PathParameter(max_length=64)]
MAX_METADATA_BYTES = 64 * 1024 * 1024
MAX_CHUNK_BYTES = 256 * 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class MetadataFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files signed offline, by name (``3.targets.json``), each in base64."""

    repository: str
    files: dict[str, str]
    drop: list[str] = []  # targets that may vanish, or patterns of them


class Received(msgspec.Struct, frozen=True):
    """How much of an upload is here."""

    received: int


class KeyRole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An online role."""

    role: str


@get("/images", opt=role(Role.VIEWER), tags=["images"], summary="Images")
async def list_images(
    services: Injected,
    limit: Limit = 50,
    offset: Offset = 0,
    in_state: Annotated[str, QueryParameter(name="state", max_length=20)] = "",
    kind: Annotated[str, QueryParameter(max_length=20)] = "",
) -> Page[ImageView]:
    """Newest first; `state` is uploading, stored, signed or withdrawn."""
    items, total = await services.updates.images.list(limit, offset, state=in_state, kind=kind)
    return Page(items, total, limit, offset)


@post("/images", opt=role(Role.OPERATOR), tags=["images"], summary="Announce an image")
async def add_image(request: AnyRequest, services: Injected, data: JSONBody[NewImage]) -> UploadView:
    """Its bytes follow in pieces. The same again tells how much is here."""
    return await services.updates.images.add(data, actor_of(request))


@get("/images/{image_id:int}", opt=role(Role.VIEWER), tags=["images"], summary="One image")
async def get_image(services: Injected, image_id: ImageId) -> UploadView:
    """With the number of bytes received."""
    return await services.updates.images.get(image_id)


@put(
    "/images/{image_id:int}/content",
    opt=role(Role.OPERATOR),
    tags=["images"],
    summary="Upload a piece",
    request_max_body_size=MAX_CHUNK_BYTES,
)
async def put_content(request: AnyRequest, services: Injected, image_id: ImageId) -> Received:
    """`Content-Range: bytes FIRST-LAST/TOTAL`; a piece begins at or before what was received."""
    most = services.config.updates.max_chunk_bytes
    told = request.headers.get("content-range", "")
    found = _CONTENT_RANGE.fullmatch(told.strip())
    if told and (found is None or not int(found[1]) <= int(found[2]) < int(found[3])):
        raise InvalidInput("not 'bytes FIRST-LAST/TOTAL'", where="content-range")
    first = int(found[1]) if found else 0
    view = await services.updates.images.get(image_id)
    if found and int(found[3]) != view.image.length:
        raise InvalidInput(f"the image was announced with {view.image.length} bytes", where="content-range")
    if int(request.headers.get("content-length") or 0) > most:
        raise TooLarge(most)
    pieces, size = [], 0
    async for piece in request.stream():
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise TooLarge(most)
    if found and size != int(found[2]) - first + 1:
        raise InvalidInput(f"the body has {size} bytes, its range another number", where="content-range")
    return Received(await services.updates.images.write(image_id, first, b"".join(pieces)))


@post(
    "/images/{image_id:int}/finish",
    opt=role(Role.OPERATOR),
    status_code=200,
    tags=["images"],
    summary="End an upload",
)
async def finish_image(request: AnyRequest, services: Injected, image_id: ImageId) -> ImageView:
    """Hashes what was received; then it can be signed for."""
    return await services.updates.images.finish(image_id, actor_of(request))


@delete("/images/{image_id:int}", opt=role(Role.OPERATOR), status_code=204, tags=["images"], summary="Delete an image")
async def delete_image(request: AnyRequest, services: Injected, image_id: ImageId) -> None:
    """Only one that is neither signed for nor in a release."""
    await services.updates.images.delete(image_id, actor_of(request))


@get("/updates/sign-request", opt=role(Role.VIEWER), tags=["images"], summary="What is to be signed")
async def get_sign_request(
    services: Injected,
    image: Annotated[list[int] | None, QueryParameter(description="these; else all unsigned")] = None,
) -> SignRequest:
    """Stored images with their hashes, for `outrider cloud keys sign-release`."""
    return await services.updates.images.sign_request(image)


@get("/updates/metadata", opt=role(Role.VIEWER), tags=["images"], summary="Roles and when they expire")
async def list_roles(services: Injected) -> list[RoleView]:
    """Both repositories; keys and thresholds."""
    return await services.updates.repositories.view()


@get("/updates/metadata/{repository:str}", opt=role(Role.VIEWER), tags=["images"], summary="Metadata files")
async def get_metadata(services: Injected, repository: Annotated[str, PathParameter(max_length=16)]) -> dict[str, str]:
    """Files in force by name, in base64; all roots."""
    _check_repository(repository)
    files = await services.updates.repositories.files(repository)
    return {name: base64.b64encode(content).decode() for name, content in files.items()}


@post(
    "/updates/metadata",
    opt=role(Role.OPERATOR),
    status_code=200,
    tags=["images"],
    summary="Bring signed metadata",
    request_max_body_size=MAX_METADATA_BYTES,
)
async def post_metadata(request: AnyRequest, services: Injected, data: JSONBody[MetadataFiles]) -> Taken:
    """Files signed offline; all or nothing. Signatures decide what is taken; a root needs an admin besides."""
    _check_repository(data.repository)
    try:
        files = {name: base64.b64decode(text, validate=True) for name, text in data.files.items()}
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"not base64: {error}", where="files") from error
    user = request.scope.get("user")
    has_root = any(name.endswith(".root.json") for name in files)
    if has_root and not (isinstance(user, Operator) and user.role >= Role.ADMIN):
        raise NotAllowed("a root needs the role admin")
    taken = await services.updates.repositories.take(data.repository, files, actor_of(request), may_drop=data.drop)
    services.updates.roles = await services.updates.repositories.view()
    return taken


def _check_repository(name: str) -> None:
    if name not in (DIRECTOR, IMAGE):
        raise InvalidInput("director or image", where="repository")


@get("/updates/online-keys", opt=role(Role.VIEWER), tags=["images"], summary="The cloud's public keys")
async def get_online_keys(services: Injected) -> OnlineKeyFile:
    """The newest of each online role, for the key ceremony."""
    return services.updates.keys.newest()


@post("/updates/online-keys", opt=role(Role.ADMIN), tags=["images"], summary="Make a new online key")
async def add_online_key(request: AnyRequest, services: Injected, data: JSONBody[KeyRole]) -> OnlineKey:
    """It signs once a new root (or targets.json, for `image-deltas`) names it."""
    return await services.updates.add_key(data.role, actor_of(request))


@get("/updates/deltas", opt=role(Role.VIEWER), tags=["images"], summary="Deltas being built")
async def list_deltas(services: Injected) -> list[DeltaJob]:
    """Newest first: how far, how small, and why one was not kept."""
    return await services.updates.deltas.listing()


@get("/releases", opt=role(Role.VIEWER), tags=["releases"], summary="Releases")
async def list_releases(
    services: Injected,
    limit: Limit = 50,
    offset: Offset = 0,
    in_state: Annotated[str, QueryParameter(name="state", max_length=20)] = "",
) -> Page[ReleaseView]:
    """Newest first; `state` is draft, published or withdrawn."""
    items, total = await services.updates.releases.list(limit, offset, in_state)
    return Page(items, total, limit, offset)


@post("/releases", opt=role(Role.OPERATOR), tags=["releases"], summary="Make a release")
async def add_release(request: AnyRequest, services: Injected, data: JSONBody[NewRelease]) -> ReleaseView:
    """A draft: images, where they go, and their rules."""
    return await services.updates.releases.add(data, actor_of(request))


@get("/releases/{release_id:int}", opt=role(Role.VIEWER), tags=["releases"], summary="One release")
async def get_release(services: Injected, release_id: ReleaseId) -> ReleaseView:
    """Images, rules, and how many vehicles are in which state."""
    return await services.updates.releases.get(release_id)


@patch("/releases/{release_id:int}", opt=role(Role.OPERATOR), tags=["releases"], summary="Change a draft")
async def change_release(
    request: AnyRequest, services: Injected, release_id: ReleaseId, data: JSONBody[ReleaseChange]
) -> ReleaseView:
    """Fields that are left out stay."""
    return await services.updates.releases.change(release_id, data, actor_of(request))


@post(
    "/releases/{release_id:int}/publish",
    opt=role(Role.ADMIN),
    status_code=200,
    tags=["releases"],
    summary="Publish a release",
)
async def publish_release(request: AnyRequest, services: Injected, release_id: ReleaseId) -> ReleaseView:
    """All its images must be signed for. Deltas from what vehicles run are begun."""
    view = await services.updates.releases.publish(release_id, actor_of(request))
    await services.updates.want_deltas(release_id)
    return view


@post(
    "/releases/{release_id:int}/withdraw",
    opt=role(Role.ADMIN),
    status_code=200,
    tags=["releases"],
    summary="Withdraw a release",
)
async def withdraw_release(request: AnyRequest, services: Injected, release_id: ReleaseId) -> Withdrawn:
    """Never offered again; vehicles on their way to it are called back."""
    return await services.updates.releases.withdraw(release_id, actor_of(request))


@get("/vehicles/{vehicle_id:str}/update", opt=role(Role.VIEWER), tags=["updates"], summary="Update of a vehicle")
async def get_update(services: Injected, vehicle_id: VehicleId) -> UpdateView:
    """Status, percent, speed, ETA, versions, ECUs updated and pending, error, whether it can go back."""
    return await services.updates.assignments.view(vehicle_id)


@post("/vehicles/{vehicle_id:str}/update", opt=role(Role.OPERATOR), tags=["updates"], summary="Update one vehicle")
async def assign_update(
    request: AnyRequest, services: Injected, vehicle_id: VehicleId, data: JSONBody[AssignOrder]
) -> AssignmentView:
    """Assign a published release. Refused when it cannot be installed on what the vehicle has."""
    made = await services.updates.assignments.assign(vehicle_id, data, actor_of(request))
    services.downlinks.notify(vehicle_id)
    return made


@post(
    "/vehicles/{vehicle_id:str}/update/cancel",
    opt=role(Role.OPERATOR),
    status_code=200,
    tags=["updates"],
    summary="Cancel an update",
)
async def cancel_update(request: AnyRequest, services: Injected, vehicle_id: VehicleId) -> AssignmentView:
    """End the open assignment; a vehicle stops as long as it still can."""
    view = await services.updates.assignments.cancel(vehicle_id, actor_of(request))
    services.downlinks.notify(vehicle_id)
    return view


@get("/vehicles/{vehicle_id:str}/updates", opt=role(Role.VIEWER), tags=["updates"], summary="Updates it had")
async def list_updates(
    services: Injected, vehicle_id: VehicleId, limit: Limit = 50, offset: Offset = 0
) -> list[AssignmentView]:
    """Assignments, newest first."""
    return list(await services.updates.assignments.history(vehicle_id, limit, offset))


@get("/vehicles/{vehicle_id:str}/inventory", opt=role(Role.VIEWER), tags=["updates"], summary="ECUs of a vehicle")
async def get_inventory(services: Injected, vehicle_id: VehicleId) -> InventoryView:
    """What each runs; and another inventory, where the vehicle told one that waits for an operator."""
    return await services.updates.assignments.inventory(vehicle_id)


@post(
    "/vehicles/{vehicle_id:str}/inventory/accept",
    opt=role(Role.OPERATOR),
    status_code=200,
    tags=["updates"],
    summary="Accept changed ECUs",
)
async def accept_inventory(request: AnyRequest, services: Injected, vehicle_id: VehicleId) -> InventoryView:
    """The inventory that waits becomes the registered one."""
    await services.updates.intake.accept_inventory(vehicle_id, actor_of(request))
    services.downlinks.notify(vehicle_id)
    return await services.updates.assignments.inventory(vehicle_id)


@post(
    "/vehicles/{vehicle_id:str}/inventory/refuse",
    opt=role(Role.OPERATOR),
    status_code=200,
    tags=["updates"],
    summary="Refuse changed ECUs",
)
async def refuse_inventory(request: AnyRequest, services: Injected, vehicle_id: VehicleId) -> InventoryView:
    """The inventory that waits is forgotten; the vehicle may tell it again."""
    await services.updates.intake.refuse_inventory(vehicle_id, actor_of(request))
    return await services.updates.assignments.inventory(vehicle_id)


UPDATE_ROUTES = [
    list_images,
    add_image,
    get_image,
    put_content,
    finish_image,
    delete_image,
    get_sign_request,
    list_roles,
    get_metadata,
    post_metadata,
    get_online_keys,
    add_online_key,
    list_deltas,
    list_releases,
    add_release,
    get_release,
    change_release,
    publish_release,
    withdraw_release,
    get_update,
    assign_update,
    cancel_update,
    list_updates,
    get_inventory,
    accept_inventory,
    refuse_inventory,
]
