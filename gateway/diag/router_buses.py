"""The router's channels over ISO-TP, on open buses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.diag.addresses import address_of, functional_address_of, settings_of
from gateway.diag.config import EcuConfig
from gateway.isotp import IsoTpChannel, IsoTpFunctional, Settings
from gateway.isotp.bus import IsoTpBus


class BusChannels:
    """``OpenChannel`` and ``OpenFunctional`` of the router over open buses, by their names in the configuration."""

    def __init__(self, buses: Mapping[str, IsoTpBus]) -> None:
        self._buses = buses

    async def open_channel(self, ecu: EcuConfig) -> IsoTpChannel:
        """A channel to one ECU.

        Raises:
            TransportError: the bus cannot carry it (no CAN FD).
        """
        return self._buses[ecu.bus].open_channel(address_of(ecu), settings_of(ecu), name=ecu.name)

    async def open_functional(self, ecus: Sequence[EcuConfig]) -> IsoTpFunctional:
        """What sends to all of them, with one frame; answers come through their channels."""
        address = functional_address_of(ecus[0])
        if address is None:
            raise ValueError(f"{ecus[0].name} hears no functional requests")
        return self._buses[ecus[0].bus].open_functional(
            address, {}, settings=Settings(padding=settings_of(ecus[0]).padding)
        )
