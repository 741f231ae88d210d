"""The decoder's tables: what a manifest's messages become before the first frame.

Every message has one *variant* or, when it is multiplexed, one per set of signals its main selector can choose; a
variant is a run of *entries*, one per signal, in the order of signal numbers. Decoding a frame is finding its variant
and evaluating the entries of it. What the main selector does not decide (a second, independent or nested selector)
is left to conditions of single entries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbc.decode.layout import WORD_BITS, Place, place_of, problem_of
from dbc.manifest import Kind, Manifest, Message, MuxBranch, Signal

#: A selector is looked up in a table of all its values up to this many bits.
MAX_TABLE_BITS = 12
#: A message whose variants would have more entries than this keeps its selectors as conditions.
MAX_MESSAGE_ENTRIES = 1 << 17

#: Columns of ``Plan.messages`` and ``Plan.variants``: end of the run of entries, their number, payload bytes that the
#: longest of them needs plus the flags below, message number or -1.
END, COUNT, NEEDS, NUMBER = 0, 1, 2, 3
NEEDS_MASK, CROSSES, FILTERED = 0xFF, 0x100, 0x200

#: Columns of ``Entries.shape``: shift left (as uint64), then right, then mask (-1 for signed signals, which the right
#: shift extends); column of the bank of words.
LEFT, RIGHT, MASK, COLUMN = 0, 1, 2, 3

_INT64 = np.iinfo(np.int64)


@dataclass(frozen=True, slots=True)
class Entries:
    """Parallel arrays over all entries of all variants."""

    signal: NDArray[np.int32]  # the signal's number in the manifest
    shape: NDArray[np.int64]  # [entries, 4]: LEFT, RIGHT, MASK, COLUMN; one gather fetches all four
    crosses: NDArray[np.bool_]
    big_endian: NDArray[np.bool_]
    skip: NDArray[np.uint64]
    needs: NDArray[np.uint8]  # payload bytes
    emit: NDArray[np.bool_]  # False: decoded for its value as a selector only
    conditions: NDArray[np.intp]  # how many, starting at first_condition
    first_condition: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Conditions:
    """Parallel arrays over the conditions of entries, and over their ranges."""

    selector: NDArray[np.intp]  # place of the selector's entry within the variant
    ranges: NDArray[np.intp]
    first_range: NDArray[np.intp]
    low: NDArray[np.int64]
    high: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Selectors:
    """Parallel arrays over messages and the unknown one: the main selector, and its table from value to variant."""

    present: NDArray[np.bool_]
    column: NDArray[np.intp]
    left: NDArray[np.uint64]
    right: NDArray[np.uint64]
    needs: NDArray[np.uint8]
    first: NDArray[np.intp]  # in ``table``
    table: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Plan:
    """All tables of a decoder."""

    words: int  # 64-bit words of a payload to look at
    little: bool  # some entry is little-endian
    big: bool
    crosses: bool  # some entry does
    filtered: bool  # some entry has conditions or is not emitted
    messages: NDArray[np.int64]  # [messages + 1, 4]: END, COUNT, NEEDS, NUMBER; the last for unknown frames
    variants: NDArray[np.int64]  # the same of each variant
    entries: Entries
    conditions: Conditions
    selectors: Selectors
    unsupported: tuple[tuple[int, str], ...]  # signal number, why


def compile_plan(manifest: Manifest, signals: Iterable[int] | None) -> Plan:
    """Tables to decode ``signals``, or all.

    Raises:
        ValueError: a signal number is not in the manifest.
    """
    wanted = set(range(len(manifest.signals)) if signals is None else (int(s) for s in signals))
    if wanted and not (min(wanted) >= 0 and max(wanted) < len(manifest.signals)):
        raise ValueError(f"signal numbers must be 0 to {len(manifest.signals) - 1}")
    builder = _Builder()
    for message, first in zip(manifest.messages, manifest.first_signal, strict=True):
        builder.add_message(message, first, {i for i in range(len(message.signals)) if first + i in wanted})
    return builder.finish()


@dataclass(slots=True)
class _Entry:
    signal: Signal
    place: Place
    needs: int  # payload bytes for itself and its selectors
    emit: bool
    conditions: list[tuple[int, tuple[tuple[int, int], ...]]]  # selector's place in the variant, ranges


class _Builder:
    def __init__(self) -> None:
        self.entries: list[tuple[int, _Entry]] = []
        self.variant_lengths: list[int] = []
        self.message_variant: list[int] = []
        self.selectors: list[tuple[Signal, Place, int] | None] = []
        self.table: list[int] = []
        self.unsupported: list[tuple[int, str]] = []

    def add_message(self, message: Message, first: int, wanted: set[int]) -> None:
        """Variants of one message for the wanted signals, given by their place in it."""
        needed, broken = _closure(message, wanted)
        self.unsupported += [(first + i, why) for i, why in sorted(broken.items())]
        root = _root_selector(message, needed)
        choices = None if root is None else _choices(message, needed, root)
        self.message_variant.append(len(self.variant_lengths))
        if root is None or choices is None:
            self.selectors.append(None)
            self._add_variant(message, first, needed, wanted, None)
            return
        static = [i for i in needed if not _depends(message.signals[i], root)]
        self._add_variant(message, first, static, wanted, root)
        signal = message.signals[root]
        self.selectors.append((signal, place_of(signal), len(self.table)))
        known: dict[tuple[int, ...], int] = {(): self.message_variant[-1]}
        table = [self.message_variant[-1]] * (1 << signal.length)
        for value, chosen in sorted(choices.items()):
            key = tuple(chosen)
            if key not in known:
                known[key] = len(self.variant_lengths)
                self._add_variant(message, first, sorted([*static, *chosen]), wanted, root)
            table[value] = known[key]
        self.table += table

    def _add_variant(self, message: Message, first: int, chosen: list[int], wanted: set[int], root: int | None) -> None:
        """One run of entries. Conditions on ``root`` are settled; an entry whose selector is absent is absent."""
        conditions = {i: [b for b in message.signals[i].mux if b.selector != root] for i in chosen}
        while True:
            used = {b.selector for i in chosen for b in conditions[i]}
            keep = [
                i
                for i in chosen
                if (i in wanted or i in used) and all(b.selector in conditions and b.ranges for b in conditions[i])
            ]
            if keep == chosen:
                break
            chosen, conditions = keep, {i: conditions[i] for i in keep}
        place_in_variant = {i: n for n, i in enumerate(chosen)}
        for i in chosen:
            signal = message.signals[i]
            branches = [(place_in_variant[b.selector], b.ranges) for b in conditions[i]]
            needs = max(place_of(message.signals[n]).needs for n in (i, *(b.selector for b in conditions[i])))
            self.entries.append((first + i, _Entry(signal, place_of(signal), needs, i in wanted, branches)))
        self.variant_lengths.append(len(chosen))

    def finish(self) -> Plan:
        """All tables as arrays."""
        unknown = len(self.variant_lengths)
        self.variant_lengths.append(0)
        self.message_variant.append(unknown)
        self.selectors.append(None)
        entries = [e for _, e in self.entries]
        roots = [(s, p) for s, p, _ in filter(None, self.selectors)]
        seen = [(e.signal, e.place) for e in entries] + roots
        words = max((p.word + p.crosses + 1 for _, p in seen), default=1)
        little = any(not s.big_endian for s, _ in seen)
        big = any(s.big_endian for s, _ in seen)
        base = words if little else 0

        def column(signal: Signal, place: Place) -> int:
            return place.word + (base if signal.big_endian else 0)

        conditions = [c for e in entries for c in e.conditions]
        ranges = [r for _, rs in conditions for r in rs]
        counts = np.array([len(e.conditions) for e in entries], np.intp)
        arrays = Entries(
            signal=np.array([n for n, _ in self.entries], np.int32),
            shape=np.array(
                [
                    (_left(e.signal, e.place), WORD_BITS - e.signal.length, _mask(e.signal), column(e.signal, e.place))
                    for e in entries
                ],
                np.int64,
            ).reshape(-1, 4),
            crosses=np.array([e.place.crosses for e in entries], np.bool_),
            big_endian=np.array([e.signal.big_endian for e in entries], np.bool_),
            skip=np.array([e.place.skip for e in entries], np.uint64),
            needs=np.array([e.needs for e in entries], np.uint8),
            emit=np.array([e.emit for e in entries], np.bool_),
            conditions=counts,
            first_condition=_starts(counts),
        )
        range_counts = np.array([len(rs) for _, rs in conditions], np.intp)
        variants = self._variants(arrays)
        return Plan(
            words=words,
            little=little or not big,
            big=big,
            crosses=bool(arrays.crosses.any()),
            filtered=bool(((arrays.conditions > 0) | ~arrays.emit).any()),
            messages=variants[self.message_variant],
            variants=variants,
            entries=arrays,
            conditions=Conditions(
                selector=np.array([s for s, _ in conditions], np.intp),
                ranges=range_counts,
                first_range=_starts(range_counts),
                low=np.array([_clip(low) for low, _ in ranges], np.int64),
                high=np.array([_clip(high) for _, high in ranges], np.int64),
            ),
            selectors=Selectors(
                present=np.array([s is not None for s in self.selectors], np.bool_),
                column=np.array([column(s[0], s[1]) if s else 0 for s in self.selectors], np.intp),
                left=np.array([_left(s[0], s[1]) if s else 0 for s in self.selectors], np.uint64),
                right=np.array([WORD_BITS - s[0].length if s else 0 for s in self.selectors], np.uint64),
                needs=np.array([s[1].needs if s else 0 for s in self.selectors], np.uint8),
                first=np.array([s[2] if s else 0 for s in self.selectors], np.intp),
                table=np.array(self.table, np.intp),
            ),
            unsupported=tuple(self.unsupported),
        )

    def _variants(self, entries: Entries) -> NDArray[np.int64]:
        """``Plan.variants``. A message's variants are next to each other."""
        count = np.array(self.variant_lengths, np.int64)
        rows = np.zeros((len(count), 4), np.int64)
        rows[:, END], rows[:, COUNT] = np.cumsum(count), count
        owner = np.searchsorted(self.message_variant, np.arange(len(count)), side="right") - 1
        rows[:, NUMBER] = np.where(owner == len(self.message_variant) - 1, -1, owner)
        filled = np.flatnonzero(count)
        if len(filled):
            first = rows[filled, END] - count[filled]
            rows[filled, NEEDS] = np.maximum.reduceat(entries.needs, first)
            rows[filled, NEEDS] |= np.where(np.logical_or.reduceat(entries.crosses, first), CROSSES, 0)
            filtered = (entries.conditions > 0) | ~entries.emit
            rows[filled, NEEDS] |= np.where(np.logical_or.reduceat(filtered, first), FILTERED, 0)
        return rows


