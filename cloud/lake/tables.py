"""The lake's tables: which files are in it, which series exist, what each vehicle's signals last said, events."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from cloud.db import Base


class Tier(StrEnum):
    """What a file holds."""

    RAW = "raw"
    MINUTE = "1m"
    HOUR = "1h"
    FRAMES = "frames"


class SeriesRow(Base):
    """A signal's identity ``bus.message.signal``, the same through all manifests and vehicles."""

    __tablename__ = "lake_series"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(400), unique=True)


class DefinitionRow(Base):
    """One version of what a series' raw values mean."""

    __tablename__ = "lake_definitions"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("lake_series.id"), index=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class LakeMarkRow(Base):
    """One row: what the file ``lake-id`` in the lake's folder must say. Database and folder belong together."""

    __tablename__ = "lake_mark"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    mark: Mapped[str] = mapped_column(String(64))


class FileRow(Base):
    """A file that belongs to the lake. A file without a row does not: it is left over and gets swept."""

    __tablename__ = "lake_files"
    __table_args__ = (Index("lake_files_by_vehicle", "vehicle_id", "tier", "day"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    tier: Mapped[str] = mapped_column(String(8))
    vehicle_id: Mapped[str] = mapped_column(String(64))
    day: Mapped[int] = mapped_column(Integer, index=True)  # UTC days since the epoch
    path: Mapped[str] = mapped_column(String(400), unique=True)  # below the lake's folder
    rows: Mapped[int] = mapped_column(BigInteger)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    resolution_ns: Mapped[int] = mapped_column(BigInteger)
    first_ns: Mapped[int] = mapped_column(BigInteger)
    last_ns: Mapped[int] = mapped_column(BigInteger)
    created_ns: Mapped[int] = mapped_column(BigInteger)


class VehicleSignalRow(Base):
    """What the lake knows of one signal of one vehicle: how many samples, and the newest by its own timestamp."""

    __tablename__ = "lake_vehicle_signals"

    vehicle_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("lake_series.id"), primary_key=True)
    definition_id: Mapped[int] = mapped_column(ForeignKey("lake_definitions.id"))
    count: Mapped[int] = mapped_column(BigInteger)  # samples ever compacted, whatever retention removed since
    first_ns: Mapped[int] = mapped_column(BigInteger)
    last_ns: Mapped[int] = mapped_column(BigInteger)
    raw: Mapped[int] = mapped_column(BigInteger)
    quality: Mapped[int] = mapped_column(Integer)


class EventRow(Base):
    """Something that happened in a vehicle besides a value."""

    __tablename__ = "lake_events"
    __table_args__ = (Index("lake_events_by_vehicle", "vehicle_id", "at_ns"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    vehicle_id: Mapped[str] = mapped_column(String(64))
    at_ns: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(32))
    source: Mapped[str] = mapped_column(String(400))
    detail: Mapped[str] = mapped_column(String(2000))


class DeletionRow(Base):
    """What retention and erasure removed: the report."""

    __tablename__ = "lake_deletions"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    at_ns: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(16))  # "retention" or "erasure"
    vehicle_id: Mapped[str] = mapped_column(String(64))  # "" for all
    tier: Mapped[str] = mapped_column(String(16))  # a Tier, "events" or "batches"
    files: Mapped[int] = mapped_column(BigInteger)
    rows: Mapped[int] = mapped_column(BigInteger)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
