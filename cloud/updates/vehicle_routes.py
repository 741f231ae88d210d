"""The vehicle port's update routes; see ``gateway.wire.uptane``. Images are streamed from the store, never loaded."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec
from litestar import Request, Response, asgi, get, post
from litestar.params import FromPath
from litestar.types import Receive, Scope, Send
from sqlalchemy import select

from cloud.errors import CloudError, InvalidInput, NotFound, Refused, TooMany
from cloud.ingest.routes import ClientGone, read_body
from cloud.services import Services
from cloud.updates.model import ImageRow
from cloud.updates.names import split_hashed_path
from cloud.updates.trust import IMAGE
from cloud.web.inject import Injected
from cloud.web.problems import send_problem
from gateway.wire import uptane

AnyRequest = Request[Any, Any, Any]
T = TypeVar("T")
CHUNK_BYTES = 1024 * 1024
IMMUTABLE = "public, max-age=31536000, immutable"
FRESH = "no-cache"
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))")


def admit(request: AnyRequest, services: Services) -> str:
    """Who asks, if it does not ask too often."""
    vehicle_id = services.register.identify(request.scope, services.clock.now_ns()).vehicle_id
    wait_s = services.updates.requests.try_take(vehicle_id, services.clock.monotonic_ns())
    if wait_s > 0:
        raise TooMany("this vehicle asks more often than it may", retry_after_s=wait_s)
    return vehicle_id


async def limited_body(request: AnyRequest, services: Services, limit_bytes: int) -> bytes:
    """The body, never more than ``limit_bytes`` of it."""
    try:
        return await read_body(request.scope, request.receive, limit_bytes, services.config.ingest.body_timeout_s)
    except ClientGone:
        raise InvalidInput("the body ended early") from None


def decode_body(content: bytes, kind: type[T]) -> T:
    """The message. ``InvalidInput`` when it is none."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(str(error)) from error


def _metadata(content: bytes | None, name: str, *, shared: bool) -> Response[bytes]:
    if content is None:
        raise NotFound(f"there is no {name[:120]}")
    is_fixed = name != "timestamp.json"
    cache = IMMUTABLE if is_fixed and shared else f"private, {FRESH}" if not shared else FRESH
    return Response(content, media_type="application/json", headers={"cache-control": cache})


@get(uptane.DIRECTOR + "/{name:str}", status_code=200)
async def get_director_file(request: AnyRequest, services: Injected, name: FromPath[str]) -> Response[bytes]:
    """The Director's metadata for the vehicle that asks."""
    vehicle_id = admit(request, services)
    return _metadata(await services.updates.director.file(vehicle_id, name), name, shared=False)


@get(uptane.IMAGE + "/{name:str}", status_code=200)
async def get_image_file(request: AnyRequest, services: Injected, name: FromPath[str]) -> Response[bytes]:
    """The Image repository's metadata."""
    admit(request, services)
    return _metadata(await services.updates.repositories.file(IMAGE, name), name, shared=True)


@post(uptane.TIME, status_code=200)
async def post_time(request: AnyRequest, services: Injected) -> Response[bytes]:
    """The time, signed."""
    vehicle_id = admit(request, services)
    wanted = decode_body(await limited_body(request, services, 4096), uptane.TimeRequest)
    answer = await services.updates.director.time(vehicle_id, wanted.nonce)
    return Response(msgspec.json.encode(answer), media_type="application/json")


@post(uptane.INVENTORY, status_code=204)
async def post_inventory(request: AnyRequest, services: Injected) -> None:
    """The vehicle's ECUs and their keys."""
    vehicle_id = admit(request, services)
    inventory = decode_body(await limited_body(request, services, uptane.MAX_MANIFEST_BYTES), uptane.Inventory)
    address = request.client.host if request.client else ""
    await services.updates.intake.take_inventory(vehicle_id, inventory, address)
    services.downlinks.notify(vehicle_id)


@post(uptane.MANIFEST, status_code=204)
async def post_manifest(request: AnyRequest, services: Injected) -> None:
    """What the vehicle's ECUs run, signed by them."""
    vehicle_id = admit(request, services)
    content = await limited_body(request, services, uptane.MAX_MANIFEST_BYTES)
    try:
        signed = decode_body(content, uptane.Signed)
    except InvalidInput as error:
        raise Refused(str(error)) from error
    ended = await services.updates.intake.take_manifest(vehicle_id, signed)
    await services.updates.tell_ended(ended)
    if ended is not None:
        services.downlinks.notify(vehicle_id)


