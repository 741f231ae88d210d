"""Tables of operators, their sessions, and the audit trail."""

from __future__ import annotations

from enum import IntEnum

import msgspec
from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from cloud.db import Base


class Role(IntEnum):
    """What a caller may do; each role may do all that lower ones may."""

    PUBLIC = 0  # nobody needs to log in
    VIEWER = 1  # see
    OPERATOR = 2  # change vehicles, tokens, dead letters
    ADMIN = 3  # users, audit, erasure

    @property
    def label(self) -> str:
        """The role in files, JSON and on pages."""
        return self.name.lower()

    @staticmethod
    def of(label: str) -> Role:
        """The inverse of ``label`` for roles a user can have; ``KeyError`` for others."""
        return {"viewer": Role.VIEWER, "operator": Role.OPERATOR, "admin": Role.ADMIN}[label]


class UserRow(Base):
    """An operator."""

    __tablename__ = "users"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    password_hash: Mapped[str] = mapped_column(String(300))
    role: Mapped[str] = mapped_column(String(16))
    disabled: Mapped[bool] = mapped_column(default=False)
    version: Mapped[int] = mapped_column(Integer, default=1)  # raised to end all sessions and tokens
    created_ns: Mapped[int] = mapped_column(BigInteger)
    last_login_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)


class SessionRow(Base):
    """A browser session; only the hash of its cookie is kept."""

    __tablename__ = "sessions"
    __table_args__ = (Index("sessions_by_user", "user_name"),)

    hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    user_name: Mapped[str] = mapped_column(ForeignKey("users.name", ondelete="CASCADE"))
    user_version: Mapped[int] = mapped_column(Integer)
    created_ns: Mapped[int] = mapped_column(BigInteger)
    expires_ns: Mapped[int] = mapped_column(BigInteger)


class AuditRow(Base):
    """Who changed what, when."""

    __tablename__ = "audit"
    __table_args__ = (Index("audit_by_target", "target", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    at_ns: Mapped[int] = mapped_column(BigInteger)
    actor: Mapped[str] = mapped_column(String(80))  # "user:NAME", "vehicle:ID", "cli", "system"
    action: Mapped[str] = mapped_column(String(64))  # "vehicle.revoke"
    target: Mapped[str] = mapped_column(String(200))
    detail: Mapped[str] = mapped_column(String(2000))
    address: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(64))


class Operator(msgspec.Struct, frozen=True):
    """A logged-in operator, as handlers see it in ``request.user``."""

    name: str
    role: Role
    by_cookie: bool = False
