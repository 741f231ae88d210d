"""ECUs on the kernel's ISO-TP, asked through the kernel's ISO-TP."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator

import isotp
import pytest

from simulator.buses import BUSES, find_bus
from simulator.ecu.host import EcuHost
from simulator.ecu.transport import KernelTransport
from simulator.ecu.vehicle import FakeVehicle
from tests.simulator.ecu.support import shipped
from tests.simulator.ecu.test_transport import TESTERS

pytestmark = [pytest.mark.kernel_isotp, pytest.mark.timeout(300)]


@contextlib.contextmanager
def kernel_socket(ecu: str) -> Iterator[socket.socket]:
    """The kernel's socket to an ECU."""
    transport = shipped(ecu).transport
    line = isotp.socket()
    line.set_fc_opts(bs=16, stmin=0)
    if transport.fd:
        line.set_ll_opts(mtu=72, tx_dl=transport.frame_bytes, tx_flags=1)
    line.bind(find_bus(transport.bus).vcan, TESTERS[ecu])
    try:
        yield line._socket
    finally:
        line.close()


def exchange(host: EcuHost, line: socket.socket, request: str) -> bytes:
    """Send a request and run the ECUs until an answer that is not 0x78 has come."""
    line.setblocking(True)
    line.send(bytes.fromhex(request))
    line.setblocking(False)
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        select.select([line.fileno(), *(file for file in host.files() if file >= 0)], [], [], 0.01)
        host.hear()
        host.poll(time.monotonic())
        with contextlib.suppress(BlockingIOError):
            answer = line.recv(5000)
            if answer[2:] != b"\x78":
                return answer
    raise AssertionError(f"no answer to {request}")


def test_all_ecus_by_the_kernel() -> None:
    """Short, several frames each way, pending, a long answer, and a functional request beside it."""
    host = EcuHost(sorted(TESTERS), lambda descriptions: FakeVehicle())
    host.open({bus.name: ("socketcan", bus.vcan) for bus in BUSES}, kernel=True)
    try:
        for name, ecu in host.ecus.items():
            assert isinstance(ecu.transport, KernelTransport)
            with kernel_socket(name) as line:
                assert exchange(host, line, "22 F1 90")[:3] == bytes.fromhex("62 F1 90")
                assert exchange(host, line, "10 03")[:2] == b"\x50\x03"
                assert exchange(host, line, "2E F1 98" + b"WORKSHOP 7".hex()) == bytes.fromhex("6E F1 98")
                assert exchange(host, line, "31 01 02 00") == bytes.fromhex("71 01 02 00 00 00 00")
                if name == "battery":
                    assert len(exchange(host, line, "22 03 02")) == 4003
            assert ecu.transport.errors == 0
    finally:
        host.close()
