"""What the verified part of an update hands to the part that installs it."""

from __future__ import annotations

import msgspec

from gateway.errors import GatewayError
from gateway.wire.uptane import DeltaOffer, FileFacts, InstallPolicy, InstallSet, MustMatch


class AttackError(GatewayError):
    """A check failed that stands against one of the attacks the standard names; nothing was changed.

    The text says what was wrong with which file; ``attack`` is one of ``gateway.wire.uptane.ATTACKS``; ``rule`` is the
    line of the standard's procedure, as docs/reference/uptane.md numbers them ("CT3", "F11").
    """

    def __init__(self, attack: str, rule: str, message: str) -> None:
        super().__init__(message)
        self.attack, self.rule, self.message = attack, rule, message

    def __str__(self) -> str:
        return f"{self.message} ({self.rule}: {self.attack} attack)"


class VerifiedTarget(msgspec.Struct, frozen=True, kw_only=True):
    """An image for one ECU that both repositories have signed for. Only the verifier makes these."""

    ecu: str
    hardware_id: str
    image: FileFacts
    must_match: MustMatch
    deltas: tuple[DeltaOffer, ...] = ()  # each delta is a verified target, too
    fallback: FileFacts | None = None  # likewise; the image the ECU runs now
    fallback_must_match: MustMatch | None = None


class VerifiedUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What the Director wants of this vehicle, checked. ``targets`` is empty when there is nothing to do."""

    assignment: str = ""
    campaign: str = ""
    release: str = ""
    targets: tuple[VerifiedTarget, ...] = ()
    sets: tuple[InstallSet, ...] = ()  # every ECU of ``targets`` is in exactly one
    policy: InstallPolicy = InstallPolicy()
    director_version: int = 0  # of the Director's Targets


class InstallError(GatewayError):
    """An installation could not be done; the text says why. Nothing of it is in use."""
