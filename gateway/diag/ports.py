"""How the ports of the gateway (DoIP, OBD connector, cloud, its own poller) reach the ECUs: through one router.

The router owns one conversation per ECU, arbitrates between testers, asks the firewall about each request, and carries
answers back to whoever asked. A port never sees a bus.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import msgspec

from gateway.errors import NotNowError, PeerError, TransportError


class Tester(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. Firewall rules match on all of it."""

    port: str  # "doip", "obd", "cloud", "gateway" (the gateway itself: poller, update)
    address: int  # logical source address
    name: str = ""  # TLS subject, operator, component
    peer: str = ""  # IP address and port
    is_secure: bool = False  # came over TLS with a verified client certificate, or in a signed order


class UnknownTargetError(PeerError):
    """No ECU has this logical address (DoIP nack 0x03)."""


class UnreachableError(TransportError):
    """The ECU's bus is down or the request could not be transmitted (DoIP nack 0x06)."""


class UnknownNetworkError(UnreachableError):
    """The target is known, but the network it is said to be on is not (DoIP nack 0x07)."""


class TooLongError(PeerError):
    """The request is longer than its target can take (DoIP nack 0x04)."""


class TargetBusyError(NotNowError):
    """Too many requests of this tester wait for this target (DoIP nack 0x05)."""


class RouterSession(Protocol):
    """One tester's access to all ECUs. Answers of different ECUs may arrive in any order."""

    @property
    def tester(self) -> Tester:
        """Who it is."""

    async def send(self, target: int, pdu: bytes) -> None:
        """Route one request to a logical address, physical or functional; returns once it is accepted for routing.

        What the firewall refuses is answered with a negative response (or silence) through ``receive`` as if the ECU
        had said so; a busy ECU likewise with 0x21. Requests of one tester to one target keep their order.

        Raises:
            UnknownTargetError, UnreachableError, TooLongError, TargetBusyError: nothing was sent.
        """

    async def receive(self) -> tuple[int, bytes]:
        """The next (logical address of the ECU, PDU): answers, 0x78s, and what an ECU sends by itself (0x2A, 0x86).

        Raises:
            gateway.uds.channel.ChannelClosedError: the session was closed.
        """

    async def aclose(self) -> None:
        """Forget the tester: its locks are released; an ECU it left in a session falls back by its own S3."""


class DiagnosticRouter(Protocol):
    """What ports see of the router."""

    @property
    def targets(self) -> Collection[int]:
        """Logical addresses of all ECUs and of the gateway itself."""

    def functional_targets(self, address: int) -> Collection[int]:
        """The ECUs behind a functional address; empty when it is none."""

    def open_session(self, tester: Tester) -> RouterSession:
        """Access for one tester (a DoIP connection, an order of the cloud)."""


class UdsServer(Protocol):
    """The gateway's own diagnostic server: the target that is no bus but this process."""

    async def handle(self, tester: Tester, pdu: bytes, *, is_functional: bool) -> list[bytes]:
        """The answers to one request, in order; empty where ISO 14229-1 has it silent. Never raises for bad bytes."""

    def left(self, tester: Tester) -> None:
        """The tester is gone: its session ends at once."""
