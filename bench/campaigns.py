"""A campaign over a simulated fleet of up to a million vehicles in SQLite: the time of each step, and how it grows.

The fleet, and what vehicles report, is written by plain SQL; what is measured is what the cloud does: counting whom a
plan selects, the draw at the start, the engine's steps, the view with its progress bars, a page of vehicles, and
sending everybody back. No vehicle is ever touched one by one.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import insert, text

import cloud.app  # noqa: F401 - all tables
from cloud.auth.audit import CLI
from cloud.campaigns.core import Action
from cloud.campaigns.desk import ActionOrder, CampaignDesk
from cloud.campaigns.engine import CampaignEngine
from cloud.campaigns.members import list_members
from cloud.campaigns.plan import PhasePlan, Plan
from cloud.clock import ManualClock
from cloud.config import Campaigns
from cloud.db import Database
from cloud.updates.model import ImageRow, ReleaseImageRow, ReleaseRow

Row = dict[str, Any]

SIZES = (10_000, 100_000, 1_000_000)
START_S, TICK_S = 60.0, 1.0
NOW_NS = 1_700_000_000_000_000_000
CONFIG = Campaigns(needs_approval=False)

_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)"
#: Identifiers like VINs: not in the order in which they are made.
_ID = "printf('WVZ%014X', (i * 2654435761) % 4294967296)"
FLEET = (
    f"""INSERT INTO vehicles (id, display_name, notes, state, created_ns, enrolled_ns, revoked_reason, model, region,
        usage, is_critical, timezone) {_NUMBERS} SELECT {_ID}, '', '', 'enrolled', :now, :now, '', 'model' || (i % 7),
        'region' || (i % 23), 'usage' || (i % 5), i % 100 = 0, 'UTC' FROM n ORDER BY 1""",
    f"""INSERT INTO vehicle_ecus (vehicle_id, ecu, hardware_id, is_primary, key_id, method, public, registered_ns,
        filename, sha256, length, version, release_counter, report_counter, report_time_ns, attack, detail)
        {_NUMBERS} SELECT {_ID}, 'gateway', 'gateway-2', 1, 'k', 'ed25519', randomblob(32), :now, 'a.img', 'old', 1,
        '1.0', 5, 1, 0, '', '' FROM n ORDER BY 1""",
    f"""INSERT INTO check_ins (vehicle_id, received_ns, at_ns, boot_id, boots, count, stopping, software, content)
        {_NUMBERS} SELECT {_ID}, :now - (i % 1000) * 60000000000, :now, 'b', 1, 5, 0, '1.0', zeroblob(400)
        FROM n ORDER BY 1""",
    "INSERT INTO vehicle_updates (vehicle_id, targets_version, snapshot_version, timestamp_version, content_digest,"
    " expires_ns, state, percent, report, manifest_problem)"
    " SELECT id, 1, 1, 1, x'', 0, '', 0, x'', '' FROM vehicles WHERE :count AND :now",
)


async def make_fleet(db: Database, count: int) -> None:
    """Vehicles with one ECU each that runs the image of release 1; and a release 2 for them."""
    async with db.write() as session:
        for statement in FLEET:
            await session.execute(text(statement), {"count": count, "now": NOW_NS})
        for number, sha in ((1, "old"), (2, "new")):
            await session.execute(
                insert(ImageRow).values(
                    id=number,
                    filename=f"image{number}",
                    state="signed",
                    kind="rootfs",
                    hardware_ids=b'["gateway-2"]',
                    version=f"{number}.0",
                    release_counter=5,
                    length=100_000_000,
                    sha256=sha,
                    created_ns=NOW_NS,
                )
            )
            release = {"id": number, "name": f"release {number}", "state": "published", "created_by": "cli"}
            await session.execute(insert(ReleaseRow).values(**release, created_ns=NOW_NS, published_ns=NOW_NS))
            await session.execute(insert(ReleaseImageRow).values(release_id=number, image_id=number))
    async with db.write() as session:
        await session.execute(text("ANALYZE"))


async def report(db: Database, clock: ManualClock, share: float) -> None:
    """That share of the open assignments comes to a good end, one in a thousand to a bad one."""
    async with db.write() as session:
        await session.execute(
            text(
                """UPDATE assignments SET offered_ns = :now, started_ns = :now, finished_ns = :now,
                state = CASE WHEN id % 1000 = 1 THEN 'failed' ELSE 'succeeded' END
                WHERE state IN ('assigned', 'offered', 'running') AND id % 1000 < :share"""
            ),
            {"now": clock.now_ns(), "share": int(share * 1000)},
        )


class Bench:
    """One size of fleet."""

    def __init__(self, db: Database, count: int) -> None:
        self.db, self.count = db, count
        self.clock = ManualClock(NOW_NS)
        self.engine = CampaignEngine(db, self.clock, CONFIG)
        self.desk = CampaignDesk(db, self.clock, CONFIG, self.engine)
        self.seconds: dict[str, float] = {}

    async def timed(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Keep the longest time of each kind of step."""
        begun = time.perf_counter()
        result = await work()
        self.seconds[name] = max(self.seconds.get(name, 0.0), time.perf_counter() - begun)
        return result

    async def settle(self, name: str) -> None:
        """Tick until nothing moves."""
        while await self.timed(name, self.engine.tick):
            pass

    async def run(self) -> None:
        """The whole life of a campaign, to the end and back."""
        phases = tuple(PhasePlan(share=s, min_duration_s=3600, failure_rate=0.05) for s in (0.01, 0.1, 0.5, 1.0))
        plan = Plan(name="bench", release=2, everyone=True, critical="last", seed=1, phases=phases, retries=1)
        await self.timed("count whom it selects", lambda: self.desk.count(plan))
        campaign = (await self.desk.create(plan, CLI)).id
        await self.desk.act(campaign, Action.SUBMIT, ActionOrder(), CLI)
        await self.timed("start: draw and fix every vehicle", lambda: self.engine.start(campaign, CLI))
        for _ in phases:
            await self.timed("tick that recounts silence, too (once a minute)", self.engine.tick)
            await self.settle("tick that assigns a slice of 5,000")
            await report(self.db, self.clock, 0.95)
            await self.timed("tick that judges", self.engine.tick)
            await self.timed("view with phases and counts", lambda: self.desk.get(campaign))
            await self.timed(
                "page of failed vehicles", lambda: list_members(self.db, campaign, "failed", None, "", 100, 0)
            )
            self.clock.advance_s(3601)
        await self.settle("tick that retries or ends")
        view = await self.desk.get(campaign)
        assert view.members == self.count, (view.members, view.state)
        assert sum(n for name, n in view.totals.items() if not name.startswith("back_")) == self.count
        begin = ActionOrder(reason="bench")
        await self.timed("begin to roll back", lambda: self.desk.act(campaign, Action.ROLL_BACK, begin, CLI))
        await self.settle("tick that sends a slice back")


