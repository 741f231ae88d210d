"""One transfer of blocks (0x36) between its request (0x34, 0x35, 0x38) and its exit (0x37). A core without I/O.

The counter of blocks begins at 1 and wraps from 0xFF to 0x00. A repeat of the block before is answered again without
being taken again: the tester did not get our answer. Any other counter is 0x73.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

from simulator.ecu.service import Nrc, Refusal


class Transfer(Protocol):
    """What 0x36 and 0x37 need of it."""

    def block(self, counter: int, data: bytes) -> bytes:
        """Take or give a block; what the answer has after the counter. Raises ``Refusal``."""

    def finish(self, parameter: bytes) -> bytes:
        """0x37: its answer after the SID. Raises ``Refusal``; then the transfer goes on."""


class _Counted:
    """Counter rules of both directions."""

    def __init__(self) -> None:
        self._next = 1
        self._last_answer: bytes | None = None

    def _is_repeat(self, counter: int) -> bool:
        """Raises ``Refusal`` (0x73) for a counter that is neither the next nor the last."""
        if counter == self._next:
            return False
        if self._last_answer is not None and counter == (self._next - 1) & 0xFF:
            return True
        raise Refusal(Nrc.WRONG_BLOCK_COUNTER)

    def _done(self, answer: bytes) -> bytes:
        self._next = (self._next + 1) & 0xFF
        self._last_answer = answer
        return answer


class Download(_Counted):
    """Tester to ECU: ``size`` bytes, after decompression, handed to ``write`` in their order."""

    def __init__(
        self, size: int, write: Callable[[bytes], None], *, compressed: bool, done: Callable[[], None] | None = None
    ) -> None:
        """``write`` raises ``Refusal`` where it cannot; ``done`` is called by a successful exit."""
        super().__init__()
        self._left = size
        self._write = write
        self._inflate = zlib.decompressobj() if compressed else None
        self._complete = done
        self._crc32 = 0

    def block(self, counter: int, data: bytes) -> bytes:
        """See ``Transfer``.

        Raises:
            Refusal: 0x73 counter; 0x13 no data; 0x24 all is there already; 0x71 more than was announced; 0x72 not
                compressed as announced, or memory that could not be programmed.
        """
        if self._is_repeat(counter):
            return self._last_answer or b""
        if not data:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        if not self._left and (self._inflate is None or self._inflate.eof):
            raise Refusal(Nrc.REQUEST_SEQUENCE_ERROR)
        content = self._expand(data)
        if len(content) > self._left:
            raise Refusal(Nrc.TRANSFER_DATA_SUSPENDED)
        if content:
            self._write(content)
            self._left -= len(content)
            self._crc32 = zlib.crc32(content, self._crc32)
        return self._done(b"")

    def _expand(self, data: bytes) -> bytes:
        if self._inflate is None:
            return data
        # One byte more than is left tells a stream that is too long, however well it is compressed.
        trial = self._inflate.copy()
        try:
            content = trial.decompress(data, self._left + 1)
        except zlib.error:
            raise Refusal(Nrc.PROGRAMMING_FAILURE) from None
        if trial.unconsumed_tail or trial.unused_data:
            raise Refusal(Nrc.TRANSFER_DATA_SUSPENDED)
        self._inflate = trial
        return content

    def finish(self, parameter: bytes) -> bytes:
        """See ``Transfer``; the parameter may be the CRC-32 of the bytes as written, which is also the answer.

        Raises:
            Refusal: 0x13 neither none nor four bytes; 0x24 too early; 0x72 another checksum.
        """
        if len(parameter) not in (0, 4):
            raise Refusal(Nrc.INCORRECT_LENGTH)
        if self._left or (self._inflate is not None and not self._inflate.eof):
            raise Refusal(Nrc.REQUEST_SEQUENCE_ERROR)
        checksum = self._crc32.to_bytes(4, "big")
        if parameter and parameter != checksum:
            raise Refusal(Nrc.PROGRAMMING_FAILURE)
        if self._complete is not None:
            self._complete()
        return checksum


class Upload(_Counted):
    """ECU to tester: ``content`` in blocks of at most ``block_bytes``."""

    def __init__(self, content: bytes, block_bytes: int) -> None:
        super().__init__()
        self._content = content
        self._block_bytes = block_bytes
        self._at = 0

    def block(self, counter: int, data: bytes) -> bytes:
        """See ``Transfer``.

        Raises:
            Refusal: 0x73 counter; 0x13 with data; 0x24 all was sent.
        """
        if data:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        if self._is_repeat(counter):
            return self._last_answer or b""
        if self._at >= len(self._content):
            raise Refusal(Nrc.REQUEST_SEQUENCE_ERROR)
        out = self._content[self._at : self._at + self._block_bytes]
        self._at += len(out)
        return self._done(out)

    def finish(self, parameter: bytes) -> bytes:
        """See ``Transfer``; the answer is the CRC-32 of what was sent.

        Raises:
            Refusal: 0x13 with a parameter; 0x24 too early.
        """
        if parameter:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        if self._at < len(self._content):
            raise Refusal(Nrc.REQUEST_SEQUENCE_ERROR)
        return zlib.crc32(self._content).to_bytes(4, "big")
