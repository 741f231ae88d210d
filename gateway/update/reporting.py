"""Tells the cloud how an update goes: the newest report of each assignment, when there is a link."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskStatus

from gateway.errors import GatewayError, TransportError
from gateway.link.backoff import Backoff
from gateway.wire.uptane import UpdateReport

log = logging.getLogger(__name__)

MAX_WAITING = 8


class ReportSender:
    """An ``UpdateReporter``, and the component that posts. A newer report replaces an older one that still waits."""

    name, drain_s, optional = "update-reports", 0.0, True

    def __init__(self, post: Callable[[UpdateReport], Awaitable[None]], backoff: Backoff) -> None:
        """``post`` sends one; raises ``TransportError``: later, other ``GatewayError``: the cloud does not want it."""
        self._post, self._backoff = post, backoff
        self._waiting: dict[str, UpdateReport] = {}
        self._changed = anyio.Event()
        self.replaced = self.refused = 0

    def tell(self, report: UpdateReport) -> None:
        """See ``UpdateReporter``. The oldest assignment's report goes when too many wait, counted."""
        if report.assignment in self._waiting:
            del self._waiting[report.assignment]
            self.replaced += 1
        elif len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
            self.replaced += 1
        self._waiting[report.assignment] = report
        self._changed.set()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Post until cancelled."""
        task_status.started()
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            while self._waiting:
                pause_s = await self._post_one()
                if pause_s:
                    await anyio.sleep(pause_s)

    async def _post_one(self) -> float:
        assignment, report = next(iter(self._waiting.items()))
        try:
            await self._post(report)
        except TransportError as error:
            log.debug("update_report_later", extra={"error": str(error)})
            return self._backoff.failed()
        except GatewayError as error:
            self.refused += 1
            log.warning("update_report_refused", extra={"error": str(error)})
        self._backoff.succeeded()
        if self._waiting.get(assignment) is report:
            del self._waiting[assignment]
        return 0.0
