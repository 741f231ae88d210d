"""A bus to speak ISO-TP on, with the kernel's sockets where they are and our engine elsewhere: one interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from gateway.can.link import CanLink
from gateway.can.link_open import open_link
from gateway.errors import TransportError
from gateway.isotp import channels, kernel
from gateway.isotp.channels import FunctionalListener, IsoTpChannel, IsoTpFunctional
from gateway.isotp.endpoint import Endpoint
from gateway.isotp.model import Address, Settings
from gateway.isotp.registry import SharedEndpoint, registry_of

KernelUse = Literal["auto", "never", "always"]


class IsoTpBus:
    """Channels on one bus. Open it inside the event loop that uses it.

        bus = IsoTpBus("socketcan", "vcan0")
        channel = bus.open_channel(Address(tx_id=0x7E0, rx_id=0x7E8), name="motor")

    ``kernel``: ``auto`` takes the kernel's socket for a conversation whose settings it keeps (see ``kernel``),
    ``always`` for every one, ``never`` for none. Functional requests are single frames and always ours; their answers
    come through the conversation of the ECU, whoever speaks it.
    """

    def __init__(
        self,
        interface: str,
        channel: str,
        *,
        kernel: KernelUse = "auto",
        fd: bool = True,
        bitrate_bps: int | None = None,
        data_bitrate_bps: int | None = None,
        options: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        """Open the link; see ``open_link``.

        Raises:
            TransportError: it cannot be opened, or the kernel has no ISO-TP and ``always`` wants it.
        """
        self._use = _decide(interface, channel, kernel)
        self.link: CanLink = open_link(
            interface, channel, fd=fd, bitrate_bps=bitrate_bps, data_bitrate_bps=data_bitrate_bps, options=options
        )
        registry_of(self.link).make = self._make

    @property
    def name(self) -> str:
        """Of the link."""
        return self.link.name

    def uses_kernel(self, settings: Settings) -> bool:
        """Whether a conversation with these settings is the kernel's."""
        return self._use == "always" or (self._use == "auto" and kernel.can_serve(settings))

    def open_channel(self, address: Address, settings: Settings | None = None, *, name: str = "") -> IsoTpChannel:
        """See ``gateway.isotp.open_channel``."""
        return channels.open_channel(self.link, address, settings, name=name)

    def open_functional(
        self,
        requests: Address | Sequence[Address],
        listeners: Mapping[str, tuple[Address, Settings]],
        *,
        settings: Settings | None = None,
    ) -> IsoTpFunctional:
        """See ``gateway.isotp.open_functional``."""
        return channels.open_functional(self.link, requests, listeners, settings=settings)

    def open_functional_listener(self, requests: Address | Sequence[Address]) -> FunctionalListener:
        """See ``gateway.isotp.open_functional_listener``."""
        return channels.open_functional_listener(self.link, requests)

    async def aclose(self) -> None:
        """Release the link. Channels still open fail from now on; who waits for a message gets an ``IsoTpError``."""
        registry_of(self.link).close()
        await self.link.aclose()

    def _make(self, link: CanLink, address: Address, settings: Settings) -> SharedEndpoint:
        if not self.uses_kernel(settings):
            return Endpoint(link, address, settings)
        if settings.tx_dl > 8 and not link.fd:
            raise TransportError(f"{link.name} has no CAN FD, which tx_dl {settings.tx_dl} needs")
        return kernel.KernelEndpoint(link, address, settings)


def _decide(interface: str, channel: str, use: KernelUse) -> KernelUse:
    is_possible = interface == "socketcan" and use != "never" and kernel.has_kernel_isotp()
    if use == "always" and not is_possible:
        raise TransportError(f"{interface} {channel}: no ISO-TP sockets here (CONFIG_CAN_ISOTP)")
    return use if is_possible else "never"
