"""The gateway's process with a cloud that comes and goes: long outages, clean stops, impatient operators."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gateway.spool import Spool
from outrider.demo.processes import run, wait_until
from outrider.demo.stage import EVERYTHING, Bus, Settings, Vehicle
from simulator.buses import BUSES
from tests.chain.rig import Rig, rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
BODY = next(bus for bus in BUSES if bus.name == "body")
HOUR_FRAMES = 36_000
CABIN, KEY = 804, 752
SCHEMES = {
    "everything.toml": EVERYTHING.format(id="everything").replace("version = 1", 'version = 1\npriority = "bulk"'),
    "key.toml": """\
id = "key"
version = 1
priority = "critical"

[[signals]]
name = "KeyPosition"
on_change = true
""",
}
SMALL_SPOOL: Settings = {
    "spool": {"max_bytes": 64 * 1024, "segment_bytes": 16 * 1024},
    "telemetry": {"bulk_period_s": 1.0, "max_batch_items": 3000, "critical_period_s": 0.1},
}


def write_drive(path: Path, frames: int, step_s: float) -> None:
    """Ten frames a second of a bus in candump's form: noise from the cabin, now and then the key."""
    random = np.random.default_rng(7)
    payloads = random.integers(0, 256, (frames, 8), np.uint8)
    with path.open("w") as file:
        for i, payload in enumerate(payloads):
            at_s = 1_700_000_000 + i * step_s
            if i % 600 == 0:
                file.write(f"({at_s:.6f}) vcan3 {KEY:03X}#0000{(i // 600 % 4) << 4:02X}00\n")
            else:
                file.write(f"({at_s:.6f}) vcan3 {CABIN:03X}#{payload.tobytes().hex().upper()}\n")


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made


def replaying(chain: Rig, *, speed: float, settings: Settings, frames: int = HOUR_FRAMES) -> Vehicle:
    """A vehicle whose bus is a recorded hour."""
    log = chain.directory / "hour.log"
    write_drive(log, frames, 0.1)
    bus = Bus(name="body", dbc=BODY.dbc, interface="replay", channel=str(log), log_bus="vcan3")
    made = Vehicle("TEST-1", chain.directory / "vehicle", chain.children, [bus])
    merged: dict[str, dict[str, object]] = {
        "telemetry": {"normal_period_s": 1.0, "critical_period_s": 0.5, "checkpoint_s": 0.5},
        "link": {
            "url": f"https://localhost:{chain.proxy.port}",
            "check_in_s": 1.0,
            "backoff_first_s": 0.1,
            "backoff_max_s": 0.5,
            "drain_s": 3.0,
        },
    }
    for name, values in settings.items():
        merged.setdefault(name, {}).update(values)
    made.prepare(chain.cloud, schemes=SCHEMES, settings=merged, speed=speed)
    return made


@pytest.mark.long  # tests/chain/test_link_delivery.py has the same in one process
def test_an_hour_without_cloud_evicts_bulk_before_critical_and_counts_every_item(chain: Rig) -> None:
    vehicle = replaying(chain, speed=0.0, settings={**SMALL_SPOOL, "runtime": {"exit_when_replayed": False}})
    chain.proxy.cut()
    vehicle.start()

    def is_all_stored() -> bool:
        status = vehicle.status()
        return bool(
            status
            and sum(bus.received for bus in status.report.ledger.buses) == HOUR_FRAMES
            and status.report.ledger.buffered_items == 0
        )

    assert vehicle.process is not None
    wait_until("the hour on disk", is_all_stored, 60, vehicle.process)
    status = vehicle.status()
    assert status is not None
    streams = {s.stream: s for s in status.report.ledger.streams}
    assert status.report.ledger.unexplained == 0
    assert streams["bulk"].evicted > 0
    assert streams["critical"].evicted == 0
    assert streams["critical"].stored > 0
    chain.proxy.mend()
    outcome = chain.finish(vehicle, {"body": HOUR_FRAMES})
    assert outcome.ledger.unexplained == 0
    books = {s.stream: s for s in outcome.ledger.streams}
    assert [bus.received for bus in outcome.ledger.buses] == [HOUR_FRAMES]
    assert sum(s.acknowledged for s in books.values()) == outcome.cloud_items
    assert sum(s.pending for s in books.values()) == 0
    accounting = chain.cloud.accounting("TEST-1")
    assert accounting["complete"] is True
    assert {gap["kind"] for gap in accounting["gaps"]} == {"evicted"}


