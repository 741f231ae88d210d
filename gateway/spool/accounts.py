"""What the slots hold: the accounting that must outlive segments, and the caller's newest state."""

from __future__ import annotations

import msgspec


class EvictedRange(msgspec.Struct, frozen=True, array_like=True):
    """Sequences ``first`` to ``last``, both included, that are gone without having been acknowledged."""

    first: int
    last: int
    items_before: int
    items: int
    confirmed: bool = False  # the cloud has heard of it


class StreamAccount(msgspec.Struct, frozen=True, array_like=True):
    """One stream. Items are counted from the spool's beginning."""

    stream: str
    last_sequence: int = 0
    stored: int = 0
    acknowledged_sequence: int = 0
    acknowledged: int = 0
    acknowledged_through: int = 0  # items stored up to and with the acknowledged sequence, evicted ones included
    evicted: int = 0
    ranges: tuple[EvictedRange, ...] = ()  # unconfirmed, or beyond the acknowledged sequence


class Accounts(msgspec.Struct, frozen=True, array_like=True):
    """The whole value of a slot."""

    spool_id: int
    counter: int  # of ``state``, in one order with the records' counters
    state: bytes | None
    streams: tuple[StreamAccount, ...] = ()

    def encode(self) -> bytes:
        """MessagePack."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def decode(raw: bytes | None) -> Accounts | None:
        """None when there are none that this version reads."""
        if raw is None:
            return None
        try:
            return msgspec.msgpack.decode(raw, type=Accounts)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
