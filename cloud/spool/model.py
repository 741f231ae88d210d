"""The tables of accepted batches and dead letters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import BigInteger, Index, Integer, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from cloud.db import Base


class BatchState(StrEnum):
    """Where a batch is on its way."""

    STORED = "stored"  # durable, acknowledged, not in the lake yet
    COMPACTED = "compacted"  # its items are in the lake; the row stays as the receipt, without content
    WAITING_MANIFEST = "waiting_manifest"  # durable; nobody has the manifest it names yet
    DEAD = "dead"  # its body could not be read; the content lies with the dead letters


class BatchRow(Base):
    """One accepted batch. ``content`` is empty once the batch is compacted or dead."""

    __tablename__ = "batches"
    __table_args__ = (
        UniqueConstraint("vehicle_id", "stream", "sequence"),
        Index("batches_by_state", "state", "id"),
        Index("batches_by_vehicle_state", "vehicle_id", "state", "first_ns"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    vehicle_id: Mapped[str] = mapped_column(String(64))
    stream: Mapped[str] = mapped_column(String(128))
    sequence: Mapped[int] = mapped_column(BigInteger)
    received_ns: Mapped[int] = mapped_column(BigInteger)
    manifest_hash: Mapped[str] = mapped_column(String(64))  # lower-case hex
    items: Mapped[int] = mapped_column(BigInteger)
    items_before: Mapped[int] = mapped_column(BigInteger, default=0)  # items in all earlier batches of the stream
    first_ns: Mapped[int] = mapped_column(BigInteger)
    last_ns: Mapped[int] = mapped_column(BigInteger)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    content_bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))  # SHA-256 of the content as received
    state: Mapped[str] = mapped_column(String(20))
    attempts: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")  # failed tries to compact it


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """An accepted batch as listeners, the compactor and queries see it."""

    id: int
    vehicle_id: str
    stream: str
    sequence: int
    received_ns: int
    manifest_hash: str  # lower-case hex
    items: int
    first_ns: int
    last_ns: int
    content: bytes
    state: BatchState

    @staticmethod
    def of(row: BatchRow) -> StoredBatch:
        """The value of a database row."""
        return StoredBatch(
            id=row.id,
            vehicle_id=row.vehicle_id,
            stream=row.stream,
            sequence=row.sequence,
            received_ns=row.received_ns,
            manifest_hash=row.manifest_hash,
            items=row.items,
            first_ns=row.first_ns,
            last_ns=row.last_ns,
            content=row.content,
            state=BatchState(row.state),
        )


class DeadLetterRow(Base):
    """Bytes a vehicle sent that could not be taken as a batch, with the reason. Bounded per vehicle."""

    __tablename__ = "dead_letters"
    __table_args__ = (Index("dead_letters_by_vehicle", "vehicle_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    vehicle_id: Mapped[str] = mapped_column(String(64))
    stream: Mapped[str] = mapped_column(String(128))  # "" when the header could not be read
    sequence: Mapped[int] = mapped_column(BigInteger)  # 0 when the header could not be read
    items: Mapped[int] = mapped_column(BigInteger)
    manifest_hash: Mapped[str] = mapped_column(String(64))
    received_ns: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(400))
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    times_seen: Mapped[int] = mapped_column(Integer, default=1)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    content_bytes: Mapped[int] = mapped_column(BigInteger)
