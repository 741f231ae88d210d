"""Where every item went: the vehicle's ledger beside the cloud's own durable counts, and the difference in words. Pure.

The vehicle says in each check-in, per stream, how many items it has stored, seen acknowledged, evicted, and still
holds, and up to which sequence the acknowledgements reach. The cloud counts what it holds up to that same sequence.
Uploads that came after the check-in therefore do not disturb the comparison: it is exact, not approximately equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from gateway.wire.ledger import BusLedger, Ledger, StreamLedger


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """Sequences that are not here. ``items`` is exact when both neighbours are here, else None."""

    first: int
    last: int
    items: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """What the cloud counts of one stream."""

    stream: str
    batches: int
    items: int  # of all accepted batches, the unreadable ones too
    content_bytes: int
    dead_batches: int
    dead_items: int
    duplicates: int
    conflicts: int
    contiguous: int
    highest: int
    items_beyond_acknowledged: int = 0  # of the items: in sequences above what the vehicle counts as acknowledged
    items_evicted_but_here: int = 0  # of the items up to there: in sequences the vehicle says it evicted
    gaps: tuple[Hole, ...] = ()
    evicted: tuple[Hole, ...] = ()
    lost: tuple[Hole, ...] = ()


class Gap(msgspec.Struct, frozen=True):
    """A range of sequences that is not here."""

    stream: str
    first: int
    last: int
    items: int | None
    kind: str  # "missing" (asked for again), "evicted" or "lost" (the vehicle explained it)


class BusLine(msgspec.Struct, frozen=True):
    """``received = kernel_dropped + errors + undecodable + not_selected + selected + held + lost + unexplained``"""

    bus: str
    received: int
    kernel_dropped: int
    errors: int
    undecodable: int
    not_selected: int
    selected: int
    held: int
    lost: int
    unexplained: int


class StreamLine(msgspec.Struct, frozen=True):
    """One stream on both sides. ``None`` where the vehicle's ledger does not know the stream (an earlier spool)."""

    stream: str
    stored: int | None  # by the vehicle: stored = acknowledged + evicted + pending
    acknowledged: int | None
    evicted: int | None
    pending: int | None
    pending_bytes: int | None
    received: int  # by the cloud, all of it
    received_batches: int
    received_bytes: int
    received_to_acknowledged: int | None  # up to the sequence the vehicle counts as acknowledged
    unacknowledged: int  # received beyond that
    dead_lettered: int  # of the received: kept, but unreadable
    duplicates: int
    conflicts: int
    contiguous: int
    highest: int
    difference: int  # acknowledged by the vehicle and not here (positive), or the other way round (negative)
    explanation: str


class Accounting(msgspec.Struct, frozen=True):
    """A vehicle's accounting. ``complete`` is None while there was no check-in."""

    vehicle: str
    complete: bool | None
    unexplained: int  # 0 when complete
    vehicle_unexplained: int  # of these: the vehicle's own books do not add up
    checked_in_ns: int | None  # cloud's clock
    selected_items: int
    stored_items: int
    buffered_items: int
    lost_items: int
    refused_items: int
    over_budget_items: int
    uploaded_bytes: int
    restarts: int
    crashes: int
    received_items: int
    missing_batches: int
    buses: list[BusLine]
    streams: list[StreamLine]
    gaps: list[Gap]
    words: list[str]


def reconcile(
    vehicle: str,
    ledger: Ledger | None,
    told: dict[str, StreamLedger],
    facts: list[StreamFacts],
    checked_in_ns: int | None,
) -> Accounting:
    """Compare. ``told`` is the ledger's streams under the cloud's full names."""
    lines = [_stream_line(f, told.get(f.stream)) for f in facts]
    known = {f.stream for f in facts}
    lines += [_unseen_line(name, stream) for name, stream in told.items() if name not in known]
    gaps = [
        Gap(f.stream, hole.first, hole.last, hole.items, kind)
        for f in facts
        for kind, holes in (("missing", f.gaps), ("evicted", f.evicted), ("lost", f.lost))
        for hole in holes
    ]
    base = ledger or Ledger(at_ns=0)
    vehicle_unexplained = base.unexplained
    unexplained = vehicle_unexplained + sum(abs(line.difference) for line in lines)
    missing = sum(g.last - g.first + 1 for g in gaps if g.kind == "missing")
    return Accounting(
        vehicle=vehicle,
        complete=None if ledger is None else unexplained == 0 and missing == 0,
        unexplained=unexplained,
        vehicle_unexplained=vehicle_unexplained,
        checked_in_ns=checked_in_ns,
        selected_items=base.selected_items,
        stored_items=sum(s.stored for s in base.streams),
        buffered_items=base.buffered_items,
        lost_items=base.lost_items,
        refused_items=base.refused_items,
        over_budget_items=base.over_budget_items,
        uploaded_bytes=base.uploaded_bytes,
        restarts=base.restarts,
        crashes=base.crashes,
        received_items=sum(f.items for f in facts),
        missing_batches=missing,
        buses=[_bus_line(b) for b in base.buses],
        streams=lines,
        gaps=gaps,
        words=_words(ledger, lines, gaps),
    )


