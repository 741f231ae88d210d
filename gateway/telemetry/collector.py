"""From buses to selected pieces: the frame path, read, decoded and selected in one task."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

import anyio
import numpy as np
from anyio.abc import TaskStatus

from gateway.can.model import BusCounters, Filters, IdFilter, SourceEnded
from gateway.can.observer import FrameObserver, Wanted
from gateway.can.ports import FrameSource
from gateway.collect import OUTCOMES, Collected, Selector
from gateway.collect.budget import BudgetKeeper
from gateway.runtime import Channel, Clock, ComponentHealth, HealthBoard
from gateway.telemetry.batcher import Piece
from gateway.telemetry.ledger import LedgerKeeper, SourceCounts
from gateway.wire.batch import Priority, UploadRule
from gateway.wire.samples import Event, EventKind

log = logging.getLogger(__name__)

LAST_READS = 50  # receive calls at a stop to empty the sockets
LAST_READS_S = 1.0
RETUNE_NS = 5_000_000_000  # schemes begin and expire; their filters follow within this time
OWN_SCHEME = ("gateway", 0)  # the scheme named by the gateway's own events
_URGENT = frozenset({EventKind.BUS_OFF, EventKind.BUS_DOWN, EventKind.CLOCK_JUMP})


class Collector:
    """Reads the source, feeds the selector, counts, and hands pieces on.

    The channel makes it wait when the disk lags; frames then wait in the sockets, whose overflow the kernel counts.
    At a stop the sockets are emptied once more and open windows are closed, so that nothing received is left behind.
    """

    name, drain_s, optional = "collector", 0.0, False

    def __init__(
        self,
        *,
        source: FrameSource,
        selector: Selector,
        keeper: LedgerKeeper,
        budget: BudgetKeeper,
        outlet: Channel[list[Piece]],
        health: HealthBoard,
        clock: Clock,
        filtered_buses: Collection[str],
        observers: Sequence[FrameObserver] = (),
    ) -> None:
        self._source, self._selector, self._keeper, self._budget = source, selector, keeper, budget
        self._outlet, self._health, self._clock = outlet, health, clock
        self._filtered_buses = filtered_buses
        self._observers = tuple(observers)
        self._filters: Filters = {}
        self._retune_at_ns = 0
        buses = selector.manifest.buses
        self._bus_map = np.array([buses.index(name) for name in source.names], np.uint8)
        self._is_mapped = source.names == buses[: len(source.names)]
        self._schemes = [(scheme.id, scheme.version) for scheme in selector.schemes]
        self._unsent: list[Piece] = []
        self.has_ended = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Collect until cancelled or until every replay has ended."""
        self._health.register(self.name, self._clock.monotonic_ns(), limit_s=30.0)
        self._health.report(self.name, ComponentHealth.OK)
        task_status.started()
        self._retune(self._clock.utc_ns())
        try:
            await self._collect()
        finally:
            with anyio.CancelScope(shield=True):
                await self._finish()

    async def _collect(self) -> None:
        try:
            while True:
                await self._step()
        except SourceEnded:
            log.info("replay_ended")

    async def _step(self) -> None:
        """One batch of frames, from the bus to the channel."""
        frames = await self._source.receive()
        if len(frames) and not self._is_mapped:
            frames = replace(frames, bus=self._bus_map[frames.bus])
        now_ns = self._clock.utc_ns()
        self._health.beat(self.name, self._clock.monotonic_ns())
        if (level := self._budget.level(now_ns)) != self._selector.degradation:
            self._selector.set_degradation(level)
        self._retune(now_ns)
        for observer in self._observers:
            observer.observe(frames, now_ns)
        self._take(self._selector.feed(frames, now_ns) if len(frames) else self._selector.tick(now_ns))
        self._observe(self._source.take_events() + self._budget.drain_events())
        await self._hand_on()

    def _retune(self, now_ns: int) -> None:
        """Let the kernel pass only what the schemes active now and the observers need."""
        if not self._filtered_buses or 0 <= now_ns - self._retune_at_ns < RETUNE_NS:
            return
        self._retune_at_ns = now_ns
        observed: dict[str, set[Wanted]] = {}
        for observer in self._observers:
            for name, needed in observer.wanted().items():
                observed.setdefault(name, set()).update(needed)
        wanted: Filters = {
            name: [IdFilter(*wanted) for wanted in sorted({*ids, *observed.get(name, ())})]
            for name, ids in zip(self._selector.manifest.buses, self._selector.kernel_filters(), strict=True)
            if ids is not None and name in self._filtered_buses
        }
        if wanted != self._filters:
            self._filters = wanted
            self._source.set_filters(wanted)

    def _take(self, collected: Collected) -> None:
        for bus, row in enumerate(collected.counts.tolist()):
            if any(row):
                self._keeper.count_outcomes(self._selector.manifest.buses[bus], **dict(zip(OUTCOMES, row, strict=True)))
        for block in collected.blocks:
            self._add(
                Piece(
                    priority=block.priority,
                    upload=block.upload,
                    resolution_ns=block.resolution_ns,
                    scheme=self._schemes[block.scheme] if block.scheme >= 0 else OWN_SCHEME,
                    samples=block.samples,
                    frames=block.frames,
                    events=block.events,
                )
            )
        self._keeper.skip_over_budget(collected.over_budget_items)
        self._budget.refused(collected.over_budget_items)

    def _observe(self, events: tuple[Event, ...]) -> None:
        for counters in self._source.statistics():
            self._keeper.observe_source(counters.bus, self._source_counts(counters))
        for urgent in (True, False):
            mine = tuple(e for e in events if (e.kind in _URGENT) is urgent)
            if mine:
                self._add(
                    Piece(
                        priority=Priority.CRITICAL if urgent else Priority.NORMAL,
                        upload=UploadRule.ANY,
                        resolution_ns=1_000_000,
                        scheme=OWN_SCHEME,
                        events=mine,
                    )
                )
        for event in events:
            log.info("bus_event", extra={"kind": event.kind.value, "bus": event.source, "detail": event.detail})

    def _source_counts(self, counters: BusCounters) -> SourceCounts:
        return SourceCounts(
            received=counters.read,
            kernel_dropped=counters.kernel_dropped,
            interface_rx=counters.interface_rx,
            is_filtered=counters.bus in self._filters,
        )

    def _add(self, piece: Piece) -> None:
        if piece.items:
            self._keeper.select_items(piece.items)
            self._unsent.append(piece)

    async def _hand_on(self) -> None:
        if self._unsent:
            await self._outlet.send(self._unsent)  # cancelled: still ours, handed on by _finish
            self._unsent = []

    async def _finish(self) -> None:
        """Empty the sockets, close the windows, hand on the rest, close the channel."""
        with anyio.move_on_after(LAST_READS_S):
            try:
                for _ in range(LAST_READS):
                    before = sum(c.read for c in self._source.statistics())
                    await self._step()
                    if sum(c.read for c in self._source.statistics()) == before:
                        break
            except SourceEnded:
                pass
        now_ns = self._clock.utc_ns()
        self._take(self._selector.flush(now_ns))
        self._observe(())
        await self._hand_on()
        self._outlet.close()
        await self._source.aclose()
        self.has_ended.set()
