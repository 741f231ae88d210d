"""The gateway's ISO-TP on each bus: opened when first needed, shared by all conversations, closed at the end."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import msgspec
from anyio.abc import TaskStatus

from gateway.can.config import BusConfig
from gateway.can.link import CanLink
from gateway.can.link_open import open_link
from gateway.diag.addresses import address_of, functional_address_of, settings_of
from gateway.diag.config import EcuConfig
from gateway.errors import TransportError
from gateway.isotp import IsoTpBus
from gateway.isotp.bus import KernelUse
from gateway.uds.channel import DiagnosticChannel, FunctionalChannel


def open_bus_link(bus: BusConfig) -> CanLink:
    """A link to one of the gateway's buses.

    Raises:
        TransportError: it cannot be opened.
    """
    return open_link(
        bus.interface,
        bus.channel,
        fd=bus.fd,
        bitrate_bps=bus.bitrate_bps,
        data_bitrate_bps=bus.data_bitrate_bps,
        options=bus.options,
    )


class BusesStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Buses that ECUs are talked to on. ``failures``: how often one could not be opened."""

    open: tuple[str, ...]
    failures: int


class DiagnosticBuses:
    """Makes the router's channels; the component closes the links after everyone who uses them has stopped."""

    name, drain_s, optional = "diagnostic-buses", 0.0, False

    def __init__(self, buses: Sequence[BusConfig], *, kernel: KernelUse) -> None:
        self._configs = {bus.name: bus for bus in buses}
        self._kernel = kernel
        self._open: dict[str, IsoTpBus] = {}
        self._failures = 0

    def statistics(self) -> BusesStatistics:
        """The numbers at this moment."""
        return BusesStatistics(open=tuple(self._open), failures=self._failures)

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Do nothing until cancelled, then close."""
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for bus in self._open.values():
                    await bus.aclose()
                self._open.clear()

    def _bus(self, name: str) -> IsoTpBus:
        bus = self._open.get(name)
        if bus is None:
            config = self._configs[name]
            try:
                bus = IsoTpBus(
                    config.interface,
                    config.channel,
                    kernel=self._kernel,
                    fd=config.fd,
                    bitrate_bps=config.bitrate_bps,
                    data_bitrate_bps=config.data_bitrate_bps,
                    options=config.options,
                )
            except TransportError:
                self._failures += 1
                raise
            self._open[name] = bus
        return bus

    async def open_channel(self, ecu: EcuConfig) -> DiagnosticChannel:
        """The conversation with one ECU.

        Raises:
            TransportError: its bus cannot be opened.
        """
        return self._bus(ecu.bus).open_channel(address_of(ecu), settings_of(ecu), name=ecu.name)

    async def open_functional(self, group: Sequence[EcuConfig]) -> FunctionalChannel:
        """What sends to the ECUs of one bus and functional identifier; answers come by their own channels.

        Raises:
            TransportError: the bus cannot be opened.
        """
        address = functional_address_of(group[0])
        if address is None:
            raise ValueError(f"{group[0].name} hears no functional requests")
        return self._bus(group[0].bus).open_functional(address, {})
