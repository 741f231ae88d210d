"""Samples as columns: per message one time column, per signal of it one value column, dense or sparse.

Values travel as differences to the previous value of the column, taken modulo the power of two that spans the column's
range: a counter that wraps from 15 to 0 differs by one like everywhere else, and no difference needs more bits than
the signal has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.wire.codec.numbers import (
    U64,
    bit_length,
    plane_widths,
    positions,
    running_steps,
    segment_starts,
    zigzag,
)
from gateway.wire.codec.times import TimeColumns, encode_times
from gateway.wire.samples import SampleBlock

Index = NDArray[np.intp]

#: ``presence`` of a value column: a value for each row; the rows of the column before; above that, rows of its own.
DENSE, AS_BEFORE = 0, 1

_MAX_TABLE = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Columns of unsigned integers, ready to be written as byte planes."""

    values: U64
    counts: Index
    widths: NDArray[np.uint8]

    @staticmethod
    def of(values: U64, counts: Index) -> Planes:
        """With the widths the values need; no column may be empty."""
        return Planes(values, counts, plane_widths(values, counts))


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSamples:
    """The sample part of a body: directory numbers, and the columns in the order of the format."""

    directory: list[U64]
    columns: list[Planes]


def check_block(block: SampleBlock) -> None:
    """Raises ``ValueError`` for a block that contradicts itself."""
    rows, samples = len(block.row_timestamp_ns), len(block.signal)
    if len(block.row_message) != rows or not len(block.row) == len(block.raw) == len(block.quality) == samples:
        raise ValueError("arrays of a sample block differ in length")
    if samples and (block.row.min() < 0 or block.row.max() >= rows):
        raise ValueError("sample points outside the rows")
    if samples and (block.signal.min() < 0 or block.row_message.min() < 0):
        raise ValueError("negative signal or message number")


def drop_unused_rows(block: SampleBlock) -> SampleBlock:
    """The block without rows that no sample points to; the same block when there are none."""
    used = np.bincount(block.row, minlength=len(block.row_timestamp_ns)) > 0
    if used.all():
        return block
    renumbered = (np.cumsum(used) - 1).astype(np.int32)
    return SampleBlock(
        block.row_timestamp_ns[used],
        block.row_message[used],
        renumbered[block.row],
        block.signal,
        block.raw,
        block.quality,
    )


def _group_rows(ticks: NDArray[np.int64], message: NDArray[np.int32]) -> tuple[Index, Index, Index]:
    """(row order by message and time, messages present, rows of each)."""
    short = len(message) == 0 or message.max() <= 0xFFFF  # radix sort
    order = np.argsort(message.astype(np.uint16) if short else message, kind="stable")
    grouped = message[order]
    starts = np.flatnonzero(np.diff(grouped, prepend=-1))
    counts = np.diff(np.append(starts, len(grouped)))
    falling = np.diff(ticks[order]) < 0
    falling[starts[1:] - 1] = False
    if falling.any():  # a clock jumped, or the source mixes buses
        order = np.lexsort((ticks, message))
    return order, grouped[starts].astype(np.intp), counts


def _number_columns(message: NDArray[np.int32], signal: NDArray[np.int32]) -> tuple[Index, Index, Index]:
    """(message of each column, signal of each, column of each sample), columns ordered by message, then signal."""
    if signal.max() < _MAX_TABLE:
        owner = np.full(int(signal.max()) + 1, -1, np.int32)
        owner[signal] = message
        if (owner[signal] == message).all():  # each signal in one message, as in any manifest
            used = np.flatnonzero(owner >= 0)
            used = used[np.lexsort((used, owner[used]))]
            number = np.zeros(len(owner), np.intp)
            number[used] = np.arange(len(used))
            return owner[used].astype(np.intp), used, number[signal]
    key = (message.astype(np.int64) << np.int64(32)) | signal
    unique, column = np.unique(key, return_inverse=True)
    return (unique >> 32).astype(np.intp), (unique & 0xFFFFFFFF).astype(np.intp), column.reshape(-1)


def _order_samples(column: Index, place: Index) -> Index:
    """Samples by column, then by place of the row."""
    short = column.max() <= 0xFFFF
    order = np.argsort(column.astype(np.uint16) if short else column, kind="stable")
    sorted_column, sorted_place = column[order], place[order]
    if ((np.diff(sorted_place) < 0) & (np.diff(sorted_column) == 0)).any():
        order = np.lexsort((place, column))
    return order


