"""Our tester's side, against our node and against nodes that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from gateway.diag.ports import UnreachableError
from gateway.doip.client import ClientSettings, DoipConnection
from gateway.doip.discovery import discover, entity_status, power_mode
from gateway.doip.errors import (
    ActivationRefusedError,
    DiagnosticNackError,
    HeaderNackError,
    NoAcknowledgementError,
)
from gateway.doip.messages import (
    ActivationRequest,
    ActivationResponse,
    AliveCheckRequest,
    AliveCheckResponse,
    Diagnostic,
    DiagnosticAck,
    HeaderNack,
    Message,
    PowerModeCode,
    encode,
)
from gateway.doip.model import Verdict
from gateway.doip.tls import client_context
from gateway.errors import TransportError
from gateway.uds.channel import ChannelClosedError
from tests.gateway.doip.support import (
    ALL,
    BODY,
    MOTOR,
    VIN,
    Certificates,
    MemoryRouter,
    Raw,
    facts,
    running,
    section,
    until,
)

pytestmark = pytest.mark.anyio
TESTER = 0x0E80


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_channels_carry_requests_and_answers() -> None:
    async with running(section()) as node:
        connection = await DoipConnection.open("127.0.0.1", node.port, TESTER)
        motor, body = connection.channel(MOTOR, "motor"), connection.channel(BODY)
        assert (motor.name, body.name, connection.entity) == ("motor", "0x1030", 0x1001)
        await motor.send(b"\x22\xf1\x90")
        await body.send(b"\x22\xf1\x90")
        assert await body.receive() == b"\x62\xf1\x90body"
        assert await motor.receive() == b"\x62\xf1\x90motor"
        await connection.aclose()


async def test_a_functional_channel_hears_each_ecu_by_name_and_only_its_answers() -> None:
    async with running(section()) as node:
        connection = await DoipConnection.open("127.0.0.1", node.port, TESTER)
        everybody, motor = connection.functional(ALL, {MOTOR: "motor"}), connection.channel(MOTOR)
        await everybody.send(b"\x3e\x00")
        await motor.send(b"\x22\xf1\x90")
        assert {await everybody.receive() for _ in range(2)} == {("motor", b"\x7e\x00"), ("0x1030", b"\x7e\x00")}
        assert [await motor.receive(), await motor.receive()] == [b"\x7e\x00", b"\x62\xf1\x90motor"]
        assert everybody.inbox.drain() == 0
        await connection.aclose()


async def test_refusals_are_errors_with_their_code() -> None:
    router = MemoryRouter()
    router.errors[BODY] = UnreachableError("bus off")
    async with running(section(), router) as node:
        with pytest.raises(ActivationRefusedError) as refused:
            await DoipConnection.open("127.0.0.1", node.port, 0x0001)
        assert refused.value.code == 0x00
        connection = await DoipConnection.open("127.0.0.1", node.port, TESTER)
        for target, code in ((0x4711, 0x03), (BODY, 0x06)):
            with pytest.raises(DiagnosticNackError) as nack:
                await connection.channel(target).send(b"\x3e\x00")
            assert (nack.value.target, nack.value.code) == (target, code)
        motor = connection.channel(MOTOR)
        await motor.send(b"\x3e\x00")
        assert await motor.receive() == b"\x7e\x00"
        await connection.aclose()


async def test_a_request_the_node_takes_for_too_long_is_an_error_and_the_connection_stays() -> None:
    async with running(section(max_request_bytes=100)) as node:
        connection = await DoipConnection.open("127.0.0.1", node.port, TESTER)
        motor = connection.channel(MOTOR)
        with pytest.raises(HeaderNackError) as nack:
            await motor.send(bytes(101))
        assert nack.value.code == 0x02
        with pytest.raises(ValueError, match="1 to 4096"):
            await motor.send(bytes(5000))
        with pytest.raises(ValueError, match="1 to 4096"):
            await motor.send(b"")
        await motor.send(b"\x3e\x00")
        assert await motor.receive() == b"\x7e\x00"
        await connection.aclose()


async def test_losing_the_connection_ends_all_channels_after_what_had_come() -> None:
    router = MemoryRouter()
    async with running(section(), router) as node:
        connection = await DoipConnection.open("127.0.0.1", node.port, TESTER)
        motor, body, everybody = connection.channel(MOTOR), connection.channel(BODY), connection.functional(ALL)
        await motor.send(b"\x3e\x00")
        await until(lambda: not router.sessions[0].answers.qsize())
    await until(lambda: not connection.is_open)
    assert await motor.receive() == b"\x7e\x00"
    for channel in (motor, body, everybody):
        with pytest.raises(ChannelClosedError):
            await channel.receive()
        with pytest.raises(ChannelClosedError):
            await channel.send(b"\x3e\x00")
    with pytest.raises(ChannelClosedError):
        connection.channel(MOTOR)
    await connection.aclose()


async def test_a_closed_channel_leaves_the_others() -> None:
    async with running(section()) as node:
        connection = await DoipConnection.open("127.0.0.1", node.port, TESTER)
        motor, body = connection.channel(MOTOR), connection.channel(BODY)
        await motor.aclose()
        await motor.aclose()
        with pytest.raises(ChannelClosedError):
            await motor.send(b"\x3e\x00")
        await body.send(b"\x3e\x00")
        assert await body.receive() == b"\x7e\x00"
        await connection.aclose()


async def test_a_cancelled_reception_loses_nothing() -> None:
    router = MemoryRouter()
    async with running(section(), router) as node:
        connection = await DoipConnection.open("127.0.0.1", node.port, TESTER)
        motor = connection.channel(MOTOR)
        with anyio.move_on_after(0.01):
            await motor.receive()
        await motor.send(b"\x3e\x00")
        assert await motor.receive() == b"\x7e\x00"
        await motor.send(b"\x3e\x00")
        await until(motor.drain)
        await connection.aclose()


async def test_alive_checks_are_answered_so_the_address_stays_ours() -> None:
    async with running(section(alive_check_ms=5000)) as node:
        connection = await DoipConnection.open("127.0.0.1", node.port, TESTER)
        with pytest.raises(ActivationRefusedError) as refused:
            await DoipConnection.open("127.0.0.1", node.port, TESTER)
        assert refused.value.code == 0x03
        motor = connection.channel(MOTOR)
        await motor.send(b"\x3e\x00")
        await connection.aclose()


@pytest.mark.parametrize("accepted", [True, False])
async def test_confirmation_in_the_vehicle_is_waited_for(accepted: bool) -> None:
    async with running(section(), authorise=lambda applicant: Verdict.CONFIRM) as node:
        settings = ClientSettings(confirmation_timeout_s=5)
        opening = asyncio.ensure_future(DoipConnection.open("127.0.0.1", node.port, TESTER, settings=settings))

        def decided() -> bool:
            node.confirm(TESTER, accepted=accepted)
            return opening.done()

        await until(decided)
        if accepted:
            await opening.result().aclose()
        else:
            error = opening.exception()
            assert isinstance(error, ActivationRefusedError)
            assert error.code == 0x05


async def test_nobody_confirming_is_a_refusal() -> None:
    async with running(section(), authorise=lambda applicant: Verdict.CONFIRM) as node:
        for seconds in (0.0, 0.03):
            with pytest.raises(ActivationRefusedError) as refused:
                settings = ClientSettings(confirmation_timeout_s=seconds)
                await DoipConnection.open("127.0.0.1", node.port, TESTER, settings=settings)
            assert refused.value.code == 0x11


async def test_discovery_tells_who_is_there() -> None:
    config = section(gid="02:00:00:00:00:02")
    async with running(config) as node:
        eid = bytes.fromhex("020000000001")
        for asked_eid, vin in ((None, None), (eid, None), (None, VIN.encode())):
            (found,) = await discover("127.0.0.1", port=node.port, most=1, timeout_s=5, eid=asked_eid, vin=vin)
            assert (found.host, found.port, found.identity) == ("127.0.0.1", node.port, facts(config).identity)
        assert found.identity.gid == bytes.fromhex("020000000002")
        (found,) = await discover("127.255.255.255", port=node.port, most=1, timeout_s=5)  # as a broadcast
        assert found.host == "127.0.0.1"
        assert await discover("127.0.0.1", port=node.port, timeout_s=0.05, eid=bytes(6)) == []
        assert await discover("127.0.0.1", port=node.port, timeout_s=0.05, vin=b"X" * 17) == []


async def test_entity_status_counts_what_there_is() -> None:
    async with running(section(max_connections=5, max_request_bytes=777)) as node:
        before = await entity_status("127.0.0.1", port=node.port)
        connection = await DoipConnection.open("127.0.0.1", node.port, TESTER)
        after = await entity_status("127.0.0.1", port=node.port)
        assert (before.max_sockets, before.open_sockets, before.max_data_bytes) == (5, 0, 777)
        assert after.open_sockets == 1
        await connection.aclose()


async def test_power_mode_is_what_the_vehicle_says() -> None:
    async with running(section(), power_mode=lambda: PowerModeCode.NOT_READY) as node:
        assert await power_mode("127.0.0.1", port=node.port) == PowerModeCode.NOT_READY


async def test_a_node_that_is_not_there_is_a_transport_error() -> None:
    with pytest.raises(TransportError):
        await DoipConnection.open("127.0.0.1", 1, TESTER)
    with pytest.raises(TransportError):
        await power_mode("127.0.0.1", port=1, timeout_s=0.05)


Behaviour = Callable[[Raw], Awaitable[None]]


@asynccontextmanager
async def strange_node(behave: Behaviour) -> AsyncIterator[int]:
    """A node that activates and then does what it likes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = Raw(reader, writer)
        request = await raw.hear()
        assert isinstance(request, ActivationRequest)
        raw.say(ActivationResponse(request.source, 0x1001, 0x10))
        await behave(raw)
        await raw.aclose()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_an_acknowledgement_that_comes_late_is_not_taken_for_the_next_ones() -> None:
    go = anyio.Event()

    async def behave(raw: Raw) -> None:
        await raw.hear()
        await go.wait()
        raw.say(DiagnosticAck(MOTOR, TESTER))
        await raw.hear()
        await raw.is_closed()

    async with strange_node(behave) as port:
        settings = ClientSettings(ack_timeout_s=0.05)
        connection = await DoipConnection.open("127.0.0.1", port, TESTER, settings=settings)
        motor = connection.channel(MOTOR)
        with pytest.raises(NoAcknowledgementError):
            await motor.send(b"\x3e\x00")
        go.set()
        with pytest.raises(NoAcknowledgementError):
            await motor.send(b"\x3e\x00")
        await connection.aclose()


