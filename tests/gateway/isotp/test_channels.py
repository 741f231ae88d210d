"""Channels over a bus in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from gateway.can.link import CanFrame
from gateway.can.link_memory import MemoryBus
from gateway.errors import TransportError
from gateway.isotp import (
    Address,
    IsoTpBus,
    IsoTpError,
    OversizeError,
    Settings,
    open_channel,
    open_functional,
    open_functional_listener,
)
from gateway.uds.channel import ChannelClosedError, DiagnosticChannel, FunctionalChannel
from tests.gateway.isotp.harness import ADDRESSES, EXTENDED, FIXED, MIXED, NORMAL

EVERYONE = Address(tx_id=0x7DF, rx_id=0x7E8)
QUICK = Settings(n_as_ms=50, n_bs_ms=50, n_cr_ms=50)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def pattern(length: int) -> bytes:
    return bytes(i * 7 & 0xFF for i in range(length))


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
@pytest.mark.parametrize("tx_dl", [8, 64])
def test_messages_of_any_length_both_ways(address: Address, tx_dl: int) -> None:
    async def body() -> None:
        bus = MemoryBus()
        settings = Settings(tx_dl=tx_dl, max_message_bytes=10_000)
        tester: DiagnosticChannel = open_channel(bus.link("t"), address, settings)
        ecu = open_channel(bus.link("e"), address.reversed(), settings)
        for length in (1, 7, 8, 62, 63, 4095, 4096, 10_000):
            await tester.send(pattern(length))
            assert await ecu.receive() == pattern(length)
            await ecu.send(pattern(length))
            assert await tester.receive() == pattern(length)
        await tester.aclose()
        await ecu.aclose()

    run(body)


def test_both_send_long_messages_at_once() -> None:
    async def body() -> None:
        bus = MemoryBus()
        a, b = open_channel(bus.link(), NORMAL), open_channel(bus.link(), NORMAL.reversed())
        await asyncio.gather(*(c.send(pattern(3000)) for c in (a, b)))
        assert await a.receive() == await b.receive() == pattern(3000)

    run(body)


def test_many_conversations_on_one_link_at_once() -> None:
    async def body() -> None:
        bus = MemoryBus()
        tester, ecus = bus.link(), bus.link()
        addresses = [Address(tx_id=0x700 + n, rx_id=0x600 + n) for n in range(40)] + [EXTENDED, FIXED, MIXED]
        pairs = [(open_channel(tester, a), open_channel(ecus, a.reversed())) for a in addresses]

        async def talk(number: int) -> None:
            here, there = pairs[number]
            for length in (5, 200 + number, 1000):
                await here.send(bytes([number]) * length)
                assert await there.receive() == bytes([number]) * length
                await there.send(bytes([number, 1]) * length)
                assert await here.receive() == bytes([number, 1]) * length

        await asyncio.gather(*(talk(n) for n in range(len(pairs))))

    run(body)


def test_address_bytes_tell_conversations_of_one_identifier_apart() -> None:
    async def body() -> None:
        bus = MemoryBus()
        link, other = bus.link(), bus.link()
        made = [
            Address(tx_id=0x6F1, rx_id=0x600 + n, addressing=EXTENDED.addressing, tx_extension=n, rx_extension=0xF1)
            for n in range(4)
        ]
        testers = [open_channel(link, a) for a in made]
        ecus = [open_channel(other, a.reversed()) for a in made]
        await asyncio.gather(*(t.send(bytes([n]) * 50) for n, t in enumerate(testers)))
        assert [await e.receive() for e in ecus] == [bytes([n]) * 50 for n in range(4)]

    run(body)


def test_sends_of_several_callers_go_one_after_the_other() -> None:
    async def body() -> None:
        bus = MemoryBus()
        a, b = open_channel(bus.link(), NORMAL), open_channel(bus.link(), NORMAL.reversed())
        await asyncio.gather(*(a.send(bytes([n]) * 100) for n in range(10)))
        assert [(await b.receive())[0] for _ in range(10)] == list(range(10))

    run(body)


def test_a_cancelled_send_leaves_the_channel_usable() -> None:
    async def body() -> None:
        bus = MemoryBus()
        a = open_channel(bus.link(), NORMAL)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await a.send(pattern(100))  # nobody answers
        b = open_channel(bus.link(), NORMAL.reversed())
        await a.send(pattern(50))
        assert await b.receive() == pattern(50)

    run(body)


def test_a_cancelled_send_stops_in_the_middle() -> None:
    async def body() -> None:
        bus = MemoryBus()
        a = open_channel(bus.link(), NORMAL)
        b = open_channel(bus.link(), NORMAL.reversed(), Settings(block_size=0, st_min=1))
        task = asyncio.create_task(a.send(pattern(4000)))
        started = asyncio.Event()

        def fault(sender: str, frame: CanFrame) -> CanFrame:
            if frame.data[0] == 0x25:
                started.set()
            return frame

        bus.fault = fault
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await a.send(b"\x3e\x00")
        with pytest.raises(IsoTpError) as raised:
            await b.receive()
        assert raised.value.reason == "unexp_pdu"
        assert await b.receive() == b"\x3e\x00"

    run(body)


def test_a_cancelled_receive_loses_nothing() -> None:
    async def body() -> None:
        bus = MemoryBus()
        a, b = open_channel(bus.link(), NORMAL), open_channel(bus.link(), NORMAL.reversed())
        waiting = [asyncio.create_task(b.receive()) for _ in range(2)]
        await turns()
        await a.send(b"1")
        await turns(2)
        for task in waiting:
            task.cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        await a.send(b"2")
        got = [r for r in results if isinstance(r, bytes)]
        while len(got) < 2:
            got.append(await b.receive())
        assert got == [b"1", b"2"]

    run(body)


def test_what_was_received_before_a_send_stays() -> None:
    async def body() -> None:
        bus = MemoryBus()
        a, b = open_channel(bus.link(), NORMAL), open_channel(bus.link(), NORMAL.reversed())
        for n in range(3):
            await b.send(bytes([n]))
        await turns()
        await a.send(b"x")
        assert await a.receive() == b"\0"
        assert a.drain() == 2
        assert a.drain() == 0

    run(body)


def test_receive_queue_drops_the_oldest_and_counts() -> None:
    async def body() -> None:
        bus = MemoryBus()
        a, b = open_channel(bus.link(), NORMAL), open_channel(bus.link(), NORMAL.reversed())
        for n in range(70):
            await a.send(bytes([n]))
        await turns()
        assert b.dropped == 6
        assert await b.receive() == b"\6"

    run(body)


@pytest.mark.parametrize(
    ("reason", "fault"),
    [
        ("timeout_bs", lambda frame: None if frame.data[0] >> 4 == 3 else frame),
        ("buffer_ovflw", lambda frame: frame._replace(data=b"\x32\0\0") if frame.data[0] >> 4 == 3 else frame),
        ("invalid_fs", lambda frame: frame._replace(data=b"\x3f\0\0") if frame.data[0] >> 4 == 3 else frame),
    ],
)
def test_why_sending_failed(reason: str, fault: Callable[[CanFrame], CanFrame | None]) -> None:
    async def body() -> None:
        bus = MemoryBus(fault=lambda sender, frame: fault(frame))
        a = open_channel(bus.link(), NORMAL, QUICK)
        open_channel(bus.link(), NORMAL.reversed(), QUICK)
        with pytest.raises(IsoTpError) as raised:
            await a.send(pattern(100))
        assert raised.value.reason == reason
        bus.fault = None
        await a.send(pattern(100))

    run(body)


@pytest.mark.parametrize(
    ("reason", "lost"), [("timeout_cr", range(5, 99)), ("wrong_sn", range(5, 6))], ids=["timeout_cr", "wrong_sn"]
)
def test_why_receiving_failed_is_told_once(reason: str, lost: range) -> None:
    async def body() -> None:
        count = 0

        def fault(sender: str, frame: CanFrame) -> CanFrame | None:
            nonlocal count
            count += 1
            return None if count in lost else frame

        bus = MemoryBus(fault=fault)
        a, b = open_channel(bus.link(), NORMAL, QUICK), open_channel(bus.link(), NORMAL.reversed(), QUICK)
        with pytest.raises(IsoTpError):  # the next flow control never comes
            await a.send(pattern(500))
        with pytest.raises(IsoTpError) as raised:
            await b.receive()
        assert raised.value.reason == reason
        bus.fault = None
        await a.send(b"next")
        assert await b.receive() == b"next"

    run(body)


def test_a_busy_link_delays_and_does_not_lose() -> None:
    async def body() -> None:
        bus = MemoryBus(max_queued=3)
        settings = Settings(block_size=0)
        a, b = open_channel(bus.link(), NORMAL, settings), open_channel(bus.link(), NORMAL.reversed(), settings)
        await a.send(pattern(700))
        assert await b.receive() == pattern(700)

    run(body)


def test_a_link_that_stays_busy_is_a_timeout() -> None:
    async def body() -> None:
        bus = MemoryBus(max_queued=0)
        a = open_channel(bus.link(), NORMAL, QUICK)
        functional = open_functional(bus.link(), EVERYONE, {}, settings=QUICK)
        for channel in (a, functional):
            with pytest.raises(IsoTpError) as raised:
                await channel.send(b"x")
            assert raised.value.reason == "timeout_a"
        bus.max_queued = None
        await a.send(b"x")

    run(body)


def test_a_bus_that_is_down_fails_at_once() -> None:
    async def body() -> None:
        bus = MemoryBus()
        a = open_channel(bus.link(), NORMAL)
        bus.is_down = True
        with pytest.raises(IsoTpError, match="down") as raised:
            await a.send(b"x")
        assert isinstance(raised.value, TransportError)
        bus.is_down = False
        await a.send(b"x")

    run(body)


def test_st_min_is_kept_at_least() -> None:
    async def body() -> None:
        bus = MemoryBus()
        a = open_channel(bus.link(), NORMAL)
        b = open_channel(bus.link(), NORMAL.reversed(), Settings(st_min=0xF5))
        times: list[float] = []
        loop = asyncio.get_running_loop()

        def note(sender: str, frame: CanFrame) -> CanFrame:
            if frame.data[0] >> 4 == 2:
                times.append(loop.time())
            return frame

        bus.fault = note
        await a.send(pattern(6 + 7 * 10))
        assert await b.receive() == pattern(76)
        assert len(times) == 10
        assert all(later - earlier >= 0.0005 for earlier, later in itertools.pairwise(times))

    run(body)


def test_closing_ends_those_who_wait() -> None:
    async def body() -> None:
        bus = MemoryBus()
        a = open_channel(bus.link(), NORMAL)
        tasks = [asyncio.create_task(a.send(pattern(100))), asyncio.create_task(a.receive())]
        await turns()
        await a.aclose()
        await a.aclose()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, ChannelClosedError)
        with pytest.raises(ChannelClosedError):
            await a.send(b"x")
        with pytest.raises(ChannelClosedError):
            await a.receive()

    run(body)


def test_what_came_before_closing_can_still_be_fetched() -> None:
    async def body() -> None:
        bus = MemoryBus()
        a, b = open_channel(bus.link(), NORMAL), open_channel(bus.link(), NORMAL.reversed())
        await a.send(b"x")
        await turns()
        await b.aclose()
        assert await b.receive() == b"x"

    run(body)


def test_channels_to_one_address_share_a_conversation() -> None:
    """Each receives every message, and the sender gets flow control once."""

    async def body() -> None:
        bus = MemoryBus()
        link = bus.link("t")
        first, second = open_channel(link, NORMAL), open_channel(link, NORMAL)
        ecu = open_channel(bus.link("e"), NORMAL.reversed())
        bus.sent = []
        await ecu.send(pattern(60))
        assert await first.receive() == await second.receive() == pattern(60)
        assert [f.data[0] >> 4 for who, f in bus.sent if who == "t"] == [3]
        await first.aclose()
        await ecu.send(b"x")
        assert await second.receive() == b"x"
        await asyncio.gather(second.send(pattern(30)))
        assert await ecu.receive() == pattern(30)

    run(body)


def test_a_conversation_that_was_closed_can_be_opened_again() -> None:
    async def body() -> None:
        bus = MemoryBus()
        link = bus.link()
        await open_channel(link, NORMAL).aclose()
        again, ecu = open_channel(link, NORMAL), open_channel(bus.link(), NORMAL.reversed())
        await ecu.send(pattern(60))
        assert await again.receive() == pattern(60)

    run(body)


def test_functional_requests_reach_all_and_answers_tell_who() -> None:
    async def body() -> None:
        bus = MemoryBus()
        link = bus.link()
        addresses = {f"ecu{n}": Address(tx_id=0x7E0 + n, rx_id=0x7E8 + n) for n in range(3)}
        functional: FunctionalChannel = open_functional(
            link, EVERYONE, {name: (address, Settings()) for name, address in addresses.items()}
        )

        async def serve(number: int, address: Address) -> None:
            ecu_link = bus.link()
            listener, channel = open_functional_listener(ecu_link, EVERYONE), open_channel(ecu_link, address.reversed())
            assert await listener.receive() == b"\x22\xf1\x90"
            await channel.send(bytes([0x62, number]) * (1 + 20 * number))
            await listener.aclose()

        servers = [asyncio.create_task(serve(n, a)) for n, a in enumerate(addresses.values())]
        await turns()
        await functional.send(b"\x22\xf1\x90")
        got = dict([await functional.receive() for _ in range(3)])
        assert got == {f"ecu{n}": bytes([0x62, n]) * (1 + 20 * n) for n in range(3)}
        await asyncio.gather(*servers)
        await functional.aclose()
        with pytest.raises(ChannelClosedError):
            await functional.receive()

    run(body)


def test_functional_requests_are_single_frames_only() -> None:
    async def body() -> None:
        bus = MemoryBus()
        functional = open_functional(bus.link(), EVERYONE, {})
        for wrong in (b"", bytes(8)):
            with pytest.raises(ValueError):
                await functional.send(wrong)
        listener = open_functional_listener(bus.link(), EVERYONE)
        for frame in ("1008010203040506", "21" + "00" * 7, "300000", "00", "0f", "40", "023e80"):
            bus.inject(CanFrame(0x7DF, bytes.fromhex(frame)))
        bus.inject(CanFrame(0x7DF, b""))
        assert await listener.receive() == b"\x3e\x80"
        assert listener.drain() == 0

    run(body)


def test_settings_with_fd_need_an_fd_link() -> None:
    async def body() -> None:
        with pytest.raises(TransportError, match="no CAN FD"):
            open_channel(MemoryBus(fd=False).link(), NORMAL, Settings(tx_dl=64))

    run(body)


def test_a_message_too_long_to_send_is_a_transport_error_with_figures() -> None:
    async def body() -> None:
        a = open_channel(MemoryBus().link(), NORMAL)
        assert a.max_pdu_bytes == 4095
        with pytest.raises(OversizeError) as raised:
            await a.send(bytes(4096))
        assert isinstance(raised.value, TransportError)
        assert raised.value.limit_bytes == 4095

    run(body)


def test_closing_the_bus_ends_what_is_still_open() -> None:
    async def body() -> None:
        bus = IsoTpBus("virtual", "isotp-closing")
        channel = bus.open_channel(NORMAL)
        tasks = [asyncio.create_task(channel.send(pattern(100))), asyncio.create_task(channel.receive())]
        await turns()
        await bus.aclose()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, TransportError)
        with pytest.raises(TransportError):
            await channel.send(b"x")
        await channel.aclose()

    run(body)


def test_a_bus_of_python_can_carries_conversations() -> None:
    async def body() -> None:
        here, there = IsoTpBus("virtual", "isotp"), IsoTpBus("virtual", "isotp")
        assert not here.uses_kernel(Settings())
        tester, ecu = here.open_channel(NORMAL), there.open_channel(NORMAL.reversed())
        await tester.send(pattern(3000))
        assert await ecu.receive() == pattern(3000)
        await here.aclose()
        await there.aclose()

    run(body)


def test_the_kernel_always_where_it_has_no_isotp_is_an_error() -> None:
    async def body() -> None:
        with pytest.raises(TransportError, match="CONFIG_CAN_ISOTP"):
            IsoTpBus("virtual", "isotp", kernel="always")

    run(body)
