"""Links over multicast and python-can; SocketCAN's are in ``test_link_guest``."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import can
import pytest

from gateway.can import link_pythoncan
from gateway.can.link import CanFrame, CanLink
from gateway.can.link_multicast import MulticastLink
from gateway.can.link_open import open_link
from gateway.can.multicast import parse_datagram
from gateway.errors import TransportError

GROUP = "239.74.163.211"


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


class Heard:
    """Collects frames and lets a test wait for so many."""

    def __init__(self) -> None:
        self.frames: list[CanFrame] = []
        self._changed = asyncio.Event()

    def __call__(self, frame: CanFrame) -> None:
        self.frames.append(frame)
        self._changed.set()

    async def wait(self, count: int) -> list[CanFrame]:
        while len(self.frames) < count:
            self._changed.clear()
            await self._changed.wait()
        return self.frames


async def close(*links: CanLink) -> None:
    for link in links:
        await link.aclose()
        await link.aclose()


FRAMES = [
    CanFrame(0x123, b"\x01\x02"),
    CanFrame(0x18DA50F1, b"", True),
    CanFrame(0x7E0, bytes(range(64)), fd=True, brs=True),
]


def test_multicast_links_hear_each_other_and_not_themselves() -> None:
    async def body() -> None:
        channel = f"{GROUP}:{free_port()}"
        a, b = open_link("udp_multicast", channel), open_link("udp_multicast", channel, own=True)
        at_a, at_b = Heard(), Heard()
        a.hear(None, at_a)
        b.hear(None, at_b)
        for frame in FRAMES:
            a.send(frame)
        heard = await at_b.wait(3)
        assert [f._replace(timestamp_ns=0) for f in heard] == FRAMES
        b.send(CanFrame(1, b"own"))
        assert (await at_b.wait(4))[3].is_own
        assert [f.data for f in await at_a.wait(1)] == [b"own"]
        await close(a, b)

    run(body)


def test_multicast_never_leaves_the_machine() -> None:
    async def body() -> None:
        link = MulticastLink(f"{GROUP}:{free_port()}")
        assert link._out.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 0
        await close(link)

    run(body)


def test_multicast_speaks_with_python_can() -> None:
    async def body() -> None:
        port = free_port()
        link = open_link("udp_multicast", f"{GROUP}:{port}")
        heard = Heard()
        link.hear([(0x321, False)], heard)
        with can.Bus(interface="udp_multicast", channel=GROUP, port=port, hop_limit=0, fd=True) as bus:
            bus.send(can.Message(arbitration_id=0x321, data=b"\x05", is_extended_id=False))
            assert [f.data for f in await heard.wait(1)] == [b"\x05"]
            link.send(FRAMES[2])
            while True:
                message = await asyncio.to_thread(bus.recv, 5)
                assert message is not None
                if message.arbitration_id == 0x7E0:
                    break
            assert bytes(message.data) == bytes(range(64))
            assert message.is_fd
            assert message.bitrate_switch
        await close(link)

    run(body)


def test_multicast_counts_what_is_no_frame() -> None:
    async def body() -> None:
        port = free_port()
        link = MulticastLink(f"{GROUP}:{port}")
        sender = MulticastLink(f"{GROUP}:{port}")
        heard = Heard()
        link.hear(None, heard)
        for garbage in (b"", b"\xc1", b"\x80", bytes(400)):
            sender._out.send(garbage)
        sender.send(FRAMES[0])
        await heard.wait(1)
        assert link.malformed == 4
        assert parse_datagram(b"") is None
        await close(link, sender)

    run(body)


def test_python_can_links_carry_frames_both_ways() -> None:
    async def body() -> None:
        a, b = open_link("virtual", "link-test"), open_link("virtual", "link-test")
        at_a, at_b = Heard(), Heard()
        a.hear(None, at_a)
        b.hear([(0x123, False), (0x7E0, False)], at_b)
        for frame in FRAMES:
            a.send(frame)
        assert [f._replace(timestamp_ns=0) for f in await at_b.wait(2)] == [FRAMES[0], FRAMES[2]]
        b.send(FRAMES[1])
        assert [f.can_id for f in await at_a.wait(1)] == [0x18DA50F1]
        await close(a, b)
        with pytest.raises(TransportError, match="closed"):
            a.send(FRAMES[0])

    run(body)


def test_python_can_link_that_fails_says_so_and_comes_back_with_its_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_pythoncan, "REOPEN_S", 0.05)

    async def body() -> None:
        link, other = open_link("virtual", "link-failing"), open_link("virtual", "link-failing")
        heard = Heard()
        link.hear([(FRAMES[0].can_id, False)], heard)
        link._bus.shutdown()  # type: ignore[attr-defined]  # the adapter's bus dies under it
        with pytest.raises(TransportError):
            for _ in range(1000):
                link.send(FRAMES[0])
                await asyncio.sleep(0.01)
        for _ in range(1000):
            other.send(FRAMES[0])
            await asyncio.sleep(0.01)
            if heard.frames:
                break
        assert heard.frames[0].can_id == FRAMES[0].can_id
        link.send(FRAMES[1])
        await close(link, other)

    run(body)


@pytest.mark.parametrize(
    ("interface", "channel", "message"),
    [
        ("udp_multicast", "127.0.0.1", "not a multicast address"),
        ("udp_multicast", "rubbish", "rubbish"),
        ("udp_multicast", GROUP + ":99999", "65535"),
        ("no_such_adapter", "x", "no_such_adapter"),
        ("virtual", "", "channel"),
    ],
)
def test_what_cannot_be_opened_is_a_transport_error(interface: str, channel: str, message: str) -> None:
    async def body() -> None:
        with pytest.raises(TransportError, match=message):
            open_link(interface, channel)

    run(body)


def test_socketcan_without_the_interface_is_a_transport_error() -> None:
    async def body() -> None:
        with pytest.raises(TransportError, match="can_none"):
            open_link("socketcan", "can_none")

    run(body)
