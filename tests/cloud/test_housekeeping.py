"""What has outlived its use goes, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select

from cloud.auth.audit import CLI
from cloud.auth.model import AuditRow, SessionRow
from cloud.clock import ManualClock
from cloud.housekeeping import tidy
from cloud.registry.model import EnrolTokenRow
from tests.cloud.support import PASSWORD, cloud_in

pytestmark = pytest.mark.anyio


async def test_old_entries_go_and_young_ones_stay(tmp_path: Path) -> None:
    clock = ManualClock()
    async with cloud_in(tmp_path, clock) as cloud:
        services = cloud.services
        await services.users.add("alice", PASSWORD, "admin", CLI)
        await services.users.start_session("alice")
        await services.vehicles.add("VIN1", CLI)
        await services.enrolment.make_token("VIN1", CLI)
        clock.advance_s(100 * 86_400)
        await services.vehicles.add("VIN2", CLI)
        await services.users.start_session("alice")
        await services.enrolment.make_token("VIN2", CLI)
        for _ in range(2):
            await tidy(services.db, clock.now_ns(), audit_days=30)
        async with services.db.read() as session:
            targets = set(await session.scalars(select(AuditRow.target)))
            sessions = await session.scalar(select(func.count()).select_from(SessionRow))
            tokens = list(await session.scalars(select(EnrolTokenRow.vehicle_id)))
        assert (targets, sessions, tokens) == ({"VIN2"}, 1, ["VIN2"])
        await tidy(services.db, clock.now_ns() + 10**18, audit_days=0)
        async with services.db.read() as session:
            assert await session.scalar(select(func.count()).select_from(AuditRow))
