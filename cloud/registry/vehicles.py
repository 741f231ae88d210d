"""The registry: create, find, change and remove vehicles. Speaks structs; rows stay in here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any
from zoneinfo import available_timezones

import msgspec
from sqlalchemy import delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.audit import Actor, record
from cloud.clock import Clock
from cloud.db import Database
from cloud.errors import Conflict, InvalidInput, NotFound
from cloud.identity.authority import check_vehicle_id
from cloud.ingest.model import CheckInRow, StreamRow
from cloud.registry.model import VehicleRow, VehicleState, VehicleTagRow

MAX_TAGS, MAX_TAG_CHARS, MAX_NAME_CHARS, MAX_NOTES_CHARS, MAX_TRAIT_CHARS = 32, 64, 200, 4000, 64
TRAITS = ("model", "region", "usage", "is_critical", "timezone")


class VehicleView(msgspec.Struct, frozen=True):
    """A vehicle as the API shows it. Times are UTC ns, None where it never happened."""

    id: str
    display_name: str
    notes: str
    tags: list[str]
    state: str
    created_ns: int
    enrolled_ns: int | None
    revoked_ns: int | None
    revoked_reason: str
    last_batch_ns: int | None
    last_check_in_ns: int | None
    stored_items: int
    stored_bytes: int
    model: str = ""
    region: str = ""
    usage: str = ""
    is_critical: bool = False
    timezone: str = ""


class Traits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What campaigns select by and spread over. None leaves a value as it is."""

    model: str | None = None
    region: str | None = None
    usage: str | None = None
    is_critical: bool | None = None  # an ambulance, a fire engine: never among the first
    timezone: str | None = None  # IANA name, like "Europe/Vienna"

    @property
    def given(self) -> dict[str, str | bool]:
        """The values to set, cleaned."""
        told = {name: getattr(self, name) for name in TRAITS}
        return {n: v.strip() if isinstance(v, str) else v for n, v in told.items() if v is not None}


class VehicleFilter(msgspec.Struct, frozen=True):
    """Which vehicles to list; "" is any."""

    search: str = ""  # part of id or display name
    state: str = ""
    tag: str = ""
    silent_since_ns: int | None = None  # nothing received since


def check_tags(tags: Sequence[str]) -> list[str]:
    """Tags without doubles, sorted. ``InvalidInput`` for one that is empty, too long, or one too many."""
    clean = sorted({tag.strip() for tag in tags})
    if len(clean) > MAX_TAGS or any(not 1 <= len(tag) <= MAX_TAG_CHARS or not tag.isprintable() for tag in clean):
        raise InvalidInput(f"at most {MAX_TAGS} tags of 1 to {MAX_TAG_CHARS} printable characters", where="tags")
    return clean


def check_texts(display_name: str | None, notes: str | None) -> None:
    """Raises ``InvalidInput`` for a name or notes that cannot be."""
    if display_name is not None and (len(display_name) > MAX_NAME_CHARS or not display_name.isprintable()):
        raise InvalidInput(f"at most {MAX_NAME_CHARS} printable characters", where="display_name")
    if notes is not None and len(notes) > MAX_NOTES_CHARS:
        raise InvalidInput(f"at most {MAX_NOTES_CHARS} characters", where="notes")


@cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones())


def check_traits(traits: Traits) -> None:
    """Raises ``InvalidInput`` for a trait that cannot be."""
    for name, value in traits.given.items():
        if isinstance(value, str) and (len(value) > MAX_TRAIT_CHARS or not value.isprintable()):
            raise InvalidInput(f"at most {MAX_TRAIT_CHARS} printable characters", where=name)
    if traits.timezone and traits.timezone.strip() not in _timezones():
        raise InvalidInput(f"{traits.timezone[:64]!r} is no IANA time zone like Europe/Vienna", where="timezone")


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


