"""Words and forms of the pages about diagnostics. No HTTP, no HTML."""

from __future__ import annotations

import re

import msgspec

from cloud.diagnostics.job_routes import NewJobOrder, StepOrder
from cloud.diagnostics.model import OrderState
from cloud.diagnostics.selection import Selection
from cloud.errors import InvalidInput
from cloud.history.events import EventInfo

_BADGES = {
    OrderState.COMPLETED: "good",
    OrderState.FAILED: "bad",
    OrderState.TIMEOUT: "warn",
    OrderState.EXECUTING: "warn",
}
_OUTCOMES = {"ok": "good", "refused": "warn", "negative": "warn", "no_answer": "bad", "failed": "bad"}


class AuditNote(msgspec.Struct, frozen=True, kw_only=True):
    """A record of a vehicle's audit log, as far as a page shows it; whatever else it has is left out."""

    kind: str = ""
    port: str = ""
    tester: int = 0
    name: str = ""
    peer: str = ""
    target: int = 0
    request: str = ""
    rule: str = ""
    nrc: int = 0
    detail: str = ""
    count: int = 1


def job_badge(state: str) -> str:
    """The kind of badge for an order's state."""
    return _BADGES.get(OrderState(state), "")


def outcome_badge(outcome: str) -> str:
    """The kind of badge for a step's outcome."""
    return _OUTCOMES.get(outcome, "")


def audit_notes(events: list[EventInfo]) -> list[tuple[float, AuditNote]]:
    """Records of a vehicle's audit log out of its events; what cannot be read is told as it came."""
    notes: list[tuple[float, AuditNote]] = []
    for event in events:
        try:
            notes.append((event.time_ms, msgspec.json.decode(event.detail, type=AuditNote)))
        except (msgspec.DecodeError, RecursionError):
            notes.append((event.time_ms, AuditNote(detail=event.detail[:300])))
    return notes


def read_job(form: dict[str, str]) -> NewJobOrder:
    """The job a form describes: one step of the choices, or several as text, one a line: ``do ecu [parameter] [data]``.

    Raises:
        InvalidInput: a line or number that cannot be read.
    """
    text = form.get("steps", "").strip()
    if text:
        steps = [_line(line, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:
        parameter = form.get("parameter", "").strip() or None
        data = form.get("data", "").replace(" ", "")
        steps = [StepOrder(form.get("do", ""), form.get("ecu", "").strip(), parameter, data)]
    hours = form.get("hours", "").strip()
    if hours and not re.fullmatch(r"[0-9]{1,4}", hours):
        raise InvalidInput("a whole number of hours", where="hours")
    vehicles = tuple(re.split(r"[\s,;]+", form.get("vehicles", "").strip())) if form.get("vehicles", "").strip() else ()
    return NewJobOrder(
        steps=steps,
        filter=Selection(
            vehicles=vehicles,
            tag=form.get("tag", "").strip(),
            software=form.get("software", "").strip(),
            fault=form.get("fault", "").strip(),
        ),
        everyone=form.get("everyone") == "yes",
        title=form.get("title", "").strip(),
        stop_on_error=form.get("stop_on_error") == "yes",
        expires_s=int(hours) * 3600 if hours else None,
    )


def _line(line: str, number: int) -> StepOrder:
    words = line.split()
    if not 2 <= len(words) <= 4:
        raise InvalidInput("do, ECU, and perhaps parameter and data", where=f"line {number}")
    return StepOrder(words[0], words[1], words[2] if len(words) > 2 else None, words[3] if len(words) > 3 else "")
