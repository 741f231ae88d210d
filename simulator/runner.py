"""Runs a simulation against time: a tick of frames to the sink, then wait for the next; and tells what it did."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from dbc.files import write_atomically
from simulator.generator import STEP_NS, Simulation
from simulator.pacing import Pacer
from simulator.sinks import BusCount, Sink

TICK_NS = 20_000_000
UNPACED_NS = 1_000_000_000


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a run did. ``frames`` is what was handed over, exactly."""

    command: str
    name: str
    seed: int | None = None
    simulated_s: float = 0.0
    elapsed_s: float = 0.0
    behind_s: float = 0.0
    buses: dict[str, BusCount]
    commands_accepted: int = 0
    commands_refused: int = 0
    skipped_lines: int = 0
    complete: bool = True
    end: str = "finished"

    @property
    def frames(self) -> int:
        """Frames sent on all buses."""
        return sum(count.sent for count in self.buses.values())

    @property
    def failed(self) -> int:
        """Frames that could not be sent."""
        return sum(count.failed for count in self.buses.values())

    def as_dict(self) -> dict[str, Any]:
        """For machines; the keys are described in docs/bench-technician/simulator.md."""
        return {**asdict(self), "frames": self.frames, "failed": self.failed}

    def as_text(self) -> str:
        """For people, aligned."""
        lines = [
            f"{self.command} {self.name}: {self.end} after {self.simulated_s:.1f} s, {self.elapsed_s:.1f} s of ours"
        ]
        lines.append(f"{'bus':<12}{'sent':>12}{'failed':>10}{'retried':>10}{'error frames':>14}")
        for name, count in self.buses.items():
            lines.append(f"{name:<12}{count.sent:>12}{count.failed:>10}{count.retried:>10}{count.error_frames:>14}")
        lines.append(f"{'all':<12}{self.frames:>12}{self.failed:>10}")
        if self.behind_s > 0.1:
            lines.append(f"could not keep up: {self.behind_s:.1f} s behind at worst")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write the JSON through a temporary file, so that a reader never sees half of it."""
        write_atomically(path, (json.dumps(self.as_dict(), indent=1) + "\n").encode())


class Ears(Protocol):
    """Whether the ECU of a DBC node hears normal messages."""

    def is_deaf(self, node: str) -> bool:
        """It does not: it is down, or was told so."""


class Runner:
    """Drives a simulation. ``speed`` 0 is as fast as it goes."""

    def __init__(
        self,
        simulation: Simulation,
        sink: Sink,
        pacer: Pacer,
        *,
        speed: float,
        duration_s: float,
        ears: Ears | None = None,
    ) -> None:
        """``ears``: asked whether the body controller listens; it does if nobody can be asked.

        Raises:
            ValueError: a speed or a duration that is negative or no number.
        """
        if not 0 <= speed <= 1000 or not 0 < duration_s <= 1e8:
            raise ValueError(f"speed {speed} or duration {duration_s} is out of range")
        self.simulation = simulation
        self.sink = sink
        self._ears = ears
        self._pacer = pacer
        self.speed = speed
        self.duration_s = duration_s
        self.paused = False
        self.stop_requested = False
        self._behind_s = 0.0

    def run(self) -> Summary:
        """Until the duration is over or it is stopped. The sink is not closed.

        Raises:
            OSError: a log cannot be written.
        """
        simulation, pacer = self.simulation, self._pacer
        began_s = deadline_s = pacer.now_s()
        end_ns = round(self.duration_s * 1e9)
        while simulation.now_ns < end_ns and not (pacer.stopped or self.stop_requested):
            if self.paused:
                deadline_s = pacer.now_s() + 0.05
                pacer.wait_until(deadline_s)
                continue
            for bus, can_id, payload in self.sink.receive():
                if self._ears is None or not self._ears.is_deaf("BCM"):
                    simulation.actuators.receive(bus, can_id, payload)
            step_ns = min(self._tick_ns(), -(-(end_ns - simulation.now_ns) // STEP_NS) * STEP_NS)
            self.sink.send(simulation.advance(step_ns))
            if self.speed:
                deadline_s += step_ns / 1e9 / self.speed
                late_s = pacer.now_s() - deadline_s
                self._behind_s = max(self._behind_s, late_s)
                if late_s > 5:  # time jumped or the machine slept: go on from now rather than in one burst
                    deadline_s = pacer.now_s()
                pacer.wait_until(deadline_s)
            else:
                pacer.wait_until(0.0)  # handles signals and the control socket
        complete = simulation.now_ns >= end_ns
        return Summary(
            command="run",
            name=simulation.scenario.name,
            seed=simulation.seed,
            simulated_s=simulation.now_ns / 1e9,
            elapsed_s=round(pacer.now_s() - began_s, 3),
            behind_s=round(self._behind_s, 3),
            buses=self.sink.counts(),
            commands_accepted=simulation.actuators.accepted,
            commands_refused=simulation.actuators.refused,
            complete=complete,
            end="finished" if complete else "stopped",
        )

    def _tick_ns(self) -> int:
        if not self.speed:
            return UNPACED_NS
        if self.speed < 1:
            return STEP_NS
        # The same 20 ms of ours whatever the speed, at most half a second of the vehicle's.
        return min(500_000_000, max(TICK_NS, round(TICK_NS * self.speed / STEP_NS) * STEP_NS))
