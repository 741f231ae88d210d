"""A scheme in words, and why a signal was or was not sent on a recorded log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec
import numpy as np

from dbc.decode import Decoder
from dbc.frames import FrameBatch
from dbc.manifest import Manifest
from gateway.collect.filters import kernel_filters
from gateway.collect.names import Names
from gateway.collect.resolve import Rule, Scheme
from gateway.collect.selector import Selector
from gateway.wire.samples import EventKind

_MS = 1_000_000
_MAX_NAMES = 6


def words(scheme: Scheme, manifest: Manifest) -> list[str]:
    """The scheme as sentences, one a line."""
    lines = [f"{scheme.id} version {scheme.version}" + (f": {scheme.description}" if scheme.description else "")]
    how = {0: "within 5 s", 1: "in batches of about 60 s", 2: "when the link is free"}[int(scheme.priority)]
    link = "over any link" if scheme.upload == 0 else "over Wi-Fi only"
    lines.append(f"  priority {scheme.priority.name.lower()}: to the cloud {how}, {link}")
    lines.append(f"  times are kept to {scheme.resolution_ns / _MS:g} ms")
    if scheme.trigger is None:
        lines.append("  collects all the time:")
    else:
        trigger = scheme.trigger
        verb = "becomes true" if trigger.edge == "rising" else "is true"
        text = " ".join(trigger.condition.text.split())
        lines.append(f"  triggers when {text!r} {verb}, at most every {_ms(trigger.min_interval_ns)}")
        if trigger.stale_ns:
            lines.append(f"    signals older than {_ms(trigger.stale_ns)} are unknown to it")
        lines.append(f"  collects from {_ms(trigger.pre_ns)} before to {_ms(trigger.post_ns)} after a trigger:")
    groups: dict[str, list[int]] = {}
    for rule in scheme.rules:
        groups.setdefault(rule_words(rule), []).append(rule.signal)
    for text, signals in groups.items():
        names = ", ".join(manifest.signal_names[s] for s in signals[:_MAX_NAMES])
        more = f" and {len(signals) - _MAX_NAMES} more" if len(signals) > _MAX_NAMES else ""
        lines.append(f"    {len(signals)} signal{'s' if len(signals) > 1 else ''} {text}: {names}{more}")
    if scheme.raw_ranges:
        lines.append("    raw frames: " + ", ".join(_range_words(low, high, manifest) for low, high in _few(scheme)))
    if not scheme.rules and not scheme.raw_ranges:
        lines.append("    nothing but the event of the trigger")
    for bus, wanted in zip(manifest.buses, kernel_filters([scheme], manifest), strict=True):
        needs = "all identifiers" if wanted is None else f"{len(wanted)} identifiers" if wanted else "nothing"
        lines.append(f"  needs of bus {bus}: {needs}")
    return lines


def rule_words(rule: Rule) -> str:
    """When a sample is sent, in words."""
    period = f"at most every {_ms(rule.period_ns)}" if rule.period_ns else ""
    if rule.on_change:
        change = f"when it moved by {rule.dead_band:g} or more" if rule.dead_band else "when its value changes"
        parts = [change, period if not rule.force else ""]
    else:
        parts = [period or "every sample", "and at once when it changes" if rule.force and period else ""]
    if rule.heartbeat_ns:
        parts.append(f"again after {_ms(rule.heartbeat_ns)} without change")
    if rule.validity == "require":
        parts.append("only with right checksum and counter")
    elif rule.validity == "mark":
        parts.append("marked when checksum or counter is wrong")
    if rule.timeout_ns:
        parts.append(f"an event when the message is silent for {_ms(rule.timeout_ns)}")
    return ", ".join(part for part in parts if part)


class SignalStory(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to one signal on a log. ``reasons`` counts the samples that were not sent."""

    name: str
    bus_frames: int  # frames on the signal's bus
    message_frames: int
    samples: int
    sent: int
    triggers: int
    reasons: dict[str, int]
    verdict: str


