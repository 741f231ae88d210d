"""The table of delta jobs."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, Float, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from cloud.db import Base


class JobState(StrEnum):
    """Where a delta is. The last three are ends; asking for a failed one again tries it again."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"  # registered as an image
    NOT_USEFUL = "not useful"  # it would hardly save anything; the full image is sent
    FAILED = "failed"  # ``reason`` says why


class DeltaJobRow(Base):
    """A delta somebody asked for."""

    __tablename__ = "delta_jobs"
    __table_args__ = (
        Index("delta_jobs_by_pair", "base_image_id", "target_image_id", unique=True),
        Index("delta_jobs_by_state", "state", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    base_image_id: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"))
    target_image_id: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(String(16))
    step: Mapped[str] = mapped_column(String(16), default="")  # of the build: "index", "target", "segments"
    bytes_done: Mapped[int] = mapped_column(BigInteger, default=0)  # of this step
    bytes_total: Mapped[int] = mapped_column(BigInteger, default=0)
    attempts: Mapped[int] = mapped_column(Integer, default=0)  # builds begun since it was asked for
    reason: Mapped[str] = mapped_column(String(400), default="")
    delta_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    delta_sha256: Mapped[str] = mapped_column(String(64), default="")
    full_bytes: Mapped[int] = mapped_column(BigInteger, default=0)  # of the target, compressed
    asked_ns: Mapped[int] = mapped_column(BigInteger)
    started_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    finished_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    build_s: Mapped[float] = mapped_column(Float, default=0.0)  # of the last build
