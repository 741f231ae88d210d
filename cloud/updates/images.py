"""Images: told of, uploaded in pieces, hashed, and from then on targets to be signed for."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import msgspec
from sqlalchemy import delete as remove
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from cloud.auth.audit import SYSTEM, Actor, record
from cloud.clock import Clock
from cloud.config import Updates
from cloud.db import Database
from cloud.errors import Conflict, InvalidInput, NotFound, TooLarge, TooMany
from cloud.updates.delta.tables import DeltaJobRow, JobState
from cloud.updates.model import DeltaImageRow, ImageRow, ImageState, ReleaseImageRow
from cloud.updates.names import DELTAS_FOLDER, check_target_name
from cloud.updates.repository import Repositories
from cloud.updates.store import ImageStore
from cloud.updates.views import ImageView, facts_of, image_view
from gateway.wire.uptane import KINDS, FileFacts, MustMatch

MAX_HARDWARE_IDS, MAX_TEXT, MAX_COUNTER = 64, 64, (1 << 53) - 1


class NewImage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image to upload."""

    filename: str
    kind: str
    hardware_ids: list[str]
    version: str
    length: int
    release_counter: int = 0
    description: str = ""
    sha256: str = ""  # checked at the end, where it is given
    role: str = "targets"  # who will sign for it


class UploadView(msgspec.Struct, frozen=True):
    """An image and how much of it is here."""

    image: ImageView
    received: int


class SignImage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image as it is to be signed for."""

    file: FileFacts
    must_match: MustMatch
    description: str = ""
    role: str = "targets"


class SignRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the release engineer is asked to sign; carried to the offline machine as a file."""

    format: str = "outrider sign request 1"
    images: list[SignImage]


