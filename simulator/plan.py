"""What to send and how to pack it, precomputed: from the manifest's messages to flat tables.

A *layout* is one way to fill a message: a multiplexed message has one for each combination of selectors it sends in
turn. A layout's signals are *entries*; an entry's bits fall into one or two aligned 8-byte words, its *pieces*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbc.frames import BRS, EXTENDED, FD
from dbc.manifest import Kind, Manifest, Message, Signal
from simulator.protection import Protection
from simulator.signals import SENT_ID, VARIANTS

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

#: Entry sources that are no column of readings.
FROM_COUNTER, FROM_CONSTANT, ZERO = -1, -2, -3


class PlanError(ValueError):
    """The manifest asks for a signal that the model does not have."""


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Per signal of a layout, layouts one after the other."""

    signal: Ints  # number in the manifest
    column: Ints  # of the readings, or FROM_COUNTER, FROM_CONSTANT, ZERO
    constant: Ints  # raw value where the column says so
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    kind: Ints
    mask: Ints  # all bits of the signal, for counters


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Per piece: which entry of its layout, and where its bits go."""

    entry: Ints
    right: Words
    mask: Words
    left: Words
    big_endian: NDArray[np.bool_]
    word: Ints
    starts_word: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Layouts:
    """Per layout: the frame around the payload, and where its entries and pieces are."""

    message: Ints  # number in the manifest
    bus: NDArray[np.uint8]
    can_id: NDArray[np.uint32]
    flags: NDArray[np.uint8]
    length: NDArray[np.uint8]
    first_entry: Ints
    entries: Ints
    first_piece: Ints
    pieces: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """Per message that is sent cyclically."""

    message: Ints
    cycle_ns: Ints
    phase_ns: Ints
    jitter_ns: Ints
    first_layout: Ints
    layouts: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything the generator needs of a manifest."""

    manifest: Manifest
    sent: Sent
    layouts: Layouts
    entries: Entries
    pieces: Pieces
    protection: Protection


def cyclic_messages(manifest: Manifest) -> list[int]:
    """Numbers of the messages that have a cycle time; the others are commands to the vehicle."""
    return [i for i, message in enumerate(manifest.messages) if message.cycle_ms]


def build_plan(manifest: Manifest, columns: Mapping[str, int]) -> Plan:
    """Tables for ``manifest``, whose signals are read from ``columns`` (``bus.Message.Signal[@variant]``).

    Raises:
        PlanError: a signal has no source, or a checksum is not one whole byte or two in one word.
    """
    builder = _Builder(manifest, columns)
    for number in cyclic_messages(manifest):
        builder.add(number)
    return builder.finish()


