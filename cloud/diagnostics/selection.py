"""Which vehicles a job or a statistic is about, as one condition for SQL: vehicles are never listed in memory."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Select, or_, select

from cloud.diagnostics.model import FaultRow
from cloud.errors import InvalidInput
from cloud.ingest.model import CheckInRow
from cloud.registry.model import VehicleRow, VehicleState, VehicleTagRow
from gateway.wire.dtc import parse_dtc

MAX_NAMED = 1_000
MAX_WORD_CHARS = 200


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Filters that must all hold; "" and empty mean any. Only enrolled vehicles are ever selected for a job."""

    vehicles: tuple[str, ...] = ()  # these
    search: str = ""  # part of id or display name
    tag: str = ""
    software: str = ""  # as reported, exactly; a trailing * stands for any ending
    fault: str = ""  # has this code now, e.g. P0AA6 (any failure type) or P0AA6-16

    @property
    def is_everyone(self) -> bool:
        """Whether no filter is set."""
        return self == Selection()


def check_selection(wanted: Selection) -> None:
    """Raises ``InvalidInput`` for what can never match by mistake."""
    if len(wanted.vehicles) > MAX_NAMED:
        raise InvalidInput(f"at most {MAX_NAMED} vehicles by name; use a filter for more", where="filter.vehicles")
    for name in ("search", "tag", "software", "fault"):
        if len(getattr(wanted, name)) > MAX_WORD_CHARS:
            raise InvalidInput(f"at most {MAX_WORD_CHARS} characters", where=f"filter.{name}")
    if wanted.fault:
        code_range(wanted.fault, "filter.fault")


def code_range(text: str, where: str) -> tuple[int, int]:
    """First and last code that are meant: one, or all failure types of a two-byte code.

    Raises:
        InvalidInput: no code.
    """
    try:
        code = parse_dtc(text)
    except ValueError as error:
        raise InvalidInput(str(error)[:200], where=where) from error
    return (code, code | 0xFF) if len(text.strip()) == 5 else (code, code)


def _like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def vehicle_ids(wanted: Selection, *, enrolled: bool = False) -> Select[Any]:
    """The ids of the vehicles selected."""
    query = select(VehicleRow.id)
    if enrolled:
        query = query.where(VehicleRow.state == VehicleState.ENROLLED.value)
    if wanted.vehicles:
        query = query.where(VehicleRow.id.in_(wanted.vehicles))
    if wanted.search:
        pattern = f"%{_like(wanted.search)}%"
        query = query.where(
            or_(VehicleRow.id.ilike(pattern, escape="\\"), VehicleRow.display_name.ilike(pattern, escape="\\"))
        )
    if wanted.tag:
        query = query.where(VehicleRow.id.in_(select(VehicleTagRow.vehicle_id).where(VehicleTagRow.tag == wanted.tag)))
    if wanted.software:
        query = query.where(VehicleRow.id.in_(select(CheckInRow.vehicle_id).where(software_is(wanted.software))))
    if wanted.fault:
        first, last = code_range(wanted.fault, "filter.fault")
        having = select(FaultRow.vehicle_id).where(FaultRow.is_present.is_(True), FaultRow.code.between(first, last))
        query = query.where(VehicleRow.id.in_(having))
    return query


def software_is(wanted: str) -> Any:
    """The condition on the last reported software."""
    if wanted.endswith("*"):
        return CheckInRow.software.startswith(wanted[:-1], autoescape=True)
    return CheckInRow.software == wanted
