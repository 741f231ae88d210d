"""An ECU in memory that answers as told, and an event loop whose clock jumps to the next thing to happen."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import anyio

from gateway.errors import GatewayError, TransportError
from gateway.uds.channel import ChannelClosedError

T = TypeVar("T")
#: What an ECU does with a request: (milliseconds from now, PDU) each.
Answers = Sequence[tuple[float, bytes]]


class _JumpingSelector(selectors.DefaultSelector):
    now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits and nothing is going to happen")
        self.now_s += max(0.0, timeout)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """Waits for nothing: when all tasks wait, the time is that of the next timer."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._jumping.now_s


def run(scenario: Callable[[], Awaitable[T]]) -> T:
    """Run a scenario in a loop that jumps."""
    return anyio.run(scenario, backend_options={"loop_factory": JumpingLoop})


def now_ms() -> float:
    """Of the running loop."""
    return anyio.current_time() * 1000


class EcuInMemory:
    """A ``DiagnosticChannel`` with an ECU at its end: ``behave`` maps each request to its answers."""

    name = "ecu"

    def __init__(self, behave: Callable[[bytes], Answers], *, max_pdu_bytes: int = 4095, send_ms: float = 0) -> None:
        self.behave, self.max_pdu_bytes, self.send_ms = behave, max_pdu_bytes, send_ms
        self.requests: list[bytes] = []
        self.sent_at_ms: list[float] = []
        self.failures: deque[TransportError] = deque()  # of the next receptions
        self.send_failures: deque[GatewayError] = deque()
        self._arrived: deque[bytes] = deque()
        self._event = asyncio.Event()
        self._is_closed = False

    async def send(self, pdu: bytes) -> None:
        if self._is_closed:
            raise ChannelClosedError("closed")
        if self.send_failures:
            raise self.send_failures.popleft()
        if self.send_ms:
            await anyio.sleep(self.send_ms / 1000)
        self.requests.append(pdu)
        self.sent_at_ms.append(now_ms())
        for delay_ms, answer in self.behave(pdu):
            self.later(delay_ms, answer)

    def later(self, delay_ms: float, pdu: bytes) -> None:
        """Something arrives after a while."""
        if delay_ms:
            asyncio.get_running_loop().call_later(delay_ms / 1000, self._arrive, pdu)
        else:
            self._arrive(pdu)

    def _arrive(self, pdu: bytes) -> None:
        self._arrived.append(pdu)
        self._event.set()

    async def receive(self) -> bytes:
        while not self._arrived:
            if self.failures:
                raise self.failures.popleft()
            if self._is_closed:
                raise ChannelClosedError("closed")
            self._event.clear()
            await self._event.wait()
        return self._arrived.popleft()

    def drain(self) -> int:
        count = len(self._arrived)
        self._arrived.clear()
        return count

    async def aclose(self) -> None:
        self._is_closed = True
        self._event.set()


class Script(dict[bytes, Any]):
    """A table from request to answers, as hexadecimal; requests that are not in it get silence."""

    def __init__(self, table: dict[str, Any]) -> None:
        super().__init__()
        for request, answers in table.items():
            listed = [(0, answers)] if isinstance(answers, str) else answers
            self[bytes.fromhex(request)] = [(delay, bytes.fromhex(pdu)) for delay, pdu in listed]

    def __call__(self, request: bytes) -> Answers:
        return list(self.get(request, ()))


class LongReceptionEcu(EcuInMemory):
    """A channel that can tell that an answer is arriving."""

    is_receiving = False
