"""The receiving half of a conversation. No I/O; time is an argument.

    idle --single--> idle, a message
    idle --first--> receiving, flow control due          idle --consecutive--> idle (ignored)
    receiving --consecutive--> receiving; idle and a message after the last; flow control due after each block
    receiving --consecutive with the wrong number, N_Cr, N_Ar--> idle, an error
    receiving --single, first--> an error (unexp_pdu), then as from idle

Frames that break a rule on lengths are ignored as if they had not come. What is kept is what has been received, never
what was announced: a message that stops after its first frame costs a few bytes.
"""

from __future__ import annotations

from gateway.isotp.framing import CONSECUTIVE, FIRST, OVERFLOW, RUN_HEADS, RUN_MAX, SHORT_MAX, SINGLE, Framing
from gateway.isotp.model import TX_DL, IsoTpError, OversizeError, Settings

#: Messages and errors that one frame or time-out brings.
Events = tuple[bytes | IsoTpError, ...]
NOTHING: Events = ()


class Receiver:
    """See the module."""

    def __init__(self, framing: Framing, settings: Settings, extension: int | None) -> None:
        self._settings, self._skip = settings, 0 if extension is None else 1
        self._extension = extension or 0
        self._n_cr_ns, self._n_ar_ns = settings.n_cr_ms * 1_000_000, settings.n_as_ms * 1_000_000
        self._clear_to_send, self._overflow = framing.clear_to_send, framing.flow_control(OVERFLOW)
        self.is_active = False
        self.deadline_ns: int | None = None
        self._due: bytes | None = None  # the flow control to be sent
        self._message = bytearray()
        self._total = 0
        self._sequence = 0
        self._frame_bytes = 8  # RX_DL, as learnt from the first frame
        self._block_left = 0

    # --- flow control to the other side; see ``Sender`` for what the three do ---

    def offer(self) -> bytes | None:
        """The flow control that is to be sent now, if any."""
        return self._due

    def refused(self, now_ns: int) -> None:
        """The bus did not take it; N_Ar runs until it does."""
        if self.deadline_ns is None:
            self.deadline_ns = now_ns + self._n_ar_ns

    def sent(self, now_ns: int) -> None:
        """The bus has taken it."""
        self._due = None
        self.deadline_ns = now_ns + self._n_cr_ns if self.is_active else None

    # --- frames ---

    def frame(self, data: bytes, now_ns: int) -> Events:
        """A single, first or consecutive frame (its whole CAN payload)."""
        kind = data[self._skip] & 0xF0
        if kind == CONSECUTIVE:
            return self._consecutive(data, now_ns) if self.is_active else NOTHING
        if kind == SINGLE:
            return self._single(data)
        return self._first(data) if kind == FIRST else NOTHING

    def run(self, joined: bytes, size: int, start: int, now_ns: int) -> int:
        """Take consecutive frames from number ``start`` on where each is just what is awaited and no event follows.

        The quick way for what arrives together (payloads of ``size`` bytes, joined); returns where it stopped, and the
        rest goes through ``frame``.
        """
        skip, at = self._skip, self._skip + 1
        if size != self._frame_bytes:
            return start
        count = min(len(joined) // size - start, (self._total - len(self._message) - 1) // (size - at), RUN_MAX)
        if self._block_left:
            count = min(count, self._block_left - 1)
        begin, end = start * size, (start + count) * size
        heads, expected = joined[begin + skip : end : size], RUN_HEADS[self._sequence : self._sequence + count]
        if count <= 0 or heads != expected or (skip and joined[begin:end:size].count(self._extension) != count):
            return start
        body = bytearray(joined[begin:end])
        for taken in range(at):
            del body[0 :: size - taken]
        self._message += body
        self._sequence = (self._sequence + count) & 0x0F
        self._block_left -= count if self._block_left else 0
        self.deadline_ns = now_ns + self._n_cr_ns
        return start + count

    def single(self, data: bytes) -> bytes | None:
        """The message in a single frame, or None where it is not a valid one."""
        at = self._skip
        length, start = data[at] & 0x0F, at + 1
        if len(data) > 8:
            if length or len(data) not in TX_DL:
                return None
            length, start = data[at + 1], at + 2
        if not 0 < length <= len(data) - start:
            return None
        return data[start : start + length]

    def expire(self, now_ns: int) -> Events:
        """Time has passed."""
        if self.deadline_ns is None or now_ns < self.deadline_ns:
            return NOTHING
        if self._due is not None:
            return self.abort(IsoTpError("timeout_a", "the bus took no flow control"))
        return self.abort(IsoTpError("timeout_cr", f"{len(self._message)} of {self._total} bytes came"))

    def abort(self, error: IsoTpError) -> Events:
        """Give up what is being received; the error is told if there is something."""
        was_active = self.is_active
        self._reset()
        return (error,) if was_active else NOTHING

    def _reset(self) -> None:
        self.is_active, self.deadline_ns, self._due = False, None, None
        self._message = bytearray()

    def _interrupted(self, what: str) -> Events:
        return self.abort(IsoTpError("unexp_pdu", f"{what} after {len(self._message)} of {self._total} bytes"))

    def _single(self, data: bytes) -> Events:
        message = self.single(data)
        if message is None:
            return NOTHING
        return (*self._interrupted("a single frame"), message) if self.is_active else (message,)

    def _first(self, data: bytes) -> Events:
        at, can_dl = self._skip, len(data)
        if can_dl not in TX_DL:
            return NOTHING
        total, start = (data[at] & 0x0F) << 8 | data[at + 1], at + 2
        if total == 0:
            total, start = int.from_bytes(data[at + 2 : at + 6], "big"), at + 6
            if total <= SHORT_MAX:
                return NOTHING
        elif total <= (7 if can_dl == 8 else can_dl - 2) - at:
            return NOTHING  # a single frame would have done
        events = self._interrupted("a first frame")
        if total > self._settings.max_message_bytes:
            self._due = self._overflow
            return (*events, OversizeError(total, self._settings.max_message_bytes))
        self.is_active, self._total, self._sequence, self._frame_bytes = True, total, 1, can_dl
        self._message = bytearray(data[start:])
        self._block_left, self._due = self._settings.block_size, self._clear_to_send
        return events

    def _consecutive(self, data: bytes, now_ns: int) -> Events:
        message, at = self._message, self._skip + 1
        missing = self._total - len(message)
        carried = len(data) - at
        if len(data) != self._frame_bytes and (len(data) > self._frame_bytes or carried < missing):
            return NOTHING  # only the last one may be shorter, and must still hold what is missing
        if data[at - 1] & 0x0F != self._sequence:
            return self.abort(IsoTpError("wrong_sn", f"{data[at - 1] & 0x0F} instead of {self._sequence}"))
        if carried >= missing:
            message += data[at : at + missing]
            self._reset()
            return (bytes(message),)
        message += data[at:]
        self._sequence = (self._sequence + 1) & 0x0F
        self.deadline_ns = now_ns + self._n_cr_ns
        if self._block_left:
            self._block_left -= 1
            if not self._block_left:
                self._block_left, self._due, self.deadline_ns = self._settings.block_size, self._clear_to_send, None
        return NOTHING
