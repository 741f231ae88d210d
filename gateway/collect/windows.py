"""Schemes with a trigger: frames wait until it is known whether a window reaches them.

Each scheme with a pre-trigger time keeps a queue of chunks. A chunk (the frames of one batch that any such scheme may
want) is let go by a scheme as a whole, when all of it is older than the pre-trigger time; whether a frame lies in a
window is decided by its own timestamp. A frame is *held* while it was not selected and a scheme still holds it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbc.decode import Decoded
from dbc.frames import FrameBatch
from dbc.manifest import Manifest
from gateway.collect.evaluate import Evaluator
from gateway.collect.filters import RawMatch
from gateway.collect.resolve import Scheme, TriggerRule
from gateway.collect.ruleset import RuleSet
from gateway.collect.scaling import Scaling


@dataclass(slots=True, eq=False)
class Chunk:
    """Frames of one batch with their samples, and what happened to them so far.

    Attributes:
        origin: intp[n], where each frame was in its batch.
        outcome: uint8[n], what a frame counts as when nobody selects it.
        quality: uint8[n] or None when all are good.
        selected: bool[n].
        holders: uint16[n], schemes that hold the frame.
        sent, raw_sent: uint8 per sample and per frame, a bit for each stream that has it already.
    """

    frames: FrameBatch
    decoded: Decoded
    origin: NDArray[np.intp]
    outcome: NDArray[np.uint8]
    quality: NDArray[np.uint8] | None
    selected: NDArray[np.bool_]
    holders: NDArray[np.uint16]
    sent: NDArray[np.uint8]
    raw_sent: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    chunk: Chunk
    frames: NDArray[np.intp]
    last_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What a window takes of one chunk: samples (with their quality) and raw frames."""

    chunk: Chunk
    samples: NDArray[np.intp]
    quality: NDArray[np.uint8] | None
    raw: NDArray[np.intp]
    refused: int


@dataclass(slots=True)
class _Window:
    start_ns: int | None  # None: goes on from an earlier call
    end_ns: int
    after_ns: int | None  # held frames up to here were dealt with by an earlier call


