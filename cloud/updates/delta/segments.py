"""One segment, made as small as can be: the builder's choice among the methods of the format.

Exact matches with the base are steps of a patch without further search; only what lies between them goes through
bsdiff, against the parts of the base that look alike. The result is read back with the vehicle's own code.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import bsdiff4.core
import numpy as np
import zstandard

from cloud.updates.delta.match import Matcher, Matches, ReadBase, merge
from gateway.wire.delta import (
    Method,
    NewSegment,
    Patch,
    SegmentRecord,
    Window,
    encode_patch,
    encode_windows,
    output,
    plan_segment,
)
from gateway.wire.delta.segment import MIN_STEP_BYTES, PATCH_FACTOR

LEVEL = 19
QUICK_LEVEL = 9
#: Below this a patch is as small as it gets; dictionaries are not tried.
GOOD_ENOUGH_BYTES = 2048
MAX_ALIKE_BYTES = 3 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Made:
    """A finished segment and its payload."""

    segment: NewSegment
    payload: bytes


@dataclass(frozen=True, slots=True)
class _Step:
    """``length`` bytes of the segment from ``start``: from ``source`` in the reference, or new when that is None."""

    start: int
    length: int
    source: int | None


class SegmentBuilder:
    """Makes segments of one target out of one base."""

    def __init__(self, matcher: Matcher, read_base: ReadBase, base_length: int) -> None:
        self._matcher, self._read, self._base_length = matcher, read_base, base_length
        self._shift = 0  # of the end of the last segment

    def make(self, content: bytes, output_offset: int) -> Made:
        """The smallest way found to make ``content``, which the target has at ``output_offset``.

        Raises:
            OSError: the base cannot be read.
        """
        if not any(content):
            return Made(NewSegment(method=Method.ZERO, payload_bytes=0, sha256=hashlib.sha256(content).digest()), b"")
        guesses = list(dict.fromkeys((output_offset + self._shift, output_offset)))
        matches = self._matcher.find(content, guesses, MAX_ALIKE_BYTES)
        if matches.extents:
            self._shift = matches.extents[-1].shift - output_offset
        best: tuple[int, Method, bytes] = (len(content), Method.RAW, content)
        for method, payload in self._attempts(content, matches, output_offset):
            best = min(best, (len(payload), method, payload))
        return self._checked(best[1], best[2], content, output_offset)

    def _attempts(self, content: bytes, matches: Matches, output_offset: int) -> list[tuple[Method, bytes]]:
        if not matches.gaps:
            return [(Method.COPY, encode_windows([Window(e.source, e.length) for e in matches.extents], output_offset))]
        made: list[tuple[Method, bytes]] = []
        windows = _windows(matches)
        listed = encode_windows(windows, output_offset)
        reference = b"".join(self._read(w.offset, w.length) for w in windows)
        if windows:
            made.append((Method.PATCH, listed + self._patch(content, matches, windows, reference)))
        if not made or len(made[0][1]) > GOOD_ENOUGH_BYTES:
            made += _with_zstd(content, reference, listed, min((len(p) for _, p in made), default=len(content)))
        return [m for m in made if m[1]]

    def _patch(self, content: bytes, matches: Matches, windows: Sequence[Window], reference: bytes) -> bytes:
        place = _Places(windows)
        steps = [_Step(e.start, e.length, place.of(e.source)) for e in matches.extents]
        steps += _searched(content, matches, place, reference)
        steps.sort(key=lambda s: s.start)
        patch = _as_patch(steps, content, reference)
        if len(patch.copies) > len(content) // MIN_STEP_BYTES + 1:
            return content  # no smaller than the segment, so never chosen
        body = encode_patch(patch)
        if len(body) > PATCH_FACTOR * len(content):
            return content
        return zstandard.ZstdCompressor(level=LEVEL).compress(body)

    def _checked(self, method: Method, payload: bytes, content: bytes, output_offset: int) -> Made:
        """Made again as a vehicle would, before it is believed."""
        segment = NewSegment(method=method, payload_bytes=len(payload), sha256=hashlib.sha256(content).digest())
        record = SegmentRecord(
            method=method,
            payload_offset=0,
            payload_bytes=len(payload),
            output_offset=output_offset,
            output_bytes=len(content),
            sha256=segment.sha256,
        )
        plan = plan_segment(record, payload, self._base_length)
        output(plan, b"".join(self._read(w.offset, w.length) for w in plan.windows))
        return Made(segment, payload)


class _Places:
    """From offsets in the base to offsets in the reference: windows are sorted and apart."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self._starts = np.array([w.offset for w in windows], np.int64)
        lengths = np.array([w.length for w in windows], np.int64)
        self._at = np.cumsum(lengths) - lengths

    def of(self, offset: int) -> int:
        """The place of an offset that lies in a window."""
        i = int(np.searchsorted(self._starts, offset, side="right")) - 1
        return int(self._at[i]) + offset - int(self._starts[i])


def _windows(matches: Matches) -> tuple[Window, ...]:
    """What a patch needs of the base. Extents are long and ``alike`` is bounded: together they keep the limits."""
    exact = [(e.source, e.source + e.length) for e in matches.extents]
    return merge(exact + [(w.offset, w.offset + w.length) for w in matches.alike], 0)


