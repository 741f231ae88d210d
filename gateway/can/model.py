"""What a bus is to the rest of the gateway: names, counters, states, filters. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec

from gateway.errors import GatewayError, TransportError


class LinkState(StrEnum):
    """A bus as last seen; the values are those of ``gateway.wire.api.BusState.state``."""

    UP = "up"
    DOWN = "down"  # interface down, absent, or its adapter failed
    BUS_OFF = "bus_off"
    ERROR_PASSIVE = "error_passive"
    ENDED = "ended"  # a replay that is over
    STOPPED = "stopped"  # closed by us


class IdFilter(NamedTuple):
    """Identifiers that are wanted: those equal to ``can_id`` in the bits of ``mask`` (all of them by default)."""

    can_id: int
    extended: bool
    mask: int = 0x1FFFFFFF


#: Per bus name, what is wanted; a bus left out delivers everything.
Filters = Mapping[str, Collection[IdFilter]]


class BusCounters(msgspec.Struct, frozen=True):
    """One bus since its source was opened. All counts only grow.

    ``received == read + kernel_dropped`` at every moment, and ``read`` is the number of frames handed out in batches
    (error frames included), so the ledger's identity can be checked frame by frame.
    """

    bus: str
    received: int = 0  # frames that reached our socket, read or not
    read: int = 0  # handed out in batches
    kernel_dropped: int = 0  # never read: the socket's buffer was full (or the adapter's queue)
    error_frames: int = 0  # of those read
    malformed: int = 0  # datagrams, lines or records that were no frame; not in ``received``
    state: LinkState = LinkState.DOWN
    detail: str = ""
    last_frame_ns: int = 0  # timestamp of the newest frame read, 0 before the first
    interface_rx: int | None = None  # what the interface itself counts (all frames, wanted or not); None if unknown
    receive_buffer_bytes: int | None = None  # as granted by the kernel, which doubles what was asked


class SourceEnded(GatewayError):
    """Every bus of the source has ended (replays only); all frames and events were handed out before."""


class SourceError(TransportError):
    """A source could not be opened or broke for good; ``bus`` is its name."""

    def __init__(self, bus: str, message: str) -> None:
        super().__init__(f"bus {bus}: {message}")
        self.bus = bus
