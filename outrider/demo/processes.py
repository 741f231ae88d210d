"""Child processes of the demo: started in order, logged to files, stopped in reverse order."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

STOP_S = 45.0
POLL_S = 0.1


class DemoError(Exception):
    """The demo cannot go on; the message says why and where to look."""


class Child:
    """One ``outrider`` command running in the background, in a process group of its own."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name, self.log = name, log
        self._log_begin = log.stat().st_size if log.exists() else 0  # a restarted child goes on in the same file
        self._file = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "outrider", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the demo only, which then stops its children in order
        )

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def check_alive(self) -> None:
        """Raise with the last lines of the log if it has ended."""
        if self.returncode is not None:
            raise DemoError(f"{self.name} ended with status {self.returncode}; its log ends:\n{self.tail()}")

    def has_logged(self, text: str) -> bool:
        """Whether this run of it has written something."""
        with self.log.open("rb") as file:
            file.seek(self._log_begin)
            return text.encode() in file.read()

    def tail(self, lines: int = 12) -> str:
        """The end of its log."""
        return "\n".join("    " + line for line in self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait(self, timeout_s: float) -> int:
        """Its exit status once it has ended by itself."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"{self.name} did not end within {timeout_s:.0f} s; see {self.log}") from error

    def stop(self) -> int:
        """SIGTERM, then SIGKILL after a long patience; returns the exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._file.close()
        return self._process.returncode


class Children:
    """All children; leaving the context stops what still runs, the last started first."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[Child] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._running):
            child.stop()

    def start(self, name: str, *arguments: str) -> Child:
        """Start ``outrider ARGUMENTS`` with its output in ``logs/NAME.log``."""
        child = Child(name, arguments, self._logs / f"{name}.log")
        self._running.append(child)
        return child


def run(*arguments: str) -> str:
    """Run one short ``outrider`` command; its standard output.

    Raises:
        DemoError: it failed; with what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "outrider", *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise DemoError(f"'outrider {' '.join(arguments)}' failed ({done.returncode}):\n{done.stderr or done.stdout}")
    return done.stdout


def wait_until(what: str, is_true: Callable[[], bool], timeout_s: float, *children: Child) -> None:
    """Poll until something holds, giving up early when a child it depends on has ended."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        for child in children:
            child.check_alive()
        if time.monotonic() > deadline:
            logs = "".join(f"\n  {child.log}:\n{child.tail()}" for child in children)
            raise DemoError(f"{what} did not happen within {timeout_s:.0f} s{logs}")
        time.sleep(POLL_S)
