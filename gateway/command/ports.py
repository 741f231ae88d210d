"""What the order desk needs from outside."""

from __future__ import annotations

from typing import Protocol

from gateway.wire.diagnostics import DiagnosticResult, StepResult
from gateway.wire.orders import Order


class OrderHandler(Protocol):
    """Carries out orders of one kind, one at a time."""

    def check(self, order: Order) -> None:
        """Look at the body before the order is accepted.

        Raises:
            PeerError: it cannot be understood, or never be done here; the order is refused with the message.
        """

    async def execute(self, order: Order) -> tuple[StepResult, ...]:
        """Do it; what came of each step. Raises nothing foreseen: failures are results."""


class ResultSender(Protocol):
    """The way to the cloud; ``gateway.link.client.CloudClient`` is one."""

    async def send_result(self, result: DiagnosticResult) -> None:
        """Deliver; returns once the cloud has it.

        Raises:
            TransportError, RefusedError, PeerError: it has not.
        """
