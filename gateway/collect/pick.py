"""Which samples are worth sending: period, on change, dead band, heartbeat, for all rules of a batch at once.

Theory of operation. Each rule remembers what it last sent. The samples of a batch are grouped by rule with one stable
radix sort. Three kinds of rules exist:

* *every*: no period, not on change. All samples go.
* *change*: on change with no dead band, and no period that could hold a change back. A sample goes when it differs from
  the one before it; that is one comparison of neighbours, because everything not sent equalled the last one sent.
* *stepwise*: all others. What goes depends on what went, so they advance from one sent sample to the next, all rules
  together (``_leap``); dead bands, steps back in time and changes of quality walk sample by sample (``_walk``), which
  is also the plain statement of the semantics.

A period is kept on average: after a sample was due, the next is due one period after the last *due time*, but not
sooner than half a period after the sample. A 10 ms message under ``min_period_ms = 10`` is therefore sent whole
although its jitter makes every other gap shorter than 10 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbc.decode import Decoded
from gateway.collect.resolve import Rule
from gateway.collect.scaling import Scaling

_ZERO = np.zeros(1, np.intp)
_EVERY, _CHANGE, _STEPWISE = 0, 1, 2
_NEVER = 1 << 62
_MAX_SPAN_NS = 10**13  # longer batches (a clock jump inside) walk
_FEW = 48  # below this many samples walking is cheaper than array operations


@dataclass(frozen=True, slots=True)
class _Group:
    """The samples of a batch sorted by rule, and where each rule's begin."""

    rule: NDArray[np.intp]
    time: NDArray[np.int64]
    raw: NDArray[np.int64]
    quality: NDArray[np.uint8] | None
    starts: NDArray[np.intp]
    ends: NDArray[np.intp]


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
        group = _group(rule.take(order), time.take(order), raw.take(order), marks)
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

    def pick_changes(
        self, rule: NDArray[np.uint16], decoded: Decoded, time_ns: NDArray[np.int64]
    ) -> NDArray[np.intp] | None:
        """``pick`` for the commonest case, when all rules are of the *change* kind and all samples are good and wanted.

        Args:
            rule: of each sample of ``decoded``.
            time_ns: of each frame.

        Returns:
            The samples to send, ascending; None when this is not that case and nothing was done.
        """
        if not self._all_change or self._marked:
            return None
        if not len(rule):
            return np.zeros(0, np.intp)
        order = rule.argsort(kind="stable")
        rule, raw = rule.take(order), decoded.raw.take(order)
        if rule[-1] >= len(self.rules):
            return None
        borders = np.flatnonzero(rule[1:] != rule[:-1])
        starts = np.concatenate([_ZERO, borders + 1])
        ends = np.append(borders, len(rule) - 1)
        changed = np.empty(len(raw), np.bool_)
        np.not_equal(raw[1:], raw[:-1], out=changed[1:])
        segment = rule.take(starts).astype(np.intp)
        changed[starts] = (raw.take(starts) != self.last_raw.take(segment)) | ~self.seen.take(segment)
        self.last_raw[segment] = raw.take(ends)
        self.last_time[segment] = time_ns.take(decoded.frame.take(order.take(ends)))
        self.seen[segment] = True
        picked = np.empty(len(raw), np.bool_)
        picked[order] = changed
        return np.flatnonzero(picked)

    def _changed(self, group: _Group) -> NDArray[np.bool_]:
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

    def _remember(self, group: _Group, send: NDArray[np.bool_]) -> None:
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

    def _stepwise(self, group: _Group, send: NDArray[np.bool_]) -> None:
        """Decide the samples of stepwise rules; ``send`` holds the changes and is overwritten for them."""
        segment = np.flatnonzero(self._kind[group.rule[group.starts]] == _STEPWISE)
        if not len(segment):
            return
        changed = send.copy()
        send[self._kind[group.rule] == _STEPWISE] = False
        rule = group.rule[group.starts[segment]]
        total = int((group.ends[segment] - group.starts[segment]).sum())
        if total <= _FEW:
            walk = segment
        else:
            odd = self._band[rule] > 0
            odd |= self._disordered(group, segment, rule)
            if group.quality is not None:
                odd |= np.maximum.reduceat(group.quality, group.starts)[segment] != 0
            odd |= self.last_quality[rule] != 0
            self._leap(group, segment[~odd], changed, send)
            walk = segment[odd & ~self._still(group, segment, rule, changed)]
        for number in walk.tolist():
            self._walk(group, int(group.starts[number]), int(group.ends[number]), send)

    def _disordered(self, group: _Group, segment: NDArray[np.intp], rule: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Rules whose samples step back in time, or all of them when the batch spans more than arithmetic bears."""
        if int(group.time.max()) - int(group.time.min()) > _MAX_SPAN_NS:
            return np.ones(len(segment), np.bool_)
        back = np.zeros(len(group.time), np.bool_)
        np.less(group.time[1:], group.time[:-1], out=back[1:])
        back[group.starts] = False
        disordered: NDArray[np.bool_] = np.logical_or.reduceat(back, group.starts)[segment]
        return disordered | (self.seen[rule] & (group.time[group.starts[segment]] < self.last_time[rule]))

    def _still(
        self,
        group: _Group,
        segment: NDArray[np.intp],
        rule: NDArray[np.intp],
        changed: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Dead-band rules that surely send nothing: nothing changed at all and no heartbeat is near."""
        moved = np.logical_or.reduceat(changed, group.starts)[segment]
        last = group.time[group.ends[segment] - 1]
        first = group.time[group.starts[segment]]
        calm = (last - self.last_time[rule] < self._beat[rule]) & (first >= self.last_time[rule]) & (last >= first)
        return self.seen[rule] & ~moved & calm & ~self._disordered(group, segment, rule) & self._on_change[rule]

    def _leap(
        self, group: _Group, segment: NDArray[np.intp], changed: NDArray[np.bool_], send: NDArray[np.bool_]
    ) -> None:
        """Advance all given rules from one sent sample to the next at once. Times within a rule do not step back."""
        if not len(segment):
            return
        count = len(group.time)
        base = int(group.time.min())
        span = int(group.time.max()) - base + 2
        ordinal = np.zeros(count, np.int64)
        ordinal[group.starts[1:]] = 1
        ordinal = np.cumsum(ordinal)
        clock = ordinal * span + (group.time - base)
        marks = np.where(changed, np.arange(count), count)
        next_change = np.append(np.minimum.accumulate(marks[::-1])[::-1], count)

        rule = group.rule[group.starts[segment]]
        at, end = group.starts[segment].copy(), group.ends[segment]
        due, last_time, last_raw = self.next_due[rule].copy(), self.last_time[rule].copy(), self.last_raw[rule].copy()
        fresh = ~self.seen[rule]
        on_change, force = self._on_change[rule], self._force[rule]
        period, beat = self._period[rule], self._beat[rule]

        def seek(target: NDArray[np.int64], position: NDArray[np.intp]) -> NDArray[np.intp]:
            """The first sample of each rule, from ``position``, that is not before ``target``."""
            wanted = segment * span + np.clip(target - base, 0, span - 1)
            return np.maximum(np.searchsorted(clock, wanted), position)

        def change_from(position: NDArray[np.intp]) -> NDArray[np.intp]:
            """The first sample, from ``position``, whose value is not the last one sent."""
            inside = np.minimum(position, count - 1)
            return np.where(group.raw[inside] != last_raw, position, next_change[np.minimum(position + 1, count)])

        while len(at):
            when_due = seek(due, at)
            target = np.where(on_change, change_from(when_due), when_due)
            if force.any():
                target = np.where(force, np.minimum(target, change_from(at)), target)
            target = np.minimum(target, seek(np.minimum(last_time, _NEVER) + beat, at))
            target = np.where(fresh, at, target)
            more = target < end
            if not more.all():
                done = rule[~more]
                self.next_due[done] = due[~more]
                at, end, rule, segment, target = at[more], end[more], rule[more], segment[more], target[more]
                due, fresh, on_change, force = due[more], fresh[more], on_change[more], force[more]
                period, beat = period[more], beat[more]
            if not len(at):
                return
            send[target] = True
            now = group.time[target]
            due = np.where(~fresh & (now >= due), np.maximum(due + period, now + period // 2), now + period)
            last_time, last_raw = now, group.raw[target]
            fresh = np.zeros(len(at), np.bool_)
            at = target + 1

    def _walk(self, group: _Group, start: int, end: int, send: NDArray[np.bool_]) -> None:
        """The semantics, sample by sample, for one rule."""
        rule = int(group.rule[start])
        times, raws = group.time[start:end].tolist(), group.raw[start:end].tolist()
        marks = [0] * len(times) if group.quality is None else group.quality[start:end].tolist()
        band, period, beat = float(self._band[rule]), int(self._period[rule]), int(self._beat[rule])
        on_change, force = bool(self._on_change[rule]), bool(self._force[rule])
        seen, last_time, due = bool(self.seen[rule]), int(self.last_time[rule]), int(self.next_due[rule])
        last_raw, last_mark = int(self.last_raw[rule]), int(self.last_quality[rule])
        values: list[float] = []
        last_value = 0.0
        if band > 0:
            signal = self._signal[rule : rule + 1]
            values = self._scaling.physical(signal.repeat(end - start), group.raw[start:end]).tolist()
            last_value = float(self._scaling.physical(signal, self.last_raw[rule : rule + 1])[0])
        for i, (now, raw, mark) in enumerate(zip(times, raws, marks, strict=True)):
            is_due = now >= due or now < last_time
            if seen:
                differs = raw != last_raw
                if differs and band > 0:
                    differs = not abs(values[i] - last_value) < band  # a NaN on one side is a difference
                differs = differs or mark != last_mark
                beats = now - last_time >= beat
                if not (beats or (differs and (is_due or force)) or (is_due and not on_change)):
                    continue
            send[start + i] = True
            in_step = seen and due <= now and now >= last_time
            due = max(due + period, now + period // 2) if in_step else now + period
            seen, last_time, last_raw, last_mark = True, now, raw, mark
            if band > 0:
                last_value = values[i]
        self.next_due[rule] = due


def _group(
    rule: NDArray[np.intp], time: NDArray[np.int64], raw: NDArray[np.int64], quality: NDArray[np.uint8] | None
) -> _Group:
    borders = np.flatnonzero(rule[1:] != rule[:-1]) + 1
    starts = np.concatenate([_ZERO, borders])
    ends = np.append(borders, len(rule))
    return _Group(rule, time, raw, quality, starts, ends)