class _Builder:
    def __init__(self, manifest: Manifest, columns: Mapping[str, int]) -> None:
        self.manifest, self.columns = manifest, columns
        self.layouts: list[tuple[int, int, int, int, int, int, int, int, int]] = []
        self.entries: list[tuple[int, int, int, float, float, float, float, int, int]] = []
        self.pieces: list[tuple[int, int, int, int, bool, int, bool]] = []
        self.sent: list[tuple[int, int, int, int]] = []
        self.protected: list[tuple[Message, Signal] | None] = []

    def add(self, number: int) -> None:
        message = self.manifest.messages[number]
        key = f"{self.manifest.buses[message.bus]}.{message.name}"
        variants = VARIANTS.get(key, ({},))
        assert message.cycle_ms is not None
        self.sent.append((number, message.cycle_ms * 1_000_000, len(self.layouts), len(variants)))
        flags = (EXTENDED if message.extended else 0) | (FD | BRS if message.fd else 0)
        for variant, selectors in enumerate(variants):
            chosen = [i for i, s in enumerate(message.signals) if _present(message, s, selectors)]
            first_entry, first_piece = len(self.entries), len(self.pieces)
            for i in chosen:
                self.entries.append(self._entry(number, i, key, variant, selectors))
            self._add_pieces([message.signals[i] for i in chosen])
            self.layouts.append(
                (number, message.bus, SENT_ID.get(key, message.can_id), flags, message.length, first_entry,
                 len(chosen), first_piece, len(self.pieces) - first_piece)
            )  # fmt: skip
            checksum = next((message.signals[i] for i in chosen if message.signals[i].role == "checksum"), None)
            self.protected.append((message, checksum) if checksum and message.checksum else None)

    def _entry(
        self, number: int, i: int, key: str, variant: int, selectors: Mapping[str, int]
    ) -> tuple[int, int, int, float, float, float, float, int, int]:
        signal = self.manifest.messages[number].signals[i]
        global_number = self.manifest.first_signal[number] + i
        lowest, highest = _raw_range(signal)
        mask = (1 << signal.length) - 1 if signal.length < 63 else -1
        constant = 0
        if signal.role == "counter":
            column = FROM_COUNTER
        elif signal.role == "checksum":
            column = ZERO
        elif signal.name in selectors:
            column, constant = FROM_CONSTANT, selectors[signal.name]
        else:
            name = f"{key}.{signal.name}"
            found = self.columns.get(f"{name}@{variant}", self.columns.get(name))
            if found is None:
                raise PlanError(f"the model has no value for {name}")
            column = found
        return global_number, column, constant, signal.scale, signal.offset, lowest, highest, int(signal.kind), mask

    def _add_pieces(self, signals: list[Signal]) -> None:
        pieces = [(*piece, i) for i, signal in enumerate(signals) for piece in split(signal)]
        last = -1
        for word, right, count, left, i in sorted(pieces):
            mask = (1 << count) - 1
            self.pieces.append((i, right, mask, left, signals[i].big_endian, word, word != last))
            last = word

    def finish(self) -> Plan:
        layouts = [np.array(column) for column in zip(*self.layouts, strict=True)]
        e = [np.array(column) for column in zip(*self.entries, strict=True)]
        p = [list(column) for column in zip(*self.pieces, strict=True)]
        return Plan(
            manifest=self.manifest,
            sent=self._schedule(),
            layouts=Layouts(
                layouts[0], layouts[1].astype(np.uint8), layouts[2].astype(np.uint32), layouts[3].astype(np.uint8),
                layouts[4].astype(np.uint8), layouts[5], layouts[6], layouts[7], layouts[8],
            ),
            entries=Entries(e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7], e[8].astype(np.int64)),
            pieces=Pieces(
                np.array(p[0]), np.array(p[1], np.uint64), np.array(p[2], np.uint64), np.array(p[3], np.uint64),
                np.array(p[4], np.bool_), np.array(p[5]), np.array(p[6], np.bool_),
            ),
            protection=Protection(self.protected),
        )  # fmt: skip

    def _schedule(self) -> Sent:
        """Each message has its own slot within 10 ms on its bus, so frames of a bus do not meet."""
        rows = []
        for bus in range(len(self.manifest.buses)):
            mine = [row for row in self.sent if self.manifest.messages[row[0]].bus == bus]
            for slot, (number, cycle_ns, first, count) in enumerate(mine):
                width_ns = 10_000_000 // len(mine)
                # Slower messages start in different multiples of 10 ms, so that they do not all fall together.
                turn_ns = (slot * 7 % max(1, cycle_ns // 10_000_000)) * 10_000_000
                rows.append((number, cycle_ns, slot * width_ns + turn_ns, width_ns // 3, first, count))
        rows.sort(key=lambda row: row[4])
        return Sent(*(np.array(column) for column in zip(*rows, strict=True)))


def _present(message: Message, signal: Signal, selectors: Mapping[str, int]) -> bool:
    for branch in signal.mux:
        chosen = selectors.get(message.signals[branch.selector].name)
        if chosen is None or not any(low <= chosen <= high for low, high in branch.ranges):
            return False
    return True


def _raw_range(signal: Signal) -> tuple[float, float]:
    if signal.kind == Kind.SIGNED:
        return -float(1 << signal.length - 1), float((1 << signal.length - 1) - 1)
    return 0.0, float((1 << signal.length) - 1)


def split(signal: Signal) -> list[tuple[int, int, int, int]]:
    """The signal's bits by aligned word: (word, shift of the raw value to the right, bits, shift to the left)."""
    start = 8 * (signal.start // 8) + 7 - signal.start % 8 if signal.big_endian else signal.start
    end, out, at = start + signal.length, [], start
    while at < end:
        word = at // 64
        until = min(end, 64 * word + 64)
        if signal.big_endian:
            out.append((word, end - until, until - at, 64 * word + 64 - until))
        else:
            out.append((word, at - start, until - at, at - 64 * word))
        at = until
    return out
