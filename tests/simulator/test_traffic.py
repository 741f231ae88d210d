"""Sinks, ports, replay, load and the runner, with time and sockets under control."""

from __future__ import annotations

import errno
import lzma
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import can
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbc.frames import BRS, ERROR, ESI, EXTENDED, FD, REMOTE, FrameBatch
from dbc.logs import CandumpWriter, LogError, open_log
from simulator.buses import BUS_NAMES, UDP_MULTICAST_HOP_LIMIT
from simulator.load import LoadSettings, frame_seconds, load, parse_ids
from simulator.ports import Counting, MulticastPort, PortError, open_port, socketcan_bytes
from simulator.replay import LONGEST_PAUSE_NS, Timeline, replay
from simulator.runner import Runner
from simulator.sinks import BusSink, CountingSink, LogSink
from tests.simulator.conftest import MakeSimulation


class FakePacer:
    """Time that passes only while waiting; ``stop_at_s`` ends it."""

    def __init__(self, stop_at_s: float = 1e9) -> None:
        self.time_s = 100.0
        self.stopped = False
        self.waits: list[float] = []
        self._stop_at_s = 100.0 + stop_at_s

    def now_s(self) -> float:
        return self.time_s

    def wait_until(self, deadline_s: float) -> None:
        self.waits.append(deadline_s)
        self.time_s = max(self.time_s, deadline_s)
        self.stopped = self.time_s >= self._stop_at_s


class TimedSink(CountingSink):
    """Notes when each batch came, by the pacer's clock."""

    def __init__(self, buses: tuple[str, ...], pacer: FakePacer) -> None:
        super().__init__(buses)
        self._pacer = pacer
        self.batches: list[tuple[float, FrameBatch]] = []

    def send(self, frames: FrameBatch) -> None:
        super().send(frames)
        self.batches.append((self._pacer.time_s - 100.0, frames))


def frames_of(rows: list[tuple[int, int, int, int, bytes]]) -> FrameBatch:
    return FrameBatch.from_rows(rows)


MIXED = [
    (1_000_000_000, 0, 0x123, 0, b"\x01\x02"),
    (1_010_000_000, 1, 0x18FEF433, EXTENDED, bytes(range(8))),
    (1_500_000_000, 0, 0x7FF, FD | BRS, bytes(range(64))),
    (2_000_000_000, 0, 0x40, ERROR, bytes(8)),
]


def test_runner_sends_each_tick_at_its_time_and_the_summary_is_exact(simulate: MakeSimulation) -> None:
    pacer = FakePacer()
    sink = TimedSink(BUS_NAMES, pacer)
    summary = Runner(simulate("motorway"), sink, pacer, speed=1.0, duration_s=1.0).run()
    assert len(sink.batches) == 50
    assert [round(at, 3) for at, _ in sink.batches] == [round(0.02 * i, 3) for i in range(50)]
    assert summary.frames == sum(len(batch) for _, batch in sink.batches) == 1916
    assert {name: count.sent for name, count in summary.buses.items()} == {
        "powertrain": 588,
        "battery": 292,
        "body": 159,
        "chassis": 756,
        "auxiliary": 121,
    }
    assert (summary.complete, summary.end) == (True, "finished")


def test_speed_up_and_slow_motion_keep_the_vehicles_time(simulate: MakeSimulation) -> None:
    for speed, duration_s in ((10.0, 2.0), (0.5, 0.5)):
        pacer = FakePacer()
        summary = Runner(simulate("city"), CountingSink(BUS_NAMES), pacer, speed=speed, duration_s=duration_s).run()
        assert summary.simulated_s == pytest.approx(duration_s, abs=0.011)
        assert pacer.time_s - 100 == pytest.approx(duration_s / speed, rel=0.05)


