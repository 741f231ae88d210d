"""The least tester there is: CAN frames made by hand, one request at a time, in one thread. Scans are made with it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import can

from tests.chain.diagnostics.car import declared
from tests.chain.diagnostics.testers import ADDRESSES, ANSWERS, Way, bus_of, open_bus

WAIT_S = 10.0
FLOW_CONTROL = b"\x30\x00\x00"


class SilenceError(Exception):
    """No answer came."""


class Plain:
    """A tester of one ECU that sends requests that fit into one frame."""

    def __init__(self, ecu: str, bus: can.BusABC) -> None:
        self.ecu, self._bus = ecu, bus
        transport = declared(ecu)["transport"]
        self._extended = ecu == "brakes"
        self._wide, self._fd = ecu == "telematics", bool(transport["fd"])
        self._tx = 0x18DA50F1 if self._wide else ADDRESSES[ecu].get_tx_arbitration_id() or 0
        self._answer_id = ANSWERS[ecu]

    def _send(self, data: bytes) -> None:
        data = (b"\x29" if self._extended else b"") + data
        self._bus.send(
            can.Message(arbitration_id=self._tx, is_extended_id=self._wide, is_fd=self._fd, data=data.ljust(8, b"\x55"))
        )

    def _frame(self, wait_s: float) -> bytes:
        deadline_s = time.monotonic() + wait_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            message = self._bus.recv(left_s)
            if message is None or message.arbitration_id != self._answer_id:
                continue
            data = bytes(message.data)
            if self._extended:
                if data[0] != 0xF1:
                    continue
                data = data[1:]
            return data
        raise SilenceError(f"{self.ecu} says nothing")

    def _message(self, wait_s: float) -> bytes:
        first = self._frame(wait_s)
        kind = first[0] >> 4
        if kind == 0:
            return first[1 : 1 + (first[0] & 0xF)] if first[0] else first[2 : 2 + first[1]]
        if kind != 1:
            return self._message(wait_s)
        length = (first[0] & 0xF) << 8 | first[1]
        whole = first[2:]
        self._send(FLOW_CONTROL)
        while len(whole) < length:
            whole += self._frame(WAIT_S)[1:]
        return whole[:length]

    def tell(self, request: bytes) -> None:
        """Send a request of at most six bytes."""
        assert len(request) <= 6
        self._send(bytes([len(request)]) + request)

    def ask(self, request: bytes, wait_s: float = WAIT_S) -> bytes:
        """The final answer.

        Raises:
            SilenceError: none came.
        """
        while self._bus.recv(0) is not None:  # what is late from before
            pass
        self.tell(request)
        while True:
            answer = self._message(wait_s)
            if answer[:1] == b"\x7f" and answer[1] == request[0]:
                if answer[2] != 0x78:
                    return answer
            elif answer[0] == request[0] | 0x40:
                return answer

    def nrc(self, request: bytes) -> int:
        """Negative response code, 0 for a positive answer."""
        answer = self.ask(request)
        return answer[2] if answer[0] == 0x7F else 0


@contextlib.contextmanager
def plain(ecu: str, way: Way = "direct") -> Iterator[Plain]:
    """On the ECU's bus, or on the connector's."""
    with open_bus(bus_of(ecu, way), ANSWERS[ecu]) as bus:
        yield Plain(ecu, bus)


Ask = Callable[[bytes], bytes]
