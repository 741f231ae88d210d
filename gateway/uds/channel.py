"""What carries diagnostic PDUs: ISO-TP on a bus, DoIP over a network, or the router inside the gateway.

Everything that speaks UDS (client, poller, remote jobs, bench tool) knows these two shapes and no transport.
"""

from __future__ import annotations

from typing import Protocol

from gateway.errors import TransportError


class ChannelClosedError(TransportError):
    """The channel was closed, by us or because the connection under it ended."""


class DiagnosticChannel(Protocol):
    """A pipe of whole PDUs to and from one ECU (physical addressing)."""

    @property
    def name(self) -> str:
        """For people: the ECU's name or address."""

    @property
    def max_pdu_bytes(self) -> int:
        """The longest PDU that can be sent."""

    async def send(self, pdu: bytes) -> None:
        """Send one PDU; returns when it has been transmitted (last frame out, DoIP acknowledged).

        What was received before and not fetched stays to be received. Cancellation aborts the transmission; the
        channel stays usable.

        Raises:
            TransportError: not delivered.
        """

    async def receive(self) -> bytes:
        """The next PDU from the ECU, waiting for it. May be cancelled without losing one.

        Raises:
            TransportError: a reception failed (once for each), or the channel ended (``ChannelClosedError``).
        """

    def drain(self) -> int:
        """Throw away what has come and was not fetched; returns how many PDUs."""

    async def aclose(self) -> None:
        """Release it; idempotent."""


class ReceptionAware(Protocol):
    """What a channel may offer besides: whether an answer has begun to arrive.

    P2 and P2* end with the first frame of an answer; the PDU comes when its last frame has. A client that can ask waits
    for the rest of a long answer without waiting longer for an ECU that is silent.
    """

    @property
    def is_receiving(self) -> bool:
        """A first frame came and the message is not complete yet."""


class FunctionalChannel(Protocol):
    """One request to all ECUs of a functional address, answers from each."""

    async def send(self, pdu: bytes) -> None:
        """Send to all; single frame on CAN.

        Raises:
            TransportError, ValueError: not sent; too long for a single frame.
        """

    async def receive(self) -> tuple[str, bytes]:
        """The next answer as (name of who sent it, PDU); see ``DiagnosticChannel.receive``."""

    async def aclose(self) -> None:
        """Release it; idempotent."""
