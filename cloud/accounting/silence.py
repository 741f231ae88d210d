"""Why a vehicle is silent: probable reasons, most decisive first. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from gateway.wire.api import CheckIn

SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceFacts:
    """All that is known; times in UTC ns of the cloud's clock."""

    now_ns: int
    state: str  # "new", "enrolled", "revoked"
    revoked_ns: int | None
    revoked_reason: str
    open_token_expires_ns: int | None
    valid_until_ns: int | None  # of the certificate that is valid longest, None: there is none
    last_expired_ns: int | None
    last_batch_ns: int | None
    check_in: CheckIn | None
    check_in_ns: int | None
    is_connected: bool  # the downlink is open
    waiting_batches: int  # their manifest is unknown
    dead_letters: int
    has_disk_room: bool
    silent_after_s: float
    clock_skew_warn_s: float
    certificate_warn_days: float


class Reason(msgspec.Struct, frozen=True):
    """One reason. ``severity``: "cause" explains the silence alone, "likely" may, "note" is worth knowing."""

    code: str
    severity: str
    text: str


class Silence(msgspec.Struct, frozen=True):
    """The answer to "why silent?"."""

    vehicle: str
    silent: bool
    last_batch_ns: int | None
    last_check_in_ns: int | None
    connected: bool
    reasons: list[Reason]


def explain(vehicle: str, facts: SilenceFacts) -> Silence:
    """Silent is an enrolled vehicle of which nothing has come for ``silent_after_s``."""
    last_ns = max(facts.last_batch_ns or 0, facts.check_in_ns or 0)
    silent = facts.now_ns - last_ns > facts.silent_after_s * SECOND_NS
    order = {"cause": 0, "likely": 1, "note": 2}
    reasons = sorted(_reasons(facts, silent), key=lambda r: order[r.severity])
    if not reasons:
        reasons = [Reason("none", "note", "Nothing is wrong as far as the cloud can see.")]
    return Silence(vehicle, silent, facts.last_batch_ns, facts.check_in_ns, facts.is_connected, reasons)


def _reasons(facts: SilenceFacts, silent: bool) -> Iterator[Reason]:
    yield from _identity(facts)
    if not facts.has_disk_room:
        yield Reason("cloud_disk_full", "cause", "The cloud's own disk is full: it takes no batches from anyone.")
    if facts.check_in is None:
        if facts.state == "enrolled":
            yield Reason(
                "never_checked_in",
                "cause",
                "It is enrolled but has never checked in: is the gateway running, and can it reach the vehicle port?",
            )
        return
    yield from _contact(facts, facts.check_in, silent)
    yield from _buses(facts.check_in)
    yield from _collection(facts, facts.check_in)
    yield from _clock(facts, facts.check_in)


def _identity(facts: SilenceFacts) -> Iterator[Reason]:
    if facts.state == "revoked":
        why = f": {facts.revoked_reason}" if facts.revoked_reason else ""
        yield Reason("revoked", "cause", f"The vehicle was revoked {_ago(facts, facts.revoked_ns)}{why}.")
        return
    if facts.state == "new":
        if facts.open_token_expires_ns is None:
            yield Reason("not_enrolled", "cause", "It has never enrolled and there is no open token: make one.")
        else:
            yield Reason(
                "not_enrolled",
                "cause",
                "It has not enrolled yet; its token is open for another"
                f" {_span(facts.open_token_expires_ns - facts.now_ns)}.",
            )
        return
    if facts.valid_until_ns is None:
        when = f" It expired {_ago(facts, facts.last_expired_ns)}." if facts.last_expired_ns else ""
        yield Reason("no_certificate", "cause", f"It has no valid certificate: enrol it again with a new token.{when}")
    elif facts.valid_until_ns - facts.now_ns < facts.certificate_warn_days * DAY_NS:
        left = _span(facts.valid_until_ns - facts.now_ns)
        yield Reason("certificate_expires", "note", f"Its certificate expires in {left} and was not renewed yet.")


def _contact(facts: SilenceFacts, check_in: CheckIn, silent: bool) -> Iterator[Reason]:
    when = _ago(facts, facts.check_in_ns)
    if check_in.stopping:
        yield Reason("stopped", "cause", f"The gateway said at its last check-in, {when}, that it stops.")
    elif silent:
        yield Reason(
            "out_of_reach",
            "likely",
            f"It last checked in {when}: without power, without network, or its gateway has failed.",
        )
    for component, health in sorted(check_in.health.items()):
        if health.startswith("failed"):
            yield Reason("component_failed", "likely", f"{component} {health}.")
        elif health != "ok":
            yield Reason("component_degraded", "note", f"{component} {health}.")


def _buses(check_in: CheckIn) -> Iterator[Reason]:
    if not check_in.buses:
        return
    if all(bus.state in {"down", "bus_off", "ended", "stopped"} for bus in check_in.buses):
        states = ", ".join(f"{bus.name} {bus.state}" for bus in check_in.buses)
        yield Reason("no_bus", "cause", f"No bus works: {states}.")
        return
    for bus in check_in.buses:
        if bus.state not in {"up"}:
            detail = f" ({bus.detail})" if bus.detail else ""
            yield Reason("bus_state", "likely", f"Bus {bus.name} is {bus.state}{detail}.")
    if all(bus.frames_per_s == 0 for bus in check_in.buses):
        yield Reason("no_traffic", "likely", "No frames on any bus: the vehicle may be asleep.")


def _collection(facts: SilenceFacts, check_in: CheckIn) -> Iterator[Reason]:
    if facts.waiting_batches:
        text = f"{facts.waiting_batches:,} batches wait for a manifest that the vehicle has not sent."
        yield Reason("no_manifest", "likely", text)
    rejected = [s for s in check_in.schemes if s.state == "rejected"]
    for scheme in rejected:
        yield Reason("scheme_rejected", "likely", f"Scheme {scheme.id} was rejected: {scheme.detail or 'no detail'}.")
    if not any(scheme.state == "active" for scheme in check_in.schemes):
        yield Reason("no_scheme", "likely", "No collection scheme is active, so nothing is collected.")
    if check_in.budget_level > 0:
        text = f"The day's byte budget holds collection back (level {check_in.budget_level})."
        yield Reason("budget", "likely", text)
    pending = sum(s.pending for s in check_in.ledger.streams)
    if pending:
        text = f"{pending:,} items were waiting in the vehicle when it checked in."
        yield Reason("backlog", "note", text)
    if check_in.ledger.refused_items:
        text = f"The vehicle's disk was full: {check_in.ledger.refused_items:,} items were refused."
        yield Reason("vehicle_disk_full", "likely", text)
    if facts.dead_letters:
        yield Reason("dead_letters", "note", f"{facts.dead_letters:,} uploads could not be read (dead letters).")


def _clock(facts: SilenceFacts, check_in: CheckIn) -> Iterator[Reason]:
    skew_s = (check_in.at_ns - (facts.check_in_ns or check_in.at_ns)) / SECOND_NS
    if abs(skew_s) > facts.clock_skew_warn_s:
        which = "ahead of" if skew_s > 0 else "behind"
        text = (
            f"Its clock was {_span(int(abs(skew_s) * SECOND_NS))} {which} the cloud's: look for its data at that time."
        )
        yield Reason("clock", "note", text)


def _ago(facts: SilenceFacts, at_ns: int | None) -> str:
    return "at an unknown time" if at_ns is None else f"{_span(facts.now_ns - at_ns)} ago"


def _span(ns: int) -> str:
    seconds = max(0, ns) // SECOND_NS
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return f"{seconds} second{'s' if seconds != 1 else ''}"
