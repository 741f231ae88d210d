"""The registry of manifests: stored by hash, parsed on demand, a bounded number kept in memory."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict

import msgspec
from sqlalchemy import BigInteger, LargeBinary, String, func, select, update
from sqlalchemy.orm import Mapped, mapped_column

from cloud.db import Base, Database
from cloud.errors import InvalidInput, NotFound, TooMany
from cloud.spool.model import BatchRow, BatchState
from gateway.wire.manifest import Manifest, ManifestError

HASH = re.compile(r"[0-9a-f]{64}")


class ManifestRow(Base):
    """A manifest file, exactly as the first vehicle sent it."""

    __tablename__ = "manifests"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)  # lower-case hex
    name: Mapped[str] = mapped_column(String(200))
    signals: Mapped[int] = mapped_column(BigInteger)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    content_bytes: Mapped[int] = mapped_column(BigInteger)
    stored_ns: Mapped[int] = mapped_column(BigInteger)
    stored_by: Mapped[str] = mapped_column(String(64))  # the vehicle that sent it first


class ManifestView(msgspec.Struct, frozen=True):
    """A manifest without its content."""

    hash: str
    name: str
    signals: int
    content_bytes: int
    stored_ns: int
    stored_by: str


class ManifestStore:
    """Parsed manifests by hash (lower-case hex)."""

    def __init__(self, db: Database, *, cached: int = 32) -> None:
        self._db = db
        self._cached = cached
        self._cache: OrderedDict[str, Manifest] = OrderedDict()

    async def get(self, manifest_hash: str) -> Manifest | None:
        """The manifest, or None while nobody has sent it. Parsing runs in a thread."""
        found = self._cache.get(manifest_hash)
        if found is not None:
            self._cache.move_to_end(manifest_hash)
            return found
        async with self._db.read() as session:
            content = await session.scalar(select(ManifestRow.content).where(ManifestRow.hash == manifest_hash))
        if content is None:
            return None
        manifest = await asyncio.to_thread(Manifest.from_bytes, content)
        self._remember(manifest_hash, manifest)
        return manifest

    async def put(self, manifest_hash: str, content: bytes, vehicle_id: str, now_ns: int, max_own: int) -> int:
        """Store a manifest file and let the batches that waited for it go on.

        Returns:
            How many batches had waited.

        Raises:
            InvalidInput: no manifest, or its hash is not ``manifest_hash``.
            TooMany: this vehicle has brought ``max_own`` manifests already.
        """
        if not HASH.fullmatch(manifest_hash):
            raise InvalidInput("a manifest's hash is 64 lower-case hex digits", where="hash")
        try:
            manifest = await asyncio.to_thread(Manifest.from_bytes, content)
            actual = manifest.hash.hex()
        except ManifestError as error:
            raise InvalidInput(str(error)) from error
        if actual != manifest_hash:
            raise InvalidInput(f"the content's hash is {actual}", where="hash")
        async with self._db.write() as session:
            if await session.get(ManifestRow, manifest_hash) is None:
                own = await session.scalar(select(func.count()).where(ManifestRow.stored_by == vehicle_id))
                if (own or 0) >= max_own:
                    raise TooMany(f"this vehicle has brought {own} manifests already", retry_after_s=3600)
                session.add(
                    ManifestRow(
                        hash=manifest_hash,
                        name=manifest.name[:200],
                        signals=len(manifest.signals),
                        content=content,
                        content_bytes=len(content),
                        stored_ns=now_ns,
                        stored_by=vehicle_id,
                    )
                )
            released = await session.execute(
                update(BatchRow)
                .where(BatchRow.manifest_hash == manifest_hash, BatchRow.state == BatchState.WAITING_MANIFEST)
                .values(state=BatchState.STORED)
                .execution_options(synchronize_session=False)
                .returning(BatchRow.id)
            )
            count = len(released.all())
        self._remember(manifest_hash, manifest)
        return count

    async def file(self, manifest_hash: str) -> bytes:
        """The manifest file as it was sent. ``NotFound`` when nobody has sent it."""
        async with self._db.read() as session:
            content = await session.scalar(select(ManifestRow.content).where(ManifestRow.hash == manifest_hash))
        if content is None:
            raise NotFound(f"there is no manifest {manifest_hash}")
        return content

    async def list(self, limit: int, offset: int) -> tuple[list[ManifestView], int]:
        """A page of manifests, newest first, and how many there are."""
        async with self._db.read() as session:
            total = await session.scalar(select(func.count()).select_from(ManifestRow))
            rows = await session.execute(
                select(
                    ManifestRow.hash,
                    ManifestRow.name,
                    ManifestRow.signals,
                    ManifestRow.content_bytes,
                    ManifestRow.stored_ns,
                    ManifestRow.stored_by,
                )
                .order_by(ManifestRow.stored_ns.desc(), ManifestRow.hash)
                .limit(limit)
                .offset(offset)
            )
            return [ManifestView(*row) for row in rows], total or 0

    def _remember(self, manifest_hash: str, manifest: Manifest) -> None:
        self._cache[manifest_hash] = manifest
        while len(self._cache) > self._cached:
            self._cache.popitem(last=False)
