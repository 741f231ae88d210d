"""Rules applied to decoded samples: validity first, then the picker, and what a short budget refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dbc.decode import Decoded
from gateway.collect.pick import Picker
from gateway.collect.resolve import Rule
from gateway.collect.scaling import Scaling
from gateway.wire.samples import OUT_OF_RANGE

_NO_RULE = 0xFFFF
_NONE = np.zeros(0, np.intp)


class Offered(NamedTuple):
    """The samples to send and the rule that wants each, in order of reception; ``refused`` names
    the rule of each sample that only a coarser rule left out."""

    sample: NDArray[np.intp]
    rule: NDArray[np.intp]
    quality: NDArray[np.uint8] | None
    refused: NDArray[np.intp]


class RuleSet:
    """Rules over the signals of a manifest; a signal may have several.

    Args:
        rules: numbered by their place; where several want the same signal they are asked in this order.
        signal_count: of the manifest.
    """

    def __init__(self, rules: Sequence[Rule], scaling: Scaling, signal_count: int) -> None:
        self.rules = tuple(rules)
        self.picker = Picker(rules, scaling)
        self._shadow: Picker | None = None
        self._scaling = scaling
        self._factors = [1] * len(rules)
        signal = np.array([r.signal for r in rules], np.intp)
        self._rule = np.argsort(signal, kind="stable")
        self._count = np.bincount(signal, minlength=signal_count)
        self._first = np.cumsum(self._count) - self._count
        self._single = bool((self._count <= 1).all())
        self._rule_of = np.full(signal_count, _NO_RULE, np.uint16)
        fits = self._single and len(rules) < _NO_RULE
        if fits:
            self._rule_of[signal] = np.arange(len(rules))
        self._uses_quality = np.array([r.validity != "ignore" for r in rules], np.bool_)
        self._requires = np.array([r.validity == "require" for r in rules], np.bool_)
        self._ranged = np.array([r.check_range for r in rules], np.bool_)
        self._any_quality = bool(self._uses_quality.any())
        self._any_range = bool(self._ranged.any())
        self._quick = fits and not self._any_quality and not self._any_range

    def set_factors(self, factors: Sequence[int], coarse_period_ns: int) -> None:
        """Make rules coarser (or as written again). While any is coarser, what it refuses is counted."""
        if list(factors) == self._factors:
            return
        if all(factor == 1 for factor in factors):
            self._shadow = None
        elif self._shadow is None:
            self._shadow = Picker(self.rules, self._scaling)
            self._shadow.adopt(self.picker, [(i, i) for i in range(len(self.rules))])
        self._factors = list(factors)
        self.picker.set_factors(factors, coarse_period_ns)

    def forget(self) -> None:
        """Start anew: the next sample of each rule is a first one."""
        self.picker.forget()
        if self._shadow is not None:
            self._shadow.forget()

    def offer(
        self,
        decoded: Decoded,
        time_ns: NDArray[np.int64],
        frame_quality: NDArray[np.uint8] | None,
        among: NDArray[np.intp] | None = None,
    ) -> Offered:
        """Offer samples to all rules that want their signals.

        Args:
            time_ns: of each frame.
            frame_quality: of each frame, None when all are good.
            among: indices of the samples offered, ascending; None for all.
        """
        if among is None and self._quick and self._shadow is None:
            quick = self._offer_quickly(decoded, time_ns)
            if quick is not None:
                return quick
        sample, rule = self._pairs(decoded.signal, among)
        quality = self._quality(decoded, frame_quality, sample, rule)
        if quality is not None:
            refuse = (quality != 0) & self._requires[rule]
            if refuse.any():
                sample, rule, quality = sample[~refuse], rule[~refuse], quality[~refuse]
        time = time_ns.take(decoded.frame.astype(np.intp).take(sample))
        raw = decoded.raw.take(sample)
        picked = self.picker.pick(rule, time, raw, quality)
        refused = _NONE
        if self._shadow is not None:
            refused = rule[self._shadow.pick(rule, time, raw, quality) & ~picked]
        return Offered(
            sample.compress(picked), rule.compress(picked), None if quality is None else quality[picked], refused
        )

    def _offer_quickly(self, decoded: Decoded, time_ns: NDArray[np.int64]) -> Offered | None:
        """The commonest schemes: one rule per signal, no quality, all samples or all changes. None if it is neither."""
        if not self.picker.is_uniform:
            return None
        rule, raw, frame = self._rule_of.take(decoded.signal), decoded.raw, decoded.frame
        wanted: NDArray[np.intp] | None = None
        if len(rule) and rule.max() == _NO_RULE:  # decoded for a condition, or for another scheme
            wanted = np.flatnonzero(rule != _NO_RULE)
            rule, raw, frame = rule.take(wanted), raw.take(wanted), frame.take(wanted)
        sample = self.picker.pick_uniform(rule, raw, frame, time_ns)
        own = rule.take(sample).astype(np.intp)
        return Offered(sample if wanted is None else wanted.take(sample), own, None, _NONE)

    def _pairs(
        self, signal: NDArray[np.int32], among: NDArray[np.intp] | None
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Which rules are offered which samples, in order of samples."""
        chosen = signal if among is None else signal[among]
        counts = self._count[chosen]
        if self._single:
            sample = np.flatnonzero(counts)
            rule = self._rule[self._first[chosen[sample]]] if len(self._rule) else sample
        else:
            ends = np.cumsum(counts)
            total = int(ends[-1]) if len(ends) else 0
            sample = np.repeat(np.arange(len(chosen)), counts)
            rule = self._rule[np.arange(total) + np.repeat(self._first[chosen] - (ends - counts), counts)]
        return (sample if among is None else among[sample]), rule

    def _quality(
        self,
        decoded: Decoded,
        frame_quality: NDArray[np.uint8] | None,
        sample: NDArray[np.intp],
        rule: NDArray[np.intp],
    ) -> NDArray[np.uint8] | None:
        if not self._any_range and (frame_quality is None or not self._any_quality):
            return None
        quality = np.zeros(len(sample), np.uint8)
        if frame_quality is not None:
            quality = np.where(self._uses_quality[rule], frame_quality[decoded.frame[sample]], quality)
        if self._any_range:
            outside = self._scaling.outside(decoded.signal[sample], decoded.raw[sample]) & self._ranged[rule]
            quality[outside] |= OUT_OF_RANGE
        return quality if quality.any() else None
