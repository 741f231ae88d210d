"""How the installer of ECUs speaks to them: a UDS client by the ECU's name, and the way it is had from the router."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import anyio
import msgspec

from gateway.diag.config import EcuConfig
from gateway.diag.ports import Tester
from gateway.errors import ConfigError
from gateway.uds.channel import DiagnosticChannel
from gateway.uds.client import UdsClient
from gateway.uds.timing import Timing

#: Who the firewall and its log know the installer as.
UPDATER = "updater"
ROUTING_MS = 500  # for the router's queue and other testers' requests, on top of P2
ERASE_S = 900.0  # one request, with all its "response pending"


class EcuLinks(Protocol):
    """Access to the ECUs of the vehicle."""

    @property
    def names(self) -> Sequence[str]:
        """All ECUs that can be spoken to."""

    def client(self, ecu: str) -> AbstractAsyncContextManager[UdsClient]:
        """A client whose session is kept alive until the context ends.

        Raises:
            ConfigError: no ECU has this name.
            NotNowError: too many sessions are open.
        """


class ChannelRouter(Protocol):
    """What is needed of the router; ``gateway.diag.router.Router`` is one."""

    def open_channel(self, tester: Tester, target: int) -> DiagnosticChannel:
        """A channel to one ECU over a session of its own."""


def updater(address: int) -> Tester:
    """Who the installer is to the firewall."""
    return Tester(port="gateway", address=address, name=UPDATER, is_secure=True)


class RouterLinks:
    """``EcuLinks`` through the diagnostic router: its arbitration and its firewall stand between, as for any tester."""

    def __init__(self, router: ChannelRouter, ecus: Sequence[EcuConfig], *, own_address: int = 0x1001) -> None:
        """``ecus`` are those of ``[[diagnostics.ecus]]``; ``own_address`` the gateway's own."""
        self._router, self._tester = router, updater(own_address)
        self._ecus = {ecu.name: ecu for ecu in ecus}

    @property
    def names(self) -> Sequence[str]:
        """See ``EcuLinks``."""
        return tuple(self._ecus)

    @asynccontextmanager
    async def client(self, ecu: str) -> AsyncIterator[UdsClient]:
        """See ``EcuLinks``."""
        about = self._ecus.get(ecu)
        if about is None:
            raise ConfigError(f"ECU {ecu} is not among [[diagnostics.ecus]]", where="$.update.ecus")
        timing = msgspec.structs.replace(
            Timing(latency_ms=ROUTING_MS, max_total_ms=int(ERASE_S * 1000)),
            p2_ms=about.p2_ms, p2_star_ms=about.p2_star_ms, max_pending=about.max_pending,
        )  # fmt: skip
        channel = self._router.open_channel(self._tester, about.logical_address)
        try:
            async with UdsClient(channel, timing=timing) as client:
                yield client
        finally:
            with anyio.CancelScope(shield=True):
                await channel.aclose()
