"""Lifecycle: components start sinks first and stop sources first, so that what is under way still has somewhere to go.

A component is a named object with one ``run``. It says when it is ready, ends by returning, by its input closing or
by cancellation, and cleans up on the way out. When stopping, it gets ``drain_s`` to finish what it holds after its
inputs have closed; then it is cancelled. A component that fails brings the process down in order; one that is
``optional`` is restarted with back-off instead.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus

from gateway.errors import GatewayError

log = logging.getLogger(__name__)

RESTART_FIRST_S, RESTART_MAX_S = 1.0, 60.0


class Component(Protocol):
    """One concern of the running gateway."""

    @property
    def name(self) -> str:
        """Unique, stable, for logs and health."""

    @property
    def drain_s(self) -> float:
        """How long it may finish what it holds once asked to stop; 0 for sources."""

    @property
    def optional(self) -> bool:
        """Whether the gateway goes on without it."""

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Work until done or cancelled; call ``task_status.started()`` when ready."""


async def _run_restarting(component: Component, *, task_status: TaskStatus[None]) -> None:
    """An optional component: ready when it is or its first try failed; restarted with growing pauses."""
    pause_s, is_told = RESTART_FIRST_S, False
    while True:
        try:
            async with anyio.create_task_group() as tg:
                await tg.start(component.run)
                if not is_told:
                    is_told = True
                    task_status.started()
            return
        except* GatewayError as group:  # foreseen: its message tells enough
            error = "; ".join(str(e) for e in group.exceptions)
            log.error("component_failed", extra={"component": component.name, "error": error, "restart_in_s": pause_s})
        except* Exception:  # the supervision boundary
            log.exception("component_failed", extra={"component": component.name, "restart_in_s": pause_s})
        if not is_told:
            is_told = True
            task_status.started()
        await anyio.sleep(pause_s)
        pause_s = min(pause_s * 2, RESTART_MAX_S)


async def _run_required(
    component: Component, stop: anyio.Event, failures: list[Exception], *, task_status: TaskStatus[None]
) -> None:
    """A required component: its failure stops the whole in order instead of cancelling everyone at once."""
    try:
        await component.run(task_status=task_status)
    except Exception as error:  # the supervision boundary
        log.exception("component_failed", extra={"component": component.name})
        failures.append(error)
        stop.set()


@asynccontextmanager
async def _serving(component: Component, stop: anyio.Event, failures: list[Exception]) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tg:
        if component.optional:
            await tg.start(_run_restarting, component)
        else:
            await _start(tg, component, stop, failures)
        log.info("component_started", extra={"component": component.name})
        try:
            yield
        finally:
            tg.cancel_scope.deadline = anyio.current_time() + component.drain_s
    log.info("component_stopped", extra={"component": component.name})


async def _start(tg: TaskGroup, component: Component, stop: anyio.Event, failures: list[Exception]) -> None:
    try:
        await tg.start(partial(_run_required, component, stop, failures))
    except RuntimeError:
        if not failures:  # it returned without a word: a mistake of ours
            raise


async def run_all(components: Sequence[Component], stop: anyio.Event) -> None:
    """Run ``components`` (sinks first, sources last) until ``stop`` is set; then stop them in reverse order.

    Raises:
        ExceptionGroup: what required components failed with, after the others were stopped in order.
    """
    failures: list[Exception] = []
    async with AsyncExitStack() as stack:
        for component in components:
            if failures:  # asked to stop meanwhile, all are started all the same: sinks end when their sources do
                break
            await stack.enter_async_context(_serving(component, stop, failures))
        await stop.wait()
    if failures:
        raise ExceptionGroup("components failed", failures)
