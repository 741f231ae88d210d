"""Which samples are worth sending: period, on change, dead band, heartbeat, for all rules of a batch at once.

Theory of operation. Each rule remembers what it last sent. The samples of a batch are grouped by rule with one stable
radix sort. Three kinds of rules exist:

* *every*: no period, not on change. All samples go.
* *change*: on change with no dead band, and no period that could hold a change back. A sample goes when it differs from
  the one before it; that is one comparison of neighbours, because everything not sent equalled the last one sent.
* *stepwise*: all others. What goes depends on what went, so they advance from one sent sample to the next, all rules
  together (``_leap_…``); dead bands, steps back in time and changes of quality walk sample by sample (``_walk``), which
  is also the plain statement of the semantics (``steps.Step``).

A period is kept on average: after a sample was due, the next is due one period after the last *due time*, but not
sooner than half a period after the sample. A 10 ms message under ``min_period_ms = 10`` is therefore sent whole
although its jitter makes every other gap shorter than 10 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gateway.collect.resolve import Rule
from gateway.collect.scaling import Scaling
from gateway.collect.steps import Clock, Group, Step, all_due, disordered, group_by_rule, spread

_ZERO = np.zeros(1, np.intp)
_EVERY, _CHANGE, _STEPWISE = 0, 1, 2
_NEVER = 1 << 62
_FEW = 48  # below this many samples walking is cheaper than array operations


class Picker:
    """The rules of one or several schemes with what each last sent.

    Args:
        rules: numbered by their place.
        scaling: for dead bands, which are in physical units.
        factors: per rule, how much coarser than written: periods and dead bands are multiplied. 1 is as written.
        coarse_period_ns: the period that a rule without one gets when its factor is above 1.
    """

    def __init__(
        self, rules: Sequence[Rule], scaling: Scaling, factors: Sequence[int] | None = None, coarse_period_ns: int = 0
    ) -> None:
        self.rules = tuple(rules)
        count = len(self.rules)
        self._scaling = scaling
        self._signal = np.array([r.signal for r in rules], np.intp)
        self._key = np.uint16 if count <= 0xFFFF else np.uint32
        self.last_raw = np.zeros(count, np.int64)
        self.last_time = np.zeros(count, np.int64)
        self.last_quality = np.zeros(count, np.uint8)
        self.next_due = np.zeros(count, np.int64)
        self.seen = np.zeros(count, np.bool_)
        self._marked = False  # some last_quality is not 0
        self.set_factors(factors or [1] * count, coarse_period_ns)

    def set_factors(self, factors: Sequence[int], coarse_period_ns: int) -> None:
        """Make rules coarser or as written again; what was sent is remembered."""
        periods, bands, beats, kinds, forces = [], [], [], [], []
        for rule, factor in zip(self.rules, factors, strict=True):
            period = rule.period_ns if factor == 1 else max(rule.period_ns, coarse_period_ns) * factor
            force = rule.force and factor == 1
            periods.append(period)
            forces.append(force)
            bands.append(rule.dead_band * factor)
            beats.append(rule.heartbeat_ns * factor or _NEVER)
            if not rule.on_change and period == 0:
                kinds.append(_EVERY)
            elif rule.on_change and rule.dead_band == 0 and (period == 0 or force) and not rule.heartbeat_ns:
                kinds.append(_CHANGE)
            else:
                kinds.append(_STEPWISE)
        self._period = np.array(periods, np.int64)
        self._band = np.array(bands, np.float64)
        self._beat = np.array(beats, np.int64)
        self._force = np.array(forces, np.bool_)
        self._on_change = np.array([r.on_change for r in self.rules], np.bool_)
        self._kind = np.array(kinds, np.uint8)
        self._all_change = all(kind == _CHANGE for kind in kinds)
        self._any_stepwise = any(kind == _STEPWISE for kind in kinds)
        self._all_every = all(kind == _EVERY for kind in kinds)
        self._any_every = any(kind == _EVERY for kind in kinds)

    def forget(self) -> None:
        """The next sample of every rule is a first one."""
        self.seen[:] = False

    def adopt(self, other: Picker, mapping: Sequence[tuple[int, int]]) -> None:
        """Continue rules of another picker: ``(own number, number there)``."""
        if not mapping:
            return
        own, there = (np.array(side, np.intp) for side in zip(*mapping, strict=True))
        for name in ("last_raw", "last_time", "last_quality", "next_due", "seen"):
            getattr(self, name)[own] = getattr(other, name)[there]
        self._marked = bool(self.last_quality.any())

    def pick(
        self,
        rule: NDArray[np.intp],
        time: NDArray[np.int64],
        raw: NDArray[np.int64],
        quality: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.bool_]:
        """Which of these samples to send, given in order of reception; remembers them as sent.

        Args:
            rule: the rule each sample is offered to.
            quality: None when all are good.
        """
        if not len(rule):
            return np.zeros(0, np.bool_)
        order = np.argsort(rule.astype(self._key), kind="stable")
        marks = None if quality is None else quality.take(order)
        group = group_by_rule(rule.take(order), time.take(order), raw.take(order), marks)
        send = self._changed(group)
        if not self._all_change:
            if self._any_every:
                send |= self._kind[group.rule] == _EVERY
            if self._any_stepwise:
                self._stepwise(group, send)
        self._remember(group, send)
        picked = np.empty(len(send), np.bool_)
        picked[order] = send
        return picked

    @property
    def is_uniform(self) -> bool:
        """All rules are of the *every* kind or all are of the *change* kind, and no bad sample was sent last."""
        return self._all_every or (self._all_change and not self._marked)

    def pick_uniform(
        self,
        rule: NDArray[np.uint16],
        raw: NDArray[np.int64],
        frame: NDArray[np.int32],
        time_ns: NDArray[np.int64],
    ) -> NDArray[np.intp]:
        """``pick`` for the commonest schemes, for good samples; only while ``is_uniform``.

        Args:
            rule, raw, frame: of each sample.
            time_ns: of each frame.

        Returns:
            The samples to send, ascending.
        """
        if self._all_every or not len(rule):
            return np.arange(len(rule))
        order = rule.argsort(kind="stable")
        rule, raw = rule.take(order), raw.take(order)
        borders = np.flatnonzero(rule[1:] != rule[:-1])
        starts = np.concatenate([_ZERO, borders + 1])
        ends = np.append(borders, len(rule) - 1)
        changed = np.empty(len(raw), np.bool_)
        np.not_equal(raw[1:], raw[:-1], out=changed[1:])
        segment = rule.take(starts).astype(np.intp)
        changed[starts] = (raw.take(starts) != self.last_raw.take(segment)) | ~self.seen.take(segment)
        self.last_raw[segment] = raw.take(ends)
        self.last_time[segment] = time_ns.take(frame.take(order.take(ends)))
        self.seen[segment] = True
        picked = np.empty(len(raw), np.bool_)
        picked[order] = changed
        return np.flatnonzero(picked)

    def _changed(self, group: Group) -> NDArray[np.bool_]:
        """Which samples differ from their predecessor, the first of each rule from the last one sent."""
        raw, starts = group.raw, group.starts
        first = group.rule[starts]
        changed = np.empty(len(raw), np.bool_)
        np.not_equal(raw[1:], raw[:-1], out=changed[1:])
        changed[starts] = (raw[starts] != self.last_raw[first]) | ~self.seen[first]
        if group.quality is not None:
            quality = group.quality
            differs = np.empty(len(raw), np.bool_)
            np.not_equal(quality[1:], quality[:-1], out=differs[1:])
            differs[starts] = quality[starts] != self.last_quality[first]
            changed |= differs
        elif self._marked:
            changed[starts] |= self.last_quality[first] != 0
        return changed

    def _remember(self, group: Group, send: NDArray[np.bool_]) -> None:
        """Keep the last sent sample of each rule. ``next_due`` of stepwise rules is kept by them."""
        sent = np.flatnonzero(send)
        rule = group.rule[sent]
        last = np.flatnonzero(np.append(rule[1:] != rule[:-1], True)) if len(rule) else sent
        at, rule = sent[last], rule[last]
        self.last_raw[rule] = group.raw[at]
        self.last_time[rule] = group.time[at]
        if group.quality is not None or self._marked:
            self.last_quality[rule] = 0 if group.quality is None else group.quality[at]
            self._marked = bool(self.last_quality.any())
        self.seen[rule] = True

    def _stepwise(self, group: Group, send: NDArray[np.bool_]) -> None:
        """Decide the samples of stepwise rules; ``send`` holds the changes and is overwritten for them."""
        segment = np.flatnonzero(self._kind[group.rule[group.starts]] == _STEPWISE)
        if not len(segment):
            return
        changed = send.copy()
        send[self._kind[group.rule] == _STEPWISE] = False
        rule = group.rule[group.starts[segment]]
        ordered = ~disordered(group, segment) & (
            ~self.seen[rule] | (group.time[group.starts[segment]] >= self.last_time[rule])
        )
        loud = ~(ordered & self._quiet(group, segment, rule, changed))
        segment, rule, ordered = segment[loud], rule[loud], ordered[loud]
        if group.quality is not None and len(segment):
            ordered &= np.maximum.reduceat(group.quality, group.starts)[segment] == 0
        if self._marked:
            ordered &= self.last_quality[rule] == 0
        leaps = ordered & (self._band[rule] == 0)
        if int((group.ends[segment] - group.starts[segment]).sum()) <= _FEW:
            leaps[:] = False
        periodic = leaps & ~self._on_change[rule] & ~self._force[rule]
        self._leap_periods(group, segment[periodic], send)
        self._leap_changes(group, segment[leaps & ~periodic], changed, send)
        self._walk(group, segment[~leaps], changed, send)

    def _quiet(
        self, group: Group, segment: NDArray[np.intp], rule: NDArray[np.intp], changed: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Rules (with times in order) that surely send nothing: no heartbeat, and nothing changed or nothing is due."""
        last = group.time[group.ends[segment] - 1]
        same = ~np.logical_or.reduceat(changed, group.starts)[segment]
        early = last < self.next_due[rule]
        calm = (early & (same | ~self._force[rule])) | (self._on_change[rule] & same)
        quiet: NDArray[np.bool_] = self.seen[rule] & (last - self.last_time[rule] < self._beat[rule]) & calm
        return quiet

    def _leap_periods(self, group: Group, segment: NDArray[np.intp], send: NDArray[np.bool_]) -> None:
        """Rules with a period alone: from one due sample to the next, all rules together."""
        if not len(segment):
            return
        rule = group.rule[group.starts[segment]]
        fresh = segment[~self.seen[rule]]
        if len(fresh):  # the first sample ever goes, and the clock starts with it
            at = group.starts[fresh]
            send[at] = True
            self.next_due[group.rule[at]] = group.time[at] + self._period[group.rule[at]]
        at, end = group.starts[segment] + ~self.seen[rule], group.ends[segment]
        due, period = self.next_due[rule], self._period[rule]
        whole = all_due(group.time, at, end, due, period)
        if whole is not None:
            chosen, due_after = whole
            send[spread(at[chosen], end[chosen])] = True
            self.next_due[rule[chosen]] = due_after
            rest = ~chosen
            at, end, due, period, rule, segment = (x[rest] for x in (at, end, due, period, rule, segment))
        clock = Clock(group)
        while len(at):
            target = clock.seek(segment, due, at)
            more = target < end
            if not more.all():
                self.next_due[rule[~more]] = due[~more]
                at, end, due, period, rule, segment, target = (
                    x[more] for x in (at, end, due, period, rule, segment, target)
                )
            send[target] = True
            now = group.time[target]
            due = np.maximum(due + period, now + (period >> 1))
            at = target + 1

    def _leap_changes(
        self, group: Group, segment: NDArray[np.intp], changed: NDArray[np.bool_], send: NDArray[np.bool_]
    ) -> None:
        """Rules on change, or with forced changes, with no dead band: from one sent sample to the next."""
        if not len(segment):
            return
        count = len(group.time)
        clock = Clock(group)
        marks = np.where(changed, np.arange(count), count)
        next_change = np.append(np.minimum.accumulate(marks[::-1])[::-1], count)
        rule = group.rule[group.starts[segment]]
        at, end = group.starts[segment], group.ends[segment]
        due, last_time, last_raw = self.next_due[rule], self.last_time[rule], self.last_raw[rule]
        fresh = ~self.seen[rule]
        on_change, force = self._on_change[rule], self._force[rule]
        period, beat = self._period[rule], self._beat[rule]
        forced, beating = bool(force.any()), bool((beat < _NEVER).any())

        while len(at):
            when_due = clock.seek(segment, due, at)
            target = np.where(on_change, _change_from(when_due, last_raw, group.raw, next_change), when_due)
            if forced:
                soon = np.minimum(target, _change_from(at, last_raw, group.raw, next_change))
                target = np.where(force, soon, target)
            if beating:
                target = np.minimum(target, clock.seek(segment, last_time + beat, at))
            target = np.where(fresh, at, target)
            more = target < end
            if not more.all():
                self.next_due[rule[~more]] = due[~more]
                end, rule, segment, target = end[more], rule[more], segment[more], target[more]
                due, fresh, on_change, force = due[more], fresh[more], on_change[more], force[more]
                period, beat = period[more], beat[more]
            send[target] = True
            now = group.time[target]
            in_step = ~fresh & (now >= due)
            due = np.where(in_step, np.maximum(due + period, now + (period >> 1)), now + period)
            last_time, last_raw = now, group.raw[target]
            fresh = np.zeros(len(target), np.bool_)
            at = target + 1

    def _walk(
        self, group: Group, segment: NDArray[np.intp], changed: NDArray[np.bool_], send: NDArray[np.bool_]
    ) -> None:
        """The semantics, sample by sample."""
        if not len(segment):
            return
        first = group.rule[group.starts[segment]]
        # Where only the dead band decides, a sample equal to its predecessor cannot be sent.
        bare = self.seen[first] & (self._band[first] > 0) & (self._period[first] == 0) & (self._beat[first] == _NEVER)
        place = spread(group.starts[segment], group.ends[segment])
        if bare.any():
            place = place[changed[place] | ~np.repeat(bare, group.ends[segment] - group.starts[segment])]
        if not len(place):
            return
        rules = group.rule[place]
        signals = self._signal[rules]
        values = self._scaling.physical(signals, group.raw[place]).tolist()
        marks = [0] * len(place) if group.quality is None else group.quality[place].tolist()
        times, raws, places = group.time[place].tolist(), group.raw[place].tolist(), place.tolist()
        sent: list[int] = []
        borders = [0, *(np.flatnonzero(rules[1:] != rules[:-1]) + 1).tolist(), len(place)]
        for start, end in pairwise(borders):
            step = self._step(int(rules[start]))
            for i in range(start, end):
                if step.wants(times[i], raws[i], values[i], marks[i]):
                    sent.append(places[i])
            self.next_due[step.rule] = step.due
        send[sent] = True

    def _step(self, rule: int) -> Step:
        """The memory of one rule in plain numbers."""
        last = self._scaling.physical(self._signal[rule : rule + 1], self.last_raw[rule : rule + 1])
        return Step(
            rule=rule,
            period=int(self._period[rule]),
            band=float(self._band[rule]),
            beat=int(self._beat[rule]),
            on_change=bool(self._on_change[rule]),
            force=bool(self._force[rule]),
            seen=bool(self.seen[rule]),
            due=int(self.next_due[rule]),
            time=int(self.last_time[rule]),
            raw=int(self.last_raw[rule]),
            value=float(last[0]),
            mark=int(self.last_quality[rule]),
        )


def _change_from(
    position: NDArray[np.intp], last_raw: NDArray[np.int64], raw: NDArray[np.int64], next_change: NDArray[np.intp]
) -> NDArray[np.intp]:
    """The first sample, from ``position``, whose value is not the last one sent."""
    count = len(raw)
    inside = np.minimum(position, count - 1)
    return np.where(raw[inside] != last_raw, position, next_change[np.minimum(position + 1, count)])
