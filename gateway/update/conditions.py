"""What must hold before anything of the vehicle is changed: its state, the policy of the update, and a person's word.

What is unknown counts as missing: a signal that was never seen does not allow an installation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import tzinfo
from typing import Protocol

import msgspec

from gateway.errors import NotNowError
from gateway.update.config import Condition
from gateway.update.ports import Precondition
from gateway.update.records import Record
from gateway.update.window import window_missing
from gateway.wire.uptane import InstallPolicy


class SignalReading(msgspec.Struct, frozen=True):
    """The latest value of a signal. Ages are in seconds, since the start for what never came."""

    value: float | None  # physical; None: never seen, or no number
    age_s: float
    bus_silent_s: float  # since the last frame of any kind on its bus


class SignalValues(Protocol):
    """The vehicle's signals as they were seen last."""

    def latest(self, signal: str) -> SignalReading:
        """By the name that the configuration has."""


class SignalCondition:
    """A signal in a range. With ``may_be_silent`` a bus that sleeps is as good: a parked car's buses do."""

    def __init__(self, condition: Condition, values: SignalValues) -> None:
        self.name, self._condition, self._values = condition.name, condition, values

    def missing(self, now_ns: int) -> str:
        """See ``Precondition``."""
        del now_ns
        wanted, reading = self._condition, self._values.latest(self._condition.signal)
        if wanted.may_be_silent and reading.bus_silent_s > wanted.max_age_s:
            return ""
        if reading.value is None or not reading.age_s <= wanted.max_age_s:
            return f"{self.name} ({wanted.signal} is not known)"
        low = wanted.at_least is None or reading.value >= wanted.at_least
        high = wanted.at_most is None or reading.value <= wanted.at_most
        return "" if low and high else f"{self.name} ({wanted.signal} is {reading.value:g})"


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """A person agreed to one assignment."""

    assignment: str
    by: str
    at_ns: int


class ConsentDesk:
    """Keeps the word that a person gave, through restarts, for one assignment at a time."""

    def __init__(self, record: Record[Consent]) -> None:
        self._record = record
        self._given = record.load()

    def has(self, assignment: str) -> bool:
        """Whether somebody agreed to this one."""
        return self._given is not None and self._given.assignment == assignment

    def give(self, assignment: str, open_assignment: str, by: str, now_ns: int) -> None:
        """Agree; durable when it returns.

        Raises:
            NotNowError: that is not the update that is waiting.
            InstallError: it could not be written.
        """
        if not assignment or assignment != open_assignment:
            waiting = f"{open_assignment!r} is" if open_assignment else "nothing is"
            raise NotNowError(f"no update {assignment!r} is waiting ({waiting})")
        given = Consent(assignment=assignment, by=by, at_ns=now_ns)
        self._record.save(given)
        self._given = given


class Conditions:
    """All of them together.

    Args:
        vehicle: of the vehicle, from its configuration and whatever else the integrator needs.
        link: the kind of link now: ``any``, ``wifi``, ``ethernet``, ``cellular``, ``unknown``.
        links: which one big files wait for: ``any`` or ``wifi``.
    """

    def __init__(
        self,
        *,
        vehicle: Sequence[Precondition] = (),
        consent: ConsentDesk,
        zone: tzinfo,
        link: Callable[[], str] = lambda: "any",
        links: str = "any",
    ) -> None:
        self._vehicle, self.consent, self._zone, self._link, self._links = vehicle, consent, zone, link, links

    def vehicle_missing(self, now_ns: int) -> str:
        """What of the vehicle's own conditions is missing; "" when all hold."""
        return "; ".join(text for one in self._vehicle if (text := one.missing(now_ns)))

    def policy_missing(self, policy: InstallPolicy, assignment: str, now_ns: int) -> str:
        """What the update itself waits for; "" when nothing."""
        missing = []
        if now_ns < policy.not_before_ns:
            missing.append("it is to begin later")
        if policy.needs_consent and not self.consent.has(assignment):
            missing.append("consent")
        missing.append(window_missing(policy, now_ns, self._zone))
        return "; ".join(text for text in missing if text)

    def link_missing(self, policy: InstallPolicy) -> str:
        """Why big files must not be fetched now; "" when they may."""
        kind = self._link()
        if self._links == "any" or policy.is_critical or kind in ("any", "wifi", "ethernet"):
            return ""
        return f"Wi-Fi (the link is {kind})"

    def is_late(self, policy: InstallPolicy, now_ns: int) -> bool:
        """Whether it is too late to begin."""
        return bool(policy.deadline_ns) and now_ns > policy.deadline_ns
