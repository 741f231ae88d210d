"""recvmmsg and its control messages, on socket pairs of this machine and on made-up buffers."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.can import messages
from gateway.can.messages import DropCounter, MessageBuffers


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected pair of datagram sockets; the second one is prepared for receiving."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        messages.prepare(receiver, 1 << 20)
        yield sender, receiver


def test_many_datagrams_come_by_one_call(pair: tuple[socket.socket, socket.socket]) -> None:
    """Contents and lengths are those sent, whatever the rows held before; a short answer means no more were waiting."""
    sender, receiver = pair
    buffers = MessageBuffers(64, 72)
    for start in (0, 7, 3):
        sent = [bytes((start + n,)) * (n % 72 + 1) for n in range(10)]
        for datagram in sent:
            sender.send(datagram)
        buffers.clear()
        assert buffers.receive(receiver.fileno(), 64) == 10
        assert buffers.receive(receiver.fileno(), 64) == 0
        got = [bytes(buffers.payload[i, : int(buffers.lengths[i])]) for i in range(buffers.used)]
        assert got == sent


def test_reading_stops_at_the_limit_and_at_the_rows(pair: tuple[socket.socket, socket.socket]) -> None:
    """No datagram is lost to a limit: the next call gets it."""
    sender, receiver = pair
    buffers = MessageBuffers(8, 16)
    for n in range(10):
        sender.send(bytes((n,)))
    assert buffers.receive(receiver.fileno(), 3) == 3
    assert buffers.receive(receiver.fileno(), 100) == 5
    assert buffers.receive(receiver.fileno(), 100) == 0  # the rows are full
    assert buffers.payload[:8, 0].tolist() == list(range(8))
    buffers.clear()
    assert buffers.receive(receiver.fileno(), 100) == 2
    assert buffers.payload[:2, 0].tolist() == [8, 9]


def test_every_row_has_the_kernels_time(pair: tuple[socket.socket, socket.socket]) -> None:
    """Also in rows that are used again, whose control length the kernel had changed."""
    sender, receiver = pair
    buffers = MessageBuffers(32, 16)
    for _ in range(3):
        before = time.time_ns()
        for _ in range(20):
            sender.send(b"x")
        after = time.time_ns()
        buffers.clear()
        buffers.receive(receiver.fileno(), 32)
        stamps = buffers.timestamps_ns(fallback_ns=0)
        assert len(stamps) == 20
        assert before <= stamps.min() <= stamps.max() <= after


def test_an_error_of_the_socket_is_raised(pair: tuple[socket.socket, socket.socket]) -> None:
    """A descriptor that is none is an OSError, not an empty read."""
    buffers = MessageBuffers(4, 16)
    with pytest.raises(OSError, match="Bad file descriptor"):
        buffers.receive(1 << 20, 4)


def test_drops_of_a_full_udp_socket_are_exact() -> None:
    """Sent = read + dropped, told by the socket itself even when nothing comes after the overflow."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        messages.prepare(receiver, 4096)
        sender.connect(receiver.getsockname())
        counter = DropCounter()
        buffers = MessageBuffers(1024, 64)
        read = sent = 0
        for burst in (2000, 3, 500):
            for _ in range(burst):
                sender.send(b"0123456789abcdef")
            sent += burst
            buffers.clear()
            got = buffers.receive(receiver.fileno(), 1024)
            read += got
            told = int(buffers.drops()[-1])
            if told:
                counter.update(told)
            now = messages.current_drops(receiver)
            assert now is not None
            counter.update(now)
            assert read + counter.total == sent
        assert counter.total > 0


def control_row(*parts: tuple[int, int, bytes]) -> bytes:
    """Control messages laid out as the kernel does."""
    out = b""
    for level, kind, data in parts:
        out += struct.pack("@Nii", 16 + len(data), level, kind) + data
        out += bytes(-len(out) % 8)
    return out


def parse_control(rows: list[bytes], fallback_ns: int = -1) -> tuple[list[int], list[int]]:
    """Times and drop counters of control buffers."""
    buffers = MessageBuffers(max(len(rows), 1), 16)
    raw = buffers.control.view(np.uint8).reshape(buffers.rows, -1)
    raw[:] = 0xEE
    for i, row in enumerate(rows):
        raw[i, : len(row)] = np.frombuffer(row, np.uint8)
        buffers.control_lengths[i] = len(row)
    buffers.used = len(rows)
    return buffers.timestamps_ns(fallback_ns).tolist(), buffers.drops().tolist()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1 << 32), st.integers(0, 999_999_999), st.one_of(st.none(), st.integers(1, 0xFFFFFFFF))
        ),
        max_size=8,
    )
)
def test_times_and_drops_are_read_as_columns(rows: list[tuple[int, int, int | None]]) -> None:
    """Rows with and without a drop counter mix; one without counts as 0."""
    packed = []
    for seconds, nanoseconds, dropped in rows:
        parts = [(socket.SOL_SOCKET, messages.SO_TIMESTAMPNS, struct.pack("@qq", seconds, nanoseconds))]
        if dropped is not None:
            parts.append((socket.SOL_SOCKET, messages.SO_RXQ_OVFL, struct.pack("@I", dropped)))
        packed.append(control_row(*parts))
    times, counters = parse_control(packed)
    assert times == [s * 1_000_000_000 + n for s, n, _ in rows]
    assert counters == [d or 0 for *_, d in rows]


def test_rows_without_a_time_get_the_time_of_reading() -> None:
    """No control message, another one first, or a cut one: the fallback, never a number out of old bytes."""
    stamp = (socket.SOL_SOCKET, messages.SO_TIMESTAMPNS, struct.pack("@qq", 5, 6))
    other = (socket.SOL_SOCKET, socket.SCM_RIGHTS, bytes(16))
    dropped = (socket.SOL_SOCKET, messages.SO_RXQ_OVFL, struct.pack("@I", 9))
    times, counters = parse_control([b"", control_row(stamp), control_row(other, dropped), control_row(stamp)[:20]], 77)
    assert times == [77, 5_000_000_006, 77, 77]
    assert counters == [0, 0, 9, 0]


@given(st.lists(st.integers(0, 1 << 30), max_size=20), st.integers(0, 0xFFFFFFFF))
def test_the_drop_counter_grows_through_its_wrap(steps: list[int], start: int) -> None:
    """The 32-bit counter of the kernel is a total of any size for us."""
    counter = DropCounter()
    counter.update(start & 0x7FFFFFFF)
    first = counter.total
    value = start & 0x7FFFFFFF
    for step in steps:
        value = (value + step) & 0xFFFFFFFF
        assert counter.update(value) == step
    assert counter.total == first + sum(steps)


def test_an_older_counter_seen_late_adds_nothing() -> None:
    """The counter of a queued frame is older than the one the socket was asked for."""
    counter = DropCounter()
    counter.update(100)
    assert counter.update(40) == 0
    assert counter.update(101) == 1
    counter.new_socket()
    assert counter.update(5) == 5
    assert counter.total == 106


def test_a_receive_buffer_is_granted_within_the_limit() -> None:
    """What we may have is told, so that status can show a small one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert messages.prepare(sock, 100_000) >= 100_000
