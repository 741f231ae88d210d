"""Raw integers to physical values and labels, and back.

``physical = raw * scale + offset`` in double precision; of float signals the raw integer is the bit pattern.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dbc.manifest import Kind, Manifest, Signal

_MAX_EXACT = 1 << 53


class SignalValueError(ValueError):
    """A value does not fit its signal.

    Attributes:
        signal: the signal's name.
    """

    def __init__(self, signal: str, text: str) -> None:
        super().__init__(f"{signal}: {text}")
        self.signal = signal


class Described(NamedTuple):
    """One value for people; ``label`` is empty where the value table has none."""

    value: float | int
    unit: str
    label: str


class Values:
    """Conversions for the signals of one manifest, by signal number."""

    def __init__(self, manifest: Manifest) -> None:
        self._signals = manifest.signals
        self._scale = np.array([s.scale for s in self._signals], np.float64)
        self._offset = np.array([s.offset for s in self._signals], np.float64)
        self._kind = np.array([s.kind for s in self._signals], np.uint8)
        self._wide = np.array([s.kind == Kind.UNSIGNED and s.length == 64 for s in self._signals], np.bool_)
        self._plain = not (self._wide.any() or (self._kind >= Kind.FLOAT32).any())

    def physical(self, signal: NDArray[np.integer], raw: NDArray[np.int64]) -> NDArray[np.float64]:
        """Physical values of samples; beyond 2^53 rounded to the nearest double."""
        value = raw.astype(np.float64)
        if not self._plain:
            self._reinterpret(signal, raw, value)
        with np.errstate(over="ignore", invalid="ignore"):  # a scale of 1e300 gives infinity, as in Python
            value *= self._scale.take(signal)
            value += self._offset.take(signal)
        return value

    def _reinterpret(self, signal: NDArray[np.integer], raw: NDArray[np.int64], value: NDArray[np.float64]) -> None:
        wide = self._wide.take(signal)
        if wide.any():
            value[wide] = raw[wide].view(np.uint64)
        kind = self._kind.take(signal)
        single, double = kind == Kind.FLOAT32, kind == Kind.FLOAT64
        if single.any():
            with np.errstate(invalid="ignore"):  # signalling NaNs of the bus
                value[single] = raw[single].astype(np.uint32).view(np.float32)
        if double.any():
            value[double] = raw[double].view(np.float64)

    def labels(self, signal: NDArray[np.integer], raw: NDArray[np.int64]) -> list[str]:
        """The value table's text of each sample, "" where there is none."""
        signals = self._signals
        return [signals[s].labels.get(r, "") for s, r in zip(signal.tolist(), raw.tolist(), strict=True)]

    def describe(self, signal: int, raw: int) -> Described:
        """Value, unit and label of one sample. Values with whole scale and offset stay whole numbers."""
        return describe(self._signals[signal], raw)

    def raw(self, signal: int, value: float | str) -> int:
        """The raw integer of a physical value or a label; the inverse of ``describe``.

        Raises:
            SignalValueError: out of the signal's range, not a number, or no such label.
        """
        return raw_of(self._signals[signal], value)


def describe(signal: Signal, raw: int) -> Described:
    """Value, unit and label of one raw value of ``signal``."""
    label = signal.labels.get(raw, "")
    number: float | int
    if signal.kind == Kind.FLOAT32:
        number = float(struct.unpack("<f", (raw & 0xFFFFFFFF).to_bytes(4, "little"))[0])
    elif signal.kind == Kind.FLOAT64:
        number = float(struct.unpack("<d", (raw & (1 << 64) - 1).to_bytes(8, "little"))[0])
    else:
        number = raw & (1 << 64) - 1 if signal.kind == Kind.UNSIGNED else raw
        if float(signal.scale).is_integer() and float(signal.offset).is_integer():
            return Described(number * int(signal.scale) + int(signal.offset), signal.unit, label)
    return Described(number * signal.scale + signal.offset, signal.unit, label)


def raw_range(signal: Signal) -> tuple[int, int]:
    """The smallest and largest raw integer ``length`` bits hold (bit patterns are not meant; see ``Kind``)."""
    if signal.kind == Kind.SIGNED:
        return -(1 << signal.length - 1), (1 << signal.length - 1) - 1
    return 0, (1 << signal.length) - 1


def raw_of(signal: Signal, value: float | str) -> int:
    """The raw integer of a physical value (the nearest step) or a label, as it travels: unsigned 64 as int64 pattern.

    Raises:
        SignalValueError: the value does not fit the signal's bits, is not finite, or is an unknown label.
    """
    if isinstance(value, str):
        raw = next((r for r, text in signal.labels.items() if text == value), None)
        if raw is None:
            raise SignalValueError(signal.name, f"no label {value!r}; known: {sorted(signal.labels.values())}")
        return raw
    if signal.scale == 0:
        raise SignalValueError(signal.name, "scale is 0, no raw value can be told")
    if signal.kind in (Kind.FLOAT32, Kind.FLOAT64):
        return _float_pattern(signal, (float(value) - signal.offset) / signal.scale)
    raw = _nearest_step(signal, value)
    low, high = raw_range(signal)
    if not low <= raw <= high:
        ends = sorted((describe(signal, low).value, describe(signal, high).value))
        raise SignalValueError(signal.name, f"{value} is outside {ends[0]} … {ends[1]} of its {signal.length} bits")
    return raw - (1 << 64) if raw >= 1 << 63 else raw


def _nearest_step(signal: Signal, value: float) -> int:
    if isinstance(value, int) and float(signal.scale).is_integer() and float(signal.offset).is_integer():
        quotient, rest = divmod(value - int(signal.offset), int(signal.scale))
        return quotient + (2 * abs(rest) >= abs(int(signal.scale)))
    if not math.isfinite(value):
        raise SignalValueError(signal.name, f"{value} is not a number that it can hold")
    return round((value - signal.offset) / signal.scale)


def _float_pattern(signal: Signal, value: float) -> int:
    if signal.kind == Kind.FLOAT64:
        return int.from_bytes(struct.pack("<d", value), "little", signed=True)
    try:
        return int.from_bytes(struct.pack("<f", value), "little")
    except OverflowError:
        raise SignalValueError(signal.name, f"{value} is too large for a 32-bit float") from None
