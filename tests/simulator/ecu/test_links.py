"""ECUs through sockets that every machine has: multicast datagrams, and python-can's virtual interface."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator

import pytest

from dbc.frames import FrameBatch
from simulator.ecu.host import EcuHost
from simulator.ecu.links import DiagnosticLink, Frame, open_link
from simulator.ecu.vehicle import FakeVehicle
from simulator.pacing import RealPacer
from simulator.ports import MulticastPort, PortError

GROUP = "239.74.163.4"
REQUEST, ANSWER = (0x740, False), (0x748, False)


def free_port() -> int:
    """A UDP port nobody uses, so that tests beside each other do not hear each other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def host() -> Iterator[EcuHost]:
    """The body controller, with a vehicle of constants."""
    host = EcuHost(["body"], lambda descriptions: FakeVehicle())
    yield host
    host.close()


def exchange(host: EcuHost, tester: DiagnosticLink, frame: Frame, count: int = 1) -> list[Frame]:
    """Send a frame and run the ECU until so many frames have come back."""
    tester.send(frame)
    got: list[Frame] = []
    end_s = time.monotonic() + 10
    while len(got) < count and time.monotonic() < end_s:
        watched = [file for file in [tester.fileno(), *host.files()] if file >= 0]
        select.select(watched, [], [], 0.01)
        host.hear()
        host.poll(time.monotonic())
        got += tester.receive()
    return got


@pytest.mark.parametrize("interface", ["udp_multicast", "virtual"])
def test_request_and_answer(host: EcuHost, interface: str) -> None:
    channel = f"{GROUP}:{free_port()}" if interface == "udp_multicast" else f"body-{free_port()}"
    host.open({"body": (interface, channel)})
    tester = open_link(interface, channel, [ANSWER])
    try:
        (answer,) = exchange(host, tester, Frame(*REQUEST, bytes.fromhex("02 3E 00 00 00 00 00 00")))
        assert answer == Frame(*ANSWER, bytes.fromhex("02 7E 00 CC CC CC CC CC"))
        (first,) = exchange(host, tester, Frame(*REQUEST, bytes.fromhex("03 22 F1 90 00 00 00 00")))
        assert first.data[:5] == bytes.fromhex("10 14 62 F1 90")
        rest = exchange(host, tester, Frame(*REQUEST, bytes.fromhex("30 00 00 00 00 00 00 00")), 2)
        assert [frame.data[0] for frame in rest] == [0x21, 0x22]
    finally:
        tester.close()


def test_functional_requests_come_on_their_own_identifier(host: EcuHost) -> None:
    channel = f"{GROUP}:{free_port()}"
    host.open({"body": ("udp_multicast", channel)})
    tester = open_link("udp_multicast", channel, [ANSWER])
    try:
        (answer,) = exchange(host, tester, Frame(0x7DF, False, bytes.fromhex("02 3E 00")))
        assert answer.can_id == 0x748
    finally:
        tester.close()


def test_own_frames_are_not_heard() -> None:
    """A vehicle sends thousands of frames a second to the group its ECUs listen to."""
    port = free_port()
    sender = MulticastPort(GROUP, port, [])
    deaf = open_link("udp_multicast", f"{GROUP}:{port}", [REQUEST], ignore=[sender.sending_port])
    ears = open_link("udp_multicast", f"{GROUP}:{port}", [REQUEST])
    try:
        batch = FrameBatch.empty(1)
        batch.can_id[:], batch.length[:] = REQUEST[0], 8
        sender.send(batch)
        select.select([ears.fileno()], [], [], 5)
        assert len(ears.receive()) == 1
        assert deaf.receive() == []
    finally:
        for one in (sender, deaf, ears):
            one.close()


def test_garbage_on_the_group_is_ignored(host: EcuHost) -> None:
    port = free_port()
    channel = f"{GROUP}:{port}"
    host.open({"body": ("udp_multicast", channel)})
    tester = open_link("udp_multicast", channel, [ANSWER])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
        for datagram in (b"", b"\xc1", b"\x80", b"\x93\x01\x02\x03", b"\xff" * 3000):
            stranger.sendto(datagram, (GROUP, port))
    try:
        assert exchange(host, tester, Frame(*REQUEST, bytes.fromhex("02 3E 00")))
    finally:
        tester.close()


def test_the_pacer_wakes_ecus_between_ticks(host: EcuHost) -> None:
    """A request is answered while the simulation waits for its next tick, however far that is."""
    channel = f"{GROUP}:{free_port()}"
    host.open({"body": ("udp_multicast", channel)})
    tester = open_link("udp_multicast", channel, [ANSWER])
    got: list[Frame] = []
    try:
        with RealPacer() as pacer:
            host.watch(pacer)
            pacer.timed = host

            def heard() -> None:
                got.extend(tester.receive())
                pacer.stopped = len(got) == 2

            pacer.watch(tester.fileno(), heard)
            tester.send(Frame(*REQUEST, bytes.fromhex("02 10 03")))
            host.ecus["body"].server.context.set_quirks(slow_ms=60)  # so that a timer has to wake it too
            pacer.wait_until(time.monotonic() + 30)
    finally:
        tester.close()
    assert [frame.data[1:4].hex() for frame in got] == ["7f1078", "500300"]


def test_kernel_isotp_needs_socketcan(host: EcuHost) -> None:
    with pytest.raises(PortError, match="socketcan"):
        host.open({"body": ("udp_multicast", f"{GROUP}:{free_port()}")}, kernel=True)
