"""Removes what has outlived its use: old audit entries, ended sessions, dead tokens, receipts. Idempotent."""

from __future__ import annotations

import asyncio

from sqlalchemy import delete

from cloud.auth.model import AuditRow, SessionRow
from cloud.db import Database
from cloud.ingest.model import DailyRow
from cloud.ingest.receipts import prune_receipts
from cloud.log import get_logger
from cloud.registry.model import EnrolTokenRow
from cloud.services import Services

DAY_NS = 86_400_000_000_000
DAILY_COUNTS_DAYS = 800
OLD_TOKENS_DAYS = 90
PERIOD_S = 3600.0
log = get_logger("cloud.housekeeping")


async def tidy(db: Database, now_ns: int, audit_days: float) -> None:
    """Delete in one short transaction. ``audit_days`` 0 keeps the audit trail for ever."""
    async with db.write() as session:
        if audit_days:
            await session.execute(delete(AuditRow).where(AuditRow.at_ns < now_ns - int(audit_days * DAY_NS)))
        await session.execute(delete(SessionRow).where(SessionRow.expires_ns <= now_ns))
        old_ns = now_ns - OLD_TOKENS_DAYS * DAY_NS
        await session.execute(delete(EnrolTokenRow).where(EnrolTokenRow.expires_ns < old_ns))
        await session.execute(delete(DailyRow).where(DailyRow.day < now_ns // DAY_NS - DAILY_COUNTS_DAYS))


async def keep_tidy(services: Services) -> None:
    """Tidy now and every hour until cancelled. A failure is logged and tried again."""
    while True:
        try:
            await tidy(services.db, services.clock.now_ns(), services.config.fleet.audit_days)
            await prune_receipts(services.db, services.clock.now_ns(), services.config.ingest.receipt_days)
        except Exception as error:  # a background task of little weight must not end the service
            log.error("housekeeping_failed", exc_info=error)
        await asyncio.sleep(PERIOD_S)
