"""Who belongs to a campaign, and in which order: one statement each, whatever the fleet's size.

The order is drawn once, from the campaign's seed: vehicles are shuffled within their stratum (model, region, usage) and
the strata are spread evenly over the whole order, so that every beginning of it, and so every phase, holds each
stratum's share to within about one vehicle. Critical vehicles come after all others.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Select, and_, case, cast, exists, func, insert, literal, or_, select, text
from sqlalchemy import String as SqlString
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.campaigns.model import MemberRow
from cloud.campaigns.plan import Plan
from cloud.diagnostics.selection import vehicle_ids
from cloud.registry.model import VehicleRow, VehicleState, VehicleTagRow
from cloud.updates.model import ImageRow, ReleaseImageRow, VehicleEcuRow

#: Why a selected vehicle is left out → in words.
EXCLUDED = {
    "not_enrolled": "not enrolled, or revoked",
    "critical": "critical, and the campaign excludes those",
    "no_inventory": "has not told its ECUs yet",
    "other_hardware": "no ECU that an image of the release fits",
    "newer_installed": "runs something newer that must not be replaced by this",
    "up_to_date": "runs all of it already",
}
#: Kinds whose image an ECU reports as installed; others (models, schemes …) are beside it.
WHOLE_KINDS = ("rootfs", "firmware")
ROOM_KIB = 128 * 1024
#: Rows of the last statement; the driver does not count those of one that begins with WITH.
CHANGES = text("SELECT changes()")
SPREAD = 1_000_003  # a prime: the remainder of a draw spreads small strata over the order


def draw_number(text: str) -> int:
    """The first 60 bits of the text's MD5: the same in every database, e.g. PostgreSQL's ``md5``. No secret in it."""
    return int(hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()[:15], 16)


async def add_draw_function(session: AsyncSession) -> None:
    """Give the session's connection the function ``outrider_draw(text)``; SQLite has no hash of its own."""
    raw: Any = await (await session.connection()).get_raw_connection()
    await raw.driver_connection.create_function("outrider_draw", 1, draw_number, deterministic=True)


@asynccontextmanager
async def roomy(session: AsyncSession) -> AsyncIterator[None]:
    """More cache for a statement over the whole fleet: with SQLite's 2 MB it reads most pages many times."""
    await session.execute(text(f"PRAGMA cache_size = -{ROOM_KIB}"))
    try:
        yield
    finally:
        await session.execute(text("PRAGMA cache_size = -2000"))


def targets_of(release_id: int) -> Any:
    """The release's images, one row for each hardware id."""
    hardware = func.json_each(cast(ImageRow.hardware_ids, SqlString)).table_valued("value", name="hw")
    return (
        select(
            ReleaseImageRow.ecu.label("ecu"),
            hardware.c.value.label("hardware_id"),
            ImageRow.id.label("image_id"),
            ImageRow.sha256.label("sha256"),
            ImageRow.length.label("length"),
            ImageRow.release_counter.label("release_counter"),
            ImageRow.kind.in_(WHOLE_KINDS).label("is_whole"),
        )
        .select_from(ReleaseImageRow)
        .join(ImageRow, ImageRow.id == ReleaseImageRow.image_id)
        .join(hardware, literal(True))
        .where(ReleaseImageRow.release_id == release_id)
        .cte()
    )


def fits(ecu: Any, target: Any) -> Any:
    """The condition that a target is for an ECU."""
    return and_(ecu.hardware_id == target.c.hardware_id, or_(target.c.ecu == "", target.c.ecu == ecu.ecu))


def selected_ids(plan: Plan) -> Select[Any]:
    """The ids of the vehicles that the filter selects, enrolled or not."""
    wanted = plan.filter
    query = vehicle_ids(wanted.plain())
    for column, choices in (
        (VehicleRow.model, wanted.model),
        (VehicleRow.region, wanted.region),
        (VehicleRow.usage, wanted.usage),
    ):
        if choices:
            query = query.where(column.in_(choices))
    if wanted.without_tags:
        tagged = select(VehicleTagRow.vehicle_id).where(VehicleTagRow.tag.in_(wanted.without_tags))
        query = query.where(VehicleRow.id.not_in(tagged))
    if wanted.hardware_id:
        has = select(VehicleEcuRow.vehicle_id).where(VehicleEcuRow.hardware_id == wanted.hardware_id)
        query = query.where(VehicleRow.id.in_(has))
    if wanted.image:
        version = VehicleEcuRow.version
        is_it = (
            version.startswith(wanted.image[:-1], autoescape=True)
            if wanted.image.endswith("*")
            else version == wanted.image
        )
        query = query.where(VehicleRow.id.in_(select(VehicleEcuRow.vehicle_id).where(is_it)))
    return query


