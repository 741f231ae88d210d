"""The kernel's sockets behind our channels, and our engine against the kernel's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.can.link import CanFrame
from gateway.isotp import Address, IsoTpBus, IsoTpError, OversizeError, Settings
from gateway.isotp.bus import KernelUse
from gateway.isotp.kernel import KernelEndpoint, can_serve
from gateway.uds.channel import ChannelClosedError
from tests.gateway.isotp.harness import ADDRESSES, NORMAL
from tests.gateway.isotp.test_channels import EVERYONE, pattern, run

CHANNEL = "vcan5"
kernel_isotp = pytest.mark.kernel_isotp


@asynccontextmanager
async def two(ours: KernelUse, theirs: KernelUse) -> AsyncIterator[tuple[IsoTpBus, IsoTpBus]]:
    """Two buses on one interface."""
    here, there = IsoTpBus("socketcan", CHANNEL, kernel=ours), IsoTpBus("socketcan", CHANNEL, kernel=theirs)
    yield here, there
    await here.aclose()
    await there.aclose()


def test_settings_the_kernel_does_not_keep_are_ours() -> None:
    assert can_serve(Settings(tx_dl=64, block_size=0, padding=None))
    for other in (Settings(max_message_bytes=4096), Settings(n_bs_ms=500), Settings(n_cr_ms=150)):
        assert not can_serve(other)


@kernel_isotp
@pytest.mark.parametrize("tx_dl", [8, 64])
@pytest.mark.parametrize(("ours", "theirs"), [("never", "always"), ("always", "never"), ("always", "always")])
def test_all_formats_both_ways(ours: KernelUse, theirs: KernelUse, tx_dl: int) -> None:
    async def body() -> None:
        async with two(ours, theirs) as (here, there):
            for padding in (None, 0xCC):
                settings = Settings(tx_dl=tx_dl, padding=padding)
                for address in ADDRESSES.values():
                    tester, ecu = here.open_channel(address, settings), there.open_channel(address.reversed(), settings)
                    for length in (1, 6, 7, 8, 61, 62, 63, 500):
                        await tester.send(pattern(length))
                        assert await ecu.receive() == pattern(length)
                        await ecu.send(pattern(length))
                        assert await tester.receive() == pattern(length)
                    await tester.aclose()
                    await ecu.aclose()

    run(body)


@kernel_isotp
@pytest.mark.parametrize(("ours", "theirs"), [("never", "always"), ("always", "never")])
@pytest.mark.parametrize(("block_size", "st_min"), [(1, 0), (8, 0xF5), (64, 0), (3, 1)])
def test_flow_control_both_ways(ours: KernelUse, theirs: KernelUse, block_size: int, st_min: int) -> None:
    async def body() -> None:
        async with two(ours, theirs) as (here, there):
            settings = Settings(block_size=block_size, st_min=st_min)
            tester, ecu = here.open_channel(NORMAL, settings), there.open_channel(NORMAL.reversed(), settings)
            length = 4095 if st_min == 0 else 400
            await tester.send(pattern(length))
            assert await ecu.receive() == pattern(length)
            await ecu.send(pattern(length))
            assert await tester.receive() == pattern(length)
            await tester.aclose()
            await ecu.aclose()

    run(body)


@kernel_isotp
def test_auto_takes_the_kernel_where_it_keeps_the_settings() -> None:
    async def body() -> None:
        async with two("auto", "auto") as (here, there):
            tester, ecu = here.open_channel(NORMAL), there.open_channel(NORMAL.reversed(), Settings(n_cr_ms=200))
            assert isinstance(tester._endpoint, KernelEndpoint)
            assert not isinstance(ecu._endpoint, KernelEndpoint)
            await tester.send(pattern(300))
            assert await ecu.receive() == pattern(300)
            await tester.aclose()
            await ecu.aclose()

    run(body)


@kernel_isotp
def test_errors_have_the_same_reasons() -> None:
    async def body() -> None:
        async with two("always", "never") as (here, there):
            tester = here.open_channel(NORMAL)
            with pytest.raises(IsoTpError) as raised:
                await tester.send(pattern(100))  # nobody answers
            assert raised.value.reason == "timeout_bs"
            with pytest.raises(OversizeError):
                await tester.send(bytes(4096))
            there.link.send(CanFrame(0x7E8, bytes.fromhex("1020010203040506")))
            await asyncio.sleep(0.1)
            there.link.send(CanFrame(0x7E8, bytes.fromhex("2301020304050607")))
            with pytest.raises(IsoTpError) as raised:
                await tester.receive()
            assert raised.value.reason == "wrong_sn"
            there.link.send(CanFrame(0x7E8, bytes.fromhex("1020010203040506")))
            with pytest.raises(IsoTpError) as raised:
                await tester.receive()
            assert raised.value.reason == "timeout_cr"
            small = there.open_channel(NORMAL.reversed(), Settings(max_message_bytes=50))
            with pytest.raises(IsoTpError) as raised:
                await tester.send(pattern(100))
            assert raised.value.reason == "buffer_ovflw"
            assert small.drain() == 1  # the oversize, told there too
            await tester.send(pattern(50))
            assert await small.receive() == pattern(50)
            await tester.aclose()
            await small.aclose()

    run(body)


@kernel_isotp
def test_a_cancelled_send_leaves_the_channel_usable() -> None:
    async def body() -> None:
        async with two("always", "never") as (here, there):
            tester = here.open_channel(NORMAL)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await tester.send(pattern(100))
            ecu = there.open_channel(NORMAL.reversed())
            await tester.send(pattern(60))  # waits until the kernel has given up the first
            assert await ecu.receive() == pattern(60)
            await tester.aclose()
            with pytest.raises(ChannelClosedError):
                await tester.send(b"x")
            await ecu.aclose()

    run(body)


@kernel_isotp
def test_functional_answers_come_through_the_kernels_conversation() -> None:
    """One flow control for each first frame, though a channel and a functional one listen."""

    async def body() -> None:
        async with two("always", "never") as (here, there):
            addresses = {f"ecu{n}": Address(tx_id=0x7E0 + n, rx_id=0x7E8 + n) for n in range(3)}
            channel = here.open_channel(addresses["ecu0"])
            functional = here.open_functional(EVERYONE, {n: (a, Settings()) for n, a in addresses.items()})
            listener = there.open_functional_listener(EVERYONE)
            flow_controls: list[CanFrame] = []
            there.link.hear([(0x7E0, False)], flow_controls.append)
            ecus = [there.open_channel(a.reversed()) for a in addresses.values()]
            await functional.send(b"\x22\xf1\x90")
            assert await listener.receive() == b"\x22\xf1\x90"
            await asyncio.gather(*(ecu.send(bytes([n]) * 60) for n, ecu in enumerate(ecus)))
            got = dict([await functional.receive() for _ in ecus])
            assert got == {f"ecu{n}": bytes([n]) * 60 for n in range(3)}
            assert await channel.receive() == bytes(60)
            assert len(flow_controls) == 1
            for ecu in ecus:
                await ecu.aclose()
            await listener.aclose()
            await functional.aclose()
            await channel.aclose()

    run(body)
