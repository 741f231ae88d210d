"""Rows of the inventory and of releases as the planner's values."""

from __future__ import annotations

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloud.errors import NotFound
from cloud.updates.model import (
    AssignmentRow,
    DeltaImageRow,
    ImageRow,
    ImageRuleRow,
    ReleaseImageRow,
    ReleaseRow,
    VehicleEcuRow,
    VehiclePayloadRow,
)
from cloud.updates.plan import Deltas, KnownImage, ReleaseImage, Rule, Unit
from cloud.updates.views import must_match_of
from gateway.wire.uptane import DeltaOffer, FileFacts, InstallPolicy


def file_facts(row: ImageRow) -> FileFacts:
    """An image as metadata names it."""
    return FileFacts(filename=row.filename, length=row.length, hashes={"sha256": row.sha256, "sha512": row.sha512})


def known_images(session: Session, rows: list[ImageRow]) -> dict[int, KnownImage]:
    """Images with their rules, by id."""
    rules: dict[int, list[Rule]] = {}
    for rule in session.scalars(
        select(ImageRuleRow).where(ImageRuleRow.image_id.in_([row.id for row in rows])).order_by(ImageRuleRow.id)
    ):
        rules.setdefault(rule.image_id, []).append(Rule(rule.rule, rule.hardware_id, rule.version, rule.min_counter))
    return {
        row.id: KnownImage(
            id=row.id,
            file=file_facts(row),
            must_match=must_match_of(row),
            is_target=row.is_target,
            rules=tuple(rules.get(row.id, ())),
        )
        for row in rows
    }


def vehicle_units(session: Session, vehicle_id: str) -> list[Unit]:
    """All ECUs and payload slots of a vehicle; none for one that has registered no inventory."""
    ecus = (session.scalars(select(VehicleEcuRow).where(VehicleEcuRow.vehicle_id == vehicle_id))).all()
    if not ecus:
        return []
    payloads = (session.scalars(select(VehiclePayloadRow).where(VehiclePayloadRow.vehicle_id == vehicle_id))).all()
    hashes = ({row.sha256 for row in ecus} | {row.sha256 for row in payloads}) - {""}
    rows = (session.scalars(select(ImageRow).where(ImageRow.sha256.in_(hashes), ImageRow.kind != "delta"))).all()
    images = known_images(session, list(rows))
    gateway = next((row.hardware_id for row in ecus if row.is_primary), "")

    def known(hardware_id: str, filename: str, sha256: str) -> KnownImage | None:
        """The image of that content; of several names the one that was reported, and only for this hardware."""
        fitting = [
            i for i in images.values() if i.file.hashes["sha256"] == sha256 and hardware_id in i.must_match.hardware_ids
        ]
        return min(fitting, key=lambda image: (image.file.filename != filename, not image.is_target), default=None)

    def unit(row: VehicleEcuRow | VehiclePayloadRow, name: str, hardware_id: str) -> Unit:
        found = known(hardware_id, row.filename, row.sha256)
        return Unit(
            name=name,
            hardware_id=hardware_id,
            sha256=row.sha256,
            length=row.length,
            version=found.must_match.version if found else row.version,
            release_counter=max(row.release_counter, found.must_match.release_counter if found else 0),
            is_payload=isinstance(row, VehiclePayloadRow),
            is_primary=isinstance(row, VehicleEcuRow) and row.is_primary,
            known=found,
        )

    names = {row.ecu for row in ecus}
    return [
        *(unit(row, row.ecu, row.hardware_id) for row in sorted(ecus, key=lambda row: row.ecu)),
        *(unit(row, row.name, gateway) for row in sorted(payloads, key=lambda row: row.name) if row.name not in names),
    ]


def release_images(session: Session, release_id: int) -> list[ReleaseImage]:
    """The images of a release."""
    items = (
        session.execute(
            select(ReleaseImageRow, ImageRow)
            .join(ImageRow, ImageRow.id == ReleaseImageRow.image_id)
            .where(ReleaseImageRow.release_id == release_id)
            .order_by(ReleaseImageRow.set_number, ReleaseImageRow.position, ImageRow.id)
        )
    ).all()
    images = known_images(session, [image for _, image in items])
    return [
        ReleaseImage(image=images[image.id], ecu=row.ecu, set_number=row.set_number, position=row.position)
        for row, image in items
    ]


def deltas_for(session: Session, units: list[Unit], images: list[ReleaseImage]) -> Deltas:
    """Signed deltas from what the vehicle runs to what the release has."""
    bases = {unit.known.id: unit.known for unit in units if unit.known is not None}
    rows = session.execute(
        select(DeltaImageRow, ImageRow)
        .join(ImageRow, ImageRow.id == DeltaImageRow.image_id)
        .where(
            DeltaImageRow.target_image_id.in_([item.image.id for item in images]),
            DeltaImageRow.base_image_id.in_(list(bases)),
            ImageRow.is_target,
        )
    )
    return {
        (bases[row.base_image_id].file.hashes["sha256"], row.target_image_id): DeltaOffer(
            base_sha256=bases[row.base_image_id].file.hashes["sha256"],
            base_length=bases[row.base_image_id].file.length,
            delta=file_facts(image),
        )
        for row, image in rows
    }


def policy_of(session: Session, assignment: AssignmentRow) -> InstallPolicy:
    """The assignment's own policy, else what the release says."""
    if assignment.policy:
        return msgspec.json.decode(assignment.policy, type=InstallPolicy)
    release = session.get(ReleaseRow, assignment.release_id)
    if release is None:
        raise NotFound(f"there is no release {assignment.release_id}")
    return InstallPolicy(needs_consent=release.needs_consent, is_critical=release.is_critical)