class Vehicles:
    """All vehicles of one cloud."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db, self._clock = db, clock

    async def add(
        self,
        vehicle_id: str,
        actor: Actor,
        *,
        display_name: str = "",
        notes: str = "",
        tags: Sequence[str] = (),
        traits: Traits = Traits(),  # noqa: B008 - immutable
    ) -> VehicleView:
        """Register a vehicle.

        Raises:
            InvalidInput: a value cannot be accepted.
            Conflict: the id is taken.
        """
        check_vehicle_id(vehicle_id)
        check_texts(display_name, notes)
        check_traits(traits)
        clean = check_tags(tags)
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            if await session.get(VehicleRow, vehicle_id) is not None:
                raise Conflict(f"there is a vehicle {vehicle_id!r} already")
            session.add(
                VehicleRow(
                    id=vehicle_id,
                    display_name=display_name,
                    notes=notes,
                    state=VehicleState.NEW,
                    created_ns=now_ns,
                    **traits.given,
                )
            )
            await session.flush()
            session.add_all(VehicleTagRow(vehicle_id=vehicle_id, tag=tag) for tag in clean)
            record(session, actor, now_ns, "vehicle.add", vehicle_id)
        return await self.get(vehicle_id)

    async def exists(self, vehicle_id: str) -> bool:
        """Whether the id is registered."""
        async with self._db.read() as session:
            return await session.get(VehicleRow, vehicle_id) is not None

    async def get(self, vehicle_id: str) -> VehicleView:
        """One vehicle. ``NotFound`` when there is none."""
        async with self._db.read() as session:
            rows = (await session.execute(_selection().where(VehicleRow.id == vehicle_id))).all()
            views = await _views(session, rows)
        if not views:
            raise NotFound(f"there is no vehicle {vehicle_id!r}")
        return views[0]

    async def list(self, wanted: VehicleFilter, limit: int, offset: int) -> tuple[list[VehicleView], int]:
        """A page of vehicles by id, and how many match."""
        query = _filtered(_selection(), wanted)
        count = _filtered(select(func.count()).select_from(_joined()), wanted)
        async with self._db.read() as session:
            rows = (await session.execute(query.order_by(VehicleRow.id).limit(limit).offset(offset))).all()
            return await _views(session, rows), (await session.scalar(count)) or 0

    async def tags(self) -> dict[str, int]:
        """All tags and how many vehicles have each."""
        async with self._db.read() as session:
            rows = await session.execute(
                select(VehicleTagRow.tag, func.count()).group_by(VehicleTagRow.tag).order_by(VehicleTagRow.tag)
            )
            return {str(tag): int(count) for tag, count in rows}

    async def change(
        self,
        vehicle_id: str,
        actor: Actor,
        *,
        display_name: str | None = None,
        notes: str | None = None,
        tags: Sequence[str] | None = None,
        traits: Traits = Traits(),  # noqa: B008 - immutable
    ) -> VehicleView:
        """Change what is given. Raises as ``add``, and ``NotFound``."""
        check_texts(display_name, notes)
        check_traits(traits)
        clean = None if tags is None else check_tags(tags)
        async with self._db.write() as session:
            row = await session.get(VehicleRow, vehicle_id)
            if row is None:
                raise NotFound(f"there is no vehicle {vehicle_id!r}")
            if display_name is not None:
                row.display_name = display_name
            if notes is not None:
                row.notes = notes
            for name, value in traits.given.items():
                setattr(row, name, value)
            if clean is not None:
                await session.execute(delete(VehicleTagRow).where(VehicleTagRow.vehicle_id == vehicle_id))
                session.add_all(VehicleTagRow(vehicle_id=vehicle_id, tag=tag) for tag in clean)
            changed = [
                name
                for name, value in (("display_name", display_name), ("notes", notes), ("tags", tags))
                if value is not None
            ]
            changed += list(traits.given)
            record(session, actor, self._clock.now_ns(), "vehicle.change", vehicle_id, ", ".join(changed))
        return await self.get(vehicle_id)


_TOTALS = (
    select(
        StreamRow.vehicle_id.label("vehicle_id"),
        func.max(StreamRow.last_received_ns).label("last_batch_ns"),
        func.sum(StreamRow.stored_items).label("stored_items"),
        func.sum(StreamRow.stored_bytes).label("stored_bytes"),
    )
    .group_by(StreamRow.vehicle_id)
    .subquery("received")
)


def _joined() -> Any:
    return VehicleRow.__table__.outerjoin(_TOTALS, _TOTALS.c.vehicle_id == VehicleRow.id).outerjoin(
        CheckInRow.__table__, CheckInRow.vehicle_id == VehicleRow.id
    )


def _selection() -> Any:
    return select(
        VehicleRow,
        _TOTALS.c.last_batch_ns,
        CheckInRow.received_ns,
        func.coalesce(_TOTALS.c.stored_items, 0),
        func.coalesce(_TOTALS.c.stored_bytes, 0),
    ).select_from(_joined())


def _filtered(query: Any, wanted: VehicleFilter) -> Any:
    if wanted.search:
        pattern = f"%{_escape(wanted.search)}%"
        query = query.where(
            or_(VehicleRow.id.ilike(pattern, escape="\\"), VehicleRow.display_name.ilike(pattern, escape="\\"))
        )
    if wanted.state:
        query = query.where(VehicleRow.state == wanted.state)
    if wanted.tag:
        query = query.where(VehicleRow.id.in_(select(VehicleTagRow.vehicle_id).where(VehicleTagRow.tag == wanted.tag)))
    if wanted.silent_since_ns is not None:
        newest = func.max(func.coalesce(_TOTALS.c.last_batch_ns, 0), func.coalesce(CheckInRow.received_ns, 0))
        query = query.where(VehicleRow.state == VehicleState.ENROLLED, newest < wanted.silent_since_ns)
    return query


async def _views(session: AsyncSession, rows: Sequence[Any]) -> list[VehicleView]:
    ids = [row[0].id for row in rows]
    tags: dict[str, list[str]] = {}
    for start in range(0, len(ids), 500):
        pairs = await session.execute(
            select(VehicleTagRow.vehicle_id, VehicleTagRow.tag)
            .where(VehicleTagRow.vehicle_id.in_(ids[start : start + 500]))
            .order_by(VehicleTagRow.tag)
        )
        for vehicle_id, tag in pairs:
            tags.setdefault(vehicle_id, []).append(tag)
    return [
        VehicleView(
            id=vehicle.id,
            display_name=vehicle.display_name,
            notes=vehicle.notes,
            tags=tags.get(vehicle.id, []),
            state=vehicle.state,
            created_ns=vehicle.created_ns,
            enrolled_ns=vehicle.enrolled_ns,
            revoked_ns=vehicle.revoked_ns,
            revoked_reason=vehicle.revoked_reason,
            last_batch_ns=last_batch_ns or None,
            last_check_in_ns=last_check_in_ns,
            stored_items=items,
            stored_bytes=size,
            **{name: getattr(vehicle, name) for name in TRAITS},
        )
        for vehicle, last_batch_ns, last_check_in_ns, items, size in rows
    ]
