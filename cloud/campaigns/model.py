"""Tables of campaigns, their phases and their vehicles."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String, text
from sqlalchemy.orm import Mapped, mapped_column

from cloud.db import Base


class CampaignState(StrEnum):
    """Where a campaign is. The last four are ends."""

    DRAFT = "draft"
    WAITING = "waiting"  # for the approval of an admin
    SCHEDULED = "scheduled"  # approved; starts by itself at its time, or when told
    RUNNING = "running"
    PAUSED = "paused"  # no vehicle is added; those that have begun go on
    ROLLING_BACK = "rolling_back"
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"  # the release, too
    ROLLED_BACK = "rolled_back"


ENDS = (CampaignState.SUCCEEDED, CampaignState.CANCELLED, CampaignState.WITHDRAWN, CampaignState.ROLLED_BACK)
#: States the engine looks at.
ALIVE = (CampaignState.SCHEDULED, CampaignState.RUNNING, CampaignState.PAUSED, CampaignState.ROLLING_BACK)


class CampaignRow(Base):
    """A campaign. Every change of it raises ``revision``."""

    __tablename__ = "campaigns"
    __table_args__ = (
        Index("campaigns_by_state", "state"),
        Index("campaigns_by_release", "release_id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(100))
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"))
    state: Mapped[str] = mapped_column(String(16))
    plan: Mapped[bytes] = mapped_column(LargeBinary)  # JSON of ``Plan``
    seed: Mapped[int] = mapped_column(BigInteger)
    priority: Mapped[int] = mapped_column(Integer, default=0)
    revision: Mapped[int] = mapped_column(Integer, default=1)
    created_ns: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str] = mapped_column(String(80))
    approved_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    approved_by: Mapped[str] = mapped_column(String(80), default="")
    starts_ns: Mapped[int] = mapped_column(BigInteger, default=0)  # not before
    started_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    finished_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    phase: Mapped[int] = mapped_column(Integer, default=0)  # its number; 0: not started
    reason: Mapped[str] = mapped_column(String(400), default="")  # of the state, for people
    paused_by: Mapped[str] = mapped_column(String(80), default="")  # "gate:failures", "gate:dtc" …, or who
    sweep: Mapped[str] = mapped_column(String(8), default="")  # open assignments still to cancel: "open", "all"
    rollback_release: Mapped[int | None] = mapped_column(Integer, default=None)  # None: what each vehicle came from
    dtc_accepted: Mapped[int] = mapped_column(Integer, default=0)  # vehicles with new codes that an operator has seen
    recounted_ns: Mapped[int] = mapped_column(BigInteger, default=0)  # of what is not counted at every step
    changed_ns: Mapped[int] = mapped_column(BigInteger)


class PhaseKind(StrEnum):
    """What a phase is for."""

    ROLLOUT = "rollout"
    RETRY = "retry"  # vehicles that failed, once more
    ROLLBACK = "rollback"


class PhaseState(StrEnum):
    """Where a phase is."""

    WAITING = "waiting"
    RUNNING = "running"
    PASSED = "passed"
    LEFT = "left"  # an operator went on without it, or it was cut short


class PhaseRow(Base):
    """A phase and its share of the vehicles: those with positions from ``first`` to ``last``."""

    __tablename__ = "campaign_phases"

    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    first: Mapped[int] = mapped_column(Integer)
    last: Mapped[int] = mapped_column(Integer)
    assigned_through: Mapped[int] = mapped_column(Integer)  # up to this position vehicles have been assigned
    started_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    finished_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    uncounted: Mapped[int] = mapped_column(Integer, default=0)  # too long offline, or waiting too long: no threshold
    accepted_reported: Mapped[int] = mapped_column(Integer, default=0)  # outcomes an operator has seen and accepted
    accepted_failed: Mapped[int] = mapped_column(Integer, default=0)


class MemberRow(Base):
    """A vehicle of a campaign. Its place in the order is drawn once, at the start."""

    __tablename__ = "campaign_vehicles"
    __table_args__ = (
        Index("campaign_vehicles_by_position", "campaign_id", "position"),
        Index("campaign_vehicles_skipped", "campaign_id", "skipped", "position", sqlite_where=text("skipped != ''")),
        Index("campaign_vehicles_by_vehicle", "vehicle_id"),
        {"sqlite_with_rowid": False},
    )

    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id", ondelete="CASCADE"), primary_key=True)
    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    skipped: Mapped[str] = mapped_column(String(8), default="", server_default="")  # "busy": another update is open
    previous_release: Mapped[int | None] = mapped_column(Integer, default=None)  # what it ran when it was assigned
