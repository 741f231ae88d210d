"""Many frames per system call, over local packet sockets that carry the same bytes."""

from __future__ import annotations

import socket
import struct
import time

import pytest

from gateway.can.link_batch import FrameBuffers, SendBuffers
from gateway.can.messages import SO_TIMESTAMPNS


@pytest.fixture
def pair() -> tuple[socket.socket, socket.socket]:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    a.setblocking(False)
    b.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    return a, b


def classic(word: int, data: bytes) -> bytes:
    return struct.pack("=IB3x8s", word, len(data), data)


def flexible(word: int, data: bytes) -> bytes:
    return struct.pack("=IBBxx64s", word, len(data), 1, data)


def test_frames_arrive_as_sent_and_know_their_kind(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    buffers = FrameBuffers(4)
    with a, b:
        for _ in range(3):  # buffers are used again
            before_ns = time.time_ns()
            for raw in (flexible(0x7E0, bytes(range(64))), classic(0x80000123, b"\1\2"), classic(1, b"")):
                a.send(raw)
            heard = buffers.receive(b.fileno())
            assert heard is not None
            assert heard.words == [0x7E0, 0x80000123, 1]
            assert heard.payloads == [bytes(range(64)), b"\1\2", b""]
            assert heard.sizes == [72, 16, 16]
            assert heard.frame_flags[0] == 1
            assert all(before_ns <= at_ns <= time.time_ns() for at_ns in buffers.stamps_ns(3))
            assert buffers.receive(b.fileno()) is None


def test_what_does_not_fit_waits(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    buffers = FrameBuffers(2)
    with a, b:
        for n in range(5):
            a.send(classic(n, b""))
        got = []
        while (heard := buffers.receive(b.fileno())) is not None:
            got.append(heard.words)
        assert got == [[0, 1], [2, 3], [4]]


def test_sending_tells_how_many_were_taken(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    send = SendBuffers(3, 16)
    with a, b:
        assert send.send(a.fileno(), [classic(n, bytes([n])) for n in range(5)]) == 3
        heard = FrameBuffers(8).receive(b.fileno())
        assert heard is not None
        assert heard.payloads == [b"\0", b"\1", b"\2"]
        taken = 0
        with pytest.raises(BlockingIOError):
            while True:
                taken += send.send(a.fileno(), [classic(n, b"") for n in range(3)])
        assert taken > 0


def test_errors_are_the_sockets(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    b.close()
    with a, pytest.raises(ConnectionRefusedError):
        SendBuffers(1, 16).send(a.fileno(), [classic(1, b"")])
    with pytest.raises(OSError):
        FrameBuffers(1).receive(-1)
