"""The watchdog is fed from the health of the whole, and the service manager is spoken to in its own protocol."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gateway.runtime import ComponentHealth, HealthBoard, SystemClock
from gateway.runtime.notify import ServiceManager, Watchdog


def test_component_that_stops_beating_makes_the_whole_not_alive() -> None:
    board = HealthBoard()
    board.register("collector", 0, limit_s=10)
    board.register("uplink", 0, limit_s=None)
    assert board.is_alive(10_000_000_000)
    assert board.stuck(10_000_000_001) == ["collector"]
    assert not board.is_alive(10_000_000_001)
    board.beat("collector", 10_000_000_001)
    assert board.is_alive(20_000_000_001)


def test_failed_component_makes_the_whole_not_alive_and_degraded_does_not() -> None:
    board = HealthBoard()
    board.register("uplink", 0, limit_s=None)
    assert board.report("uplink", ComponentHealth.DEGRADED, "no route")
    assert not board.report("uplink", ComponentHealth.DEGRADED, "no route")
    assert board.is_alive(0)
    assert board.summary() == {"uplink": "degraded: no route"}
    board.report("uplink", ComponentHealth.FAILED)
    assert not board.is_alive(0)


def test_service_manager_hears_readiness_and_watchdog_until_a_component_is_stuck(tmp_path: Path) -> None:
    path = tmp_path / "notify"

    class SteppedClock(SystemClock):
        now_ns = 0

        def monotonic_ns(self) -> int:
            return self.now_ns

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.setblocking(False)
        environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
        manager = ServiceManager(environment)
        assert manager.watchdog_s == 3.0
        board, clock = HealthBoard(), SteppedClock()
        board.register("collector", 0, limit_s=1)
        watchdog = Watchdog(manager, board, clock)
        manager.notify("READY=1", "STATUS=reading 2 buses")
        assert watchdog.tick()
        clock.now_ns = 2_000_000_000
        assert not watchdog.tick()
        assert [listener.recv(1000), listener.recv(1000)] == [b"READY=1\nSTATUS=reading 2 buses", b"WATCHDOG=1"]
        with pytest.raises(BlockingIOError):
            listener.recv(1000)


def test_no_service_manager_means_no_notification_and_no_watchdog() -> None:
    manager = ServiceManager({})
    assert manager.watchdog_s is None
    assert ServiceManager({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_s is None
    manager.notify("READY=1")  # must not raise
