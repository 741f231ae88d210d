"""The whole chain for tests: a cloud, a vehicle whose gateway may be killed, and a bad network between them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from outrider.demo.processes import Child, Children, wait_until
from outrider.demo.result import Outcome, outcome_of
from outrider.demo.stage import Bus, Cloud, Settings, Vehicle
from simulator.buses import BUSES
from tests.chain.proxy import Proxy

WAIT_S = 90.0
#: Batches close and reports go out fast enough for a test of seconds.
FAST: Settings = {
    "telemetry": {"normal_period_s": 1.0, "critical_period_s": 0.5, "checkpoint_s": 0.5},
    "link": {"check_in_s": 1.0, "backoff_first_s": 0.1, "backoff_max_s": 0.5, "drain_s": 20.0},
}


class Rig:
    """What a chain test works with."""

    def __init__(self, directory: Path, children: Children) -> None:
        (directory / "logs").mkdir(exist_ok=True)
        self.directory, self.children = directory, children
        self.cloud = Cloud(directory / "cloud", children, port=0, vehicle_port=0)
        self.cloud.start()
        self.proxy = Proxy(self.cloud.vehicle_port)

    def vehicle(self, buses: list[Bus], *, speed: float = 1.0, settings: Settings | None = None) -> Vehicle:
        """A vehicle that reaches the cloud through the proxy, prepared and not started."""
        made = Vehicle("TEST-1", self.directory / "vehicle", self.children, buses)
        merged = {name: dict(values) for name, values in FAST.items()}
        merged["link"]["url"] = f"https://localhost:{self.proxy.port}"
        for name, values in (settings or {}).items():
            merged.setdefault(name, {}).update(values)
        made.prepare(self.cloud, settings=merged, speed=speed)
        return made

    def vcan_buses(self) -> list[Bus]:
        """The simulated vehicle's buses on vcan."""
        return [Bus(name=b.name, dbc=b.dbc, interface="socketcan", channel=b.vcan) for b in BUSES]

    def multicast_buses(self) -> list[Bus]:
        """The simulated vehicle's buses as datagrams that stay on this machine."""
        return [Bus(name=b.name, dbc=b.dbc, interface="udp_multicast", channel=b.group) for b in BUSES]

    def drive(self, seconds: float, interface: str = "socketcan", *more: str) -> Child:
        """Start the simulator."""
        where = ("--interface", interface, "--summary", str(self.directory / "sent.json"))
        return self.children.start("simulator", "sim", "run", "--duration", str(seconds), *where, *more)

    def sent(self) -> dict[str, int]:
        """Frames per bus, as the simulator says after its end."""
        summary = json.loads((self.directory / "sent.json").read_text())
        return {name: int(bus["sent"]) for name, bus in summary["buses"].items()}

    def received(self, vehicle: Vehicle) -> int:
        """Frames the running gateway has received so far; 0 when it does not answer."""
        status = vehicle.status()
        return sum(bus.received for bus in status.report.ledger.buses) if status else 0

    def wait_for_frames(self, vehicle: Vehicle, count: int) -> None:
        """Until the gateway has received so many."""
        wait_until(f"{count} frames", lambda: self.received(vehicle) >= count, WAIT_S)

    def kill(self, child: Child | None) -> None:
        """kill -9, and wait until it is gone."""
        assert child is not None
        os.kill(child.pid, signal.SIGKILL)
        child.wait(10)

    def finish(self, vehicle: Vehicle, sent: dict[str, int]) -> Outcome:
        """Stop the gateway cleanly; what the cloud says once it has the last report."""
        assert vehicle.stop() == 0, vehicle.process.tail(40) if vehicle.process else ""
        return outcome_of(self.cloud, vehicle.name, sent)

    def lake_items(self, vehicle: Vehicle) -> int:
        """Samples in the cloud's history, counted signal by signal."""
        signals: list[dict[str, Any]] = self.cloud.get(f"/api/v1/vehicles/{vehicle.name}/signals")
        return sum(int(signal["count"]) for signal in signals)


@contextmanager
def rig(directory: Path) -> Iterator[Rig]:
    """A rig in an empty directory; everything it started is stopped at the end."""
    (directory / "logs").mkdir()
    with Children(directory / "logs") as children:
        made = Rig(directory, children)
        try:
            yield made
        finally:
            made.proxy.close()
            made.cloud.close()
