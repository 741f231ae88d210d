"""The metadata of the Image repository, and the roots of both: taken in, completed online, kept, handed out.

Offline roles (root, targets, suppliers) come by ``take`` and are checked by ``cloud.updates.trust``. Snapshot,
Timestamp and the delegated role ``deltas`` are made here, in the same transaction, and again before they expire.

Versions made here are the highest of "one more than the last" and the seconds since 1970: a database restored from a
backup goes on above every version it ever gave out, so no vehicle takes it for a rollback.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from tuf.api.metadata import Delegations, Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from cloud.auth.audit import Actor, record
from cloud.clock import Clock
from cloud.config import Updates
from cloud.db import Database
from cloud.errors import InvalidInput
from cloud.updates.keys import OnlineKeys
from cloud.updates.model import ImageRow, ImageState, TufFileRow
from cloud.updates.names import DELTAS_ROLE
from cloud.updates.trust import DIRECTOR, IMAGE, Accepted, ImageFacts, TrustedFiles, check_import, parse_name
from cloud.updates.tuf import S_NS, is_signed, moment, plain, signed_file, to_ns
from cloud.updates.views import facts_of, must_match_of
from gateway.wire.uptane import ImageCustom

ONLINE = frozenset({"snapshot", "timestamp", DELTAS_ROLE})
DAY_NS = 86_400 * S_NS
T = TypeVar("T", Targets, Snapshot, Timestamp)


class RoleView(msgspec.Struct, frozen=True):
    """A role's newest file. Times are UTC ns."""

    repository: str
    role: str
    version: int
    expires_ns: int
    keys: list[str]
    threshold: int
    is_online: bool


class Taken(msgspec.Struct, frozen=True):
    """What an import did. ``added`` is empty when all was here already."""

    added: list[str]
    signed_images: int
    dropped: list[str]
    warnings: list[str]


