"""candump text: the log format (``candump -l``, ``-L``) and the screen format with timestamps (``candump -ta``).

Lines of the log format are read many at a time; whatever does not look exactly like one goes, line by line, through
``parse_line``, which knows all variants and is the reference for the fast path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dbc.frames import BRS, ERROR, ESI, EXTENDED, FD, REMOTE, FrameBatch
from dbc.logs.columns import MARGIN, hex_bytes, next_of, number, padded, words
from dbc.logs.lines import LineBlock
from dbc.logs.model import BusNames, LogReport

_MAX_SECONDS = 9_000_000_000
_ERROR_BIT = 0x20000000
_ID_BITS = 0x1FFFFFFF

_LOG = re.compile(rb"\s*\((\d{1,11})(?:\.(\d{1,9})\d*)?\)\s+(\S+)\s+([0-9A-Fa-f]{1,8})#(\S*)(?:\s+[RT])?\s*$")
_SCREEN = re.compile(
    rb"\s*\((\d{1,11})\.(\d{1,9})\d*\)\s+(\S+)\s+(?:[RT]X\s+\S\s+\S\s+)?([0-9A-Fa-f]{1,8})\s+\[(\d{1,2})\]"
    rb"(?:\s+(remote request|(?:[0-9A-Fa-f]{2}\b ?)*))?(?:\s.*)?$",
    re.ASCII,
)
_COMMENT = re.compile(rb"\s*(?:[;#].*)?$")

Row = tuple[int, str, int, int, bytes]


class BadLine(ValueError):
    """The line is no frame."""


def parse_line(line: bytes) -> Row | None:
    """``(timestamp_ns, bus name, identifier, flags, payload)``; None for an empty line or a comment.

    A remote frame's payload is as many zero bytes as it asks for.

    Raises:
        BadLine: neither.
    """
    if found := _LOG.match(line):
        seconds, fraction, bus, can_id, rest = found.groups()
        flags, payload = _log_payload(rest)
    elif found := _SCREEN.match(line):
        seconds, fraction, bus, can_id, length, rest = found.groups()
        flags, payload = _screen_payload(length, rest or b"")
    elif _COMMENT.match(line):
        return None
    else:
        raise BadLine("no candump line")
    if int(seconds) > _MAX_SECONDS:
        raise BadLine("timestamp out of range")
    timestamp_ns = int(seconds) * 1_000_000_000 + int((fraction or b"").ljust(9, b"0"))
    identifier = int(can_id, 16)
    if len(can_id) > 3:
        flags |= EXTENDED
        if identifier & _ERROR_BIT:
            flags = flags & ~EXTENDED | ERROR
        if identifier & ~(_ID_BITS | _ERROR_BIT):
            raise BadLine("identifier of more than 29 bits")
    elif identifier > 0x7FF:
        raise BadLine("identifier of more than 11 bits in three digits")
    return timestamp_ns, bus.decode("utf-8", "replace"), identifier & _ID_BITS, flags, payload


def _log_payload(text: bytes) -> tuple[int, bytes]:
    if text[:1] in (b"R", b"r"):
        asked = text[1:2]
        if asked and not asked.isdigit():
            raise BadLine("no length after R")
        return REMOTE, bytes(min(int(asked or b"0"), 8))
    flags, most = 0, 8
    if text[:1] == b"#":
        try:
            bits = int(text[1:2], 16)
        except ValueError:
            raise BadLine("no CAN FD flags after ##") from None
        flags, most, text = FD | (BRS if bits & 1 else 0) | (ESI if bits & 2 else 0), 64, text[2:]
    else:
        text = text.partition(b"_")[0]  # _9 to _F: the DLC code of an eight-byte frame
    return flags, _payload(text.replace(b".", b""), most)


def _screen_payload(length: bytes, text: bytes) -> tuple[int, bytes]:
    if text == b"remote request":
        return REMOTE, bytes(min(int(length), 8))
    fd = len(length) == 2
    payload = _payload(text.replace(b" ", b""), 64 if fd else 8)
    if len(payload) != int(length):
        raise BadLine(f"{len(payload)} bytes where [{length.decode()}] says another number")
    return (FD if fd else 0), payload


def _payload(digits: bytes, most: int) -> bytes:
    try:
        payload = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        raise BadLine("payload is not pairs of hexadecimal digits") from None
    if len(payload) > most:
        raise BadLine(f"payload of {len(payload)} bytes, at most {most}")
    return payload


class CandumpParser:
    """Frames of successive blocks of lines."""

    def __init__(self, report: LogReport, names: BusNames) -> None:
        self._report = report
        self._names = names
        self._known = np.zeros((0, 2), np.uint64)  # bus names seen, as ``words``
        self._known_numbers: list[int] = []  # -1: not to be read
        self._known_names: list[str] = []

    def parse(self, block: LineBlock) -> FrameBatch:
        """The frames of a block in its order; counts what is none."""
        text = padded(block.text)
        size = MARGIN + len(block.text)
        end = np.flatnonzero(text == ord("\n"))
        first = np.concatenate([[MARGIN], end[:-1] + 1]) if len(end) else end
        batch, good, unmapped = self._parse_regular(text, first, end - (text[end - 1] == ord("\r")), size)
        if good.all():
            return batch
        odd = np.flatnonzero(~good & ~unmapped)
        extra = self._parse_odd(block, odd, first, end)
        return merge(batch, np.flatnonzero(good), extra)

    def _parse_regular(
        self, text: NDArray[np.uint8], first: NDArray[np.intp], end: NDArray[np.intp], size: int
    ) -> tuple[FrameBatch, NDArray[np.bool_], NDArray[np.bool_]]:
        """Frames of the lines that are exactly ``(s.uuuuuu) bus ID#data``, and which lines are; no error is counted."""
        spaces = np.flatnonzero(text == ord(" "))
        hashes = np.flatnonzero(text == ord("#"))
        space = next_of(spaces, first, size)
        space2 = next_of(spaces, space + 1, size)
        mark = next_of(hashes, space2, size)
        dot = np.where(text.take(space - 8) == ord("."), space - 8, space - 11)
        good = (text.take(first) == ord("(")) & (text.take(space - 1) == ord(")")) & (text.take(dot) == ord("."))
        good &= (mark < end) & (dot > first)
        keep = np.flatnonzero(good)
        first, end, space, space2, mark, dot = (a[keep] for a in (first, end, space, space2, mark, dot))

        seconds, ok = number(text, first + 1, dot, 10, 10)
        fraction, ok2 = number(text, dot + 1, space - 1, 10, 9)
        ok &= ok2 & (seconds <= _MAX_SECONDS)
        digits = mark - space2 - 1
        can_id, ok2 = number(text, space2 + 1, mark, 16, 8)
        long = digits == 8
        ok &= ok2 & ((digits == 3) & (can_id <= 0x7FF) | long & (can_id < 2 * _ERROR_BIT))
        ok &= (space2 - space <= 16) & (space2 > space + 1)
        flags, count, data, ok2 = _data(text, mark, end)
        ok &= ok2
        error = long & (can_id >= _ERROR_BIT)
        flags |= np.where(error, np.uint8(ERROR), np.where(long, np.uint8(EXTENDED), np.uint8(0)))
        bus = self._numbers_of(text, space + 1, space2, ok)
        wanted = ok & (bus >= 0)
        unmapped = np.zeros(len(good), np.bool_)
        unmapped[keep[ok & (bus < 0)]] = True
        good[keep[~wanted]] = False
        batch = FrameBatch(
            seconds * 1_000_000_000 + fraction * np.where(space - dot == 8, 1000, 1),
            bus.astype(np.uint8),
            (can_id & _ID_BITS).astype(np.uint32),
            flags,
            count,
            data,
        )
        return (batch if wanted.all() else batch.take(wanted)), good, unmapped

    def _numbers_of(
        self, text: NDArray[np.uint8], first: NDArray[np.intp], end: NDArray[np.intp], ok: NDArray[np.bool_]
    ) -> NDArray[np.intp]:
        """Bus numbers by name, -1 for those not to be read, which are counted."""
        names = words(text, first, end)
        result = np.full(len(names), -2, np.intp)
        at = 0
        while True:
            while at < len(self._known):
                same = (names[:, 0] == self._known[at, 0]) & (names[:, 1] == self._known[at, 1])
                result[same] = self._known_numbers[at]
                if self._known_numbers[at] < 0 and (count := int(np.count_nonzero(same & ok))):
                    self._count_unmapped(self._known_names[at], count)
                at += 1
            left = np.flatnonzero((result == -2) & ok)
            if not len(left):
                return result
            name = names[left[0]].tobytes().rstrip(b"\0").decode("utf-8", "replace")
            number_ = self._names.number(name)
            self._known = np.concatenate([self._known, names[left[:1]]])
            self._known_numbers.append(-1 if number_ is None else number_)
            self._known_names.append(name)

    def _count_unmapped(self, name: str, count: int) -> None:
        self._report.unmapped[name] = self._report.unmapped.get(name, 0) + count

    def _parse_odd(
        self, block: LineBlock, odd: NDArray[np.intp], first: NDArray[np.intp], end: NDArray[np.intp]
    ) -> list[tuple[int, tuple[int, int, int, int, bytes]]]:
        rows: list[tuple[int, tuple[int, int, int, int, bytes]]] = []
        for line in odd.tolist():
            try:
                row = parse_line(block.text[first[line] - MARGIN : end[line] - MARGIN])
            except BadLine as error:
                self._report.skip(block.first_line + line, str(error))
                continue
            if row is None:
                continue
            bus = self._names.number(row[1])
            if bus is None:
                self._count_unmapped(row[1], 1)
            else:
                rows.append((line, (row[0], bus, row[2], row[3], row[4])))
        return rows


