"""Tables of streams, explained ranges and check-ins."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from cloud.db import Base


class StreamRow(Base):
    """What the cloud holds of one stream. All counts are since the first batch, and are kept when batches go."""

    __tablename__ = "streams"

    vehicle_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    stream: Mapped[str] = mapped_column(String(128), primary_key=True)
    contiguous: Mapped[int] = mapped_column(BigInteger, default=0)
    ahead: Mapped[bytes] = mapped_column(LargeBinary, default=b"")
    stored_batches: Mapped[int] = mapped_column(BigInteger, default=0)  # accepted, dead ones included
    stored_items: Mapped[int] = mapped_column(BigInteger, default=0)
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    dead_batches: Mapped[int] = mapped_column(BigInteger, default=0)  # of the accepted: could not be read
    dead_items: Mapped[int] = mapped_column(BigInteger, default=0)
    duplicates: Mapped[int] = mapped_column(BigInteger, default=0)
    conflicts: Mapped[int] = mapped_column(BigInteger, default=0)
    acknowledged_told: Mapped[int] = mapped_column(BigInteger, default=0)  # what the vehicle believes we hold
    stalled_ns: Mapped[int] = mapped_column(BigInteger, default=0)  # since when the lowest gap is open; 0: no gap
    first_received_ns: Mapped[int] = mapped_column(BigInteger, default=0)
    last_received_ns: Mapped[int] = mapped_column(BigInteger, default=0)
    #: Receipts up to here may have been removed: a sequence without one is here already, unless it is explained.
    receipts_through: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")


class RangeKind(StrEnum):
    """Why a range of sequences will never come."""

    EVICTED = "evicted"  # the vehicle ran out of room and told so
    LOST = "lost"  # asked for again, and the vehicle does not have it


class RangeRow(Base):
    """A range of sequences that the vehicle has explained. Ranges of one stream may overlap."""

    __tablename__ = "explained_ranges"
    __table_args__ = (
        Index("explained_ranges_unique", "vehicle_id", "stream", "kind", "first", "last", unique=True),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    vehicle_id: Mapped[str] = mapped_column(String(64))
    stream: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(16))
    first: Mapped[int] = mapped_column(BigInteger)
    last: Mapped[int] = mapped_column(BigInteger)
    told_ns: Mapped[int] = mapped_column(BigInteger)


class CheckInRow(Base):
    """The newest check-in of a vehicle, whole."""

    __tablename__ = "check_ins"

    vehicle_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    received_ns: Mapped[int] = mapped_column(BigInteger)
    at_ns: Mapped[int] = mapped_column(BigInteger)  # the vehicle's clock when it sent
    boot_id: Mapped[str] = mapped_column(String(64))
    boots: Mapped[int] = mapped_column(Integer)  # boot ids seen in a row of changes
    count: Mapped[int] = mapped_column(Integer)
    stopping: Mapped[bool] = mapped_column()
    software: Mapped[str] = mapped_column(String(100), default="", server_default="")  # out of the content
    content: Mapped[bytes] = mapped_column(LargeBinary)  # JSON of gateway.wire.api.CheckIn


class DailyRow(Base):
    """What was stored of a vehicle on one day (UTC, by time of reception)."""

    __tablename__ = "ingest_daily"

    vehicle_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    day: Mapped[int] = mapped_column(Integer, primary_key=True)  # days since 1970
    batches: Mapped[int] = mapped_column(BigInteger)
    items: Mapped[int] = mapped_column(BigInteger)
    content_bytes: Mapped[int] = mapped_column(BigInteger)
