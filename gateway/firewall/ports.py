"""What the diagnostic router asks its firewall."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Protocol

import msgspec

from gateway.diag.ports import Tester


class Verdict(StrEnum):
    """What becomes of a request."""

    ALLOW = "allow"
    REFUSE = "refuse"  # answered with ``nrc``
    DROP = "drop"  # no answer at all


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict, why, and by which rule; written to the audit log by the firewall itself."""

    verdict: Verdict
    rule: str
    nrc: int = 0x33
    detail: str = ""
    is_observed: bool = False  # mode "observe": would have been ``REFUSE`` or ``DROP``, is let through


class DiagnosticFirewall(Protocol):
    """A core: knows rules, sessions and locks; is told the time; does no I/O but through its audit sink."""

    def judge(self, tester: Tester, target: int, pdu: bytes, *, is_functional: bool, now_ns: int) -> Decision:
        """Decide on one request before it is sent. ``now_ns`` is monotonic."""

    def answered(self, tester: Tester, target: int, pdu: bytes, *, now_ns: int) -> None:
        """An ECU answered: keeps track of sessions, unlocks, failed keys, running transfers."""

    def left(self, tester: Tester, *, now_ns: int) -> None:
        """The tester is gone: its locks are free, as soon as what it left open is closed."""

    def abandoned(self, now_ns: int, *, busy: Collection[int] = ()) -> list[tuple[int, Tester]]:
        """Targets where a tester that left or fell silent (S3) has a session open; it is to be closed by 10 01.

        At ``busy`` targets a request is under way, which is no silence.
        """

    def closed(self, target: int, *, is_certain: bool) -> None:
        """10 01 was sent there, and answered positively or not."""