def test_clean_stop_with_the_cloud_down_is_in_time_loses_nothing_and_the_next_start_delivers(chain: Rig) -> None:
    vehicle = replaying(chain, speed=10.0, settings={"runtime": {"exit_when_replayed": False}})
    vehicle.start()
    chain.wait_for_frames(vehicle, 50)
    chain.proxy.cut()
    before = chain.received(vehicle)
    chain.wait_for_frames(vehicle, before + 100)
    began_s = time.monotonic()
    assert vehicle.stop() == os.EX_OK
    assert time.monotonic() - began_s < 3.0 + 5.0 + 10.0  # uplink's drain, last check-in, patience with a busy machine
    spool = Spool.open(vehicle.directory / "spool")
    try:
        left = sum(total.pending for total in spool.totals().values())
        assert left > 0
    finally:
        spool.close()
    chain.proxy.mend()
    vehicle.start()
    wait_until("another frame", lambda: chain.received(vehicle) > 0, 30)
    outcome = chain.finish(vehicle, {})
    assert outcome.ledger.crashes == 0
    assert outcome.ledger.restarts == 1
    assert outcome.ledger.lost_items == 0
    assert outcome.ledger.unexplained == 0
    assert sum(s.stored for s in outcome.ledger.streams) == outcome.cloud_items


@pytest.mark.long  # tests/chain/test_link_manifests.py has the same in one process
def test_changed_manifest_after_a_stop_without_cloud_leaves_no_batch_unreadable(chain: Rig) -> None:
    vehicle = replaying(chain, speed=0.0, frames=2_000, settings={})
    chain.proxy.cut()
    vehicle.start()
    assert vehicle.process is not None
    assert vehicle.process.wait(60) == os.EX_OK  # the replay has ended; nothing was sent
    other = chain.directory / "other.dbc"
    other.write_text(BODY.dbc.read_text().replace('"%"', '"percent"'))
    run("dbc", "compile", "--dbc", f"body={other}", "--out", str(vehicle.directory / "vehicle.manifest"))
    chain.proxy.mend()
    vehicle.start()
    assert vehicle.process.wait(60) == os.EX_OK
    outcome = chain.finish(vehicle, {})
    assert sum(s.acknowledged for s in outcome.ledger.streams) == outcome.cloud_items > 0
    hashes = {m["hash"] for m in chain.cloud.get("/api/v1/manifests")["items"]}
    assert len(hashes) == 2
    assert all(line["dead_lettered"] == 0 for line in chain.cloud.accounting("TEST-1")["streams"])


def test_status_stops_and_second_gateways(chain: Rig) -> None:
    """One gateway, asked and disturbed in every way an operator has."""
    drain: Settings = {"link": {"drain_s": 10.0}, "runtime": {"exit_when_replayed": False}}
    vehicle = replaying(chain, speed=10.0, settings=drain)
    config = ("--config", str(vehicle.config))

    def outrider(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "outrider", "gateway", *arguments, *config]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    silent = outrider("status")
    assert (silent.returncode, silent.stdout) == (os.EX_UNAVAILABLE, "")
    assert "no gateway is running" in silent.stderr
    vehicle.start()
    chain.wait_for_frames(vehicle, 20)
    told = outrider("status", "--json")
    assert told.returncode == os.EX_OK
    keys = {"vehicle", "pid", "spool_id", "link", "report", "channels", "clock_skew_ms", "diagnostics", "updates"}
    assert set(json.loads(told.stdout)) == keys
    shown = outrider("status")
    assert shown.returncode == os.EX_OK
    for word in ("vehicle TEST-1", "bus", "scheme", "health", "every frame and item is accounted for"):
        assert word in shown.stdout
    assert not any(line != line.rstrip() for line in shown.stdout.splitlines())
    second = outrider("run")
    assert second.returncode == os.EX_UNAVAILABLE
    assert "is in use by another process" in second.stderr
    assert "Traceback" not in second.stderr
    assert vehicle.status() is not None
    # A stop that has to wait for the cloud, and an operator who does not want to.
    chain.proxy.cut()
    seen = chain.received(vehicle)
    chain.wait_for_frames(vehicle, seen + 50)
    assert vehicle.process is not None
    os.kill(vehicle.process.pid, signal.SIGTERM)
    wait_until("the stop", lambda: vehicle.process is not None and vehicle.process.has_logged("stopping"), 20)
    os.kill(vehicle.process.pid, signal.SIGTERM)
    assert vehicle.process.wait(10) == os.EX_SOFTWARE
    assert vehicle.process.has_logged("stopped_at_once")
    # The next one finds the spool, counts the crash, and a stop in its start is a clean stop.
    third = chain.children.start("gateway-third", "gateway", "run", "--config", str(vehicle.config))
    wait_until("its start", lambda: third.has_logged("component_started"), 30, third)
    assert third.stop() == os.EX_OK
    assert not third.has_logged("Traceback")
    chain.proxy.mend()
    vehicle.start()
    outcome = chain.finish(vehicle, {})
    assert outcome.ledger.crashes == 1
    assert outcome.ledger.unexplained == 0
    assert sum(s.stored for s in outcome.ledger.streams) == outcome.cloud_items
