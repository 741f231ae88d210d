"""The one error of the codec, and the limits a reader sets before it believes a number."""

from __future__ import annotations

from dataclasses import dataclass

#: More items than this never go into one batch. A column whose value never changes costs no bytes however long it is,
#: so the number of items must be bounded apart from the number of bytes.
MAX_ITEMS = 1_000_000


class CodecError(ValueError):
    """The bytes are no batch that this version reads: damaged, truncated, of a newer format, or beyond the limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What ``decode_batch`` accepts. Checked before anything is allocated from a number in the batch."""

    max_bytes: int = 1024 * 1024
    max_unpacked_bytes: int = 64 * 1024 * 1024
    max_items: int = MAX_ITEMS
