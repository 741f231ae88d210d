"""Waiting for messages, without a bus."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from gateway.errors import TransportError
from gateway.isotp.queue import ReceiveQueue, Wake
from gateway.uds.channel import ChannelClosedError
from tests.gateway.isotp.test_channels import run, turns


def test_who_waits_is_resumed_within_the_callback_that_brings_the_message() -> None:
    async def body() -> None:
        queue: ReceiveQueue[int] = ReceiveQueue()
        loop, seen = asyncio.get_running_loop(), []

        async def reader() -> None:
            while True:
                seen.append(await queue.get())

        task = asyncio.create_task(reader())
        await turns()
        done = loop.create_future()

        def callback() -> None:
            for n in range(3):
                queue.put(n)
            done.set_result(list(seen))

        loop.call_soon(callback)
        assert await done == [0, 1, 2]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(body)


def test_a_task_that_brings_the_message_goes_on_first() -> None:
    async def body() -> None:
        queue: ReceiveQueue[int] = ReceiveQueue()
        task = asyncio.create_task(queue.get())
        await turns()
        queue.put(1)
        assert not task.done()
        assert await task == 1

    run(body)


def test_each_of_several_waiters_gets_one() -> None:
    async def body() -> None:
        queue: ReceiveQueue[int] = ReceiveQueue()
        tasks = [asyncio.create_task(queue.get()) for _ in range(3)]
        await turns()
        for n in range(3):
            asyncio.get_running_loop().call_soon(queue.put, n)
        assert await asyncio.gather(*tasks) == [0, 1, 2]

    run(body)


@pytest.mark.parametrize("puts_in_callback", [True, False])
def test_an_item_put_while_its_waiter_is_cancelled_goes_to_the_next(puts_in_callback: bool) -> None:
    async def body() -> None:
        queue: ReceiveQueue[int] = ReceiveQueue()
        first, second = (asyncio.create_task(queue.get()) for _ in range(2))
        await turns()
        if puts_in_callback:
            first.cancel()
            asyncio.get_running_loop().call_soon(queue.put, 1)
        else:
            queue.put(1)
            first.cancel()
        results = await asyncio.gather(first, asyncio.wait_for(second, 5), return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1] == 1

    run(body)


def test_timeouts_of_asyncio_and_anyio_end_the_waiting() -> None:
    async def body() -> None:
        queue: ReceiveQueue[int] = ReceiveQueue()
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await queue.get()
            with anyio.move_on_after(0.001) as scope:
                await queue.get()
            assert scope.cancelled_caught
        async with anyio.create_task_group() as group:
            group.start_soon(queue.get)
            await turns()
            group.cancel_scope.cancel()
        queue.put(1)
        assert await queue.get() == 1

    run(body)


def test_errors_keep_their_place_among_the_messages() -> None:
    async def body() -> None:
        queue: ReceiveQueue[int] = ReceiveQueue()
        queue.put(1)
        queue.put(TransportError("lost"))
        queue.put(2)
        assert await queue.get() == 1
        with pytest.raises(TransportError, match="lost"):
            await queue.get()
        assert await queue.get() == 2

    run(body)


def test_closing_tells_all_who_wait_and_keeps_what_has_come() -> None:
    async def body() -> None:
        queue: ReceiveQueue[int] = ReceiveQueue()
        tasks = [asyncio.create_task(queue.get()) for _ in range(2)]
        await turns()
        queue.close()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, ChannelClosedError)
        queue.put(1)
        assert len(queue) == 0

    run(body)


def test_a_wake_that_was_set_before_does_not_wait() -> None:
    async def body() -> None:
        wake = Wake(asyncio.get_running_loop())
        wake.set()
        wake.set()
        await wake
        assert wake.done()
        assert not wake.cancel()
        assert not wake.cancelled()

    run(body)
