"""The form a batch's content has after decoding: what the format keeps, and in which order.

Kept is everything but the order of frames that the same floored time does not tell apart. Rows come by time, then
message number; raw frames by time, then bus, identifier, flags and length. Within equal keys the order of reception
stays. A clock that was set back therefore shows as interleaved rows; the ``clock_jump`` event tells of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from dbc.frames import MAX_LENGTH, FrameBatch
from gateway.wire.codec.frame_columns import frame_key, payload_bytes
from gateway.wire.codec.sample_columns import drop_unused_rows
from gateway.wire.samples import Event, SampleBlock


def canonical(block: SampleBlock, resolution_ns: int) -> SampleBlock:
    """What decoding an encoded ``block`` gives: floored times, canonical order, rows without samples dropped."""
    block = drop_unused_rows(block)
    timestamp_ns = np.floor_divide(block.row_timestamp_ns, resolution_ns) * resolution_ns
    order = np.lexsort((block.row_message, timestamp_ns))
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    row = rank[block.row]
    by_row = np.lexsort((block.signal, row))
    return SampleBlock(
        timestamp_ns[order],
        block.row_message[order],
        row[by_row],
        block.signal[by_row],
        block.raw[by_row],
        block.quality[by_row],
    )


def canonical_frames(frames: FrameBatch, resolution_ns: int) -> FrameBatch:
    """What decoding encoded ``frames`` gives; bytes past the payload are zero."""
    timestamp_ns = np.floor_divide(frames.timestamp_ns, resolution_ns) * resolution_ns
    within = np.arange(MAX_LENGTH) < payload_bytes(frames.flags, frames.length)[:, np.newaxis]
    whole = FrameBatch(
        timestamp_ns, frames.bus, frames.can_id, frames.flags, frames.length, np.where(within, frames.data, 0)
    )
    return whole.take(np.lexsort((frame_key(frames), timestamp_ns)))


def canonical_events(events: Sequence[Event], resolution_ns: int) -> tuple[Event, ...]:
    """Events with floored times, in the order given."""
    return tuple(
        msgspec.structs.replace(e, timestamp_ns=e.timestamp_ns // resolution_ns * resolution_ns) for e in events
    )
