"""Time for the runners: the one place of the simulator that waits."""

from __future__ import annotations

import selectors
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Protocol, Self


class Pacer(Protocol):
    """A clock to wait on."""

    stopped: bool

    def now_s(self) -> float:
        """Monotonic seconds."""

    def wait_until(self, deadline_s: float) -> None:
        """Return at the deadline, or once stopped; what became readable meanwhile is handled."""


class Timed(Protocol):
    """Something with deadlines of its own between those the pacer is asked to wait for."""

    def poll(self, now_s: float) -> None:
        """Do what is due."""

    def next_deadline_s(self, now_s: float) -> float | None:
        """When something is due; None: nothing is."""


class RealPacer:
    """The system's clock; SIGTERM and SIGINT stop it, and files that become readable are handled while it waits."""

    def __init__(self) -> None:
        self.stopped = False
        #: Polled while waiting, when it is due.
        self.timed: Timed | None = None
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._before: dict[signal.Signals, object] = {}

    def watch(self, file: int, handle: Callable[[], None]) -> None:
        """Call ``handle`` whenever ``file`` is readable."""
        self._selector.register(file, selectors.EVENT_READ, handle)

    def unwatch(self, file: int) -> None:
        """Stop watching."""
        self._selector.unregister(file)

    def __enter__(self) -> Self:
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self.watch(self._wake.fileno(), self._woken)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._stop)
        return self

    def _woken(self) -> None:
        self._wake.recv(64)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned
        self._selector.close()
        self._wake.close()
        self._waker.close()

    def now_s(self) -> float:
        """See ``Pacer``."""
        return time.monotonic()

    def wait_until(self, deadline_s: float) -> None:
        """See ``Pacer``."""
        timed = self.timed
        while not self.stopped:
            now_s = time.monotonic()
            left = until_s = deadline_s - now_s
            if timed is not None:
                timed.poll(now_s)
                due_s = timed.next_deadline_s(now_s)
                if due_s is not None:
                    # Late by nothing, and no busy loop for what is due but waits for something else.
                    until_s = min(left, max(0.0005, due_s - now_s))
            for key, _ in self._selector.select(max(0.0, until_s)):
                key.data()
            if left <= 0:
                return
