"""From a fault in an ECU to the cloud's interface, and from an operator's job to the ECU, with kills in the middle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from outrider.demo.processes import run, wait_until
from outrider.demo.stage import Bus, Vehicle
from simulator.buses import BUSES
from tests.chain.diagnostics.car import INTERFACE, Simulator, channel_of, diagnostics_toml, write_descriptions
from tests.chain.rig import Rig, rig

pytestmark = [pytest.mark.car, pytest.mark.slow, pytest.mark.timeout(400)]

CODE, HEX = "P0A93-00", 0x0A9300
WAIT_S = 90.0


class Fleet:
    """One enrolled vehicle with ECUs, and an operator."""

    def __init__(self, chain: Rig) -> None:
        self.chain = chain
        self.simulator = Simulator(chain.directory, chain.children)
        buses = [Bus(name=b.name, dbc=b.dbc, interface=INTERFACE, channel=channel_of(b.name)) for b in BUSES]
        self.vehicle: Vehicle = chain.vehicle(buses)
        with self.vehicle.config.open("a") as file:
            file.write(diagnostics_toml(poll_s=3.0))
        write_descriptions(self.vehicle.directory)
        self.http = httpx.Client(base_url=chain.cloud.url, timeout=30, trust_env=False)
        answer = self.http.post("/api/v1/login", json={"name": chain.cloud.admin, "password": chain.cloud.password})
        self.http.headers["Authorization"] = "Bearer " + answer.json()["token"]

    def get(self, path: str, **params: str | int) -> Any:
        """One answer."""
        answer = self.http.get("/api/v1/" + path, params=params)
        answer.raise_for_status()
        return answer.json()

    def fault(self, present: str = "yes") -> dict[str, Any] | None:
        """The motor's fault as the cloud knows it."""
        page = self.get(f"vehicles/{self.vehicle.name}/faults", present=present)
        return next((item for item in page["items"] if item["dtc"] == CODE and item["ecu"] == "motor"), None)

    def wait(self, what: str, is_true: Any) -> float:
        """Until something holds; how long it took, seconds."""
        begun_s = time.monotonic()
        wait_until(what, is_true, WAIT_S)
        return time.monotonic() - begun_s

    def ask(self, *steps: dict[str, str]) -> int:
        """Make a job."""
        body = {"steps": list(steps), "filter": {"vehicles": [self.vehicle.name]}}
        answer = self.http.post("/api/v1/diagnostics/jobs", json=body)
        assert answer.is_success, answer.text
        return int(answer.json()["job"]["id"])

    def order(self, job: int) -> dict[str, Any]:
        """The vehicle's part of a job."""
        found: dict[str, Any] = self.get(f"diagnostics/jobs/{job}/orders")["items"][0]
        return found

    def done(self, job: int) -> dict[str, Any]:
        """The same, when it is over."""
        self.wait(f"job {job}", lambda: self.order(job)["finished_ns"] is not None)
        return self.order(job)

    def requests(self, ecu: str, request: str) -> int:
        """How often an ECU has heard something lately."""
        heard = self.simulator.do("ecu_requests", ecu=ecu)["requests"]
        return sum(entry["request"].startswith(request) for entry in heard)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with rig(tmp_path) as chain:
        made = Fleet(chain)
        try:
            yield made
        finally:
            made.http.close()


def outcomes(order: dict[str, Any]) -> list[tuple[str, str]]:
    """Step and outcome."""
    return [(result["do"], result["outcome"]) for result in order["results"]]