def _data(
    text: NDArray[np.uint8], mark: NDArray[np.intp], end: NDArray[np.intp]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """Flags, length, payload of ``#data`` and ``##f data``, and where that is what there is."""
    fd = text.take(mark + 1) == ord("#")
    bits, is_digit = number(text, mark + 2, mark + 3, 16, 1)
    flags = np.where(fd, FD | (bits & 1) * BRS | (bits >> 1 & 1) * ESI, 0).astype(np.uint8)
    start = mark + np.where(fd, 3, 1)
    digits = end - start
    count = digits >> 1
    good = (digits >= 0) & (digits & 1 == 0) & (count <= np.where(fd, 64, 8)) & (is_digit | ~fd)
    data = np.zeros((len(mark), 64), np.uint8)
    groups = (np.flatnonzero(good & ~fd), np.flatnonzero(good & fd)) if fd.any() else (np.flatnonzero(good),)
    for group in groups:
        if len(group):
            rows, ok = hex_bytes(text, start[group], count[group], 2)
            if len(group) == len(data):
                data[:, : rows.shape[1]] = rows
            else:
                data[group, : rows.shape[1]] = rows
            good[group] = ok
    return flags, np.where(good, count, 0).astype(np.uint8), data, good


def merge(
    batch: FrameBatch, lines: NDArray[np.intp], extra: list[tuple[int, tuple[int, int, int, int, bytes]]]
) -> FrameBatch:
    """The frames of ``batch``, which stood on ``lines``, and the extra rows by line, in the order of lines."""
    if not extra:
        return batch
    rest = FrameBatch.from_rows([row for _, row in extra])
    order = np.argsort(np.concatenate([lines, [line for line, _ in extra]]), kind="stable")
    return FrameBatch.concatenate([batch, rest]).take(order)


def candump_batches(blocks: Iterator[LineBlock], report: LogReport, names: BusNames) -> Iterator[FrameBatch]:
    """The frames of a candump text."""
    parser = CandumpParser(report, names)
    for block in blocks:
        batch = parser.parse(block)
        if len(batch):
            yield batch
