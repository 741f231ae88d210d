"""From frames to what is worth storing: the selector runs all active schemes over one shared decoding.

A core: no I/O, no clock. Frames carry their own timestamps; ``now_ns`` is the caller's clock. The selector keeps
**bus time**, the latest timestamp seen, carried on by the caller's clock between batches, so that a replayed drive of
last year runs like a live one. Only the schemes' validity dates follow the caller's clock.

Every frame fed has one outcome at every moment (``Collected.counts``): error frame, undecodable, not selected,
selected, or held in a pre-trigger window. A held frame moves to selected or to its other outcome later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dbc.decode import Decoded, Decoder, FrameStatus
from dbc.frames import FrameBatch
from dbc.manifest import Manifest
from gateway.collect import filters, levels
from gateway.collect.collected import (
    ERRORS,
    HELD,
    NOT_SELECTED,
    SELECTED,
    UNDECODABLE,
    Collected,
    block_of,
)
from gateway.collect.filters import BusFilter, RawMatch
from gateway.collect.gather import VEHICLE, Gather
from gateway.collect.inputs import Inputs
from gateway.collect.model import Limits
from gateway.collect.resolve import Rule, Scheme
from gateway.collect.ruleset import RuleSet
from gateway.collect.scaling import Scaling
from gateway.collect.timeouts import Timeouts
from gateway.collect.validity import Validator
from gateway.collect.windows import Chunk, Part, Watch, make_chunk
from gateway.wire.api import SchemeState
from gateway.wire.samples import Event, EventKind

_MS = 1_000_000
_MAX_PIECES = 8
_NEVER = 1 << 62

_OUTCOME = np.full(8, NOT_SELECTED, np.uint8)
_OUTCOME[[FrameStatus.UNKNOWN_ID, FrameStatus.REMOTE, FrameStatus.SHORT]] = UNDECODABLE
_OUTCOME[FrameStatus.ERROR_FRAME] = ERRORS


class Selector:
    """Runs collection schemes over frames.

    Args:
        manifest: ``FrameBatch.bus`` is an index into its buses.
        schemes: resolved against this manifest. Their order is the order of ``Collected`` and ``scheme_states``.
        limits: what schemes may use.
    """

    def __init__(self, manifest: Manifest, schemes: Sequence[Scheme] = (), limits: Limits | None = None) -> None:
        self.manifest = manifest
        self.limits = limits or Limits()
        self._scaling = Scaling(manifest)
        self._level = 0
        self._now_ns: int | None = None  # the caller's clock at the last call
        self._time: int | None = None  # bus time
        self._offset = 0
        self._held_dropped = 0
        self.schemes: tuple[Scheme, ...] = ()
        self._tallies: dict[str, list[int]] = {}
        self._active: tuple[int, ...] = ()
        self._watches: list[tuple[int, Watch]] = []
        self._rules: RuleSet | None = None
        self._rule_keys: dict[tuple[str, Rule], int] = {}
        self._inputs = Inputs({}, self._scaling, 0)
        self._timeouts = Timeouts((), len(manifest.messages))
        self._validator = Validator(manifest, ())
        self._set_schemes(tuple(schemes), None)

    # -- the four calls ------------------------------------------------------------------------------------------

    def feed(self, frames: FrameBatch, now_ns: int) -> Collected:
        """Select from a batch of frames, in order of reception. The batch may be reused afterwards."""
        out = self._begin(now_ns)
        if len(frames):
            start = 0
            for cut, step in self._jumps(frames.timestamp_ns):
                if cut > start:
                    self._feed(frames.take(slice(start, cut)), out)
                self._jump(step, int(frames.timestamp_ns[cut]), out)
                start = cut
            self._feed(frames.take(slice(start, None)) if start else frames, out)
            assert self._time is not None
            self._offset = self._time - now_ns
        return self._end(out)

    def tick(self, now_ns: int) -> Collected:
        """Let time pass: timeouts, conditions on age or windows, the ends of pre-trigger windows."""
        out = self._begin(now_ns)
        if self._time is not None:
            now = now_ns + self._offset
            step = now - self._time
            if step < -self.limits.clock_back_ms * _MS or step > self.limits.clock_forward_ms * _MS:
                self._jump(step, now, out)
            self._time = max(self._time, now)
            self._pass_time(out)
        return self._end(out)

    def flush(self, now_ns: int) -> Collected:
        """For a stop: close all windows, let go of all held frames. The selector can be used on."""
        out = self._begin(now_ns)
        for _, watch in self._watches:
            self._let_go(watch.close(), out)
        return self._end(out)

    def replace(self, schemes: Sequence[Scheme], now_ns: int) -> Collected:
        """Use other schemes from now on. Unchanged ones and unchanged rules go on as if nothing had happened."""
        out = Gather(max(len(self.schemes), len(schemes)), len(self.manifest.buses), self.limits.max_events_per_call)
        self._now_ns = now_ns
        self._set_schemes(tuple(schemes), now_ns, out)
        return self._end(out)

    # -- questions -----------------------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` should be called at the latest, on the caller's clock; None when nothing waits."""
        if self._time is None:
            return None
        deadlines = [watch.next_release_ns() for _, watch in self._watches]
        deadlines.append(self._timeouts.next_deadline_ns())
        tick_ns = self.limits.condition_tick_ms * _MS
        deadlines += [w.evaluated_ns + tick_ns for _, w in self._watches if w.trigger.condition.time_dependent]
        waiting = [d for d in deadlines if d is not None]
        return min(waiting) - self._offset if waiting else None

    def scheme_states(self, now_ns: int) -> tuple[SchemeState, ...]:
        """Each scheme with its state and tallies."""
        states = []
        triggers = {index: watch.triggers for index, watch in self._watches}
        for index, scheme in enumerate(self.schemes):
            state = "active"
            if scheme.not_before_ns is not None and now_ns < scheme.not_before_ns:
                state = "not_started"
            elif scheme.not_after_ns is not None and now_ns >= scheme.not_after_ns:
                state = "expired"
            detail = []
            if state == "active" and self._stopped(index):
                detail.append("stopped: over budget")
            elif state == "active" and (factor := levels.factor(scheme.priority, self._level)) > 1:
                detail.append(f"{factor} times coarser: near budget")
            if scheme.trigger is not None and (self._held_dropped or self._inputs.dropped):
                detail.append(
                    f"memory limits shortened windows: {self._held_dropped} frames, {self._inputs.dropped} samples"
                )
            tally = self._tallies.get(scheme.id, [0, 0, 0])
            states.append(
                SchemeState(
                    scheme.id,
                    scheme.version,
                    state,
                    "; ".join(detail),
                    selected_items=tally[0],
                    over_budget_items=tally[1],
                    triggers=tally[2] + triggers.get(index, 0),
                )
            )
        return tuple(states)

    def kernel_filters(self) -> tuple[BusFilter, ...]:
        """Per bus the identifiers needed by all schemes but the expired ones, None for all identifiers.

        Schemes that have not begun are in it, so that they miss nothing when they do.
        """
        now_ns = self._now_ns
        wanted = [s for s in self.schemes if now_ns is None or s.not_after_ns is None or now_ns < s.not_after_ns]
        return filters.kernel_filters(wanted, self.manifest)

    @property
    def held_frames(self) -> int:
        """How often a frame is held, over all schemes."""
        return sum(watch.held for _, watch in self._watches)

    @property
    def degradation(self) -> int:
        """The level set last."""
        return self._level

    def set_degradation(self, level: int) -> None:
        """How short the byte budget is: 0 not at all, 6 spent; ``levels`` tells what each means.

        Raises:
            ValueError: another number.
        """
        if not 0 <= level <= levels.MAX_LEVEL:
            raise ValueError(f"level {level}, there are 0 to {levels.MAX_LEVEL}")
        self._level = level
        self._apply_level()

    # -- time ----------------------------------------------------------------------------------------------------

    def _begin(self, now_ns: int) -> Gather:
        out = Gather(len(self.schemes), len(self.manifest.buses), self.limits.max_events_per_call)
        self._now_ns = now_ns
        if not self._active_from <= now_ns < self._active_until:
            self._set_schemes(self.schemes, now_ns, out)
        return out

    def _jumps(self, time_ns: NDArray[np.int64]) -> list[tuple[int, int]]:
        """Where in a batch the clock jumped, and by how much; a few at most."""
        last = time_ns[0] if self._time is None else self._time
        low, high = -self.limits.clock_back_ms * _MS, self.limits.clock_forward_ms * _MS
        steps = np.empty(len(time_ns), np.int64)
        steps[0] = time_ns[0] - last
        np.subtract(time_ns[1:], time_ns[:-1], out=steps[1:])
        if steps.min() >= low and steps.max() <= high:
            return []
        odd = np.flatnonzero((steps < low) | (steps > high))
        return [(at, int(steps[at])) for at in odd[:_MAX_PIECES].tolist()]

    def _jump(self, step_ns: int, now_ns: int, out: Gather) -> None:
        """The clock was set (or nothing was heard for hours): end windows, keep ages, tell."""
        for _, watch in self._watches:
            self._let_go(watch.close(), out)
        self._inputs.forget_past()
        self._inputs.shift(step_ns)
        self._timeouts.shift(step_ns)
        self._time = now_ns
        out.event(VEHICLE, Event(now_ns, EventKind.CLOCK_JUMP, "clock", f"{step_ns:+d} ns"))

    def _pass_time(self, out: Gather) -> None:
        """What happens because bus time has come to where it is."""
        now = self._time
        assert now is not None
        for scheme, event in self._timeouts.tick(now):
            out.event(scheme, event)
        tick_ns = self.limits.condition_tick_ms * _MS
        for index, watch in self._watches:
            if watch.trigger.condition.time_dependent and not 0 <= now - watch.evaluated_ns < tick_ns:
                self._evaluate_tick(index, watch, now, out)
        for _, watch in self._watches:
            self._let_go(watch.expired(now), out)
        self._inputs.trim(now - self.limits.clock_back_ms * _MS)

    def _evaluate_tick(self, index: int, watch: Watch, now: int, out: Gather) -> None:
        none, never = np.zeros(0, np.intp), np.zeros(0, np.int64)
        series = [self._inputs.feed(key, none, never, never) for key in watch.keys]
        time = np.array([now], np.int64)
        holds, rose = watch.evaluator.evaluate(series, np.zeros(1, np.intp), time)
        watch.evaluated_ns = now
        fired = watch.fires(time[rose if watch.trigger.edge == "rising" else holds])
        if fired:
            self._open(index, watch, fired, None, out)

    # -- frames --------------------------------------------------------------------------------------------------

    def _feed(self, frames: FrameBatch, out: Gather) -> None:
        time = frames.timestamp_ns
        decoded = self._decoder.decode(frames)
        outcome = _OUTCOME[decoded.status]
        quality = self._validator.check(frames, decoded)
        selected = np.zeros(len(frames), np.bool_)
        sent = np.zeros(len(decoded) if self._watches else 0, np.uint8)
        raw_sent = np.zeros(len(frames), np.uint8)
        for scheme, event in self._timeouts.feed(decoded.message, time):
            out.event(scheme, event)
        if self._rules is not None:
            self._select_continuous(decoded, time, quality, selected, sent, out)
        for index, match in self._boxes:
            self._select_raw(index, match, frames, selected, raw_sent, out)
        if self._watches:
            self._watch(frames, decoded, outcome, quality, selected, sent, raw_sent, out)
        outcome[selected] = SELECTED
        out.move(frames.bus, outcome)
        self._time = max(int(time.max()), int(time[0]) if self._time is None else self._time)
        self._pass_time(out)

    def _select_continuous(
        self,
        decoded: Decoded,
        time: NDArray[np.int64],
        quality: NDArray[np.uint8] | None,
        selected: NDArray[np.bool_],
        sent: NDArray[np.uint8],
        out: Gather,
    ) -> None:
        """Rules of schemes without a trigger."""
        assert self._rules is not None
        offered = self._rules.offer(decoded, time, quality)
        if len(offered.refused):
            for index, items in enumerate(np.bincount(self._rule_scheme[offered.refused]).tolist()):
                out.refuse(index, items)
        sample, rule, marks = offered.sample, offered.rule, offered.quality
        if self._overlap and len(sample):
            keep = _first_of_stream(sample, self._rule_stream[rule])
            sample, rule = sample[keep], rule[keep]
            marks = None if marks is None else marks[keep]
        single = len(self._continuous) == 1
        owner = rule if single else self._rule_scheme.take(rule)
        for index in self._continuous:
            chosen = sample
            if not single:
                mine = owner == index
                chosen = sample.compress(mine)
            if not len(chosen):
                continue
            if self._stopped(index):
                out.refuse(index, len(chosen))
                continue
            chosen_marks = marks if single or marks is None else marks.compress(mine)
            out.samples[index].append(block_of(decoded, time, chosen, chosen_marks))
            selected[decoded.frame.take(chosen)] = True
            if len(sent):
                sent[chosen] |= self._bit(index)

    def _select_raw(
        self,
        index: int,
        match: RawMatch,
        frames: FrameBatch,
        selected: NDArray[np.bool_],
        raw_sent: NDArray[np.uint8],
        out: Gather,
    ) -> None:
        """A black box without a trigger."""
        bit = self._bit(index)
        wanted = np.flatnonzero(match.wanted(frames) & (raw_sent & bit == 0))
        if not len(wanted):
            return
        if self._stopped(index, raw=True):
            out.refuse(index, len(wanted))
            return
        out.frames[index].append(frames.take(wanted))
        selected[wanted] = True
        raw_sent[wanted] |= bit

    def _watch(
        self,
        frames: FrameBatch,
        decoded: Decoded,
        outcome: NDArray[np.uint8],
        quality: NDArray[np.uint8] | None,
        selected: NDArray[np.bool_],
        sent: NDArray[np.uint8],
        raw_sent: NDArray[np.uint8],
        out: Gather,
    ) -> None:
        """Schemes with a trigger: conditions, windows, holding. Held frames get ``HELD`` as their outcome."""
        chunk = make_chunk(frames, decoded, outcome, quality, sent, raw_sent, [w for _, w in self._watches])
        chunk.selected |= selected[chunk.origin]
        series = {
            key: self._inputs.feed(key, *_samples_of(key, frames.timestamp_ns, decoded, quality)) for key in self._keys
        }
        for index, watch in self._watches:
            inputs = [series[key] for key in watch.keys]
            instants = watch.evaluator.instants(inputs)
            fired: list[int] = []
            if len(instants):
                time = frames.timestamp_ns[instants]
                holds, rose = watch.evaluator.evaluate(inputs, instants, time)
                watch.evaluated_ns = int(time[-1])
                fired = watch.fires(time[rose if watch.trigger.edge == "rising" else holds])
            self._open(index, watch, fired, chunk, out)
        for _, watch in self._watches:
            watch.hold(chunk)
        selected[chunk.origin] |= chunk.selected
        outcome[chunk.origin[(chunk.holders > 0) & ~chunk.selected]] = HELD
        self._bound_held(out)

    def _open(self, index: int, watch: Watch, fired: list[int], chunk: Chunk | None, out: Gather) -> None:
        """Collect what the scheme's windows reach, and tell of triggers."""
        windows, opened = watch.windows(fired)
        stopped = self._stopped(index)
        for time in fired if watch.trigger.edge == "rising" else opened:
            if stopped:
                out.refuse(index, 1)
            else:
                text = " ".join(watch.trigger.condition.text.split())
                out.event(index, Event(time, EventKind.TRIGGER, watch.scheme.id, text[:200]))
        for part in watch.collect(windows, chunk):
            self._take(index, part, part.chunk is chunk, stopped, out)

    def _take(self, index: int, part: Part, newest: bool, stopped: bool, out: Gather) -> None:
        """Emit a window's part of a chunk, except what the stream has already."""
        chunk, bit = part.chunk, self._bit(index)
        out.refuse(index, part.refused)
        fresh = chunk.sent[part.samples] & bit == 0
        samples = part.samples[fresh]
        raw = part.raw[chunk.raw_sent[part.raw] & bit == 0]
        if self._stopped(index, raw=True) and len(raw):
            out.refuse(index, len(raw))
            raw = raw[:0]
        if stopped:
            out.refuse(index, len(samples))
            return
        if len(samples):
            quality = None if part.quality is None else part.quality[fresh]
            out.samples[index].append(block_of(chunk.decoded, chunk.frames.timestamp_ns, samples, quality))
            chunk.sent[samples] |= bit
        if len(raw):
            out.frames[index].append(chunk.frames.take(raw))
            chunk.raw_sent[raw] |= bit
        gained = np.zeros(len(chunk.frames), np.bool_)
        gained[chunk.decoded.frame[samples]] = True
        gained[raw] = True
        gained &= ~chunk.selected
        chunk.selected |= gained
        if not newest and gained.any():  # the frames of the newest chunk are counted with their batch
            out.move(chunk.frames.bus[gained], HELD, -1)
            out.move(chunk.frames.bus[gained], SELECTED)

    def _let_go(self, released: Iterable[tuple[Chunk, NDArray[np.intp]]], out: Gather) -> None:
        """Frames that nobody holds any more get their final outcome."""
        for chunk, frames in released:
            final = frames[~chunk.selected[frames]]
            if len(final):
                out.move(chunk.frames.bus[final], HELD, -1)
                out.move(chunk.frames.bus[final], chunk.outcome[final])

    def _bound_held(self, out: Gather) -> None:
        """Keep held frames within the limit, giving up the oldest of the scheme that holds most."""
        held = self.held_frames
        while held > self.limits.max_held_frames:
            watch = max((w for _, w in self._watches), key=lambda w: w.held)
            released = list(watch.drop_oldest())
            if not released:
                return
            self._held_dropped += sum(len(frames) for _, frames in released)
            self._let_go(released, out)
            held = self.held_frames

    # -- schemes -------------------------------------------------------------------------------------------------

    def _set_schemes(self, schemes: tuple[Scheme, ...], now_ns: int | None, out: Gather | None = None) -> None:
        """Build everything that depends on the set of active schemes, carrying over what did not change."""
        if len(schemes) > self.limits.max_schemes:
            raise ValueError(f"{len(schemes)} schemes, at most {self.limits.max_schemes}")
        if len({s.id for s in schemes}) < len(schemes):
            raise ValueError("two schemes with the same id")
        old_schemes, old_active = self.schemes, self._active
        self.schemes = schemes
        self._set_validity(now_ns)
        known = {old_schemes[i]: i for i in old_active}
        renamed = {known[schemes[i]]: i for i in self._active if schemes[i] in known}

        watches: list[tuple[int, Watch]] = []
        former = dict(self._watches)
        for index in self._active:
            trigger = schemes[index].trigger
            if trigger is None:
                continue
            before = known.get(schemes[index])
            kept = former.pop(before, None) if before is not None else None
            watches.append((index, kept or Watch(schemes[index], trigger, self.manifest, self._scaling)))
        for index, watch in former.items():
            self._tally(old_schemes[index].id)[2] += watch.triggers
            if out is not None:
                self._let_go(watch.close(), out)
        self._watches = watches
        self._build_continuous()
        self._build_inputs()
        self._build_timeouts(renamed)
        self._apply_level()

    def _set_validity(self, now_ns: int | None) -> None:
        """Which schemes are active, and for how long that stays so."""
        if now_ns is None:  # before the first call there is no time yet
            self._active = ()
            self._active_from, self._active_until = _NEVER, -_NEVER
            return
        self._active = tuple(i for i, s in enumerate(self.schemes) if s.active_at(now_ns))
        borders = [b for s in self.schemes for b in (s.not_before_ns, s.not_after_ns) if b is not None]
        self._active_from = max((b for b in borders if b <= now_ns), default=-_NEVER)
        self._active_until = min((b for b in borders if b > now_ns), default=_NEVER)

    def _build_continuous(self) -> None:
        """The rules of all schemes without a trigger as one set; finest resolution first within a stream."""
        schemes = self.schemes
        order = sorted(
            (i for i in self._active if schemes[i].trigger is None), key=lambda i: (schemes[i].resolution_ns, i)
        )
        owners = [i for i in order for _ in schemes[i].rules]
        rules = [rule for i in order for rule in schemes[i].rules]
        keys = {(schemes[i].id, rule): n for n, (i, rule) in enumerate(zip(owners, rules, strict=True))}
        new = RuleSet(rules, self._scaling, len(self.manifest.signals)) if rules else None
        if new is not None and self._rules is not None:
            shared = [(n, self._rule_keys[key]) for key, n in keys.items() if key in self._rule_keys]
            new.picker.adopt(self._rules.picker, shared)
        self._rules, self._rule_keys = new, keys
        self._continuous = [i for i in self._active if schemes[i].trigger is None and schemes[i].rules]
        self._rule_scheme = np.array(owners, np.intp)
        self._rule_stream = np.array([_stream_number(schemes[i]) for i in owners], np.intp)
        wanted = [(_stream_number(schemes[i]), rule.signal) for i, rule in zip(owners, rules, strict=True)]
        self._overlap = len(set(wanted)) < len(wanted)
        self._boxes = [
            (i, RawMatch(schemes[i].raw_ranges)) for i in order if schemes[i].trigger is None and schemes[i].raw_ranges
        ]

    def _build_inputs(self) -> None:
        """The decoder, the conditions' memory and the checks, for what the active schemes need."""
        windows: dict[tuple[int, bool], int] = {}
        for _, watch in self._watches:
            for key, window in zip(watch.keys, watch.trigger.condition.windows_ns, strict=True):
                windows[key] = max(windows.get(key, 0), window)
        inputs = Inputs(windows, self._scaling, self.limits.max_history_samples)
        inputs.adopt(self._inputs)
        self._inputs, self._keys = inputs, tuple(windows)

        active = [self.schemes[i] for i in self._active]
        validator = Validator(self.manifest, active)
        if validator.rules != self._validator.rules:
            self._validator = validator
        signals = {rule.signal for scheme in active for rule in scheme.rules}
        signals.update(signal for signal, _ in windows)
        self._decoder = Decoder(self.manifest, sorted(signals))

    def _build_timeouts(self, renamed: dict[int, int]) -> None:
        watched: dict[tuple[int, int], int] = {}
        for i in self._active:
            for rule in self.schemes[i].rules:
                if rule.timeout_ns:
                    place = (i, self.manifest.signal_message[rule.signal])
                    watched[place] = min(watched.get(place, _NEVER), rule.timeout_ns)
        timeouts = Timeouts(
            [(i, m, limit, self._message_name(m)) for (i, m), limit in watched.items()], len(self.manifest.messages)
        )
        timeouts.adopt(self._timeouts, renamed)
        self._timeouts = timeouts

    def _apply_level(self) -> None:
        """Hand the degradation level to the rules."""
        factors = [levels.factor(scheme.priority, self._level) for scheme in self.schemes]
        coarse = self.limits.coarse_period_ms * _MS
        if self._rules is not None:
            self._rules.set_factors([factors[i] for i in self._rule_scheme.tolist()], coarse)
        for index, watch in self._watches:
            watch.rules.set_factors([factors[index]] * len(watch.rules.rules), coarse)

    # -- small things --------------------------------------------------------------------------------------------

    def _stopped(self, index: int, *, raw: bool = False) -> bool:
        return levels.stopped(self.schemes[index].priority, self._level, raw=raw)

    def _bit(self, index: int) -> np.uint8:
        return np.uint8(1 << _stream_number(self.schemes[index]))

    def _tally(self, scheme: str) -> list[int]:
        """Selected items, over-budget items, triggers of a scheme's earlier runs."""
        return self._tallies.setdefault(scheme, [0, 0, 0])

    def _message_name(self, message: int) -> str:
        record = self.manifest.messages[message]
        return f"{self.manifest.buses[record.bus]}.{record.name}"

    def _end(self, out: Gather) -> Collected:
        collected = out.collected(self.schemes)
        for block in collected.blocks:
            if block.scheme != VEHICLE:
                self._tally(self.schemes[block.scheme].id)[0] += block.items
        for index, items in out.over_budget.items():
            if 0 <= index < len(self.schemes):
                self._tally(self.schemes[index].id)[1] += items
        return collected


def _stream_number(scheme: Scheme) -> int:
    return int(scheme.priority) + 3 * int(scheme.upload)


def _first_of_stream(sample: NDArray[np.intp], stream: NDArray[np.intp]) -> NDArray[np.intp]:
    """Of pairs that would put the same sample into the same stream, the first."""
    first: NDArray[np.intp] = np.unique(sample * 8 + stream, return_index=True)[1]
    first.sort()
    return first


def _samples_of(
    key: tuple[int, bool], time_ns: NDArray[np.int64], decoded: Decoded, quality: NDArray[np.uint8] | None
) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]:
    """Frame, time and raw value of a condition's input in a batch."""
    signal, valid_only = key
    chosen = np.flatnonzero(decoded.signal == signal)
    if valid_only and quality is not None:
        chosen = chosen[quality[decoded.frame[chosen]] == 0]
    frame = decoded.frame[chosen].astype(np.intp)
    return frame, time_ns[frame], decoded.raw[chosen]
