"""Many frames per system call, over local packet sockets that carry the same bytes."""

from __future__ import annotations

import socket
import struct
import time

import numpy as np
import pytest
from numpy.typing import NDArray

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
            assert buffers.receive(b.fileno()) == 3
            assert [buffers.frame(n) for n in range(3)] == [
                (0x7E0, 1, bytes(range(64))), (0x80000123, 0, b"\1\2"), (1, 0, b"")
            ]  # fmt: skip
            assert buffers.sizes[:3].tolist() == [72, 16, 16]
            assert buffers.run(3) is None
            assert all(before_ns <= at_ns <= time.time_ns() for at_ns in buffers.stamps_ns(3))
            assert buffers.receive(b.fileno()) == 0


def test_frames_of_one_identifier_and_length_are_a_run(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    buffers = FrameBuffers(8)
    with a, b:
        for frames, expected in (
            ([classic(5, b"ab"), classic(5, b"cd")], (5, b"abcd", 2)),
            ([flexible(5, b"ab" * 6), flexible(5, b"cd" * 6)], (5, b"ab" * 6 + b"cd" * 6, 12)),
            ([classic(5, b"ab"), classic(5, b"c")], None),
            ([classic(5, b"ab"), classic(6, b"cd")], None),
            ([classic(5, b"ab"), classic(0x80000005, b"cd")], None),
        ):
            for raw in frames:
                a.send(raw)
            assert buffers.run(buffers.receive(b.fileno())) == expected


def test_what_does_not_fit_waits(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    buffers = FrameBuffers(2)
    with a, b:
        for n in range(5):
            a.send(classic(n, b""))
        got = []
        while count := buffers.receive(b.fileno()):
            got.append([buffers.frame(n)[0] for n in range(count)])
        assert got == [[0, 1], [2, 3], [4]]


def head(word: int, size: int) -> NDArray[np.uint8]:
    return np.frombuffer(struct.pack("=IB3x", word, size), np.uint8)


def test_sending_tells_how_many_were_taken(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    send, buffers = SendBuffers(3, 16), FrameBuffers(8)
    with a, b:
        assert send.send(a.fileno(), head(7, 2), b"aabbccddee", 2) == 3
        assert buffers.run(buffers.receive(b.fileno())) == (7, b"aabbcc", 2)
        taken = 0
        with pytest.raises(BlockingIOError):
            while True:
                taken += send.send(a.fileno(), head(7, 1), b"abc", 1)
        assert taken > 0


def test_errors_are_the_sockets(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    b.close()
    with a, pytest.raises(ConnectionRefusedError):
        SendBuffers(1, 16).send(a.fileno(), head(1, 1), b"a", 1)
    with pytest.raises(OSError):
        FrameBuffers(1).receive(-1)
