"""What new software on trial must show before it is good: all checks well at once, for some time, within some time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import anyio

from gateway.errors import GatewayError
from gateway.runtime import Clock, HealthBoard
from gateway.update.machine import Health
from gateway.update.ports import HealthCheck

CHECK_TIMEOUT_S = 30.0


class HealthCore:
    """The rule. Times are monotonic nanoseconds of one boot."""

    def __init__(self, within_s: float, steady_s: float) -> None:
        self._within_ns, self._steady_ns = int(within_s * 1e9), int(steady_s * 1e9)
        self._well_since_ns: int | None = None

    def feed(self, began_ns: int, now_ns: int, missing: str) -> Health:
        """One look: the verdict now. ``missing``: "" when all checks are well.

        What is well when the time is over, but not yet for long enough, gets that much more time and no more.
        """
        if missing:
            self._well_since_ns = None
        elif self._well_since_ns is None:
            self._well_since_ns = now_ns
        if self._well_since_ns is not None and now_ns - self._well_since_ns >= self._steady_ns:
            return Health(True)
        over_ns = began_ns + self._within_ns + (0 if missing else self._steady_ns)
        if now_ns >= over_ns:
            return Health(True, missing or "it was never well for long enough")
        return Health(False, missing or "all is well; watching")


class HealthWatch:
    """Asks the checks, each with a time limit, and applies the rule."""

    def __init__(self, checks: Sequence[HealthCheck], *, within_s: float, steady_s: float, clock: Clock) -> None:
        self._checks, self._clock = checks, clock
        self._within_s, self._steady_s = within_s, steady_s
        self._core = HealthCore(within_s, steady_s)

    def reset(self) -> None:
        """Another trial begins."""
        self._core = HealthCore(self._within_s, self._steady_s)

    async def look(self, began_ns: int, also: str = "") -> Health:
        """Ask everyone now. ``also``: what the caller itself misses."""
        missing = [also] if also else []
        for check in self._checks:
            text = "no answer"
            with anyio.move_on_after(CHECK_TIMEOUT_S):
                try:
                    text = await check.check()
                except (GatewayError, OSError) as error:
                    text = str(error) or type(error).__name__
            if text:
                missing.append(f"{check.name}: {text}")
        return self._core.feed(began_ns, self._clock.monotonic_ns(), "; ".join(missing))


class BusCheck:
    """Frames come in on a bus."""

    def __init__(self, bus: str, silent_s: Callable[[str], float | None], within_s: float = 5.0) -> None:
        """``silent_s``: seconds since the last frame of a bus; None: none yet."""
        self.name, self._bus, self._silent_s, self._within_s = f"bus {bus}", bus, silent_s, within_s

    async def check(self) -> str:
        """See ``HealthCheck``."""
        silent_s = self._silent_s(self._bus)
        if silent_s is None:
            return "no frame yet"
        return "" if silent_s <= self._within_s else f"no frame for {silent_s:.0f} s"


class AnswerCheck:
    """Somebody answers: an ECU its tester-present, the cloud's update service."""

    def __init__(self, name: str, answers: Callable[[], Awaitable[bool]]) -> None:
        """``answers`` may raise ``GatewayError``, which counts as no."""
        self.name, self._answers = name, answers

    async def check(self) -> str:
        """See ``HealthCheck``."""
        return "" if await self._answers() else "no answer"


class ComponentsCheck:
    """No part of the gateway has failed or is stuck."""

    name = "components"

    def __init__(self, board: HealthBoard, clock: Clock, *, ignored: Sequence[str] = ()) -> None:
        """``ignored``: components whose failure says nothing of the software, as the update itself."""
        self._board, self._clock, self._ignored = board, clock, set(ignored)

    async def check(self) -> str:
        """See ``HealthCheck``."""
        stuck = [name for name in self._board.stuck(self._clock.monotonic_ns()) if name not in self._ignored]
        bad = [
            f"{name} {text}"
            for name, text in self._board.summary().items()
            if name not in self._ignored and text.split(":")[0] in ("failed", "starting")
        ]
        return ", ".join([*(f"{name} is stuck" for name in stuck), *bad])


class CommandCheck:
    """The integrator's own: a command whose exit status 0 is well. Its first line of output is the reason."""

    name = "command"

    def __init__(self, command: Sequence[str], timeout_s: float = CHECK_TIMEOUT_S - 5) -> None:
        self._command, self._timeout_s = tuple(command), timeout_s

    async def check(self) -> str:
        """See ``HealthCheck``. The command and what it started are killed when it takes too long."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return f"{self._command[0]}: {error}"
        said = b""
        try:
            with anyio.move_on_after(self._timeout_s):
                while process.stdout is not None and (piece := await process.stdout.read(4096)):
                    said = said or piece  # the rest is read and dropped
                await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                with anyio.CancelScope(shield=True):
                    await process.wait()
        if process.returncode == 0:
            return ""
        line = said.decode(errors="replace").strip().partition("\n")[0][:200]
        return line or f"{self._command[0]} ended with status {process.returncode}"
