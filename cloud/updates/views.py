"""What the API shows of images, releases and updates. Times are UTC ns, None where it never happened."""

from __future__ import annotations

import msgspec

from cloud.updates.model import ImageRow
from cloud.updates.trust import ImageFacts
from gateway.wire.uptane import MustMatch


class ImageView(msgspec.Struct, frozen=True, kw_only=True):
    """An image."""

    id: int
    filename: str
    state: str
    kind: str
    hardware_ids: list[str]
    version: str
    release_counter: int
    description: str
    length: int
    sha256: str
    sha512: str
    role: str
    is_target: bool
    created_ns: int
    created_by: str


def hardware_of(row: ImageRow) -> tuple[str, ...]:
    """The hardware ids of an image."""
    return msgspec.json.decode(row.hardware_ids, type=tuple[str, ...])


def must_match_of(row: ImageRow) -> MustMatch:
    """What both repositories must say alike (R5)."""
    return MustMatch(
        hardware_ids=hardware_of(row), release_counter=row.release_counter, kind=row.kind, version=row.version
    )


def facts_of(row: ImageRow) -> ImageFacts:
    """For comparison with metadata."""
    return ImageFacts(row.filename, row.length, row.sha256, row.sha512, must_match_of(row))


def image_view(row: ImageRow) -> ImageView:
    """For the API."""
    return ImageView(
        id=row.id,
        filename=row.filename,
        state=row.state,
        kind=row.kind,
        hardware_ids=list(hardware_of(row)),
        version=row.version,
        release_counter=row.release_counter,
        description=row.description,
        length=row.length,
        sha256=row.sha256,
        sha512=row.sha512,
        role=row.role,
        is_target=row.is_target,
        created_ns=row.created_ns,
        created_by=row.created_by,
    )
