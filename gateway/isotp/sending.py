"""The sending half of a conversation: one message at a time. No I/O; time is an argument.

    IDLE --start--> READY --sent(single or last)--> IDLE (outcome: done)
                    READY --sent(first, or last of a block)--> AWAITING --CTS--> READY
                    AWAITING --WAIT--> AWAITING (at most ``max_wait_frames`` in a row)
                    any --time-out, OVFLW, invalid status, abort--> IDLE (outcome: the error)

``offer`` is the frame that may go to the bus now; it stays the same until ``sent`` says the bus has taken it. What is
offered and not taken for N_As is a time-out, and so is an expected flow control that does not come for N_Bs. Flow
control that is not awaited is ignored.
"""

from __future__ import annotations

from enum import Enum

from gateway.isotp.framing import CONTINUE, OVERFLOW, RUN_MAX, WAIT, Framing, st_min_ns
from gateway.isotp.model import IsoTpError, OversizeError, Settings

NO_LIMIT = 1 << 62


class SendState(Enum):
    """What the sender is about."""

    IDLE = "idle"
    READY = "ready"  # a frame is to be sent, now or at ``resume_ns``
    AWAITING = "awaiting"  # a flow control


class Sender:
    """See the module."""

    def __init__(self, framing: Framing, settings: Settings) -> None:
        self._framing, self._settings = framing, settings
        self.state = SendState.IDLE
        #: How the last message ended, until ``take_outcome``: None while none has.
        self._outcome: IsoTpError | bool | None = None
        self.deadline_ns: int | None = None
        #: STmin: no frame before this time.
        self.resume_ns = 0
        self._pdu = b""
        self._offset = 0  # what has been sent
        self._offered = b""
        self._offered_to = 0  # ``_offset`` once the offered frame is sent
        self._sequence = 0
        self._block_left = 0  # frames until the next flow control
        self._gap_ns = 0
        self._waits = 0
        self._n_bs_ns = settings.n_bs_ms * 1_000_000
        override = settings.override_st_min_us
        self._override_ns = None if override is None else override * 1000

    def start(self, pdu: bytes) -> None:
        """Begin a message.

        Raises:
            ValueError: it is empty.
            OversizeError: it is longer than ``max_message_bytes``.
            RuntimeError: another is being sent.
        """
        if self.state is not SendState.IDLE:
            raise RuntimeError("a message is being sent")
        if not pdu:
            raise ValueError("an empty message cannot be sent")
        if len(pdu) > self._settings.max_message_bytes:
            raise OversizeError(len(pdu), self._settings.max_message_bytes)
        self._outcome = None
        self.state, self.deadline_ns, self.resume_ns = SendState.READY, None, 0
        self._sequence = self._offset = self._waits = 0
        self._block_left, self._gap_ns = 1, 0  # a flow control follows the first frame
        if len(pdu) <= self._framing.single_bytes:
            self._pdu = b""
            self._offered, self._offered_to = self._framing.single(pdu), 0
        else:
            self._pdu = pdu
            self._offered, self._offered_to = self._framing.first(pdu)

    def offer(self, now_ns: int) -> bytes | None:
        """The frame that may be sent now, if any."""
        if self.state is not SendState.READY or now_ns < self.resume_ns:
            return None
        if not self._offered:
            framing, offset = self._framing, self._offset
            end = offset + framing.chunk_bytes
            frame = framing.consecutive[self._sequence] + self._pdu[offset:end]
            self._offered = frame if end <= len(self._pdu) else framing.pad(frame)
            self._offered_to = end
        return self._offered

    def burst(self, limit: int) -> bytes:
        """Full consecutive frames that may be sent at once, up to ``limit``, joined; empty if fewer than two may."""
        if self.state is not SendState.READY or self._gap_ns or self._offered or not self._offset:
            return b""
        left = (len(self._pdu) - self._offset) // self._framing.chunk_bytes
        count = min(limit, self._block_left, left, RUN_MAX)
        return b"" if count < 2 else self._framing.run(self._pdu, self._offset, self._sequence, count)

    def sent_burst(self, count: int, now_ns: int) -> None:
        """The bus has taken the first ``count`` frames of a burst, one at least."""
        self._offered_to = self._offset + count * self._framing.chunk_bytes
        self._sequence += count - 1
        self._block_left -= count - 1
        self.sent(now_ns)

    def refused(self, now_ns: int) -> None:
        """The bus did not take the frame offered; N_As runs until it does."""
        if self.deadline_ns is None:
            self.deadline_ns = now_ns + self._settings.n_as_ms * 1_000_000

    def sent(self, now_ns: int) -> None:
        """The bus has taken the frame offered."""
        self._offered = b""
        self._offset = self._offered_to
        self.deadline_ns = None
        if self._offset >= len(self._pdu):
            self._end(True)
            return
        self._sequence = (self._sequence + 1) & 0xF
        self._block_left -= 1
        if not self._block_left:
            self.state = SendState.AWAITING
            self.deadline_ns = now_ns + self._n_bs_ns
        elif self._gap_ns:
            self.resume_ns = now_ns + self._gap_ns

    def flow_control(self, status: int, block_size: int, st_min: int, now_ns: int) -> None:
        """A flow control frame has come."""
        if self.state is not SendState.AWAITING:
            return
        if status == CONTINUE:
            self._waits = 0
            self._block_left = block_size or NO_LIMIT
            self._gap_ns = st_min_ns(st_min) if self._override_ns is None else self._override_ns
            self.state, self.deadline_ns, self.resume_ns = SendState.READY, None, 0
        elif status == WAIT:
            self._waits += 1
            if self._waits > self._settings.max_wait_frames:
                self._end(IsoTpError("wft_ovrn", f"{self._waits} times wait"))
            else:
                self.deadline_ns = now_ns + self._n_bs_ns
        elif status == OVERFLOW:
            self._end(IsoTpError("buffer_ovflw", "the receiver has no room for the message"))
        else:
            self._end(IsoTpError("invalid_fs", f"flow status {status}"))

    def expire(self, now_ns: int) -> None:
        """Time has passed."""
        if self.deadline_ns is not None and now_ns >= self.deadline_ns:
            if self.state is SendState.AWAITING:
                self._end(IsoTpError("timeout_bs", "no flow control"))
            else:
                self._end(IsoTpError("timeout_a", "the bus took no frame"))

    def abort(self, error: IsoTpError) -> None:
        """Give the message up."""
        if self.state is not SendState.IDLE:
            self._end(error)

    @property
    def is_paced(self) -> bool:
        """STmin holds between the frames, so that the time of each counts."""
        return self._gap_ns > 0

    @property
    def has_outcome(self) -> bool:
        """A message has ended and nobody has asked how."""
        return self._outcome is not None

    def take_outcome(self) -> IsoTpError | bool | None:
        """Once per message: True when it has been sent, or why it has not; None while neither."""
        outcome, self._outcome = self._outcome, None
        return outcome

    def _end(self, outcome: IsoTpError | bool) -> None:
        self.state, self.deadline_ns, self._outcome = SendState.IDLE, None, outcome
        self._pdu = self._offered = b""
