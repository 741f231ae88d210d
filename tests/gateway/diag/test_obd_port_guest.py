"""The connector on real (virtual) interfaces, with a tester we did not write: python-can, can-isotp and udsoncan."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import anyio
import can
import isotp
import pytest
from anyio import to_thread
from udsoncan.client import Client
from udsoncan.configs import default_client_config
from udsoncan.connections import PythonIsoTpConnection
from udsoncan.exceptions import NegativeResponseException
from udsoncan.Request import Request
from udsoncan.services.ReadDataByIdentifier import ReadDataByIdentifier
from udsoncan.services.WriteDataByIdentifier import WriteDataByIdentifier

from gateway.can.link_open import open_link
from gateway.diag.addresses import address_of, functional_address_of, settings_of
from gateway.diag.config import EcuConfig, ObdPortSection
from gateway.diag.obd_port import ObdPort
from gateway.diag.router import Router, names_of
from gateway.firewall.core import Firewall
from gateway.firewall.policy import default_policy
from gateway.firewall.rules import compile_policy
from gateway.firewall.state import VehicleFacts
from gateway.isotp import open_channel, open_functional
from gateway.runtime import SystemClock
from tests.gateway.diag.router_bench import until
from tests.gateway.diag.test_obd_port import Echo

pytestmark = pytest.mark.guest

INNER, CONNECTOR = "vcan0", "vcan5"
MOTOR = EcuConfig(
    name="motor", bus="powertrain", logical_address=0x1010, request_id=0x7E0, response_id=0x7E8, functional_id=0x7DF,
    p2_ms=1000,
)  # fmt: skip


def foreign_tester(work: Callable[[Client], object]) -> object:
    """What a workshop's script does, blocking."""
    bus = can.Bus(interface="socketcan", channel=CONNECTOR, fd=True)
    notifier = can.Notifier(bus, [])
    address = isotp.Address(isotp.AddressingMode.Normal_11bits, txid=0x7E0, rxid=0x7E8)
    stack = isotp.NotifierBasedCanStack(bus, notifier, address=address, params={"tx_padding": 0xCC})
    config = default_client_config.copy()
    config["request_timeout"], config["p2_timeout"] = 10, 5
    try:
        with Client(PythonIsoTpConnection(stack), config=config) as client:
            return work(client)
    finally:
        notifier.stop()
        bus.shutdown()


async def through_the_connector(work: Callable[[Client], object], vehicle: VehicleFacts) -> tuple[object, list[bytes]]:
    """Run the tester against the port; what it returned, and what the ECU heard."""
    firewall = Firewall(
        compile_policy(default_policy(), names_of([MOTOR])), vehicle=lambda _: vehicle, record=lambda _: None
    )
    async with AsyncExitStack() as stack:
        gateway, far = open_link("socketcan", INNER), open_link("socketcan", INNER)
        stack.push_async_callback(gateway.aclose)
        stack.push_async_callback(far.aclose)
        ecu = Echo(MOTOR, far)  # type: ignore[arg-type]  # any link

        async def channel(config: EcuConfig):  # type: ignore[no-untyped-def]  # what open_channel gives
            return open_channel(gateway, address_of(config), settings_of(config))

        async def functional(configs):  # type: ignore[no-untyped-def]  # what open_functional gives
            address = functional_address_of(configs[0])
            assert address is not None
            return open_functional(gateway, address, {})

        clock = SystemClock()
        router = Router([MOTOR], open_channel=channel, open_functional=functional, firewall=firewall, clock=clock)
        port = ObdPort(
            ObdPortSection(enabled=True),
            [MOTOR],
            router,
            open_link=lambda: open_link("socketcan", CONNECTOR),
            clock=clock,
        )
        async with anyio.create_task_group() as tg:
            tg.start_soon(ecu.run)
            await tg.start(router.run)
            await until(lambda: router.statistics().targets[0x1010].is_reachable)
            await tg.start(port.run)
            result = await to_thread.run_sync(foreign_tester, work)
            tg.cancel_scope.cancel()
        return result, ecu.heard


def test_a_foreign_tester_reads_and_writes_long_data_at_standstill() -> None:
    def work(client: Client) -> object:
        client.tester_present()
        long = client.send_request(Request(service=ReadDataByIdentifier, data=b"\xf1\xff"))
        assert long is not None
        client.send_request(Request(service=WriteDataByIdentifier, data=b"\xf1\x90" + bytes(300)))
        return long.data

    data, heard = asyncio.run(through_the_connector(work, VehicleFacts(is_standing=True)))
    assert data == b"\xf1\xff" + bytes(200)
    assert heard[-1] == b"\x2e\xf1\x90" + bytes(300)


def test_a_foreign_tester_is_refused_while_the_vehicle_moves() -> None:
    def work(client: Client) -> object:
        with pytest.raises(NegativeResponseException) as caught:
            client.clear_dtc()
        return caught.value.response.code

    code, heard = asyncio.run(through_the_connector(work, VehicleFacts(speed_kmh=100.0)))
    assert code == 0x22
    assert heard == []
