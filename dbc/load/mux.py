"""Multiplexing: from marks and SG_MUL_VAL_ statements to conditions on selectors.

A signal's conditions are those of its own selector and, because a multiplexed selector is itself only there at times,
those of all selectors above it. So a decoder need not know the tree: all conditions hold, or the signal is absent.
"""

from __future__ import annotations

from collections.abc import Sequence

from dbc.load.model import DefectLog
from dbc.load.parsed import MuxValues, Parsed, RawMessage, RawSignal
from dbc.manifest import MuxBranch

MAX_DEPTH = 16
_MAX = (1 << 63) - 1


def resolve_mux(
    raw: RawMessage, signals: Sequence[RawSignal], parsed: Parsed, log: DefectLog
) -> list[tuple[MuxBranch, ...]]:
    """The conditions of each of ``signals`` (those of ``raw`` that are kept, whose order selectors refer to)."""
    marked = [i for i, s in enumerate(signals) if s.mark.endswith("M")]
    if not marked and not any(s.mark or (raw.key, s.name) in parsed.mux_values for s in signals):
        return [()] * len(signals)
    index: dict[str, int] = {}
    for i, signal in enumerate(signals):
        index.setdefault(signal.name, i)
    root = _root(raw, signals, marked, parsed, log)
    own: list[MuxBranch | None] = []
    for i, signal in enumerate(signals):
        statements = parsed.mux_values.get((raw.key, signal.name), [])
        branch = _stated(raw, signal, index, statements, log)
        own.append(branch or _marked(raw, i, signal, root, log))
    return [_chain(raw, i, signals, own, log) for i in range(len(signals))]


def _root(
    raw: RawMessage, signals: Sequence[RawSignal], marked: list[int], parsed: Parsed, log: DefectLog
) -> int | None:
    """The selector that a bare ``m<n>`` refers to: the only one, or the one that is not multiplexed itself."""
    if len(marked) <= 1:
        return marked[0] if marked else None
    tops = [i for i in marked if signals[i].mark == "M"]
    unclear = [s for s in signals if s.mark.startswith("m") and (raw.key, s.name) not in parsed.mux_values]
    if unclear and len(tops) != 1:
        text = f"{len(tops)} unconditional multiplexors and no SG_MUL_VAL_ to tell whose values {unclear[0].mark} means"
        log.add("ambiguous_multiplexer", unclear[0].line, text, raw.name, unclear[0].name)
    elif any(not s.mark.endswith("M") for s in unclear):
        first = next(s for s in unclear if not s.mark.endswith("M"))
        text = f"several multiplexors and no SG_MUL_VAL_: {first.mark} is taken to mean {signals[tops[0]].name}"
        log.add("ambiguous_multiplexer", first.line, text, raw.name, first.name)
    return tops[0] if tops else marked[0]


def _stated(
    raw: RawMessage, signal: RawSignal, index: dict[str, int], statements: list[MuxValues], log: DefectLog
) -> MuxBranch | None:
    """The condition of SG_MUL_VAL_, None where there is none that can be used."""
    if not statements:
        return None
    last = statements[-1]
    selector = index.get(last.selector)
    if selector is None:
        text = f"SG_MUL_VAL_ names the multiplexor {last.selector}, which is not in the message"
        log.add("unknown_multiplexer", last.line, text, raw.name, signal.name)
        return None
    if any(s.selector != last.selector for s in statements):
        text = f"SG_MUL_VAL_ names several multiplexors; {last.selector} is used"
        log.add("ambiguous_multiplexer", last.line, text, raw.name, signal.name)
    ranges = {r for s in statements if s.selector == last.selector for r in s.ranges}
    value = _mark_value(signal)
    if value is not None and not any(low <= value <= high for low, high in ranges):
        text = f"marked {signal.mark}, but SG_MUL_VAL_ does not name that value; SG_MUL_VAL_ is used"
        log.add("mux_value_mismatch", last.line, text, raw.name, signal.name)
    return MuxBranch(selector, tuple(sorted((min(low, _MAX), min(high, _MAX)) for low, high in ranges)))


def _marked(raw: RawMessage, i: int, signal: RawSignal, root: int | None, log: DefectLog) -> MuxBranch | None:
    """The condition of a mark such as ``m3``."""
    value = _mark_value(signal)
    if value is None:
        return None
    if root is None or root == i:
        text = f"marked {signal.mark}, but the message has no multiplexor for it; decoded in every frame"
        log.add("mux_without_selector", signal.line, text, raw.name, signal.name)
        return None
    return MuxBranch(root, ((value, value),))


def _mark_value(signal: RawSignal) -> int | None:
    digits = signal.mark.removesuffix("M").removeprefix("m")
    return int(digits) if digits else None


def _chain(
    raw: RawMessage, i: int, signals: Sequence[RawSignal], own: Sequence[MuxBranch | None], log: DefectLog
) -> tuple[MuxBranch, ...]:
    """The conditions of signal ``i`` from the top of the tree down."""
    found: list[MuxBranch] = []
    seen = {i}
    branch = own[i]
    while branch is not None:
        found.append(branch)
        if branch.selector in seen:
            text = "the multiplexors depend on each other in a circle; decoded in every frame"
            log.add("multiplexer_cycle", signals[i].line, text, raw.name, signals[i].name)
            return ()
        if len(found) > MAX_DEPTH:
            text = f"more than {MAX_DEPTH} multiplexors above one another; decoded in every frame"
            log.add("multiplexer_too_deep", signals[i].line, text, raw.name, signals[i].name)
            return ()
        seen.add(branch.selector)
        branch = own[branch.selector]
    return tuple(reversed(found))