def test_a_fault_reaches_the_cloud_a_job_clears_it_and_kills_lose_and_repeat_nothing(fleet: Fleet) -> None:
    fleet.simulator.start("workshop")
    fleet.vehicle.start()
    fleet.chain.wait_for_frames(fleet.vehicle, 500)

    fleet.simulator.do("dtc_report", ecu="motor", code=CODE, failed=True)
    took_s = fleet.wait("the fault in the cloud", lambda: fleet.fault() is not None)
    fault = fleet.fault()
    assert fault is not None
    assert fault["is_confirmed"]
    assert fault["snapshots"], fault
    print(f"fault to cloud {took_s:.1f} s")

    order = fleet.done(fleet.ask(
        {"do": "read_did", "ecu": "motor", "parameter": "F190"}, {"do": "read_dtcs", "ecu": "motor"},
        {"do": "identify", "ecu": "telematics"},
    ))  # fmt: skip
    assert outcomes(order) == [("read_did", "ok"), ("read_dtcs", "ok"), ("identify", "ok")], order
    assert CODE in [dtc["dtc"] for dtc in order["results"][1]["dtcs"]]

    # Killed while a job runs: the routine takes more than a second.
    before = fleet.requests("motor", "31010200")
    job = fleet.ask({"do": "start_routine", "ecu": "motor", "parameter": "0200"}, {"do": "clear_dtcs", "ecu": "motor"})
    fleet.wait("the routine's start", lambda: fleet.order(job)["acknowledged_ns"] is not None)
    fleet.chain.kill(fleet.vehicle.process)
    fleet.simulator.do("dtc_report", ecu="brakes", code="C0750-16", failed=True)  # while nobody listens
    fleet.vehicle.start()
    order = fleet.done(job)
    assert fleet.requests("motor", "31010200") - before <= 1
    assert order["state"] in ("completed", "failed"), order
    fleet.wait("the brakes' fault in the cloud", lambda: any(
        item["dtc"] == "C0750-16" for item in fleet.get(f"vehicles/{fleet.vehicle.name}/faults")["items"]
    ))  # fmt: skip

    order = fleet.done(fleet.ask({"do": "clear_dtcs", "ecu": "motor"}))
    assert outcomes(order) == [("clear_dtcs", "ok")], order
    fleet.wait("the cleared fault", lambda: fleet.fault() is None)
    history = fleet.get(f"vehicles/{fleet.vehicle.name}/faults/history")["items"]
    told = [(item["dtc"], item["change"], item["status"]) for item in reversed(history)]
    for code in (CODE, "C0750-16"):
        mine = [entry for entry in told if entry[0] == code]
        assert mine[0][1] in ("new", "present"), told
        assert len({status for _, change, status in mine if change == "present"}) == len(
            [change for _, change, _ in mine if change == "present"]
        ), told  # told again after the restart, and kept only where that changed something
    assert told[-1][:2] == (CODE, "cleared"), told

    actions = [entry["action"] for entry in fleet.get("audit")["items"]]
    assert actions.count("diagnostics.job") == 3
    assert "diagnostics.result" in actions
    log = run("gateway", "audit", "show", "--config", str(fleet.vehicle.config), "--json", "--kind", "write")
    assert '"cloud"' in log
    run("gateway", "audit", "verify", "--config", str(fleet.vehicle.config))

    # Nothing of all this is in the vehicle's telemetry books.
    fleet.simulator.do("stop")
    assert fleet.simulator.process is not None
    assert fleet.simulator.process.wait(60) == 0
    outcome = fleet.chain.finish(fleet.vehicle, fleet.simulator.sent())
    assert outcome.ledger.unexplained == 0
    assert outcome.ledger.crashes == 1
    stored = sum(s.stored for s in outcome.ledger.streams)
    assert stored == sum(s.acknowledged for s in outcome.ledger.streams) == outcome.cloud_items


def test_while_driving_a_job_reads_and_may_not_clear_and_the_books_are_exact(fleet: Fleet) -> None:
    fleet.vehicle.start()
    fleet.simulator.start("motorway", more=("--duration", "25"))
    fleet.simulator.wait("speed", lambda: fleet.simulator.do("state")["speed_km_h"] > 20)
    fleet.chain.wait_for_frames(fleet.vehicle, 2000)
    order = fleet.done(fleet.ask({"do": "clear_dtcs", "ecu": "motor"}, {"do": "read_dtcs", "ecu": "motor"}))
    assert outcomes(order) == [("clear_dtcs", "refused"), ("read_dtcs", "ok")], order
    assert "cloud does nothing else" in order["results"][0]["detail"]
    assert fleet.requests("motor", "14") == 0
    assert fleet.simulator.process is not None
    assert fleet.simulator.process.wait(180) == 0
    sent = fleet.simulator.sent()
    outcome = fleet.chain.finish(fleet.vehicle, sent)
    assert outcome.ledger.unexplained == 0
    received = {bus.bus: bus.received - bus.undecodable for bus in outcome.ledger.buses}
    assert received == sent
