"""The audit trail: one row per change, written in the transaction that makes the change."""

from __future__ import annotations

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cloud.auth.model import AuditRow


class Actor(msgspec.Struct, frozen=True):
    """Who does something, and from where."""

    name: str  # "user:NAME", "vehicle:ID", "cli", "system"
    address: str = ""
    request_id: str = ""


SYSTEM = Actor("system")
CLI = Actor("cli")


def record(
    session: AsyncSession | Session, actor: Actor, now_ns: int, action: str, target: str, detail: str = ""
) -> None:
    """Add a row; it becomes durable with the caller's change, or not at all."""
    session.add(
        AuditRow(
            at_ns=now_ns,
            actor=actor.name[:80],
            action=action,
            target=target[:200],
            detail=detail[:2000],
            address=actor.address[:64],
            request_id=actor.request_id[:64],
        )
    )
