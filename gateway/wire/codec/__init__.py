"""Batches as bytes: columns, byte planes and zstd. ``docs/reference/wire-format.md`` specifies the format."""

from gateway.wire.codec.canonical import canonical, canonical_events, canonical_frames
from gateway.wire.codec.container import FORMAT, MAGIC, decode_batch, encode_batch, read_header
from gateway.wire.codec.errors import MAX_ITEMS, CodecError, Limits

__all__ = [
    "FORMAT",
    "MAGIC",
    "MAX_ITEMS",
    "CodecError",
    "Limits",
    "canonical",
    "canonical_events",
    "canonical_frames",
    "decode_batch",
    "encode_batch",
    "read_header",
]
