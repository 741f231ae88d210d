"""The latest value of a few signals, at little cost: frames are kept as they come and decoded when asked for.

Only a message with multiplexed signals among those wanted is decoded frame by frame, since its latest frame does not
hold them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dbc.decode import Decoder
from dbc.decode.identify import Identifier
from dbc.frames import ERROR, EXTENDED, FD, MAX_LENGTH, REMOTE, FrameBatch
from dbc.manifest import WILDCARD_SA, Manifest, Message
from gateway.can.model import IdFilter
from gateway.can.observer import Wanted
from gateway.collect.scaling import Scaling

#: What of a J1939 identifier tells the group and who sent it: not the priority, not the destination of PDU1.
_GROUP, _DESTINATION, _SENDER = 0x03FF0000, 0x0000FF00, 0x000000FF
_BROADCAST_FROM = 240  # PDU formats from here on have no destination (SAE J1939-21)
#: Not seen yet.
NEVER = -(1 << 62)


def filter_of(message: Message) -> Wanted:
    """What lets every frame of a message pass. A J1939 message comes in any priority, and to or from any address."""
    if message.pgn is None:
        return message.can_id, message.extended
    mask = _GROUP
    if message.pgn >> 8 & 0xFF >= _BROADCAST_FROM:
        mask |= _DESTINATION
    if message.can_id & _SENDER != WILDCARD_SA:
        mask |= _SENDER
    return IdFilter(message.can_id & mask, message.extended, mask)


class LatestSignals:
    """Latest physical values.

    Args:
        signals: signal numbers; ``value`` and ``time_ns`` are in this order.
        messages: message numbers to be told of although no signal of them is wanted.

    Attributes:
        value: float64[k], NaN until seen (and what the bus says is no number).
        time_ns: int64[k] as given to ``put``, ``NEVER`` until seen.
        seen_ns: int64[m], by slot: when each message came last.
        messages: message number of each slot.
    """

    def __init__(self, manifest: Manifest, signals: Sequence[int], messages: Iterable[int] = ()) -> None:
        owner = manifest.signal_message
        self.manifest, self.signals = manifest, tuple(signals)
        self.messages = tuple(sorted({*(owner[s] for s in signals), *messages}))
        self.value = np.full(len(self.signals), np.nan)
        self.time_ns = np.full(len(self.signals), NEVER, np.int64)
        self.seen_ns = np.full(len(self.messages), NEVER, np.int64)
        self._identifier = Identifier(manifest)
        self._decoder, self._scaling = Decoder(manifest, self.signals), Scaling(manifest)
        self._slot = np.full(len(manifest.messages) + 1, -1, np.intp)
        self._slot[list(self.messages)] = np.arange(len(self.messages))
        self._place = np.full(len(manifest.signals), -1, np.intp)
        self._place[list(self.signals)] = np.arange(len(self.signals))
        self._is_eager = np.zeros(len(self.messages), np.bool_)
        for signal in self.signals:
            if manifest.signals[signal].mux:
                self._is_eager[self._slot[owner[signal]]] = True
        self._any_eager = bool(self._is_eager.any())
        self._is_fresh = np.zeros(len(self.messages), np.bool_)
        self._has_signals = np.zeros(len(self.messages), np.bool_)
        self._has_signals[self._slot[np.array([owner[s] for s in self.signals], np.intp)]] = True
        self._length = np.zeros(len(self.messages), np.uint8)
        self._data = np.zeros((len(self.messages), MAX_LENGTH), np.uint8)
        layouts = [manifest.messages[m] for m in self.messages]
        self._bus = np.array([m.bus for m in layouts], np.uint8)
        self._can_id = np.array([m.can_id for m in layouts], np.uint32)
        self._flags = np.array([(EXTENDED if m.extended else 0) | (FD if m.fd else 0) for m in layouts], np.uint8)

    def wanted(self) -> dict[str, set[Wanted]]:
        """As ``FrameObserver.wanted``."""
        wanted: dict[str, set[Wanted]] = {}
        for number in self.messages:
            message = self.manifest.messages[number]
            wanted.setdefault(self.manifest.buses[message.bus], set()).add(filter_of(message))
        return wanted

    def slots(self, frames: FrameBatch) -> NDArray[np.intp]:
        """The slot of each frame's message, -1 for frames that are of no interest."""
        if not np.count_nonzero(frames.flags & np.uint8(EXTENDED | ERROR | REMOTE)):
            return self._slot.take(self._identifier.match_standard(frames))
        slots = self._slot.take(self._identifier.match(frames))
        slots[frames.flags & np.uint8(ERROR | REMOTE) != 0] = -1
        return slots

    def put(self, frames: FrameBatch, slots: NDArray[np.intp], time_ns: NDArray[np.int64] | int) -> None:
        """Take in frames that have a slot, in order. Where a slot repeats the last frame stays (NumPy promises it)."""
        if not len(slots):
            return
        self.seen_ns[slots] = time_ns
        self._data[slots], self._length[slots] = frames.data, frames.length
        self._is_fresh[slots] = True
        if self._any_eager and (eager := self._is_eager[slots]).any():
            times = np.broadcast_to(np.asarray(time_ns, np.int64), slots.shape)
            self._decode(frames.take(eager), times[eager])
            self._is_fresh &= ~self._is_eager

    def refresh(self) -> None:
        """Bring ``value`` and ``time_ns`` up to date."""
        fresh = np.flatnonzero(self._is_fresh & self._has_signals)
        self._is_fresh[:] = False
        if len(fresh):
            frames = FrameBatch(
                self.seen_ns[fresh], self._bus[fresh], self._can_id[fresh], self._flags[fresh], self._length[fresh],
                self._data[fresh],
            )  # fmt: skip
            self._decode(frames, self.seen_ns[fresh])

    def _decode(self, frames: FrameBatch, time_ns: NDArray[np.int64]) -> None:
        decoded = self._decoder.decode(frames)
        value = self._scaling.physical(decoded.signal, decoded.raw)
        value[~np.isfinite(value)] = np.nan
        places = self._place[decoded.signal]
        self.value[places] = value
        self.time_ns[places] = time_ns[decoded.frame]
