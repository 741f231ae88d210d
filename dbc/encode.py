"""Values to payloads: the inverse of ``dbc.decode``, one frame at a time or in columns.

Signals that are not given take their start value (0 without one); bits of no signal are 0. Only signals that the
given selectors choose are written; where signals overlap, their bits are or-ed. Checksums are filled in by
``dbc.integrity`` unless they are given.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dbc.decode.layout import Segment, problem_of, segments_of
from dbc.decode.values import SignalValueError, raw_of, raw_range
from dbc.integrity import Rule, rule_of
from dbc.manifest import Kind, Manifest, Message, Signal


class MessageEncoder:
    """Encodes one message; everything that does not depend on values is worked out once.

    Attributes:
        message: the layout.
        number: its number in the manifest.
        rule: its checksum and counter, if it has any.
    """

    def __init__(self, manifest: Manifest, number: int) -> None:
        self.message: Message = manifest.messages[number]
        self.number = number
        self.rule: Rule | None = rule_of(manifest, number)
        self._index = {s.name: i for i, s in enumerate(self.message.signals)}
        self._problems = [self._problem(s) for s in self.message.signals]
        self._parts: list[tuple[Segment, ...]] = [
            () if problem else segments_of(s) for s, problem in zip(self.message.signals, self._problems, strict=True)
        ]
        self._defaults = [_default(s) for s in self.message.signals]
        self._ranges = [_pattern_range(s) for s in self.message.signals]
        self._checksum = self.rule.checksum.name if self.rule and self.rule.checksum else ""
        self._plan_columns()

    def _problem(self, signal: Signal) -> str | None:
        why = problem_of(signal)
        if why is None and max(s.byte for s in segments_of(signal)) >= self.message.length:
            why = f"lies past the {self.message.length} bytes of its message"
        return why

    def encode(self, values: Mapping[str, float | str], *, strict: bool = True) -> bytes:
        """The payload with these physical values or labels.

        Args:
            values: by signal name.
            strict: refuse values outside the range the DBC declares; without it only what the bits cannot hold.

        Raises:
            SignalValueError: an unknown or unencodable signal, a value out of range, an unknown label, or a signal
                that the selectors do not choose.
        """
        raw = {}
        for name, value in values.items():
            signal = self._signal(name)
            if strict:
                _check_declared(signal, value)
            raw[name] = raw_of(signal, value)
        return self.encode_raw(raw)

    def encode_raw(self, raw: Mapping[str, int]) -> bytes:
        """The payload with these raw integers; see ``encode``."""
        numbers = list(self._defaults)
        for name, value in raw.items():
            index = self._usable(name)
            low, high = self._ranges[index]
            if not low <= value <= high:
                raise SignalValueError(name, f"raw value {value} is outside {low} … {high}")
            numbers[index] = value
        payload = bytearray(self.message.length)
        for index, parts in enumerate(self._parts):
            if self.message.signals[index].mux and not self._chosen(index, numbers):
                if (name := self.message.signals[index].name) in raw:
                    raise SignalValueError(name, "not present with the selector values given")
                continue
            value = numbers[index]
            for byte, byte_shift, value_shift, mask in parts:
                payload[byte] |= (value >> value_shift & mask) << byte_shift
        if self._checksum and self._checksum not in raw and self.rule is not None:
            data = np.frombuffer(payload, np.uint8).reshape(1, -1)
            self.rule.fill(data, self.message.length)
        return bytes(payload)

    def encode_columns(self, raw: Mapping[str, NDArray[np.int64] | int], count: int | None = None) -> NDArray[np.uint8]:
        """Many payloads: uint8[count, length]; see ``encode_into``. ``count`` is told when no value is an array."""
        if count is None:
            count = next((len(v) for v in raw.values() if isinstance(v, np.ndarray)), 1)
        data = np.zeros((count, self.message.length), np.uint8)
        self.encode_into(raw, data)
        return data

    def encode_into(self, raw: Mapping[str, NDArray[np.int64] | int], data: NDArray[np.uint8]) -> None:
        """Write many payloads into the rows of ``data`` (at least as wide as the message), replacing what is there.

        Args:
            raw: by signal name, an array with one raw integer per row, or one for all rows. Where the selectors of a
                row do not choose a signal, its value in that row is ignored.
            data: for instance ``FrameBatch.data``.

        Raises:
            SignalValueError: an unknown or unencodable signal, or a value that its bits cannot hold.
        """
        values = np.empty((len(data), len(self._defaults)), np.int64)
        values[:] = self._defaults
        for name, column in raw.items():
            values[:, self._usable(name)] = column
        if len(values) and ((values < self._low) | (values > self._high)).any():
            self._refuse(values)
        data[:] = 0
        if len(self._part_signal):
            parts = values.take(self._part_signal, axis=1)
            parts >>= self._part_value_shift
            parts &= self._part_mask
            parts <<= self._part_byte_shift
            for part, index in self._conditional:
                parts[:, part] *= self._chosen_rows(index, values)[:, None]
            data[:, self._bytes] = np.bitwise_or.reduceat(parts, self._byte_starts, axis=1)
        if self._checksum and self._checksum not in raw and self.rule is not None:
            self.rule.fill(data, self.message.length)

    def _plan_columns(self) -> None:
        """Tables for ``encode_into``: one column per part of a signal in a byte, ordered by byte."""
        parts = sorted((p, i) for i, ps in enumerate(self._parts) for p in ps)
        self._low = np.array([low for low, _ in self._ranges], np.int64)
        self._high = np.array([min(high, (1 << 63) - 1) for _, high in self._ranges], np.int64)
        self._part_signal = np.array([i for _, i in parts], np.intp)
        self._part_value_shift = np.array([p.value_shift for p, _ in parts], np.int64)
        self._part_mask = np.array([p.mask for p, _ in parts], np.int64)
        self._part_byte_shift = np.array([p.byte_shift for p, _ in parts], np.int64)
        self._bytes, self._byte_starts = np.unique(np.array([p.byte for p, _ in parts], np.intp), return_index=True)
        self._conditional = [
            (np.flatnonzero(self._part_signal == i), i) for i, s in enumerate(self.message.signals) if s.mux
        ]

    def _refuse(self, values: NDArray[np.int64]) -> None:
        wrong = ((values < self._low) | (values > self._high)).any(axis=0)
        index = int(np.flatnonzero(wrong)[0])
        low, high = self._ranges[index]
        column = values[:, index]
        raise SignalValueError(
            self.message.signals[index].name,
            f"raw values {column.min()} … {column.max()} are outside {low} … {high}",
        )

    def _signal(self, name: str) -> Signal:
        index = self._index.get(name)
        if index is None:
            raise SignalValueError(name, f"no signal of message {self.message.name}")
        return self.message.signals[index]

    def _usable(self, name: str) -> int:
        index = self._index.get(name)
        if index is None:
            raise SignalValueError(name, f"no signal of message {self.message.name}")
        if problem := self._problems[index]:
            raise SignalValueError(name, problem)
        return index

    def _chosen(self, index: int, numbers: list[int]) -> bool:
        return all(
            any(low <= numbers[branch.selector] <= high for low, high in branch.ranges)
            for branch in self.message.signals[index].mux
        )

    def _chosen_rows(self, index: int, values: NDArray[np.int64]) -> NDArray[np.bool_]:
        chosen = np.ones(len(values), np.bool_)
        for branch in self.message.signals[index].mux:
            selector = values[:, branch.selector]
            inside = np.zeros(len(values), np.bool_)
            for low, high in branch.ranges:
                inside |= (selector >= low) & (selector <= high)
            chosen &= inside
        return chosen


class Encoder:
    """Encodes the messages of one manifest, named ``message`` where that is unique, ``bus.message``, or by number."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._numbers: dict[str, int] = {}
        ambiguous: set[str] = set()
        for number, message in enumerate(manifest.messages):
            if message.name in self._numbers:
                ambiguous.add(message.name)
            self._numbers.setdefault(message.name, number)
            self._numbers.setdefault(f"{manifest.buses[message.bus]}.{message.name}", number)
        for name in ambiguous:
            del self._numbers[name]
        self._plans: dict[int, MessageEncoder] = {}

    def plan(self, message: int | str) -> MessageEncoder:
        """The encoder of one message, worked out on first use.

        Raises:
            KeyError: no such message, or a name that several buses use.
        """
        number = self._numbers[message] if isinstance(message, str) else message
        found = self._plans.get(number)
        if found is None:
            if not 0 <= number < len(self.manifest.messages):
                raise KeyError(message)
            found = self._plans[number] = MessageEncoder(self.manifest, number)
        return found

    def encode(self, message: int | str, values: Mapping[str, float | str], *, strict: bool = True) -> bytes:
        """The payload of a message with these physical values or labels; see ``MessageEncoder.encode``."""
        return self.plan(message).encode(values, strict=strict)

    def encode_columns(
        self, message: int | str, raw: Mapping[str, NDArray[np.int64] | int], count: int | None = None
    ) -> NDArray[np.uint8]:
        """Many payloads of a message: uint8[n, length]; see ``MessageEncoder.encode_columns``."""
        return self.plan(message).encode_columns(raw, count)


def _check_declared(signal: Signal, value: float | str) -> None:
    low, high = signal.minimum, signal.maximum
    if isinstance(value, str) or low is None or high is None or low >= high:
        return
    if not low <= value <= high:
        raise SignalValueError(signal.name, f"{value} is outside {low} … {high} {signal.unit}".rstrip())


def _default(signal: Signal) -> int:
    """The start value, if its bits can hold it."""
    low, high = _pattern_range(signal)
    return signal.initial if signal.initial is not None and low <= signal.initial <= high else 0


def _pattern_range(signal: Signal) -> tuple[int, int]:
    """Raw values that are accepted: those of ``raw_range``, 64-bit ones as int64 patterns as well."""
    low, high = raw_range(signal)
    if signal.kind in (Kind.FLOAT64, Kind.UNSIGNED) and signal.length == 64:
        low = -(1 << 63)
    return low, high