def next_version(last: int, now_ns: int) -> int:
    """The version of metadata made now; see the module."""
    return max(last + 1, now_ns // S_NS)


class Repositories:
    """Both repositories' shared metadata. What is of one vehicle is the Director's (``cloud.updates.director``)."""

    def __init__(self, db: Database, clock: Clock, config: Updates, keys: OnlineKeys) -> None:
        self._db, self._clock, self._config, self._keys = db, clock, config, keys
        self._parsed: dict[tuple[str, str, int], Metadata[Any]] = {}

    async def file(self, repository: str, name: str) -> bytes | None:
        """A file as vehicles fetch it: ``timestamp.json`` or ``VERSION.ROLE.json``; None when there is none."""
        async with self._db.read() as session:
            if name == "timestamp.json":
                row = await newest(session, repository, "timestamp")
                return row.content if row else None
            try:
                role, version = parse_name(name)
            except InvalidInput:
                return None
            found = await session.get(TufFileRow, (repository, role, version)) if version < 1 << 62 else None
            return found.content if found and role != "timestamp" else None

    async def files(self, repository: str) -> dict[str, bytes]:
        """All files a client may need: every root, and the newest of each other role."""
        async with self._db.read() as session:
            rows = await session.scalars(select(TufFileRow).where(TufFileRow.repository == repository))
            all_rows = rows.all()
        last = {row.role: row.version for row in sorted(all_rows, key=lambda row: row.version)}
        return {
            "timestamp.json" if row.role == "timestamp" else f"{row.version}.{row.role}.json": row.content
            for row in all_rows
            if row.role == "root" or row.version == last[row.role]
        }

    async def long_lived(self, life_ns: int) -> dict[str, bytes]:
        """The Image repository for a bundle: Snapshot and Timestamp good for ``life_ns``, in versions of their own.

        The cloud goes on above them with versions of normal life. The other roles live as long as they do.
        """
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            await self._complete(session, now_ns, life_ns=life_ns)
            rows = await _newest_rows(session, IMAGE)
            found = {
                ("timestamp" if r.role == "timestamp" else f"{r.version}.{r.role}") + ".json": r.content for r in rows
            }
            await self._complete(session, now_ns, life_ns=-1)
        roots = await self.files(IMAGE)
        return {**{name: content for name, content in roots.items() if name.endswith(".root.json")}, **found}

    def root(self, session: Session, repository: str) -> Root | None:
        """The root in force."""
        row: TufFileRow | None = session.scalar(_newest(repository, "root"))
        if row is None:
            return None
        parsed: Root = self._read(row).signed
        return parsed

    async def trusted(self, session: AsyncSession, repository: str) -> TrustedFiles:
        """The offline-signed state."""
        root: Metadata[Root] | None = None
        roles: dict[str, Metadata[Targets]] = {}
        for row in await _newest_rows(session, repository):
            if row.role == "root":
                root = self._read(row)
            elif row.role not in ONLINE:
                roles[row.role] = self._read(row)
        return TrustedFiles(repository=repository, root=root, roles=roles)

    async def take(
        self, repository: str, files: Mapping[str, bytes], actor: Actor, *, may_drop: Iterable[str] = ()
    ) -> Taken:
        """Take offline-signed files in; all or nothing. The same again changes nothing.

        Raises:
            InvalidInput, Conflict: see ``cloud.updates.trust.check_import``.
        """
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            trusted = await self.trusted(session, repository)
            stored = await _stored(session) if repository == IMAGE else {}
            accepted = check_import(
                trusted,
                files,
                now_ns=now_ns,
                lookup=stored.get,
                own_keys=frozenset(str(key.key["keyid"]) for key in self._keys.public()),
                may_drop=frozenset(may_drop),
            )
            count = 0
            if accepted.added:
                for (role, version), content in accepted.added.items():
                    await self._store(session, repository, role, version, content, now_ns)
                if repository == IMAGE:
                    count = await _mark_targets(session, accepted)
                    await self._complete(session, now_ns)
                names = ", ".join(f"{version}.{role}.json" for role, version in sorted(accepted.added))
                record(session, actor, now_ns, "updates.metadata", repository, names)
        added = [f"{version}.{role}.json" for role, version in sorted(accepted.added)]
        return Taken(added, count, list(accepted.dropped), list(accepted.warnings))

    async def refresh(self) -> None:
        """Make online metadata that is missing or will expire soon, and drop what nobody needs any more."""
        now_ns = self._clock.now_ns()
        async with self._db.read() as session:
            if await newest(session, IMAGE, "targets") is None or not await self._is_due(session, now_ns):
                return
        async with self._db.write() as session:
            await self._complete(session, now_ns)
            await self._prune(session, now_ns)

    async def add_deltas(self, session: AsyncSession, rows: Iterable[ImageRow]) -> bool:
        """List delta images in the role ``deltas`` and make Snapshot and Timestamp anew.

        Returns:
            False when the offline targets delegate to no such role, or with keys that are not here.
        """
        wanted = {row.filename: delta_target(row) for row in rows}
        done = await self._complete(session, self._clock.now_ns(), more=wanted)
        if done:
            for row in await session.scalars(select(ImageRow).where(ImageRow.filename.in_(list(wanted)))):
                row.state, row.is_target, row.role = ImageState.SIGNED, True, DELTAS_ROLE
        return done

    async def drop_deltas(self, session: AsyncSession, names: Iterable[str]) -> None:
        """Delist delta images that serve no release any more."""
        gone = set(names)
        if gone and await self._complete(session, self._clock.now_ns(), less=gone):
            await session.execute(update(ImageRow).where(ImageRow.filename.in_(gone)).values(is_target=False))

    async def view(self) -> list[RoleView]:
        """All roles of both repositories with their expiry."""
        views: list[RoleView] = []
        async with self._db.read() as session:
            for repository in (DIRECTOR, IMAGE):
                rows = {row.role: row for row in await _newest_rows(session, repository)}
                root = await session.run_sync(self.root, repository)
                delegations = (await self.trusted(session, repository)).top
                for role, row in sorted(rows.items()):
                    keyids, threshold = _keys_of(role, root, delegations)
                    views.append(
                        RoleView(repository, role, row.version, row.expires_ns, keyids, threshold, role in ONLINE)
                    )
        return views

    async def _is_due(self, session: AsyncSession, now_ns: int) -> bool:
        rows = {row.role: row for row in await _newest_rows(session, IMAGE)}
        lives = self._lives()
        return any(role not in rows and role != DELTAS_ROLE for role in lives) or any(
            _is_expiring(rows[role].expires_ns, life_ns, now_ns) for role, life_ns in lives.items() if role in rows
        )

    def _lives(self) -> dict[str, int]:
        config = self._config
        return {
            DELTAS_ROLE: int(config.image_deltas_s * S_NS),
            "snapshot": int(config.image_snapshot_s * S_NS),
            "timestamp": int(config.image_timestamp_s * S_NS),
        }

    async def _complete(
        self,
        session: AsyncSession,
        now_ns: int,
        *,
        more: Mapping[str, TargetFile] | None = None,
        less: Iterable[str] = (),
        life_ns: int = 0,
    ) -> bool:
        """Deltas, Snapshot and Timestamp, each only if something in it changes. False: no deltas can be signed."""
        trusted = await self.trusted(session, IMAGE)
        if trusted.root is None or trusted.top is None:
            return False
        has_deltas = await self._make_deltas(session, trusted.top, now_ns, dict(more or {}), frozenset(less))
        root = trusted.root.signed
        rows = await _newest_rows(session, IMAGE)
        meta = {
            f"{row.role}.json": _meta_file(row) for row in rows if row.role not in {"root", "snapshot", "timestamp"}
        }
        snapshot = await self._make(session, root, Snapshot(meta=meta), now_ns, life_ns=life_ns)
        await self._make(session, root, Timestamp(snapshot_meta=_meta_file(snapshot)), now_ns, life_ns=life_ns)
        return has_deltas

    async def _make_deltas(
        self, session: AsyncSession, top: Targets, now_ns: int, more: dict[str, TargetFile], less: frozenset[str]
    ) -> bool:
        delegated = (top.delegations.roles or {}).get(DELTAS_ROLE) if top.delegations else None
        if delegated is None or len(self._keys.signers(delegated.keyids)) < delegated.threshold:
            return False
        row = await newest(session, IMAGE, DELTAS_ROLE)
        targets = dict(self._read(row).signed.targets) if row else {}
        wanted = {name: entry for name, entry in {**targets, **more}.items() if name not in less}
        await self._make(session, top, Targets(targets=wanted), now_ns, role=DELTAS_ROLE)
        return True

    async def _make(
        self,
        session: AsyncSession,
        delegator: Root | Targets,
        signed: T,
        now_ns: int,
        *,
        role: str = "",
        life_ns: int = 0,
    ) -> TufFileRow:
        """Sign and store, unless the newest file says the same, is well signed and will not expire soon.

        A ``life_ns`` makes a new one in any case: of that life, or, when negative, of the normal one.
        """
        role = role or signed.type
        last = await newest(session, IMAGE, role)
        is_forced, life_ns = life_ns != 0, life_ns if life_ns > 0 else self._lives()[role]
        if last is not None and not is_forced:
            have: Metadata[T] = self._read(last)
            signed.version, signed.expires = have.signed.version, have.signed.expires
            is_same = signed == have.signed and is_signed(delegator, role, have)
            if is_same and not _is_expiring(last.expires_ns, life_ns, now_ns):
                return last
        signed.version = next_version(last.version if last else 0, now_ns)
        signed.expires = moment(now_ns + life_ns)
        keyids = delegator.get_delegated_role(role).keyids
        content = signed_file(signed, self._keys.signers(keyids))
        return await self._store(session, IMAGE, role, signed.version, content, now_ns)

    async def _store(
        self, session: AsyncSession, repository: str, role: str, version: int, content: bytes, now_ns: int
    ) -> TufFileRow:
        parsed: Metadata[Any] = Metadata.from_bytes(content)
        row = TufFileRow(
            repository=repository,
            role=role,
            version=version,
            content=content,
            expires_ns=to_ns(parsed.signed.expires),
            made_ns=now_ns,
        )
        session.add(row)
        await session.flush()
        return row

    async def _prune(self, session: AsyncSession, now_ns: int) -> None:
        """Roots are kept for ever, of each other role the newest two and what is young."""
        old_ns = now_ns - int(self._config.keep_metadata_days * DAY_NS)
        for last in await _newest_rows(session, IMAGE):
            if last.role == "root":
                continue
            of_role = (TufFileRow.repository == IMAGE, TufFileRow.role == last.role)
            second = await session.scalar(
                select(func.max(TufFileRow.version)).where(*of_role, TufFileRow.version < last.version)
            )
            await session.execute(
                delete(TufFileRow).where(*of_role, TufFileRow.version < (second or 0), TufFileRow.made_ns < old_ns)
            )

    def _read(self, row: TufFileRow) -> Metadata[Any]:
        """Parsed, and remembered: of each role the last few. Nobody changes what this gives."""
        key = (row.repository, row.role, row.version)
        if key not in self._parsed:
            if len(self._parsed) >= 64:
                self._parsed.clear()
            self._parsed[key] = Metadata.from_bytes(row.content)
        return self._parsed[key]


def delta_target(row: ImageRow) -> TargetFile:
    """The entry of a delta in the role ``deltas``."""
    custom = plain(ImageCustom(must_match=must_match_of(row), description=row.description))
    return TargetFile(row.length, {"sha256": row.sha256, "sha512": row.sha512}, row.filename, {"custom": custom})


def _is_expiring(expires_ns: int, life_ns: int, now_ns: int) -> bool:
    return expires_ns - now_ns < life_ns // 2


def _meta_file(row: TufFileRow) -> MetaFile:
    """Version, length and hash (R11, R12)."""
    return MetaFile(row.version, len(row.content), {"sha256": hashlib.sha256(row.content).hexdigest()})


def _keys_of(role: str, root: Root | None, top: Targets | None) -> tuple[list[str], int]:
    if root is not None and role in root.roles:
        return list(root.roles[role].keyids), root.roles[role].threshold
    delegations: Delegations | None = top.delegations if top else None
    found = (delegations.roles or {}).get(role) if delegations else None
    return (list(found.keyids), found.threshold) if found else ([], 0)


def _newest(repository: str, role: str) -> Select[Any]:
    return (
        select(TufFileRow)
        .where(TufFileRow.repository == repository, TufFileRow.role == role)
        .order_by(TufFileRow.version.desc())
        .limit(1)
    )


async def newest(session: AsyncSession, repository: str, role: str) -> TufFileRow | None:
    """The file of the highest version of a role."""
    found: TufFileRow | None = await session.scalar(_newest(repository, role))
    return found


async def _newest_rows(session: AsyncSession, repository: str) -> list[TufFileRow]:
    last = (
        select(TufFileRow.role, func.max(TufFileRow.version).label("version"))
        .where(TufFileRow.repository == repository)
        .group_by(TufFileRow.role)
        .subquery()
    )
    rows = await session.scalars(
        select(TufFileRow)
        .join(last, (TufFileRow.role == last.c.role) & (TufFileRow.version == last.c.version))
        .where(TufFileRow.repository == repository)
    )
    return list(rows.all())


async def _stored(session: AsyncSession) -> dict[str, ImageFacts]:
    rows = await session.scalars(select(ImageRow).where(ImageRow.state != ImageState.UPLOADING))
    return {row.filename: facts_of(row) for row in rows}


async def _mark_targets(session: AsyncSession, accepted: Accepted) -> int:
    """Bring the images' states in line with what is signed now; how many became targets."""
    count = 0
    for row in await session.scalars(select(ImageRow).where(ImageRow.kind != "delta")):
        signer = accepted.signers.get(row.filename)
        if signer is None:
            row.is_target = False
            if row.state == ImageState.SIGNED:
                row.state = ImageState.STORED
            continue
        row.role = signer
        if not row.is_target:
            row.is_target, count = True, count + 1
        if row.state == ImageState.STORED:
            row.state = ImageState.SIGNED
    return count
