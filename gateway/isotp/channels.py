"""Conversations as diagnostic channels; see the package for how they are used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from gateway.can.link import CanFrame, CanLink, LinkBusyError
from gateway.errors import TransportError
from gateway.isotp.endpoint import BUSY_RETRY_S, transmitter
from gateway.isotp.framing import FLOW_CONTROL, SINGLE, Framing
from gateway.isotp.model import Address, IsoTpError, Settings
from gateway.isotp.queue import ReceiveQueue
from gateway.isotp.receiving import Receiver
from gateway.isotp.registry import registry_of
from gateway.uds.channel import ChannelClosedError


class IsoTpChannel:
    """A ``DiagnosticChannel`` over ISO-TP."""

    def __init__(self, link: CanLink, address: Address, settings: Settings, name: str) -> None:
        self._link, self._address, self._settings = link, address, settings
        self._name = name or f"{link.name} {address.tx_id:X}/{address.rx_id:X}"
        self._queue: ReceiveQueue[bytes] = ReceiveQueue()
        self._closed = False
        self._put = self._queue.put  # one object, to be found again
        self._endpoint = registry_of(link).take(link, address, settings, self._put)

    @property
    def name(self) -> str:
        """See ``DiagnosticChannel``."""
        return self._name

    @property
    def max_pdu_bytes(self) -> int:
        """See ``DiagnosticChannel``: ``Settings.max_message_bytes``."""
        return self._settings.max_message_bytes

    @property
    def dropped(self) -> int:
        """Messages that nobody fetched in time."""
        return self._queue.dropped

    async def send(self, pdu: bytes) -> None:
        """See ``DiagnosticChannel``."""
        if self._closed:
            raise ChannelClosedError(f"{self._name} is closed")
        await self._endpoint.send(pdu)

    async def receive(self) -> bytes:
        """See ``DiagnosticChannel``."""
        return await self._queue.get()

    def drain(self) -> int:
        """See ``DiagnosticChannel``."""
        return self._queue.drain()

    async def aclose(self) -> None:
        """See ``DiagnosticChannel``."""
        if not self._closed:
            self._closed = True
            self._queue.close()
            registry_of(self._link).release(self._address, self._endpoint, self._put)


class IsoTpFunctional:
    """A ``FunctionalChannel`` over ISO-TP."""

    def __init__(
        self,
        link: CanLink,
        requests: Sequence[Address],
        listeners: Mapping[str, tuple[Address, Settings]],
        settings: Settings,
    ) -> None:
        self._link, self._settings = link, settings
        self._targets = [(Framing(a, settings), transmitter(link, a, settings)) for a in requests]
        self._queue: ReceiveQueue[tuple[str, bytes]] = ReceiveQueue()
        self._closed = False
        self._ends: list[Callable[[], None]] = []
        for name, (address, its) in listeners.items():
            self._listen(name, address, its)

    def _listen(self, name: str, address: Address, settings: Settings) -> None:
        def sink(event: bytes | IsoTpError) -> None:
            self._queue.put(event if isinstance(event, IsoTpError) else (name, event))

        registry = registry_of(self._link)
        endpoint = registry.take(self._link, address, settings, sink)
        self._ends.append(lambda: registry.release(address, endpoint, sink))

    @property
    def dropped(self) -> int:
        """Messages that nobody fetched in time."""
        return self._queue.dropped

    async def send(self, pdu: bytes) -> None:
        """See ``FunctionalChannel``."""
        if self._closed:
            raise ChannelClosedError("the channel is closed")
        for framing, _ in self._targets:
            if not 0 < len(pdu) <= framing.single_bytes:
                raise ValueError(f"{len(pdu)} bytes are no single frame of 1 to {framing.single_bytes}")
        for framing, transmit in self._targets:
            await self._transmit(transmit, framing.single(pdu))

    async def _transmit(self, transmit: Callable[[bytes], None], frame: bytes) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._settings.n_as_ms / 1000
        while True:
            try:
                transmit(frame)
            except LinkBusyError as error:
                if loop.time() >= deadline_s:
                    raise IsoTpError("timeout_a", "the bus took no frame") from error
                await asyncio.sleep(BUSY_RETRY_S)
            except TransportError as error:
                raise IsoTpError("link", str(error)) from error
            else:
                return

    async def receive(self) -> tuple[str, bytes]:
        """See ``FunctionalChannel``."""
        return await self._queue.get()

    def drain(self) -> int:
        """Throw away what has come and was not fetched; returns how many answers."""
        return self._queue.drain()

    async def aclose(self) -> None:
        """See ``FunctionalChannel``."""
        if not self._closed:
            self._closed = True
            self._queue.close()
            for end in self._ends:
                end()


class FunctionalListener:
    """The server's side of functional addressing: single frames to all, nothing else."""

    def __init__(self, link: CanLink, requests: Sequence[Address]) -> None:
        self._queue: ReceiveQueue[bytes] = ReceiveQueue()
        self._ends = [link.hear([(a.tx_id, a.extended_id)], self._handler(a)) for a in requests]

    def _handler(self, address: Address) -> Callable[[CanFrame], None]:
        settings, extension = Settings(), address.tx_extension
        skip = 0 if extension is None else 1
        receiver = Receiver(Framing(address, settings), settings, extension)

        def handle(frame: CanFrame) -> None:
            data = frame.data
            if len(data) > skip + 1 and (not skip or data[0] == extension) and data[skip] & FLOW_CONTROL == SINGLE:
                pdu = receiver.single(data)
                if pdu is not None:
                    self._queue.put(pdu)

        return handle

    @property
    def dropped(self) -> int:
        """Messages that nobody fetched in time."""
        return self._queue.dropped

    async def receive(self) -> bytes:
        """The next request, waiting for it; cancellation loses none.

        Raises:
            ChannelClosedError: it was closed.
        """
        return await self._queue.get()

    def drain(self) -> int:
        """Throw away what has come and was not fetched; returns how many."""
        return self._queue.drain()

    async def aclose(self) -> None:
        """Release it; idempotent."""
        self._queue.close()
        for end in self._ends:
            end()


def open_channel(link: CanLink, address: Address, settings: Settings | None = None, *, name: str = "") -> IsoTpChannel:
    """A conversation with one ECU, or as one ECU (``address.reversed()``). Call it inside the event loop.

    Several channels may be open to one address: each receives every message, and the settings of the first hold.

    Raises:
        TransportError: ``settings`` need CAN FD and the link has none.
    """
    return IsoTpChannel(link, address, settings or Settings(), name)


def open_functional(
    link: CanLink,
    requests: Address | Sequence[Address],
    listeners: Mapping[str, tuple[Address, Settings]],
    *,
    settings: Settings | None = None,
) -> IsoTpFunctional:
    """Requests to all ECUs, answers from those named.

    Args:
        link: the bus.
        requests: where to send, e.g. ``Address(tx_id=0x7DF, rx_id=0x7E8)`` (only the sending side is used).
        listeners: the physical conversation of each ECU that may answer, as ``open_channel`` would be given.
        settings: of the requests: padding, ``tx_dl``, N_As.

    Raises:
        TransportError: settings need CAN FD and the link has none.
    """
    given = [requests] if isinstance(requests, Address) else list(requests)
    return IsoTpFunctional(link, given, listeners, settings or Settings())


def open_functional_listener(link: CanLink, requests: Address | Sequence[Address]) -> FunctionalListener:
    """Hears what ``open_functional`` with the same addresses sends: the server's side, which answers elsewhere."""
    return FunctionalListener(link, [requests] if isinstance(requests, Address) else list(requests))
