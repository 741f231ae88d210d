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
_LONG = 1 << 31  # tells 29-bit identifiers from 11-bit ones in a key
_HASH_BITS = 16
_HASH_ATTEMPTS = 64
_FIRST_MULTIPLIER = 0x9E3779B97F4A7C15


def normal_pgn(pgn: int) -> int:
    """The group number with the destination address of PDU1 groups cleared."""
    return pgn & 0x3FF00 if (pgn >> 8) & 0xFF < 240 else pgn & 0x3FFFF


class Identifier:
    """Finds message numbers. Where two messages of a manifest claim the same frames, the first one has them."""

    def __init__(self, manifest: Manifest) -> None:
        self.unknown = len(manifest.messages)
        self._buses = len(manifest.buses)
        # identifier by identifier, in each the buses and one more for buses the manifest does not have; the last place
        # is unknown too, so that larger identifiers clip to it
        self._standard = np.full(_STANDARD_IDS * (self._buses + 1), self.unknown, np.intp)
        exact: dict[int, int] = {}
        groups: dict[int, int] = {}
        for number, message in enumerate(manifest.messages):
            if not message.extended:
                if message.can_id < _STANDARD_IDS:
                    exact.setdefault(message.bus << 32 | message.can_id, number)
                continue
            exact.setdefault(message.bus << 32 | _LONG | message.can_id, number)
            if message.pgn is not None:
                sender = message.can_id & 0xFF
                key = normal_pgn(message.pgn) << 9 | (_ANY_SENDER if sender == WILDCARD_SA else sender)
                groups.setdefault(message.bus << 32 | key, number)
        for key, number in exact.items():
            if not key & _LONG:
                self._standard[(key & 0x7FF) * (self._buses + 1) + (key >> 32)] = number
        self._first_bus = np.append(self._standard[:: self._buses + 1], self.unknown)
        self._exact = _Lookup(exact, self.unknown)
        self._groups = _Lookup(groups, self.unknown)

    def match_standard(self, frames: FrameBatch) -> NDArray[np.intp]:
        """The message number of each frame, ``unknown`` where there is none; no frame may be a 29-bit one."""
        if not np.count_nonzero(frames.bus):
            return self._first_bus.take(frames.can_id, mode="clip")
        row = frames.can_id.astype(np.intp)
        row *= self._buses + 1
        row += np.minimum(frames.bus, self._buses) if self._buses < 256 else frames.bus
        return self._standard.take(row, mode="clip")

    def match(self, frames: FrameBatch) -> NDArray[np.intp]:
        """The message number of each frame by its identifier alone, ``unknown`` where there is none."""
        extended = frames.flags & np.uint8(EXTENDED)
        key = extended.astype(np.uint64)
        key <<= np.uint64(31)
        key |= frames.can_id
        key |= frames.bus.astype(np.uint64) << np.uint64(32)
        message = self._exact.find(key)
        if self._groups:
            self._match_groups(frames, np.flatnonzero((message == self.unknown) & (extended != 0)), message)
        return message

    def _match_groups(self, frames: FrameBatch, rest: NDArray[np.intp], message: NDArray[np.intp]) -> None:
        """Fill in ``message[rest]`` for 29-bit frames that have no message of their own."""
        if not len(rest):
            return
        can_id = frames.can_id[rest].astype(np.uint64)
        pgn = can_id >> np.uint64(8) & np.uint64(0x3FFFF)
        to_one = (pgn >> np.uint64(8) & np.uint64(0xFF)) < 240
        pgn[to_one] &= np.uint64(0x3FF00)
        key = frames.bus[rest].astype(np.uint64) << np.uint64(32) | pgn << np.uint64(9)
        found = self._groups.find(key | can_id & np.uint64(0xFF))
        message[rest] = np.where(found == self.unknown, self._groups.find(key | np.uint64(_ANY_SENDER)), found)


class _Lookup:
    """A read-only dictionary of integers looked up by arrays.

    A multiplicative hash without collisions among the keys is searched for; where none is found (thousands of keys)
    look-ups are by bisection.
    """

    def __init__(self, entries: dict[int, int], missing: int) -> None:
        self._missing = missing
        self._keys = np.array(sorted(entries), np.uint64)
        self._values = np.array([entries[key] for key in sorted(entries)], np.intp)
        bits = min(max(6, (len(entries) ** 2 // 4).bit_length()), _HASH_BITS)
        self._shift = np.uint64(64 - bits)
        self._multiplier, self._slots = _perfect_hash(self._keys, bits)

    def __bool__(self) -> bool:
        return len(self._keys) > 0

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.intp]:
        """The values of ``keys``, ``missing`` where there is none."""
        if not len(self._keys):
            return np.full(len(keys), self._missing, np.intp)
        if self._slots is None:
            at = np.searchsorted(self._keys, keys)
        else:
            at = self._slots.take((keys * self._multiplier >> self._shift).view(np.int64), mode="clip")
        found = self._values.take(at, mode="clip")
        found[self._keys.take(at, mode="clip") != keys] = self._missing
        return found


def _perfect_hash(keys: NDArray[np.uint64], bits: int) -> tuple[np.uint64, NDArray[np.intp] | None]:
    """A multiplier that sends all keys to different slots, and the place of the key in each slot."""
    odd = _FIRST_MULTIPLIER
    for _ in range(_HASH_ATTEMPTS):
        multiplier = np.uint64(odd)
        slot = (keys * multiplier >> np.uint64(64 - bits)).astype(np.intp)
        if len(np.unique(slot)) == len(keys):
            slots = np.zeros(1 << bits, np.intp)
            slots[slot] = np.arange(len(keys))
            return multiplier, slots
        odd = odd * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1 | 1
    return np.uint64(0), None
