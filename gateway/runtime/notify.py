"""Talking to the service manager: readiness, status text and the watchdog (sd_notify(3), without libsystemd)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

import anyio
from anyio.abc import TaskStatus

from gateway.runtime.clock import Clock
from gateway.runtime.health import HealthBoard

log = logging.getLogger(__name__)


class ServiceManager:
    """Sends notifications to ``$NOTIFY_SOCKET``; does nothing where there is none."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog_pid = environment.get("WATCHDOG_PID", "")
        for_us = not watchdog_pid or watchdog_pid == str(os.getpid())
        try:
            usec = int(environment.get("WATCHDOG_USEC", "0"))
        except ValueError:
            usec = 0
        #: Seconds within which the service manager wants to hear from us; None without a watchdog.
        self.watchdog_s: float | None = usec / 1e6 if usec > 0 and for_us else None

    def notify(self, *lines: str) -> None:
        """Send ``READY=1``, ``STATUS=…`` and the like; a failure to do so is logged, not raised."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect(self._address)
                sock.sendall("\n".join(lines).encode())
        except OSError as error:
            log.warning("notify_failed", extra={"error": str(error)})


class Watchdog:
    """Feeds the service manager's watchdog while every component is alive; goes silent when one is stuck."""

    name, drain_s, optional = "watchdog", 0.0, False

    def __init__(self, manager: ServiceManager, health: HealthBoard, clock: Clock) -> None:
        self._manager, self._health, self._clock = manager, health, clock
        self._stuck: list[str] = []

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Tick at a third of the watchdog's period, or every 5 s to log stuck components."""
        task_status.started()
        while True:
            self.tick()
            await anyio.sleep(self._manager.watchdog_s / 3 if self._manager.watchdog_s else 5.0)

    def tick(self) -> bool:
        """Feed the watchdog if all is well; returns whether it is. Who is stuck is logged when that changes."""
        now_ns = self._clock.monotonic_ns()
        if self._health.is_alive(now_ns):
            if self._manager.watchdog_s:
                self._manager.notify("WATCHDOG=1")
            self._stuck = []
            return True
        if (stuck := self._health.stuck(now_ns)) != self._stuck:
            log.error("component_stuck", extra={"components": stuck, "health": self._health.summary()})
            self._stuck = stuck
        return False
