"""Who speaks which address on a link: one endpoint each, however many channels there are.

Two conversations on one address would both answer with flow control. So all channels of an address share its endpoint,
whether it is our engine's or the kernel's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from weakref import WeakKeyDictionary

from gateway.can.link import CanLink
from gateway.isotp.endpoint import Endpoint, Sink
from gateway.isotp.model import Address, Settings


class SharedEndpoint(Protocol):
    """One address, spoken by our engine or by the kernel."""

    def attach(self, sink: Sink) -> None:
        """Give it each message and failed reception from now on."""

    def detach(self, sink: Sink) -> bool:
        """No more; returns whether nobody is left."""

    async def send(self, pdu: bytes) -> None:
        """See ``DiagnosticChannel.send``; messages of several callers go one after the other."""

    def close(self) -> None:
        """End it: a transmission under way fails, and sinks still attached are told. Idempotent."""


Make = Callable[[CanLink, Address, Settings], SharedEndpoint]


class Registry:
    """The endpoints of one link. ``make`` decides what a new one is."""

    def __init__(self, make: Make = Endpoint) -> None:
        self.make = make
        self._endpoints: dict[Address, SharedEndpoint] = {}

    def take(self, link: CanLink, address: Address, settings: Settings, sink: Sink) -> SharedEndpoint:
        """The endpoint of an address with ``sink`` attached. The settings of whoever came first hold for all.

        Raises:
            TransportError: it cannot be made.
        """
        endpoint = self._endpoints.get(address)
        if endpoint is None:
            endpoint = self._endpoints[address] = self.make(link, address, settings)
        endpoint.attach(sink)
        return endpoint

    def release(self, address: Address, endpoint: SharedEndpoint, sink: Sink) -> None:
        """Detach ``sink``; the endpoint ends with the last one."""
        if endpoint.detach(sink):
            endpoint.close()
            if self._endpoints.get(address) is endpoint:
                del self._endpoints[address]

    def close(self) -> None:
        """The link is being closed: end all endpoints."""
        endpoints, self._endpoints, self.make = self._endpoints, {}, Endpoint
        for endpoint in endpoints.values():
            endpoint.close()


_registries: WeakKeyDictionary[CanLink, Registry] = WeakKeyDictionary()


def registry_of(link: CanLink) -> Registry:
    """The one of this link."""
    return _registries.setdefault(link, Registry())
