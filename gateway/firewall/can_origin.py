"""Who pretends to be another: identifiers that belong to one bus and are seen on a different one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from dbc.frames import ERROR, EXTENDED, FrameBatch
from gateway.can.observer import Wanted
from gateway.firewall.can_core import MAX_REFUSED_KEYS, Reason, Refused
from gateway.firewall.can_rules import RoutingTable

MAX_FILTERED = 512


class OriginWatch:
    """A ``FrameObserver``; some array operations per batch, whatever the number of frames."""

    def __init__(self, table: RoutingTable, buses: Sequence[str], watched: Collection[str] | None = None) -> None:
        """``buses`` in the manifest's order; ``watched`` those the gateway reads (all by default).

        Frames that a route brings to a bus are no masquerade there: a bus is a legitimate place of an identifier when
        it is its origin or when a route leads from the origin to it.
        """
        self._buses = tuple(buses)
        self._watched = frozenset(buses if watched is None else watched)
        self._found: Counter[tuple[str, str, int, bool]] = Counter()
        rows: list[tuple[int, int, int, int]] = []  # first key, last key, bus, rule
        self._rules = [origin.name for origin in table.origins]
        self._wanted: dict[str, set[Wanted]] = {}
        for number, origin in enumerate(table.origins):
            for ids in origin.ids:
                allowed = {origin.bus}
                for _ in table.routes:  # routes of routes
                    allowed |= {
                        to
                        for r in table.routes
                        if r.source in allowed and any(ids.overlaps(other) for other in r.ids)
                        for to in r.to
                    }
                base = int(ids.extended) << 32
                for bus in self._watched - allowed:
                    rows.append((base + ids.first, base + ids.last, self._buses.index(bus), number))
                    if len(ids) <= MAX_FILTERED:
                        keys = {(can_id, ids.extended) for can_id in range(ids.first, ids.last + 1)}
                        self._wanted.setdefault(bus, set()).update(keys)
        self._rows = np.array(rows, np.int64).reshape(-1, 4)

    def wanted(self) -> dict[str, Collection[Wanted]]:
        """See ``FrameObserver``; ranges above ``MAX_FILTERED`` identifiers are seen only where filters are off."""
        return dict(self._wanted)

    def observe(self, frames: FrameBatch, now_ns: int) -> None:
        """See ``FrameObserver``."""
        if not len(frames) or not len(self._rows):
            return
        key = frames.can_id.astype(np.int64) + ((frames.flags & EXTENDED != 0).astype(np.int64) << 32)
        usable = frames.flags & ERROR == 0
        for first, last, bus, rule in self._rows.tolist():
            hit = np.flatnonzero((key >= first) & (key <= last) & (frames.bus == bus) & usable)
            if len(hit):
                for can_id, count in zip(*np.unique(key[hit], return_counts=True), strict=True):
                    place = (self._buses[bus], self._rules[rule], int(can_id) & 0x1FFFFFFF, bool(int(can_id) >> 32))
                    if place not in self._found and len(self._found) >= MAX_REFUSED_KEYS:
                        place = (self._buses[bus], self._rules[rule], 0x1FFFFFFF, True)  # "others"
                    self._found[place] += int(count)

    def take(self) -> list[Refused]:
        """Findings since the last call."""
        taken = [
            Refused(bus=bus, reason=Reason.ORIGIN, rule=rule, can_id=can_id, extended=extended, count=count)
            for (bus, rule, can_id, extended), count in self._found.most_common()
        ]
        self._found.clear()
        return taken