def _presence(place: Index, counts: Index, rows: Index, message: Index) -> NDArray[np.intp]:
    """Per column: DENSE, AS_BEFORE or its count + 1."""
    starts = segment_starts(counts)
    at = positions(counts)
    dense = (counts == rows) & np.logical_and.reduceat(place == at, starts)
    alike = np.zeros(len(counts), bool)
    alike[1:] = (counts[1:] == counts[:-1]) & (message[1:] == message[:-1]) & ~dense[1:]
    if alike.any():
        before = np.arange(len(place)) - np.repeat(np.where(alike, counts, 0), counts)
        alike &= np.logical_and.reduceat(place == place[before], starts)
    return np.where(dense, DENSE, np.where(alike, AS_BEFORE, counts + 1))


def spans(bits: NDArray[np.uint8]) -> tuple[U64, U64]:
    """Per column (2**(bits - 1), 2**bits - 1); both 0 for no bits."""
    one = np.uint64(1)
    half = np.where(bits > 0, one << (np.maximum(bits, 1).astype(np.uint64) - one), np.uint64(0))
    return half, np.where(bits > 0, half | (half - one), np.uint64(0))


def _differences(raw: NDArray[np.int64], counts: Index) -> tuple[NDArray[np.int64], NDArray[np.uint8], U64]:
    """(lowest value per column, bits of its range, zigzag differences modulo 2**bits)."""
    starts = segment_starts(counts)
    low, high = np.minimum.reduceat(raw, starts), np.maximum.reduceat(raw, starts)
    bits = bit_length(high.view(np.uint64) - low.view(np.uint64))
    values = raw.view(np.uint64)
    steps = np.empty_like(values)
    steps[1:] = values[1:] - values[:-1]
    steps[starts] = values[starts] - low.view(np.uint64)
    half, mask = spans(bits)
    half_each, mask_each = np.repeat(half, counts), np.repeat(mask, counts)
    return low, bits, zigzag((((steps + half_each) & mask_each) - half_each).view(np.int64))


def encode_samples(block: SampleBlock, ticks: NDArray[np.int64]) -> EncodedSamples:
    """Columns of a checked block with no unused rows; ``ticks`` are its row times relative to the batch's first."""
    if not len(block):
        return EncodedSamples([np.zeros(2, np.uint64)], [])
    order, messages, rows = _group_rows(ticks, block.row_message)
    times = encode_times(ticks[order], rows)
    place_of_row = np.empty(len(order), np.intp)
    place_of_row[order] = positions(rows)
    column_message, column_signal, column = _number_columns(block.row_message[block.row], block.signal)
    place = place_of_row[block.row]
    by_column = _order_samples(column, place)
    place = place[by_column]
    counts = np.bincount(column, minlength=len(column_signal))
    columns_of_group = np.bincount(np.searchsorted(messages, column_message), minlength=len(messages))
    presence = _presence(place, counts, np.repeat(rows, columns_of_group), column_message)
    low, bits, rest = _differences(block.raw[by_column], counts)
    values = Planes.of(rest, counts)
    gaps = _gaps(place, counts, presence)
    marks = _quality(block.quality[by_column])
    directory = [
        np.array([len(messages)], np.uint64),
        running_steps(messages.astype(np.int64)).astype(np.uint64),
        rows.astype(np.uint64),
        *times.directory(),
        columns_of_group.astype(np.uint64),
        zigzag(running_steps(column_signal.astype(np.int64))),
        presence.astype(np.uint64),
        zigzag(low),
        bits.astype(np.uint64),
        values.widths.astype(np.uint64),
        gaps.widths.astype(np.uint64),
        np.array([marks.counts[0] if len(marks.counts) else 0], np.uint64),
        marks.widths.astype(np.uint64),
    ]
    return EncodedSamples(directory, [_time_planes(times), values, gaps, marks])


def _time_planes(times: TimeColumns) -> Planes:
    return Planes(times.rest, times.counts, times.width)


def _gaps(place: Index, counts: Index, presence: NDArray[np.intp]) -> Planes:
    """Rows of the sparse columns, each as the difference to the one before it in the column."""
    own = presence > AS_BEFORE
    if not own.any():
        none = np.zeros(0, np.intp)
        return Planes(np.zeros(0, np.uint64), none, np.zeros(0, np.uint8))
    gap = np.diff(place, prepend=0)
    starts = segment_starts(counts)
    gap[starts] = place[starts]
    return Planes.of(gap[np.repeat(own, counts)].astype(np.uint64), counts[own])


def _quality(quality: NDArray[np.uint8]) -> Planes:
    """Two columns, place and quality of the samples that are not plainly good; none when all are."""
    at = np.flatnonzero(quality)
    if not len(at):
        none = np.zeros(0, np.intp)
        return Planes(np.zeros(0, np.uint64), none, np.zeros(0, np.uint8))
    values = np.concatenate([np.diff(at, prepend=0).astype(np.uint64), quality[at].astype(np.uint64)])
    return Planes.of(values, np.array([len(at), len(at)], np.intp))
