"""Where the bits of a signal lie in the eight-byte words of a payload.

A payload is read as a row of 64-bit words, once as little-endian and once as big-endian numbers. A signal is then the
left-aligned window ``word << left``, shifted right by ``right``; a signal that crosses from one word into the next
takes its window from both.
"""

from __future__ import annotations

from typing import NamedTuple

from dbc.manifest import Kind, Signal

WORD_BITS = 64
MAX_SIGNAL_BITS = 64
MAX_PAYLOAD_BITS = 512


class Place(NamedTuple):
    """``word``: index of the first word; ``skip``: bits of that word before the signal, counted from the end at which
    the signal begins; ``needs``: payload bytes that must have been received."""

    word: int
    skip: int
    crosses: bool
    needs: int


def place_of(signal: Signal) -> Place:
    """The words a signal lies in. ``needs`` may be more than any frame has: such a signal is never present."""
    first = 8 * (signal.start // 8) + 7 - signal.start % 8 if signal.big_endian else signal.start
    word, skip = divmod(first, WORD_BITS)
    last = first + signal.length - 1
    return Place(word, skip, last // WORD_BITS != word, last // 8 + 1)


def problem_of(signal: Signal) -> str | None:
    """Why a signal cannot be decoded, or None. The rest of its message still is."""
    if not 1 <= signal.length <= MAX_SIGNAL_BITS:
        return f"{signal.length} bits long; 1 to {MAX_SIGNAL_BITS} can be decoded"
    if signal.start < 0:
        return f"starts at bit {signal.start}"
    wanted = {Kind.FLOAT32: 32, Kind.FLOAT64: 64}.get(signal.kind)
    if wanted is not None and signal.length != wanted:
        return f"a {wanted}-bit float of {signal.length} bits"
    place = place_of(signal)
    if place.needs * 8 > MAX_PAYLOAD_BITS:
        return f"ends in byte {place.needs - 1}; a payload has at most {MAX_PAYLOAD_BITS // 8} bytes"
    return None


class Segment(NamedTuple):
    """The part of a signal inside one payload byte: ``(raw >> value_shift & mask) << byte_shift`` lies in ``byte``."""

    byte: int
    byte_shift: int
    value_shift: int
    mask: int


def segments_of(signal: Signal) -> tuple[Segment, ...]:
    """The bytes a signal lies in, from its least significant bits up."""
    segments = []
    done = 0
    if signal.big_endian:
        last = 8 * (signal.start // 8) + 7 - signal.start % 8 + signal.length - 1
        byte, bit = last // 8, 7 - last % 8
        step = -1
    else:
        byte, bit = divmod(signal.start, 8)
        step = 1
    while done < signal.length:
        width = min(8 - bit, signal.length - done)
        segments.append(Segment(byte, bit, done, (1 << width) - 1))
        done += width
        byte, bit = byte + step, 0
    return tuple(segments)