async def test_an_idle_tester_says_that_it_lives() -> None:
    heard: list[Message] = []

    async def behave(raw: Raw) -> None:
        heard.extend([await raw.hear(), await raw.hear()])
        await raw.is_closed()

    async with strange_node(behave) as port:
        settings = ClientSettings(keep_alive_s=0.01)
        connection = await DoipConnection.open("127.0.0.1", port, TESTER, settings=settings)
        await until(lambda: heard)
        assert heard == [AliveCheckResponse(TESTER)] * 2
        await connection.aclose()


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n", bytes(50), encode(AliveCheckRequest(), 7)])
async def test_a_node_that_speaks_something_else_ends_the_connection(garbage: bytes) -> None:
    async def behave(raw: Raw) -> None:
        raw.say(garbage)
        await raw.is_closed()

    async with strange_node(behave) as port:
        connection = await DoipConnection.open("127.0.0.1", port, TESTER)
        with pytest.raises(ChannelClosedError, match="does not speak DoIP"):
            await connection.channel(MOTOR).receive()
        await connection.aclose()


async def test_a_flood_of_answers_is_bounded_and_counted_and_strangers_are_ignored() -> None:
    heard: list[Message] = []

    async def behave(raw: Raw) -> None:
        await raw.hear()
        raw.say(DiagnosticAck(MOTOR, TESTER))
        raw.say(Diagnostic(MOTOR, 0x0E99, b"not for us"))
        raw.say(HeaderNack(0x01))
        for i in range(300):
            raw.say(Diagnostic(MOTOR, TESTER, bytes((0x6A, i % 256))))
        raw.say(AliveCheckRequest())
        heard.append(await raw.hear())
        await raw.is_closed()

    async with strange_node(behave) as port:
        settings = ClientSettings(queued_answers=10)
        connection = await DoipConnection.open("127.0.0.1", port, TESTER, settings=settings)
        motor = connection.channel(MOTOR)
        await motor.send(b"\x2a\x01\x01")
        await until(lambda: heard)
        assert heard == [AliveCheckResponse(TESTER)]
        assert (motor.dropped, motor.drain()) == (290, 10)
        await connection.aclose()


async def test_tls_with_and_without_the_certificate_that_is_demanded(tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    config = section(tls_port=0, tls_certificate=files.node, tls_key=files.node_key, tls_client_ca=files.ca)
    router = MemoryRouter()
    async with running(config, router) as node:
        port = node.tls_port or 0
        mutual = client_context(files.ca, files.tester, files.tester_key)
        settings = ClientSettings(activation_type=0xE0, version=3)
        connection = await DoipConnection.open("127.0.0.1", port, TESTER, tls=mutual, settings=settings)
        motor = connection.channel(MOTOR)
        await motor.send(b"\x36" + bytes(4000))
        assert [await motor.receive(), await motor.receive()] == [b"\x7f\x36\x78", b"\x76\x00"]
        assert [(t.name, t.is_secure) for t in router.testers] == [("workshop 7", True)]
        await connection.aclose()
        (tmp_path / "other").mkdir()
        strange = client_context(Certificates(tmp_path / "other").ca)
        for context in (client_context(files.ca), strange):
            with pytest.raises(TransportError):
                await DoipConnection.open("127.0.0.1", port, TESTER, tls=context)
