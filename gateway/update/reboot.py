"""Restarting the machine, or the gateway alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import anyio

from gateway.errors import TransportError

log = logging.getLogger(__name__)

COMMAND_TIMEOUT_S = 60.0


class CommandRebooter:
    """A ``Rebooter`` by commands; without one for a restart the gateway stops in order and is started again."""

    def __init__(self, reboot_command: Sequence[str], restart_command: Sequence[str], stop: Callable[[], None]) -> None:
        """``stop`` asks the gateway's process to end in order; its service manager must start it again."""
        self._reboot, self._restart, self._stop = tuple(reboot_command), tuple(restart_command), stop

    async def reboot(self, reason: str) -> None:
        """See ``Rebooter``."""
        log.warning("update_reboot_asked", extra={"reason": reason})
        await _run(self._reboot)

    async def restart(self, reason: str) -> None:
        """See ``Rebooter``."""
        log.warning("update_restart_asked", extra={"reason": reason})
        if self._restart:
            await _run(self._restart)
        else:
            self._stop()


async def _run(command: Sequence[str]) -> None:
    """Raises ``TransportError``: it did not work. A command that takes long is doing what it shall."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise TransportError(f"{command[0]}: {error}") from error
    with anyio.move_on_after(COMMAND_TIMEOUT_S):
        if status := await process.wait():
            raise TransportError(f"{command[0]} ended with status {status}")