def _closure(message: Message, wanted: set[int]) -> tuple[list[int], dict[int, str]]:
    """The signals to evaluate (wanted ones and their selectors, in order), and the wanted ones that cannot be."""
    needed: set[int] = set()
    broken: dict[int, str] = {}
    for i in sorted(wanted):
        group: set[int] = set()
        todo = [i]
        why = None
        while todo and why is None:
            at = todo.pop()
            if not 0 <= at < len(message.signals):
                why = f"multiplexed by signal {at}, which the message does not have"
            elif at not in group:
                group.add(at)
                why = problem_of(message.signals[at])
                if why is not None and at != i:
                    why = f"multiplexed by {message.signals[at].name}: {why}"
                todo += [b.selector for b in message.signals[at].mux]
        if why is None:
            needed |= group
        else:
            broken[i] = why
    return sorted(needed), broken


def _root_selector(message: Message, needed: list[int]) -> int | None:
    """The unconditional selector that decides the most signals, if its values fit a table."""
    votes: dict[int, int] = {}
    for i in needed:
        for branch in message.signals[i].mux:
            votes[branch.selector] = votes.get(branch.selector, 0) + 1
    fit = [
        i
        for i in votes
        if not message.signals[i].mux
        and message.signals[i].kind in (Kind.UNSIGNED, Kind.SIGNED)
        and message.signals[i].length <= MAX_TABLE_BITS
        and not place_of(message.signals[i]).crosses
    ]
    return max(fit, key=lambda i: (votes[i], -i), default=None)


