"""Dead letters and manifests over REST."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.params import PathParameter, QueryParameter
from sqlalchemy import func, select

from cloud.auth.audit import record
from cloud.auth.middleware import actor_of, role
from cloud.auth.model import Role
from cloud.errors import Conflict, NotFound
from cloud.ingest.writer import Verdict
from cloud.manifests import ManifestView
from cloud.services import Services
from cloud.spool.deadletters import DeadLetterDropsRow
from cloud.spool.model import DeadLetterRow
from cloud.web.inject import Injected
from cloud.web.pages import Limit, Offset, Page

LetterId = Annotated[int, PathParameter(ge=1, le=1 << 62)]
ManifestHash = Annotated[str, PathParameter(description="64 hex digits", max_length=64)]
BINARY = "application/octet-stream"


class DeadLetterView(msgspec.Struct, frozen=True):
    """A dead letter without its content. ``stream`` is "" when not even the header could be read."""

    id: int
    vehicle: str
    stream: str
    sequence: int
    items: int
    manifest_hash: str
    received_ns: int
    reason: str
    times_seen: int
    content_bytes: int


class DeadLetterPage(msgspec.Struct, frozen=True):
    """A page of dead letters; ``dropped`` had to go to stay within the bounds."""

    items: list[DeadLetterView]
    total: int
    limit: int
    offset: int
    dropped: int
    dropped_bytes: int


class Replayed(msgspec.Struct, frozen=True):
    """What became of a replayed dead letter: "stored", or "duplicate" when the same batch was here already."""

    outcome: str
    stream: str
    sequence: int


_COLUMNS = (
    DeadLetterRow.id,
    DeadLetterRow.vehicle_id.label("vehicle"),
    DeadLetterRow.stream,
    DeadLetterRow.sequence,
    DeadLetterRow.items,
    DeadLetterRow.manifest_hash,
    DeadLetterRow.received_ns,
    DeadLetterRow.reason,
    DeadLetterRow.times_seen,
    DeadLetterRow.content_bytes,
)


async def _letter(services: Services, letter_id: int) -> DeadLetterRow:
    async with services.db.read() as session:
        row = await session.get(DeadLetterRow, letter_id)
    if row is None:
        raise NotFound(f"there is no dead letter {letter_id}")
    return row


@get("/dead-letters", opt=role(Role.VIEWER), tags=["dead letters"], summary="Uploads that could not be read")
async def list_dead_letters(
    services: Injected,
    limit: Limit = 50,
    offset: Offset = 0,
    vehicle: Annotated[str, QueryParameter(max_length=64, description="only of this vehicle")] = "",
) -> DeadLetterPage:
    """Newest first, without their content."""
    query, count = select(*_COLUMNS), select(func.count()).select_from(DeadLetterRow)
    drops = select(func.sum(DeadLetterDropsRow.dropped), func.sum(DeadLetterDropsRow.dropped_bytes))
    if vehicle:
        query, count = (
            query.where(DeadLetterRow.vehicle_id == vehicle),
            count.where(DeadLetterRow.vehicle_id == vehicle),
        )
        drops = drops.where(DeadLetterDropsRow.vehicle_id == vehicle)
    async with services.db.read() as session:
        rows = await session.execute(query.order_by(DeadLetterRow.id.desc()).limit(limit).offset(offset))
        items = [DeadLetterView(**row) for row in rows.mappings()]
        total = (await session.scalar(count)) or 0
        dropped, dropped_bytes = (await session.execute(drops)).one()
    return DeadLetterPage(items, total, limit, offset, dropped or 0, dropped_bytes or 0)


@get("/dead-letters/{letter_id:int}", opt=role(Role.VIEWER), tags=["dead letters"], summary="One dead letter")
async def get_dead_letter(services: Injected, letter_id: LetterId) -> DeadLetterView:
    """Without its content."""
    row = await _letter(services, letter_id)
    return DeadLetterView(
        row.id,
        row.vehicle_id,
        row.stream,
        row.sequence,
        row.items,
        row.manifest_hash,
        row.received_ns,
        row.reason,
        row.times_seen,
        row.content_bytes,
    )


@get(
    "/dead-letters/{letter_id:int}/content",
    opt=role(Role.OPERATOR),
    tags=["dead letters"],
    summary="The bytes as they came",
    media_type=BINARY,
)
async def get_dead_letter_content(services: Injected, letter_id: LetterId) -> Response[bytes]:
    """For a look with other tools."""
    row = await _letter(services, letter_id)
    name = f'attachment; filename="dead-letter-{letter_id}.bin"'
    return Response(row.content, media_type=BINARY, headers={"content-disposition": name})


@post(
    "/dead-letters/{letter_id:int}/replay",
    opt=role(Role.OPERATOR),
    status_code=200,
    tags=["dead letters"],
    summary="Take it again",
)
async def replay_dead_letter(request: Request[Any, Any, Any], services: Injected, letter_id: LetterId) -> Replayed:
    """As if it had just come; for after a fix. The dead letter goes when the batch is stored."""
    row = await _letter(services, letter_id)
    outcome = await services.uploads.replay(row.vehicle_id, row.content)
    if outcome.verdict is Verdict.CONFLICT:
        raise Conflict("another batch is stored under this sequence")
    async with services.db.write() as session:
        again = await session.get(DeadLetterRow, letter_id)
        if again is not None:
            await session.delete(again)
        now_ns = services.clock.now_ns()
        record(session, actor_of(request), now_ns, "dead_letter.replay", row.vehicle_id, f"dead letter {letter_id}")
    stored = outcome.stored
    return Replayed(
        outcome.verdict.value, stored.stream if stored else row.stream, stored.sequence if stored else row.sequence
    )


@delete(
    "/dead-letters/{letter_id:int}",
    opt=role(Role.OPERATOR),
    status_code=204,
    tags=["dead letters"],
    summary="Delete a dead letter",
)
async def delete_dead_letter(request: Request[Any, Any, Any], services: Injected, letter_id: LetterId) -> None:
    """Its batch, if it has one, stays counted as dead."""
    async with services.db.write() as session:
        row = await session.get(DeadLetterRow, letter_id)
        if row is None:
            raise NotFound(f"there is no dead letter {letter_id}")
        await session.delete(row)
        now_ns = services.clock.now_ns()
        record(session, actor_of(request), now_ns, "dead_letter.delete", row.vehicle_id, f"dead letter {letter_id}")


@get("/manifests", opt=role(Role.VIEWER), tags=["manifests"], summary="Manifests vehicles have brought")
async def list_manifests(services: Injected, limit: Limit = 50, offset: Offset = 0) -> Page[ManifestView]:
    """Newest first."""
    items, total = await services.manifests.list(limit, offset)
    return Page(items, total, limit, offset)


@get(
    "/manifests/{manifest_hash:str}/file",
    opt=role(Role.VIEWER),
    tags=["manifests"],
    summary="A manifest file",
    media_type=BINARY,
)
async def get_manifest_file(services: Injected, manifest_hash: ManifestHash) -> Response[bytes]:
    """As the vehicle sent it; ``outrider dbc show`` reads it."""
    content = await services.manifests.file(manifest_hash)
    name = f'attachment; filename="{manifest_hash}.manifest"'
    return Response(content, media_type=BINARY, headers={"content-disposition": name})


SPOOL_ROUTES = [
    list_dead_letters,
    get_dead_letter,
    get_dead_letter_content,
    replay_dead_letter,
    delete_dead_letter,
    list_manifests,
    get_manifest_file,
]
