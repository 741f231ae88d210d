"""Reserves ECUs for an update: while it lasts, nobody else writes to them, on whatever way he came.

A ``DiagnosticFirewall`` around the real one (inside ``gateway.diag.remote_watch.RefusalWatch``, which then tells remote
jobs why). The firewall's own lock is held by whoever has a session open, and between the reboots of a set nobody has:
this closes that gap. Reading stays possible as far as the firewall has it: not beside a programming session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

from gateway.diag.ports import Tester
from gateway.firewall.ports import Decision, DiagnosticFirewall, Verdict
from gateway.firewall.services import OPAQUE, WRITING
from gateway.update.ecu_links import UPDATER

RULE = "update under way"
BUSY = 0x21
_HOLDING = WRITING | OPAQUE | {0x10, 0x2C}
_KEEP_ALIVE = b"\x3e\x80"


class EcuReservation:
    """Implements ``gateway.firewall.ports.DiagnosticFirewall`` and ``gateway.update.ecu_ports.Reservation``."""

    def __init__(self, inner: DiagnosticFirewall, addresses: Mapping[str, int]) -> None:
        """``addresses``: the ECUs' logical addresses by name."""
        self._inner, self._addresses = inner, addresses
        self._reserved: Counter[int] = Counter()
        self._why: dict[int, str] = {}

    @asynccontextmanager
    async def reserve(self, ecus: Collection[str], why: str) -> AsyncIterator[None]:
        """See ``Reservation``; a name without an address is not reserved."""
        targets = [self._addresses[ecu] for ecu in ecus if ecu in self._addresses]
        for target in targets:
            self._reserved[target] += 1
            self._why[target] = why
        try:
            yield
        finally:
            self._reserved.subtract(targets)
            self._reserved += Counter()  # drops those that are free

    def judge(self, tester: Tester, target: int, pdu: bytes, *, is_functional: bool, now_ns: int) -> Decision:
        """See ``DiagnosticFirewall``. What others may not write is told to be busy, not forbidden: it will end."""
        is_ours = tester.port == "gateway" and tester.name == UPDATER
        if self._reserved[target] > 0 and not is_ours and pdu:
            if pdu == _KEEP_ALIVE:
                return Decision(verdict=Verdict.DROP, rule=RULE, detail=self._why[target])
            if pdu[0] in _HOLDING:
                return Decision(verdict=Verdict.REFUSE, nrc=BUSY, rule=RULE, detail=self._why[target])
        return self._inner.judge(tester, target, pdu, is_functional=is_functional, now_ns=now_ns)

    def answered(self, tester: Tester, target: int, pdu: bytes, *, now_ns: int) -> None:
        """See ``DiagnosticFirewall``."""
        self._inner.answered(tester, target, pdu, now_ns=now_ns)

    def left(self, tester: Tester, *, now_ns: int) -> None:
        """See ``DiagnosticFirewall``."""
        self._inner.left(tester, now_ns=now_ns)

    def abandoned(self, now_ns: int, *, busy: Collection[int] = ()) -> list[tuple[int, Tester]]:
        """See ``DiagnosticFirewall``."""
        return self._inner.abandoned(now_ns, busy=busy)

    def closed(self, target: int, *, is_certain: bool) -> None:
        """See ``DiagnosticFirewall``."""
        self._inner.closed(target, is_certain=is_certain)
