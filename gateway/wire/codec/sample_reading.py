"""The other direction of ``sample_columns``: from directory and columns to a sample block, believing nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.wire.codec.errors import CodecError
from gateway.wire.codec.numbers import U64, Directory, positions, segment_starts, unzigzag
from gateway.wire.codec.sample_columns import AS_BEFORE, DENSE, Index, spans
from gateway.wire.codec.times import Scale, TimeDirectory
from gateway.wire.samples import SampleBlock

_MAX_NUMBER = (1 << 31) - 1


@dataclass(frozen=True, slots=True, eq=False)
class SampleDirectory:
    """What the directory tells of the samples; all counts checked against the header's."""

    messages: Index
    times: TimeDirectory
    columns_of_group: Index
    signals: Index
    presence: Index
    counts: Index
    low: NDArray[np.int64]
    bits: NDArray[np.uint8]
    value_widths: NDArray[np.uint8]
    gap_widths: NDArray[np.uint8]
    marks: int
    mark_widths: NDArray[np.uint8]

    def shapes(self) -> list[tuple[Index, NDArray[np.uint8]]]:
        """(counts, widths) of the columns, in the order of the format."""
        return [
            (self.times.counts, self.times.width),
            (self.counts, self.value_widths),
            (self.counts[self.presence > AS_BEFORE], self.gap_widths),
            (np.full(len(self.mark_widths), self.marks, np.intp), self.mark_widths),
        ]


def _counts(presence: Index, rows: Index, group: Index) -> Index:
    """Samples of each column.

    Raises:
        CodecError: a column claims the rows of a neighbour it does not have.
    """
    own = presence > AS_BEFORE
    before = presence == AS_BEFORE
    orphan = before.copy()
    orphan[1:] &= group[1:] != group[:-1]
    if orphan.any():
        raise CodecError("first column of a message claims the rows of a column before it")
    counts = np.where(own, presence - 1, rows[group])
    source = np.maximum.accumulate(np.where(before, 0, np.arange(len(presence))))
    return counts[source]


def read_sample_directory(directory: Directory, samples: int) -> SampleDirectory:
    """Take the sample part of the directory of a batch whose header tells of ``samples`` samples."""
    groups = directory.one(samples, "number of messages")
    messages = np.cumsum(directory.small(groups, _MAX_NUMBER, "message number"))
    rows = directory.small(groups, samples, "number of rows")
    if groups and (int(messages[-1]) > _MAX_NUMBER or (np.diff(messages) < 1).any() or rows.min() < 1):
        raise CodecError("messages do not ascend, or one has no rows")
    if int(rows.sum()) > samples:
        raise CodecError("more rows than samples")
    times = TimeDirectory.read(directory, rows)
    columns_of_group = directory.small(groups, samples, "number of columns")
    columns = int(columns_of_group.sum())
    if columns > samples:
        raise CodecError("more columns than samples")
    step = unzigzag(directory.array(columns))
    if columns and (np.abs(step.astype(np.float64)).max() > _MAX_NUMBER or np.cumsum(step).min() < 0):
        raise CodecError("signal number out of range")
    signals = np.cumsum(step).astype(np.intp)
    if columns and signals.max() > _MAX_NUMBER:
        raise CodecError("signal number out of range")
    group = np.repeat(np.arange(groups), columns_of_group)
    presence = directory.small(columns, samples + 1, "number of samples of a column")
    counts = _counts(presence, rows, group)
    if int(counts.sum()) != samples:
        raise CodecError("columns and header disagree about the number of samples")
    low = unzigzag(directory.array(columns))
    bits = directory.small(columns, 64, "bits of a column").astype(np.uint8)
    widths = directory.small(columns, 8, "column width").astype(np.uint8)
    gap_widths = directory.small(int((presence > AS_BEFORE).sum()), 8, "column width").astype(np.uint8)
    marks = directory.one(samples, "number of quality marks")
    mark_widths = directory.small(2 if marks else 0, 8, "column width").astype(np.uint8)
    return SampleDirectory(
        messages, times, columns_of_group, signals, presence, counts, low, bits, widths, gap_widths, marks, mark_widths
    )