def test_a_stop_ends_the_run_between_two_ticks(simulate: MakeSimulation) -> None:
    pacer = FakePacer(stop_at_s=0.5)
    summary = Runner(simulate("city"), CountingSink(BUS_NAMES), pacer, speed=1.0, duration_s=60).run()
    assert (summary.complete, summary.end) == (False, "stopped")
    assert summary.simulated_s == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("speed", "duration"), [(-1, 1), (float("nan"), 1), (1, 0), (1, float("inf"))])
def test_runner_refuses_impossible_times(simulate: MakeSimulation, speed: float, duration: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        Runner(simulate("city"), CountingSink(BUS_NAMES), FakePacer(), speed=speed, duration_s=duration)


def test_a_recorded_run_reads_back_frame_for_frame(simulate: MakeSimulation, tmp_path: Path) -> None:
    simulation = simulate("fault")
    simulation.faults.clear()
    path = tmp_path / "run.log.xz"
    sink = LogSink(path, BUS_NAMES)
    made = simulation.advance(2_000_000_000)
    sink.send(made)
    sink.close()
    sink.close()
    with open_log(path, {name: i for i, name in enumerate(BUS_NAMES)}) as log:
        read = FrameBatch.concatenate(list(log))
    assert np.array_equal(read.data, made.data)
    assert np.array_equal(read.can_id, made.can_id)
    assert np.array_equal(read.bus, made.bus)
    assert np.array_equal(read.length, made.length)
    assert np.array_equal(read.flags, made.flags)
    assert np.array_equal(read.timestamp_ns // 1000, made.timestamp_ns // 1000)
    assert sink.counts()["chassis"].sent == 1512


def log_of(path: Path, rows: list[tuple[int, int, int, int, bytes]]) -> str:
    with CandumpWriter(path, ("can0", "can1")) as writer:
        writer.write(frames_of(rows))
    return str(path)


def test_replay_keeps_the_pace_of_the_log(tmp_path: Path) -> None:
    path = log_of(tmp_path / "x.log", MIXED)
    for speed in (1.0, 4.0):
        pacer = FakePacer()
        sink = TimedSink(("can0", "can1"), pacer)
        summary = replay(path, {"can0": 0, "can1": 1}, sink, pacer, speed=speed, loops=1)
        assert [round(at * speed, 3) for at, _ in sink.batches] == [0.0, 0.01, 0.5, 1.0]
        assert summary.frames == 4
        assert summary.buses["can0"].error_frames == 1


def test_replay_loops_and_leaves_out_other_buses(tmp_path: Path) -> None:
    path = log_of(tmp_path / "x.log", MIXED)
    pacer = FakePacer()
    summary = replay(path, {"can0": 0}, CountingSink(("can0",)), pacer, speed=0, loops=3)
    assert summary.frames == 9
    assert summary.simulated_s == pytest.approx(3.0)


def test_an_endless_replay_of_an_empty_log_ends(tmp_path: Path) -> None:
    path = log_of(tmp_path / "x.log", MIXED)
    summary = replay(path, {"other": 0}, CountingSink(("other",)), FakePacer(), speed=0, loops=0)
    assert summary.frames == 0


def test_a_damaged_log_is_replayed_as_far_as_it_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    log_of(path, MIXED)
    path.write_text(path.read_text() + "garbage\n(1.0) can0 12\n", encoding="utf-8")
    summary = replay(str(path), {"can0": 0, "can1": 1}, CountingSink(("can0", "can1")), FakePacer(), speed=0, loops=1)
    assert (summary.frames, summary.skipped_lines) == (4, 2)
    other = tmp_path / "x.bin"
    other.write_bytes(lzma.compress(b"\0\1\2" * 50))
    with pytest.raises(LogError):
        replay(str(other), None, CountingSink(("a",)), FakePacer(), speed=0, loops=1)


@given(st.lists(st.integers(-(2**62), 2**62), max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_timeline_never_runs_backwards_nor_stalls(stamps: list[int]) -> None:
    timeline = Timeline()
    at = timeline.place(np.array(stamps[:10], np.int64)) + timeline.place(np.array(stamps[10:], np.int64))
    assert len(at) == len(stamps)
    assert all(0 <= b - a <= LONGEST_PAUSE_NS for a, b in zip([0, *at], at, strict=False))


def test_load_has_the_rate_asked_for_and_numbers_its_frames() -> None:
    pacer = FakePacer()
    sink = TimedSink(("a", "b"), pacer)
    chosen = LoadSettings(rate=1234.0, ids=(0x10, 0x20, 0x30), length=8)
    summary = load(chosen, ("a", "b"), sink, pacer, duration_s=2.0)
    assert {n: c.sent for n, c in summary.buses.items()} == {"a": 2468, "b": 2468}
    frames = FrameBatch.concatenate([batch for _, batch in sink.batches])
    mine = frames.take(frames.bus == 1)
    numbers = np.ascontiguousarray(mine.data[:, :4]).view("<u4")[:, 0]
    assert numbers.tolist() == list(range(2468))
    assert mine.can_id[:4].tolist() == [0x10, 0x20, 0x30, 0x10]
    assert pacer.time_s - 100 == pytest.approx(2.0)


def test_bus_share_follows_the_frame_time() -> None:
    assert 1 / frame_seconds(8, extended=False, fd=False, bitrate_bps=500_000) == pytest.approx(4505, abs=1)
    assert 1 / frame_seconds(8, extended=True, fd=False, bitrate_bps=500_000) == pytest.approx(3817, abs=1)
    assert 1 / frame_seconds(64, extended=False, fd=True, bitrate_bps=500_000) == pytest.approx(2990, rel=0.02)


def test_identifiers_are_hexadecimal_ranges() -> None:
    assert parse_ids("100-103, 7DF,0x5") == (0x100, 0x101, 0x102, 0x103, 0x7DF, 5)
    for bad in ("", "xyz", "103-100", "0-FFFFFFF", "1-"):
        with pytest.raises(ValueError, match="identifiers"):
            parse_ids(bad)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ids": (0x800,)},
        {"ids": ()},
        {"length": 9},
        {"length": 33, "fd": True},
        {"rate": -1.0},
        {"rate": float("nan")},
    ],
)
def test_a_load_no_bus_carries_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        LoadSettings(**{"rate": 10.0, **wrong})  # type: ignore[arg-type]  # wrong on purpose


class Offering(Counting):
    """A port whose queue is full as often as told."""

    def __init__(self, errors: list[int]) -> None:
        self.clock_s = 0.0
        super().__init__(self._pass, lambda: self.clock_s)
        self._errors = errors

    def _pass(self, seconds: float) -> None:
        self.clock_s += seconds

    def offer(self) -> None:
        def hand_over() -> None:
            if self._errors:
                number = self._errors.pop(0)
                raise OSError(number, "no")

        self._offer(hand_over)


def test_a_full_queue_is_retried_and_counted() -> None:
    port = Offering([errno.ENOBUFS, errno.ENOBUFS, errno.EAGAIN])
    port.offer()
    assert (port.sent, port.failed, port.retried) == (1, 0, 3)


def test_a_queue_that_stays_full_and_a_bus_that_is_gone_are_failures() -> None:
    port = Offering([errno.ENOBUFS] * 5000)
    port.offer()
    assert (port.sent, port.failed) == (0, 1)
    assert port.retried < 1000
    port = Offering([errno.ENETDOWN])
    port.offer()
    assert (port.sent, port.failed, port.retried) == (0, 1, 0)


def test_frames_become_the_kernels_structures() -> None:
    rows = [*MIXED, (0, 0, 5, REMOTE, b""), (0, 0, 6, FD | ESI, b"\x01")]
    raw = socketcan_bytes(frames_of(rows))
    assert [len(r) for r in raw] == [16, 16, 72, 16, 16, 72]
    words = [struct.unpack_from("<I", r)[0] for r in raw]
    assert words == [0x123, 0x98FEF433, 0x7FF, 0x20000040, 0x40000005, 6]
    assert [r[4] for r in raw] == [2, 8, 64, 8, 0, 1]
    assert [raw[2][5], raw[5][5]] == [1, 2]
    assert raw[1][8:] == bytes(range(8))
    assert raw[2][8:] == bytes(range(64))


@pytest.fixture
def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_python_can_understands_our_multicast_and_we_hear_its_frames(free_port: int) -> None:
    ours = MulticastPort("239.74.163.77", free_port, listen=[0x600])
    with can.Bus(
        interface="udp_multicast", channel="239.74.163.77", port=free_port, hop_limit=UDP_MULTICAST_HOP_LIMIT, fd=True
    ) as theirs:
        ours.send(frames_of(MIXED))
        assert (ours.sent, ours.failed) == (4, 0)
        got = [theirs.recv(timeout=5) for _ in range(4)]
        assert [(m.arbitration_id, bytes(m.data), m.is_fd, m.is_extended_id, m.is_error_frame) for m in got if m] == [
            (0x123, b"\x01\x02", False, False, False),
            (0x18FEF433, bytes(range(8)), False, True, False),
            (0x7FF, bytes(range(64)), True, False, False),
            (0x40, bytes(8), False, False, True),
        ]
        assert ours.receive() == []  # what comes back of our own is not for us
        theirs.send(can.Message(arbitration_id=0x600, is_extended_id=False, data=b"abc"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
            noise.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, UDP_MULTICAST_HOP_LIMIT)
            for junk in (b"\xc1 not msgpack", b"", b"\x01", b"\x80", b"\xdd\xff\xff\xff\xff", b"\x91" * 4000):
                noise.sendto(junk, ("239.74.163.77", free_port))
        heard = wait_for(ours.receive)
        assert heard == [(0x600, b"abc")]
    ours.close()


def wait_for(receive: Callable[[], list[tuple[int, bytes]]]) -> list[tuple[int, bytes]]:
    for _ in range(100_000):
        if got := receive():
            return got
    return []


def test_multicast_never_leaves_the_machine(free_port: int) -> None:
    port = MulticastPort("239.74.163.78", free_port, listen=[])
    assert port._out.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 0
    port.close()


@pytest.mark.parametrize("channel", ["10.0.0.1", "239.74.163.2:0", "239.74.163.2:x", "nonsense"])
def test_an_address_that_is_no_multicast_group_is_refused(channel: str) -> None:
    with pytest.raises(PortError, match="udp_multicast"):
        open_port("udp_multicast", channel, listen=[])


def test_an_unknown_interface_is_refused() -> None:
    with pytest.raises(PortError, match="no-such-interface"):
        open_port("no-such-interface", "x", listen=[])
    with pytest.raises(PortError, match="canx17"):
        open_port("socketcan", "canx17", listen=[])


def test_any_interface_of_python_can_carries_the_vehicle(simulate: MakeSimulation) -> None:
    port = open_port("virtual", "outrider-test", listen=[0x600], fd=True)
    with can.Bus(interface="virtual", channel="outrider-test") as other:
        sink = BusSink(BUS_NAMES, {"body": port})
        sink.send(simulate("city").advance(1_000_000_000))
        assert sink.counts()["body"].sent == 159
        assert list(sink.counts()) == ["body"]
        got = [other.recv(timeout=0) for _ in range(160)]
        assert sum(m is not None for m in got) == 159
        other.send(can.Message(arbitration_id=0x600, is_extended_id=False, data=b"\1\2\3\4"))
        other.send(can.Message(arbitration_id=0x5FF, is_extended_id=False, data=b"\1"))
        assert sink.receive() == [(BUS_NAMES.index("body"), 0x600, b"\1\2\3\4")]
        sink.close()
