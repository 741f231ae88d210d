"""The accounting: where every frame and every stored item went. The identities here are checked, not hoped for."""

from __future__ import annotations

import msgspec


class BusLedger(msgspec.Struct, frozen=True):
    """Frames of one bus since the ledger began.

    ``received = kernel_dropped + errors + undecodable + not_selected + selected + held + lost``
    """

    bus: str
    received: int = 0  # frames that reached our socket, read or not
    kernel_dropped: int = 0  # socket buffer full (SO_RXQ_OVFL)
    errors: int = 0  # error frames
    undecodable: int = 0  # unknown identifier, remote frame, wrong length; and no black box wanted it
    not_selected: int = 0  # known, but no scheme wanted it
    selected: int = 0  # gave at least one item
    held: int = 0  # still in a pre-trigger window
    lost: int = 0  # read or passed by the interface, gone in a crash

    @property
    def unexplained(self) -> int:
        """0 when the identity holds."""
        return self.received - (
            self.kernel_dropped
            + self.errors
            + self.undecodable
            + self.not_selected
            + self.selected
            + self.held
            + self.lost
        )


class StreamLedger(msgspec.Struct, frozen=True):
    """Items (samples, raw frames, events) of one stream. ``stored = acknowledged + evicted + pending``"""

    stream: str
    stored: int = 0
    acknowledged: int = 0
    evicted: int = 0
    pending: int = 0
    pending_bytes: int = 0
    dead_lettered: int = 0  # of the acknowledged: kept by the cloud, but it could not read them
    last_sequence: int = 0
    acknowledged_sequence: int = 0

    @property
    def unexplained(self) -> int:
        """0 when the identity holds."""
        return self.stored - (self.acknowledged + self.evicted + self.pending)


class Ledger(msgspec.Struct, frozen=True):
    """One vehicle's accounting at one moment. ``selected_items = stored + buffered + lost_items + refused_items``"""

    at_ns: int
    buses: tuple[BusLedger, ...] = ()
    streams: tuple[StreamLedger, ...] = ()
    selected_items: int = 0
    buffered_items: int = 0  # in memory, not yet in a batch
    lost_items: int = 0  # were in memory at a crash
    refused_items: int = 0  # the disk took no more even after eviction
    over_budget_items: int = 0  # would have been selected, but the day's bytes were spent
    uploaded_bytes: int = 0
    restarts: int = 0
    crashes: int = 0

    @property
    def unexplained(self) -> int:
        """0 when every identity holds, else the sum of the absolute differences."""
        stored = sum(s.stored for s in self.streams)
        items = self.selected_items - (stored + self.buffered_items + self.lost_items + self.refused_items)
        return abs(items) + sum(abs(b.unexplained) for b in self.buses) + sum(abs(s.unexplained) for s in self.streams)
