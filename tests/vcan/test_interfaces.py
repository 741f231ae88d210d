"""The guest offers what tests count on."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

pytestmark = pytest.mark.guest


def test_six_interfaces_are_up_and_pass_can_fd() -> None:
    """vcan0 … vcan5 exist and carry a 64-byte frame from one socket to another."""
    frame = struct.pack("=IBB2x", 0x123, 64, 0) + bytes(range(64))
    for n in range(6):
        with (
            socket.socket(socket.PF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as sender,
            socket.socket(socket.PF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as receiver,
        ):
            for end in (sender, receiver):
                end.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FD_FRAMES, 1)
                end.bind((f"vcan{n}",))
            sender.send(frame)
            receiver.settimeout(5)
            received = receiver.recv(72)
        assert received[0:5] == frame[0:5]
        assert received[8:] == frame[8:]


def test_loopback_is_up() -> None:
    """Tests that talk to a local server work in the guest."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
    ):
        client.sendall(b"x")
        peer, _ = server.accept()
        with peer:
            assert peer.recv(1) == b"x"


def test_temporary_files_are_in_memory(tmp_path: Path) -> None:
    """In a guest, a database under ``tmp_path`` does not run on the host's file system."""
    if os.environ.get("OUTRIDER_GUEST_PLACE") != "uml":
        return  # no guest, so the kernel's own file system is as fast as any
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    kinds = {fields[1]: fields[2] for fields in mounts}
    assert next(kinds[str(p)] for p in tmp_path.parents if str(p) in kinds) == "tmpfs"


def test_receive_buffer_may_be_enlarged_without_privilege() -> None:
    """``net.core.rmem_max`` is what a vehicle's image sets."""
    with socket.socket(socket.PF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        assert receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 4 << 20
