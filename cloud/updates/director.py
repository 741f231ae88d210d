"""The Director: Targets, Snapshot and Timestamp of one vehicle, made when it asks and only when they change (D6).

An open assignment becomes a plan when it is first offered, and the plan becomes the vehicle's Targets; no open
assignment is Targets without images. Either way they name the vehicle (R7). All three files carry one version, the
highest of "one more than the last" and the seconds since 1970, so it never goes back, not even when the database is
restored from a backup. The same content keeps its version until half of its life is over.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from tuf.api.metadata import MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from cloud.auth.audit import SYSTEM, record
from cloud.clock import Clock
from cloud.config import Updates
from cloud.db import Database
from cloud.errors import InvalidInput, Unavailable
from cloud.updates.inventory import deltas_for, policy_of, release_images, vehicle_units
from cloud.updates.keys import OnlineKeys
from cloud.updates.model import (
    OPEN_ASSIGNMENTS,
    AssignmentPlanRow,
    AssignmentRow,
    AssignmentState,
    DirectorFilesRow,
    ReleaseImageRow,
    ReleaseRow,
    ReleaseState,
    VehicleEcuRow,
    VehicleUpdateRow,
)
from cloud.updates.plan import Plan, Unsatisfiable, make_plan
from cloud.updates.repository import Repositories, next_version
from cloud.updates.trust import DIRECTOR, parse_name, time_keys
from cloud.updates.tuf import S_NS, moment, plain, signed_file
from gateway.wire.uptane import (
    TARGETS_FIELD,
    TIME_DOMAIN,
    DirectorCustom,
    DirectorInstructions,
    Signature,
    Signed,
    SignedTime,
)

ROLES = ("targets", "snapshot", "timestamp")
KEEP = 2
DETAIL_CHARS = 400


@dataclass(frozen=True, slots=True)
class _Content:
    """What Targets say, before they are signed."""

    instructions: DirectorInstructions
    plan: Plan | None

    def digest(self, root: Root) -> bytes:
        """Changes with whatever the files would say, and with the keys that sign them."""
        keys = [(role, sorted(root.roles[role].keyids), root.roles[role].threshold) for role in ROLES]
        return hashlib.sha256(msgspec.json.encode((self.instructions, self.plan, keys))).digest()


class Director:
    """Makes and hands out what is of one vehicle."""

    def __init__(
        self, db: Database, clock: Clock, config: Updates, keys: OnlineKeys, repositories: Repositories
    ) -> None:
        self._db, self._clock, self._config, self._keys = db, clock, config, keys
        self._repositories = repositories

    async def file(self, vehicle_id: str, name: str) -> bytes | None:
        """A file of the Director repository as this vehicle sees it; None when there is none of that name."""
        if name == "timestamp.json":
            return await self._timestamp(vehicle_id)
        try:
            role, version = parse_name(name)
        except InvalidInput:
            return None
        if role == "root":
            return await self._repositories.file(DIRECTOR, name)
        if role not in ("targets", "snapshot"):
            return None
        async with self._db.read() as session:
            row = await session.get(DirectorFilesRow, (vehicle_id, version))
        return None if row is None else row.targets if role == "targets" else row.snapshot

    async def time(self, vehicle_id: str, nonce: bytes) -> Signed:
        """The time, signed for this vehicle and this question.

        Raises:
            InvalidInput: a nonce that is too short to be one, or too long.
            Unavailable: the cloud has no root that names its time key.
        """
        if not 16 <= len(nonce) <= 64:
            raise InvalidInput("a nonce has 16 to 64 bytes", where="nonce")
        root = await self._db.read_in_thread(lambda session: self._repositories.root(session, DIRECTOR))
        if root is None:
            raise Unavailable("the Director has no root yet", retry_after_s=600)
        payload = msgspec.json.encode(SignedTime(vehicle_id, nonce, self._clock.now_ns()))
        signatures = []
        for signer in self._keys.signers(time_keys(root)[0]):
            value = bytes.fromhex(signer.sign(TIME_DOMAIN + payload).signature)
            digest = hashlib.sha256(payload).digest()
            key = signer.public_key
            signatures.append(Signature(key_id=key.keyid, method=key.scheme, value=value, digest=digest))
        return Signed(payload=payload, signatures=tuple(signatures))

    async def mark(self, session: AsyncSession, vehicle_id: str) -> str:
        """For ``CheckInReply.update_mark``: the newest assignment, and whether it is still open."""
        row = (
            await session.execute(
                select(AssignmentRow.id, AssignmentRow.state)
                .where(AssignmentRow.vehicle_id == vehicle_id)
                .order_by(AssignmentRow.id.desc())
                .limit(1)
            )
        ).first()
        return "" if row is None else f"{row.id}" if row.state in OPEN_ASSIGNMENTS else f"{row.id}."

    async def offer_again(self, base_sha256: str, target_image_id: int) -> None:
        """A delta is ready: vehicles that were offered the image and have not begun get it with their next look."""
        waiting = (
            select(AssignmentRow.id)
            .join(VehicleEcuRow, VehicleEcuRow.vehicle_id == AssignmentRow.vehicle_id)
            .join(ReleaseImageRow, ReleaseImageRow.release_id == AssignmentRow.release_id)
            .where(
                AssignmentRow.state == AssignmentState.OFFERED,
                VehicleEcuRow.sha256 == base_sha256,
                ReleaseImageRow.image_id == target_image_id,
            )
        )
        async with self._db.write() as session:
            await session.execute(
                delete(AssignmentPlanRow)
                .where(AssignmentPlanRow.assignment_id.in_(waiting))
                .execution_options(synchronize_session=False)
            )

    async def _timestamp(self, vehicle_id: str) -> bytes | None:
        root, found = await self._db.read_in_thread(lambda session: self._kept(session, vehicle_id))
        if root is None or found is not None:
            return found
        return await self._db.write_in_thread(lambda session: self._make(session, vehicle_id, root))

    def _kept(self, session: Session, vehicle_id: str) -> tuple[Root | None, bytes | None]:
        """The root in force, and the Timestamp if it need not be made anew."""
        root = self._repositories.root(session, DIRECTOR)
        if root is None:
            return None, None
        open_one = open_assignment(session, vehicle_id)
        plan = session.get(AssignmentPlanRow, open_one.id) if open_one else None
        if open_one is not None and (plan is None or open_one.state == AssignmentState.ASSIGNED):
            return root, None
        content = self._content(session, vehicle_id, open_one, plan)
        row = self._current(session, vehicle_id, content.digest(root))
        return root, row.timestamp if row else None

    def _current(self, session: Session, vehicle_id: str, digest: bytes) -> DirectorFilesRow | None:
        """The files in force, if they say this and live long enough."""
        state = session.get(VehicleUpdateRow, vehicle_id)
        if state is None or state.content_digest != digest:
            return None
        if state.expires_ns - self._clock.now_ns() < self._config.director_s * S_NS / 2:
            return None
        return session.get(DirectorFilesRow, (vehicle_id, state.targets_version))

    def _make(self, session: Session, vehicle_id: str, root: Root) -> bytes:
        now_ns = self._clock.now_ns()
        open_one = open_assignment(session, vehicle_id)
        plan = self._offer(session, open_one, now_ns) if open_one else None
        if open_one is not None and open_one.state not in OPEN_ASSIGNMENTS:
            open_one = None  # it just turned out that it cannot be done
        content = self._content(session, vehicle_id, open_one if plan else None, plan)
        digest = content.digest(root)
        row = self._current(session, vehicle_id, digest)
        if row is None:
            row = self._write(session, vehicle_id, content, digest, root, now_ns)
        return row.timestamp

    def _offer(self, session: Session, assignment: AssignmentRow, now_ns: int) -> AssignmentPlanRow | None:
        """The assignment's plan, made now if there is none. None: it waits for an inventory, or failed."""
        plan = session.get(AssignmentPlanRow, assignment.id)
        if plan is None:
            try:
                made = plan_for(session, assignment)
            except Unsatisfiable as error:
                finish(assignment, AssignmentState.FAILED, now_ns, str(error))
                record(session, SYSTEM, now_ns, "update.impossible", assignment.vehicle_id, str(error))
                return None
            if made is None:
                assignment.detail = "waiting for the vehicle to register its ECUs"
                return None
            plan = AssignmentPlanRow(assignment_id=assignment.id, plan=msgspec.json.encode(made), made_ns=now_ns)
            session.add(plan)
        if assignment.state == AssignmentState.ASSIGNED:
            assignment.state, assignment.offered_ns, assignment.detail = AssignmentState.OFFERED, now_ns, ""
        return plan

    def _content(
        self,
        session: Session,
        vehicle_id: str,
        assignment: AssignmentRow | None,
        plan_row: AssignmentPlanRow | None,
    ) -> _Content:
        if assignment is None or plan_row is None:
            return _Content(DirectorInstructions(vehicle=vehicle_id), None)
        plan = msgspec.json.decode(plan_row.plan, type=Plan)
        release = session.get(ReleaseRow, assignment.release_id)
        instructions = DirectorInstructions(
            vehicle=vehicle_id,
            assignment=str(assignment.id),
            campaign=str(assignment.campaign_id or ""),
            release=release.name if release else "",
            sets=plan.sets,
            policy=plan.policy,
        )
        return _Content(instructions, plan)

    async def long_lived(self, vehicle_id: str, life_ns: int) -> dict[str, bytes]:
        """Everything a bundle needs, good for ``life_ns``; the cloud goes on above it with a version of normal life.

        Raises:
            Unavailable: there is no root yet.
        """
        found = await self._db.write_in_thread(lambda session: self._make_both(session, vehicle_id, life_ns))
        roots = await self._repositories.files(DIRECTOR)
        return {**{name: content for name, content in roots.items() if name.endswith(".root.json")}, **found}

    def _make_both(self, session: Session, vehicle_id: str, life_ns: int) -> dict[str, bytes]:
        root = self._repositories.root(session, DIRECTOR)
        if root is None:
            raise Unavailable("the Director has no root yet", retry_after_s=600)
        now_ns = self._clock.now_ns()
        self._make(session, vehicle_id, root)
        open_one = open_assignment(session, vehicle_id)
        plan = session.get(AssignmentPlanRow, open_one.id) if open_one else None
        content = self._content(session, vehicle_id, open_one if plan else None, plan)
        row = self._write(session, vehicle_id, content, b"", root, now_ns, life_ns)
        self._write(session, vehicle_id, content, content.digest(root), root, now_ns)
        return {
            "timestamp.json": row.timestamp,
            f"{row.version}.snapshot.json": row.snapshot,
            f"{row.version}.targets.json": row.targets,
        }

    def _write(
        self,
        session: Session,
        vehicle_id: str,
        content: _Content,
        digest: bytes,
        root: Root,
        now_ns: int,
        life_ns: int = 0,
    ) -> DirectorFilesRow:
        state = session.get(VehicleUpdateRow, vehicle_id)
        if state is None:
            state = VehicleUpdateRow(vehicle_id=vehicle_id, targets_version=0)
            session.add(state)
        last = self._newest(session, vehicle_id)
        version = next_version(max(state.targets_version or 0, last.version if last else 0), now_ns)
        expires_ns = now_ns + (life_ns or int(self._config.director_s * S_NS))
        row = self.sign(vehicle_id, content.instructions, content.plan, root, version, expires_ns)
        session.add(row)
        state.targets_version = state.snapshot_version = state.timestamp_version = version
        state.content_digest, state.expires_ns = digest, expires_ns
        session.flush()
        kept = (
            select(DirectorFilesRow.version)
            .where(DirectorFilesRow.vehicle_id == vehicle_id)
            .order_by(DirectorFilesRow.version.desc())
            .limit(KEEP)
        )
        versions = (session.scalars(kept)).all()
        session.execute(
            delete(DirectorFilesRow).where(
                DirectorFilesRow.vehicle_id == vehicle_id, DirectorFilesRow.version < min(versions)
            )
        )
        return row

    def sign(
        self,
        vehicle_id: str,
        instructions: DirectorInstructions,
        plan: Plan | None,
        root: Root,
        version: int,
        expires_ns: int,
    ) -> DirectorFilesRow:
        """The three files; touches no database."""
        targets = {}
        for item in plan.targets if plan else ():
            custom = DirectorCustom(
                must_match=item.must_match, ecus=item.ecus, deltas=item.deltas, fallback=item.fallback
            )
            name, hashes = item.file.filename, dict(item.file.hashes)
            targets[name] = TargetFile(item.file.length, hashes, name, {"custom": plain(custom)})
        expires = moment(expires_ns)
        fields = {TARGETS_FIELD: plain(instructions)}
        first = signed_file(
            Targets(version=version, expires=expires, targets=targets, unrecognized_fields=fields),
            self._keys.signers(root.roles["targets"].keyids),
        )
        second = signed_file(
            Snapshot(version=version, expires=expires, meta={"targets.json": _meta(version, first)}),
            self._keys.signers(root.roles["snapshot"].keyids),
        )
        third = signed_file(
            Timestamp(version=version, expires=expires, snapshot_meta=_meta(version, second)),
            self._keys.signers(root.roles["timestamp"].keyids),
        )
        return DirectorFilesRow(vehicle_id=vehicle_id, version=version, targets=first, snapshot=second, timestamp=third)

    @staticmethod
    def _newest(session: Session, vehicle_id: str) -> DirectorFilesRow | None:
        found: DirectorFilesRow | None = session.scalar(
            select(DirectorFilesRow)
            .where(DirectorFilesRow.vehicle_id == vehicle_id)
            .order_by(DirectorFilesRow.version.desc())
            .limit(1)
        )
        return found


