"""The bus-load generator: frames at a rate or at a share of what the bus can carry, numbered so that loss shows.

The first four bytes of each payload are the frame's number on its bus (little-endian); the rest is seeded noise. Bus
share is computed without stuff bits, so a real bus is a little fuller than asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbc.frames import BRS, EXTENDED, FD, FrameBatch
from simulator.pacing import Pacer
from simulator.runner import Summary
from simulator.sinks import Sink

TICK_NS = 10_000_000
FLOOD_FRAMES = 500
FD_LENGTHS = (*range(9), 12, 16, 20, 24, 32, 48, 64)
MAX_IDS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """What to send on each bus; ``rate`` frames per second, 0 for as many as go."""

    rate: float
    ids: tuple[int, ...] = tuple(range(0x100, 0x140))
    extended: bool = False
    fd: bool = False
    length: int = 8
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse what no bus carries; raises ``ValueError``."""
        highest = 0x1FFFFFFF if self.extended else 0x7FF
        if not self.ids or len(self.ids) > MAX_IDS or not all(0 <= i <= highest for i in self.ids):
            raise ValueError(f"identifiers must be 1 to {MAX_IDS}, from 0 to {highest:X}")
        if self.length not in (FD_LENGTHS if self.fd else range(9)):
            raise ValueError(f"length {self.length}: no such {'CAN FD' if self.fd else 'CAN'} frame")
        if not 0 <= self.rate <= 1e6:
            raise ValueError(f"rate {self.rate}: 0 to 1,000,000 frames per second")


def parse_ids(text: str) -> tuple[int, ...]:
    """From ``100-13F,7DF`` (hexadecimal, with or without 0x).

    Raises:
        ValueError: not of that form, or more than ``MAX_IDS``.
    """
    out: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        try:
            first = int(low, 16)
            last = int(high, 16) if dash else first
        except ValueError:
            raise ValueError(f"identifiers {part!r}: expected hexadecimal such as 100-13F") from None
        if last < first or len(out) + last - first >= MAX_IDS:
            raise ValueError(f"identifiers {part!r}: backwards, or more than {MAX_IDS}")
        out += range(first, last + 1)
    return tuple(out)


def frame_seconds(
    length: int, *, extended: bool, fd: bool, bitrate_bps: int, data_bitrate_bps: int = 2_000_000
) -> float:
    """How long a frame occupies the bus, without stuff bits, with the pause after it."""
    if not fd:
        return ((67 if extended else 47) + 8 * length) / bitrate_bps
    arbitration = (48 if extended else 30) / bitrate_bps
    return arbitration + (8 * length + (21 if length > 16 else 17) + 15) / data_bitrate_bps


class LoadGenerator:
    """Makes the frames of successive stretches of time."""

    def __init__(self, settings: LoadSettings, buses: int) -> None:
        self._s = settings
        self._buses = buses
        self._rng = np.random.default_rng(settings.seed)
        self._ids = np.asarray(settings.ids, np.uint32)
        self._made = 0
        self.now_ns = 0

    def advance(self, duration_ns: int) -> FrameBatch:
        """Frames of the next ``duration_ns``, evenly spaced; with rate 0, ``FLOOD_FRAMES`` for each bus."""
        end_ns = self.now_ns + duration_ns
        if self._s.rate:
            last = int(end_ns * self._s.rate / 1e9)
            number = np.arange(self._made, last)
            time_ns = (number * (1e9 / self._s.rate)).astype(np.int64)
        else:
            number = np.arange(self._made, self._made + FLOOD_FRAMES)
            time_ns = np.full(len(number), self.now_ns)
        self._made += len(number)
        self.now_ns = end_ns
        return self._frames(number, time_ns)

    def _frames(self, number: NDArray[np.int64], time_ns: NDArray[np.int64]) -> FrameBatch:
        s = self._s
        batch = FrameBatch.empty(len(number) * self._buses)
        batch.timestamp_ns[:] = np.repeat(time_ns, self._buses)
        batch.bus[:] = np.tile(np.arange(self._buses), len(number))
        batch.can_id[:] = np.repeat(self._ids[number % len(self._ids)], self._buses)
        batch.flags[:] = (EXTENDED if s.extended else 0) | (FD | BRS if s.fd else 0)
        batch.length[:] = s.length
        batch.data[:, : s.length] = self._rng.integers(0, 256, (len(batch), s.length), np.uint8)
        counted = np.repeat(number, self._buses).astype("<u4").view(np.uint8).reshape(-1, 4)
        batch.data[:, : min(4, s.length)] = counted[:, : min(4, s.length)]
        return batch


def load(
    settings: LoadSettings, names: tuple[str, ...], sink: Sink, pacer: Pacer, *, duration_s: float, paced: bool = True
) -> Summary:
    """Load the buses ``names`` for ``duration_s`` seconds; ``sink`` numbers its buses in the same order.

    Not ``paced``, time is the frames' own and nobody waits; that needs a rate.

    Raises:
        ValueError: the duration is not positive, or as many as go without pacing.
    """
    if not 0 < duration_s <= 1e8:
        raise ValueError(f"duration {duration_s} is out of range")
    if not paced and not settings.rate:
        raise ValueError("rate 0 needs a bus to fill")
    generator = LoadGenerator(settings, len(names))
    began_s = deadline_s = pacer.now_s()
    behind_s = 0.0
    end_ns = round(duration_s * 1e9)
    while not pacer.stopped and generator.now_ns < end_ns:
        step_ns = min(TICK_NS, end_ns - generator.now_ns)
        sink.send(generator.advance(step_ns))
        if not paced:
            pacer.wait_until(0.0)
        elif settings.rate:
            deadline_s += step_ns / 1e9
            behind_s = max(behind_s, pacer.now_s() - deadline_s)
            pacer.wait_until(deadline_s)
        else:
            pacer.wait_until(0.0)
            generator.now_ns = round((pacer.now_s() - began_s) * 1e9)
    return Summary(
        command="load",
        name=",".join(names),
        seed=settings.seed,
        simulated_s=generator.now_ns / 1e9,
        elapsed_s=round(pacer.now_s() - began_s, 3),
        behind_s=round(behind_s, 3),
        buses=sink.counts(),
        complete=not pacer.stopped,
        end="stopped" if pacer.stopped else "finished",
    )