def _depends(signal: Signal, selector: int) -> bool:
    return any(b.selector == selector for b in signal.mux)


def _choices(message: Message, needed: list[int], root: int) -> dict[int, list[int]] | None:
    """Bits of the selector → the signals it chooses; None when the variants would be too many."""
    selector = message.signals[root]
    chosen: dict[int, list[int]] = {}
    work = 0
    for i in needed:
        branches = [b for b in message.signals[i].mux if b.selector == root]
        if not branches:
            continue
        values = set.intersection(*(_values(b, selector) for b in branches))
        work += len(values)
        if work > MAX_MESSAGE_ENTRIES:
            return None
        for value in values:
            chosen.setdefault(value, []).append(i)
    static = sum(not _depends(message.signals[i], root) for i in needed)
    distinct = {tuple(c) for c in chosen.values()}
    return chosen if sum(len(c) + static for c in distinct) <= MAX_MESSAGE_ENTRIES else None


def _values(branch: MuxBranch, selector: Signal) -> set[int]:
    """The selector's bit patterns that satisfy a condition."""
    size = 1 << selector.length
    low, high = (-size // 2, size // 2 - 1) if selector.kind == Kind.SIGNED else (0, size - 1)
    return {v % size for a, b in branch.ranges for v in range(max(a, low), min(b, high) + 1)}


def _left(signal: Signal, place: Place) -> int:
    if place.crosses:
        return 0 if signal.big_endian else WORD_BITS - signal.length
    return place.skip if signal.big_endian else WORD_BITS - signal.length - place.skip


def _mask(signal: Signal) -> int:
    if signal.kind == Kind.SIGNED or signal.length == WORD_BITS:
        return -1
    return (1 << signal.length) - 1


def _clip(value: int) -> int:
    return min(max(value, _INT64.min), _INT64.max)


def _starts(counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """Where each run begins when runs of these lengths follow one another."""
    ends = np.cumsum(counts)
    return np.asarray(ends - counts, np.intp)
