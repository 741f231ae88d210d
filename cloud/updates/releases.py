"""Releases: images that belong together, their rules, and whether they may be given to vehicles."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.audit import Actor, record
from cloud.clock import Clock
from cloud.db import Database
from cloud.errors import Conflict, InvalidInput, NotFound
from cloud.updates.delta.tables import DeltaJobRow
from cloud.updates.model import (
    OPEN_ASSIGNMENTS,
    AssignmentRow,
    AssignmentState,
    ImageRow,
    ImageRuleRow,
    ImageState,
    ReleaseImageRow,
    ReleaseRow,
    ReleaseState,
    VehicleEcuRow,
)
from cloud.updates.views import ImageView, hardware_of, image_view

MAX_IMAGES, MAX_RULES = 200, 64


class RuleFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dependency or conflict: ``requires`` or ``conflicts`` with what ECUs of that hardware id run."""

    rule: str
    hardware_id: str
    version: str = ""  # exactly this; "": any
    min_counter: int | None = None  # at least this release counter


class ReleaseItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image of a release. ``ecu`` "" is every ECU that fits; a payload's name for schemes, models and the like."""

    image_id: int
    ecu: str = ""
    set_number: int = 0  # the same number: all or nothing
    position: int = 0  # order within the set
    rules: list[RuleFacts] | None = None  # None: those the image has


class NewRelease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A release to make."""

    name: str
    images: list[ReleaseItem] = []
    notes: str = ""
    needs_consent: bool = False
    is_critical: bool = False


class ReleaseChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a draft shall change; None stays."""

    images: list[ReleaseItem] | None = None
    notes: str | None = None
    needs_consent: bool | None = None
    is_critical: bool | None = None


class ReleaseItemView(msgspec.Struct, frozen=True):
    """An image of a release as the API shows it."""

    image: ImageView
    ecu: str
    set_number: int
    position: int
    rules: list[RuleFacts]


class ReleaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A release."""

    id: int
    name: str
    notes: str
    state: str
    needs_consent: bool
    is_critical: bool
    created_ns: int
    created_by: str
    published_ns: int | None
    images: list[ReleaseItemView]
    assignments: dict[str, int]  # by state


class Withdrawn(msgspec.Struct, frozen=True):
    """How many vehicles were still on their way to it."""

    cancelled: int


class Releases:
    """All releases of one cloud."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db, self._clock = db, clock

    async def add(self, wanted: NewRelease, actor: Actor) -> ReleaseView:
        """Make a draft. Raises ``InvalidInput``, ``Conflict`` (the name is taken), ``NotFound`` (an image)."""
        name = wanted.name.strip()
        if not 1 <= len(name) <= 100 or not name.isprintable():
            raise InvalidInput("1 to 100 printable characters", where="name")
        _check_notes(wanted.notes)
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            if await session.scalar(select(ReleaseRow.id).where(ReleaseRow.name == name)) is not None:
                raise Conflict(f"there is a release {name!r} already")
            row = ReleaseRow(
                name=name,
                notes=wanted.notes,
                state=ReleaseState.DRAFT,
                created_ns=now_ns,
                created_by=actor.name,
                needs_consent=wanted.needs_consent,
                is_critical=wanted.is_critical,
            )
            session.add(row)
            await session.flush()
            await _set_images(session, row.id, wanted.images)
            record(session, actor, now_ns, "release.add", name)
        return await self.get(row.id)

    async def change(self, release_id: int, wanted: ReleaseChange, actor: Actor) -> ReleaseView:
        """Change a draft. Raises as ``add``, and ``Conflict``: it is no draft any more."""
        async with self._db.write() as session:
            row = await _row(session, release_id)
            if row.state != ReleaseState.DRAFT:
                raise Conflict(f"{row.name} is {row.state}; what was published is never changed")
            if wanted.notes is not None:
                _check_notes(wanted.notes)
                row.notes = wanted.notes
            row.needs_consent = row.needs_consent if wanted.needs_consent is None else wanted.needs_consent
            row.is_critical = row.is_critical if wanted.is_critical is None else wanted.is_critical
            if wanted.images is not None:
                await _set_images(session, release_id, wanted.images)
            record(session, actor, self._clock.now_ns(), "release.change", row.name)
        return await self.get(release_id)

    async def get(self, release_id: int) -> ReleaseView:
        """One release. ``NotFound`` when there is none."""
        async with self._db.read() as session:
            return await _view(session, await _row(session, release_id))

    async def by_name(self, name: str) -> ReleaseView:
        """One release by its name or number. ``NotFound`` when there is none."""
        async with self._db.read() as session:
            row = await session.scalar(select(ReleaseRow).where(ReleaseRow.name == name))
            if row is None and name.isascii() and name.isdigit():
                row = await session.get(ReleaseRow, int(name[:18]))
            if row is None:
                raise NotFound(f"there is no release {name!r}")
            return await _view(session, row)

    async def list(self, limit: int, offset: int, state: str = "") -> tuple[list[ReleaseView], int]:
        """A page of releases, newest first, and how many there are."""
        query, count = select(ReleaseRow), select(func.count()).select_from(ReleaseRow)
        if state:
            query, count = query.where(ReleaseRow.state == state), count.where(ReleaseRow.state == state)
        async with self._db.read() as session:
            rows = (await session.scalars(query.order_by(ReleaseRow.id.desc()).limit(limit).offset(offset))).all()
            return [await _view(session, row) for row in rows], (await session.scalar(count)) or 0

    async def publish(self, release_id: int, actor: Actor) -> ReleaseView:
        """Let a release be assigned; all its images must be signed for. Idempotent.

        Raises:
            NotFound: no such release.
            Conflict: it has no images, one is not signed for, or it was withdrawn.
        """
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            row = await _row(session, release_id)
            if row.state == ReleaseState.WITHDRAWN:
                raise Conflict(f"{row.name} was withdrawn; make a new release")
            if row.state == ReleaseState.DRAFT:
                images = (await session.scalars(_images_of(release_id))).all()
                if not images:
                    raise Conflict(f"{row.name} has no images")
                if unsigned := sorted(image.filename for image in images if not image.is_target):
                    raise Conflict(f"not signed for yet: {', '.join(unsigned[:5])}")
                if gone := sorted(image.filename for image in images if image.state == ImageState.WITHDRAWN):
                    raise Conflict(f"withdrawn: {', '.join(gone[:5])}")
                row.state, row.published_ns = ReleaseState.PUBLISHED, now_ns
                record(session, actor, now_ns, "release.publish", row.name)
        return await self.get(release_id)

    async def withdraw(self, release_id: int, actor: Actor) -> Withdrawn:
        """Never offer it again; vehicles on their way to it are called back. Idempotent. Raises ``NotFound``."""
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            row = await _row(session, release_id)
            if row.state != ReleaseState.WITHDRAWN:
                row.state = ReleaseState.WITHDRAWN
                record(session, actor, now_ns, "release.withdraw", row.name)
            done = await session.execute(
                update(AssignmentRow)
                .where(
                    AssignmentRow.release_id == release_id,
                    AssignmentRow.state.in_([str(state) for state in OPEN_ASSIGNMENTS]),
                )
                .values(state=AssignmentState.CANCELLED, finished_ns=now_ns, detail="the release was withdrawn")
                .returning(AssignmentRow.id)
                .execution_options(synchronize_session=False)
            )
            return Withdrawn(len(done.all()))

    async def delta_pairs(self, release_id: int, most: int) -> Sequence[tuple[int, int]]:
        """(base image, target image) worth a delta, for which nobody has asked yet.

        Bases are what vehicles with fitting hardware run now, most vehicles first.
        """
        pairs = []
        async with self._db.read() as session:
            for target in (await session.scalars(_images_of(release_id))).all():
                bases = await session.execute(
                    select(ImageRow.id, func.count())
                    .join(VehicleEcuRow, VehicleEcuRow.sha256 == ImageRow.sha256)
                    .where(
                        VehicleEcuRow.hardware_id.in_(hardware_of(target)),
                        ImageRow.kind == target.kind,
                        ImageRow.id != target.id,
                        ImageRow.sha256 != target.sha256,
                        ImageRow.state != ImageState.UPLOADING,
                        ImageRow.id.not_in(
                            select(DeltaJobRow.base_image_id).where(DeltaJobRow.target_image_id == target.id)
                        ),
                    )
                    .group_by(ImageRow.id)
                    .order_by(func.count().desc(), ImageRow.id)
                    .limit(most)
                )
                pairs += [(base_id, target.id) for base_id, _ in bases]
        return pairs


def _check_notes(notes: str) -> None:
    if len(notes) > 4000:
        raise InvalidInput("at most 4000 characters", where="notes")


