"""Many vehicles at once: registering them, and setting names, tags and traits, from CSV or JSON. All or nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import delete, insert, select, update

from cloud.auth.audit import Actor, record
from cloud.clock import Clock
from cloud.db import Database
from cloud.errors import CloudError, InvalidInput
from cloud.identity.authority import check_vehicle_id
from cloud.registry.model import VehicleRow, VehicleState, VehicleTagRow
from cloud.registry.vehicles import TRAITS, Traits, check_tags, check_texts, check_traits

MAX_LINES = 20_000
MAX_PROBLEMS = 20
AT_ONCE = 500
COLUMNS = ("id", "display_name", "notes", "tags", *TRAITS)
TRUE, FALSE = ("1", "true", "yes"), ("0", "false", "no")


class VehicleLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One vehicle. None leaves what is there; a new vehicle gets the defaults."""

    id: str
    display_name: str | None = None
    notes: str | None = None
    tags: list[str] | None = None
    model: str | None = None
    region: str | None = None
    usage: str | None = None
    is_critical: bool | None = None
    timezone: str | None = None

    def traits(self) -> Traits:
        """The part that campaigns select by."""
        return Traits(**{name: getattr(self, name) for name in TRAITS})


class Imported(msgspec.Struct, frozen=True):
    """What an import did."""

    added: int
    changed: int


def read_csv(content: bytes) -> list[VehicleLine]:
    """Lines of a CSV file with a header; tags are separated by spaces or semicolons, empty cells leave what is there.

    Raises:
        InvalidInput: it is none, or a column is not known.
    """
    try:
        rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        unknown = sorted(set(rows.fieldnames or ()) - set(COLUMNS))
        if "id" not in (rows.fieldnames or ()) or unknown:
            wrong = f"unknown columns {', '.join(map(repr, unknown[:5]))}; " if unknown else ""
            raise InvalidInput(f"{wrong}the header names id and some of {', '.join(COLUMNS[1:])}", where="line 1")
        return [_line(row, number) for number, row in enumerate(rows, 2)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"no CSV in UTF-8: {error}") from error


def _line(row: dict[Any, Any], number: int) -> VehicleLine:
    if None in row or None in row.values():
        raise InvalidInput("as many cells as the header has", where=f"line {number}")
    cells = {name: value.strip() for name, value in row.items() if value.strip()}
    values: dict[str, Any] = dict(cells)
    if "tags" in cells:
        values["tags"] = cells["tags"].replace(";", " ").split()
    if "is_critical" in cells:
        told = cells["is_critical"].lower()
        if told not in (*TRUE, *FALSE):
            raise InvalidInput("yes or no", where=f"line {number}, is_critical")
        values["is_critical"] = told in TRUE
    return VehicleLine(**{"id": "", **values})


def read_json(content: bytes) -> list[VehicleLine]:
    """A JSON list of vehicles. ``InvalidInput`` when it is none."""
    try:
        return msgspec.json.decode(content, type=list[VehicleLine])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(str(error)[:300]) from error


def check_lines(lines: Sequence[VehicleLine]) -> None:
    """Raises ``InvalidInput`` that tells what is wrong with which vehicles."""
    if not 1 <= len(lines) <= MAX_LINES:
        raise InvalidInput(f"1 to {MAX_LINES} vehicles at once")
    problems: list[str] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        try:
            check_vehicle_id(line.id)
            check_texts(line.display_name, line.notes)
            check_tags(line.tags or ())
            check_traits(line.traits())
            if line.id in seen:
                raise InvalidInput("named twice")
        except CloudError as error:
            problems.append(f"vehicle {number} ({line.id[:64]!r}): {error}")
        seen.add(line.id)
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise InvalidInput("nothing was imported: " + "; ".join(problems))


async def import_vehicles(db: Database, clock: Clock, lines: Sequence[VehicleLine], actor: Actor) -> Imported:
    """Register the vehicles that are new, and change those that are not, in one transaction.

    Raises:
        InvalidInput: something is wrong with some; none is touched.
    """
    check_lines(lines)
    now_ns = clock.now_ns()
    async with db.write() as session:
        known: set[str] = set()
        for start in range(0, len(lines), AT_ONCE):
            ids = [line.id for line in lines[start : start + AT_ONCE]]
            known.update(await session.scalars(select(VehicleRow.id).where(VehicleRow.id.in_(ids))))
        fresh = [line for line in lines if line.id not in known]
        if fresh:
            blank = {"state": VehicleState.NEW.value, "created_ns": now_ns, "display_name": "", "notes": ""}
            plain: dict[str, Any] = {"model": "", "region": "", "usage": "", "is_critical": False, "timezone": ""}
            await session.execute(
                insert(VehicleRow), [{**blank, **plain, **_values(line), "id": line.id} for line in fresh]
            )
        for line in lines:
            if line.id in known and (values := _values(line)):
                await session.execute(update(VehicleRow).where(VehicleRow.id == line.id).values(**values))
        tagged = [line for line in lines if line.tags is not None]
        for start in range(0, len(tagged), AT_ONCE):
            some = tagged[start : start + AT_ONCE]
            old = VehicleTagRow.vehicle_id.in_([line.id for line in some])
            await session.execute(delete(VehicleTagRow).where(old))
            tags = [{"vehicle_id": line.id, "tag": tag} for line in some for tag in check_tags(line.tags or ())]
            if tags:
                await session.execute(insert(VehicleTagRow), tags)
        told = f"{len(fresh)} added, {len(known)} changed"
        record(session, actor, now_ns, "vehicle.import", f"{len(lines)} vehicles", told)
    return Imported(len(fresh), len(known))


def _values(line: VehicleLine) -> dict[str, Any]:
    values: dict[str, Any] = dict(line.traits().given)
    if line.display_name is not None:
        values["display_name"] = line.display_name
    if line.notes is not None:
        values["notes"] = line.notes
    return values
