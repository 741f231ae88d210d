"""Gathers what the gateway says of itself, for the cloud's check-in and for ``outrider gateway status``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from gateway.can.model import BusCounters
from gateway.can.ports import FrameSource
from gateway.collect import Selector
from gateway.collect.budget import BudgetKeeper
from gateway.link.checkin import Wishes
from gateway.link.kind import LinkKind
from gateway.link.uplink import Uplink
from gateway.runtime import Channel, Clock, HealthBoard
from gateway.status import Status
from gateway.telemetry.batcher import Piece
from gateway.telemetry.desk import SpoolDesk
from gateway.telemetry.ledger import LedgerKeeper
from gateway.wire.api import BusState, CheckIn, SchemeState

MAX_EVICTED_RANGES = 5_000  # in one check-in, which the cloud bounds; the rest follows once these are confirmed


class Reporter:
    """Reads components' numbers; changes nothing. The link parts are there only with a link."""

    def __init__(
        self,
        *,
        vehicle: str,
        software: str,
        boot_id: str,
        manifest_hash: str,
        desk: SpoolDesk,
        keeper: LedgerKeeper,
        source: FrameSource,
        selector: Selector,
        budget: BudgetKeeper,
        rejected: Sequence[SchemeState],
        channel: Channel[list[Piece]],
        health: HealthBoard,
        clock: Clock,
    ) -> None:
        self._vehicle, self._software, self._boot_id, self._manifest_hash = vehicle, software, boot_id, manifest_hash
        self._desk, self._keeper, self._source, self._selector = desk, keeper, source, selector
        self._budget, self._channel, self._health, self._clock = budget, channel, health, clock
        self._rejected = tuple(rejected)
        self._started_ns, self._started_monotonic_ns = clock.utc_ns(), clock.monotonic_ns()
        self._before: dict[str, tuple[int, int]] = {}
        self.link_kind: LinkKind | None = None
        self.uplink: Uplink | None = None
        self.wishes: Wishes | None = None
        self.diagnostics: Callable[[], dict[str, object]] = dict
        self.updates: Callable[[], dict[str, object]] = dict

    async def check_in(self, is_last: bool) -> CheckIn:
        """The report as of now."""
        totals = await self._desk.totals()
        evicted = (await self._desk.evicted())[:MAX_EVICTED_RANGES]
        now_ns = self._clock.utc_ns()
        return CheckIn(
            software=self._software,
            boot_id=self._boot_id,
            at_ns=now_ns,
            started_ns=self._started_ns,
            manifest_hash=self._manifest_hash,
            ledger=self._keeper.ledger(now_ns, totals),
            schemes=(*self._selector.scheme_states(now_ns), *self._rejected),
            buses=tuple(self._bus(counters) for counters in self._source.statistics()),
            evicted=evicted,
            not_found=self.uplink.not_found() if self.uplink else (),
            health=self._health.summary(),
            budget_level=self._budget.level(now_ns),
            stopping=is_last,
            spool_id=self._desk.spool_id,
        )

    def _bus(self, counters: BusCounters) -> BusState:
        """Frame rate since the last time this bus was asked about, at first since the start."""
        now_ns = self._clock.monotonic_ns()
        then_ns, then_read = self._before.get(counters.bus, (self._started_monotonic_ns, 0))
        elapsed_s = (now_ns - then_ns) / 1e9
        if elapsed_s > 1:
            self._before[counters.bus] = (now_ns, counters.received)
        return BusState(
            name=counters.bus,
            state=counters.state.value,
            frames_per_s=(counters.received - then_read) / elapsed_s if elapsed_s > 0 else 0.0,
            last_frame_ns=counters.last_frame_ns,
            detail=counters.detail,
        )

    async def status(self) -> Status:
        """The answer to a status request."""
        channel = self._channel.statistics()
        skew_ns = self.wishes.clock_skew_ns if self.wishes else None
        return Status(
            vehicle=self._vehicle,
            pid=os.getpid(),
            spool_id=self._desk.spool_id,
            link=self.link_kind.kind() if self.link_kind else "none",
            report=await self.check_in(False),
            channels={
                self._channel.name: {
                    "depth": channel.depth,
                    "peak": channel.peak,
                    "sent": channel.sent,
                    "dropped": channel.dropped,
                    "capacity": self._channel.capacity,
                }
            },
            diagnostics=self.diagnostics(),
            updates=self.updates(),
            clock_skew_ms=None if skew_ns is None else skew_ns // 1_000_000,
        )
