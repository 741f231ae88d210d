"""The gateway itself as a target of the router: its own diagnostic server, in this process."""

from __future__ import annotations

import anyio

from gateway.diag.ports import Tester, UdsServer
from gateway.diag.router_model import Asker, RouterLimits
from gateway.diag.router_target import Queued, Target
from gateway.firewall.ports import DiagnosticFirewall
from gateway.runtime import Clock


class OwnTarget(Target):
    """Requests are handled one after the other; the server decides what they get."""

    def __init__(
        self, server: UdsServer, address: int, *, firewall: DiagnosticFirewall, clock: Clock, limits: RouterLimits
    ) -> None:
        super().__init__("gateway", address, firewall=firewall, clock=clock, limits=limits)
        self._server = server
        self._is_busy = False

    @property
    def is_busy(self) -> bool:
        return self._is_busy

    async def run(self) -> None:
        """Handle what is queued until cancelled."""
        while True:
            await self.wait_for_work()
            if self.closing is not None:
                await self._close(self.closing)
                continue
            request = self.queue.popleft()
            if self.judge(request):
                await self._handle(request)
            await anyio.lowlevel.checkpoint()

    async def _handle(self, request: Queued) -> None:
        request.settle()
        self._is_busy = True
        tester = request.asker.tester
        try:
            answers = await self._server.handle(tester, request.pdu, is_functional=request.is_functional)
        finally:
            self._is_busy = False
        self.count["requests"] += 1
        for pdu in answers:
            self.count["answers"] += 1
            self.firewall.answered(tester, self.address, pdu, now_ns=self.clock.monotonic_ns())
            if not request.asker.deliver(self.address, pdu):
                self.count["undelivered"] += 1

    def forget(self, asker: Asker) -> None:
        """See ``Target.forget``; the tester's session ends with it."""
        super().forget(asker)
        self._server.left(asker.tester)

    async def _close(self, tester: Tester) -> None:
        self.closing = None
        answers = await self._server.handle(tester, b"\x10\x01", is_functional=False)
        self.firewall.closed(self.address, is_certain=any(pdu[:1] == b"\x50" for pdu in answers))
