"""The flat pass over a batch of frames.

Theory of operation: each frame is given a variant (``dbc.decode.plan``); ``np.repeat`` expands frames to (frame,
entry) pairs; the eight-byte word of each pair is gathered, shifted, masked. Pairs that turn out absent (past the
received length, conditions of nested selectors) are dropped at the end, and only where a batch has any. Nothing here
loops over frames, messages or identifiers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from dbc.decode.identify import Identifier
from dbc.decode.plan import (
    COLUMN,
    COUNT,
    CROSSES,
    END,
    FILTERED,
    LEFT,
    MASK,
    NEEDS,
    NEEDS_MASK,
    NUMBER,
    RIGHT,
    Plan,
    compile_plan,
)
from dbc.frames import ERROR, EXTENDED, MAX_LENGTH, REMOTE, FrameBatch
from dbc.manifest import Manifest

_NONE = np.zeros(0, np.intp)
_SPECIAL = np.uint8(EXTENDED | REMOTE | ERROR)


class FrameStatus(IntEnum):
    """What became of a frame."""

    DECODED = 0  # all signals asked for that its multiplexer chooses; none, if none were asked for
    UNKNOWN_ID = 1  # no message of its bus has this identifier
    REMOTE = 2  # asks for data, has none
    ERROR_FRAME = 3
    SHORT = 4  # too short for every signal asked for
    PARTIAL = 5  # too short for some of them


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What a batch of ``n`` frames held: ``k`` samples, ordered by frame and then by signal number.

    Attributes:
        message: int32[n], message number; -1 for frames that are no known message.
        status: uint8[n], ``FrameStatus``.
        frame: int32[k], index of the sample's frame in the batch.
        signal: int32[k], signal number of the manifest.
        raw: int64[k]; unsigned 64-bit values and floats as their bit pattern.
    """

    message: NDArray[np.int32]
    status: NDArray[np.uint8]
    frame: NDArray[np.int32]
    signal: NDArray[np.int32]
    raw: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.signal)


class Decoder:
    """Decodes frames of one vehicle with its manifest. One decoder is for one thread: it keeps its scratch memory.

    Args:
        manifest: what the buses carry; ``FrameBatch.bus`` is an index into ``manifest.buses``.
        signals: numbers of the signals to decode; all when None. Others cost nothing, apart from selectors that
            decide whether these are present.

    Attributes:
        unsupported: ``(signal number, why)`` of signals that are never decoded: longer than 64 bits, or placed where
            no payload reaches.

    A frame is decoded as far as it goes: signals past the received length are absent, an unknown selector value makes
    only the signals absent that depend on it.

    Raises:
        ValueError: a signal number is not in the manifest.
    """

    def __init__(self, manifest: Manifest, signals: Iterable[int] | None = None) -> None:
        self.manifest = manifest
        self._identifier = Identifier(manifest)
        self._plan = compile_plan(manifest, signals)
        self.unsupported = self._plan.unsupported
        self._any_selector = bool(self._plan.selectors.present.any())
        self._scratch = _Scratch(4096)

    def decode(self, frames: FrameBatch) -> Decoded:
        """All samples in ``frames``. Never raises for what frames contain."""
        plan = self._plan
        special = frames.flags & _SPECIAL if np.count_nonzero(frames.flags) else frames.flags
        plain = not np.count_nonzero(special)
        message = self._identifier.match_standard(frames) if plain else self._identifier.match(frames)
        if not plain:
            message[special > EXTENDED] = self._identifier.unknown
        bank = _bank(plan, frames)
        run = plan.messages.take(message, axis=0, mode="clip")
        lacking = self._select(message, bank, frames.length, run) if self._any_selector else _NONE
        frame, signal, raw, short = self._expand(run, bank, frames.length, lacking)
        number = run[:, NUMBER].astype(np.int32)
        status = (number < 0).view(np.uint8)  # DECODED or UNKNOWN_ID
        if not plain:
            status[special & np.uint8(REMOTE) != 0] = FrameStatus.REMOTE
            status[special & np.uint8(ERROR) != 0] = FrameStatus.ERROR_FRAME
        if len(short):
            status[short] = FrameStatus.PARTIAL
            status[short[np.bincount(frame, minlength=len(frames))[short] == 0]] = FrameStatus.SHORT
        return Decoded(number, status, frame, signal, raw)

    def _select(
        self,
        message: NDArray[np.intp],
        bank: NDArray[np.uint64],
        length: NDArray[np.uint8],
        run: NDArray[np.int64],
    ) -> NDArray[np.intp]:
        """Replace the run of multiplexed frames by what their main selector chooses; returns frames without it."""
        selectors = self._plan.selectors
        chosen = np.flatnonzero(selectors.present.take(message, mode="clip"))
        lacking = _NONE
        if not len(chosen):
            return lacking
        of = message.take(chosen)
        fits = selectors.needs.take(of) <= length.take(chosen)
        if not fits.all():
            lacking = chosen[~fits]
            chosen, of = chosen[fits], of[fits]
        value = bank.take(chosen * bank.shape[1] + selectors.column.take(of))
        value <<= selectors.left.take(of)
        value >>= selectors.right.take(of)
        variant = selectors.table.take(selectors.first.take(of) + value.view(np.int64))
        run[chosen] = self._plan.variants.take(variant, axis=0, mode="clip")
        return lacking

    def _expand(
        self,
        run: NDArray[np.int64],
        bank: NDArray[np.uint64],
        length: NDArray[np.uint8],
        short: NDArray[np.intp],
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64], NDArray[np.intp]]:
        """The sample arrays of ``Decoded``, and the frames that lack a signal asked for."""
        plan, entries = self._plan, self._plan.entries
        counts = run[:, COUNT]
        ends = counts.cumsum()
        total = int(ends[-1]) if len(ends) else 0
        scratch = self._scratch
        if max(total, len(counts)) > scratch.capacity:
            scratch.grow(2 * max(total, len(counts)))
        frame = scratch.count_up[: len(counts)].repeat(counts)
        entry = (run[:, END] - ends).repeat(counts)
        entry += scratch.count_up[:total]
        shape = entries.shape.take(entry, axis=0, out=scratch.shape[:total], mode="clip")
        at = frame
        if bank.shape[1] > 1:
            at = np.multiply(frame, bank.shape[1], out=scratch.at[:total])
            at += shape[:, COLUMN]
        raw = bank.take(at, mode="clip").view(np.int64)
        if plan.crosses and np.count_nonzero(run[:, NEEDS] & CROSSES):
            _join_words(plan, entry, at, bank, raw.view(np.uint64))
        raw <<= shape[:, LEFT]
        raw >>= shape[:, RIGHT]
        raw &= shape[:, MASK]
        signal = entries.signal.take(entry, mode="clip")

        keep = None
        if plan.filtered and np.count_nonzero(run[:, NEEDS] & FILTERED):
            keep = _conditions_hold(plan, entry, (ends - counts).take(frame), raw)
        needs = run[:, NEEDS] & NEEDS_MASK if plan.crosses or plan.filtered else run[:, NEEDS]
        if np.count_nonzero(needs > length):
            absent = entries.needs.take(entry) > length.take(frame)
            keep = np.ones(total, np.bool_) if keep is None else keep
            short = np.union1d(short, frame[absent & keep & entries.emit.take(entry)])
            keep &= ~absent
        if keep is not None:
            if plan.filtered:
                keep &= entries.emit.take(entry)
            frame, signal, raw = frame[keep], signal[keep], raw[keep]
        return frame.astype(np.int32), signal, raw, short


