"""Packs many frames of many messages in one pass of array operations, whatever the number of messages.

``dbc.encode`` encodes one message at a time, which is right for people and for long columns; a tick of a running
vehicle has about forty frames of forty messages, for which a call per message would cost most of the budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbc.frames import MAX_LENGTH
from dbc.manifest import Kind
from simulator.plan import FROM_CONSTANT, FROM_COUNTER, Plan

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(slots=True, eq=False)
class Pairs:
    """The (frame, signal) pairs of a batch with their physical values, before they become bits.

    ``value`` may be changed in place; the values of counters, checksums and
    selectors mean nothing, since their bits come from elsewhere.
    """

    frame: Ints
    signal: Ints
    value: Floats


def expand(first: Ints, count: Ints) -> tuple[Ints, Ints, Ints]:
    """Runs ``first[i] … first[i] + count[i] - 1`` one after the other.

    Returns which run each element is of, the elements, and where each run begins.
    """
    begin = np.cumsum(count) - count
    run = np.repeat(np.arange(len(count)), count)
    return run, np.arange(len(run)) - (begin - first)[run], begin


class FlatEncoder:
    """Encodes frames of the plan's layouts."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        entries = plan.entries
        self._floats = bool(np.any(entries.kind >= Kind.FLOAT32))
        self._column = np.maximum(entries.column, 0)

    def pairs(self, layout: Ints, row: Ints, readings: Floats) -> tuple[Pairs, Ints, Ints]:
        """Values of all signals of frames that are filled by ``layout`` from ``readings[row]``.

        Returns the pairs, and for ``pack`` their entries and where each frame's begin.
        """
        layouts = self._plan.layouts
        frame, entry, begin = expand(layouts.first_entry[layout], layouts.entries[layout])
        value = readings[row[frame], self._column[entry]]
        return Pairs(frame, self._plan.entries.signal[entry], value), entry, begin

    def pack(self, layout: Ints, counter: Ints, pairs: Pairs, entry: Ints, begin: Ints) -> NDArray[np.uint8]:
        """The payloads, uint8[n, 64]: values are rounded to raw and bounded by what the bits hold."""
        raw = self._raw(counter, pairs, entry)
        layouts, pieces = self._plan.layouts, self._plan.pieces
        frame, piece, _ = expand(layouts.first_piece[layout], layouts.pieces[layout])
        bits = (raw[begin[frame] + pieces.entry[piece]] >> pieces.right[piece]) & pieces.mask[piece]
        bits <<= pieces.left[piece]
        big = pieces.big_endian[piece]
        bits[big] = bits[big].byteswap()
        starts = np.flatnonzero(pieces.starts_word[piece])
        words = np.zeros((len(layout), MAX_LENGTH // 8), "<u8")
        if len(starts):
            words[frame[starts], pieces.word[piece[starts]]] = np.bitwise_or.reduceat(bits, starts)
        return words.view(np.uint8)

    def _raw(self, counter: Ints, pairs: Pairs, entry: Ints) -> NDArray[np.uint64]:
        entries = self._plan.entries
        scaled = (pairs.value - entries.offset[entry]) / entries.scale[entry]
        raw = np.clip(np.rint(scaled), entries.lowest[entry], entries.highest[entry]).astype(np.int64)
        column = entries.column[entry]
        special = np.flatnonzero(column < 0)
        chosen, kind = entry[special], column[special]
        count = counter[pairs.frame[special]] & entries.mask[chosen]
        raw[special] = np.where(
            kind == FROM_COUNTER, count, np.where(kind == FROM_CONSTANT, entries.constant[chosen], 0)
        )
        if self._floats:
            self._floating(raw, scaled, entries.kind[entry])
        return raw.view(np.uint64)

    @staticmethod
    def _floating(raw: Ints, scaled: Floats, kind: Ints) -> None:
        single = np.flatnonzero(kind == Kind.FLOAT32)
        raw[single] = scaled[single].astype(np.float32).view(np.uint32)
        double = np.flatnonzero(kind == Kind.FLOAT64)
        raw[double] = scaled[double].view(np.int64)
