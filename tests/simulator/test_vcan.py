"""The simulated vehicle on real SocketCAN interfaces."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dbc.frames import ERROR, EXTENDED, FD
from outrider.cli import main
from simulator.actuation import command_payload
from simulator.buses import BODY, BUS_NAMES, BUSES
from simulator.cli_common import open_ports, parse_buses
from simulator.faults import parse_fault
from simulator.ports import PortError, open_port
from simulator.sinks import BusSink
from tests.simulator.conftest import MakeSimulation
from tests.simulator.support import decoded

pytestmark = pytest.mark.guest

SO_RCVBUFFORCE = 33
CAN_RAW_ERR_FILTER = 2


@contextlib.contextmanager
def listening(interface: str) -> Iterator[socket.socket]:
    """A raw socket that hears everything, error frames too, with room for a second of it."""
    with socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as ears:
        ears.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FD_FRAMES, 1)
        ears.setsockopt(socket.SOL_CAN_RAW, CAN_RAW_ERR_FILTER, 0x1FFFFFFF)
        ears.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 * 1024 * 1024)
        ears.bind((interface,))
        ears.setblocking(False)
        yield ears


def heard(ears: socket.socket) -> list[bytes]:
    out = []
    with contextlib.suppress(BlockingIOError):
        while True:
            out.append(ears.recv(72))
    return out


def test_every_frame_arrives_as_it_was_made(simulate: MakeSimulation) -> None:
    simulation = simulate("motorway")
    with contextlib.ExitStack() as stack:
        ears = [stack.enter_context(listening(bus.vcan)) for bus in BUSES]
        sink = BusSink(BUS_NAMES, open_ports(parse_buses([], "socketcan"), {}))
        frames = simulation.advance(1_000_000_000)
        sink.send(frames)
        counts = sink.counts()
        sink.close()
        for index, bus in enumerate(BUSES):
            mine = frames.take(frames.bus == index)
            got = heard(ears[index])
            assert counts[bus.name].sent == len(mine) == len(got)
            assert counts[bus.name].failed == 0
            for i, raw in enumerate(got):
                word, length = struct.unpack_from("<IB", raw)
                assert word & 0x1FFFFFFF == mine.can_id[i]
                assert bool(word & 0x80000000) == bool(mine.flags[i] & EXTENDED)
                assert (len(raw) == 72) == bool(mine.flags[i] & FD)
                assert raw[8 : 8 + length] == mine.data[i, : mine.length[i]].tobytes()


def test_a_bus_off_is_seen_as_error_frames(simulate: MakeSimulation) -> None:
    simulation = simulate("motorway")
    simulation.faults.add(parse_fault("bus_off:chassis@0.1+0.1"))
    with listening("vcan3") as ears:
        sink = BusSink(BUS_NAMES, {"chassis": open_port("socketcan", "vcan3", listen=[])})
        made = simulation.advance(300_000_000)
        sink.send(made)
        sink.close()
        errors = [struct.unpack_from("<I", raw)[0] for raw in heard(ears) if raw[3] & 0x20]
        assert errors == [0x20000040, 0x20000100]
        assert np.count_nonzero(made.flags & ERROR) == 2


def test_a_command_over_the_bus_unlocks_the_car(simulate: MakeSimulation) -> None:
    simulation = simulate("parked")
    message = next(m for m in simulation.manifest.messages if m.name == "LockCommand")
    sink = BusSink(BUS_NAMES, {"body": open_port("socketcan", "vcan2", listen=simulation.actuators.identifiers[BODY])})
    with listening("vcan2") as gateway:
        payload = command_payload(message, {"LockRequest": 2, "LockScope": 0}, 1)
        gateway.send(struct.pack("<IB3x8s", message.can_id, len(payload), payload))
        gateway.send(struct.pack("<IB3x8s", 0x123, 4, payload))
        received = sink.receive()
        assert received == [(BODY, message.can_id, payload)]
        for bus, can_id, content in received:
            simulation.actuators.receive(bus, can_id, content)
        sink.send(simulation.advance(1_000_000_000))
    sink.close()
    status = list(decoded(simulation.advance(200_000_000), "body.DoorStatus"))[-1][1]
    assert status["LockFrontLeft"] == 0


def test_sim_run_in_real_time_loses_nothing(tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    with contextlib.ExitStack() as stack:
        ears = [stack.enter_context(listening(bus.vcan)) for bus in BUSES]
        command = ["sim", "run", "--interface", "socketcan", "--duration", "2", "--summary", str(summary)]
        assert main(command) == os.EX_OK
        got = sum(len(heard(one)) for one in ears)
    assert got == 2 * 1916


def test_an_interface_that_is_not_there_is_told() -> None:
    with pytest.raises(PortError, match="nocan7"):
        open_port("socketcan", "nocan7", listen=[])
