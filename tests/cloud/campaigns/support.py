"""A fleet in a database, and a Director's hand that writes outcomes as the real one does."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import insert, text

import cloud.app  # noqa: F401 - all tables
from cloud.auth.audit import CLI
from cloud.campaigns.core import Action
from cloud.campaigns.desk import ActionOrder, CampaignDesk
from cloud.campaigns.engine import CampaignEngine
from cloud.campaigns.plan import DtcGate, PhasePlan, Plan
from cloud.campaigns.views import CampaignView
from cloud.clock import ManualClock
from cloud.config import Campaigns
from cloud.db import Database
from cloud.ingest.model import CheckInRow
from cloud.registry.model import VehicleRow
from cloud.updates.model import ImageRow, ReleaseImageRow, ReleaseRow, VehicleEcuRow

EPOCH_NS = 1_700_000_000_000_000_000
HOUR_S, DAY_S = 3600, 86_400
SECOND_NS = 1_000_000_000
HARDWARE = "gateway-2"
QUICK = Campaigns(recount_s=0.0, slice_vehicles=7, slices_per_tick=1000, needs_approval=False)
REGIONS, MODELS, USAGES = ("north", "south", "alps"), ("van", "truck"), ("taxi", "delivery")


def sha(number: int) -> str:
    """The hash of the image of release ``number``."""
    return f"{number:064x}"


@dataclass
class Fleet:
    """A cloud's campaigns without the rest of it."""

    db: Database
    clock: ManualClock
    engine: CampaignEngine
    desk: CampaignDesk

    @property
    def now_ns(self) -> int:
        return self.clock.now_ns()

    async def sql(self, statement: str, **values: Any) -> list[Any]:
        """Run a statement and keep its effect."""
        async with self.db.write() as session:
            result: Any = await session.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    async def one(self, statement: str, **values: Any) -> Any:
        """The first value of a query."""
        rows = await self.sql(statement, **values)
        return rows[0][0] if rows else None

    async def release(
        self, number: int, *, counter: int = 5, state: str = "published", hardware: str = HARDWARE
    ) -> int:
        """A release with one rootfs image."""
        async with self.db.write() as session:
            image = {
                "id": number,
                "filename": f"rootfs-{number}.img",
                "state": "signed",
                "kind": "rootfs",
                "hardware_ids": json.dumps([hardware]).encode(),
                "version": f"{number}.0",
                "release_counter": counter,
                "length": 1_000_000 * number,
                "sha256": sha(number),
                "created_ns": self.now_ns,
            }
            release = {
                "id": number,
                "name": f"release {number}",
                "state": state,
                "created_ns": self.now_ns,
                "created_by": "cli",
                "published_ns": self.now_ns,
            }
            await session.execute(insert(ImageRow).values(**image))
            await session.execute(insert(ReleaseRow).values(**release))
            await session.execute(insert(ReleaseImageRow).values(release_id=number, image_id=number))
        return number

    async def vehicles(self, ids: Iterable[str], *, runs: int = 1, counter: int = 5, **traits: Any) -> None:
        """Enrolled vehicles that have just checked in and run the image of release ``runs``."""
        named = list(ids)
        vehicles, ecus, check_ins = [], [], []
        for id_ in named:
            n = sum(map(ord, id_))
            vehicles.append(
                {
                    "id": id_,
                    "state": "enrolled",
                    "created_ns": self.now_ns,
                    "enrolled_ns": self.now_ns,
                    "region": REGIONS[n % 3],
                    "model": MODELS[n // 3 % 2],
                    "usage": USAGES[n // 6 % 2],
                    "is_critical": False,
                    **traits,
                }
            )
            ecus.append(
                {
                    "vehicle_id": id_,
                    "ecu": "gateway",
                    "hardware_id": HARDWARE,
                    "is_primary": True,
                    "key_id": id_,
                    "method": "ed25519",
                    "public": b"",
                    "registered_ns": self.now_ns,
                    "sha256": sha(runs),
                    "version": f"{runs}.0",
                    "release_counter": counter,
                }
            )
            check_ins.append(
                {
                    "vehicle_id": id_,
                    "received_ns": self.now_ns,
                    "at_ns": self.now_ns,
                    "boot_id": "b",
                    "boots": 1,
                    "count": 1,
                    "stopping": False,
                    "software": "1.0",
                    "content": b"{}",
                }
            )
        async with self.db.write() as session:
            await session.execute(insert(VehicleRow), vehicles)
            await session.execute(insert(VehicleEcuRow), ecus)
            await session.execute(insert(CheckInRow), check_ins)

    async def started(self, plan: Plan) -> int:
        """A campaign that runs; its number."""
        made = await self.desk.create(plan, CLI)
        await self.act(made.id, Action.SUBMIT)
        await self.act(made.id, Action.START)
        return made.id

    async def act(self, campaign: int, action: Action, **more: Any) -> CampaignView:
        """Take an action."""
        return await self.desk.act(campaign, action, ActionOrder(**more), CLI)

    async def ticks(self, most: int = 50) -> int:
        """Tick until nothing moves; how often."""
        for count in range(most):
            if not await self.engine.tick():
                return count
        raise AssertionError(f"still moving after {most} ticks")

    async def later(self, seconds: float) -> int:
        """Let time pass, with everybody checking in, and tick."""
        self.clock.advance_s(seconds)
        await self.sql("UPDATE check_ins SET received_ns = :now WHERE vehicle_id NOT LIKE 'dead%'", now=self.now_ns)
        return await self.ticks()

    async def report(self, campaign: int, state: str, *, count: int = 1_000_000, where: str = "1") -> list[str]:
        """Open assignments of a campaign come to a state, as the Director writes it; which vehicles."""
        rows = await self.sql(
            f"""UPDATE assignments SET state = :state, offered_ns = coalesce(offered_ns, :now),
                started_ns = CASE WHEN :state = 'offered' THEN NULL ELSE coalesce(started_ns, :now) END,
                finished_ns = CASE WHEN :state IN ('offered', 'running') THEN NULL ELSE :now END
            WHERE id IN (SELECT id FROM assignments WHERE campaign_id = :campaign
                AND state IN ('assigned', 'offered', 'running') AND {where} ORDER BY id LIMIT :count)
            RETURNING vehicle_id""",
            state=state,
            now=self.now_ns,
            campaign=campaign,
            count=count,
        )
        if state == "succeeded":
            await self.sql(
                """UPDATE vehicle_ecus SET sha256 = (SELECT i.sha256 FROM assignments a
                    JOIN release_images r ON r.release_id = a.release_id JOIN images i ON i.id = r.image_id
                    WHERE a.vehicle_id = vehicle_ecus.vehicle_id ORDER BY a.id DESC LIMIT 1)
                WHERE vehicle_id IN (SELECT value FROM json_each(:ids))""",
                ids=json.dumps([row[0] for row in rows]),
            )
        return [str(row[0]) for row in rows]

    async def fault(self, vehicle: str, code: int, *, status: int = 0x2F, first_ns: int | None = None) -> None:
        """A vehicle has a trouble code."""
        at_ns = self.now_ns if first_ns is None else first_ns
        await self.sql(
            """INSERT INTO faults (vehicle_id, ecu, code, status, is_present, change, first_ns, changed_ns, software,
                text, "by", detail)
            VALUES (:vehicle, 'motor', :code, :status, 1, 'new', :at, :at, '', '', '', x'7b7d')""",
            vehicle=vehicle,
            code=code,
            status=status,
            at=at_ns,
        )

    async def actions(self, campaign: int) -> list[str]:
        """The audited actions of a campaign, oldest first."""
        entries, _ = await self.desk.audit(campaign, 500, 0)
        return [entry.action.removeprefix("campaign.") for entry in reversed(entries)]


#: The file of an empty database: making all tables is dearer than most tests.
_EMPTY: list[bytes] = []


@asynccontextmanager
async def fleet_in(directory: Path, config: Campaigns = QUICK) -> AsyncIterator[Fleet]:
    """An empty fleet."""
    path = directory / "cloud.db"
    if _EMPTY:
        path.write_bytes(_EMPTY[0])
    db = Database(path)
    await db.open()
    if not _EMPTY:
        copy = path.with_name("empty.db")
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
        _EMPTY.append(copy.read_bytes())
    clock = ManualClock(EPOCH_NS)
    engine = CampaignEngine(db, clock, config)
    try:
        yield Fleet(db, clock, engine, CampaignDesk(db, clock, config, engine))
    finally:
        await db.close()


def plan_for(release: int, *phases: PhasePlan, **more: Any) -> Plan:
    """A plan for everybody with an hour between phases and no gate on codes."""
    plan = Plan(name="roll it out", release=release, everyone=True, seed=7, dtc_gate=None, retries=0)
    return msgspec.structs.replace(plan, phases=phases or hourly(0.1, 0.5, 1.0), **more)


def hourly(*shares: float, **more: Any) -> tuple[PhasePlan, ...]:
    """Phases of an hour."""
    return tuple(PhasePlan(share=share, min_duration_s=HOUR_S, **more) for share in shares)


def numbered(count: int, prefix: str = "car") -> list[str]:
    """Names of vehicles."""
    return [f"{prefix}{i:04d}" for i in range(count)]


__all__ = ["DtcGate", "Fleet", "fleet_in", "hourly", "numbered", "plan_for"]
