"""A reader of batch format 1 in plain Python, written from docs/reference/wire-format.md and nothing else.

It shares no code with the codec. Slow, without limits, for tests only.
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import msgspec
import zstandard

WORD = 1 << 64


class Content(NamedTuple):
    """A batch: rows as (time_ns, message), samples as (row, signal, raw, quality), frames as (time_ns, bus, id, flags,
    length, payload), events as lists."""

    header: list[Any]
    rows: list[tuple[int, int]]
    samples: list[tuple[int, int, int, int]]
    frames: list[tuple[int, int, int, int, int, bytes]]
    events: list[list[Any]]


def signed(value: int) -> int:
    value %= WORD
    return value - WORD if value >= WORD >> 1 else value


def unzigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


class Varints:
    """The directory, number by number."""

    def __init__(self, content: bytes) -> None:
        self.numbers = []
        value = shift = 0
        for byte in content:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                self.numbers.append(value)
                value = shift = 0
        assert shift == 0
        self.numbers.reverse()

    def take(self, count: int) -> list[int]:
        return [self.numbers.pop() for _ in range(count)]

    def one(self) -> int:
        return self.numbers.pop()

    def zigzag(self, count: int) -> list[int]:
        return [unzigzag(n) for n in self.take(count)]


def running(steps: list[int]) -> list[int]:
    sums, total = [], 0
    for step in steps:
        total += step
        sums.append(total)
    return sums


def read_planes(content: bytes, shapes: list[tuple[int, int]]) -> tuple[list[list[int]], int]:
    """Columns of (count, width), and how many bytes they took."""
    columns = [[0] * count for count, _ in shapes]
    at = 0
    for plane in range(8):
        for column, (count, width) in zip(columns, shapes, strict=True):
            if width > plane:
                for i in range(count):
                    column[i] |= content[at + i] << (8 * plane)
                at += count
    return columns, at


def read_times(mode: int, a: int, b: int, column: list[int]) -> list[int]:
    rest = [unzigzag(n) for n in column]
    if mode == 1:
        return [signed((signed(a * 2**12 + i * b) >> 16) + r) for i, r in enumerate(rest)]
    times = [a]
    for r in rest[1:]:
        times.append(signed(times[-1] + b + r))
    return times


def decode(content: bytes) -> Content:
    """Read one batch."""
    assert content[:4] == b"ORB\x01"
    end = 6 + int.from_bytes(content[4:6], "little")
    header = msgspec.msgpack.decode(content[6:end])
    assert zlib.crc32(content[:end]) == int.from_bytes(content[end : end + 4], "little")
    body = zstandard.ZstdDecompressor().decompress(content[end + 4 :])
    directory_end = 4 + int.from_bytes(body[:4], "little")
    directory = Varints(body[4:directory_end])
    first_tick, resolution = header[6] // header[8], header[8]

    groups = directory.one()
    messages = running(directory.take(groups))
    rows = directory.take(groups)
    time_heads = [directory.take(groups), directory.zigzag(groups), directory.zigzag(groups), directory.take(groups)]
    columns_of = directory.take(groups)
    columns = sum(columns_of)
    signals = running(directory.zigzag(columns))
    presence = directory.take(columns)
    low = directory.zigzag(columns)
    bits = directory.take(columns)
    value_widths = directory.take(columns)
    row_widths = directory.take(sum(p >= 2 for p in presence))
    marks = directory.one()
    mark_widths = directory.take(2 if marks else 0)

    frame_groups = directory.one()
    bus = running(directory.zigzag(frame_groups))
    can_id = running(directory.zigzag(frame_groups))
    flags, length, frame_counts = (directory.take(frame_groups) for _ in range(3))
    frame_time_heads = [
        directory.take(frame_groups),
        directory.zigzag(frame_groups),
        directory.zigzag(frame_groups),
        directory.take(frame_groups),
    ]
    assert not directory.numbers

    group_of = [g for g, n in enumerate(columns_of) for _ in range(n)]
    counts: list[int] = []
    for k, p in enumerate(presence):
        counts.append(rows[group_of[k]] if p == 0 else counts[-1] if p == 1 else p - 1)
    shapes = [
        *zip(rows, time_heads[3], strict=True),
        *zip(counts, value_widths, strict=True),
        *zip([c for c, p in zip(counts, presence, strict=True) if p >= 2], row_widths, strict=True),
        *((marks, width) for width in mark_widths),
        *zip(frame_counts, frame_time_heads[3], strict=True),
    ]
    all_columns, taken = read_planes(body[directory_end:], shapes)
    queue = iter(all_columns)

    times = [read_times(m, a, b, next(queue)) for m, a, b in zip(*time_heads[:3], strict=True)]
    values = []
    for k in range(columns):
        total, raw = 0, []
        for number in next(queue):
            total += unzigzag(number)
            raw.append(signed(low[k] + total % (1 << bits[k])))
        values.append(raw)
    places: list[list[int]] = []
    for k, p in enumerate(presence):
        if p == 0:
            places.append(list(range(counts[k])))
        elif p == 1:
            places.append(places[-1])
        else:
            places.append(running(next(queue)))
    quality = [0] * sum(counts)
    if marks:
        for at, mark in zip(running(next(queue)), next(queue), strict=True):
            quality[at] = mark
    all_rows = sorted(
        ((time, messages[g], g, place) for g, column in enumerate(times) for place, time in enumerate(column)),
        key=lambda row: row[:2],
    )
    rank = {(g, place): i for i, (_, _, g, place) in enumerate(all_rows)}
    marked = iter(quality)
    samples = [
        (rank[group_of[k], place], signals[k], raw, next(marked))
        for k in range(columns)
        for place, raw in zip(places[k], values[k], strict=True)
    ]

    frames = []
    at = directory_end + taken
    for f, column_times in enumerate(
        read_times(m, a, b, next(queue)) for m, a, b in zip(*frame_time_heads[:3], strict=True)
    ):
        size, count = (0 if flags[f] & 2 else length[f]), frame_counts[f]
        payload = [bytearray(size) for _ in range(count)]
        for position in range(size):
            byte = 0
            for i in range(count):
                byte = (byte + body[at + i]) % 256
                payload[i][position] = byte
            at += count
        for time, data in zip(column_times, payload, strict=True):
            frames.append(((first_tick + time) * resolution, bus[f], can_id[f], flags[f], length[f], bytes(data)))
    return Content(
        header,
        [((first_tick + time) * resolution, message) for time, message, _, _ in all_rows],
        sorted(samples, key=lambda s: s[:2]),
        sorted(frames, key=lambda f: f[:5]),
        msgspec.msgpack.decode(body[at:]) if header[11] else [],
    )
