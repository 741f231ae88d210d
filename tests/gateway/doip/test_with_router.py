"""A tester of ours through the node, the real router and the built-in policy, to scripted ECUs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from gateway.doip.client import DoipConnection
from gateway.doip.errors import DiagnosticNackError
from gateway.doip.node import DoipNode
from gateway.firewall.state import VehicleFacts
from gateway.runtime import SystemClock
from gateway.runtime.health import HealthBoard
from gateway.uds.client import UdsClient
from gateway.uds.errors import NegativeResponse
from tests.gateway.diag.router_bench import ALL, BATTERY, FAST, GATEWAY, MOTOR, Bench, routing
from tests.gateway.doip.support import facts, section, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Bench, DoipNode, DoipConnection]]:
    """Everything, and a tester that is activated."""
    config = section()
    async with routing(FAST, "") as bench, anyio.create_task_group() as tasks:
        node = DoipNode(config, bench.router, facts(config), SystemClock(), HealthBoard())
        await tasks.start(node.run)
        connection = await DoipConnection.open("127.0.0.1", node.port, 0x0E80)
        yield bench, node, connection
        await connection.aclose()
        await until(lambda: bench.router.statistics().sessions == 0)
        tasks.cancel_scope.cancel()


async def test_services_reach_the_ecus_and_the_gateway() -> None:
    async with connected() as (bench, _node, connection):
        for target in (MOTOR, BATTERY, GATEWAY):
            uds = UdsClient(connection.channel(target))
            assert await uds.raw(bytes.fromhex("22F190")) == bytes.fromhex("62F190")
        assert bench.ecus[MOTOR].heard == [bytes.fromhex("22F190")]


async def test_the_policy_speaks_in_the_stead_of_the_ecu() -> None:
    async with connected() as (bench, _node, connection):
        bench.vehicle = VehicleFacts(speed_kmh=30.0)
        with pytest.raises(NegativeResponse):
            await UdsClient(connection.channel(MOTOR)).raw(bytes.fromhex("2EF19000"))
        assert bench.ecus[MOTOR].heard == []


async def test_a_functional_request_is_answered_by_each() -> None:
    async with connected() as (_bench, _node, connection):
        everybody = connection.functional(ALL, {MOTOR: "motor"})
        await everybody.send(bytes.fromhex("22F190"))
        heard = {await everybody.receive() for _ in range(3)}
        assert ("motor", bytes.fromhex("62F190")) in heard
        assert len({name for name, _ in heard}) == 3


async def test_an_ecu_out_of_reach_is_a_nack() -> None:
    async with connected() as (bench, _node, connection):
        bench.ecus[MOTOR].is_down = True
        with pytest.raises(DiagnosticNackError) as nack:
            await connection.channel(MOTOR).send(b"\x3e\x00")
        assert nack.value.code == 0x06