class Images:
    """All images of one cloud."""

    def __init__(
        self, db: Database, clock: Clock, config: Updates, store: ImageStore, repositories: Repositories
    ) -> None:
        self._db, self._clock, self._config = db, clock, config
        self.store, self._repositories = store, repositories
        self._locks: dict[int, asyncio.Lock] = {}

    async def add(self, wanted: NewImage, actor: Actor) -> UploadView:
        """Announce an image; its bytes come next. The same again continues an upload.

        Raises:
            InvalidInput: a field cannot be.
            Conflict: the name is taken by something else (I3).
            Unavailable: there is no room for it.
        """
        name = self._check(wanted)
        await asyncio.to_thread(self.store.check_room, wanted.length)
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            row = await session.scalar(select(ImageRow).where(ImageRow.filename == name))
            if row is not None:
                if not _is_same(row, wanted):
                    raise Conflict(f"there is another image named {name!r}; names are never used twice")
            else:
                count = await session.scalar(select(func.count()).select_from(ImageRow))
                if (count or 0) >= self._config.max_images:
                    raise TooMany("there are too many images; delete old ones", retry_after_s=3600)
                row = ImageRow(
                    filename=name,
                    state=ImageState.UPLOADING,
                    kind=wanted.kind,
                    hardware_ids=msgspec.json.encode(sorted(set(wanted.hardware_ids))),
                    version=wanted.version,
                    release_counter=wanted.release_counter,
                    description=wanted.description,
                    length=wanted.length,
                    sha256=wanted.sha256.lower(),
                    role=wanted.role,
                    created_ns=now_ns,
                    created_by=actor.name,
                )
                session.add(row)
                await session.flush()
                record(session, actor, now_ns, "image.add", name, f"{wanted.kind} {wanted.version}")
        return await self.get(row.id)

    def _check(self, wanted: NewImage) -> str:
        name = check_target_name(unicodedata.normalize("NFC", wanted.filename))
        if name.startswith(DELTAS_FOLDER) or wanted.kind not in KINDS or wanted.kind == "delta":
            raise InvalidInput(f"{DELTAS_FOLDER} and the kind delta are the cloud's own", where="kind")
        hardware = wanted.hardware_ids
        if not 1 <= len(hardware) <= MAX_HARDWARE_IDS or not all(_is_text(h) for h in hardware):
            raise InvalidInput(
                f"1 to {MAX_HARDWARE_IDS} hardware ids of 1 to {MAX_TEXT} characters", where="hardware_ids"
            )
        if not 1 <= len(wanted.version) <= 100 or not wanted.version.isprintable():
            raise InvalidInput("1 to 100 printable characters", where="version")
        if not 0 <= wanted.release_counter <= MAX_COUNTER:
            raise InvalidInput("not a count", where="release_counter")
        if len(wanted.description) > 2000 or len(wanted.role) > 100:
            raise InvalidInput("too long", where="description")
        if wanted.length < 1:
            raise InvalidInput("an image has bytes", where="length")
        if wanted.length > self._config.max_image_bytes:
            raise TooLarge(self._config.max_image_bytes)
        if wanted.sha256 and (len(wanted.sha256) != 64 or set(wanted.sha256.lower()) - set("0123456789abcdef")):
            raise InvalidInput("64 hexadecimal digits", where="sha256")
        return name

    async def get(self, image_id: int) -> UploadView:
        """An image. ``NotFound`` when there is none."""
        row = await self._row(image_id)
        received = row.length
        if row.state == ImageState.UPLOADING:
            received = await asyncio.to_thread(self.store.received, image_id)
        return UploadView(image_view(row), received)

    async def list(self, limit: int, offset: int, *, state: str = "", kind: str = "") -> tuple[list[ImageView], int]:
        """A page of images, newest first, and how many there are."""
        query, count = select(ImageRow), select(func.count()).select_from(ImageRow)
        for column, value in ((ImageRow.state, state), (ImageRow.kind, kind)):
            if value:
                query, count = query.where(column == value), count.where(column == value)
        async with self._db.read() as session:
            rows = await session.scalars(query.order_by(ImageRow.id.desc()).limit(limit).offset(offset))
            return [image_view(row) for row in rows], (await session.scalar(count)) or 0

    async def write(self, image_id: int, offset: int, data: bytes) -> int:
        """Put a piece of an upload at its place; the bytes received now.

        Raises:
            NotFound, Conflict: no such upload; it has ended; a gap would be left.
            InvalidInput: more than was announced.
            Unavailable: the disk is full.
        """
        async with self._locks.setdefault(image_id, asyncio.Lock()):
            row = await self._row(image_id)
            if row.state != ImageState.UPLOADING:
                raise Conflict(f"{row.filename} is whole already")
            if offset + len(data) > row.length:
                raise InvalidInput(f"{row.filename} was announced with {row.length} bytes", where="content-range")
            return await asyncio.to_thread(self.store.write, image_id, offset, data)

    async def finish(self, image_id: int, actor: Actor) -> ImageView:
        """Hash an upload; from now on it can be signed for. The same again changes nothing.

        Raises:
            NotFound: no such upload.
            Conflict: bytes are missing, or the hash is another one (the upload begins anew).
            Unavailable: the disk is full.
        """
        async with self._locks.setdefault(image_id, asyncio.Lock()):
            row = await self._row(image_id)
            if row.state != ImageState.UPLOADING:
                return image_view(row)
            have = await asyncio.to_thread(self.store.received, image_id)
            if have != row.length:
                raise Conflict(f"{have} of {row.length} bytes are here")
            stored = await asyncio.to_thread(self.store.finish, image_id)
            now_ns = self._clock.now_ns()
            if row.sha256 and row.sha256 != stored.sha256:
                await self._forget(stored.sha256)
                raise Conflict(f"the SHA-256 is {stored.sha256}, announced was {row.sha256}; upload it again")
            async with self._db.write() as session:
                found = await session.get(ImageRow, image_id)
                if found is None:
                    raise NotFound(f"there is no image {image_id}")
                found.state, found.sha256, found.sha512 = ImageState.STORED, stored.sha256, stored.sha512
                record(session, actor, now_ns, "image.store", found.filename, stored.sha256)
        self._locks.pop(image_id, None)
        return image_view(found)

    async def delete(self, image_id: int, actor: Actor) -> None:
        """Forget an image that no metadata lists and no release has. ``Conflict`` for others."""
        async with self._db.write() as session:
            row = await session.get(ImageRow, image_id)
            if row is None:
                raise NotFound(f"there is no image {image_id}")
            used = await session.scalar(select(ReleaseImageRow.release_id).where(ReleaseImageRow.image_id == image_id))
            delta = await session.scalar(
                select(DeltaImageRow.image_id).where(
                    (DeltaImageRow.base_image_id == image_id) | (DeltaImageRow.target_image_id == image_id)
                )
            )
            jobs = (DeltaJobRow.base_image_id == image_id) | (DeltaJobRow.target_image_id == image_id)
            busy = await session.scalar(
                select(DeltaJobRow.id).where(jobs, DeltaJobRow.state.in_([JobState.WAITING, JobState.RUNNING]))
            )
            if row.is_target or used is not None or delta is not None or busy is not None:
                raise Conflict(f"{row.filename} is signed for, or used by a release or a delta")
            await session.execute(remove(DeltaJobRow).where(jobs))
            await session.delete(row)
            record(session, actor, self._clock.now_ns(), "image.delete", row.filename)
            sha256, is_upload = row.sha256, row.state == ImageState.UPLOADING
        if is_upload:
            await asyncio.to_thread(self.store.abandon, image_id)
        else:
            await self._forget(sha256)

    async def sign_request(self, ids: Sequence[int] | None = None) -> SignRequest:
        """What is stored and not yet signed for, or the named images."""
        query = select(ImageRow).where(ImageRow.kind != "delta").order_by(ImageRow.id)
        query = query.where(ImageRow.state == ImageState.STORED) if ids is None else query.where(ImageRow.id.in_(ids))
        async with self._db.read() as session:
            rows = (await session.scalars(query)).all()
        if ids is not None and len(rows) < len(set(ids)):
            raise NotFound("one of these images does not exist")
        if unfinished := [row.filename for row in rows if row.state == ImageState.UPLOADING]:
            raise Conflict(f"{unfinished[0]} is not whole yet")
        return SignRequest(
            images=[
                SignImage(
                    file=FileFacts(
                        filename=row.filename, length=row.length, hashes={"sha256": row.sha256, "sha512": row.sha512}
                    ),
                    must_match=facts_of(row).must_match,
                    description=row.description,
                    role=row.role,
                )
                for row in rows
            ]
        )

    async def add_delta(self, base: ImageRow, target: ImageRow, path: Path) -> ImageView | None:
        """Make a built delta an image and a signed target of the online role. The file is moved.

        Returns:
            None when no deltas can be signed here, or the target is no target any more; the file stays then.
        """
        stored = await asyncio.to_thread(self.store.adopt, path)
        name = f"{DELTAS_FOLDER}{base.sha256[:16]}-{target.sha256[:16]}-{stored.sha256[:8]}.delta"
        now_ns = self._clock.now_ns()
        try:
            async with self._db.write() as session:
                row = await session.scalar(select(ImageRow).where(ImageRow.filename == name))
                if row is None:
                    row = ImageRow(
                        filename=name,
                        state=ImageState.STORED,
                        kind="delta",
                        hardware_ids=target.hardware_ids,
                        version=target.version,
                        release_counter=target.release_counter,
                        description=f"from {base.filename} to {target.filename}"[:2000],
                        length=stored.length,
                        sha256=stored.sha256,
                        sha512=stored.sha512,
                        role="deltas",
                        created_ns=now_ns,
                        created_by=SYSTEM.name,
                    )
                    session.add(row)
                    await session.flush()
                    session.add(DeltaImageRow(image_id=row.id, base_image_id=base.id, target_image_id=target.id))
                if not await self._repositories.add_deltas(session, [row]):
                    raise Conflict("the role deltas cannot be signed here")
                record(session, SYSTEM, now_ns, "image.delta", name, row.description)
        except (Conflict, IntegrityError):
            return None
        return image_view(row)

    async def _forget(self, sha256: str) -> None:
        """Remove a stored file that no image has."""
        async with self._db.read() as session:
            if await session.scalar(select(ImageRow.id).where(ImageRow.sha256 == sha256).limit(1)) is None:
                await asyncio.to_thread(self.store.remove, sha256)

    async def _row(self, image_id: int) -> ImageRow:
        async with self._db.read() as session:
            row = await session.get(ImageRow, image_id)
        if row is None:
            raise NotFound(f"there is no image {image_id}")
        return row


def _is_text(text: str) -> bool:
    return 1 <= len(text) <= MAX_TEXT and text.isprintable() and text == text.strip()


def _is_same(row: ImageRow, wanted: NewImage) -> bool:
    facts = facts_of(row)
    return (
        facts.length == wanted.length
        and set(facts.must_match.hardware_ids) == set(wanted.hardware_ids)
        and (facts.must_match.kind, facts.must_match.version) == (wanted.kind, wanted.version)
        and facts.must_match.release_counter == wanted.release_counter
        and (not wanted.sha256 or not row.sha256 or wanted.sha256.lower() == row.sha256)
    )
