"""Checksums of the simulated ECUs, for mixed batches of frames at once.

Written independently of ``dbc.integrity``, which checks them: two halves made from one misreading would agree. A CRC
is linear over the bits, so it is the exclusive or of one table value per byte (by its distance from the end) and a
constant that covers start value, data identifier and final inversion. Checksums are over the payload with the bits of
the checksum zero, followed by the two bytes of the data identifier (low byte first) where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbc.manifest import Message, Signal

MAX_BYTES = 66


@dataclass(frozen=True, slots=True)
class Crc:
    """Parameters of a CRC without reflection."""

    bits: int
    polynomial: int
    initial: int
    final: int

    def of(self, content: bytes) -> int:
        """Bit by bit, as the textbook has it."""
        top, everything = 1 << self.bits - 1, (1 << self.bits) - 1
        crc = self.initial
        for byte in content:
            crc ^= byte << self.bits - 8
            for _ in range(8):
                crc = (crc << 1 ^ self.polynomial) & everything if crc & top else crc << 1
        return crc ^ self.final


CRCS = {
    "crc8-sae-j1850": Crc(8, 0x1D, 0xFF, 0xFF),
    "crc8-autosar": Crc(8, 0x2F, 0xFF, 0xFF),
    "crc16-ccitt": Crc(16, 0x1021, 0xFFFF, 0x0000),
}
ALGORITHMS = (*CRCS, "xor8", "sum8")


def _tables(crc: Crc) -> NDArray[np.uint16]:
    """``tables[distance from the end][byte]``: what this byte alone contributes."""
    plain = Crc(crc.bits, crc.polynomial, 0, 0)
    tables = np.zeros((MAX_BYTES, 256), np.uint16)
    step = np.array([plain.of(bytes([b])) for b in range(256)], np.uint16)
    tables[0] = step
    for distance in range(1, MAX_BYTES):
        before = tables[distance - 1]
        high = before >> crc.bits - 8
        tables[distance] = (before << 8 & (1 << crc.bits) - 1) ^ step[high]
    return tables


class Protection:
    """Fills checksums into frames by layout."""

    def __init__(self, layouts: list[tuple[Message, Signal] | None]) -> None:
        """One item per layout: its message and checksum signal, or None.

        Raises:
            ValueError: an unknown algorithm, or a checksum that is not made of whole little-endian bytes.
        """
        count = len(layouts)
        self._algorithm = np.full(count, -1, np.int64)
        self._constant = np.zeros(count, np.uint16)
        self._end = np.zeros(count, np.int64)  # length with the data identifier
        self._length = np.zeros(count, np.int64)
        self._at = np.zeros(count, np.int64)  # byte of the checksum
        self._bytes = np.zeros(count, np.int64)
        self._tables = [_tables(crc) for crc in CRCS.values()]
        for i, item in enumerate(layouts):
            if item is not None:
                self._add(i, *item)

    def _add(self, i: int, message: Message, signal: Signal) -> None:
        name = message.checksum
        if name not in ALGORITHMS:
            raise ValueError(f"{message.name}: unknown checksum {name!r}; there are {', '.join(ALGORITHMS)}")
        bits = CRCS[name].bits if name in CRCS else 8
        if signal.start % 8 or signal.length != bits or signal.big_endian:
            raise ValueError(f"{message.name}: the checksum must be {bits} bits, little-endian, at a whole byte")
        data_id = message.checksum_data_id.to_bytes(2, "little") if message.checksum_data_id else b""
        self._algorithm[i] = ALGORITHMS.index(name)
        self._length[i], self._end[i] = message.length, message.length + len(data_id)
        self._at[i], self._bytes[i] = signal.start // 8, bits // 8
        content = bytes(message.length) + data_id
        if name in CRCS:
            self._constant[i] = CRCS[name].of(content)
        else:
            xored = 0
            for byte in data_id:
                xored ^= byte
            self._constant[i] = xored if name == "xor8" else sum(data_id) & 0xFF

    def fill(self, layout: NDArray[np.int64], data: NDArray[np.uint8], spoil: NDArray[np.bool_] | None = None) -> None:
        """Write the checksums into ``data`` (uint8[n, 64], checksum bits zero), inverted where ``spoil`` says so."""
        algorithm = self._algorithm[layout]
        for number in range(len(ALGORITHMS)):
            rows = np.flatnonzero(algorithm == number)
            if not len(rows):
                continue
            mine = layout[rows]
            width = int(self._length[mine].max())
            payload = data[rows, :width]
            if number < len(CRCS):
                distance = np.maximum(self._end[mine][:, None] - 1 - np.arange(width), 0)
                value = np.bitwise_xor.reduce(self._tables[number][distance, payload], axis=1)
                value ^= self._constant[mine]
            elif ALGORITHMS[number] == "xor8":
                value = np.bitwise_xor.reduce(payload, axis=1) ^ self._constant[mine]
            else:
                value = payload.sum(axis=1, dtype=np.uint16) + self._constant[mine]
            if spoil is not None:
                value = np.where(spoil[rows], ~value, value)
            at = self._at[mine]
            data[rows, at] = value & 0xFF
            if number < len(CRCS) and list(CRCS.values())[number].bits == 16:
                data[rows, at + 1] = value >> 8
