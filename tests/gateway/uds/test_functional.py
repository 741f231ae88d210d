"""One request, many ECUs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import anyio
import pytest

from gateway.errors import TransportError
from gateway.uds.codec import control, data, dtc
from gateway.uds.errors import MalformedAnswer, NegativeResponse, NoAnswer, PendingTooLong
from gateway.uds.functional import FunctionalClient
from gateway.uds.timing import Timing

from .support import now_ms, run

TIMING = Timing(latency_ms=0, transfer_ms=0, max_pending=10)


class Vehicle:
    """A ``FunctionalChannel``: to every request the same answers, as (ms, ECU, hexadecimal PDU)."""

    def __init__(self, answers: Sequence[tuple[float, str, str]]) -> None:
        self.answers = answers
        self.requests: list[bytes] = []
        self.refuses = False
        self._arrived: deque[tuple[str, bytes]] = deque()
        self._event = asyncio.Event()

    async def send(self, pdu: bytes) -> None:
        if self.refuses:
            raise TransportError("bus off")
        if len(pdu) > 7:
            raise ValueError("too long for one frame")
        self.requests.append(pdu)
        for delay_ms, name, answer in self.answers:
            asyncio.get_running_loop().call_later(delay_ms / 1000, self.arrive, name, bytes.fromhex(answer))

    def arrive(self, name: str, pdu: bytes) -> None:
        self._arrived.append((name, pdu))
        self._event.set()

    async def receive(self) -> tuple[str, bytes]:
        while not self._arrived:
            self._event.clear()
            await self._event.wait()
        return self._arrived.popleft()

    async def aclose(self) -> None:
        """Nothing to release."""


def test_answers_of_all_are_collected_until_p2() -> None:
    async def scenario() -> tuple[dict[str, bytes | None], float]:
        client = FunctionalClient(
            Vehicle([(10, "a", "62F19041"), (49, "b", "62F19042"), (60, "late", "62F19043")]), timing=TIMING
        )
        begin = now_ms()
        found = await client.ask(data.read_did(0xF190))
        return {name: outcome.value for name, outcome in found.items()}, now_ms() - begin

    found, took = run(scenario)
    assert found == {"a": b"A", "b": b"B"}
    assert took == pytest.approx(50)


def test_pending_ecus_are_waited_for_each_by_itself() -> None:
    async def scenario() -> tuple[dict[str, bytes | None], float]:
        answers = [(10, "a", "62F19041"), (20, "b", "7F2278"), (4000, "b", "7F2278"), (8000, "b", "62F19042")]
        client = FunctionalClient(Vehicle(answers), timing=TIMING)
        begin = now_ms()
        found = await client.ask(data.read_did(0xF190))
        return {name: outcome.value for name, outcome in found.items()}, now_ms() - begin

    found, took = run(scenario)
    assert found == {"a": b"A", "b": b"B"}
    assert took == pytest.approx(8000)


def test_refusals_and_what_is_unsound_are_told_per_ecu() -> None:
    async def scenario() -> dict[str, type[Exception] | None]:
        answers = [
            (5, "sound", "59020C"), (5, "refuses", "7F1922"), (5, "busy", "7F1921"), (5, "short", "59020C1234"),
            (5, "mute after pending", "7F1978"), (5, "foreign", "5003"),
            *[(5 + 40 * i, "pending for ever", "7F1978") for i in range(100)],
        ]  # fmt: skip
        found = await FunctionalClient(Vehicle(answers), timing=TIMING).ask(dtc.by_status(0x0C))
        return {name: None if outcome.error is None else type(outcome.error) for name, outcome in found.items()}

    found = run(scenario)
    assert found.pop("foreign") is not None
    assert found == {
        "sound": None, "refuses": NegativeResponse, "busy": NegativeResponse, "short": MalformedAnswer,
        "mute after pending": NoAnswer, "pending for ever": PendingTooLong,
    }  # fmt: skip


def test_nobody_answers() -> None:
    async def scenario() -> int:
        return len(await FunctionalClient(Vehicle([]), timing=TIMING).ask(control.tester_present()))

    assert run(scenario) == 0


def test_suppressed_requests_tell_only_who_refused() -> None:
    async def scenario() -> tuple[list[str], list[bytes]]:
        vehicle = Vehicle([(5, "a", "7F8522"), (6, "b", "7F8578"), (100, "b", "C502")])
        refused = await FunctionalClient(vehicle, timing=TIMING).tell(control.dtc_setting(2))
        return list(refused), vehicle.requests

    assert run(scenario) == (["a"], [b"\x85\x82"])


def test_late_answers_do_not_reach_the_next_request() -> None:
    async def scenario() -> list[str]:
        vehicle = Vehicle([(70, "late", "62F19041")])
        client = FunctionalClient(vehicle, timing=TIMING)
        await client.ask(data.read_did(0xF190))
        await anyio.sleep(1)
        vehicle.answers = [(5, "a", "62F19041")]
        return list(await client.ask(data.read_did(0xF190)))

    assert run(scenario) == ["a"]


def test_transport_errors_and_long_requests_reach_the_caller() -> None:
    async def scenario() -> None:
        vehicle = Vehicle([])
        client = FunctionalClient(vehicle, timing=TIMING)
        with pytest.raises(ValueError, match="one frame"):
            await client.ask(data.write_did(0xF190, bytes(10)))
        vehicle.refuses = True
        with pytest.raises(TransportError):
            await client.ask(control.tester_present())

    run(scenario)
