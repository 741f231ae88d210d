"""Checksums and message counters: what senders fill in and receivers verify, in whole batches.

Checksums by name:

| name | over | result |
|---|---|---|
| ``xor8`` | the covered bytes | their exclusive or |
| ``sum8`` | the covered bytes | their sum, low 8 bits |
| ``crc8-sae-j1850`` | the covered bytes | CRC-8, polynomial 0x1D, start 0xFF, result inverted |
| ``crc8-autosar`` | the covered bytes | CRC-8, polynomial 0x2F, start 0xFF, result inverted |
| ``crc16-ccitt`` | the covered bytes | CRC-16, polynomial 0x1021, start 0xFFFF |
| ``toyota`` | identifier bytes, payload length, all payload bytes but the last | their sum, low 8 bits |

The covered bytes are the payload as sent, with the bits of the checksum signal zero, followed by the message's data
id in two bytes, low byte first, when it is not zero. A checksum signal narrower than the result holds its low bits.

A counter is right when it is one more than in the frame of this message before, modulo two to its length.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dbc.decode.layout import problem_of, segments_of
from dbc.frames import FrameBatch
from dbc.manifest import Manifest, Message, Signal

CHECKSUMS: tuple[str, ...] = ("xor8", "sum8", "crc8-sae-j1850", "crc8-autosar", "crc16-ccitt", "toyota")
_NO_COUNTER = -1


def _crc_table(bits: int, polynomial: int) -> NDArray[np.int64]:
    """What one byte does to the top byte of a CRC register."""
    table = []
    for byte in range(256):
        register = byte << (bits - 8)
        for _ in range(8):
            register = (register << 1) ^ (polynomial if register >> (bits - 1) & 1 else 0)
            register &= (1 << bits) - 1
        table.append(register)
    return np.array(table, np.int64)


#: name → register bits, table, start, final exclusive or
_CRCS: dict[str, tuple[int, NDArray[np.int64], int, int]] = {
    "crc8-sae-j1850": (8, _crc_table(8, 0x1D), 0xFF, 0xFF),
    "crc8-autosar": (8, _crc_table(8, 0x2F), 0xFF, 0xFF),
    "crc16-ccitt": (16, _crc_table(16, 0x1021), 0xFFFF, 0),
}


def checksum(
    name: str,
    data: NDArray[np.uint8],
    length: NDArray[np.integer] | int,
    can_id: NDArray[np.integer] | int = 0,
    data_id: int = 0,
) -> NDArray[np.int64]:
    """The checksum of each payload.

    Args:
        name: one of ``CHECKSUMS``.
        data: uint8[n, w], payloads with the bits of the checksum itself zero; columns past the length are ignored.
        length: bytes of each payload, or of all.
        can_id: identifier of each frame, or of all; only ``toyota`` uses it.
        data_id: appended when not zero.

    Raises:
        ValueError: no such checksum, or a length beyond ``data``.
    """
    count = len(data)
    lengths = np.broadcast_to(np.asarray(length, np.int64), (count,))
    longest = int(lengths.max(initial=0))
    if longest > data.shape[1]:
        raise ValueError(f"length {longest}, but data has {data.shape[1]} bytes")
    columns = data[:, :longest].astype(np.int64)
    if int(lengths.min(initial=longest)) < longest:
        columns *= np.arange(longest) < lengths[:, None]
    tail = [data_id & 0xFF, data_id >> 8 & 0xFF] if data_id else []
    if name == "sum8":
        return np.asarray(columns.sum(axis=1) + sum(tail) & 0xFF, np.int64)
    if name == "xor8":
        start = tail[0] ^ tail[1] if tail else 0
        return np.asarray(np.bitwise_xor.reduce(columns, axis=1) ^ start, np.int64)
    if name == "toyota":
        ids = np.broadcast_to(np.asarray(can_id, np.int64), (count,))
        last = np.take_along_axis(columns, np.maximum(lengths - 1, 0)[:, None], axis=1)[:, 0] if longest else 0
        id_sum = (ids & 0xFF) + (ids >> 8 & 0xFF) + (ids >> 16 & 0xFF) + (ids >> 24)
        return np.asarray(id_sum + lengths + columns.sum(axis=1) - last & 0xFF, np.int64)
    if name not in _CRCS:
        raise ValueError(f"no checksum {name!r}; known: {', '.join(CHECKSUMS)}")
    return _crc(name, columns, lengths, tail)


def _crc(name: str, columns: NDArray[np.int64], lengths: NDArray[np.int64], tail: list[int]) -> NDArray[np.int64]:
    bits, table, start, final = _CRCS[name]
    register = np.full(len(columns), start, np.int64)
    low = (1 << bits - 8) - 1

    def step(register: NDArray[np.int64], byte: NDArray[np.int64] | int) -> NDArray[np.int64]:
        shifted = (register & low) << 8
        return np.asarray(table.take((register >> bits - 8) ^ byte) ^ shifted, np.int64)

    shortest = int(lengths.min(initial=columns.shape[1]))
    for at in range(columns.shape[1]):
        after = step(register, columns[:, at])
        register = after if at < shortest else np.where(at < lengths, after, register)
    for byte in tail:
        register = step(register, byte)
    return register ^ final


@dataclass(frozen=True)
class Rule:
    """How one message protects itself.

    Attributes:
        message: the message's number in its manifest.
        can_id: its identifier.
        algorithm: one of ``CHECKSUMS``, or "" when there is no checksum.
        checksum: the signal that holds it.
        data_id: see the module.
        counter: the counting signal, if any.

    Raises:
        ValueError: an unknown algorithm, or a signal that cannot be read.
    """

    message: int
    can_id: int
    algorithm: str = ""
    checksum: Signal | None = None
    data_id: int = 0
    counter: Signal | None = None

    def __post_init__(self) -> None:
        if self.algorithm and self.algorithm not in CHECKSUMS:
            raise ValueError(f"no checksum {self.algorithm!r}; known: {', '.join(CHECKSUMS)}")
        if bool(self.algorithm) != (self.checksum is not None):
            raise ValueError("a checksum needs both an algorithm and a signal")
        for signal in (self.checksum, self.counter):
            if signal is not None and (why := problem_of(signal)):
                raise ValueError(f"{signal.name}: {why}")

    @cached_property
    def _clear(self) -> NDArray[np.uint8]:
        """For each payload byte the bits that are not the checksum's."""
        mask = np.full(64, 0xFF, np.uint8)
        for segment in segments_of(self.checksum) if self.checksum else ():
            mask[segment.byte] &= 0xFF ^ segment.mask << segment.byte_shift
        return mask

    def expected(
        self, data: NDArray[np.uint8], length: NDArray[np.integer] | int, can_id: NDArray[np.integer] | int
    ) -> NDArray[np.int64]:
        """The raw checksum each payload should hold. Only for rules with one."""
        assert self.checksum is not None
        cleared = data & self._clear[: data.shape[1]]
        value = checksum(self.algorithm, cleared, length, can_id, self.data_id)
        return value & (1 << self.checksum.length) - 1

    def fill(self, data: NDArray[np.uint8], length: int, can_id: int | None = None) -> None:
        """Write the checksum into payloads of ``length`` bytes, in place; nothing when the rule has none."""
        if self.checksum is not None:
            value = self.expected(data, length, self.can_id if can_id is None else can_id)
            insert(self.checksum, data, value)

    def verify(self, frames: FrameBatch) -> NDArray[np.bool_]:
        """Which frames of this message hold the right checksum; one too short to hold it does not."""
        if self.checksum is None:
            return np.ones(len(frames), np.bool_)
        right = extract(self.checksum, frames.data) == self.expected(frames.data, frames.length, frames.can_id)
        return np.asarray(right & (frames.length >= _needs(self.checksum)), np.bool_)


