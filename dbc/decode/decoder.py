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
from dbc.decode.plan import Plan, compile_plan
from dbc.frames import ERROR, REMOTE, FrameBatch
from dbc.manifest import Manifest


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
    """Decodes frames of one vehicle with its manifest.

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
        known = len(manifest.messages)
        self._number = np.append(np.arange(known, dtype=np.int32), np.int32(-1))
        self._status = np.append(np.zeros(known, np.uint8), np.uint8(FrameStatus.UNKNOWN_ID))
        self._any_selector = bool(self._plan.selectors.present.any())
        self._any_crossing = bool(self._plan.variants.crosses.any())
        self._any_filtered = bool(self._plan.variants.filtered.any())
        self._count_up = np.arange(4096)

    def decode(self, frames: FrameBatch) -> Decoded:
        """All samples in ``frames``. Never raises for what frames contain."""
        plan = self._plan
        message = self._identifier.match(frames)
        special = (frames.flags & (REMOTE | ERROR)) != 0
        if has_special := bool(special.any()):
            message[special] = self._identifier.unknown
        bank = _bank(plan, frames)
        variant = plan.message_variant.take(message)
        lacking = self._select(message, bank, frames.length, variant) if self._any_selector else np.zeros(0, np.intp)
        samples = self._expand(variant, bank, frames.length, lacking)
        status = self._status.take(message)
        if has_special:
            status[special] = np.where(frames.flags[special] & ERROR, FrameStatus.ERROR_FRAME, FrameStatus.REMOTE)
        if len(short := samples.short):
            status[short] = FrameStatus.PARTIAL
            status[short[np.bincount(samples.frame, minlength=len(frames))[short] == 0]] = FrameStatus.SHORT
        return Decoded(self._number.take(message), status, samples.frame, samples.signal, samples.raw)

    def _select(
        self,
        message: NDArray[np.int32],
        bank: NDArray[np.uint64],
        length: NDArray[np.uint8],
        variant: NDArray[np.intp],
    ) -> NDArray[np.intp]:
        """Replace the variant of multiplexed frames by what their main selector chooses; returns frames without it."""
        selectors = self._plan.selectors
        chosen = np.flatnonzero(selectors.present.take(message))
        lacking = np.zeros(0, np.intp)
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
        variant[chosen] = selectors.table.take(selectors.first.take(of) + value.astype(np.intp))
        return lacking

    def _expand(
        self,
        variant: NDArray[np.intp],
        bank: NDArray[np.uint64],
        length: NDArray[np.uint8],
        short: NDArray[np.intp],
    ) -> _Samples:
        plan, entries = self._plan, self._plan.entries
        counts = plan.variants.count.take(variant)
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        starts = ends - counts
        frame = np.repeat(self._counting(len(counts)), counts)
        entry = np.repeat(plan.variants.first.take(variant) - starts, counts)
        entry += self._counting(total)
        at = frame
        if bank.shape[1] > 1:
            at = entries.column.take(entry)
            at += frame * bank.shape[1]
        word = bank.take(at)
        if self._any_crossing and plan.variants.crosses.take(variant).any():
            _join_words(plan, entry, at, bank, word)
        word <<= entries.left.take(entry)
        raw = word.view(np.int64)
        raw >>= entries.right.take(entry)
        raw &= entries.mask.take(entry)
        signal = entries.signal.take(entry)

        keep = None
        if self._any_filtered and plan.variants.filtered.take(variant).any():
            keep = _conditions_hold(plan, entry, starts.take(frame), raw)
        lacking = plan.variants.needs.take(variant) > length
        if lacking.any():
            absent = entries.needs.take(entry) > length.take(frame)
            keep = np.ones(total, np.bool_) if keep is None else keep
            short = np.union1d(short, frame[absent & keep & entries.emit.take(entry)])
            keep &= ~absent
        if keep is not None:
            if self._any_filtered:
                keep &= entries.emit.take(entry)
            frame, signal, raw = frame[keep], signal[keep], raw[keep]
        return _Samples(frame.astype(np.int32), signal, raw, short)

    def _counting(self, count: int) -> NDArray[np.intp]:
        """0, 1, … ``count - 1``; the array is shared."""
        if len(self._count_up) < count:
            self._count_up = np.arange(2 * count)
        return self._count_up[:count]


@dataclass(frozen=True, slots=True, eq=False)
class _Samples:
    frame: NDArray[np.int32]
    signal: NDArray[np.int32]
    raw: NDArray[np.int64]
    short: NDArray[np.intp]  # frames that lack a signal asked for


def _bank(plan: Plan, frames: FrameBatch) -> NDArray[np.uint64]:
    """The payloads as rows of words: little-endian numbers first, then big-endian ones, whichever are needed."""
    payload = np.ascontiguousarray(frames.data[:, : 8 * plan.words])
    if not plan.big:
        return payload.view("<u8").astype(np.uint64, copy=False)
    if not plan.little:
        return payload.view(">u8").astype(np.uint64)
    bank = np.empty((len(frames), 2 * plan.words), np.uint64)
    bank[:, : plan.words] = payload.view("<u8")
    bank[:, plan.words :] = payload.view(">u8")
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
