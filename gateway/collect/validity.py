"""Is a frame what its sender meant: checksum and counter, for the messages whose schemes ask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dbc.decode import Decoded
from dbc.frames import FrameBatch
from dbc.manifest import Manifest
from gateway.collect.resolve import Check, Scheme
from gateway.wire.samples import BAD_COUNTER


class Validator:
    """Checks frames of the messages that some scheme's ``validity`` concerns.

    What is checked is what the manifest tells (``Message.checksum``, ``Signal.role``) unless a scheme's
    ``[[integrity]]`` tells otherwise. A counter is wrong when it is not the successor of the one before: frames lost
    before a frame show, and so does a sender that repeats itself.

    Attributes:
        signals: what must be decoded for it.
    """

    def __init__(self, manifest: Manifest, schemes: Sequence[Scheme]) -> None:
        checks = _checks(manifest, schemes)
        counters = sorted({c.counter_signal for c in checks if c.counter_signal >= 0})
        self.signals = tuple(counters)
        self._slot = np.full(len(manifest.signals) + 1, -1, np.intp)
        self._slot[counters] = np.arange(len(counters))
        self._wrap = np.array([(1 << min(manifest.signals[s].length, 62)) - 1 for s in counters], np.int64)
        self._last = np.full(len(counters), -1, np.int64)
        self._checksums = [c for c in checks if c.checksum]

    def __bool__(self) -> bool:
        return bool(self.signals or self._checksums)

    def adopt(self, other: Validator) -> None:
        """Continue the counters of another validator."""
        for own, signal in enumerate(self.signals):
            if signal in other.signals:
                self._last[own] = other._last[other.signals.index(signal)]

    def check(self, frames: FrameBatch, decoded: Decoded) -> NDArray[np.uint8] | None:
        """``BAD_CHECKSUM | BAD_COUNTER`` per frame; None when all are good."""
        if not self:
            return None
        quality = np.zeros(len(frames), np.uint8)
        if self.signals:
            self._check_counters(decoded, quality)
        return quality if quality.any() else None

    def _check_counters(self, decoded: Decoded, quality: NDArray[np.uint8]) -> None:
        slot = self._slot[decoded.signal]
        chosen = np.flatnonzero(slot >= 0)
        if not len(chosen):
            return
        order = chosen[np.argsort(slot[chosen], kind="stable")]
        slot, wrap = slot[order], self._wrap[slot[order]]
        value = decoded.raw[order] & wrap
        first = np.append(True, slot[1:] != slot[:-1])
        before = np.append(0, value[:-1])
        before[first] = self._last[slot[first]]
        wrong = (before >= 0) & (value != ((before + 1) & wrap))
        quality[decoded.frame[order[wrong]]] |= BAD_COUNTER
        last = np.append(first[1:], True)
        self._last[slot[last]] = value[last]


def _checks(manifest: Manifest, schemes: Sequence[Scheme]) -> list[Check]:
    """One check per message that matters; a scheme's own wins over the manifest's."""
    concerned: set[int] = set()
    told: dict[int, Check] = {}
    for scheme in schemes:
        concerned.update(manifest.signal_message[r.signal] for r in scheme.rules if r.validity != "ignore")
        if scheme.trigger is not None and scheme.trigger.require_valid:
            concerned.update(manifest.signal_message[s] for s in scheme.trigger.condition.inputs)
        for check in scheme.checks:
            told.setdefault(check.message, check)
    return [told.get(m) or _from_manifest(manifest, m) for m in sorted(concerned)]


def _from_manifest(manifest: Manifest, number: int) -> Check:
    message, first = manifest.messages[number], manifest.first_signal[number]
    roles = {signal.role: first + i for i, signal in enumerate(message.signals)}
    checksum = message.checksum if "checksum" in roles else ""
    return Check(
        message=number,
        checksum=checksum,
        checksum_signal=roles.get("checksum", -1) if checksum else -1,
        data_id=message.checksum_data_id,
        counter_signal=roles.get("counter", -1),
    )
