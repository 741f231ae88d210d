"""The vehicle's accounting as a core: counts go in, a ``Ledger`` comes out, and its state survives a crash.

Theory of operation. Two facts are persisted together with each stored batch: what was received and selected so far
(this module's ``LedgerState``, written inside the spool record), and what is stored (the spool's own totals). After
a crash the difference between *selected* and *stored* is what was in memory: it becomes ``lost_items``, counted to
the item. Frames read after the last persisted state left no trace of ours, but the interface counted them: the
kernel's receive counter at the restart, less what was accounted for, is what passed by; it becomes ``lost``.

The receive counter runs ahead of us by the frames still in the socket queue, so the difference is taken as the
minimum over observations since the start: it is exact as soon as the queue was once empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from gateway.collect.budget import BudgetState
from gateway.wire.ledger import BusLedger, Ledger, StreamLedger


class BusCounts(msgspec.Struct):
    """Frames of one bus, over all runs. Meanings as in ``BusLedger``."""

    received: int = 0
    kernel_dropped: int = 0
    errors: int = 0
    undecodable: int = 0
    not_selected: int = 0
    selected: int = 0
    held: int = 0
    lost: int = 0
    accounted_rx: int | None = None  # the interface's receive counter up to which all is accounted for


class LedgerState(msgspec.Struct, array_like=True):
    """What is persisted. Fields may be added at the end, with defaults."""

    buses: dict[str, BusCounts] = {}
    selected_items: int = 0
    lost_items: int = 0
    refused_items: int = 0
    over_budget_items: int = 0
    uploaded_bytes: int = 0
    dead_lettered_items: dict[str, int] = {}
    restarts: int = 0
    crashes: int = 0
    kernel_boot: str = ""
    is_clean: bool = False
    budget: BudgetState = msgspec.field(default_factory=BudgetState)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCounts:
    """What a source says of one bus since it was opened."""

    received: int  # frames handed to us
    kernel_dropped: int
    interface_rx: int | None = None  # the interface's own receive counter, where there is one
    is_filtered: bool = False  # the kernel withholds frames by id, so interface_rx counts more than we want


class LedgerKeeper:
    """Keeps the counts of one run on top of those of all runs before."""

    def __init__(self, buses: Iterable[str], previous: bytes | None, stored_items: int, *, kernel_boot: str) -> None:
        """Continue from the state a former run left.

        Args:
            buses: names of the buses read now; others keep their old counts.
            previous: the newest ``LedgerState`` bytes, None at the very first start.
            stored_items: items stored in the spool over all time, for what was in memory at a crash.
            kernel_boot: the kernel's boot id; interface counters compare only within one boot.
        """
        self._state = self._restore(previous)
        state = self._state
        self.crashed = previous is not None and not state.is_clean
        in_memory = state.selected_items - stored_items - state.lost_items - state.refused_items
        if in_memory < 0:  # batches newer than the newest readable state: they were selected, whatever it says
            state.selected_items -= in_memory
        else:
            state.lost_items += in_memory
        self._buffered_items = 0
        for counts in state.buses.values():
            counts.lost, counts.held = counts.lost + counts.held, 0
        self._crash_rx = {
            name: counts.accounted_rx
            for name, counts in state.buses.items()
            if self.crashed and state.kernel_boot == kernel_boot
        }
        state.restarts += previous is not None
        state.crashes += self.crashed
        state.kernel_boot, state.is_clean = kernel_boot, False
        for name in buses:
            state.buses.setdefault(name, BusCounts())
        self._base = {name: msgspec.structs.replace(counts) for name, counts in state.buses.items()}
        self._rx_lead: dict[str, int] = {}

    @staticmethod
    def _restore(previous: bytes | None) -> LedgerState:
        if previous is None:
            return LedgerState()
        try:
            return msgspec.msgpack.decode(previous, type=LedgerState)
        except msgspec.DecodeError:
            return LedgerState()

    def count_outcomes(
        self,
        bus: str,
        *,
        errors: int = 0,
        undecodable: int = 0,
        not_selected: int = 0,
        selected: int = 0,
        held: int = 0,
    ) -> None:
        """Add what became of frames; ``held`` may be negative when a window lets go."""
        counts = self._state.buses[bus]
        counts.errors += errors
        counts.undecodable += undecodable
        counts.not_selected += not_selected
        counts.selected += selected
        counts.held += held

    def observe_source(self, bus: str, source: SourceCounts) -> None:
        """Take over a source's counters. Call after the frames it handed over were counted."""
        counts, base = self._state.buses[bus], self._base[bus]
        ours = source.received + source.kernel_dropped
        if source.interface_rx is not None:
            lead = source.interface_rx - ours
            self._rx_lead[bus] = lead = min(lead, self._rx_lead.get(bus, lead))
            crash_rx = self._crash_rx.get(bus)
            if crash_rx is not None and lead >= crash_rx:
                counts.lost = base.lost + lead - crash_rx
            elif crash_rx is not None:
                self._crash_rx[bus] = None  # the interface was made anew and counts from 0
            counts.accounted_rx = source.interface_rx if source.is_filtered else lead + ours
        counts.kernel_dropped = base.kernel_dropped + source.kernel_dropped
        counts.received = base.received + ours + counts.lost - base.lost

    def select_items(self, count: int) -> None:
        """Items left the selector; they are in memory until stored or refused."""
        self._state.selected_items += count
        self._buffered_items += count

    def store_items(self, count: int) -> None:
        """The spool took items out of memory."""
        self._buffered_items -= count

    def refuse_items(self, count: int) -> None:
        """The disk took them no more."""
        self._state.refused_items += count
        self._buffered_items -= count

    def skip_over_budget(self, count: int) -> None:
        """Items the byte budget kept from being selected."""
        self._state.over_budget_items += count

    def uploaded(self, size_bytes: int) -> None:
        """Bytes of batches the cloud took."""
        self._state.uploaded_bytes += size_bytes

    def dead_lettered(self, stream: str, items: int) -> None:
        """Items of acknowledged batches that the cloud keeps as dead letters."""
        letters = self._state.dead_lettered_items
        letters[stream] = letters.get(stream, 0) + items

    @property
    def budget(self) -> BudgetState:
        """The byte budget's own state; the keeper of the budget works on it in place."""
        return self._state.budget

    def persisted(self, *, is_clean: bool = False) -> bytes:
        """The state to write beside what is stored."""
        self._state.is_clean = is_clean
        try:
            return msgspec.msgpack.encode(self._state)
        finally:
            self._state.is_clean = False

    def ledger(self, at_ns: int, streams: Mapping[str, StreamLedger]) -> Ledger:
        """The accounting now; ``streams`` are the spool's totals."""
        state = self._state
        return Ledger(
            at_ns=at_ns,
            buses=tuple(
                BusLedger(
                    bus=name,
                    received=c.received,
                    kernel_dropped=c.kernel_dropped,
                    errors=c.errors,
                    undecodable=c.undecodable,
                    not_selected=c.not_selected,
                    selected=c.selected,
                    held=c.held,
                    lost=c.lost,
                )
                for name, c in state.buses.items()
            ),
            streams=tuple(
                msgspec.structs.replace(s, dead_lettered=state.dead_lettered_items.get(s.stream, 0))
                for s in streams.values()
            ),
            selected_items=state.selected_items,
            buffered_items=self._buffered_items,
            lost_items=state.lost_items,
            refused_items=state.refused_items,
            over_budget_items=state.over_budget_items,
            uploaded_bytes=state.uploaded_bytes,
            restarts=state.restarts,
            crashes=state.crashes,
        )
