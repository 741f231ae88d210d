"""Which identifiers the active schemes need, for filters in the kernel and for black boxes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dbc.frames import ERROR, EXTENDED, FrameBatch
from dbc.manifest import Manifest
from gateway.collect.resolve import Scheme, frame_key

#: A black-box range with more identifiers than this opens the bus.
_MAX_EXPANDED = 256

BusFilter = frozenset[tuple[int, bool]] | None


class RawMatch:
    """Which frames a black box wants. Error frames are never wanted: sources tell of them by events."""

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        self._low = np.array([low for low, _ in ranges], np.int64)
        self._high = np.array([high for _, high in ranges], np.int64)

    def __bool__(self) -> bool:
        return len(self._low) > 0

    def wanted(self, frames: FrameBatch) -> NDArray[np.bool_]:
        """bool[n]"""
        key = frames.bus.astype(np.int64) << 30 | frames.can_id
        key |= ((frames.flags & EXTENDED) != 0).astype(np.int64) << 29
        at = np.searchsorted(self._low, key, "right") - 1
        inside: NDArray[np.bool_] = (at >= 0) & (key <= self._high[np.maximum(at, 0)]) & ((frames.flags & ERROR) == 0)
        return inside


def needed_messages(scheme: Scheme, manifest: Manifest) -> set[int]:
    """The messages whose frames a scheme decodes."""
    signals = {rule.signal for rule in scheme.rules}
    if scheme.trigger is not None:
        signals.update(scheme.trigger.condition.inputs)
    return {manifest.signal_message[s] for s in signals}


def kernel_filters(schemes: Iterable[Scheme], manifest: Manifest) -> tuple[BusFilter, ...]:
    """Per bus the identifiers ``(id, extended)`` to receive, or None for all.

    A bus is left open when a J1939 message is needed (its frames differ in priority and addresses) or when a black box
    wants many identifiers. An empty set means that nothing on the bus is wanted.
    """
    wanted: list[set[tuple[int, bool]] | None] = [set() for _ in manifest.buses]

    def add(bus: int, can_id: int, extended: bool) -> None:
        if (ids := wanted[bus]) is not None:
            ids.add((can_id, extended))

    for scheme in schemes:
        for number in needed_messages(scheme, manifest):
            message = manifest.messages[number]
            if message.pgn is not None:
                wanted[message.bus] = None
            add(message.bus, message.can_id, message.extended)
        for low, high in scheme.raw_ranges:
            bus = low >> 30
            if high - low >= _MAX_EXPANDED:
                wanted[bus] = None
                continue
            for key in range(low, high + 1):
                add(key >> 30, key & 0x1FFFFFFF, bool(key >> 29 & 1))
    return tuple(None if ids is None else frozenset(ids) for ids in wanted)


__all__ = ["BusFilter", "RawMatch", "frame_key", "kernel_filters", "needed_messages"]
