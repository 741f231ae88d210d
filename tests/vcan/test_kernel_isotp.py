"""The emulated machine offers the kernel's ISO-TP, which the tests of our own engine measure themselves against."""

from __future__ import annotations

import socket
import struct

import pytest

SOL_CAN_ISOTP = socket.SOL_CAN_BASE + socket.CAN_ISOTP
CAN_ISOTP_RECV_FC = 2


@pytest.mark.kernel_isotp
def test_a_long_message_passes_between_two_kernel_sockets() -> None:
    ends = [socket.socket(socket.AF_CAN, socket.SOCK_DGRAM, socket.CAN_ISOTP) for _ in range(2)]
    with ends[0] as tester, ends[1] as ecu:
        for end in ends:
            end.settimeout(20)
            end.setsockopt(SOL_CAN_ISOTP, CAN_ISOTP_RECV_FC, struct.pack("BBB", 16, 0, 0))
        tester.bind(("vcan0", 0x7E8, 0x7E0))
        ecu.bind(("vcan0", 0x7E0, 0x7E8))
        message = bytes(range(256)) * 15 + bytes(255)
        tester.send(message)
        assert ecu.recv(5000) == message
