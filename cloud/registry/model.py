"""Tables of vehicles, their certificates and enrolment tokens."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from cloud.db import Base


class VehicleState(StrEnum):
    """What a vehicle may do."""

    NEW = "new"  # known, has no certificate yet
    ENROLLED = "enrolled"
    REVOKED = "revoked"  # nothing is taken from it


class VehicleRow(Base):
    """A vehicle."""

    __tablename__ = "vehicles"
    __table_args__ = (
        Index("vehicles_by_state", "state"),
        Index("vehicles_by_enrolment", "enrolled_ns"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    display_name: Mapped[str] = mapped_column(String(200), default="")
    notes: Mapped[str] = mapped_column(String(4000), default="")
    state: Mapped[str] = mapped_column(String(16))
    created_ns: Mapped[int] = mapped_column(BigInteger)
    enrolled_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    revoked_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    revoked_reason: Mapped[str] = mapped_column(String(400), default="")
    # Traits: what campaigns select by and spread their phases over. "" is not known.
    model: Mapped[str] = mapped_column(String(64), default="", server_default="")
    region: Mapped[str] = mapped_column(String(64), default="", server_default="")
    usage: Mapped[str] = mapped_column(String(64), default="", server_default="")  # "taxi", "delivery", "private"
    is_critical: Mapped[bool] = mapped_column(default=False, server_default="0")  # ambulances: never among the first
    timezone: Mapped[str] = mapped_column(String(64), default="", server_default="")  # IANA name


class VehicleTagRow(Base):
    """A tag of a vehicle."""

    __tablename__ = "vehicle_tags"
    __table_args__ = (Index("vehicle_tags_by_tag", "tag", "vehicle_id"),)

    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(64), primary_key=True)


class CertificateRow(Base):
    """A certificate the CA has issued. Never deleted while the vehicle exists."""

    __tablename__ = "certificates"
    __table_args__ = (Index("certificates_by_vehicle", "vehicle_id"),)

    serial: Mapped[str] = mapped_column(String(64), primary_key=True)
    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"))
    issued_ns: Mapped[int] = mapped_column(BigInteger)
    not_before_ns: Mapped[int] = mapped_column(BigInteger)
    not_after_ns: Mapped[int] = mapped_column(BigInteger)
    issued_for: Mapped[str] = mapped_column(String(16))  # "enrolment" or "renewal"
    revoked_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    revoked_reason: Mapped[str] = mapped_column(String(400), default="")


class EnrolTokenRow(Base):
    """A one-time token; only its hash is kept."""

    __tablename__ = "enrol_tokens"
    __table_args__ = (Index("enrol_tokens_by_vehicle", "vehicle_id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"))
    hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    created_ns: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str] = mapped_column(String(64))
    expires_ns: Mapped[int] = mapped_column(BigInteger)
    used_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    withdrawn_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