class Watch:
    """One scheme with a trigger: its condition, its window, the frames it holds."""

    def __init__(self, scheme: Scheme, trigger: TriggerRule, manifest: Manifest, scaling: Scaling) -> None:
        self.scheme, self.trigger = scheme, trigger
        self.evaluator = Evaluator(trigger.condition, trigger.stale_ns)
        self.rules = RuleSet(scheme.rules, scaling, len(manifest.signals))
        self.raw = RawMatch(scheme.raw_ranges)
        self.keys = tuple((signal, trigger.require_valid) for signal in trigger.condition.inputs)
        self.wants = np.zeros(len(manifest.signals), np.bool_)
        self.wants[[rule.signal for rule in scheme.rules]] = True
        self.triggers = 0
        self.held = 0
        self.evaluated_ns = 0  # bus time of the condition's last instant
        self._queue: deque[_Held] = deque()
        self._open_until: int | None = None
        self._last_fire: int | None = None

    def fires(self, times: NDArray[np.int64]) -> list[int]:
        """Of the instants at which the trigger could fire, those that are ``min_interval`` apart."""
        gap = self.trigger.min_interval_ns
        fired: list[int] = []
        for time in times.tolist():
            if self._last_fire is None or time - self._last_fire >= gap or time < self._last_fire:
                fired.append(time)
                self._last_fire = time
        self.triggers += len(fired)
        return fired

    def windows(self, fired: list[int]) -> tuple[list[_Window], list[int]]:
        """The windows to collect, merged where they touch, and the fire times that opened one."""
        windows: list[_Window] = []
        opened: list[int] = []
        if self._open_until is not None:
            windows.append(_Window(None, self._open_until, None))
        for time in sorted(fired):
            start, end = time - self.trigger.pre_ns, time + self.trigger.post_ns
            last = windows[-1] if windows else None
            if last is not None and start <= last.end_ns:
                if last.start_ns is None and last.after_ns is None:
                    last.after_ns = last.end_ns
                last.end_ns = max(last.end_ns, end)
            else:
                windows.append(_Window(start, end, None))
                opened.append(time)
        if windows:
            self._open_until = windows[-1].end_ns
        return windows, opened

    def collect(self, windows: list[_Window], chunk: Chunk | None) -> Iterator[Part]:
        """What the windows take from held chunks and from the newest one (not held yet), oldest first."""
        for window in windows:
            if window.start_ns is not None:
                self.rules.forget()
            if window.start_ns is not None or window.after_ns is not None:
                for held in self._queue:
                    if held.last_ns >= (window.start_ns if window.start_ns is not None else window.after_ns or 0):
                        yield from self._take(held.chunk, window, earlier=True)
            if chunk is not None:
                yield from self._take(chunk, window, earlier=False)

    def _take(self, chunk: Chunk, window: _Window, *, earlier: bool) -> Iterator[Part]:
        time = chunk.frames.timestamp_ns
        inside = time <= window.end_ns
        if window.start_ns is not None:
            inside &= time >= window.start_ns
        elif earlier and window.after_ns is not None:
            inside &= time > window.after_ns
        if not inside.any():
            return
        among = np.flatnonzero(inside[chunk.decoded.frame] & self.wants[chunk.decoded.signal])
        raw = np.flatnonzero(inside & self.raw.wanted(chunk.frames)) if self.raw else np.zeros(0, np.intp)
        offered = self.rules.offer(chunk.decoded, time, chunk.quality, among)
        if len(offered.sample) or len(raw) or len(offered.refused):
            yield Part(chunk, offered.sample, offered.quality, raw, len(offered.refused))

    def hold(self, chunk: Chunk) -> None:
        """Keep what this scheme may want of the newest chunk."""
        time = chunk.frames.timestamp_ns
        if not len(time):
            return
        wanted = np.zeros(len(chunk.frames), np.bool_)
        wanted[chunk.decoded.frame[self.wants[chunk.decoded.signal]]] = True
        if self.raw:
            wanted |= self.raw.wanted(chunk.frames)
        if not self.trigger.pre_ns:  # a trigger may still come with the very same timestamp
            wanted &= time == time.max()
        frames = np.flatnonzero(wanted)
        if not len(frames):
            return
        chunk.holders[frames] += 1
        self._queue.append(_Held(chunk, frames, int(time[frames].max())))
        self.held += len(frames)

    def expired(self, now_ns: int) -> Iterator[tuple[Chunk, NDArray[np.intp]]]:
        """Let go of chunks that no window can reach any more; yields the frames nobody holds now."""
        while self._queue and self._queue[0].last_ns + self.trigger.pre_ns < now_ns:
            yield self._release()

    def drop_oldest(self) -> Iterator[tuple[Chunk, NDArray[np.intp]]]:
        """Let go of the oldest chunk although a window could still reach it."""
        if self._queue:
            yield self._release()

    def close(self) -> Iterator[tuple[Chunk, NDArray[np.intp]]]:
        """End the open window and let go of everything."""
        self._open_until = self._last_fire = None
        while self._queue:
            yield self._release()

    def next_release_ns(self) -> int | None:
        """When ``expired`` will next yield something."""
        return self._queue[0].last_ns + self.trigger.pre_ns + 1 if self._queue else None

    def _release(self) -> tuple[Chunk, NDArray[np.intp]]:
        held = self._queue.popleft()
        self.held -= len(held.frames)
        held.chunk.holders[held.frames] -= 1
        return held.chunk, held.frames[held.chunk.holders[held.frames] == 0]


def make_chunk(
    frames: FrameBatch,
    decoded: Decoded,
    outcome: NDArray[np.uint8],
    quality: NDArray[np.uint8] | None,
    sent: NDArray[np.uint8],
    raw_sent: NDArray[np.uint8],
    watches: list[Watch],
) -> Chunk:
    """A chunk of the frames that any of the watches may want, copied out of the batch."""
    wanted = np.zeros(len(frames), np.bool_)
    for watch in watches:
        wanted[decoded.frame[watch.wants[decoded.signal]]] = True
        if watch.raw:
            wanted |= watch.raw.wanted(frames)
    origin = np.flatnonzero(wanted)
    place = np.cumsum(wanted, dtype=np.int32) - np.int32(1)
    samples = wanted[decoded.frame]
    kept = Decoded(
        decoded.message[origin],
        decoded.status[origin],
        place[decoded.frame[samples]],
        decoded.signal[samples],
        decoded.raw[samples],
    )
    return Chunk(
        frames.take(origin),
        kept,
        origin,
        outcome[origin],
        None if quality is None else quality[origin],
        np.zeros(len(origin), np.bool_),
        np.zeros(len(origin), np.uint16),
        sent[samples],
        raw_sent[origin],
    )
