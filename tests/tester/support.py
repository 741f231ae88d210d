"""The simulated vehicle as a process, and the tool called as a user would."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support import ROOT

GROUPS = {"powertrain": "239.74.163.2", "battery": "239.74.163.3", "body": "239.74.163.4", "chassis": "239.74.163.5",
          "auxiliary": "239.74.163.6"}  # fmt: skip
START_S = 60.0


def free_port() -> int:
    """A UDP port nobody has now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def control(path: Path, request: Mapping[str, object]) -> dict[str, Any]:
    """One request to the simulation's control socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(path))
        sock.sendall(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(sock.makefile().readline())
        return answer


class Vehicle:
    """A running simulation, on multicast groups of its own port."""

    def __init__(self, folder: Path, port: int | None) -> None:
        """``port`` None: on vcan0 to vcan4 instead."""
        self.folder, self.port = folder, port
        self.interface = "socketcan" if port is None else "udp_multicast"
        self.socket = folder / "control"
        self.description = folder / "ecus.json"

    def channel(self, bus: str) -> str:
        """``GROUP:PORT`` or the interface of a bus; "diagnostic" too."""
        if self.port is None:
            return f"vcan{[*GROUPS, 'diagnostic'].index(bus)}"
        return f"{GROUPS.get(bus, '239.74.163.7')}:{self.port}"

    @property
    def via(self) -> list[str]:
        """Arguments that lead to all buses."""
        return [word for bus in GROUPS for word in ("--via", f"{bus}={self.interface}:{self.channel(bus)}")]

    @property
    def arguments(self) -> list[str]:
        """Buses and vehicle file; patient, since the machine may be busy."""
        return [*self.via, "--vehicle", str(self.description), "--latency", "2000"]

    def do(self, action: str, **more: object) -> dict[str, Any]:
        """Ask the control socket."""
        answer = control(self.socket, {"do": action, **more})
        assert answer["ok"], answer
        return answer


@contextlib.contextmanager
def simulated(folder: Path, arguments: Sequence[str] = (), *, on_vcan: bool = False) -> Iterator[Vehicle]:
    """``outrider sim run --scenario workshop`` until the end of the block."""
    vehicle = Vehicle(folder, None if on_vcan else free_port())
    described = subprocess.run(
        [sys.executable, "-m", "outrider", "sim", "describe", "--json"], cwd=ROOT, capture_output=True, check=True
    )
    vehicle.description.write_bytes(described.stdout)
    buses = [word for bus in GROUPS for word in ("--bus", f"{bus}={vehicle.channel(bus)}")]
    command = [sys.executable, "-m", "outrider", "sim", "run", "--scenario", "workshop",
               "--interface", vehicle.interface,
               "--speed", "1", "--duration", "3000", "--control", str(vehicle.socket), *buses, *arguments]  # fmt: skip
    with (folder / "sim.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=os.environ)
        try:
            deadline = time.monotonic() + START_S
            while True:
                with contextlib.suppress(OSError, ValueError):
                    control(vehicle.socket, {"do": "state"})
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((folder / "sim.log").read_text())
            yield vehicle
        finally:
            process.terminate()
            process.wait(30)
