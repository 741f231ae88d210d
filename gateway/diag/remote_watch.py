"""Tells remote jobs what the firewall refused them, and by which rule: the router only shows a negative answer; and the
poller who cleared trouble codes.

A ``DiagnosticFirewall`` around the real one; the router gets this instead. It changes no decision.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection

from gateway.diag.ports import Tester
from gateway.firewall.ports import Decision, DiagnosticFirewall, Verdict

PORT = "cloud"
CLEARED = b"\x54"
MAX_KEPT = 256


class RefusalWatch:
    """Implements ``gateway.firewall.ports.DiagnosticFirewall``."""

    def __init__(self, inner: DiagnosticFirewall) -> None:
        self._inner = inner
        #: Called with whoever had an ECU's DTCs cleared, and its address.
        self.on_cleared: Callable[[Tester, int], None] | None = None
        self._refused: OrderedDict[tuple[str, int], Decision] = OrderedDict()

    def judge(self, tester: Tester, target: int, pdu: bytes, *, is_functional: bool, now_ns: int) -> Decision:
        """See ``DiagnosticFirewall``."""
        decision = self._inner.judge(tester, target, pdu, is_functional=is_functional, now_ns=now_ns)
        if tester.port == PORT and decision.verdict is not Verdict.ALLOW:
            self._refused[(tester.peer, target)] = decision
            while len(self._refused) > MAX_KEPT:
                self._refused.popitem(last=False)
        return decision

    def take(self, tester: Tester, target: int) -> Decision | None:
        """The refusal since the last call, None when the last request was let through."""
        return self._refused.pop((tester.peer, target), None)

    def answered(self, tester: Tester, target: int, pdu: bytes, *, now_ns: int) -> None:
        """See ``DiagnosticFirewall``."""
        self._inner.answered(tester, target, pdu, now_ns=now_ns)
        if pdu[:1] == CLEARED and self.on_cleared is not None:
            self.on_cleared(tester, target)

    def left(self, tester: Tester, *, now_ns: int) -> None:
        """See ``DiagnosticFirewall``."""
        self._inner.left(tester, now_ns=now_ns)

    def abandoned(self, now_ns: int, *, busy: Collection[int] = ()) -> list[tuple[int, Tester]]:
        """See ``DiagnosticFirewall``."""
        return self._inner.abandoned(now_ns, busy=busy)

    def closed(self, target: int, *, is_certain: bool) -> None:
        """See ``DiagnosticFirewall``."""
        self._inner.closed(target, is_certain=is_certain)
