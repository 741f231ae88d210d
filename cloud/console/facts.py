"""The words pages use for a vehicle's state. No HTTP, no HTML."""

from __future__ import annotations

import msgspec

from cloud.accounting.service import FleetRow
from cloud.accounting.silence import Silence
from cloud.registry.model import VehicleState


class State(msgspec.Struct, frozen=True):
    """A vehicle's state in a word, and the kind of badge it gets."""

    word: str
    kind: str


class SilenceNote(msgspec.Struct, frozen=True):
    """What the live page says above the values."""

    title: str
    kind: str
    lines: list[str]


def state_of(state: str, *, silent: bool, stopped: bool = False) -> State:
    """The word for a registry state and what was heard of the vehicle."""
    if state == VehicleState.REVOKED:
        return State("revoked", "bad")
    if state == VehicleState.NEW:
        return State("new", "")
    if stopped:
        return State("stopped", "")
    return State("silent", "warn") if silent else State("online", "good")


def row_state(row: FleetRow) -> State:
    """The same for a line of the fleet list."""
    return state_of(row.vehicle.state, silent=row.silent, stopped=row.stopped)


def silence_note(silence: Silence) -> SilenceNote | None:
    """Reasons worth showing; None when all is well."""
    reasons = [r for r in silence.reasons if r.code != "none"]
    if silence.silent:
        lines = [r.text for r in reasons] or ["No reason is known to the cloud: look at the vehicle itself."]
        return SilenceNote("Why silent", "warn", lines)
    worrying = [r for r in reasons if r.severity != "note"]
    if not reasons:
        return None
    return SilenceNote("Worth a look", "warn" if worrying else "", [r.text for r in reasons])