async def measure(count: int) -> dict[str, float]:
    """The longest time of each step for a fleet of that size."""
    with tempfile.TemporaryDirectory() as directory:
        db = Database(Path(directory) / "cloud.db")
        await db.open()
        try:
            await make_fleet(db, count)
            bench = Bench(db, count)
            await bench.run()
            return bench.seconds
        finally:
            await db.close()


BUDGETS = {
    "start: draw and fix every vehicle": START_S,
    "tick that assigns a slice of 5,000": TICK_S,
    "tick that judges": TICK_S,
    "tick that retries or ends": TICK_S,
    "tick that sends a slice back": TICK_S,
    "view with phases and counts": TICK_S,
}


def run(sizes: tuple[int, ...] = SIZES) -> list[Row]:
    """Rows: the time of each step at the largest size, with the smaller ones beside it."""
    results = [asyncio.run(measure(size)) for size in sizes]
    rows: list[Row] = []
    for name, seconds in results[-1].items():
        smaller = ", ".join(f"{size:,}: {result[name]:.3f} s" for size, result in zip(sizes, results, strict=True))
        budget = BUDGETS.get(name)
        row: Row = {"name": f"{sizes[-1]:,} vehicles, {name}", "value": seconds, "unit": "s", "peer": smaller}
        if budget is not None:
            row |= {"budget": f"≤ {budget:g} s", "met": seconds <= budget}
        rows.append(row)
    return rows


if __name__ == "__main__":
    import sys

    chosen = tuple(int(arg) for arg in sys.argv[1:]) or SIZES
    print(msgspec.json.format(msgspec.json.encode(run(chosen)), indent=2).decode())
