"""Channels are bounded, and "full" has the stated answer."""

from __future__ import annotations

import anyio
import pytest

from gateway.runtime import Channel, ChannelClosed, OnFull


def test_waiting_channel_refuses_when_full_and_loses_nothing() -> None:
    async def scenario() -> None:
        channel: Channel[int] = Channel("c", 2, OnFull.WAIT)
        assert [channel.send_nowait(i) for i in range(3)] == [True, True, False]
        assert channel.statistics().dropped == 0
        assert channel.statistics().peak == 2

    anyio.run(scenario)


def test_dropping_channel_keeps_the_newest_and_counts_the_rest() -> None:
    async def scenario() -> list[int]:
        channel: Channel[int] = Channel("c", 2, OnFull.DROP_OLDEST)
        for i in range(5):
            await channel.send(i)
        assert channel.statistics().dropped == 3
        return [await channel.receive(), await channel.receive()]

    assert anyio.run(scenario) == [3, 4]


def test_sender_waits_until_there_is_room_and_order_holds() -> None:
    async def scenario() -> list[int]:
        channel: Channel[int] = Channel("c", 1, OnFull.WAIT)
        received: list[int] = []

        async def produce() -> None:
            for i in range(50):
                await channel.send(i)
            channel.close()

        async with anyio.create_task_group() as tg:
            tg.start_soon(produce)
            with pytest.raises(ChannelClosed):
                while True:
                    received.append(await channel.receive())
        return received

    assert anyio.run(scenario) == list(range(50))


def test_closed_channel_refuses_senders_and_drains_to_the_receiver() -> None:
    async def scenario() -> None:
        channel: Channel[int] = Channel("c", 4, OnFull.WAIT)
        await channel.send(1)
        channel.close()
        with pytest.raises(ChannelClosed):
            await channel.send(2)
        assert await channel.receive() == 1
        with pytest.raises(ChannelClosed):
            await channel.receive()

    anyio.run(scenario)


def test_cancelled_sender_leaves_its_item_out() -> None:
    async def scenario() -> int:
        channel: Channel[int] = Channel("c", 1, OnFull.WAIT)
        await channel.send(1)
        with anyio.move_on_after(0.01) as scope:
            await channel.send(2)
        assert scope.cancelled_caught
        return channel.statistics().sent

    assert anyio.run(scenario) == 1
