"""A conversation of our engine on a link, driven by the event loop: no task, one lazy timer, frames from callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.can.link import CanFrame, CanLink, LinkBusyError, QuickSending, RunHearing, WakeTime
from gateway.errors import TransportError
from gateway.isotp.conversation import Conversation
from gateway.isotp.model import Address, IsoTpError, Settings
from gateway.isotp.queue import Wake
from gateway.uds.channel import ChannelClosedError

BUSY_RETRY_S = 0.001
#: Frames sent before other callbacks have their turn.
FRAMES_PER_TURN = 64

Sink = Callable[[bytes | IsoTpError], None]


def transmitter(link: CanLink, address: Address, settings: Settings) -> Callable[[bytes], None]:
    """What sends one payload to the address; raises as ``CanLink.send``.

    Raises:
        TransportError: the settings want CAN FD, which the link has not.
    """
    can_id, extended, fd = address.tx_id, address.extended_id, settings.tx_dl > 8
    brs = fd and settings.brs
    if fd and not link.fd:
        raise TransportError(f"{link.name} has no CAN FD, which tx_dl {settings.tx_dl} needs")
    if isinstance(link, QuickSending):
        return link.prepare(can_id, extended=extended, fd=fd, brs=brs)
    return lambda data: link.send(CanFrame(can_id, data, extended, fd, brs))


def transmitter_of_many(
    link: CanLink, address: Address, settings: Settings, transmit: Callable[[bytes], None]
) -> Callable[[bytes, int], int]:
    """What sends payloads in a row (``QuickSending.prepare_many``)."""
    fd = settings.tx_dl > 8
    if isinstance(link, QuickSending):
        return link.prepare_many(address.tx_id, extended=address.extended_id, fd=fd, brs=fd and settings.brs)

    def one_by_one(joined: bytes, size: int) -> int:
        for at in range(0, len(joined), size):
            try:
                transmit(joined[at : at + size])
            except TransportError:
                if at:
                    return at // size  # told when the rest is offered again
                raise
        return len(joined) // size

    return one_by_one


class Endpoint:
    """One address on one link; a ``registry.SharedEndpoint``."""

    def __init__(self, link: CanLink, address: Address, settings: Settings) -> None:
        self._transmit = transmitter(link, address, settings)
        self._transmit_many = transmitter_of_many(link, address, settings, self._transmit)
        self._core = Conversation(address, settings)
        self._loop = asyncio.get_running_loop()
        self._sinks: tuple[Sink, ...] = ()
        self._sending = asyncio.Lock()
        self._waiter: Wake | None = None
        self._timer: asyncio.TimerHandle | None = None  # for deadlines; left alone when they move away
        self._timer_ns = 0
        self._pump_timer: asyncio.TimerHandle | None = None  # for STmin, a busy link, and long blocks
        self._pump_at_s = 0.0
        self._single_bytes = self._core.framing.single_bytes
        self._wake_time_ns = link.wake_time_ns if isinstance(link, WakeTime) else self._now_ns
        self._closed = False
        if isinstance(link, RunHearing):
            self._unhear = link.hear_runs([address.hears], self._on_frame, self._on_run)
        else:
            self._unhear = link.hear([address.hears], self._on_frame)

    def attach(self, sink: Sink) -> None:
        """Give it each message and failed reception from now on."""
        self._sinks = (*self._sinks, sink)

    def detach(self, sink: Sink) -> bool:
        """No more; returns whether nobody is left."""
        self._sinks = tuple(s for s in self._sinks if s is not sink)
        return not self._sinks

    def close(self) -> None:
        """See ``SharedEndpoint``."""
        if self._closed:
            return
        self._closed = True
        self._unhear()
        for timer in (self._timer, self._pump_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._pump_timer = None
        if self._waiter is not None:
            self._waiter.set()
        self._tell(IsoTpError("link", "the bus was closed"))

    async def send(self, pdu: bytes) -> None:
        """See ``DiagnosticChannel.send``; messages of several callers go one after the other."""
        if 0 < len(pdu) <= self._single_bytes and self._core.is_free and not self._sending.locked():
            if self._closed:
                raise ChannelClosedError("the channel is closed")
            try:
                self._transmit(self._core.framing.single(pdu))
            except LinkBusyError:
                pass  # N_As runs: the long way
            except TransportError as error:
                raise IsoTpError("link", str(error)) from error
            else:
                return
        await self._send(pdu)

    async def _send(self, pdu: bytes) -> None:
        async with self._sending:
            if self._closed:
                raise ChannelClosedError("the channel is closed")
            sender = self._core.sender
            sender.start(pdu)
            try:
                self._pump()
                outcome = sender.take_outcome()
                if outcome is None:
                    self._waiter = Wake(self._loop)
                    await self._waiter
                    outcome = sender.take_outcome()
            finally:  # also if the caller was cancelled
                self._waiter = None
                sender.abort(IsoTpError("aborted"))
                sender.take_outcome()
            if outcome is None:
                raise ChannelClosedError("the channel was closed")
            if outcome is not True:
                assert isinstance(outcome, IsoTpError)
                raise outcome

    # --- inside ---

    def _now_ns(self) -> int:
        return int(self._loop.time() * 1e9)

    def _on_frame(self, frame: CanFrame) -> None:
        message = self._core.receive_single(frame.data)
        if message is not None:
            self._tell(message)
            return
        now_ns = self._wake_time_ns()
        for event in self._core.receive(frame.data, now_ns):
            self._tell(event)
        if self._core.has_work:
            self._pump(now_ns)
        else:
            self._arm()

    def _on_run(self, joined: bytes, size: int) -> None:
        now_ns = self._wake_time_ns()
        for event in self._core.receive_run(joined, size, now_ns):
            self._tell(event)
        if self._core.has_work:
            self._pump(now_ns)
        else:
            self._arm()

    def _tell(self, event: bytes | IsoTpError) -> None:
        for sink in self._sinks:
            sink(event)

    def _pump(self, now_ns: int | None = None) -> None:
        """Send what may be sent now, and see to it that the rest is sent when it may be."""
        if self._closed:
            return
        now_ns = self._now_ns() if now_ns is None else now_ns
        try:
            pause_s = self._send_some(now_ns)
        except LinkBusyError:
            self._core.refused(now_ns)
            pause_s = BUSY_RETRY_S
        if pause_s is not None:
            self._pump_again(pause_s)
        self._settle()
        self._arm()

    def _send_some(self, now_ns: int) -> float | None:
        """Returns after how many seconds there is more to send; None: not before something happens.

        Raises:
            LinkBusyError: the frame offered last was not taken.
        """
        core = self._core
        sender = core.sender
        left, tx_dl = FRAMES_PER_TURN, core.framing.tx_dl
        while left > 0:
            try:
                joined = core.burst(left)
                if joined:
                    count = self._transmit_many(joined, tx_dl)
                    sender.sent_burst(count, now_ns)
                    left -= count
                    continue
                payload = core.offer(now_ns)
                if payload is None:
                    return None if core.resume_ns is None else (core.resume_ns - now_ns) / 1e9
                self._transmit(payload)
                if sender.is_paced:
                    now_ns = self._now_ns()  # STmin counts from here
                core.sent(now_ns)
                left -= 1
            except LinkBusyError:
                raise
            except TransportError as error:
                failure = IsoTpError("link", str(error))
                failure.__cause__ = error
                for event in core.failed(failure):
                    self._tell(event)
        return 0.0

    def _pump_again(self, pause_s: float) -> None:
        at_s = self._loop.time() + pause_s
        if self._pump_timer is not None:
            if self._pump_at_s <= at_s:
                return
            self._pump_timer.cancel()
        self._pump_at_s = at_s
        self._pump_timer = self._loop.call_at(at_s, self._resume)

    def _resume(self) -> None:
        self._pump_timer = None
        self._pump()

    def _settle(self) -> None:
        """Wake whoever waits for a message that has ended."""
        waiter = self._waiter
        if waiter is not None and self._core.sender.has_outcome:
            waiter.set()

    def _arm(self) -> None:
        deadline_ns = self._core.deadline_ns
        if deadline_ns is None or self._closed or (self._timer is not None and self._timer_ns <= deadline_ns):
            return  # nothing to wait for, or woken earlier and looking again then
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = deadline_ns
        self._timer = self._loop.call_at(deadline_ns / 1e9, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        for event in self._core.expire(self._now_ns()):
            self._tell(event)
        self._pump()