@post(uptane.REPORT, status_code=204)
async def post_report(request: AnyRequest, services: Injected) -> None:
    """How an update goes."""
    vehicle_id = admit(request, services)
    report = decode_body(await limited_body(request, services, uptane.MAX_REPORT_BYTES), uptane.UpdateReport)
    ended = await services.updates.intake.take_report(vehicle_id, report)
    await services.updates.tell_ended(ended)
    if ended is not None:
        services.downlinks.notify(vehicle_id)


@dataclass(frozen=True, slots=True)
class _Part:
    """The bytes of an answer: all of them, or one range."""

    start: int
    end: int  # exclusive
    is_range: bool


@asgi(uptane.TARGETS, is_mount=True, copy_scope=False)
async def get_target(scope: Scope, receive: Receive, send: Send) -> None:
    """``GET`` or ``HEAD`` of ``folder/HASH.name``: one range, ETag, If-Range; immutable."""
    services: Services = scope["litestar_app"].state.services
    try:
        if scope.get("method") not in ("GET", "HEAD"):
            await send({"type": "http.response.start", "status": 405, "headers": [(b"allow", b"GET, HEAD")]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        services.register.identify(scope, services.clock.now_ns())
        path = unquote(scope.get("raw_path", b"").decode("ascii", "replace").partition("?")[0])
        row = await _find(services, path.removeprefix(uptane.TARGETS).lstrip("/"))
        await _answer(scope, send, services, row)
    except CloudError as error:
        await send_problem(scope, send, error)


async def _find(services: Services, path: str) -> ImageRow:
    split = split_hashed_path(path)
    if split is not None:
        async with services.db.read() as session:
            row = await session.scalar(select(ImageRow).where(ImageRow.filename == split[0], ImageRow.is_target))
        if row is not None and split[1] in (row.sha256, row.sha512):
            return row
    raise NotFound(f"there is no target {path[:200]!r}")


async def _answer(scope: Scope, send: Send, services: Services, row: ImageRow) -> None:
    etag = f'"{row.sha256}"'
    headers = [
        (b"etag", etag.encode()),
        (b"accept-ranges", b"bytes"),
        (b"cache-control", IMMUTABLE.encode()),
        (b"content-type", b"application/octet-stream"),
    ]
    asked = {name: value.decode("latin-1") for name, value in scope["headers"]}
    if _names(asked.get(b"if-none-match", ""), etag):
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    part = _part(asked, etag, row.length)
    if part is None:
        headers += [(b"content-range", f"bytes */{row.length}".encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 416, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    if part.is_range:
        headers.append((b"content-range", f"bytes {part.start}-{part.end - 1}/{row.length}".encode()))
    headers.append((b"content-length", str(part.end - part.start).encode()))
    store, position = services.updates.store, part.start
    is_head = scope.get("method") == "HEAD"
    first = (
        b""
        if is_head
        else await asyncio.to_thread(store.read, row.sha256, position, min(CHUNK_BYTES, part.end - position))
    )
    await send({"type": "http.response.start", "status": 206 if part.is_range else 200, "headers": headers})
    chunk = first
    while chunk and position + len(chunk) < part.end:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        position += len(chunk)
        wanted = min(CHUNK_BYTES, part.end - position)
        chunk = await asyncio.to_thread(store.read, row.sha256, position, wanted)
    await send({"type": "http.response.body", "body": chunk, "more_body": False})


def _names(header: str, etag: str) -> bool:
    return header.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in header.split(","))


def _part(asked: dict[bytes, str], etag: str, length: int) -> _Part | None:
    """What to send; None: the range begins behind the end. Several ranges, or none we know, are the whole."""
    whole = _Part(0, length, False)
    found = _RANGE.fullmatch(asked.get(b"range", "").replace(" ", ""))
    condition = asked.get(b"if-range", "").strip()
    if found is None or (condition and condition != etag):
        return whole
    if found[3] is not None:
        start, end = max(0, length - int(found[3])), length
    else:
        start, end = int(found[1]), min(length, int(found[2]) + 1 if found[2] else length)
        if found[2] and int(found[2]) < start:
            return whole
    return _Part(start, end, True) if start < end else None


UPTANE_ROUTES = [
    get_director_file,
    get_image_file,
    post_time,
    post_inventory,
    post_manifest,
    post_report,
    get_target,
]
