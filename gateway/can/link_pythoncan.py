"""Any interface of python-can as a link. Its blocking ``recv`` runs in a thread that this adapter owns.

The thread hands frames to the event loop in batches; whatever the adapter raises there makes the link fail: sending
raises ``TransportError`` until the adapter could be opened again, which is tried every second. At most ``MAX_WAITING``
frames wait for the loop; more are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from gateway.can.config import BusConfig
from gateway.can.link import CanFrame, CanId, LinkBusyError
from gateway.can.link_table import ListenerTable, check_frame
from gateway.can.pythoncan import open_bus
from gateway.errors import TransportError

MAX_WAITING = 10_000
POLL_S = 0.1  # how long the thread may keep ``aclose`` waiting
CLOSE_S = 5.0
REOPEN_S = 1.0
BUSY = (errno.ENOBUFS, errno.EAGAIN, errno.ENOMEM)


class PythonCanLink:
    """See ``CanLink``."""

    def __init__(self, config: BusConfig, *, fd: bool, own: bool = False) -> None:
        """Open the adapter and start its thread.

        Raises:
            TransportError: python-can or the adapter is missing or refuses.
        """
        self._name, self._fd, self._own = f"{config.interface} {config.channel}".strip(), fd, own
        self._config = config
        self._table = ListenerTable()
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[CanFrame] = deque()
        self._scheduled = False
        self._stop = threading.Event()
        self._failure = ""
        self.dropped = self.malformed = 0
        try:
            self._can: Any = importlib.import_module("can")
            self._bus: Any = open_bus(config)
        except Exception as error:  # adapters raise whatever their driver does
            raise TransportError(f"cannot open {self._name}: {type(error).__name__}: {error}") from error
        self._thread = threading.Thread(target=self._run, name=f"link-{self._name}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """See ``CanLink``."""
        return self._name

    @property
    def fd(self) -> bool:
        """See ``CanLink``."""
        return self._fd

    def send(self, frame: CanFrame) -> None:
        """See ``CanLink``. The adapter is told not to wait; one that does so nevertheless holds up the event loop."""
        check_frame(frame, fd=self._fd)
        if self._failure or self._stop.is_set():
            raise TransportError(f"{self._name}: {self._failure or 'the link is closed'}")
        message = self._can.Message(
            arbitration_id=frame.can_id,
            is_extended_id=frame.extended,
            is_fd=frame.fd,
            bitrate_switch=frame.brs,
            dlc=len(frame.data),
            data=frame.data,
            is_rx=False,
        )
        try:
            self._bus.send(message, timeout=0)
        except Exception as error:  # as above
            cause = error.__cause__
            number = getattr(error, "error_code", None) or (cause.errno if isinstance(cause, OSError) else None)
            if number in BUSY:
                raise LinkBusyError(f"{self._name}: the queue is full") from error
            raise TransportError(f"{self._name}: {type(error).__name__}: {error}") from error

    def hear(self, ids: Collection[CanId] | None, handler: Callable[[CanFrame], None]) -> Callable[[], None]:
        """See ``CanLink``."""
        return self._table.add(ids, handler)

    async def aclose(self) -> None:
        """See ``CanLink``."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._table.clear()
        await asyncio.to_thread(self._thread.join, CLOSE_S)

    # --- in the thread ---

    def _run(self) -> None:
        self._receive()
        while not self._stop.wait(REOPEN_S):
            try:
                self._bus = open_bus(self._config)
            except Exception as error:  # as above: adapters raise whatever their driver does
                self._failure = f"{type(error).__name__}: {error}"
                continue
            self._failure = ""
            self._receive()

    def _receive(self) -> None:
        """Until told to stop, or the adapter fails."""
        try:
            while not self._stop.is_set():
                message = self._bus.recv(POLL_S)
                if message is not None:
                    self._put(message)
        except BaseException as error:  # whatever an adapter throws, the link has failed and says so
            self._failure = f"{type(error).__name__}: {error}"
        finally:
            with contextlib.suppress(Exception):
                self._bus.shutdown()

    def _put(self, message: Any) -> None:
        if message.is_error_frame or message.is_remote_frame:
            return
        is_own = not message.is_rx
        if is_own and not self._own:
            return
        data = bytes(message.data or b"")
        fd = bool(message.is_fd)
        frame = CanFrame(
            int(message.arbitration_id), data, bool(message.is_extended_id), fd, bool(message.bitrate_switch),
            time.time_ns(), is_own,
        )  # fmt: skip
        try:
            check_frame(frame, fd=True)
        except ValueError:
            self.malformed += 1
            return
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self._waiting.append(frame)
        if not self._scheduled:
            self._scheduled = True
            with contextlib.suppress(RuntimeError):  # the loop is gone
                self._loop.call_soon_threadsafe(self._deliver)

    # --- in the loop ---

    def _deliver(self) -> None:
        self._scheduled = False  # before the queue is looked at: what is appended from now on calls again
        for _ in range(len(self._waiting)):
            self._table.dispatch(self._waiting.popleft())