def _places(shape: SampleDirectory, gaps: U64) -> Index:
    """The place of each sample's row within its message, samples by column."""
    counts, own = shape.counts, shape.presence > AS_BEFORE
    dense = positions(counts)
    if not own.any():
        return dense
    own_counts = counts[own]
    if len(gaps) and int(gaps.max()) > _MAX_NUMBER:
        raise CodecError("row gap out of range")
    starts = segment_starts(own_counts)
    total = np.cumsum(gaps.astype(np.int64))
    own_places = total - np.repeat(total[starts] - gaps[starts].astype(np.int64), own_counts)
    # Each column reads its places from the last column at or before it that has rows of its own.
    source_start = np.zeros(len(counts), np.intp)
    source_start[own] = starts
    last = np.maximum.accumulate(np.where(shape.presence == AS_BEFORE, 0, np.arange(len(counts))))
    sparse = (shape.presence != DENSE) & own[last]
    at = np.repeat(source_start[last], counts) + dense
    sparse_each = np.repeat(sparse, counts)
    return np.where(sparse_each, own_places[np.where(sparse_each, at, 0)], dense)


def _values(shape: SampleDirectory, rest: U64) -> NDArray[np.int64]:
    """Raw values, by column."""
    counts = shape.counts
    starts = segment_starts(counts)
    total = np.cumsum(unzigzag(rest).view(np.uint64), dtype=np.uint64)
    first = unzigzag(rest[starts]).view(np.uint64)
    total -= np.repeat(total[starts] - first, counts)
    _, mask = spans(shape.bits)
    values: U64 = (total & np.repeat(mask, counts)) + np.repeat(shape.low.view(np.uint64), counts)
    return values.view(np.int64)


def decode_samples(shape: SampleDirectory, columns: list[U64], scale: Scale) -> SampleBlock:
    """The block in canonical order.

    Raises:
        CodecError: the columns contradict each other.
    """
    rest, values, gaps, marks = columns
    ticks = shape.times.decode(rest)
    rows = shape.times.counts
    message = np.repeat(shape.messages, rows)
    order = np.argsort(ticks, kind="stable")  # rows come by message, so this is by time, then message
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    counts = shape.counts
    place = _places(shape, gaps)
    group = np.repeat(np.arange(len(rows)), shape.columns_of_group)
    if len(place) and ((place >= np.repeat(rows[group], counts)) | (place < 0)).any():
        raise CodecError("sample points outside the rows of its message")
    row = rank[np.repeat(segment_starts(rows)[group], counts) + place]
    signal = np.repeat(shape.signals, counts)
    quality = np.zeros(len(signal), np.uint8)
    if shape.marks:
        at, mark = marks[: shape.marks], marks[shape.marks :]
        if int(at.max()) > _MAX_NUMBER or int(mark.max()) > 0xFF:
            raise CodecError("quality mark out of range")
        where = np.cumsum(at.astype(np.int64))
        if int(where[-1]) >= len(quality) or (at[1:] == 0).any():
            raise CodecError("quality marks do not ascend")
        quality[where] = mark.astype(np.uint8)
    raw = _values(shape, values) if len(counts) else np.zeros(0, np.int64)
    by_row = np.argsort(row.astype(np.int64) << np.int64(32) | signal, kind="stable")
    if len(rows) and (np.bincount(row, minlength=len(order)) == 0).any():
        raise CodecError("a row without samples")
    return SampleBlock(
        scale.timestamps(ticks[order]),
        message[order].astype(np.int32),
        row[by_row].astype(np.int32),
        signal[by_row].astype(np.int32),
        raw[by_row],
        quality[by_row],
    )
