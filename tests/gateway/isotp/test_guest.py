"""Our engine on CAN sockets."""

from __future__ import annotations

import asyncio

import pytest

from gateway.isotp import Address, IsoTpBus, IsoTpError, Settings
from tests.gateway.isotp.harness import ADDRESSES
from tests.gateway.isotp.test_channels import pattern, run

pytestmark = pytest.mark.guest


@pytest.mark.parametrize("tx_dl", [8, 64])
def test_all_formats_both_ways(tx_dl: int) -> None:
    async def body() -> None:
        here, there = (IsoTpBus("socketcan", "vcan5", kernel="never") for _ in range(2))
        settings = Settings(tx_dl=tx_dl, max_message_bytes=20_000)
        for address in ADDRESSES.values():
            tester, ecu = here.open_channel(address, settings), there.open_channel(address.reversed(), settings)
            for length in (7, 63, 4096):
                await tester.send(pattern(length))
                assert await ecu.receive() == pattern(length)
                await ecu.send(pattern(length))
                assert await tester.receive() == pattern(length)
            await tester.aclose()
            await ecu.aclose()
        await here.aclose()
        await there.aclose()

    run(body)


def test_twenty_conversations_at_once_lose_nothing() -> None:
    async def body() -> None:
        here, there = (IsoTpBus("socketcan", "vcan5", kernel="never") for _ in range(2))
        addresses = [Address(tx_id=0x700 + n, rx_id=0x600 + n) for n in range(20)]
        pairs = [(here.open_channel(a), there.open_channel(a.reversed())) for a in addresses]

        async def talk(number: int) -> None:
            tester, ecu = pairs[number]
            for _ in range(2):
                await tester.send(bytes([number]) * 2000)
                assert await ecu.receive() == bytes([number]) * 2000

        await asyncio.gather(*(talk(n) for n in range(len(pairs))))
        await here.aclose()
        await there.aclose()

    run(body)


def test_nobody_answers() -> None:
    async def body() -> None:
        bus = IsoTpBus("socketcan", "vcan5", kernel="never")
        assert not bus.uses_kernel(Settings())
        channel = bus.open_channel(Address(tx_id=0x7E0, rx_id=0x7E8), Settings(n_bs_ms=50))
        with pytest.raises(IsoTpError) as raised:
            await channel.send(bytes(20))
        assert raised.value.reason == "timeout_bs"
        await bus.aclose()

    run(body)
