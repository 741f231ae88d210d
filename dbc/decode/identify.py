"""From (bus, identifier, 11 or 29 bits) to the message number, for a batch at once.

An exact identifier wins. A 29-bit identifier without one is matched by its J1939 parameter group number: first with the
sender's address, then with messages that name no sender. Priority never matters, nor does the destination address of
a PDU1 group.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dbc.frames import EXTENDED, FrameBatch
from dbc.manifest import WILDCARD_SA, Manifest

_STANDARD_IDS = 2048
_ANY_SENDER = 1 << 8


def normal_pgn(pgn: int) -> int:
    """The group number with the destination address of PDU1 groups cleared."""
    return pgn & 0x3FF00 if (pgn >> 8) & 0xFF < 240 else pgn & 0x3FFFF


class Identifier:
    """Finds message numbers. Where two messages of a manifest claim the same frames, the first one has them."""

    def __init__(self, manifest: Manifest) -> None:
        self.unknown = len(manifest.messages)
        self._buses = len(manifest.buses)
        self._standard = np.full((self._buses + 1) * _STANDARD_IDS, self.unknown, np.int32)
        exact: dict[int, int] = {}
        groups: dict[int, int] = {}
        for number, message in enumerate(manifest.messages):
            if not message.extended:
                slot = message.bus * _STANDARD_IDS + message.can_id
                if message.can_id < _STANDARD_IDS and self._standard[slot] == self.unknown:
                    self._standard[slot] = number
                continue
            exact.setdefault(message.bus << 32 | message.can_id, number)
            if message.pgn is not None:
                sender = message.can_id & 0xFF
                key = normal_pgn(message.pgn) << 9 | (_ANY_SENDER if sender == WILDCARD_SA else sender)
                groups.setdefault(message.bus << 32 | key, number)
        self._exact = _Sorted(exact, self.unknown)
        self._groups = _Sorted(groups, self.unknown)

    def match(self, frames: FrameBatch) -> NDArray[np.int32]:
        """The message number of each frame by its identifier alone, ``unknown`` where there is none."""
        can_id = frames.can_id
        extended = (frames.flags & EXTENDED) != 0
        if not extended.any() and can_id.max(initial=0) < _STANDARD_IDS:
            return self._match_standard(frames.bus, can_id)
        message = np.full(len(can_id), self.unknown, np.int32)
        short = np.flatnonzero(~extended & (can_id < _STANDARD_IDS))
        if len(short):
            message[short] = self._match_standard(frames.bus[short], can_id[short])
        if self._exact:
            long = np.flatnonzero(extended)
            message[long] = self._match_extended(frames.bus[long], can_id[long])
        return message

    def _match_standard(self, bus: NDArray[np.uint8], can_id: NDArray[np.uint32]) -> NDArray[np.int32]:
        row = np.minimum(bus, np.uint8(min(self._buses, 255))).astype(np.intp)
        row *= _STANDARD_IDS
        row += can_id
        return self._standard.take(row)

    def _match_extended(self, bus: NDArray[np.uint8], can_id: NDArray[np.uint32]) -> NDArray[np.int32]:
        high = bus.astype(np.int64) << 32
        message = self._exact.find(high | can_id)
        if not self._groups:
            return message
        rest = np.flatnonzero(message == self.unknown)
        if not len(rest):
            return message
        wide = can_id[rest].astype(np.int64)
        pgn = wide >> 8 & 0x3FFFF
        pgn = np.where((pgn >> 8 & 0xFF) < 240, pgn & 0x3FF00, pgn)
        key = high[rest] | pgn << 9
        found = self._groups.find(key | (wide & 0xFF))
        message[rest] = np.where(found == self.unknown, self._groups.find(key | _ANY_SENDER), found)
        return message


class _Sorted:
    """A read-only dictionary of integers looked up by arrays."""

    def __init__(self, entries: dict[int, int], missing: int) -> None:
        self._missing = missing
        self._keys = np.array(sorted(entries), np.int64)
        self._values = np.array([entries[key] for key in sorted(entries)], np.int32)

    def __bool__(self) -> bool:
        return len(self._keys) > 0

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        at = np.searchsorted(self._keys, keys)
        np.minimum(at, len(self._keys) - 1, out=at)
        return np.where(self._keys.take(at) == keys, self._values.take(at), np.int32(self._missing))
