"""GVRET CSV, as SavvyCAN and ESP32RET write it: ``Time Stamp,ID,Extended,[Dir,]Bus,LEN,D1,…``.

Times are microseconds since the recorder started and stay so (as ns); buses are numbers, named ``"0"``, ``"1"`` ….
Lines that look as SavvyCAN writes them are read many at a time, others by ``parse_line``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dbc.frames import EXTENDED, FD, FrameBatch
from dbc.logs.candump import BadLine, merge
from dbc.logs.columns import MARGIN, hex_bytes, number, padded
from dbc.logs.lines import LineBlock
from dbc.logs.model import BusNames, LogReport

_MAX_US = (1 << 63) // 1000 - 1
_TRUE = {"true": True, "1": True, "false": False, "0": False}


def parse_line(line: bytes, has_direction: bool) -> tuple[int, str, int, int, bytes] | None:
    """``(timestamp_ns, bus, identifier, flags, payload)``; None for an empty line.

    Raises:
        BadLine: the line is no frame.
    """
    fields = [f.strip() for f in line.decode("utf-8", "replace").strip().split(",")]
    if fields == [""]:
        return None
    if has_direction and len(fields) > 3:
        del fields[3]
    if len(fields) < 5:
        raise BadLine(f"{len(fields)} fields, a frame has at least 5")
    try:
        time_us, can_id, bus, length = int(fields[0]), int(fields[1], 16), int(fields[3]), int(fields[4])
        payload = bytes(int(f, 16) for f in fields[5 : 5 + max(length, 0)])
    except ValueError as error:
        raise BadLine(f"not a number: {error}") from None
    extended = _TRUE.get(fields[2].lower())
    if extended is None:
        raise BadLine(f"Extended is {fields[2]!r}, neither true nor false")
    if not 0 <= time_us <= _MAX_US:
        raise BadLine("timestamp out of range")
    if not 0 <= can_id <= (0x1FFFFFFF if extended else 0x7FF):
        raise BadLine("identifier out of range")
    if not 0 <= bus <= 255:
        raise BadLine("bus out of range")
    if len(payload) != length or length > 64:
        raise BadLine(f"{len(payload)} bytes where LEN is {length}")
    return time_us * 1000, str(bus), can_id, (EXTENDED if extended else 0) | (FD if length > 8 else 0), payload


class GvretParser:
    """Frames of successive blocks of lines."""

    def __init__(self, report: LogReport, names: BusNames) -> None:
        self._report = report
        self._names = names
        self._direction = 0  # 1 when there is a Dir column

    def parse(self, block: LineBlock) -> FrameBatch:
        """The frames of a block in its order; counts what is none."""
        text = padded(block.text)
        size = MARGIN + len(block.text)
        end = np.flatnonzero(text == ord("\n"))
        first = np.concatenate([[MARGIN], end[:-1] + 1])
        skip = 0
        if block.first_line == 1 and block.text[:4].lower() == b"time":
            header = block.text.partition(b"\n")[0].lower()
            self._direction = int(b",dir," in header.replace(b" ", b""))
            skip = 1
        first, end = first[skip:], end[skip:]
        if not len(first):
            return FrameBatch.empty()
        batch, good = self._parse_regular(text, first, end - (text[end - 1] == ord("\r")), size)
        extra = []
        for line in np.flatnonzero(~good).tolist():
            try:
                row = parse_line(block.text[first[line] - MARGIN : end[line] - MARGIN], bool(self._direction))
            except BadLine as error:
                self._report.skip(block.first_line + skip + line, str(error))
                continue
            if row is not None:
                extra.append((line, (row[0], int(row[1]), row[2], row[3], row[4])))
        return self._number_buses(merge(batch, np.flatnonzero(good), extra))

    def _parse_regular(
        self, text: NDArray[np.uint8], first: NDArray[np.intp], end: NDArray[np.intp], size: int
    ) -> tuple[FrameBatch, NDArray[np.bool_]]:
        commas = np.flatnonzero(text == ord(","))
        at = np.searchsorted(commas, first)
        steps = np.arange(5 + self._direction)
        comma = np.append(commas, np.full(8, size)).take(at[:, None] + steps)
        good = comma[:, -1] < end
        keep = np.flatnonzero(good)
        first, end, comma = first[keep], end[keep], comma[keep]

        time_us, ok = number(text, first, comma[:, 0], 10, 15)
        can_id, ok2 = number(text, comma[:, 0] + 1, comma[:, 1], 16, 8)
        ok &= ok2
        width = comma[:, 2] - comma[:, 1] - 1
        extended = (width == 4) & ((text.take(comma[:, 1] + 1) | 0x20) == ord("t"))
        ok &= extended | (width == 5) & ((text.take(comma[:, 1] + 1) | 0x20) == ord("f"))
        ok &= (can_id <= 0x7FF) | extended & (can_id <= 0x1FFFFFFF)
        bus, ok2 = number(text, comma[:, -3] + 1, comma[:, -2], 10, 3)
        ok &= ok2 & (bus <= 255)
        length, ok2 = number(text, comma[:, -2] + 1, comma[:, -1], 10, 2)
        start = comma[:, -1] + 1
        text_length = end - start
        ends_in_comma = (text_length == 3 * length) & ((length == 0) | (text.take(end - 1) == ord(",")))
        ok &= ok2 & (length <= 64) & ((text_length == 3 * length - 1) | ends_in_comma)
        data = np.zeros((len(keep), 64), np.uint8)
        rows, ok2 = hex_bytes(text, start, np.where(ok, length, 0), 3)
        data[:, : rows.shape[1]] = rows
        between = text.take(start[:, None] + 3 * np.arange(1, max(rows.shape[1], 1)) - 1, mode="clip") == ord(",")
        ok &= ok2 & (between | (np.arange(1, max(rows.shape[1], 1)) >= length[:, None])).all(axis=1)
        good[keep[~ok]] = False
        flags = np.where(extended, EXTENDED, 0) | np.where(length > 8, FD, 0)
        batch = FrameBatch(
            time_us * 1000,
            bus.astype(np.uint8),
            can_id.astype(np.uint32),
            flags.astype(np.uint8),
            length.astype(np.uint8),
            data,
        )
        return (batch if ok.all() else batch.take(ok)), good

    def _number_buses(self, batch: FrameBatch) -> FrameBatch:
        """Replace the log's own bus numbers by the reader's, and drop buses that are not to be read."""
        found, where, counts = np.unique(batch.bus, return_inverse=True, return_counts=True)
        order = np.argsort(np.unique(batch.bus, return_index=True)[1])
        numbers = np.zeros(len(found), np.intp)
        for i in order.tolist():
            name = str(int(found[i]))
            mapped = self._names.number(name)
            numbers[i] = -1 if mapped is None else mapped
            if mapped is None:
                self._report.unmapped[name] = self._report.unmapped.get(name, 0) + int(counts[i])
        bus = numbers[where]
        named = FrameBatch(
            batch.timestamp_ns, bus.astype(np.uint8), batch.can_id, batch.flags, batch.length, batch.data
        )
        return named if (bus >= 0).all() else named.take(bus >= 0)


def gvret_batches(blocks: Iterator[LineBlock], report: LogReport, names: BusNames) -> Iterator[FrameBatch]:
    """The frames of a GVRET CSV text."""
    parser = GvretParser(report, names)
    for block in blocks:
        batch = parser.parse(block)
        if len(batch):
            yield batch
