"""Numbers out of many lines of text at once: the tools of the fast log parsers.

All functions work on a text held as uint8 with ``MARGIN`` zero bytes before and after it, so that windows may reach
past its ends, and on arrays of positions in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MARGIN = 160
_INVALID = 255

_HEX = np.full(256, _INVALID, np.uint8)
_HEX[np.frombuffer(b"0123456789", np.uint8)] = np.arange(10)
_HEX[np.frombuffer(b"abcdef", np.uint8)] = np.arange(10, 16)
_HEX[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)
_DECIMAL = np.where(_HEX < 10, _HEX, _INVALID).astype(np.uint8)


def padded(text: bytes) -> NDArray[np.uint8]:
    """``text`` with its margins."""
    buffer = np.zeros(len(text) + 2 * MARGIN, np.uint8)
    buffer[MARGIN : MARGIN + len(text)] = np.frombuffer(text, np.uint8)
    return buffer


def next_of(positions: NDArray[np.intp], after: NDArray[np.intp], end: int) -> NDArray[np.intp]:
    """For each of ``after`` the first position that is not before it, ``end`` where there is none."""
    return np.append(positions, end).take(np.searchsorted(positions, after))


def number(
    buffer: NDArray[np.uint8], first: NDArray[np.intp], end: NDArray[np.intp], base: int, most_digits: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The numbers written at ``first`` up to ``end``, and where they are numbers of 1 to ``most_digits`` digits."""
    table = _HEX if base == 16 else _DECIMAL
    width = end - first
    good = (width > 0) & (width <= most_digits)
    value = np.zeros(len(first), np.int64)
    for back in range(min(int(width.max(initial=0)), most_digits), 0, -1):
        digit = table.take(buffer.take(end - back, mode="clip"))
        inside = width >= back
        good &= ~inside | (digit != _INVALID)
        value *= base
        value += np.where(inside, digit, 0)
    return value, good


def hex_bytes(
    buffer: NDArray[np.uint8], first: NDArray[np.intp], count: NDArray[np.intp], stride: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """``count`` bytes of two hexadecimal digits each, ``stride`` characters apart, and where all are such.

    Returns:
        uint8[n, max(count)], zero past each row's count, and bool[n].
    """
    widest = int(count.max(initial=0))
    steps = np.arange(widest)
    at = first[:, None] + stride * steps
    high = _HEX.take(buffer.take(at, mode="clip"))
    at += 1
    low = _HEX.take(buffer.take(at, mode="clip"))
    inside = steps < count[:, None]
    good = np.logical_not((((high | low) > 15) & inside).any(axis=1))
    high <<= 4
    high |= low
    high *= inside
    return high, good


def words(buffer: NDArray[np.uint8], first: NDArray[np.intp], end: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Up to 16 characters at ``first`` up to ``end``, as rows of two integers that are equal when the texts are."""
    steps = np.arange(16)
    text = buffer.take(first[:, None] + steps, mode="clip")
    text *= steps < (end - first)[:, None]
    return text.view(np.uint64)
