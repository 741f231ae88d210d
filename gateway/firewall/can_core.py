"""Which frame may pass from bus to bus. A core: frames and time in, destinations and counts out.

Each identifier of a limited route has a token bucket of its own, so that a flood of one does not starve its neighbours.
Everything kept per identifier is bounded; beyond the bound a frame is refused, for a bus that shows thousands of
identifiers is under attack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from enum import StrEnum

import msgspec

from gateway.can.link import CanFrame, CanId
from gateway.firewall.can_rules import Route, RoutingTable

MAX_IDS = 4096
MAX_REFUSED_KEYS = 256
MUTE_FACTOR = 10  # an identifier refused so many times its rate within a second floods


class Reason(StrEnum):
    """Why a frame did not pass."""

    RATE = "rate"
    LENGTH = "length"
    TABLE_FULL = "table_full"
    CONGESTED = "congested"  # the other bus did not take it
    ORIGIN = "origin"  # an identifier of another bus


class RouteCounts(msgspec.Struct, kw_only=True):
    """One route: ``heard == forwarded + refused`` for what user space did; the kernel's own counts apart."""

    heard: int = 0
    forwarded: int = 0  # frames let through; each goes to all destinations
    refused_rate: int = 0
    refused_length: int = 0
    refused_table_full: int = 0
    congested: int = 0  # let through, but a destination's queue stayed full (per destination)
    kernel_handled: int = 0  # forwarded by can-gw (per destination)
    kernel_dropped: int = 0
    muted: int = 0  # how often an identifier was cut off in the kernel


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """What was refused since the last report, for an event."""

    bus: str
    reason: Reason
    rule: str
    can_id: int
    extended: bool
    count: int

    def as_text(self) -> str:
        """For the event's detail."""
        width = 8 if self.extended else 3
        return f"{self.reason} {self.rule!r}: {self.can_id:0{width}X} x{self.count}"


class _Bucket:
    __slots__ = ("at_ns", "refused", "second_ns", "tokens")

    def __init__(self, tokens: float, at_ns: int) -> None:
        self.tokens, self.at_ns = tokens, at_ns
        self.refused, self.second_ns = 0, at_ns


class CanFirewall:
    """Judges frames of user-space routes."""

    def __init__(self, table: RoutingTable) -> None:
        self.table = table
        self._active = table.routes
        self.counts = {route.name: RouteCounts() for route in table.routes}
        self._ways: dict[tuple[str, CanId], tuple[Route, ...]] = {}
        self._buckets: dict[tuple[str, CanId], _Bucket] = {}
        self._refused: Counter[tuple[str, Reason, str, CanId]] = Counter()
        self._flooding: list[tuple[str, CanId]] = []

    @property
    def active(self) -> tuple[Route, ...]:
        """The routes judged here; the others are the kernel's."""
        return self._active

    def activate(self, routes: Collection[Route]) -> None:
        """Judge only these routes from now on."""
        self._active = tuple(routes)
        self._ways.clear()

    def judge(self, bus: str, frame: CanFrame, now_ns: int) -> tuple[Route, ...]:
        """The routes by which a frame passes; empty: it does not. ``now_ns`` is monotonic."""
        can_id = (frame.can_id, frame.extended)
        ways = self._ways.get((bus, can_id))
        if ways is None:
            ways = tuple(r for r in self._active if r.source == bus and any(can_id in ids for ids in r.ids))
            if len(self._ways) < MAX_IDS:
                self._ways[bus, can_id] = ways
        return tuple(route for route in ways if self._passes(route, bus, can_id, frame, now_ns))

    def _passes(self, route: Route, bus: str, can_id: CanId, frame: CanFrame, now_ns: int) -> bool:
        counts = self.counts[route.name]
        counts.heard += 1
        if route.lengths is not None and not route.lengths[0] <= len(frame.data) <= route.lengths[1]:
            counts.refused_length += 1
            self.refuse(bus, Reason.LENGTH, route.name, can_id)
            return False
        if route.max_rate_hz is not None:
            bucket = self._buckets.get((route.name, can_id))
            if bucket is None:
                if len(self._buckets) >= MAX_IDS:
                    counts.refused_table_full += 1
                    self.refuse(bus, Reason.TABLE_FULL, route.name, can_id)
                    return False
                bucket = self._buckets[route.name, can_id] = _Bucket(route.burst, now_ns)
            if not self._take(bucket, route, now_ns):
                counts.refused_rate += 1
                self.refuse(bus, Reason.RATE, route.name, can_id)
                self._watch_flood(bucket, route, bus, can_id, now_ns)
                return False
        counts.forwarded += 1
        return True

    @staticmethod
    def _take(bucket: _Bucket, route: Route, now_ns: int) -> bool:
        assert route.max_rate_hz is not None
        bucket.tokens = min(route.burst, bucket.tokens + (now_ns - bucket.at_ns) * route.max_rate_hz / 1e9)
        bucket.at_ns = now_ns
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _watch_flood(self, bucket: _Bucket, route: Route, bus: str, can_id: CanId, now_ns: int) -> None:
        assert route.max_rate_hz is not None
        if now_ns - bucket.second_ns >= 1_000_000_000:
            bucket.second_ns, bucket.refused = now_ns, 0
        bucket.refused += 1
        if bucket.refused == max(100, int(MUTE_FACTOR * route.max_rate_hz)):
            self._flooding.append((bus, can_id))

    def refuse(self, bus: str, reason: Reason, rule: str, can_id: CanId, count: int = 1) -> None:
        """Note a refused frame for the next report; beyond some hundred kinds of them only the sum per rule is kept."""
        key = (bus, reason, rule, can_id)
        if key not in self._refused and len(self._refused) >= MAX_REFUSED_KEYS:
            key = (bus, reason, rule, (0x1FFFFFFF, True))  # "others"
        self._refused[key] += count

    def take_refused(self) -> list[Refused]:
        """What was refused since the last call, most frequent first."""
        taken = [
            Refused(bus=bus, reason=reason, rule=rule, can_id=can_id[0], extended=can_id[1], count=count)
            for (bus, reason, rule, can_id), count in self._refused.most_common()
        ]
        self._refused.clear()
        return taken

    def take_flooding(self) -> list[tuple[str, CanId]]:
        """Identifiers (with their bus) that began to flood since the last call."""
        taken, self._flooding = self._flooding, []
        return taken