def candidates(plan: Plan, enrolled_since_ns: int | None = None) -> Any:
    """Every selected vehicle with its stratum and ``reason``: why it is left out, "" when it is not.

    Args:
        plan: whom it selects.
        enrolled_since_ns: only vehicles enrolled later than that.
    """
    target = targets_of(plan.release)
    ecu = VehicleEcuRow
    fitting = (
        select(
            ecu.vehicle_id.label("vehicle_id"),
            func.max(case((and_(target.c.is_whole, ecu.sha256 == target.c.sha256), 0), else_=1)).label("needs"),
            func.max(case((and_(target.c.is_whole, ecu.release_counter > target.c.release_counter), 1), else_=0)).label(
                "newer"
            ),
        )
        .join(target, fits(ecu, target))
        .group_by(ecu.vehicle_id)
    )
    newcomers = None if enrolled_since_ns is None else VehicleRow.enrolled_ns > enrolled_since_ns
    if newcomers is not None:
        fitting = fitting.where(ecu.vehicle_id.in_(select(VehicleRow.id).where(newcomers)))
    fit = fitting.subquery("fit")
    reasons = [(VehicleRow.state != VehicleState.ENROLLED.value, "not_enrolled")]
    if plan.critical == "exclude":
        reasons.append((VehicleRow.is_critical.is_(True), "critical"))
    unknown = ~exists().where(ecu.vehicle_id == VehicleRow.id)
    reasons += [
        (and_(fit.c.vehicle_id.is_(None), unknown), "no_inventory"),
        (fit.c.vehicle_id.is_(None), "other_hardware"),
        (fit.c.newer == 1, "newer_installed"),
        (fit.c.needs == 0, "up_to_date"),
    ]
    query = select(
        VehicleRow.id.label("id"),
        VehicleRow.model.label("model"),
        VehicleRow.region.label("region"),
        VehicleRow.usage.label("usage"),
        VehicleRow.is_critical.label("is_critical"),
        case(*reasons, else_="").label("reason"),
    ).select_from(VehicleRow.__table__.outerjoin(fit, fit.c.vehicle_id == VehicleRow.id))
    if not plan.filter.is_everyone:
        query = query.where(VehicleRow.id.in_(selected_ids(plan)))
    if newcomers is not None:
        query = query.where(newcomers)
    return query.subquery("candidates")


def order_of(chosen: Any, seed: int) -> Any:
    """(id, position) of each row of ``chosen`` in the drawn order, positions from 1."""
    draw = func.outrider_draw
    with_number = select(chosen, draw(literal(f"{seed}:").concat(chosen.c.id)).label("number"))
    numbered = with_number.cte("numbered").prefix_with("MATERIALIZED")
    # One window for all three, so that the fleet is sorted by stratum once.
    whole: dict[str, Any] = {
        "partition_by": (numbered.c.is_critical, numbered.c.model, numbered.c.region, numbered.c.usage),
        "order_by": (numbered.c.number, numbered.c.id),
        "rows": (None, None),
    }
    in_stratum, size = func.row_number().over(**whole), func.count().over(**whole)
    # Where in its stratum's steps the first vehicle comes: the same for the whole stratum, another for each, so that
    # strata of one vehicle do not all come at the same place.
    start = (func.max(numbered.c.number).over(**whole) % SPREAD) * (1.0 / SPREAD)
    placed = select(
        numbered.c.id, numbered.c.is_critical, numbered.c.number, ((in_stratum - start) / size).label("place")
    ).subquery("placed")
    order = (placed.c.is_critical, placed.c.place, placed.c.number, placed.c.id)
    return select(placed.c.id, func.row_number().over(order_by=order).label("position"))


async def draw_members(session: AsyncSession, campaign_id: int, plan: Plan, seed: int) -> int:
    """Fix the members of a campaign and their order; how many there are."""
    await add_draw_function(session)
    found = candidates(plan)
    chosen = select(found).where(found.c.reason == "").subquery("chosen")
    order = order_of(chosen, seed).subquery("drawn")
    rows = select(literal(campaign_id), order.c.id, order.c.position)
    columns = ["campaign_id", "vehicle_id", "position"]
    await session.execute(insert(MemberRow).from_select(columns, rows, include_defaults=False))
    return await session.scalar(CHANGES) or 0


async def add_joiners(session: AsyncSession, campaign_id: int, plan: Plan, seed: int, since_ns: int, last: int) -> int:
    """Append vehicles that were enrolled since and match, after position ``last``; how many."""
    await add_draw_function(session)
    found = candidates(plan, since_ns)
    member = exists().where(MemberRow.campaign_id == campaign_id, MemberRow.vehicle_id == found.c.id)
    chosen = select(found).where(found.c.reason == "", ~member).subquery("chosen")
    order = order_of(chosen, seed).subquery("drawn")
    rows = select(literal(campaign_id), order.c.id, order.c.position + last)
    columns = ["campaign_id", "vehicle_id", "position"]
    await session.execute(insert(MemberRow).from_select(columns, rows, include_defaults=False))
    return await session.scalar(CHANGES) or 0
