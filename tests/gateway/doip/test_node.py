"""The node on real sockets, with a tester that says exactly what a test wants."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from gateway.diag import ports
from gateway.diag.ports import TargetBusyError, TooLongError, UnknownNetworkError, UnreachableError
from gateway.doip.messages import (
    ActivationRequest,
    ActivationResponse,
    AliveCheckRequest,
    AliveCheckResponse,
    Diagnostic,
    DiagnosticAck,
    DiagnosticNack,
    HeaderNack,
    encode,
    frame,
)
from gateway.doip.model import NodeLimits
from gateway.errors import GatewayError, NotNowError, TransportError
from tests.gateway.doip.support import ALL, BODY, MOTOR, MemoryRouter, MemorySession, Raw, running, section, until

pytestmark = pytest.mark.anyio
TESTER = 0x0E80


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def activated(node: object, source: int = TESTER) -> Raw:
    raw = await Raw.connect(node)  # type: ignore[arg-type]  # a DoipNode
    assert await raw.ask(ActivationRequest(source)) == ActivationResponse(source, 0x1001, 0x10)
    return raw


async def test_a_request_is_acknowledged_before_it_is_answered() -> None:
    async with running(section()) as node:
        raw = await activated(node)
        raw.say(Diagnostic(TESTER, MOTOR, b"\x36\x01"))
        assert await raw.hear() == DiagnosticAck(MOTOR, TESTER)
        assert await raw.hear() == Diagnostic(MOTOR, TESTER, b"\x7f\x36\x78")
        assert await raw.hear() == Diagnostic(MOTOR, TESTER, b"\x76\x01")
        await raw.aclose()


async def test_a_functional_request_is_acknowledged_once_and_answered_by_each() -> None:
    async with running(section()) as node:
        raw = await activated(node)
        raw.say(Diagnostic(TESTER, ALL, b"\x3e\x00"))
        assert await raw.hear() == DiagnosticAck(ALL, TESTER)
        assert {(await raw.hear()) for _ in range(2)} == {Diagnostic(e, TESTER, b"\x7e\x00") for e in (MOTOR, BODY)}
        await raw.aclose()


async def test_the_answer_has_the_version_of_the_request() -> None:
    async with running(section()) as node:
        for version in (2, 3):
            raw = await Raw.connect(node)
            await raw.ask(ActivationRequest(TESTER), version)
            await raw.ask(Diagnostic(TESTER, MOTOR, b"\x3e\x00"), version)
            await raw.hear()
            assert raw.versions == {version}
            await raw.aclose()


async def test_everything_in_one_segment_is_answered_in_order() -> None:
    async with running(section()) as node:
        raw = await Raw.connect(node)
        raw.say(
            encode(ActivationRequest(TESTER))
            + encode(Diagnostic(TESTER, MOTOR, b"\x22\xf1\x90"))
            + encode(Diagnostic(TESTER, MOTOR, b"\x3e\x00"))
        )
        assert await raw.hear() == ActivationResponse(TESTER, 0x1001, 0x10)
        heard = [await raw.hear() for _ in range(4)]
        assert [m.data for m in heard if isinstance(m, Diagnostic)] == [b"\x62\xf1\x90motor", b"\x7e\x00"]
        await raw.aclose()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TooLongError("x"), 0x04),
        (TargetBusyError("x"), 0x05),
        (UnreachableError("x"), 0x06),
        (UnknownNetworkError("x"), 0x07),
        (TransportError("x"), 0x08),
    ],
)
async def test_what_the_router_refuses_gets_its_nack(error: GatewayError, code: int) -> None:
    router = MemoryRouter()
    router.errors[MOTOR] = error
    async with running(section(), router) as node:
        raw = await activated(node)
        assert await raw.ask(Diagnostic(TESTER, MOTOR, b"\x3e\x00")) == DiagnosticNack(MOTOR, TESTER, code)
        assert await raw.ask(Diagnostic(TESTER, BODY, b"\x3e\x00")) == DiagnosticAck(BODY, TESTER)
        assert node.statistics().nacks == {code: 1}
        await raw.aclose()


async def test_an_unknown_target_gets_a_nack_and_the_connection_stays() -> None:
    async with running(section()) as node:
        raw = await activated(node)
        assert await raw.ask(Diagnostic(TESTER, 0x4711, b"\x3e\x00")) == DiagnosticNack(0x4711, TESTER, 0x03)
        assert await raw.ask(Diagnostic(TESTER, BODY, b"\x3e\x00")) == DiagnosticAck(BODY, TESTER)
        await raw.aclose()


async def test_another_source_address_than_activated_gets_a_nack_and_is_closed() -> None:
    async with running(section()) as node:
        raw = await activated(node)
        assert await raw.ask(Diagnostic(TESTER + 1, MOTOR, b"\x3e\x00")) == DiagnosticNack(MOTOR, TESTER + 1, 0x02)
        assert await raw.is_closed()
        await raw.aclose()


async def test_no_request_is_routed_before_activation() -> None:
    router = MemoryRouter()
    async with running(section(), router) as node:
        raw = await Raw.connect(node)
        assert await raw.ask(Diagnostic(TESTER, MOTOR, b"\x3e\x00")) == DiagnosticNack(MOTOR, TESTER, 0x02)
        assert await raw.is_closed()
        assert (router.requests, router.testers) == ([], [])
        await raw.aclose()


async def test_the_router_learns_who_asks_and_when_they_left() -> None:
    router = MemoryRouter()
    async with running(section(), router) as node:
        raw = await activated(node)
        await raw.ask(Diagnostic(TESTER, MOTOR, b"\x3e\x00"))
        (tester,) = router.testers
        assert (tester.port, tester.address, tester.is_secure) == ("doip", TESTER, False)
        assert tester.peer.startswith("127.0.0.1:")
        await raw.aclose()
        with anyio.fail_after(5):
            while router.sessions:
                await anyio.lowlevel.checkpoint()
        assert node.statistics().open == 0


async def test_an_answer_never_overtakes_the_acknowledgement_of_a_later_request() -> None:
    """What an ECU says while a request to it is being routed waits; other ECUs do not."""
    router = MemoryRouter()
    async with running(section(), router) as node:
        raw = await activated(node)
        await raw.ask(Diagnostic(TESTER, BODY, b"\x3e\x80"))
        gate = router.gates[MOTOR] = anyio.Event()
        raw.say(Diagnostic(TESTER, MOTOR, b"\x3e\x80"))
        with anyio.fail_after(5):
            while not router.waiting:
                await anyio.lowlevel.checkpoint()
        session = router.sessions[0]
        session.answers.put_nowait((MOTOR, b"\x6a\x01"))
        session.answers.put_nowait((BODY, b"\x6a\x02"))
        assert await raw.hear() == Diagnostic(BODY, TESTER, b"\x6a\x02")
        gate.set()
        assert await raw.hear() == DiagnosticAck(MOTOR, TESTER)
        assert await raw.hear() == Diagnostic(MOTOR, TESTER, b"\x6a\x01")
        await raw.aclose()


async def test_too_many_requests_at_once_are_refused_and_one_slow_ecu_holds_up_no_other() -> None:
    router = MemoryRouter()
    gate = router.gates[MOTOR] = anyio.Event()
    async with running(section(), router, limits=NodeLimits(requests_in_flight=3)) as node:
        raw = await activated(node)
        raw.say(encode(Diagnostic(TESTER, MOTOR, b"\x3e\x80")) * 2)
        assert await raw.ask(Diagnostic(TESTER, BODY, b"\x3e\x80")) == DiagnosticAck(BODY, TESTER)
        raw.say(encode(Diagnostic(TESTER, MOTOR, b"\x3e\x80")) * 2)
        assert await raw.hear() == DiagnosticNack(MOTOR, TESTER, 0x05)
        gate.set()
        assert [await raw.hear() for _ in range(3)] == [DiagnosticAck(MOTOR, TESTER)] * 3
        await raw.aclose()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(64), encode(AliveCheckRequest(), 9)])
async def test_garbage_gets_a_header_nack_and_the_connection_ends(garbage: bytes) -> None:
    async with running(section()) as node:
        raw = await Raw.connect(node)
        assert await raw.ask(garbage) == HeaderNack(0x00)
        assert await raw.is_closed()
        await raw.aclose()


async def test_over_long_messages_are_skipped_and_unknown_ones_told() -> None:
    async with running(section(max_request_bytes=100)) as node:
        raw = await activated(node)
        assert await raw.ask(frame(0x8001, bytes(105))) == HeaderNack(0x02)
        assert await raw.ask(frame(0x4001, b"")) == HeaderNack(0x01)
        assert await raw.ask(frame(0xBEEF, bytes(7))) == HeaderNack(0x01)
        raw.say(Diagnostic(TESTER, MOTOR, b"\x22" * 100))
        assert await raw.hear() == DiagnosticAck(MOTOR, TESTER)
        await raw.hear()
        assert await raw.ask(frame(0x0008, bytes(3))) == HeaderNack(0x04)
        assert await raw.is_closed()
        await raw.aclose()


async def test_a_tester_that_asks_whether_we_are_alive_hears_so() -> None:
    async with running(section()) as node:
        raw = await Raw.connect(node)
        assert await raw.ask(AliveCheckRequest()) == AliveCheckResponse(0x1001)
        await raw.aclose()


async def test_silence_before_activation_ends_the_connection_soon() -> None:
    async with running(section(initial_inactivity_ms=30)) as node:
        silent, half = await Raw.connect(node), await Raw.connect(node)
        half.say(encode(ActivationRequest(TESTER))[:9])
        assert await silent.is_closed()
        assert await half.is_closed()
        assert node.statistics().closed == {"initial inactivity": 2}
        for raw in (silent, half):
            await raw.aclose()


async def test_an_idle_tester_is_closed_after_the_general_inactivity_time() -> None:
    async with running(section(initial_inactivity_ms=1000, general_inactivity_ms=40)) as node:
        raw = await activated(node)
        assert await raw.is_closed()
        assert node.statistics().closed == {"general inactivity": 1}
        await raw.aclose()


async def test_a_tester_that_vanished_makes_room_for_its_successor() -> None:
    async with running(section(alive_check_ms=30)) as node:
        ghost = await activated(node)
        again = await Raw.connect(node)
        again.say(ActivationRequest(TESTER))
        assert await ghost.hear() == AliveCheckRequest()
        assert await again.hear() == ActivationResponse(TESTER, 0x1001, 0x10)
        assert await ghost.is_closed()
        for raw in (ghost, again):
            await raw.aclose()


async def test_a_tester_that_is_alive_keeps_its_address() -> None:
    async with running(section(alive_check_ms=5000)) as node:
        first = await activated(node)
        second = await Raw.connect(node)
        second.say(ActivationRequest(TESTER))
        assert await first.hear() == AliveCheckRequest()
        first.say(AliveCheckResponse(TESTER))
        assert await second.hear() == ActivationResponse(TESTER, 0x1001, 0x03)
        assert await second.is_closed()
        assert await first.ask(Diagnostic(TESTER, MOTOR, b"\x3e\x80")) == DiagnosticAck(MOTOR, TESTER)
        for raw in (first, second):
            await raw.aclose()


async def test_a_tester_that_does_not_read_is_cut_and_its_answers_stay_bounded() -> None:
    router = MemoryRouter()
    limits = NodeLimits(write_buffer_bytes=20_000, write_stall_ms=50)
    async with running(section(), router, limits=limits) as node:
        raw = await activated(node)
        session = router.sessions[0]
        for _ in range(4000):
            session.answers.put_nowait((MOTOR, bytes(4000)))
        await until(lambda: not node.statistics().open)
        assert node.statistics().closed == {"does not read": 1}
        assert session.answers.qsize() > 0  # the rest was left with the router, which bounds it
        await until(lambda: not router.sessions)
        await raw.aclose()


async def test_a_router_that_ends_the_session_ends_the_connection() -> None:
    router = MemoryRouter()
    async with running(section(), router) as node:
        raw = await activated(node)
        await raw.ask(Diagnostic(TESTER, MOTOR, b"\x3e\x80"))
        router.sessions[0].answers.put_nowait(None)
        assert await raw.is_closed()
        assert node.statistics().closed == {"router": 1}
        await raw.aclose()


async def test_a_router_that_takes_no_more_testers_costs_that_tester_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tester: ports.Tester) -> MemorySession:
        if tester.address == TESTER:
            raise NotNowError("full")
        return MemoryRouter.open_session(router, tester)

    router = MemoryRouter()
    monkeypatch.setattr(router, "open_session", refuse)
    async with running(section(), router) as node:
        refused, other = await activated(node), await activated(node, TESTER + 1)
        assert await refused.is_closed()
        assert await other.ask(Diagnostic(TESTER + 1, MOTOR, b"\x3e\x80")) == DiagnosticAck(MOTOR, TESTER + 1)
        for raw in (refused, other):
            await raw.aclose()


async def test_stopping_ends_all_connections_and_sessions() -> None:
    router = MemoryRouter()
    async with running(section(), router) as node:
        raw, idle = await activated(node), await Raw.connect(node)
        await raw.ask(Diagnostic(TESTER, MOTOR, b"\x3e\x80"))
    assert await raw.is_closed()
    assert await idle.is_closed()
    assert router.sessions == []
    for one in (raw, idle):
        await one.aclose()


async def test_a_port_in_use_is_told() -> None:
    async with running(section()) as node:
        with pytest.raises(ExceptionGroup) as told:
            async with running(section(port=node.port)):
                pass
        assert told.value.subgroup(TransportError) is not None
        assert str(node.port) in str(told.value.exceptions[0])
