"""The bytes of ISO 15765-2's four frames, for one address and settings. Pure.

Offsets here count from the start of the CAN payload; ``skip`` is 1 where the first byte is an address (extended and
mixed addressing).
"""

from __future__ import annotations

import numpy as np

from gateway.isotp.model import TX_DL, Address, Settings

SINGLE, FIRST, CONSECUTIVE, FLOW_CONTROL = 0x00, 0x10, 0x20, 0x30
CONTINUE, WAIT, OVERFLOW = 0, 1, 2
#: What fills FD frames up to a length that exists when no padding is wanted.
FD_FILL = 0xCC
SHORT_MAX = 4095  # the longest message whose length fits in 12 bits

#: The first bytes of consecutive frames in a row, from any number on; enough for ``RUN_MAX`` of them.
RUN_MAX = 64
RUN_HEADS = bytes(CONSECUTIVE | n & 0xF for n in range(16 + RUN_MAX))

_FD_LENGTH = [next(n for n in (*range(8), *TX_DL) if n >= length) for length in range(65)]


def st_min_ns(raw: int) -> int:
    """Nanoseconds of an STmin byte; reserved values count as the longest, 127 ms."""
    if raw <= 0x7F:
        return raw * 1_000_000
    if 0xF1 <= raw <= 0xF9:
        return (raw - 0xF0) * 100_000
    return 127_000_000


class Framing:
    """Builds what we send. Immutable."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self.prefix = b"" if address.tx_extension is None else bytes([address.tx_extension])
        taken = len(self.prefix)
        self.tx_dl = settings.tx_dl
        self._padding = settings.padding
        self._short = 7 - taken
        #: The longest message that is one frame.
        self.single_bytes = self._short if self.tx_dl == 8 else self.tx_dl - 2 - taken
        #: What a full consecutive frame carries.
        self.chunk_bytes = self.tx_dl - 1 - taken
        #: Their beginnings, by sequence number.
        self.consecutive = tuple(self.prefix + bytes([CONSECUTIVE | n]) for n in range(16))
        self.clear_to_send = self.flow_control(CONTINUE, settings.block_size, settings.st_min)

    def pad(self, frame: bytes) -> bytes:
        """Up to 8 bytes where padding is wanted, and up to a length that exists."""
        length = len(frame)
        if length >= 8:
            return frame.ljust(_FD_LENGTH[length], bytes([FD_FILL if self._padding is None else self._padding]))
        return frame if self._padding is None else frame.ljust(8, bytes([self._padding]))

    def single(self, pdu: bytes) -> bytes:
        """A message of 1 to ``single_bytes`` as one frame."""
        if len(pdu) <= self._short:
            return self.pad(self.prefix + bytes([SINGLE | len(pdu)]) + pdu)
        return self.pad(self.prefix + bytes([SINGLE, len(pdu)]) + pdu)

    def first(self, pdu: bytes) -> tuple[bytes, int]:
        """The first frame of a longer message, and how many bytes of it that carries."""
        length = len(pdu)
        if length <= SHORT_MAX:
            head = self.prefix + bytes([FIRST | length >> 8, length & 0xFF])
        else:
            head = self.prefix + bytes([FIRST, 0]) + length.to_bytes(4, "big")
        room = self.tx_dl - len(head)
        return head + pdu[:room], room

    def run(self, pdu: bytes, offset: int, sequence: int, count: int) -> bytes:
        """The payloads of ``count`` full consecutive frames in a row, joined."""
        rows = np.empty((count, self.tx_dl), np.uint8)
        taken = len(self.prefix)
        if taken:
            rows[:, 0] = self.prefix[0]
        rows[:, taken] = np.frombuffer(RUN_HEADS, np.uint8, count, sequence)
        body = np.frombuffer(pdu, np.uint8, count * self.chunk_bytes, offset)
        rows[:, taken + 1 :] = body.reshape(count, self.chunk_bytes)
        return rows.tobytes()

    def flow_control(self, status: int, block_size: int = 0, st_min: int = 0) -> bytes:
        """A flow control frame."""
        return self.pad(self.prefix + bytes([FLOW_CONTROL | status, block_size, st_min]))
