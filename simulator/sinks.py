"""What takes the simulator's frames: buses, a log, or nothing but a counter; and what they counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from dbc.frames import ERROR, FrameBatch
from dbc.logs import CandumpWriter
from simulator.ports import BusPort


@dataclass(frozen=True, slots=True, kw_only=True)
class BusCount:
    """Exact counts of one bus: ``sent + failed`` frames were made. Error frames are among them and told apart."""

    made: int
    sent: int
    failed: int
    retried: int
    error_frames: int


class Sink(Protocol):
    """Takes batches of frames."""

    def send(self, frames: FrameBatch) -> None:
        """Take frames in their order."""

    def receive(self) -> list[tuple[int, int, bytes]]:
        """(bus index, identifier, payload) that came in, without waiting."""

    def counts(self) -> dict[str, BusCount]:
        """Per bus name."""

    def close(self) -> None:
        """Finish."""


class CountingSink:
    """Counts frames and drops them; the base of the others."""

    def __init__(self, buses: Sequence[str]) -> None:
        self.buses = tuple(buses)
        self._made = np.zeros(len(self.buses), np.int64)
        self._errors = np.zeros(len(self.buses), np.int64)

    def send(self, frames: FrameBatch) -> None:
        """See ``Sink``."""
        self._made += np.bincount(frames.bus, minlength=len(self.buses))
        self._errors += np.bincount(frames.bus[frames.flags & ERROR != 0], minlength=len(self.buses))

    def receive(self) -> list[tuple[int, int, bytes]]:
        """See ``Sink``."""
        return []

    def counts(self) -> dict[str, BusCount]:
        """See ``Sink``."""
        return {
            name: BusCount(
                made=int(self._made[i]), sent=int(self._made[i]), failed=0, retried=0, error_frames=int(self._errors[i])
            )
            for i, name in enumerate(self.buses)
        }

    def close(self) -> None:
        """See ``Sink``."""


class LogSink(CountingSink):
    """A candump log; ``.xz`` at the end of its name compresses it."""

    def __init__(self, path: Path, buses: Sequence[str]) -> None:
        """Raises ``OSError`` if the file cannot be made."""
        super().__init__(buses)
        self._path = path
        self._writer = CandumpWriter(path, buses)

    def send(self, frames: FrameBatch) -> None:
        """See ``Sink``; raises ``OSError`` (disk full)."""
        with self._named():
            self._writer.write(frames)
        super().send(frames)

    def close(self) -> None:
        """See ``Sink``; raises ``OSError`` (disk full)."""
        with self._named():
            self._writer.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """An error of writing does not tell the file by itself."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or str(self._path)
            raise


class BusSink(CountingSink):
    """Ports by bus; a bus without one is counted and dropped."""

    def __init__(self, buses: Sequence[str], ports: Mapping[str, BusPort]) -> None:
        super().__init__(buses)
        self.ports = {self.buses.index(name): port for name, port in ports.items()}

    def send(self, frames: FrameBatch) -> None:
        """See ``Sink``."""
        super().send(frames)
        for bus, port in self.ports.items():
            mine = np.flatnonzero(frames.bus == bus)
            if len(mine):
                port.send(frames.take(mine))

    def receive(self) -> list[tuple[int, int, bytes]]:
        """See ``Sink``."""
        return [(bus, *received) for bus, port in self.ports.items() for received in port.receive()]

    def counts(self) -> dict[str, BusCount]:
        """See ``Sink``; only buses that have a port."""
        out = {}
        for bus, port in self.ports.items():
            out[self.buses[bus]] = BusCount(
                made=int(self._made[bus]), sent=port.sent, failed=port.failed, retried=port.retried,
                error_frames=int(self._errors[bus]),
            )  # fmt: skip
        return out

    def close(self) -> None:
        """See ``Sink``."""
        for port in self.ports.values():
            port.close()


class Tee:
    """Everything to ``first``, whose counts are told, and a copy to ``second``."""

    def __init__(self, first: Sink, second: Sink) -> None:
        self.first, self._second = first, second

    def send(self, frames: FrameBatch) -> None:
        """See ``Sink``."""
        self.first.send(frames)
        self._second.send(frames)

    def receive(self) -> list[tuple[int, int, bytes]]:
        """See ``Sink``."""
        return self.first.receive()

    def counts(self) -> dict[str, BusCount]:
        """See ``Sink``."""
        return self.first.counts()

    def close(self) -> None:
        """See ``Sink``."""
        self.first.close()
        self._second.close()