def story(scheme: Scheme, signal: int, manifest: Manifest, frames: Iterable[FrameBatch]) -> SignalStory:
    """Run the scheme over a log and tell what became of one of its signals."""
    message = manifest.signal_message[signal]
    bus = manifest.messages[message].bus
    selector, decoder = Selector(manifest, [scheme]), Decoder(manifest, [signal])
    bus_frames = message_frames = 0
    times: list[int] = []
    raws: list[int] = []
    sent: Counter[tuple[int, int]] = Counter()
    fired: list[int] = []
    now = 0
    for batch in [*_nonempty(frames), None]:
        if batch is None:
            collected = selector.flush(now)
        else:
            now = int(batch.timestamp_ns.max())
            collected = selector.feed(batch, now)
            decoded = decoder.decode(batch)
            bus_frames += int((batch.bus == bus).sum())
            message_frames += int((decoded.message == message).sum())
            times.extend(batch.timestamp_ns[decoded.frame].tolist())
            raws.extend(decoded.raw.tolist())
        for block in collected.blocks:
            mine = np.flatnonzero(block.samples.signal == signal)
            at = block.samples.row_timestamp_ns[block.samples.row[mine]].tolist()
            sent.update(zip(at, block.samples.raw[mine].tolist(), strict=True))
            fired.extend(e.timestamp_ns for e in block.events if e.kind == EventKind.TRIGGER)
    state = selector.scheme_states(now)[0]
    reasons = _reasons(scheme, signal, times, raws, sent, fired)
    verdict = _verdict(scheme, signal, state.state, bus_frames, message_frames, len(times), sum(sent.values()), fired)
    return SignalStory(
        name=manifest.signal_names[signal],
        bus_frames=bus_frames,
        message_frames=message_frames,
        samples=len(times),
        sent=sum(sent.values()),
        triggers=state.triggers,
        reasons=dict(reasons),
        verdict=verdict,
    )


def _nonempty(frames: Iterable[FrameBatch]) -> Iterator[FrameBatch]:
    return (batch for batch in frames if len(batch))


def _reasons(
    scheme: Scheme, signal: int, times: list[int], raws: list[int], sent: Counter[tuple[int, int]], fired: list[int]
) -> Counter[str]:
    """Why each sample that was not sent was not."""
    reasons: Counter[str] = Counter()
    rule = next((r for r in scheme.rules if r.signal == signal), None)
    trigger = scheme.trigger
    last: tuple[int, int] | None = None
    left = Counter(sent)
    for time, raw in zip(times, raws, strict=True):
        if left[time, raw]:
            left[time, raw] -= 1
            last = (time, raw)
        elif rule is None:
            reasons["not a signal of this scheme"] += 1
        elif trigger is not None and not any(t - trigger.pre_ns <= time <= t + trigger.post_ns for t in fired):
            reasons["no window was open"] += 1
        elif last is not None and rule.on_change and raw == last[1]:
            reasons["unchanged"] += 1
        elif last is not None and rule.period_ns and time - last[0] < rule.period_ns:
            reasons["sooner than min_period_ms"] += 1
        elif rule.dead_band:
            reasons["inside the dead band"] += 1
        elif rule.validity == "require":
            reasons["wrong checksum or counter"] += 1
        else:
            reasons["held back by the rule"] += 1
    return reasons


def _verdict(
    scheme: Scheme,
    signal: int,
    state: str,
    bus_frames: int,
    message_frames: int,
    samples: int,
    sent: int,
    fired: list[int],
) -> str:
    if sent:
        return f"sent {sent} of {samples} samples"
    if all(rule.signal != signal for rule in scheme.rules):
        return "not a signal of this scheme"
    if state != "active":
        return f"the scheme is {state.replace('_', ' ')} at the time of the log"
    if not bus_frames:
        return "the log has no frame of the signal's bus; is the bus named as in the manifest?"
    if not message_frames:
        return "its message is not in the log"
    if not samples:
        return "its message is in the log, but never held the signal: too short, or another multiplexer value"
    if scheme.trigger is not None and not fired:
        return "the trigger never fired"
    return "no sample passed the rule"


def _ms(ns: int) -> str:
    return f"{ns / _MS:g} ms" if ns < 10_000 * _MS else f"{ns / _MS / 1000:g} s"


def _few(scheme: Scheme) -> tuple[tuple[int, int], ...]:
    return scheme.raw_ranges[:12]


def _range_words(low: int, high: int, manifest: Manifest) -> str:
    bus = manifest.buses[low >> 30]
    kind = "29-bit" if low >> 29 & 1 else "11-bit"
    first, last = low & 0x1FFFFFFF, high & 0x1FFFFFFF
    if first == 0 and last in (0x7FF, 0x1FFFFFFF):
        return f"{bus} all {kind}"
    return f"{bus} {first:#x}" + (f"-{last:#x}" if last > first else "") + f" ({kind})"


def find_signal(names: Names, text: str) -> int:
    """A signal by any unique form of its name; ``NameError_`` when there is none."""
    return names.signal(text)