def extract(signal: Signal, data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The signal's bits in each payload, as an unsigned number (64-bit ones as their pattern)."""
    value = np.zeros(len(data), np.int64)
    for segment in segments_of(signal):
        part = data[:, segment.byte].astype(np.int64)
        value |= (part >> segment.byte_shift & segment.mask) << segment.value_shift
    return value


def insert(signal: Signal, data: NDArray[np.uint8], raw: NDArray[np.int64] | int) -> None:
    """Replace the signal's bits in each payload, in place; excess bits of ``raw`` are dropped."""
    for segment in segments_of(signal):
        column = data[:, segment.byte]
        column &= np.uint8(0xFF ^ segment.mask << segment.byte_shift)
        column |= np.asarray((raw >> segment.value_shift & segment.mask) << segment.byte_shift, np.uint8)


def _needs(signal: Signal) -> int:
    return max(segment.byte for segment in segments_of(signal)) + 1


def rule_of(manifest: Manifest, message: int) -> Rule | None:
    """The rule a message's own signals state by their roles, None when it has neither checksum nor counter."""
    layout = manifest.messages[message]
    sum_signal = _with_role(layout, "checksum") if layout.checksum in CHECKSUMS else None
    counter = _with_role(layout, "counter")
    if sum_signal is None and counter is None:
        return None
    algorithm = layout.checksum if sum_signal is not None else ""
    return Rule(message, layout.can_id, algorithm, sum_signal, layout.checksum_data_id, counter)


def rules_of(manifest: Manifest) -> list[Rule]:
    """The rules of all messages that state one."""
    return [rule for rule in (rule_of(manifest, i) for i in range(len(manifest.messages))) if rule is not None]


def _with_role(message: Message, role: str) -> Signal | None:
    return next((s for s in message.signals if s.role == role and problem_of(s) is None), None)


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """Per frame of a batch: False where a rule finds it wrong; True also where no rule looks."""

    checksum_ok: NDArray[np.bool_]
    counter_ok: NDArray[np.bool_]


class Verifier:
    """Checks the frames of mixed batches, and remembers the last counter of each message from batch to batch.

    The first frame of a message has no predecessor and is right. A frame whose checksum is wrong says nothing about
    counting: its counter is neither judged nor remembered. After a jump, counting goes on from the new value.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = {rule.message: rule for rule in rules}
        self._last = dict.fromkeys(self._rules, _NO_COUNTER)
        self._numbers = np.array(sorted(self._rules), np.int32)

    def check(self, frames: FrameBatch, message: NDArray[np.int32]) -> Verdict:
        """Judge each frame; ``message`` is the message number of each, as the decoder tells it."""
        verdict = Verdict(np.ones(len(frames), np.bool_), np.ones(len(frames), np.bool_))
        ours = np.flatnonzero(np.isin(message, self._numbers))
        if not len(ours):
            return verdict
        order = ours[np.argsort(message[ours], kind="stable")]
        numbers, starts = np.unique(message[order], return_index=True)
        ends = np.append(starts[1:], len(order))
        for number, start, end in zip(numbers.tolist(), starts.tolist(), ends.tolist(), strict=True):
            rule, rows = self._rules[number], order[start:end]
            part = frames.take(rows)
            right = rule.verify(part)
            verdict.checksum_ok[rows] = right
            if rule.counter is not None:
                fits = right & (part.length >= _needs(rule.counter))
                verdict.counter_ok[rows[fits]] = self._count(rule, extract(rule.counter, part.data[fits]))
        return verdict

    def forget(self, message: int) -> None:
        """Start counting anew with the message's next frame, as after a timeout."""
        if message in self._last:
            self._last[message] = _NO_COUNTER

    def _count(self, rule: Rule, values: NDArray[np.int64]) -> NDArray[np.bool_]:
        if not len(values):
            return np.zeros(0, np.bool_)
        assert rule.counter is not None
        last = self._last[rule.message]
        before = np.empty_like(values)
        before[1:] = values[:-1]
        before[0] = values[0] - 1 if last == _NO_COUNTER else last
        self._last[rule.message] = int(values[-1])
        return np.asarray((values - before - 1) & (1 << rule.counter.length) - 1 == 0, np.bool_)
