"""The router's channels over ISO-TP: from the configuration of an ECU to an address and a channel on its bus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.diag.config import EcuConfig
from gateway.errors import ConfigError
from gateway.isotp import Address, Addressing, IsoTpChannel, IsoTpFunctional, Settings, fixed
from gateway.isotp.bus import IsoTpBus


def address_of(ecu: EcuConfig) -> Address:
    """The conversation with an ECU as the tester sees it; ``reversed()`` is the ECU's side.

    Raises:
        ConfigError: what its addressing needs is missing.
    """
    if ecu.addressing == "normal_fixed":
        return fixed(ecu.target_address, ecu.source_address)
    if ecu.request_id == ecu.response_id:
        raise ConfigError(f"ECU {ecu.name!r}: request_id and response_id must be given, and differ")
    transmit = receive = None
    if ecu.addressing == "extended":
        transmit, receive = ecu.target_address, ecu.source_address
    elif ecu.addressing == "mixed":
        transmit = receive = ecu.address_extension
    return Address(
        tx_id=ecu.request_id,
        rx_id=ecu.response_id,
        extended_id=ecu.extended_id or max(ecu.request_id, ecu.response_id) > 0x7FF,
        addressing=Addressing(ecu.addressing),
        tx_extension=transmit,
        rx_extension=receive,
    )


def functional_address_of(ecu: EcuConfig) -> Address | None:
    """Where functional requests to it go; None when it hears none."""
    if ecu.functional_id is None:
        return None
    own = address_of(ecu)
    is_extended = own.extended_id or ecu.functional_id > 0x7FF
    return Address(tx_id=ecu.functional_id, rx_id=own.rx_id, extended_id=is_extended)


def settings_of(ecu: EcuConfig) -> Settings:
    """How to speak with it."""
    return Settings(tx_dl=ecu.tx_dl, padding=ecu.padding, block_size=ecu.block_size, st_min=ecu.st_min)


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
        return self._buses[ecus[0].bus].open_functional(address, {}, settings=Settings(padding=ecus[0].padding))
