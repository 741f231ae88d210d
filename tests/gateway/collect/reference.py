"""The selection rules once more, slow and plain: one frame at a time, no arrays, written from the documentation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from dbc.frames import ERROR, FrameBatch
from gateway.collect import Scheme
from gateway.collect.resolve import Rule
from tests.gateway.collect.vehicle import COUNTER, DOOR, GEAR, LEVEL, SPEED, TEMPERATURE

Sample = tuple[int, int, int]  # frame number, signal, raw
SCALE = {SPEED: 0.5}


def decode(frames: FrameBatch, i: int) -> dict[int, int] | None:
    """Raw values of one frame of the small vehicle; None when it is unknown."""
    key = (int(frames.bus[i]), int(frames.can_id[i]))
    data = frames.data[i].tobytes()
    if frames.flags[i]:
        return None
    if key == (0, 0x100):
        word = int.from_bytes(data[:8], "little")
        return {SPEED: word & 0xFFFF, GEAR: word >> 16 & 0xF, COUNTER: word >> 20 & 0xF}
    if key == (1, 0x200):
        return {DOOR: data[0]}
    if key == (1, 0x201):
        return {
            LEVEL: int.from_bytes(data[:1], "little", signed=True),
            TEMPERATURE: int.from_bytes(data[4:8], "little"),
        }
    return None


@dataclass
class RuleMemory:
    """What one rule last sent."""

    rule: Rule
    sent: tuple[int, int] | None = None  # time, raw
    due: int = 0

    def wants(self, now: int, raw: int) -> bool:
        """The documented semantics."""
        rule = self.rule
        if self.sent is None:
            self.sent, self.due = (now, raw), now + rule.period_ns
            return True
        then, before = self.sent
        elapsed = now - then
        differs = raw != before
        if differs and rule.dead_band:
            distance = abs(raw - before) * SCALE.get(rule.signal, 1.0)
            differs = distance >= rule.dead_band
        is_due = now >= self.due or elapsed < 0
        beat = rule.heartbeat_ns > 0 and elapsed >= rule.heartbeat_ns
        if not (beat or (differs and (is_due or rule.force)) or (is_due and not rule.on_change)):
            return False
        if now >= self.due and elapsed >= 0:
            self.due = max(self.due + rule.period_ns, now + rule.period_ns // 2)
        else:
            self.due = now + rule.period_ns
        self.sent = (now, raw)
        return True


@dataclass
class Reference:
    """One scheme over the frames of a whole drive.

    ``holds`` is the trigger's condition as a Python function of the latest values (missing keys: not seen yet).
    """

    scheme: Scheme
    holds: Callable[[dict[int, float]], bool] | None = None
    samples: list[Sample] = field(default_factory=list)
    fired: list[int] = field(default_factory=list)

    def run(self, frames: FrameBatch) -> None:
        """Fill ``samples`` with what must be sent, in order of reception."""
        times = frames.timestamp_ns.tolist()
        decoded = [decode(frames, i) for i in range(len(frames))]
        windows = [(-math.inf, math.inf)] if self.holds is None else self._windows(times, decoded)
        wanted = {rule.signal: rule for rule in self.scheme.rules}
        for start, end in windows:
            memory = {signal: RuleMemory(rule) for signal, rule in wanted.items()}
            for i, values in enumerate(decoded):
                if start <= times[i] <= end:
                    for signal, raw in sorted((values or {}).items()):
                        if signal in memory and memory[signal].wants(times[i], raw):
                            self.samples.append((i, signal, raw))

    def _windows(self, times: list[int], decoded: list[dict[int, int] | None]) -> list[tuple[float, float]]:
        trigger = self.scheme.trigger
        assert trigger is not None
        assert self.holds is not None
        seen: dict[int, float] = {}
        held = False
        windows: list[tuple[float, float]] = []
        for i, values in enumerate(decoded):
            if not values or not set(values) & set(trigger.condition.inputs):
                continue
            seen.update({s: raw * SCALE.get(s, 1.0) for s, raw in values.items()})
            now_holds = self.holds(seen)
            candidate = now_holds and (trigger.edge == "level" or not held)
            held = now_holds
            if not candidate or (self.fired and times[i] - self.fired[-1] < trigger.min_interval_ns):
                continue
            self.fired.append(times[i])
            start, end = times[i] - trigger.pre_ns, times[i] + trigger.post_ns
            if windows and start <= windows[-1][1]:
                windows[-1] = (windows[-1][0], max(windows[-1][1], end))
            else:
                windows.append((start, end))
        return windows


def outcome_of(frames: FrameBatch, i: int) -> str:
    """What a frame counts as when nothing of it is selected."""
    if frames.flags[i] & ERROR:
        return "errors"
    return "undecodable" if decode(frames, i) is None else "not_selected"
