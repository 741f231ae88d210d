"""Tables of faults, of texts for codes, and of remote jobs and their orders."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, Float, ForeignKey, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from cloud.db import Base


class FaultRow(Base):
    """What is known of one trouble code of one ECU: its newest state."""

    __tablename__ = "faults"
    __table_args__ = (
        Index(
            "faults_by_code", "is_present", "code", "ecu", "vehicle_id", "status", "software", "first_ns", "changed_ns"
        ),
        Index("faults_by_time", "is_present", "changed_ns"),
    )

    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"), primary_key=True)
    ecu: Mapped[str] = mapped_column(String(64), primary_key=True)
    code: Mapped[int] = mapped_column(Integer, primary_key=True)
    status: Mapped[int] = mapped_column(Integer)
    is_present: Mapped[bool] = mapped_column()  # stored in the ECU as far as anyone knows; False: cleared or gone
    change: Mapped[str] = mapped_column(String(16))
    first_ns: Mapped[int] = mapped_column(BigInteger)  # of the oldest report
    changed_ns: Mapped[int] = mapped_column(BigInteger)  # of the newest report that changed something
    severity: Mapped[int | None] = mapped_column(Integer)
    occurrences: Mapped[int | None] = mapped_column(Integer)
    aging: Mapped[int | None] = mapped_column(Integer)
    odometer_km: Mapped[float | None] = mapped_column(Float)
    software: Mapped[str] = mapped_column(String(100))  # the vehicle's at the time
    text: Mapped[str] = mapped_column(String(400))  # the vehicle's own words
    by: Mapped[str] = mapped_column(String(200))
    detail: Mapped[bytes] = mapped_column(LargeBinary)  # JSON of ``faults.Context``: the newest that tells anything


class FaultChangeRow(Base):
    """One change of a fault, as the vehicle told it."""

    __tablename__ = "fault_changes"
    __table_args__ = (
        Index("fault_changes_unique", "vehicle_id", "digest", unique=True),
        Index("fault_changes_by_vehicle", "vehicle_id", "at_ns"),
        Index("fault_changes_by_fault", "vehicle_id", "ecu", "code", "at_ns"),
        Index("fault_changes_by_day", "day", "change", "code", "ecu", "vehicle_id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"))
    digest: Mapped[bytes] = mapped_column(LargeBinary(16))  # of the event: the same one is taken once
    at_ns: Mapped[int] = mapped_column(BigInteger)
    received_ns: Mapped[int] = mapped_column(BigInteger)
    day: Mapped[int] = mapped_column(Integer)  # UTC days since the epoch
    ecu: Mapped[str] = mapped_column(String(64))
    code: Mapped[int] = mapped_column(Integer)
    status: Mapped[int] = mapped_column(Integer)
    previous: Mapped[int | None] = mapped_column(Integer)
    change: Mapped[str] = mapped_column(String(16))
    software: Mapped[str] = mapped_column(String(100))
    by: Mapped[str] = mapped_column(String(200))
    detail: Mapped[bytes] = mapped_column(LargeBinary)


class FaultCursorRow(Base):
    """One row: up to which event of the lake faults are folded."""

    __tablename__ = "fault_cursor"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    event_id: Mapped[int] = mapped_column(BigInteger)


class FaultTextRow(Base):
    """A text that an admin has loaded. Keys as in ``gateway.wire.dtc_texts``."""

    __tablename__ = "fault_texts"

    key: Mapped[int] = mapped_column(Integer, primary_key=True)
    text: Mapped[str] = mapped_column(String(400))


class OrderState(StrEnum):
    """Where an order is."""

    PENDING = "pending"  # the vehicle has not been told
    SENT = "sent"  # it was in an answer to the vehicle
    ACKNOWLEDGED = "acknowledged"  # the vehicle has accepted it
    EXECUTING = "executing"
    COMPLETED = "completed"  # done, and at least one step went well
    FAILED = "failed"  # the vehicle refused it, or no step went well
    TIMEOUT = "timeout"  # expired unanswered; an answer that comes late still counts
    CANCELLED = "cancelled"  # withdrawn before the vehicle had accepted it


OPEN_STATES = (OrderState.PENDING, OrderState.SENT, OrderState.ACKNOWLEDGED, OrderState.EXECUTING)


class JobRow(Base):
    """What an operator asked of some vehicles."""

    __tablename__ = "diagnostic_jobs"
    __table_args__ = (Index("diagnostic_jobs_by_time", "created_ns"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    title: Mapped[str] = mapped_column(String(200))
    created_ns: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str] = mapped_column(String(80))
    expires_ns: Mapped[int] = mapped_column(BigInteger)
    changes: Mapped[bool] = mapped_column()  # has steps that change something in the vehicle
    order: Mapped[bytes] = mapped_column(LargeBinary)  # JSON of DiagnosticOrder: the body of each order
    wanted: Mapped[bytes] = mapped_column(LargeBinary)  # JSON of the selection, for people
    cancelled_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    cancelled_by: Mapped[str] = mapped_column(String(80), default="")


class OrderRow(Base):
    """A job for one vehicle: what is signed and sent."""

    __tablename__ = "orders"
    __table_args__ = (
        Index("orders_by_vehicle", "vehicle_id", "state"),
        Index("orders_by_job", "job_id", "state"),
        Index("orders_by_expiry", "state", "expires_ns"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("diagnostic_jobs.id", ondelete="CASCADE"))
    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(String(16))
    created_ns: Mapped[int] = mapped_column(BigInteger)
    expires_ns: Mapped[int] = mapped_column(BigInteger)
    sent_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    acknowledged_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    finished_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    good: Mapped[int] = mapped_column(Integer, default=0, server_default="0")  # results that are ok
    bad: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    detail: Mapped[str] = mapped_column(String(400), default="", server_default="")


class OrderResultRow(Base):
    """What came of one step on one ECU."""

    __tablename__ = "order_results"

    order_id: Mapped[str] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    step: Mapped[int] = mapped_column(Integer)
    ecu: Mapped[str] = mapped_column(String(64))
    outcome: Mapped[str] = mapped_column(String(16))
    nrc: Mapped[int | None] = mapped_column(Integer)
    detail: Mapped[str] = mapped_column(String(400))
    content: Mapped[bytes] = mapped_column(LargeBinary)  # JSON of StepResult
