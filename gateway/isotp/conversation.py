"""Both halves of a conversation, full duplex, as one state machine. No I/O; time is an argument.

Whoever drives it hands in what comes from the bus (``receive``), sends what ``offer`` holds ready, says ``sent`` or
``refused``, and calls ``expire`` at ``deadline_ns`` and ``offer`` again at ``resume_ns``. Flow control goes before
anything else. N_Br and N_Cs are the driver's promptness: nothing here waits but for STmin.
"""

from __future__ import annotations

from gateway.isotp.framing import FLOW_CONTROL, Framing
from gateway.isotp.model import Address, IsoTpError, Settings
from gateway.isotp.receiving import NOTHING, Events, Receiver
from gateway.isotp.sending import Sender, SendState


class Conversation:
    """See the module."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self.address, self.settings = address, settings
        self._extension = address.rx_extension
        self._skip = 0 if self._extension is None else 1
        self.framing = Framing(address, settings)
        self.sender = Sender(self.framing, settings)
        self.receiver = Receiver(self.framing, settings, self._extension)
        self._offers_flow_control = False

    # --- from the bus ---

    def receive(self, data: bytes, now_ns: int) -> Events:
        """A frame's payload. Returns messages and failed receptions in their order; any bytes are taken."""
        at = self._skip
        if len(data) <= at + 1 or (at and data[0] != self._extension):
            # Also too short for any frame: the shortest is a length and one byte.
            return NOTHING
        if data[at] & 0xF0 != FLOW_CONTROL:
            return self.receiver.frame(data, now_ns)
        if len(data) >= at + 3:
            self.sender.flow_control(data[at] & 0x0F, data[at + 1], data[at + 2], now_ns)
        return NOTHING

    def receive_run(self, joined: bytes, size: int, now_ns: int) -> Events:
        """Frames of ``size`` bytes that came together, as if each had gone through ``receive``, then sending."""
        events: Events = NOTHING
        at, end = 0, len(joined) // size
        while at < end:
            if self.receiver.is_active:
                at = self.receiver.run(joined, size, at, now_ns)
                if at == end:
                    break
            events += self.receive(joined[at * size : (at + 1) * size], now_ns)
            at += 1
        return events

    def receive_single(self, data: bytes) -> bytes | None:
        """The message of a frame that is a valid single one while nothing is being received; else None.

        The quick way for most frames: neither time nor anything else is touched, and nothing is to be sent or awaited
        because of it. Whatever gets None goes through ``receive``.
        """
        at = self._skip
        if self.receiver.is_active or len(data) <= at + 1 or data[at] & 0xF0 or (at and data[0] != self._extension):
            return None
        return self.receiver.single(data)

    # --- to the bus ---

    @property
    def has_work(self) -> bool:
        """A frame is to be sent, now or at ``resume_ns``, or a message has ended."""
        return self.sender.state is SendState.READY or self.receiver.offer() is not None or self.sender.has_outcome

    @property
    def is_free(self) -> bool:
        """Nothing is to be sent and no message is being sent."""
        return self.sender.state is SendState.IDLE and self.receiver.offer() is None

    def offer(self, now_ns: int) -> bytes | None:
        """The payload that may be sent now, if any."""
        flow_control = self.receiver.offer()
        if flow_control is not None:
            self._offers_flow_control = True
            return flow_control
        self._offers_flow_control = False
        return self.sender.offer(now_ns)

    def burst(self, limit: int) -> bytes:
        """``Sender.burst``, unless flow control is to go first."""
        if self.receiver.offer() is not None:
            return b""
        self._offers_flow_control = False
        return self.sender.burst(limit)

    def sent(self, now_ns: int) -> None:
        """The bus has taken what was offered last."""
        (self.receiver if self._offers_flow_control else self.sender).sent(now_ns)

    def refused(self, now_ns: int) -> None:
        """The bus has not taken it, but may."""
        (self.receiver if self._offers_flow_control else self.sender).refused(now_ns)

    def failed(self, error: IsoTpError) -> Events:
        """The bus will not take it."""
        if self._offers_flow_control:
            return self.receiver.abort(error)
        self.sender.abort(error)
        return NOTHING

    # --- time ---

    @property
    def deadline_ns(self) -> int | None:
        """When ``expire`` is to be called at the latest."""
        a, b = self.sender.deadline_ns, self.receiver.deadline_ns
        return b if a is None else a if b is None else min(a, b)

    @property
    def resume_ns(self) -> int | None:
        """When the next frame may go, while STmin holds it back."""
        sender = self.sender
        return sender.resume_ns if sender.state is SendState.READY else None

    def expire(self, now_ns: int) -> Events:
        """Time has passed: failed receptions; how sending ended is the sender's outcome."""
        self.sender.expire(now_ns)
        return self.receiver.expire(now_ns)