def _meta(version: int, content: bytes) -> MetaFile:
    return MetaFile(version, len(content), {"sha256": hashlib.sha256(content).hexdigest()})


def open_assignment(session: Session, vehicle_id: str) -> AssignmentRow | None:
    """The vehicle's open assignment; there is at most one."""
    found: AssignmentRow | None = session.scalar(
        select(AssignmentRow).where(
            AssignmentRow.vehicle_id == vehicle_id, AssignmentRow.state.in_([str(s) for s in OPEN_ASSIGNMENTS])
        )
    )
    return found


def plan_for(session: Session, assignment: AssignmentRow) -> Plan | None:
    """What an assignment means for its vehicle as it is now; None while its ECUs are not known.

    Raises:
        Unsatisfiable: it cannot be done.
    """
    release = session.get(ReleaseRow, assignment.release_id)
    if release is None or release.state != ReleaseState.PUBLISHED:
        raise Unsatisfiable("the release is not published")
    units = vehicle_units(session, assignment.vehicle_id)
    if not units:
        return None
    images = release_images(session, assignment.release_id)
    lost = [item.image.file.filename for item in images if not item.image.is_target]
    if lost:
        raise Unsatisfiable(f"{lost[0]} is no longer signed for")
    deltas = deltas_for(session, units, images)
    return make_plan(units, images, deltas, policy_of(session, assignment))


def finish(assignment: AssignmentRow, state: AssignmentState, now_ns: int, detail: str = "", attack: str = "") -> None:
    """End an assignment; one that has ended stays as it is."""
    if assignment.state in OPEN_ASSIGNMENTS:
        assignment.state, assignment.finished_ns = state, now_ns
        assignment.detail, assignment.attack = detail[:DETAIL_CHARS], attack or assignment.attack