def _bank(plan: Plan, frames: FrameBatch) -> NDArray[np.uint64]:
    """The payloads as rows of words: little-endian numbers first, then big-endian ones, whichever are needed."""
    data = frames.data if frames.data.flags.c_contiguous else np.ascontiguousarray(frames.data)
    if not plan.big and plan.words == MAX_LENGTH // 8:
        return data.view("<u8").astype(np.uint64, copy=False)
    words = data.view("<u8")[:, : plan.words]
    bank = np.empty((len(frames), plan.words * (plan.little + plan.big)), np.uint64)
    if plan.little:
        bank[:, : plan.words] = words
    if plan.big:
        bank[:, -plan.words :] = words.byteswap()
    return bank


def _join_words(
    plan: Plan,
    entry: NDArray[np.intp],
    at: NDArray[np.intp],
    bank: NDArray[np.uint64],
    word: NDArray[np.uint64],
) -> None:
    """Give entries that cross into the next word their window from both words."""
    pairs = np.flatnonzero(plan.entries.crosses.take(entry))
    which = entry[pairs]
    skip = plan.entries.skip.take(which)
    rest = np.uint64(64) - skip
    this, following = word[pairs], bank.take(at[pairs] + 1)
    word[pairs] = np.where(
        plan.entries.big_endian.take(which),
        (this << skip) | (following >> rest),
        (this >> skip) | (following << rest),
    )


def _conditions_hold(
    plan: Plan, entry: NDArray[np.intp], start: NDArray[np.intp], raw: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """For each pair: do all its conditions hold? Each holds when its selector lies in any of its ranges."""
    keep = np.ones(len(entry), np.bool_)
    counts = plan.entries.conditions.take(entry)
    pairs = np.flatnonzero(counts)
    if not len(pairs):
        return keep
    counts = counts[pairs]
    condition, first = _runs(plan.entries.first_condition.take(entry[pairs]), counts)
    selector = np.repeat(start[pairs], counts) + plan.conditions.selector.take(condition)
    ranges = plan.conditions.ranges.take(condition)
    which, first_range = _runs(plan.conditions.first_range.take(condition), ranges)
    value = np.repeat(raw.take(selector), ranges)
    inside = (plan.conditions.low.take(which) <= value) & (value <= plan.conditions.high.take(which))
    keep[pairs] = np.logical_and.reduceat(np.logical_or.reduceat(inside, first_range), first)
    return keep


def _runs(firsts: NDArray[np.intp], counts: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The indices of runs that start at ``firsts``, one after another, and where each run starts among them."""
    ends = np.cumsum(counts)
    starts = ends - counts
    return np.repeat(firsts - starts, counts) + np.arange(int(ends[-1])), starts


class _Scratch:
    """Memory that lives from batch to batch: asking the system for it each time costs more than the arithmetic."""

    def __init__(self, capacity: int) -> None:
        self.grow(capacity)

    def grow(self, capacity: int) -> None:
        """Room for ``capacity`` pairs."""
        self.capacity = capacity
        self.count_up = np.arange(capacity)
        self.shape = np.empty((capacity, 4), np.int64)
        self.at = np.empty(capacity, np.intp)
