"""udsoncan with can-isotp as a tester we did not write, on real interfaces."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import can
import isotp
import pytest
from udsoncan.client import Client
from udsoncan.common.DidCodec import AsciiCodec
from udsoncan.configs import default_client_config
from udsoncan.connections import PythonIsoTpConnection
from udsoncan.exceptions import NegativeResponseException
from udsoncan.Request import Request
from udsoncan.typing import ClientConfig

from simulator.buses import find_bus
from simulator.ecu.keys import ALGORITHMS
from simulator.model.parameters import VIN
from tests.simulator.ecu.support import shipped
from tests.simulator.ecu.test_transport import TESTERS

Connect = Callable[[str], contextlib.AbstractContextManager[Client]]
START_S = 240.0  # an emulated guest on a busy machine


@contextlib.contextmanager
def running(folder: Path, isotp_by: str) -> Iterator[Path]:
    """A parked vehicle on vcan0-4; its control socket."""
    control = folder / "control"
    command = [sys.executable, "-m", "outrider", "sim", "run", "--interface", "socketcan", "--scenario", "parked"]
    command += ["--isotp", isotp_by, "--control", str(control), "--duration", "600"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline_s = time.monotonic() + START_S
        while not ready(control):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline_s, "the simulator does not start"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        yield control
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (os.EX_OK, -signal.SIGTERM), (folder / "log").read_text()


def ready(control: Path) -> bool:
    """Whether the control socket answers."""
    try:
        return bool(do(control, do="ecus")["ok"])
    except OSError:
        return False


def do(control: Path, **request: object) -> dict[str, Any]:
    """One request to the control socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(20)
        line.connect(str(control))
        line.sendall(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(line.makefile("rb").readline())
        return answer


CONFIG: ClientConfig = default_client_config.copy()
CONFIG["data_identifiers"] = {0xF190: AsciiCodec(17)}
CONFIG["request_timeout"], CONFIG["p2_timeout"], CONFIG["p2_star_timeout"] = 60, 30, 30
CONFIG["use_server_timing"] = False  # the guest has one slow processor


@contextlib.contextmanager
def by_library(ecu: str) -> Iterator[Client]:
    """A client on can-isotp."""
    transport = shipped(ecu).transport
    with can.Bus(interface="socketcan", channel=find_bus(transport.bus).vcan, fd=True) as bus:
        notifier = can.Notifier(bus, [])
        stack = isotp.NotifierBasedCanStack(
            bus, notifier, address=TESTERS[ecu],
            params={"can_fd": transport.fd, "tx_data_length": transport.frame_bytes, "blocksize": 16,
                    "rx_flowcontrol_timeout": 5000, "rx_consecutive_frame_timeout": 5000},
        )  # fmt: skip
        try:
            with Client(PythonIsoTpConnection(stack), config=CONFIG) as client:
                yield client
        finally:
            notifier.stop()


def raw(client: Client, request: str) -> bytes:
    """The positive answer to a request in hex."""
    response = client.send_request(Request.from_payload(bytes.fromhex(request)))
    assert response is not None
    payload: bytes = response.get_payload()
    return payload


def tour(connect: Connect, control: Path, ecu: str) -> None:
    """What a technician does first."""
    with connect(ecu) as client:
        assert client.read_data_by_identifier(0xF190).service_data.values[0xF190] == VIN
        client.change_session(3)
        level = next(s for s in shipped(ecu).security if s.level == 1)
        seed = client.request_seed(1).service_data.seed
        client.send_key(2, ALGORITHMS[level.algorithm](seed, bytes.fromhex(level.constant)))
        state = do(control, do="ecu", ecu=ecu)["ecu"]
        assert (state["session"], state["unlocked"]) == (3, 1)
        assert raw(client, "31 01 02 00") == bytes.fromhex("71 01 02 00 00 00 00")
        assert raw(client, "2E F1 98" + b"FOREIGNER!".hex()) == bytes.fromhex("6E F1 98")
        assert raw(client, "22 F1 98")[3:] == b"FOREIGNER!"
        assert raw(client, "19 02 FF")[:2] == b"\x59\x02"
        with pytest.raises(NegativeResponseException) as refused:
            client.change_session(0x55)
        assert refused.value.response.code == 0x12
        if ecu == "battery":
            assert len(raw(client, "22 03 02")) == 4003
        assert raw(client, "11 01") == b"\x51\x01"


def silenced(connect: Connect) -> None:
    """0x28 on the body controller, seen on the bus."""
    with socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as ears, connect("body") as client:
        ears.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, struct.pack("=II", 0x300, 0x7FF))  # DoorStatus
        ears.bind(("vcan2",))
        ears.settimeout(10)
        assert len(ears.recv(72)) == 16
        client.change_session(3)
        assert raw(client, "28 03 01") == b"\x68\x03"
        ears.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                ears.recv(72)
        assert raw(client, "31 01 02 00")[:1] == b"\x71"  # takes a second
        with pytest.raises(BlockingIOError):
            ears.recv(72)
        assert raw(client, "28 00 01") == b"\x68\x00"
        ears.settimeout(10)
        assert len(ears.recv(72)) == 16


@pytest.mark.guest
@pytest.mark.long  # the tour in tests/chain/diagnostics is the same with more
@pytest.mark.timeout(300)
def test_library_tester_on_vcan(tmp_path: Path) -> None:
    """All ECUs by can-isotp on both sides of the sockets; messages taken off the bus; functional requests."""
    with running(tmp_path, "library") as control:
        for ecu in TESTERS:
            tour(by_library, control, ecu)
        silenced(by_library)
