"""Tables of images, releases, the inventory of ECUs, and what each vehicle shall install."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, Float, ForeignKey, Index, Integer, LargeBinary, String, text
from sqlalchemy.orm import Mapped, mapped_column

from cloud.db import Base


class ImageState(StrEnum):
    """Where an image is on its way into the Image repository."""

    UPLOADING = "uploading"
    STORED = "stored"  # whole, hashes known, not yet signed for
    SIGNED = "signed"  # a target of the Image repository
    WITHDRAWN = "withdrawn"  # never assigned again; stays a target until the metadata is signed anew


class ImageRow(Base):
    """A file that is, or will be, a target of the Image repository. Deltas are images of kind ``delta``."""

    __tablename__ = "images"
    __table_args__ = (
        Index("images_by_hash", "sha256"),
        Index("images_by_state", "state", "kind"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    filename: Mapped[str] = mapped_column(String(400), unique=True)  # target path, NFC
    state: Mapped[str] = mapped_column(String(16))
    kind: Mapped[str] = mapped_column(String(16))
    hardware_ids: Mapped[bytes] = mapped_column(LargeBinary)  # JSON list
    version: Mapped[str] = mapped_column(String(100))
    release_counter: Mapped[int] = mapped_column(BigInteger)
    description: Mapped[str] = mapped_column(String(2000), default="")
    length: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), default="")
    sha512: Mapped[str] = mapped_column(String(128), default="")
    role: Mapped[str] = mapped_column(String(200), default="targets")  # who signs for it
    is_target: Mapped[bool] = mapped_column(default=False)  # the metadata in force lists it
    created_ns: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str] = mapped_column(String(80), default="")


class ReleaseState(StrEnum):
    """What may be done with a release."""

    DRAFT = "draft"  # its images may change
    PUBLISHED = "published"  # all images are signed; it may be assigned
    WITHDRAWN = "withdrawn"  # it is never offered again


class ReleaseRow(Base):
    """Images that belong together."""

    __tablename__ = "releases"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    notes: Mapped[str] = mapped_column(String(4000), default="")
    state: Mapped[str] = mapped_column(String(16))
    created_ns: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str] = mapped_column(String(80))
    published_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    needs_consent: Mapped[bool] = mapped_column(default=False)
    is_critical: Mapped[bool] = mapped_column(default=False)


class ReleaseImageRow(Base):
    """An image of a release goes to every ECU of the vehicle that has one of its hardware ids."""

    __tablename__ = "release_images"
    __table_args__ = (Index("release_images_by_image", "image_id"),)

    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id", ondelete="CASCADE"), primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"), primary_key=True)
    ecu: Mapped[str] = mapped_column(String(64), primary_key=True, default="")  # only this ECU; "": any that fits
    set_number: Mapped[int] = mapped_column(Integer, default=0)  # the same number: all or nothing
    position: Mapped[int] = mapped_column(Integer, default=0)  # order within the set


class ImageRuleRow(Base):
    """A dependency or conflict of an image with what other ECUs of the vehicle will run (D5)."""

    __tablename__ = "image_rules"
    __table_args__ = (Index("image_rules_by_image", "image_id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"))
    rule: Mapped[str] = mapped_column(String(16))  # "requires", "conflicts"
    hardware_id: Mapped[str] = mapped_column(String(64))  # of the other ECU
    version: Mapped[str] = mapped_column(String(100), default="")  # exactly this; "": any
    min_counter: Mapped[int | None] = mapped_column(BigInteger, default=None)  # at least this release counter


class VehicleEcuRow(Base):
    """An ECU of a vehicle: its key, and what its last accepted report said (D3, D4, D7)."""

    __tablename__ = "vehicle_ecus"
    __table_args__ = (
        Index("vehicle_ecus_by_image", "sha256", "vehicle_id"),
        Index("vehicle_ecus_by_hardware", "hardware_id", "sha256", "vehicle_id"),
        Index("vehicle_ecus_by_key", "key_id"),
    )

    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"), primary_key=True)
    ecu: Mapped[str] = mapped_column(String(64), primary_key=True)
    hardware_id: Mapped[str] = mapped_column(String(64))
    is_primary: Mapped[bool] = mapped_column()
    key_id: Mapped[str] = mapped_column(String(64))
    method: Mapped[str] = mapped_column(String(40))
    public: Mapped[bytes] = mapped_column(LargeBinary)
    registered_ns: Mapped[int] = mapped_column(BigInteger)
    filename: Mapped[str] = mapped_column(String(400), default="")
    sha256: Mapped[str] = mapped_column(String(64), default="")
    length: Mapped[int] = mapped_column(BigInteger, default=0)
    version: Mapped[str] = mapped_column(String(100), default="")
    release_counter: Mapped[int] = mapped_column(BigInteger, default=0)
    report_counter: Mapped[int] = mapped_column(BigInteger, default=0)  # none at or below it is accepted again
    report_time_ns: Mapped[int] = mapped_column(BigInteger, default=0)  # the time its last accepted report told
    reported_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    attack: Mapped[str] = mapped_column(String(40), default="")
    detail: Mapped[str] = mapped_column(String(400), default="")


class VehiclePayloadRow(Base):
    """A manifest, scheme, model or configuration that a vehicle uses, by the name it has there."""

    __tablename__ = "vehicle_payloads"

    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    filename: Mapped[str] = mapped_column(String(400), default="")
    sha256: Mapped[str] = mapped_column(String(64), default="")
    length: Mapped[int] = mapped_column(BigInteger, default=0)
    version: Mapped[str] = mapped_column(String(100), default="")
    release_counter: Mapped[int] = mapped_column(BigInteger, default=0)
    reported_ns: Mapped[int] = mapped_column(BigInteger)


class PendingInventoryRow(Base):
    """An inventory that differs from what is registered; an operator accepts it or not."""

    __tablename__ = "pending_inventories"

    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"), primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)  # JSON of Inventory
    told_ns: Mapped[int] = mapped_column(BigInteger)


class DeltaImageRow(Base):
    """What a delta is good for."""

    __tablename__ = "delta_images"
    __table_args__ = (Index("delta_images_by_target", "target_image_id", "base_image_id"),)

    image_id: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    base_image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    target_image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))


class TufFileRow(Base):
    """A metadata file, byte for byte: all roots of both repositories, and the Image repository's other roles."""

    __tablename__ = "tuf_files"

    repository: Mapped[str] = mapped_column(String(16), primary_key=True)  # "director", "image"
    role: Mapped[str] = mapped_column(String(200), primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    expires_ns: Mapped[int] = mapped_column(BigInteger)
    made_ns: Mapped[int] = mapped_column(BigInteger)


class DirectorFilesRow(Base):
    """Targets, Snapshot and Timestamp of one vehicle, all of one version; the newest two are kept."""

    __tablename__ = "director_files"

    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    targets: Mapped[bytes] = mapped_column(LargeBinary)
    snapshot: Mapped[bytes] = mapped_column(LargeBinary)
    timestamp: Mapped[bytes] = mapped_column(LargeBinary)


class AssignmentState(StrEnum):
    """Where one vehicle is with one release."""

    ASSIGNED = "assigned"  # the vehicle has not fetched metadata that says so
    OFFERED = "offered"
    RUNNING = "running"  # the vehicle has reported progress
    SUCCEEDED = "succeeded"  # a signed manifest, sent after the boot, shows every image of it
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"  # it booted, or tried to, and went back by itself
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"  # another assignment took its place


OPEN_ASSIGNMENTS = (AssignmentState.ASSIGNED, AssignmentState.OFFERED, AssignmentState.RUNNING)


class AssignmentRow(Base):
    """A release for one vehicle. At most one is open for a vehicle."""

    __tablename__ = "assignments"
    __table_args__ = (
        Index(
            "assignments_one_open",
            "vehicle_id",
            unique=True,
            sqlite_where=text("state IN ('assigned', 'offered', 'running')"),
        ),
        Index("assignments_by_vehicle", "vehicle_id", "id"),
        Index("assignments_by_campaign", "campaign_id", "phase", "state"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"))
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"))
    campaign_id: Mapped[int | None] = mapped_column(Integer, default=None)  # None: an operator, for this vehicle
    phase: Mapped[int] = mapped_column(Integer, default=0)
    attempt: Mapped[int] = mapped_column(Integer, default=1)
    is_rollback: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str] = mapped_column(String(16))
    policy: Mapped[bytes] = mapped_column(LargeBinary, default=b"")  # JSON of InstallPolicy; "": the default
    created_ns: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str] = mapped_column(String(80), default="")
    offered_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    started_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    finished_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    detail: Mapped[str] = mapped_column(String(400), default="")
    attack: Mapped[str] = mapped_column(String(40), default="")


class AssignmentPlanRow(Base):
    """What an assignment means for its vehicle, worked out when it is offered and the same until it ends.

    Were it worked out anew with each manifest, an ECU that has been updated would vanish from its set half-way.
    """

    __tablename__ = "assignment_plans"

    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignments.id", ondelete="CASCADE"), primary_key=True)
    plan: Mapped[bytes] = mapped_column(LargeBinary)  # JSON of ``cloud.updates.plan.Plan``
    made_ns: Mapped[int] = mapped_column(BigInteger)


class VehicleUpdateRow(Base):
    """The newest that a vehicle reported of its update, for people; and the state of its Director metadata."""

    __tablename__ = "vehicle_updates"

    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"), primary_key=True)
    targets_version: Mapped[int] = mapped_column(BigInteger, default=0)  # of the last metadata made for it
    snapshot_version: Mapped[int] = mapped_column(BigInteger, default=0)
    timestamp_version: Mapped[int] = mapped_column(BigInteger, default=0)
    content_digest: Mapped[bytes] = mapped_column(LargeBinary, default=b"")  # of what those targets say
    expires_ns: Mapped[int] = mapped_column(BigInteger, default=0)
    assignment_id: Mapped[int | None] = mapped_column(Integer, default=None)  # that the report is of
    state: Mapped[str] = mapped_column(String(16), default="")
    percent: Mapped[float] = mapped_column(Float, default=0.0)
    reported_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)
    report: Mapped[bytes] = mapped_column(LargeBinary, default=b"")  # JSON of UpdateReport
    manifest_ns: Mapped[int | None] = mapped_column(BigInteger, default=None)  # of the last accepted manifest
    manifest_problem: Mapped[str] = mapped_column(
        String(400), default=""
    )  # why the last one was refused; "" it was not