def _bus_line(bus: BusLedger) -> BusLine:
    return BusLine(
        bus.bus,
        bus.received,
        bus.kernel_dropped,
        bus.errors,
        bus.undecodable,
        bus.not_selected,
        bus.selected,
        bus.held,
        bus.lost,
        bus.unexplained,
    )


def _stream_line(facts: StreamFacts, told: StreamLedger | None) -> StreamLine:
    here = facts.items - facts.items_beyond_acknowledged - facts.items_evicted_but_here
    difference = 0 if told is None else told.acknowledged - here
    return StreamLine(
        stream=facts.stream,
        stored=None if told is None else told.stored,
        acknowledged=None if told is None else told.acknowledged,
        evicted=None if told is None else told.evicted,
        pending=None if told is None else told.pending,
        pending_bytes=None if told is None else told.pending_bytes,
        received=facts.items,
        received_batches=facts.batches,
        received_bytes=facts.content_bytes,
        received_to_acknowledged=None if told is None else here,
        unacknowledged=0 if told is None else facts.items_beyond_acknowledged,
        dead_lettered=facts.dead_items,
        duplicates=facts.duplicates,
        conflicts=facts.conflicts,
        contiguous=facts.contiguous,
        highest=facts.highest,
        difference=difference,
        explanation=_explain(facts, told, here, difference),
    )


def _unseen_line(name: str, told: StreamLedger) -> StreamLine:
    """A stream the vehicle speaks of and the cloud has never seen."""
    facts = StreamFacts(
        stream=name,
        batches=0,
        items=0,
        content_bytes=0,
        dead_batches=0,
        dead_items=0,
        duplicates=0,
        conflicts=0,
        contiguous=0,
        highest=0,
    )
    return _stream_line(facts, told)


def _explain(facts: StreamFacts, told: StreamLedger | None, here: int, difference: int) -> str:
    parts: list[str] = []
    if told is None:
        parts.append(f"{facts.items:,} items of a stream the vehicle's ledger does not name (an earlier spool)")
    elif difference > 0:
        parts.append(
            f"the vehicle counts {told.acknowledged:,} items as acknowledged, only {here:,} of them are here:"
            f" {difference:,} are unexplained"
        )
    elif difference < 0:
        parts.append(
            f"{here:,} items are here, the vehicle counts only {told.acknowledged:,} as acknowledged:"
            f" {-difference:,} are unexplained"
        )
    else:
        parts.append(f"{here:,} acknowledged items are all here")
    if told is not None and facts.items_beyond_acknowledged:
        parts.append(f"{facts.items_beyond_acknowledged:,} more arrived that it had not counted yet when it checked in")
    if facts.items_evicted_but_here:
        parts.append(f"{facts.items_evicted_but_here:,} that it counts as evicted had arrived after all")
    if told is not None and told.evicted:
        parts.append(f"{told.evicted:,} were evicted before upload, for want of room")
    if told is not None and told.pending:
        parts.append(f"{told.pending:,} wait in the vehicle")
    if facts.dead_items or facts.dead_batches:
        parts.append(f"{facts.dead_items:,} arrived but cannot be read (dead letters)")
    if facts.conflicts:
        parts.append(f"{facts.conflicts:,} uploads had other content under a known sequence")
    return "; ".join(parts)


def _words(ledger: Ledger | None, lines: list[StreamLine], gaps: list[Gap]) -> list[str]:
    if ledger is None:
        return ["The vehicle has not checked in yet, so there is nothing to compare with."]
    words = [
        f"Bus {b.bus}: {b.unexplained:+,} of {b.received:,} frames are unexplained by the vehicle's own books."
        for b in ledger.buses
        if b.unexplained
    ]
    stored = sum(s.stored for s in ledger.streams)
    rest = ledger.selected_items - stored - ledger.buffered_items - ledger.lost_items - ledger.refused_items
    if rest:
        words.append(f"{rest:+,} of {ledger.selected_items:,} selected items are unexplained by the vehicle's books.")
    words += [
        f"Stream {s.stream}: {s.unexplained:+,} of {s.stored:,} stored items are unexplained by the vehicle's books."
        for s in ledger.streams
        if s.unexplained
    ]
    for line in lines:
        if line.difference or line.dead_lettered or line.conflicts:
            words.append(f"Stream {line.stream}: {line.explanation}.")
    for gap in gaps:
        words.append(_gap_words(gap))
    for count, text in (
        (ledger.lost_items, "items were in memory at a crash and are lost"),
        (ledger.refused_items, "items were refused because the vehicle's disk was full"),
        (ledger.over_budget_items, "items were not collected because the day's byte budget was spent"),
    ):
        if count:
            words.append(f"{count:,} {text}.")
    return words or ["All accounted for."]


def _gap_words(gap: Gap) -> str:
    which = f"batch {gap.first}" if gap.first == gap.last else f"batches {gap.first} to {gap.last}"
    items = "" if gap.items is None else f" ({gap.items:,} items)"
    ending = {
        "missing": "missing here and asked for again",
        "evicted": "evicted by the vehicle before upload",
        "lost": "lost: the vehicle no longer has what was asked for again",
    }[gap.kind]
    return f"Stream {gap.stream}: {which}{items} {ending}."
