"""An ECU in memory, with a tester's hand on it."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from simulator.ecu.description import EcuDescription, load_description
from simulator.ecu.keys import ALGORITHMS
from simulator.ecu.server import EcuServer
from simulator.ecu.services import build_server
from simulator.ecu.storage import NvStore
from simulator.ecu.vehicle import FakeVehicle


@cache
def shipped(name: str) -> EcuDescription:
    """A shipped description, read once."""
    return load_description(name)


class Bench:
    """One ECU, a vehicle of constants, and a clock that only moves when told."""

    def __init__(
        self, ecu: str | EcuDescription = "motor", *, folder: Path | None = None, seed: int = 1, now_s: float = 100.0
    ) -> None:
        description = shipped(ecu) if isinstance(ecu, str) else ecu
        self.vehicle = FakeVehicle()
        self.vehicle.values["body.LowVoltage.BatteryVoltage"] = 13.8
        self.nv = NvStore(folder, description.name)
        self.now_s = now_s
        self.server: EcuServer = build_server(
            description, self.vehicle, self.nv, now_s, random=random.Random(seed).randbytes
        )
        self.context = self.server.context

    def ask(self, request: str | bytes, *, functional: bool = False) -> list[str]:
        """All answers that come at once, as hex."""
        raw = bytes.fromhex(request) if isinstance(request, str) else request
        out = self.server.receive(raw, functional=functional, now_s=self.now_s)
        return [o.pdu.hex(" ").upper() for o in out]

    def one(self, request: str | bytes, *, functional: bool = False) -> str:
        """The only answer, "" for none; waits out what is pending."""
        answers = self.ask(request, functional=functional)
        for _ in range(100_000):
            if answers and not answers[-1].endswith(" 78"):
                break
            if self.server.state()["busy_with"] is None:
                break
            deadline = self.server.next_deadline_s()
            assert deadline is not None
            answers = self.advance(max(0.0, deadline - self.now_s)) or answers
        return answers[-1] if answers else ""

    def advance(self, seconds: float) -> list[str]:
        """Let time pass; what is sent meanwhile."""
        end_s = self.now_s + seconds
        out = []
        while True:
            deadline = self.server.next_deadline_s()
            self.now_s = min(end_s, max(self.now_s + 0.01, deadline if deadline is not None and seconds > 60 else 0.0))
            self.vehicle.now_s = self.now_s
            out += [o.pdu.hex(" ").upper() for o in self.server.poll(self.now_s)]
            if self.now_s >= end_s:
                return out

    def power_cycle(self) -> None:
        """Off and on, and booted."""
        self.server.power_off(self.now_s)
        self.server.power_on(self.now_s)
        self.advance(self.server.description.timing.boot_s + 0.02)


def unlock(bench: Bench, level: int) -> None:
    """Seed and key; asserts that it worked."""
    answer = bytes.fromhex(bench.one(bytes([0x27, level])))
    assert answer[:2] == bytes([0x67, level])
    about = next(s for s in bench.server.description.security if s.level == level)
    key = ALGORITHMS[about.algorithm](answer[2:], bytes.fromhex(about.constant))
    assert bench.one(bytes([0x27, level + 1]) + key) == f"67 {level + 1:02X}"
