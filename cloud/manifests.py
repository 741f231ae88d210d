"""The registry of manifests: stored by hash, parsed on demand, a bounded number kept in memory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from sqlalchemy import BigInteger, LargeBinary, String, select
from sqlalchemy.orm import Mapped, mapped_column

from cloud.db import Base, Database
from gateway.wire.manifest import Manifest


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

    def _remember(self, manifest_hash: str, manifest: Manifest) -> None:
        self._cache[manifest_hash] = manifest
        while len(self._cache) > self._cached:
            self._cache.popitem(last=False)
