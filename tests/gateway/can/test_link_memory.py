from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.can.link import CanFrame, LinkBusyError
from gateway.can.link_memory import MemoryBus
from gateway.errors import TransportError


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]  # an async function of the test


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_frames_reach_all_others_in_order_and_not_their_sender() -> None:
    async def body() -> None:
        bus = MemoryBus()
        a, b, c = bus.link("a"), bus.link("b"), bus.link("c")
        heard: dict[str, list[CanFrame]] = {"a": [], "b": [], "c": []}
        for link in (a, b, c):
            link.hear(None, heard[link.name].append)
        for n in range(3):
            a.send(CanFrame(n, bytes([n])))
        assert heard["b"] == []  # not within send
        await turns()
        assert [f.can_id for f in heard["b"]] == [f.can_id for f in heard["c"]] == [0, 1, 2]
        assert heard["a"] == []
        assert all(f.timestamp_ns > 0 and not f.is_own for f in heard["b"])

    run(body)


def test_own_frames_are_heard_and_marked_when_asked_for() -> None:
    async def body() -> None:
        link = MemoryBus().link(own=True)
        heard: list[CanFrame] = []
        link.hear([(1, False)], heard.append)
        link.send(CanFrame(1, b"x"))
        await turns()
        assert [f.is_own for f in heard] == [True]

    run(body)


def test_a_listener_hears_its_identifiers_of_its_width_until_it_ends() -> None:
    async def body() -> None:
        bus = MemoryBus()
        sender, link = bus.link(), bus.link()
        first: list[CanFrame] = []
        second: list[CanFrame] = []
        end = link.hear([(5, False), (6, True)], first.append)
        link.hear([(5, False)], second.append)
        for frame in (CanFrame(5, b""), CanFrame(5, b"", True), CanFrame(6, b""), CanFrame(6, b"", True)):
            sender.send(frame)
        await turns()
        assert [(f.can_id, f.extended) for f in first] == [(5, False), (6, True)]
        assert [(f.can_id, f.extended) for f in second] == [(5, False)]
        end()
        end()
        sender.send(CanFrame(5, b""))
        await turns()
        assert len(first) == 2
        assert len(second) == 2

    run(body)


def test_a_listener_that_another_ends_in_the_same_frame_is_called_no_more() -> None:
    async def body() -> None:
        bus = MemoryBus()
        sender, link = bus.link(), bus.link()
        heard: list[CanFrame] = []
        ends: list[Callable[[], None]] = []
        link.hear(None, lambda frame: ends[0]())
        ends.append(link.hear(None, heard.append))
        sender.send(CanFrame(1, b""))
        await turns()
        assert heard == []

    run(body)


@pytest.mark.parametrize(
    "frame",
    [
        CanFrame(0x800, b""),
        CanFrame(-1, b""),
        CanFrame(0x20000000, b"", True),
        CanFrame(1, bytes(9)),
        CanFrame(1, bytes(9), fd=True),
        CanFrame(1, bytes(65), fd=True),
    ],
)
def test_frames_that_cannot_be_are_refused(frame: CanFrame) -> None:
    with pytest.raises(ValueError):
        MemoryBus(fd=True).link().send(frame)


def test_fd_frames_need_an_fd_bus() -> None:
    with pytest.raises(ValueError, match="CAN FD"):
        MemoryBus(fd=False).link().send(CanFrame(1, bytes(12), fd=True))


def test_a_fault_drops_alters_multiplies_and_delays() -> None:
    async def body() -> None:
        bus = MemoryBus()
        held: list[CanFrame] = []

        def fault(sender: str, frame: CanFrame) -> CanFrame | list[CanFrame] | None:
            if frame.can_id == 1:
                return None
            if frame.can_id == 2:
                return frame._replace(data=b"altered")
            if frame.can_id == 3:
                held.append(frame)
                return None
            return [frame, frame]

        bus.fault = fault
        sender, link = bus.link(), bus.link()
        heard: list[CanFrame] = []
        link.hear(None, heard.append)
        for n in (1, 2, 3, 4):
            sender.send(CanFrame(n, b""))
        bus.inject(held[0])
        await turns()
        assert [(f.can_id, f.data) for f in heard] == [(2, b"altered"), (4, b""), (4, b""), (3, b"")]

    run(body)


def test_a_full_queue_is_busy_and_a_bus_that_is_down_fails() -> None:
    async def body() -> None:
        bus = MemoryBus(max_queued=2)
        sender = bus.link()
        sender.send(CanFrame(1, b""))
        sender.send(CanFrame(1, b""))
        with pytest.raises(LinkBusyError):
            sender.send(CanFrame(1, b""))
        await turns()
        sender.send(CanFrame(1, b""))
        bus.is_down = True
        with pytest.raises(TransportError, match="down"):
            sender.send(CanFrame(1, b""))
        await sender.aclose()
        bus.is_down = False
        with pytest.raises(TransportError, match="closed"):
            sender.send(CanFrame(1, b""))

    run(body)
