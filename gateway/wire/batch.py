"""A batch: the unit that is spooled, uploaded, acknowledged and counted. ``codec`` turns it into bytes and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import msgspec

from dbc.frames import FrameBatch
from gateway.wire.samples import Event, SampleBlock


class Priority(IntEnum):
    """How soon a batch must reach the cloud; also the order of eviction, highest number first."""

    CRITICAL = 0  # within 5 s
    NORMAL = 1  # in 60 s batches
    BULK = 2  # when the link is free


class UploadRule(IntEnum):
    """Over which link a batch may travel."""

    ANY = 0
    WIFI = 1


STREAMS: tuple[str, ...] = ("critical", "normal", "bulk", "critical-wifi", "normal-wifi", "bulk-wifi")


def stream_name(priority: Priority, rule: UploadRule) -> str:
    """The stream of a priority and rule; each stream has its own gap-free sequence."""
    return priority.name.lower() + ("-wifi" if rule is UploadRule.WIFI else "")


class BatchHeader(msgspec.Struct, frozen=True, array_like=True):
    """Readable without touching the body. The vehicle's identity is not here: it comes from the certificate.

    ``stream`` is ``<spool id>/<stream name>``: a spool that was lost starts new streams instead of reusing numbers.
    ``sequence`` counts from 1 without gaps; ``items_before`` is the number of items in all earlier batches of the
    stream, so that one batch tells what is missing before it.
    """

    stream: str
    sequence: int
    items: int  # samples + raw frames + events
    items_before: int
    manifest_hash: bytes  # 32 bytes
    created_ns: int  # UTC, when the batch was closed
    first_ns: int  # earliest and latest timestamp inside
    last_ns: int
    resolution_ns: int  # times were floored to multiples of this; 1_000_000 by default
    samples: int
    frames: int  # raw frames (black box)
    events: int
    schemes: tuple[tuple[str, int], ...]  # (id, version) of the schemes that put something in


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A decoded batch. Timestamps are multiples of ``header.resolution_ns``."""

    header: BatchHeader
    samples: SampleBlock = field(default_factory=SampleBlock.empty)
    frames: FrameBatch = field(default_factory=FrameBatch.empty)
    events: tuple[Event, ...] = ()