def _images_of(release_id: int):  # type: ignore[no-untyped-def]  # SQLAlchemy's own type names the row twice
    return (
        select(ImageRow)
        .join(ReleaseImageRow, ReleaseImageRow.image_id == ImageRow.id)
        .where(ReleaseImageRow.release_id == release_id)
        .distinct()
        .order_by(ImageRow.id)
    )


async def _row(session: AsyncSession, release_id: int) -> ReleaseRow:
    row = await session.get(ReleaseRow, release_id)
    if row is None:
        raise NotFound(f"there is no release {release_id}")
    return row


async def _set_images(session: AsyncSession, release_id: int, items: list[ReleaseItem]) -> None:
    if len(items) > MAX_IMAGES:
        raise InvalidInput(f"at most {MAX_IMAGES} images", where="images")
    await session.execute(delete(ReleaseImageRow).where(ReleaseImageRow.release_id == release_id))
    seen: set[tuple[int, str]] = set()
    for number, item in enumerate(items):
        where = f"images[{number}]"
        image = await session.get(ImageRow, item.image_id)
        if image is None or image.kind == "delta":
            raise NotFound(f"there is no image {item.image_id}")
        if (item.image_id, item.ecu) in seen:
            raise InvalidInput(f"{image.filename} is named twice", where=where)
        if len(item.ecu) > 64 or not 0 <= item.set_number <= 999 or not 0 <= item.position <= 999:
            raise InvalidInput("an ECU of at most 64 characters, numbers of 0 to 999", where=where)
        seen.add((item.image_id, item.ecu))
        session.add(
            ReleaseImageRow(
                release_id=release_id,
                image_id=item.image_id,
                ecu=item.ecu,
                set_number=item.set_number,
                position=item.position,
            )
        )
        if item.rules is not None:
            await _set_rules(session, image, item.rules, where)


async def _set_rules(session: AsyncSession, image: ImageRow, rules: list[RuleFacts], where: str) -> None:
    """Rules belong to the image, for they hold wherever it is installed."""
    if len(rules) > MAX_RULES:
        raise InvalidInput(f"at most {MAX_RULES} rules", where=where)
    await session.execute(delete(ImageRuleRow).where(ImageRuleRow.image_id == image.id))
    for rule in rules:
        if (
            rule.rule not in {"requires", "conflicts"}
            or not 1 <= len(rule.hardware_id) <= 64
            or len(rule.version) > 100
        ):
            raise InvalidInput("a rule requires or conflicts with a hardware id", where=f"{where}.rules")
        if rule.min_counter is not None and not 0 <= rule.min_counter < 1 << 53:
            raise InvalidInput("not a count", where=f"{where}.rules")
        session.add(
            ImageRuleRow(
                image_id=image.id,
                rule=rule.rule,
                hardware_id=rule.hardware_id,
                version=rule.version,
                min_counter=rule.min_counter,
            )
        )


async def _view(session: AsyncSession, row: ReleaseRow) -> ReleaseView:
    items = (
        await session.execute(
            select(ReleaseImageRow, ImageRow)
            .join(ImageRow, ImageRow.id == ReleaseImageRow.image_id)
            .where(ReleaseImageRow.release_id == row.id)
            .order_by(ReleaseImageRow.set_number, ReleaseImageRow.position, ImageRow.id, ReleaseImageRow.ecu)
        )
    ).all()
    rules: dict[int, list[RuleFacts]] = {}
    for rule in await session.scalars(
        select(ImageRuleRow)
        .where(ImageRuleRow.image_id.in_([image.id for _, image in items]))
        .order_by(ImageRuleRow.id)
    ):
        facts = RuleFacts(rule.rule, rule.hardware_id, rule.version, rule.min_counter)
        rules.setdefault(rule.image_id, []).append(facts)
    counts = await session.execute(
        select(AssignmentRow.state, func.count())
        .where(AssignmentRow.release_id == row.id)
        .group_by(AssignmentRow.state)
    )
    return ReleaseView(
        id=row.id,
        name=row.name,
        notes=row.notes,
        state=row.state,
        needs_consent=row.needs_consent,
        is_critical=row.is_critical,
        created_ns=row.created_ns,
        created_by=row.created_by,
        published_ns=row.published_ns,
        images=[
            ReleaseItemView(image_view(image), item.ecu, item.set_number, item.position, rules.get(image.id, []))
            for item, image in items
        ],
        assignments={str(state): int(count) for state, count in counts},
    )
