"""SocketCAN links on real (virtual) interfaces."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import time

import pytest

from gateway.can.link import CanFrame
from gateway.can.link_socketcan import SocketCanLink
from gateway.errors import TransportError
from tests.gateway.can.test_link_open import FRAMES, Heard, close, run

pytestmark = pytest.mark.guest

CHANNEL = "vcan3"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", "link", *arguments], check=True)


async def until_sent(link: SocketCanLink, frame: CanFrame) -> None:
    """Offer the frame until the link takes it."""
    while True:
        try:
            link.send(frame)
        except TransportError:
            await asyncio.sleep(0.001)
        else:
            return


def test_links_hear_each_other_and_not_themselves() -> None:
    async def body() -> None:
        a, b = SocketCanLink(CHANNEL), SocketCanLink(CHANNEL, own=True)
        at_a, at_b = Heard(), Heard()
        a.hear(None, at_a)
        b.hear(None, at_b)
        before_ns = time.time_ns()
        for frame in FRAMES:
            a.send(frame)
        heard = await at_b.wait(3)
        assert [f._replace(timestamp_ns=0) for f in heard] == FRAMES
        assert all(abs(f.timestamp_ns - before_ns) < 5_000_000_000 for f in heard)
        b.send(CanFrame(1, b"own"))
        assert (await at_b.wait(4))[3].is_own
        assert [(f.data, f.is_own) for f in await at_a.wait(1)] == [(b"own", False)]
        assert a.dropped == 0
        await close(a, b)

    run(body)


def test_kernel_filters_are_the_union_of_what_is_heard() -> None:
    async def body() -> None:
        a, b = SocketCanLink(CHANNEL), SocketCanLink(CHANNEL)
        first, second = Heard(), Heard()
        end = b.hear([(0x100, False)], first)
        b.hear([(0x101, False), (0x101, True)], second)

        def filters() -> set[int]:
            assert b._socket is not None
            raw = b._socket.getsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, 64)
            return {word for word, _ in struct.iter_unpack("=II", raw)}

        assert filters() == {0x100, 0x101, 0x80000101}
        for frame in (CanFrame(0x100, b"a"), CanFrame(0x102, b"b"), CanFrame(0x101, b"c"), CanFrame(0x101, b"d", True)):
            a.send(frame)
        assert [f.data for f in await second.wait(2)] == [b"c", b"d"]
        assert [f.data for f in first.frames] == [b"a"]
        end()
        assert filters() == {0x101, 0x80000101}
        await close(a, b)

    run(body)


def test_an_interface_that_goes_down_and_comes_up_works_again() -> None:
    async def body() -> None:
        a, b = SocketCanLink("vcan4"), SocketCanLink("vcan4")
        heard = Heard()
        b.hear(None, heard)
        ip("set", "vcan4", "down")
        try:
            with pytest.raises(TransportError):
                a.send(FRAMES[0])
            await asyncio.sleep(0)
        finally:
            ip("set", "vcan4", "up")
        a.send(FRAMES[0])
        assert len(await heard.wait(1)) == 1
        await close(a, b)

    run(body)


def test_an_interface_that_is_removed_and_made_anew_is_found() -> None:
    async def body() -> None:
        ip("add", "vcan90", "type", "vcan")
        ip("set", "vcan90", "up")
        a = SocketCanLink("vcan90")
        heard = Heard()
        a.hear([(0x123, False)], heard)
        ip("delete", "vcan90")
        with pytest.raises(TransportError):
            for _ in range(3):
                a.send(FRAMES[0])
                await asyncio.sleep(0)
        ip("add", "vcan90", "type", "vcan")
        ip("set", "vcan90", "up")
        b = SocketCanLink("vcan90")
        while not heard.frames:
            b.send(FRAMES[0])
            await asyncio.sleep(0.05)
        await close(a, b)
        ip("delete", "vcan90")

    run(body)


def test_a_classic_interface_has_no_fd() -> None:
    async def body() -> None:
        ip("add", "vcan91", "mtu", "16", "type", "vcan")
        ip("set", "vcan91", "up")
        link = SocketCanLink("vcan91")
        assert not link.fd
        with pytest.raises(ValueError):
            link.send(FRAMES[2])
        link.send(FRAMES[0])
        await close(link)
        ip("delete", "vcan91")

    run(body)


def test_bus_off_fails_sending_until_the_controller_restarts() -> None:
    async def body() -> None:
        a = SocketCanLink(CHANNEL)
        a.hear([(0x55, False)], lambda frame: None)
        with socket.socket(socket.PF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as driver:
            driver.bind((CHANNEL,))
            driver.send(struct.pack("=IB3x8x", 0x20000040, 8))
            with pytest.raises(TransportError, match="off"):
                while True:
                    a.send(FRAMES[0])
                    await asyncio.sleep(0.001)
            driver.send(struct.pack("=IB3x8x", 0x20000100, 8))
            await until_sent(a, FRAMES[0])
        await close(a)

    run(body)