def _searched(content: bytes, matches: Matches, place: _Places, reference: bytes) -> list[_Step]:
    """bsdiff of all gaps as one against all that looks alike as one, as steps of the segment and its reference."""
    if not matches.alike:
        return [_Step(a, b - a, None) for a, b in matches.gaps]
    old = b"".join(reference[place.of(w.offset) : place.of(w.offset) + w.length] for w in matches.alike)
    new = b"".join(content[a:b] for a, b in matches.gaps)
    control, _, _ = bsdiff4.core.diff(old, new)
    old_cuts = _Pieces([(place.of(w.offset), w.length) for w in matches.alike])
    new_cuts = _Pieces([(a, b - a) for a, b in matches.gaps])
    steps: list[_Step] = []
    at = source = 0
    for copy, literal, seek in _control(control):
        while copy:
            size = min(copy, new_cuts.left(at), old_cuts.left(source))
            steps.append(_Step(new_cuts.of(at), size, old_cuts.of(source)))
            at, source, copy = at + size, source + size, copy - size
        while literal:
            size = min(literal, new_cuts.left(at))
            steps.append(_Step(new_cuts.of(at), size, None))
            at, literal = at + size, literal - size
        source += seek
    return steps


class _Pieces:
    """Pieces (start, length) put together: from a place in the whole to the place it came from."""

    def __init__(self, pieces: Sequence[tuple[int, int]]) -> None:
        self._starts = np.array([p[0] for p in pieces], np.int64)
        self._ends = np.cumsum([p[1] for p in pieces])
        self._lengths = np.array([p[1] for p in pieces], np.int64)

    def _number(self, at: int) -> int:
        return int(np.searchsorted(self._ends, at, side="right"))

    def left(self, at: int) -> int:
        """How many bytes the piece has from here on."""
        return int(self._ends[self._number(at)]) - at

    def of(self, at: int) -> int:
        """Where it came from."""
        i = self._number(at)
        return int(self._starts[i] + self._lengths[i]) - (int(self._ends[i]) - at)


def _control(control: bytes | Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """bsdiff4's control: tuples up to 1.2, bytes of its file format (sign and magnitude) since 1.3."""
    if not isinstance(control, bytes):
        return list(control)
    words = struct.unpack(f"<{len(control) // 8}Q", control)
    numbers = iter([-(w & (1 << 63) - 1) if w >> 63 else w for w in words])
    return list(zip(numbers, numbers, numbers, strict=True))


def _as_patch(steps: Sequence[_Step], content: bytes, reference: bytes) -> Patch:
    """Steps in the order of the segment as the columns of a patch; neighbours that go on become one."""
    rows: list[list[int]] = []  # copy, literal, source
    for step in steps:
        last = rows[-1] if rows else None
        if step.source is None:
            if last:
                last[1] += step.length
            else:
                rows.append([0, step.length, 0])
        elif last and not last[1] and last[2] + last[0] == step.source:
            last[0] += step.length
        else:
            rows.append([step.length, 0, step.source])
    table = np.array(rows, np.int64).reshape(-1, 3)
    copies, literals, sources = table[:, 0].copy(), table[:, 1].copy(), table[:, 2]
    expected = np.concatenate([np.zeros(1, np.int64), (sources + copies)[:-1]])[: len(sources)]
    fresh, old = np.frombuffer(content, np.uint8), np.frombuffer(reference, np.uint8)
    plain, literal = [], []
    at = 0
    for copy, new, source in rows:
        plain.append(fresh[at : at + copy] - old[source : source + copy])
        literal.append(content[at + copy : at + copy + new])
        at += copy + new
    differences = np.concatenate(plain) if plain else np.zeros(0, np.uint8)
    changed = np.flatnonzero(differences).astype(np.int64)
    return Patch(
        copies=copies,
        literals=literals,
        seeks=sources - expected,
        literal=b"".join(literal),
        changed=changed,
        differences=differences[changed].tobytes(),
    )


def _with_zstd(content: bytes, reference: bytes, listed: bytes, best_bytes: int) -> list[tuple[Method, bytes]]:
    """What compression alone can do. The slow level only where the quick one comes near the best so far."""
    made = []
    if len(_compressed(content, b"", QUICK_LEVEL)) < 1.5 * best_bytes:
        made.append((Method.ZSTD, _compressed(content, b"", LEVEL)))
    if reference and len(_compressed(content, reference, QUICK_LEVEL)) < 1.5 * best_bytes:
        made.append((Method.REFERENCE, listed + _compressed(content, reference, LEVEL)))
    return made


def _compressed(content: bytes, dictionary: bytes, level: int) -> bytes:
    """A frame that tells its size and needs no window beyond it."""
    bits = max((len(content) + len(dictionary)).bit_length(), 10)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=len(content), dict_size=len(dictionary), window_log=bits, write_content_size=1
    )
    known = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    if dictionary:
        return zstandard.ZstdCompressor(dict_data=known, compression_params=parameters).compress(content)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(content)
