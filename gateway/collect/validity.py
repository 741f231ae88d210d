"""Is a frame what its sender meant: checksum and counter, for the messages whose schemes ask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dbc.decode import Decoded
from dbc.frames import FrameBatch
from dbc.integrity import Rule, Verifier, rule_of
from dbc.manifest import Manifest
from gateway.collect.resolve import Check, Scheme
from gateway.wire.samples import BAD_CHECKSUM, BAD_COUNTER


class Validator:
    """Checks frames of the messages that some scheme's ``validity`` concerns.

    What is checked is what the manifest tells (``Message.checksum``, ``Signal.role``) unless a scheme's
    ``[[integrity]]`` tells otherwise. A counter is wrong when it is not the successor of the one before: frames lost
    before a frame show, and so does a sender that repeats itself.
    """

    def __init__(self, manifest: Manifest, schemes: Sequence[Scheme]) -> None:
        self.rules = _rules(manifest, schemes)
        self._verifier = Verifier(self.rules)

    def check(self, frames: FrameBatch, decoded: Decoded) -> NDArray[np.uint8] | None:
        """``BAD_CHECKSUM | BAD_COUNTER`` per frame; None when all are good."""
        if not self.rules:
            return None
        verdict = self._verifier.check(frames, decoded.message)
        if verdict.checksum_ok.all() and verdict.counter_ok.all():
            return None
        quality = np.zeros(len(frames), np.uint8)
        quality[~verdict.checksum_ok] |= BAD_CHECKSUM
        quality[~verdict.counter_ok] |= BAD_COUNTER
        return quality


def checked_messages(manifest: Manifest, scheme: Scheme) -> set[int]:
    """The messages whose validity matters to a scheme."""
    concerned = {manifest.signal_message[rule.signal] for rule in scheme.rules if rule.validity != "ignore"}
    if scheme.trigger is not None and scheme.trigger.require_valid:
        concerned.update(manifest.signal_message[s] for s in scheme.trigger.condition.inputs)
    return concerned


def _rules(manifest: Manifest, schemes: Sequence[Scheme]) -> list[Rule]:
    """One rule per message that matters; a scheme's own wins over the manifest's, the first scheme over later ones."""
    concerned: set[int] = set()
    told: dict[int, Check] = {}
    for scheme in schemes:
        concerned |= checked_messages(manifest, scheme)
        for check in scheme.checks:
            told.setdefault(check.message, check)
    rules = []
    for message in sorted(concerned):
        rule = _rule(manifest, told[message]) if message in told else rule_of(manifest, message)
        if rule is not None:
            rules.append(rule)
    return rules


def _rule(manifest: Manifest, check: Check) -> Rule:
    return Rule(
        message=check.message,
        can_id=manifest.messages[check.message].can_id,
        algorithm=check.checksum,
        checksum=manifest.signals[check.checksum_signal] if check.checksum_signal >= 0 else None,
        counter=manifest.signals[check.counter_signal] if check.counter_signal >= 0 else None,
        data_id=check.data_id,
    )
